"""The gradient family at tensors inside the model."""

from __future__ import annotations

import itertools
import time

import nets
import numpy as np
import onnx
import pytest

import onnxplain
from onnxplain.errors import FailureError, UsageError

RNG = np.random.default_rng(5)
X = RNG.standard_normal((3, 2, 6, 6)).astype(np.float32)
ENGINES = ("host", "compiled")
TARGET = [0, 2, 1]


@pytest.fixture(scope="module")
def model() -> onnxplain.Model:
    """Curved up to "h" (a Tanh), linear from there on; "c" lies in front of the bend."""
    nodes = [
        nets.node("Conv", ["x", "v"], "c", pads=[1] * 4),
        nets.node("Tanh", ["c"], "h"),
        nets.node("Flatten", ["h"], "f"),
        nets.node("Gemm", ["f", "m"], "y"),
    ]
    constants = {"v": RNG.standard_normal((4, 2, 3, 3)) / 3, "m": RNG.standard_normal((4 * 6 * 6, 3))}
    return onnxplain.load(nets.model(nodes, {"x": ["N", 2, 6, 6]}, constants=constants), threads=1)


def weights(model: onnxplain.Model) -> np.ndarray:
    """The gradient of the targets in "h"."""
    matrix = model.tensor("m").value
    assert matrix is not None
    return matrix[:, TARGET].T.reshape(3, 4, 6, 6)


