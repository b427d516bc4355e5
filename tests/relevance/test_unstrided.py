"""The remedy for the grid that strides draw: by hand, against a slow transcription, on both engines."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import model, node

import onnxplain
from onnxplain.errors import UsageError
from onnxplain.metrics.maps import stride_energy

ENGINES = ("host", "compiled")
REMEDY = {"stride_artifacts": "remedy", "strided_pools": "remedy"}


def signal_at_the_input(
    op: str, attributes: dict[str, Any], x: np.ndarray, g: np.ndarray, w: np.ndarray | None, engine: str, **options: str
) -> np.ndarray:
    """What a layer hands down of the signal ``g`` at its output."""
    constants = {"g": g, "axes": np.arange(1, g.ndim)} | ({} if w is None else {"w": w})
    nodes = [
        node(op, ["x"] if w is None else ["x", "w"], "z", **attributes),
        node("Mul", ["z", "g"], "weighted"),
        node("ReduceSum", ["weighted", "axes"], "y", keepdims=0),
    ]
    net = onnxplain.load(model(nodes, {"x": ["n", *x.shape[1:]]}, constants=constants), threads=1)
    (output,) = net.outputs
    e = onnxplain.explain(net, x, "deconvnet", target=lambda y: np.ones_like(y), engine=engine, **options)
    assert output.name == "y"
    return e.relevance["x"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("kernel", "plain", "remedy"),
    [
        (3, [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1], [1, 2, 3, 3, 3, 3, 3, 3, 3, 2, 1]),
        (2, [1] * 10, [1, 2, 2, 2, 2, 2, 2, 2, 2, 1]),
    ],
)
def test_five_ones_through_a_kernel_of_ones(engine: str, kernel: int, plain: list[float], remedy: list[float]) -> None:
    x, g, w = np.ones((1, 1, len(plain)), np.float32), np.ones((1, 1, 5)), np.ones((1, 1, kernel))
    for option, expected in (("plain", plain), ("remedy", remedy)):
        found = signal_at_the_input("Conv", {"strides": [2]}, x, g, w, engine, stride_artifacts=option)
        np.testing.assert_allclose(found[0, 0], expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_nearest_output_along_each_axis(engine: str) -> None:
    """Three values on five places: (i + 1/2) 3/5 is 0.3, 0.9, 1.5, 2.1, 2.7; a kernel of one shows them as they are."""
    x, g, w = np.ones((1, 1, 5), np.float32), np.array([[[1.0, 2.0, 4.0]]]), np.ones((1, 1, 1))
    found = signal_at_the_input("Conv", {"strides": [2]}, x, g, w, engine, **REMEDY)
    np.testing.assert_allclose(found[0, 0], [1, 1, 2, 4, 4])


def slowly(
    g: np.ndarray, w: np.ndarray, size: tuple[int, ...], group: int, pads: list[int], d: list[int]
) -> np.ndarray:
    """The definition, one product after the other: resample to in + pads - reach + 1, then the adjoint at stride 1."""
    counts = [size[i] + pads[i] + pads[i + 2] - (d[i] * (w.shape[2 + i] - 1) + 1) + 1 for i in range(2)]
    out = np.zeros((len(g), w.shape[1] * group, *size))
    per_group = w.shape[0] // group
    for n, m, a, b in itertools.product(range(len(g)), range(w.shape[0]), range(counts[0]), range(counts[1])):
        nearest = [int(np.floor((at + 0.5) * g.shape[2 + i] / counts[i])) for i, at in enumerate((a, b))]
        for c, u, v in itertools.product(range(w.shape[1]), range(w.shape[2]), range(w.shape[3])):
            row, column = a - pads[0] + u * d[0], b - pads[1] + v * d[1]
            if 0 <= row < size[0] and 0 <= column < size[1]:
                out[n, m // per_group * w.shape[1] + c, row, column] += g[n, m, nearest[0], nearest[1]] * w[m, c, u, v]
    return out


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, int], dict[str, Any]]] = {
    "plain": ((4, 3, 3, 3), (9, 8), {"strides": [2, 2]}),
    "pads": ((4, 3, 3, 3), (8, 9), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "one axis": ((4, 3, 3, 2), (7, 9), {"strides": [1, 3], "pads": [0, 1, 2, 0]}),
    "grouped": ((4, 2, 3, 3), (9, 9), {"strides": [2, 3], "group": 2}),
    "dilated": ((2, 3, 2, 3), (9, 10), {"strides": [2, 2], "dilations": [3, 2]}),
    "stride beyond the kernel": ((2, 3, 1, 1), (7, 8), {"strides": [3, 2]}),
    "stride 1": ((2, 3, 3, 3), (5, 6), {"strides": [1, 1], "pads": [1, 1, 1, 1]}),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_against_the_definition(name: str, engine: str) -> None:
    rng = np.random.default_rng(3)
    shape, size, attributes = CONVOLUTIONS[name]
    group, pads, dilations = (
        attributes.get("group", 1),
        attributes.get("pads", [0] * 4),
        attributes.get("dilations", [1, 1]),
    )
    x, w = rng.standard_normal((2, shape[1] * group, *size)).astype(np.float32), rng.standard_normal(shape)
    out = [
        (size[i] + pads[i] + pads[i + 2] - dilations[i] * (shape[2 + i] - 1) - 1) // attributes["strides"][i] + 1
        for i in range(2)
    ]
    g = rng.standard_normal((1, shape[0], *out))
    found = signal_at_the_input("Conv", attributes, x, g, w, engine, **REMEDY)
    expected = slowly(g, w, size, group, pads, dilations)
    np.testing.assert_allclose(found, np.repeat(expected, 2, axis=0), rtol=1e-4, atol=1e-4)
    if name == "stride 1":
        np.testing.assert_allclose(
            found, signal_at_the_input("Conv", attributes, x, g, w, engine), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_padding_that_the_runtime_chooses(engine: str) -> None:
    """Nine places, kernel 3, stride 2: SAME pads one on each side, so nine windows of stride 1 see the five outputs."""
    x, g, w = np.ones((1, 1, 9), np.float32), np.array([[[1.0, 2.0, 3.0, 4.0, 5.0]]]), np.array([[[0.0, 1.0, 0.0]]])
    attributes = {"strides": [2], "auto_pad": "SAME_UPPER"}
    found = signal_at_the_input("Conv", attributes, x, g, w, engine, **REMEDY)
    np.testing.assert_allclose(found[0, 0], [1, 1, 2, 2, 3, 4, 4, 5, 5])


@pytest.mark.parametrize("engine", ENGINES)
def test_average_pools_on_request(engine: str) -> None:
    x, g = np.ones((1, 1, 11), np.float32), np.ones((1, 1, 5))
    attributes = {"kernel_shape": [3], "strides": [2]}
    found = signal_at_the_input("AveragePool", attributes, x, g, None, engine, **REMEDY)
    np.testing.assert_allclose(found[0, 0] * 3, [1, 2, 3, 3, 3, 3, 3, 3, 3, 2, 1], rtol=1e-6)
    untouched = signal_at_the_input("AveragePool", attributes, x, g, None, engine, stride_artifacts="remedy")
    np.testing.assert_allclose(untouched[0, 0] * 3, [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_maximum_that_windows_share_takes_their_mean(engine: str) -> None:
    """Windows 0-2, 2-4, 4-6 with maxima at 2, 2 and 5: signals 1 and 2 meet at place 2."""
    x, g = np.array([[[0, 1, 9, 1, 0, 5, 1]]], np.float32), np.array([[[1.0, 2.0, 4.0]]])
    attributes = {"kernel_shape": [3], "strides": [2]}
    plain = signal_at_the_input("MaxPool", attributes, x, g, None, engine)
    remedy = signal_at_the_input("MaxPool", attributes, x, g, None, engine, **REMEDY)
    np.testing.assert_allclose(plain[0, 0], [0, 0, 3, 0, 0, 4, 0])
    np.testing.assert_allclose(remedy[0, 0], [0, 0, 1.5, 0, 0, 4, 0])


def strided_net() -> onnxplain.Model:
    """Two convolutions of stride 2 with positive weights, so that the signal passes every Relu."""
    rng = np.random.default_rng(0)
    constants = {
        "v": rng.uniform(0, 1, (4, 3, 3, 3)), "w": rng.uniform(0, 1, (5, 4, 5, 5)), "c": rng.uniform(0, 1, (5, 2)),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "v"], "a", strides=[2, 2], pads=[1] * 4), node("Relu", ["a"], "b"),
        node("MaxPool", ["b"], "p", kernel_shape=[3, 3], strides=[2, 2]),
        node("Conv", ["p", "w"], "e", strides=[2, 2], pads=[2] * 4), node("Relu", ["e"], "f"),
        node("GlobalAveragePool", ["f"], "q"), node("Flatten", ["q"], "r"), node("MatMul", ["r", "c"], "y"),
    ]  # fmt: skip
    return onnxplain.load(model(nodes, {"x": ["n", 3, 48, 48]}, constants=constants), threads=1)


@pytest.mark.parametrize("method", ["guided-backprop", "deconvnet"])
def test_engines_agree_and_the_grid_fades(method: str) -> None:
    net = strided_net()
    x = np.random.default_rng(1).uniform(0, 1, (2, 3, 48, 48)).astype(np.float32)
    found = {
        (engine, option): onnxplain.explain(net, x, method, target=0, engine=engine, stride_artifacts=option)
        for engine, option in itertools.product(ENGINES, ("plain", "remedy"))
    }
    for option in ("plain", "remedy"):
        host, compiled = (found[engine, option].relevance["x"] for engine in ENGINES)
        np.testing.assert_allclose(host, compiled, rtol=1e-4, atol=1e-6 * np.abs(host).max())
    plain, remedy = (stride_energy(found["host", o].relevance["x"][0].sum(axis=0), 2) for o in ("plain", "remedy"))
    assert remedy < plain / 5


def test_the_plan_says_why() -> None:
    e = onnxplain.explain(strided_net(), np.ones((1, 3, 48, 48), np.float32), "guided-backprop", target=0, **REMEDY)
    rules = {step.layer.op_type: (step.rule.name, step.reason) for step in e.plan}
    assert rules["Conv"] == ("unstrided", "option: op = ['Conv']")
    assert rules["MaxPool"][0] == "unstrided"
    assert rules["Relu"][0] == "guided-relu"


@pytest.mark.parametrize("method", ["guided-backprop", "deconvnet", "vebi"])
def test_the_verb_plan_knows_the_option(method: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(
        model([node("Conv", ["x", "w"], "y", strides=[2])], {"x": ["n", 1, 7]}, constants={"w": np.ones((1, 1, 3))})
    )
    plan = onnxplain.plan(path, method=method, stride_artifacts="remedy")
    assert [step.rule.name for step in plan] == ["unstrided"]


def test_other_words_are_refused() -> None:
    for option in REMEDY:
        with pytest.raises(UsageError, match=f"{option} must be plain or remedy, not 'new'"):
            onnxplain.explain(strided_net(), np.ones((1, 3, 48, 48), np.float32), "deconvnet", **{option: "new"})
