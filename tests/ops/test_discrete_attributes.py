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
from onnx import TensorProto, helper

import onnxplain

RANGES = {
    **{"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)},
    **{"uint4": (0, 15), "int4": (-8, 7)},
}
TYPES = {kind: getattr(TensorProto, kind.upper()) for kind in RANGES}


@bounded
@given(st.data())
def test_quantizers(data: st.DataObject) -> None:
    """Rounded and saturated as onnxruntime does; the gradient is 1 wherever nothing saturates."""
    opset = data.draw(opsets("QuantizeLinear", first=10))
    kind = data.draw(st.sampled_from(["uint8", "int8", *(["uint16", "int16", "uint4", "int4"] if opset >= 21 else [])]))
    low, high = RANGES[kind]
    per_axis = opset >= 13 and data.draw(st.booleans())
    axis = data.draw(st.sampled_from([1, -1])) if per_axis else 1
    x = numbers(2, 3, 4) * np.float32(2)
    size = x.shape[axis]
    scale = np.linspace(1.5, 2.5, size) / (high - low) if per_axis else np.array(2.0 / (high - low))
    point = np.full(scale.shape, data.draw(st.integers(low, high)), helper.tensor_dtype_to_np_dtype(TYPES[kind]))
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
    inside = (level > low - 0.5) & (level < high + 0.5)
    for engine, dtype in (("host", "float32"), ("host", "float64"), ("compiled", "float32")):
        slope = gradient(net, {"x": x}, out, np.ones_like(x), engine, dtype)["x"]
        np.testing.assert_allclose(slope[away], inside[away], rtol=1e-5)


LEVELS = np.array([[-130, -128.4, -128, -127.8, -3, 0, 0.4, 126.8, 127.2, 127.4, 127.6, 200]], np.float32)
"""Of int8 the first and the last three saturate, save those that round to the first and the last step."""
WITHIN = np.array([[0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]])


@pytest.mark.parametrize(("engine", "dtype"), [("host", "float32"), ("host", "float64"), ("compiled", "float32")])
def test_a_value_that_rounds_to_the_last_step_does_not_saturate(engine: str, dtype: str) -> None:
    constants = {"s": np.float32(1), "z": np.int8(0), "two": np.float32(2)}
    nodes = [
        node("Mul", ["x", "two"], "doubled"),
        node("QuantizeLinear", ["doubled", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "y"),
    ]
    net = onnxplain.load(model(nodes, {"x": ["N", 12]}, constants=constants), threads=1)
    slope = gradient(net, {"x": LEVELS / 2}, net.graph.tensors["y"], np.ones_like(LEVELS), engine, dtype)["x"]
    np.testing.assert_array_equal(slope, 2 * WITHIN)


@pytest.mark.parametrize(("engine", "dtype"), [("host", "float32"), ("host", "float64"), ("compiled", "float32")])
@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_eight_bits_behind_another_quantizer_are_cut_at_both_end_steps(kind: str, engine: str, dtype: str) -> None:
    """The runtime computes them on integers alone; no kernel of it does so with sixteen."""
    low, high = RANGES[kind]
    x = np.array([[low - 2, low, low + 1, 0, high - 1, high, high + 2]], np.float32)
    constants = {"wide": np.float32(1), "zero": np.int16(0), "s": np.float32(1), "z": np.array(0, kind)}
    nodes = [
        node("QuantizeLinear", ["x", "wide", "zero"], "p"),
        node("DequantizeLinear", ["p", "wide", "zero"], "d"),
        node("Neg", ["d"], "n"),
        node("QuantizeLinear", ["n", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "y"),
    ]
    net = onnxplain.load(model(nodes, {"x": ["N", 7]}, constants=constants, opset=21), threads=1)
    slope = gradient(net, {"x": x}, net.graph.tensors["y"], np.ones_like(x), engine, dtype)["x"]
    expected = [[0, 0, 0, -1, -1, -1, 0]] if kind == "int8" else [[0, 0, -1, -1, -1, -1, 0]]
    np.testing.assert_array_equal(slope, expected)


@pytest.mark.parametrize("kind", ["int4", "uint4"])
@pytest.mark.parametrize("method", ["gradient", "lrp"])
def test_four_bits(kind: str, method: str) -> None:
    point = np.array(3, helper.tensor_dtype_to_np_dtype(TYPES[kind]))
    constants = {"s": np.float32(0.3), "z": point, "w": numbers(8, 6, seed=1)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "d"),
        node("MatMul", ["d", "w"], "y"),
    ]
    net = onnxplain.load(model(nodes, {"x": ["N", 8]}, constants=constants, opset=21), threads=1)
    found = [
        onnxplain.explain(net, numbers(3, 8), method, 1, engine=engine, dtype=dtype).relevance["x"]
        for engine, dtype in (("host", "float32"), ("host", "float64"), ("compiled", "float32"))
    ]
    assert np.abs(found[0]).max() > 0
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-5)


def test_scales_of_one_sample_leave_the_batch_no_room() -> None:
    """Blocks of a symbolic batch whose scales have one row: the compiled engine says so, auto takes the host."""
    settings: dict[str, Any] = {"axis": 1, "block_size": 4}
    nodes = [
        node("QuantizeLinear", ["x", "s"], "q", output_dtype=3, **settings),
        node("DequantizeLinear", ["q", "s"], "d", **settings),
        node("MatMul", ["d", "w"], "y"),
    ]
    constants = {"s": np.float32([[0.1, 0.2]]), "w": numbers(8, 6, seed=1)}
    net = onnxplain.load(model(nodes, {"x": ["N", 8]}, constants=constants, opset=21), threads=1)
    x = numbers(32, 8)
    with pytest.raises(onnxplain.UnsupportedError, match=r"does not run on two samples at once.*engine='host'"):
        onnxplain.explain(net, x[:1], "gradient", 1, engine="compiled")
    e = onnxplain.explain(net, x, "gradient", 1, batch_size=1)
    assert e.engine == "host"
    assert any("does not run on two samples at once" in note for note in e.notes)
    one = onnxplain.explain(net, x[:1], "gradient", 1, engine="host")
    np.testing.assert_array_equal(e.relevance["x"][:1], one.relevance["x"])


def test_a_quantizer_to_float8_is_refused_by_name() -> None:
    nodes = [node("QuantizeLinear", ["x", "s"], "q", output_dtype=17), node("DequantizeLinear", ["q", "s"], "y")]
    net = onnxplain.load(model(nodes, {"x": ["N", 3]}, constants={"s": np.float32(0.1)}, opset=21), threads=1)
    with pytest.raises(onnxplain.UnsupportedError, match=r"QuantizeLinear 'q' .*it quantizes to float8"):
        onnxplain.explain(net, numbers(2, 3), target=0)
    with pytest.raises(onnxplain.UnsupportedError, match=r"QuantizeLinear 'q' .*it quantizes to float8"):
        onnxplain.plan(net)
    status = {op["op_type"]: op["status"] for op in onnxplain.inspect(net)["ops"]}
    assert status == {"QuantizeLinear": "unsupported", "DequantizeLinear": "approximate"}
    q, y = (net.graph.tensors[name] for name in "qy")  # what stands behind it can be explained
    assert net.recording({"x": numbers(2, 3)}, y).shape(q) == (2, 3)


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
