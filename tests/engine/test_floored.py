"""Pools whose last window in ceil mode would start in the padding: kernels leave it out, shape inference counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnxruntime as ort
import pytest
from gradient_checks import numbers
from nets import node

import onnxplain

WINDOWS: dict[str, dict[str, Any]] = {
    "both axes": {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 1, 1, 1]},
    "one axis, the other open": {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 1, 0, 1]},
    "one axis, padded and open": {"kernel_shape": [3, 2], "strides": [3, 2], "pads": [1, 1, 1, 1]},
}
SIZE = (6, 5)
POOLS = [("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"count_include_pad": 1})]


def net(op_type: str, attributes: dict[str, Any], opset: int, batch: int | str = "N") -> bytes:
    nodes = [
        node("Conv", ["x", "w"], "c", pads=[1] * 4),
        node("Relu", ["c"], "r"),
        node(op_type, ["r"], "p", ceil_mode=1, **attributes),
        node("Mul", ["p", "p"], "q"),
        node("ReduceMean", ["q"], "m", axes=[2, 3], keepdims=0) if opset < 18 else node("ReduceMean", ["q", "a"], "m"),
        node("Flatten", ["m"], "f"),
        node("MatMul", ["f", "v"], "y"),
    ]
    constants = {"w": numbers(16, 3, 3, 3, seed=1), "v": numbers(16, 4, seed=2)}
    return nets.model(
        nodes,
        {"x": [batch, 3, *SIZE]},
        constants=constants | ({} if opset < 18 else {"a": np.array([2, 3])}),
        opset=opset,
    )


def divides_by_what_is_beyond() -> bool:
    """Whether this onnxruntime counts what lies behind the padding, as 1.28 does: ones then end in 1/9, not in 1/4."""
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1}
    data = nets.model([node("AveragePool", ["x"], "y", **window)], {"x": [1, 1, 6, 6]}, opset=11)
    [y] = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": np.ones((1, 1, 6, 6), "f")})
    return bool(y[0, 0, -1, -1] < 0.2)


def check_divisor(window: str, more: dict[str, Any]) -> None:
    if more and "open" in window and divides_by_what_is_beyond():
        pytest.skip("this onnxruntime divides by elements behind the padding, which 1.31 does not")


@pytest.mark.parametrize("opset", [10, 19, 22])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("op_type", "more"), POOLS)
@pytest.mark.parametrize("batch", ["N", 2])
def test_engines_agree(op_type: str, more: dict[str, Any], window: str, opset: int, batch: int | str) -> None:
    """Where the batch is fixed, onnxruntime's optimiser would put inferred shapes in the place of the recorded ones."""
    check_divisor(window, more)
    model = onnxplain.load(net(op_type, WINDOWS[window] | more, opset, batch), threads=1)
    x = numbers(2, 3, *SIZE)
    for method in ("gradient", "lrp"):
        exact = onnxplain.explain(model, x, method, 1, engine="host", dtype="float64").relevance["x"]
        assert np.abs(exact).max() > 0
        for engine in ("host", "compiled"):
            found = onnxplain.explain(model, x, method, 1, engine=engine)
            np.testing.assert_allclose(found.relevance["x"], exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())
            np.testing.assert_allclose(found.prediction, model.run(x)["y"], rtol=1e-5)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("op_type", "more"), POOLS)
def test_the_exported_graph_agrees(op_type: str, more: dict[str, Any], window: str, tmp_path: Path) -> None:
    check_divisor(window, more)
    model = onnxplain.load(net(op_type, WINDOWS[window] | more, 11), threads=1)
    onnxplain.export(model, tmp_path / "explained.onnx")
    x = numbers(3, 3, *SIZE)
    session = ort.InferenceSession(tmp_path / "explained.onnx", providers=["CPUExecutionProvider"])
    y, relevance = session.run(["y", "relevance/x"], {"x": x})
    np.testing.assert_allclose(y, model.run(x)["y"], rtol=1e-5)
    expected = onnxplain.explain(model, x, engine="host").relevance["x"]
    np.testing.assert_allclose(relevance, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_pads_as_long_as_the_kernel_have_no_such_form() -> None:
    """Dilated, a last window may end further behind the input than the kernel is long."""
    attributes = {"kernel_shape": [2, 2], "strides": [2, 4], "pads": [0, 1, 1, 0], "dilations": [1, 4]}
    model = onnxplain.load(net("MaxPool", attributes, 11), threads=1)
    assert onnxplain.explain(model, numbers(1, 3, *SIZE), target=1).engine == "host"
    with pytest.raises(onnxplain.UnsupportedError, match=r"MaxPool 'p' .*ceil mode; engine='host' runs it"):
        onnxplain.explain(model, numbers(1, 3, *SIZE), target=1, engine="compiled")
