"""SISE against the published pseudo-code written out, and what must hold whatever the net."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest
from methods import slow_masking as slow

import onnxplain
from onnxplain import UsageError
from onnxplain.methods.sise import above_otsu, above_share, fuse, hard_gate, otsu

HEIGHT, WIDTH, CLASSES = 16, 12, 4
PADS = {"pads": [1, 1, 1, 1]}
LAYERS = {"plain": ("a", "b", "c"), "residual": ("a", "c"), "channels last": ("a", "b"), "one block": ("a",)}


Nodes, Weights = list[Any], dict[str, Any]


def conv(nodes: Nodes, weights: Weights, source: str, out: str, shape: tuple[int, ...], **settings: Any) -> None:
    rng = np.random.default_rng(len(weights))
    weights[f"{out}.w"] = rng.normal(size=shape) * 2 / np.sqrt(np.prod(shape[1:]))
    weights[f"{out}.b"] = 0.1 * rng.normal(size=shape[0])
    pads = {} if shape[2] == 1 else PADS
    nodes.append(nets.node("Conv", [source, f"{out}.w", f"{out}.b"], f"{out}.z", **pads, **settings))


def net(kind: str, closing: bool = False, scale: float = 1.0, batch: int | str = "N") -> bytes:
    """Nets whose ends of resolutions are named a, b, c."""
    nodes: Nodes = []
    weights: Weights = {}
    shape: list[int | str] = [batch, 3, HEIGHT, WIDTH]
    half = {"kernel_shape": [2, 2], "strides": [2, 2]}
    if kind == "channels last":
        shape = [batch, HEIGHT, WIDTH, 3]
        nodes.append(nets.node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]))
        conv(nodes, weights, "t", "a", (7, 3, 3, 3))
        nodes += [nets.node("Transpose", ["a.z"], "a.t", perm=[0, 2, 3, 1]), nets.node("Relu", ["a.t"], "a")]
        nodes.append(nets.node("Transpose", ["a"], "a.u", perm=[0, 3, 1, 2]))
        conv(nodes, weights, "a.u", "b", (8, 7, 3, 3), strides=[2, 2])
        nodes += [nets.node("Transpose", ["b.z"], "b.t", perm=[0, 2, 3, 1]), nets.node("Relu", ["b.t"], "b")]
        weights["axes"] = np.array([1, 2])
        nodes.append(nets.node("ReduceMean", ["b", "axes"], "flat", keepdims=0))
        width = 8
    else:
        conv(nodes, weights, "x", "a", (7, 3, 3, 3))
        nodes.append(nets.node("Relu", ["a.z"], "a"))
        last, width = "a", 7
        if kind == "plain":
            for name, before in (("b", "a"), ("c", "b")):
                nodes.append(nets.node("MaxPool", [before], f"{before}.p", **half))
                conv(nodes, weights, f"{before}.p", name, (8, width, 3, 3))
                nodes.append(nets.node("Relu", [f"{name}.z"], name))
                last, width = name, 8
        if kind == "residual":
            conv(nodes, weights, "a", "inner", (8, 7, 3, 3))
            nodes.append(nets.node("Relu", ["inner.z"], "inner"))
            conv(nodes, weights, "inner", "down", (8, 8, 3, 3), strides=[2, 2])
            conv(nodes, weights, "a", "side", (8, 7, 1, 1), strides=[2, 2])
            nodes += [nets.node("Add", ["down.z", "side.z"], "sum"), nets.node("Relu", ["sum"], "c")]
            last, width = "c", 8
        nodes += [nets.node("GlobalAveragePool", [last], "mean"), nets.node("Flatten", ["mean"], "flat")]
    weights["w"] = scale * np.random.default_rng(99).normal(size=(width, CLASSES))
    nodes.append(nets.node("Gemm", ["flat", "w"], "y"))
    if closing:
        nodes.append(nets.node("Softmax", ["y"], "p"))
    return nets.model(nodes, {"x": shape}, ["p" if closing else "y"], weights)


X = np.random.default_rng(1).normal(size=(2, 3, HEIGHT, WIDTH)).astype(np.float32)


def explain(kind: str, x: np.ndarray = X, method: str = "sise", **options: Any) -> onnxplain.Explanation:
    of_net = {name: options.pop(name) for name in ("closing", "scale", "batch") if name in options}
    data = net(kind, **of_net)
    x = np.moveaxis(x, 1, 3) if kind == "channels last" else x
    return onnxplain.explain(onnxplain.load(data, threads=1), x, method, **options)


def literally(kind: str, x: np.ndarray, index: int, fusion: str, mu: float | None) -> tuple[np.ndarray, list[int]]:
    """The fused map and the number of masks per layer; Ada-SISE without ``mu``."""
    data, last = net(kind), kind == "channels last"
    score = slow.runner(data, index)
    shown = lambda picture: score(np.moveaxis(picture, 0, 2) if last else picture)  # noqa: E731
    blocks, counts = [], []
    for layer in LAYERS[kind]:
        maps = slow.features(data, np.moveaxis(x, 0, 2) if last else x, layer, last)
        sums = slow.gradient_sums(data, maps, layer, index, last)
        threshold = max(mu or 0, 0) * sums.max()
        assert np.abs(sums - threshold).min() > 1e-3 * np.abs(sums).max(), "differences cannot tell"
        assert sums.max() > 0
        picked = slow.picked_by_otsu(sums) if mu is None else [k for k in range(len(sums)) if sums[k] > threshold]
        blocks.append(slow.block_map(shown, x.astype(np.float64), maps, picked))
        counts.append(len(picked))
    return slow.fused(blocks, fusion), counts


@pytest.mark.parametrize("fusion", ["hard", "soft"])
@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("mu", [0.0, 0.3, None])
def test_the_pseudo_code(kind: str, fusion: str, mu: float | None) -> None:
    method, options = ("ada-sise", {}) if mu is None else ("sise", {"mu": mu})
    e = explain(kind, target=2, fusion=fusion, method=method, **options)
    assert e.layers == LAYERS[kind]
    assert e.map("x").shape == (2, HEIGHT, WIDTH)
    for index, x in enumerate(X):
        expected, counts = literally(kind, x, 2, fusion, mu)
        assert [count.selected[index] for count in e.masks] == counts
        assert [count.used[index] for count in e.masks] == counts
        np.testing.assert_allclose(e.map("x")[index], expected, atol=1e-5)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_any_batch_size_and_the_softmax_of_the_graph(kind: str) -> None:
    e = explain(kind, target=1)
    for options in ({"batch_size": 1}, {"batch_size": 5}, {"closing": True}, {"batch": 1}):
        found = explain(kind, target=1, **options)
        np.testing.assert_allclose(found.map("x"), e.map("x"), atol=1e-6)
        assert found.masks == e.masks
    alone = explain(kind, X[1:], target=1)
    np.testing.assert_allclose(alone.map("x")[0], e.map("x")[1], atol=1e-6)


def test_scaling_the_score_changes_nothing() -> None:
    e, scaled = (explain("plain", target=1, score="logit", scale=scale) for scale in (1.0, 8.0))
    np.testing.assert_allclose(scaled.map("x"), e.map("x"), atol=1e-5)
    assert scaled.target[0].value == pytest.approx(8 * e.target[0].value, rel=1e-5)
    assert scaled.masks == e.masks


def test_a_certain_class_still_has_a_gradient() -> None:
    """Behind a softmax in float32 it would be 0: the class has the probability 1."""
    e = explain("plain", scale=300.0, closing=True)
    assert e.target[0].value == 1.0
    logit = explain("plain", scale=300.0, score="logit", closing=True)
    assert all(sum(count.selected) > 0 for count in e.masks)
    assert e.map("x").max() > 0
    assert logit.target[0].tensor == "y"


def test_one_block_gives_its_own_map() -> None:
    e = explain("plain", layers="b")
    assert e.layers == ("b",)
    np.testing.assert_array_equal(e.map("x"), e.extras["block/b"])
    whole = explain("plain")
    np.testing.assert_array_equal(whole.extras["block/b"], e.extras["block/b"])
    np.testing.assert_array_equal(explain("plain", layers=["c", "a", "b"]).map("x"), whole.map("x"))
    np.testing.assert_array_equal(explain("plain", layers="c, a,b").map("x"), whole.map("x"))


def test_counts_add_up_and_survive_the_disk(tmp_path: Any) -> None:
    e = explain("plain")
    assert [count.tensor for count in e.masks] == ["a", "b", "c"]
    for count, channels in zip(e.masks, (7, 8, 8), strict=True):
        assert count.reason
        assert [sum(pair) for pair in zip(count.selected, count.skipped, strict=True)] == [channels] * 2
    e.save(tmp_path / "e")
    back = onnxplain.Explanation.load(tmp_path / "e")
    assert (back.masks, back.layers) == (e.masks, e.layers)
    np.testing.assert_array_equal(back.map("x"), e.map("x"))


def test_mu_0_selects_what_is_positive() -> None:
    gradients = np.array([-1.0, 0.0, 1e-30, 2.0, 0.5])
    np.testing.assert_array_equal(np.flatnonzero(above_share(gradients, 0.0)), [2, 3, 4])
    np.testing.assert_array_equal(np.flatnonzero(above_share(gradients, 0.25)), [3])
    assert not above_share(-np.abs(gradients) - 1, 0.0).any()
    assert not above_share(np.zeros(3), 0.0).any()


@pytest.mark.parametrize(
    ("gradients", "picked"),
    [
        ([-1.0, 3.0, -2.0], [1]),
        ([2.0, 2.0, 2.0], [0, 1, 2]),
        ([-1.0, -2.0], []),
        ([0.0, 0.0], []),
        ([0.1, 0.12, 1.0, 0.9, -5.0], [2, 3]),
    ],
)
def test_ada_sise_where_there_is_nothing_to_part(gradients: list[float], picked: list[int]) -> None:
    assert np.flatnonzero(above_otsu(np.array(gradients))).tolist() == picked


def test_hard_fusion_leaves_nothing_at_or_below_the_last_threshold() -> None:
    e = explain("plain")
    last = e.extras["block/c"][0]
    assert not e.map("x")[0][last <= otsu(last)].any()
    assert e.map("x")[0][last > otsu(last)].all()


def test_fusion_leaves_its_maps_as_they_are() -> None:
    rng = np.random.default_rng(0)
    blocks = [rng.random((5, 6)) for _ in range(3)]
    copies = [block.copy() for block in blocks]
    first = fuse(blocks, hard_gate, (5, 6))
    np.testing.assert_array_equal(fuse(blocks, hard_gate, (5, 6)), first)
    np.testing.assert_array_equal(blocks, copies)
    np.testing.assert_array_equal(fuse([], hard_gate, (5, 6)), np.zeros((5, 6)))


def one_layer(w: np.ndarray) -> bytes:
    """A convolution with random kernels, a Relu, a global average and the dense layer ``w``, maps x classes."""
    nodes = [
        nets.node("Conv", ["x", "k"], "z", **PADS),
        nets.node("Relu", ["z"], "a"),
        nets.node("GlobalAveragePool", ["a"], "m"),
        nets.node("Flatten", ["m"], "f"),
        nets.node("Gemm", ["f", "w"], "y"),
    ]
    kernel = np.random.default_rng(0).normal(size=(len(w), 3, 3, 3))
    return nets.model(nodes, {"x": ["N", 3, HEIGHT, WIDTH]}, constants={"k": kernel, "w": w})


def test_nothing_speaks_for_the_target() -> None:
    """A class whose logit no feature raises."""
    data = one_layer(-np.ones((4, 1)))
    e = onnxplain.explain(onnxplain.load(data, threads=1), X, "sise")
    assert not e.map("x").any()
    assert any("no feature map" in note for note in e.notes)
    assert [(count.selected, count.skipped) for count in e.masks] == [((0, 0), (4, 4))]


def test_constant_feature_maps_add_nothing() -> None:
    """On a grey picture without padding every map is constant."""
    nodes = [
        nets.node("Conv", ["x", "k"], "z"),
        nets.node("GlobalAveragePool", ["z"], "m"),
        nets.node("Flatten", ["m"], "f"),
        nets.node("Gemm", ["f", "w"], "y"),
    ]
    rng = np.random.default_rng(0)
    constants = {"k": rng.normal(size=(4, 3, 3, 3)), "w": np.repeat([[1.0, 0.0]], 4, 0)}
    data = nets.model(nodes, {"x": ["N", 3, HEIGHT, WIDTH]}, constants=constants)
    x = np.full((1, 3, HEIGHT, WIDTH), 0.5, np.float32)
    e = onnxplain.explain(onnxplain.load(data, threads=1), x, "sise", target=0)
    assert e.masks[0].selected == (4,)
    assert not e.map("x").any()


def test_score_cam_is_its_formula() -> None:
    e = explain("plain", X[:1], "score-cam", target=2)
    data = net("plain")
    maps = slow.features(data, X[0], "c", False).astype(np.float64)
    score = slow.runner(data, 2, logits=True)
    scores = [score(X[0] * slow.min_max(slow.upsample(plane, HEIGHT, WIDTH))) for plane in maps]
    weights = np.exp(scores) / np.exp(scores).sum()
    expected = slow.upsample(np.maximum(np.tensordot(weights, maps, 1), 0), HEIGHT, WIDTH)
    np.testing.assert_allclose(e.map("x")[0], expected, atol=1e-5 * expected.max())
    assert e.layers == ("c",)
    np.testing.assert_allclose(explain("plain", X[:1], "score-cam", target=2, layer="c").map("x"), e.map("x"))
    with pytest.raises(UsageError, match="layer must be the name of one tensor"):
        explain("plain", X[:1], "score-cam", layer=["c"])


def test_early_stop() -> None:
    """On a layer of 400 maps, all of them for the class: the map is that of the masks used, whatever the batch size."""
    data = one_layer(np.tile([[0.01, 0.0]], (400, 1)))
    model, options = onnxplain.load(data, threads=1), {"target": 0, "score": "logit", "tolerance": 0.2, "seed": 5}
    one, e = (onnxplain.explain(model, X[:1], "sise", batch_size=size, **options) for size in (1, 6))
    [count] = e.masks
    assert one.masks == e.masks
    assert (count.selected, count.skipped) == ((400,), (0,))
    assert 128 <= count.used[0] < 400
    assert count.used[0] % 64 == 0
    np.testing.assert_allclose(one.map("x"), e.map("x"), atol=1e-6)
    masks = [slow.min_max(slow.upsample(plane, HEIGHT, WIDTH)) for plane in model.run(X[:1], ["a"])["a"][0]]
    used = np.random.default_rng(5).permutation(400)[: count.used[0]]
    expected = sum(model.run(X[:1] * masks[k])["y"][0, 0] * masks[k] / masks[k].sum() for k in used)
    np.testing.assert_allclose(e.map("x")[0], slow.min_max(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mu": -0.1}, "mu must lie from 0"),
        ({"fusion": "soggy"}, "hard or soft"),
        ({"temperature": 0}, "temperature must be"),
        ({"layers": "flat"}, "no feature maps"),
        ({"layers": "nowhere"}, "'nowhere' holds no feature maps"),
        ({"score": "odds"}, "probability or logit"),
        ({"nu": 1}, "no option 'nu'"),
    ],
)
def test_what_is_asked_wrongly(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        explain("plain", **options)
