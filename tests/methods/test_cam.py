"""Class activation maps against pytorch-grad-cam and captum, worked cases, and what must hold on any net."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import cv2
import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.errors import UnsupportedError, UsageError
from onnxplain.methods.upsampling import upsample

FOLDER = Path(__file__).parents[1] / "oracles"
WEIGHTED = ("grad-cam", "grad-cam++", "hires-cam", "layer-cam", "xgrad-cam", "ablation-cam")
CASES = [
    (path.stem, *key.split("/", 1))
    for path in sorted((FOLDER / "cam").glob("*.npz"))
    for key in np.load(path).files
    if key.startswith((*WEIGHTED, "guided"))
]
LAST = {
    "plain": "/4/Relu_output_0",
    "residual": "/3/activation/Relu_output_0",
    "dense_bn": "/11/Relu_output_0",
    "mobilenet": "/8/Clip_output_0",
    "signal": "/7/Tanh_output_0",
}
"""The last tensor with places, read off the recipes in tools/oracle_nets.py."""


@functools.cache
def load(net: str, opset: int = 18) -> onnxplain.Model:
    return onnxplain.load(FOLDER / f"{net}_opset{opset}.onnx", threads=1)


@functools.cache
def samples(net: str) -> np.ndarray:
    with np.load(FOLDER / f"{net}.npz") as file:
        return file["input"]


@functools.cache
def figures(net: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / "cam" / f"{net}.npz") as file:
        return dict(file)


def explain(net: str, method: str, opset: int = 18, **how: Any) -> onnxplain.Explanation:
    return onnxplain.explain(load(net, opset), samples(net), method, **how)


def close(found: np.ndarray, truth: np.ndarray, limit: float = 1e-4) -> None:
    """Within ``limit`` of the largest magnitude of each sample."""
    assert found.shape == truth.shape
    axes = tuple(range(1, truth.ndim))
    assert (np.abs(found - truth).max(axes) <= limit * np.abs(truth).max(axes)).all()


def test_every_method_has_figures() -> None:
    assert {method for _, method, _ in CASES} == {*WEIGHTED, "guided-grad-cam"}
    assert len(CASES) == 5 * 7 + 2


@pytest.mark.parametrize(("net", "method", "tensor"), CASES)
def test_against_the_libraries(net: str, method: str, tensor: str) -> None:
    truth = figures(net)[f"{method}/{tensor}"]
    for opset in (13, 18):
        for engine in ("host",) if method == "ablation-cam" else ("host", "compiled"):
            e = explain(net, method, opset, layer=f"/{tensor}", engine=engine)
            assert e.layers == (f"/{tensor}",)
            close(e.relevance["input"] if method == "guided-grad-cam" else e.extras["cam"], truth)


@pytest.mark.parametrize("net", sorted(LAST))
def test_the_last_layer_with_places_is_found_and_named(net: str) -> None:
    e = explain(net, "grad-cam")
    assert e.layers == (LAST[net],)
    assert any(LAST[net] in note and "option layer" in note for note in e.notes)
    np.testing.assert_array_equal(e.map(), explain(net, "grad-cam", layer=LAST[net]).map())


@pytest.mark.parametrize("net", ["plain", "signal"])
def test_the_map_is_the_positive_part_at_the_size_of_the_input(net: str) -> None:
    x = samples(net)
    e, signed = explain(net, "grad-cam"), explain(net, "grad-cam", relu=False)
    assert e.map("input").shape == (len(x), *x.shape[2:])
    assert e.map("input").dtype == np.float32
    assert (signed.extras["cam"] < 0).any()
    for index, cam in enumerate(e.extras["cam"]):
        plane = cam.reshape(len(cam), -1)
        size = (x.shape[3] if x.ndim == 4 else 1, x.shape[2])
        for found, low in ((e, np.maximum(plane, 0)), (signed, plane)):
            expected = cv2.resize(low, size, interpolation=cv2.INTER_LINEAR).reshape(x.shape[2:])
            np.testing.assert_array_equal(found.map("input")[index], expected)


def test_weights_are_given_where_there_is_one_per_feature_map() -> None:
    e = explain("residual", "grad-cam")
    assert e.extras["weights"].shape == (3, 12)
    a = load("residual").run(samples("residual"), taps=e.layers)[e.layers[0]]
    close(np.einsum("nk,nkhw->nhw", e.extras["weights"], a), e.extras["cam"], 1e-6)
    assert "weights" not in explain("residual", "hires-cam").extras


def test_hires_cam_and_the_bias_behind_it_sum_to_the_target() -> None:
    """The head of this net is linear: a mean over places and a Gemm."""
    e = explain("residual", "hires-cam")
    constants = {tensor.name: tensor.value for tensor in load("residual").graph.constants}
    bias = next(value for value in constants.values() if value.shape == (6,))
    for cam, chosen in zip(e.extras["cam"], e.target, strict=True):
        assert cam.sum() + bias[chosen.index] == pytest.approx(chosen.value, abs=1e-5)


def linear_head(channels_last: bool = False, batch: int | str = "N", end: str = "y") -> bytes:
    """Two feature maps, x and 2 - x behind ReLU, averaged and weighed 3 and -1; with a Transpose the input is NHWC."""
    source = ["x"]
    nodes = []
    if channels_last:
        nodes.append(nets.node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]))
        source = ["t"]
    nodes += [
        nets.node("Conv", [*source, "w", "b"], "z"),
        nets.node("Relu", ["z"], "a"),
        nets.node("GlobalAveragePool", ["a"], "p"),
        nets.node("Flatten", ["p"], "f"),
        nets.node("Gemm", ["f", "v"], end),
    ]
    constants = {
        "w": np.array([1, -1]).reshape(2, 1, 1, 1).astype(float), "b": np.array([0.0, 2.0]),
        "v": np.array([[3.0, 0.5], [-1.0, 0.25]]),
    }  # fmt: skip
    shape = [batch, 2, 3, 1] if channels_last else [batch, 1, 2, 3]
    return nets.model(nodes, {"x": shape}, [end], constants)


PICTURE = np.array([[[[1.0, 3.0, -1.0], [0.0, 2.0, 1.0]]]], np.float32)


@pytest.mark.parametrize("method", WEIGHTED)
def test_worked_by_hand(method: str) -> None:
    """A = relu(x), relu(2 - x); y = 3 mean(A0) - mean(A1), so G is 1/2 and -1/6 everywhere."""
    a0, a1 = np.maximum(PICTURE[0, 0], 0), np.maximum(2 - PICTURE[0, 0], 0)
    y = 3 * a0.mean() - a1.mean()
    expected = {
        "grad-cam": a0 / 2 - a1 / 6,
        "grad-cam++": a0 * 6 * 0.5 / (2 + 0.5 * a0.sum()),
        "hires-cam": a0 / 2 - a1 / 6,
        "layer-cam": a0 / 2,
        "xgrad-cam": a0 / 2 - a1 / 6,
        "ablation-cam": a0 * 3 * a0.mean() / y - a1 * a1.mean() / y,
    }
    e = onnxplain.explain(linear_head(), PICTURE, method, target=0)
    np.testing.assert_allclose(e.extras["cam"][0], expected[method], rtol=1e-5)
    np.testing.assert_allclose(e.map()[0], np.maximum(expected[method], 0), rtol=1e-5)


@pytest.mark.parametrize("method", [*WEIGHTED, "guided-grad-cam", "fullgrad"])
def test_channels_last_inputs_give_the_same_map(method: str) -> None:
    picture = np.moveaxis(PICTURE, 1, 3).transpose(0, 1, 2, 3)
    first = onnxplain.explain(linear_head(), PICTURE, method, target=0)
    last = onnxplain.explain(linear_head(channels_last=True), picture, method, target=0)
    np.testing.assert_allclose(last.map(), first.map(), rtol=1e-6)


@pytest.mark.parametrize("method", [*WEIGHTED, "guided-grad-cam", "fullgrad"])
def test_batches_and_their_parts_give_the_same(method: str) -> None:
    x = np.concatenate([PICTURE, 2 * PICTURE, 1 - PICTURE, -PICTURE])
    targets = [0, 1, 0, 1]
    model = onnxplain.load(linear_head(), threads=1)
    whole = onnxplain.explain(model, x, method, target=targets)
    parts = onnxplain.explain(model, x, method, target=targets, batch_size=3)
    fixed = onnxplain.explain(linear_head(batch=1), x, method, target=targets)
    for index in range(4):
        alone = onnxplain.explain(model, x[index : index + 1], method, target=targets[index])
        for other in (whole, parts, fixed):
            np.testing.assert_allclose(other.map()[index], alone.map()[0], rtol=1e-5, atol=1e-6)
            assert other.target[index].value == pytest.approx(alone.target[0].value, abs=1e-6)


def test_ablation_of_a_negative_score_keeps_the_sense_of_the_weights() -> None:
    e = onnxplain.explain(linear_head(), -PICTURE, "ablation-cam", target=0)
    assert e.target[0].value < 0
    assert e.extras["weights"][0, 0] > 0 > e.extras["weights"][0, 1]


def test_ablation_runs_what_does_not_pass_through_the_layer() -> None:
    """y = mean(relu(x)) + 5 mean(x): without the only feature map 5 mean(x) stays."""
    nodes = [
        nets.node("Conv", ["x", "w"], "z"),
        nets.node("Relu", ["z"], "a"),
        nets.node("Mul", ["x", "five"], "side"),
        nets.node("Add", ["a", "side"], "s"),
        nets.node("GlobalAveragePool", ["s"], "p"),
        nets.node("Flatten", ["p"], "y"),
    ]
    data = nets.model(nodes, {"x": ["N", 1, 2, 3]}, constants={"w": np.ones((1, 1, 1, 1)), "five": np.array(5.0)})
    e = onnxplain.explain(data, PICTURE, "ablation-cam", target=0, layer="a")
    a, x = np.maximum(PICTURE, 0).mean(), PICTURE.mean()
    np.testing.assert_allclose(e.extras["weights"], [[a / (a + 5 * x)]], rtol=1e-5)


def test_a_map_that_sums_to_nothing_has_no_weight() -> None:
    e = onnxplain.explain(linear_head(), np.full_like(PICTURE, -1), "xgrad-cam", target=0)
    assert e.extras["weights"][0, 0] == 0
    assert np.isfinite(e.map()).all()


def test_upsampling() -> None:
    low = np.array([[[0.0, 4.0]]], np.float32)
    np.testing.assert_allclose(upsample(low, (1, 4)), [[[0, 1, 3, 4]]])
    np.testing.assert_allclose(upsample(low, (2, 4), "nearest"), [[[0, 0, 4, 4]] * 2])
    np.testing.assert_allclose(upsample(low, (1, 3), "nearest"), [[[0, 4, 4]]], err_msg="the later one on the border")
    np.testing.assert_allclose(upsample(low, (1, 5), "align-corners"), [[[0, 1, 2, 3, 4]]], rtol=1e-6)
    np.testing.assert_allclose(upsample(low[:, 0], (5,), "align-corners"), [[0, 1, 2, 3, 4]], rtol=1e-6)
    assert upsample(low, (3, 4), "cubic").shape == (1, 3, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"upsampling": "lanczos"}, "upsampling must be one of bilinear"),
        ({"relu": 1}, "relu must be true or false"),
        ({"layer": 3}, "layer must be the name of one tensor"),
        ({"layer": "nowhere"}, "'nowhere' holds no feature maps on the way to 'y'; found there are a"),
        ({"layer": "p"}, "found there are a"),
    ],
)
def test_what_does_not_fit_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        onnxplain.explain(linear_head(), PICTURE, "grad-cam", target=0, **options)


def test_a_model_without_places_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no convolution"):
        onnxplain.explain(load("two_branch"), samples("two_branch"), "grad-cam")


def test_an_explanation_of_maps_alone_is_saved_and_read(tmp_path: Path) -> None:
    e = onnxplain.explain(linear_head(), PICTURE, "grad-cam", target=0)
    e.save(tmp_path / "saved")
    again = onnxplain.Explanation.load(tmp_path / "saved")
    assert again.layers == ("a",)
    assert again.relevance == {}
    assert np.isnan(again.conserved).all()
    np.testing.assert_array_equal(again.map(), e.map())
    assert len(e.plot().axes) >= 1