@pytest.mark.parametrize("engine", ENGINES)
def test_input_times_gradient_inside(model: onnxplain.Model, engine: str) -> None:
    """The value of the tensor times its gradient; at the input what is given there anyway."""
    e = onnxplain.explain(model, X, "input-x-gradient", TARGET, engine=engine, at=["h", "c", "x"])
    values = model.run(X, ["h", "c"])
    np.testing.assert_allclose(e.at["h"], values["h"] * weights(model), rtol=1e-5, atol=1e-6)
    slope = weights(model) * (1 - values["h"] ** 2)
    np.testing.assert_allclose(e.at["c"], values["c"] * slope, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(e.at["x"], e.relevance["x"])


@pytest.mark.parametrize("engine", ENGINES)
def test_smoothgrad_inside(model: onnxplain.Model, engine: str) -> None:
    """The mean of gradients: constant where the model is linear, else that of the noisy copies."""
    e = onnxplain.explain(model, X, "smoothgrad", TARGET, engine=engine, at=["h", "c", "x"], count=3, noise=0.5, seed=7)
    np.testing.assert_allclose(e.at["h"], weights(model), rtol=1e-5)
    spread = 0.5 * (X.max(axis=(1, 2, 3), keepdims=True) - X.min(axis=(1, 2, 3), keepdims=True))
    copies = [X + spread * np.random.default_rng([7, i]).standard_normal(X.shape[1:]) for i in range(3)]
    slopes = [1 - model.run(copy.astype(np.float32), ["h"])["h"] ** 2 for copy in copies]
    np.testing.assert_allclose(e.at["c"], weights(model) * np.mean(slopes, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(e.at["x"], e.relevance["x"])


@pytest.mark.parametrize(("engine", "dtype"), [("host", "float32"), ("host", "float64"), ("compiled", "float32")])
def test_integrated_gradients_inside(model: onnxplain.Model, engine: str, dtype: str) -> None:
    """Exact where the model is linear in the tensor, complete at every cut, and equal to the input's at the input."""
    how = {"engine": engine, "dtype": dtype, "at": ["h", "c", "x"], "baseline": 0.25}
    start = np.full_like(X, 0.25)
    rise = [(model.run(X)["y"] - model.run(start)["y"])[i, target] for i, target in enumerate(TARGET)]
    gaps = {}
    for steps in (8, 64):
        e = onnxplain.explain(model, X, "integrated-gradients", TARGET, steps=steps, **how)
        moved = model.run(X, ["h"])["h"] - model.run(start, ["h"])["h"]
        np.testing.assert_allclose(e.at["h"], moved * weights(model), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(e.at["x"], e.relevance["x"])
        assert e.at["c"].dtype == e.relevance["x"].dtype == dtype
        gaps[steps] = np.abs(e.at["c"].sum(axis=(1, 2, 3)) - rise).max()
    assert gaps[64] < 0.05 * gaps[8]
    assert gaps[64] < 2e-3 * np.abs(rise).max()


@pytest.mark.parametrize("method", ["smoothgrad", "integrated-gradients"])
def test_indices_cannot_be_moved(method: str) -> None:
    """Neither noise nor a way leads from one index to another."""
    nodes = [nets.node("Gather", ["words", "i"], "e"), nets.node("ReduceSum", ["e", "axes"], "y", keepdims=0)]
    words = RNG.standard_normal((5, 3)).astype(np.float32)
    net = nets.model(nodes, {"i": ["N", 2]}, constants={"words": words, "axes": np.array([1, 2])}, dtype=np.int64)
    with pytest.raises(UsageError, match=rf"'{method}' moves floating inputs, and here 'i' is int64"):
        onnxplain.explain(net, np.array([[1, 2]]), method, at=["e"])


def test_a_float_that_nothing_is_made_of_does_not_count() -> None:
    """It moves, but not what is explained."""
    nodes = [
        nets.node("Gather", ["words", "i"], "e"),
        nets.node("ReduceSum", ["e"], "y", keepdims=0),
        nets.node("Relu", ["x"], "z"),
    ]
    graph = onnx.load_from_string(
        nets.model(nodes, {"i": ["N"], "x": ["N", 2]}, ("y", "z"), {"words": np.ones((5, 3))})
    )
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    feed = {"i": np.array([1]), "x": np.ones((1, 2), np.float32)}
    with pytest.raises(UsageError, match="moves floating inputs, and here 'i' is int64"):
        onnxplain.explain(graph, feed, "smoothgrad", output="y", at=["e"])


@pytest.mark.parametrize("engine", ENGINES)
def test_conductance_of_quantized_codes(engine: str) -> None:
    """Codes are bytes, and their differences are not."""
    nodes = [
        nets.node("QuantizeLinear", ["x", "s", "zero"], "q"),
        nets.node("DequantizeLinear", ["q", "s", "zero"], "d"),
        nets.node("MatMul", ["d", "w"], "y"),
    ]
    constants = {"s": np.float32(0.02), "zero": np.uint8(128), "w": RNG.standard_normal((8, 3))}
    net = nets.model(nodes, {"x": ["N", 8]}, constants=constants)
    x = RNG.uniform(-1, 1, (2, 8)).astype(np.float32)
    e = onnxplain.explain(net, x, "integrated-gradients", 1, engine=engine, at=["q", "d"])
    np.testing.assert_allclose(e.at["q"], e.at["d"], rtol=1e-4, atol=1e-5)
    step = np.abs(constants["w"]).max() * 0.02
    np.testing.assert_allclose(e.at["d"], e.relevance["x"], atol=step / 2 + 1e-6)  # codes are rounded


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["input-x-gradient", "integrated-gradients"])
def test_values_that_a_mask_makes_infinite(method: str, engine: str) -> None:
    """Nothing depends on them, so nothing is theirs."""
    nodes = [
        nets.node("Where", ["mask", "x", "never"], "scores"),
        nets.node("Softmax", ["scores"], "p"),
        nets.node("MatMul", ["p", "w"], "y"),
    ]
    mask = np.array([[True, True, False, True]])
    constants = {"mask": mask, "never": np.float32(-np.inf), "w": RNG.standard_normal((4, 3))}
    net = nets.model(nodes, {"x": ["N", 4]}, constants=constants)
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    e = onnxplain.explain(net, x, method, 1, engine=engine, at=["scores"])
    assert not e.at["scores"][:, 2].any()
    np.testing.assert_allclose(e.at["scores"], e.relevance["x"], rtol=2e-2, atol=2e-3)


def test_infinite_values_that_count() -> None:
    """A share of what is infinite is no number: the sentence names the tensor."""
    nodes = [nets.node("Where", ["mask", "x", "never"], "scores"), nets.node("Add", ["scores", "one"], "y")]
    constants = {"mask": np.array([[True, False]]), "never": np.float32(-np.inf), "one": np.ones(2)}
    net = nets.model(nodes, {"x": ["N", 2]}, constants=constants)
    how = {"target": 1, "engine": "host", "at": ["scores"]}
    with pytest.raises(FailureError, match="'scores' holds infinite values that the target depends on"):
        onnxplain.explain(net, np.ones((1, 2), np.float32), "input-x-gradient", **how)
    e = onnxplain.explain(net, np.ones((1, 2), np.float32), "gradient", **how)
    np.testing.assert_array_equal(e.at["scores"], [[0, 1]])


@pytest.mark.parametrize("engine", ENGINES)
def test_times_of_all_passes(model: onnxplain.Model, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that every look moves on: the phases of many passes are their sum."""
    onnxplain.explain(model, X, "smoothgrad", TARGET, engine=engine)
    monkeypatch.setattr(time, "perf_counter", itertools.count().__next__)
    clean = onnxplain.explain(model, X, "gradient", TARGET, engine=engine).timings
    found = onnxplain.explain(model, X, "smoothgrad", TARGET, engine=engine, count=4).timings
    assert found == {phase: 5 * ticks for phase, ticks in clean.items()}
