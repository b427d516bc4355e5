"""Ops whose results are steps: quantizers, and comparisons that choose between branches."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from gradient_checks import bounded, check_model, gradient, numbers, opsets, own_forward
from hypothesis import given
from hypothesis import strategies as st
from nets import model, node

import onnxplain

RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}


@bounded
@given(st.data())
def test_quantizers(data: st.DataObject) -> None:
    """Rounded and saturated as onnxruntime does; the gradient is 1 between the first and the last step."""
    opset = data.draw(opsets("QuantizeLinear", first=10))
    kind = data.draw(st.sampled_from(["uint8", "int8", *(["uint16", "int16"] if opset >= 21 else [])]))
    low, high = RANGES[kind]
    per_axis = opset >= 13 and data.draw(st.booleans())
    axis = data.draw(st.sampled_from([1, -1])) if per_axis else 1
    x = numbers(2, 3, 4) * np.float32(2)
    size = x.shape[axis]
    scale = np.linspace(1.5, 2.5, size) / (high - low) if per_axis else np.array(2.0 / (high - low))
    point = np.full(scale.shape, data.draw(st.integers(low, high)), kind)
    attributes: dict[str, Any] = {"axis": axis} if opset >= 13 else {}
    constants = {"scale": scale.astype(np.float32), "point": point}
    names = ["scale", "point"]
    if kind == "uint8" and data.draw(st.booleans()):
        names, constants["point"] = names[:1], np.zeros_like(point)
    nodes = [
        node("QuantizeLinear", ["x", *names], "q", **attributes),
        node("DequantizeLinear", ["q", *names], "y", **attributes),
    ]
    used = {name: constants[name] for name in names}
    net = onnxplain.load(model(nodes, {"x": ["N", 3, 4]}, constants=used, opset=opset), threads=1)
    out = net.graph.tensors["y"]
    spread = [1, 1, 1]
    spread[axis] = size
    step = np.float32(scale).reshape(spread if per_axis else [1] * 3)
    level = x / step + constants["point"].astype(np.float64).flat[0]
    away = np.abs(level - np.floor(level) - 0.5) > 1e-2
    expected = net.run(x)["y"]
    found = own_forward(net, {"x": x}, out)
    np.testing.assert_allclose(found[away], expected[away], rtol=1e-5, atol=1e-6)
    inside = (level > low + 0.5) & (level < high - 0.5)
    for engine in ("host", "compiled"):
        slope = gradient(net, {"x": x}, out, np.ones_like(x), engine)["x"]
        np.testing.assert_allclose(slope[away], inside[away], rtol=1e-5)


def test_a_quantizer_to_float8_is_refused_by_name() -> None:
    nodes = [node("QuantizeLinear", ["x", "s"], "q", output_dtype=17), node("DequantizeLinear", ["q", "s"], "y")]
    net = onnxplain.load(model(nodes, {"x": ["N", 3]}, constants={"s": np.float32(0.1)}, opset=21), threads=1)
    with pytest.raises(onnxplain.UnsupportedError, match=r"QuantizeLinear 'q' .*it quantizes to float8"):
        onnxplain.explain(net, numbers(2, 3), target=0)


@pytest.mark.parametrize("op_type", ["Greater", "Less", "Equal"])
@bounded
@given(st.data())
def test_a_comparison_chooses_between_branches(op_type: str, data: st.DataObject) -> None:
    opset = data.draw(opsets(op_type, first=11))
    other = data.draw(st.sampled_from([(4,), (3, 1), (1,), (1, 3, 4)]))
    negated = data.draw(st.booleans())
    nodes = [node(op_type, ["x", "c"], "k"), *([node("Not", ["k"], "chosen")] if negated else [])]
    nodes += [node("Mul", ["x", "x"], "square"), node("Where", ["chosen" if negated else "k", "square", "x"], "y")]
    net = model(nodes, {"x": ["N", 3, 4]}, constants={"c": numbers(*other, seed=3)}, opset=opset)
    check_model(onnxplain.load(net, threads=1), {"x": numbers(2, 3, 4)})


@pytest.mark.parametrize("op_type", ["And", "Or"])
@pytest.mark.parametrize("opset", [9, 18])
def test_two_comparisons(op_type: str, opset: int) -> None:
    nodes = [
        node("Greater", ["x", "low"], "a"),
        node("Less", ["x", "high"], "b"),
        node(op_type, ["a", "b"], "chosen"),
        node("Neg", ["x"], "n"),
        node("Where", ["chosen", "n", "x"], "y"),
    ]
    constants = {"low": np.float32(-0.5), "high": np.float32(0.7)}
    net = model(nodes, {"x": ["N", 3, 4]}, constants=constants, opset=opset)
    check_model(onnxplain.load(net, threads=1), {"x": numbers(2, 3, 4)})


@pytest.mark.parametrize("opset", [18, 26])
def test_numbers_made_from_shapes(opset: int) -> None:
    """ConstantOfShape, Range and Size of a batch of any length, added to the data."""
    nodes = [
        node("Shape", ["x"], "shape"),
        node("ConstantOfShape", ["shape"], "zeros"),
        node("Size", ["x"], "size"),
        node("Range", ["zero", "size", "one"], "count"),
        node("Cast", ["count"], "places", to=1),
        node("Reshape", ["places", "shape"], "grid"),
        node("Add", ["zeros", "grid"], "shift"),
        node("Mul", ["x", "shift"], "y"),
    ]
    constants = {"zero": np.array(0), "one": np.array(1)}
    data = model(nodes, {"x": ["N", 3]}, constants=constants, opset=opset)
    net = onnxplain.load(data, threads=1)
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    slope = gradient(net, {"x": numbers(2, 3)}, net.graph.tensors["y"], np.ones((2, 3)), "host")["x"]
    np.testing.assert_array_equal(slope, expected)
    [y] = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": numbers(2, 3)})
    np.testing.assert_allclose(own_forward(net, {"x": numbers(2, 3)}, net.graph.tensors["y"]), y, rtol=1e-6)
