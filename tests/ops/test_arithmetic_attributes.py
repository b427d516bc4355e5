"""Ops that compute, with drawn attributes and broadcasts, in every version of each op."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradient_checks import bounded, check_op, numbers, opsets
from hypothesis import given
from hypothesis import strategies as st
from nets import node

SHAPES = [(2, 3, 4), (1, 3, 4), (2, 1, 4), (2, 3, 1), (3, 4), (3, 1), (4,), (1,), (), (1, 1, 1, 4), (2, 2, 3, 4)]


def broadcasting(draw: st.DrawFn, count: int) -> list[tuple[int, ...]]:
    """Shapes that broadcast with each other in any direction."""
    return [draw(st.sampled_from(SHAPES)) for _ in range(count)]


def check_operands(
    op_type: str, arrays: list[np.ndarray], data: st.DataObject, opset: int, fixed: tuple[int, ...] = ()
) -> None:
    """The op with each operand as data or as a constant, at least one of them data."""
    names = [f"x{i}" for i in range(len(arrays))]
    free = [name for i, name in enumerate(names) if i not in fixed]
    chosen = data.draw(st.lists(st.sampled_from(free), min_size=1, unique=True))
    operands = dict(zip(names, arrays, strict=True))
    inputs = {name: operands.pop(name) for name in names if name in chosen}
    check_op(node(op_type, names, "y"), inputs, operands, opset, symbolic=False)


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
@bounded
@given(st.data())
def test_two_operands(op_type: str, data: st.DataObject) -> None:
    arrays = [numbers(*shape, seed=i) for i, shape in enumerate(broadcasting(data.draw, 2))]
    arrays[1] = np.where(np.abs(arrays[1]) < 0.3, 0.7, arrays[1]).astype(np.float32)
    check_operands(op_type, arrays, data, data.draw(opsets(op_type)))


@pytest.mark.parametrize("op_type", ["Max", "Min", "Sum"])
@bounded
@given(st.data())
def test_several_operands(op_type: str, data: st.DataObject) -> None:
    opset = data.draw(opsets(op_type))
    shapes = broadcasting(data.draw, data.draw(st.integers(1, 3)))
    shapes = shapes if opset >= 8 else [(2, 3, 4)] * len(shapes)
    arrays = [numbers(*shape, seed=i) + np.float32(0.01 * i) for i, shape in enumerate(shapes)]
    check_operands(op_type, arrays, data, opset)


@bounded
@given(st.data())
def test_pow(data: st.DataObject) -> None:
    opset = data.draw(opsets("Pow"))
    base, exponent = broadcasting(data.draw, 2)
    arrays = [numbers(*base, low=0.3, high=2.0), numbers(*exponent, seed=1)]
    check_operands("Pow", arrays, data, opset)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 1.0, 0.0])
@pytest.mark.parametrize("opset", [7, 12, 13, 15])
def test_pow_of_negative_numbers(exponent: float, opset: int) -> None:
    x = np.concatenate([numbers(1, 6), np.zeros((1, 6))], axis=1) if exponent >= 2 else numbers(2, 6)
    check_op(node("Pow", ["x", "e"], "y"), {"x": x}, {"e": np.array(exponent, np.float32)}, opset)
    if opset >= 12:
        check_op(node("Pow", ["x", "e"], "y"), {"x": x}, {"e": np.array(exponent, np.int64)}, opset)


@bounded
@given(st.data())
def test_prelu(data: st.DataObject) -> None:
    slope = data.draw(st.sampled_from([(3, 4), (3, 1), (4,), (1,), (1, 3, 4), (2, 3, 4)]))
    check_operands("PRelu", [numbers(2, 3, 4), numbers(*slope, seed=1)], data, data.draw(opsets("PRelu")))


@bounded
@given(st.data())
def test_gemm(data: st.DataObject) -> None:
    opset = data.draw(opsets("Gemm"))
    rows, inner, columns = 2, data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    attributes = {name: data.draw(st.integers(0, 1)) for name in ("transA", "transB")}
    attributes |= {name: data.draw(st.sampled_from([1.0, 0.5, -2.0])) for name in ("alpha", "beta")}
    a, b = numbers(rows, inner), numbers(inner, columns, seed=1)
    arrays = {"a": a.T if attributes["transA"] else a, "b": b.T if attributes["transB"] else b}
    shapes = [(rows, columns), (1, columns), (rows, 1), (columns,), (1,), ()]
    if opset < 11 or data.draw(st.booleans()):
        arrays["c"] = numbers(*data.draw(st.sampled_from(shapes)), seed=2)
    inputs = data.draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, unique=True))
    order = list(arrays)
    feed = {name: arrays.pop(name) for name in inputs}
    symbolic = inputs == ["a"] and not attributes["transA"] and arrays.get("c", np.zeros(())).shape[:-1] in ((), (1,))
    check_op(node("Gemm", order, "y", **attributes), feed, arrays, opset, symbolic)


@bounded
@given(st.data())
def test_matmul(data: st.DataObject) -> None:
    opset = data.draw(opsets("MatMul"))
    left = data.draw(st.sampled_from([(4,), (3, 4), (2, 3, 4), (1, 3, 4), (5, 1, 3, 4), (2, 1, 1, 4)]))
    right = data.draw(st.sampled_from([(4,), (4, 2), (2, 4, 2), (1, 4, 2), (5, 2, 4, 2), (2, 1, 4, 1)]))
    if {left[0], right[0]} == {5, 2} and len(left) == len(right) == 4:
        left = (1, *left[1:])
    check_operands("MatMul", [numbers(*left), numbers(*right, seed=1)], data, opset)


@pytest.mark.parametrize("weight", [(4, 3), (1, 4, 3), (4,)])
def test_matmul_of_a_batch(weight: tuple[int, ...]) -> None:
    check_op(node("MatMul", ["x", "w"], "y"), {"x": numbers(2, 5, 4)}, {"w": numbers(*weight, seed=1)})


@pytest.mark.parametrize("weight", [(3, 5), (1, 3, 5), (5,)])
def test_matmul_by_a_batch(weight: tuple[int, ...]) -> None:
    check_op(node("MatMul", ["w", "x"], "y"), {"x": numbers(2, 5, 4)}, {"w": numbers(*weight, seed=1)})


def test_matmul_of_two_batches() -> None:
    check_op(node("MatMul", ["x", "z"], "y"), {"x": numbers(2, 5, 4), "z": numbers(2, 4, 3, seed=1)})


@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceSum", "ReduceMax"])
@bounded
@given(st.data())
def test_reductions(op_type: str, data: st.DataObject) -> None:
    opset = data.draw(opsets(op_type))
    negative = [[-1], [1, -1], [-2]] if opset >= 11 else []
    axes = data.draw(st.sampled_from([None, [1], [2], [1, 2], [3, 1], [0], [0, 2], *negative]))
    attributes: dict[str, Any] = {"keepdims": data.draw(st.integers(0, 1))}
    x, constants = numbers(2, 3, 2, 3), {}
    if axes is not None and opset >= (13 if op_type == "ReduceSum" else 18):
        constants["axes"] = np.array(axes, np.int64)
    elif axes is not None:
        attributes["axes"] = axes
    symbolic = axes is not None and 0 not in axes
    check_op(node(op_type, ["x", *constants], "y", **attributes), {"x": x}, constants, opset, symbolic)


@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceSum", "ReduceMax"])
def test_reductions_over_no_axis(op_type: str, noop: int) -> None:
    reduction = node(op_type, ["x", "axes"], "y", noop_with_empty_axes=noop)
    check_op(reduction, {"x": numbers(2, 3)}, {"axes": np.zeros(0, np.int64)}, 18, symbolic=False)
    check_op(node(op_type, ["x"], "y", noop_with_empty_axes=noop), {"x": numbers(2, 3)}, opset=18, symbolic=False)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@bounded
@given(st.data())
def test_softmax(op_type: str, data: st.DataObject) -> None:
    opset = data.draw(opsets(op_type))
    axis = data.draw(st.sampled_from([None, 0, 1, 2, *([-1, -2] if opset >= 11 else [])]))
    attributes = {} if axis is None else {"axis": axis}
    check_op(node(op_type, ["x"], "y", **attributes), {"x": numbers(2, 3, 4)}, opset=opset, symbolic=axis != 0)


@bounded
@given(st.data())
def test_batch_normalization(data: st.DataObject) -> None:
    opset = data.draw(opsets("BatchNormalization"))
    shape = data.draw(st.sampled_from([(2, 3), (2, 3, 4), (2, 3, 4, 2), (2, 3, 2, 2, 2)]))
    attributes: dict[str, Any] = {"epsilon": data.draw(st.sampled_from([1e-5, 0.1]))}
    of_position = opset < 9 and data.draw(st.booleans())
    if of_position:
        attributes["spatial"] = 0
    size = shape[1:] if of_position else (3,)
    constants = {name: numbers(*size, seed=i) for i, name in enumerate(("scale", "bias", "mean"))}
    constants["var"] = numbers(*size, seed=4, low=0.5)
    check_op(node("BatchNormalization", ["x", *constants], "y", **attributes), {"x": numbers(*shape)}, constants, opset)


@bounded
@given(st.data())
def test_layer_normalization(data: st.DataObject) -> None:
    axis = data.draw(st.sampled_from([1, 2, 3, -1, -2, -3]))
    outputs = data.draw(st.sampled_from([["y"], ["y", "mean"], ["y", "mean", "inverse"], ["y", "", "inverse"]]))
    x = numbers(2, 3, 2, 4)
    arrays = {"x": x, "scale": numbers(*x.shape[axis:], seed=1)}
    if data.draw(st.booleans()):
        arrays["bias"] = numbers(*x.shape[axis:], seed=2)
    inputs = data.draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, unique=True))
    order = list(arrays)
    feed = {name: arrays.pop(name) for name in inputs}
    layer = node("LayerNormalization", order, outputs, axis=axis, epsilon=data.draw(st.sampled_from([1e-5, 0.1])))
    check_op(layer, feed, arrays, data.draw(opsets("LayerNormalization")), symbolic=inputs == ["x"])


ACTIVATIONS = {
    "Relu": [{}],
    "LeakyRelu": [{}, {"alpha": 0.3}],
    "Elu": [{}, {"alpha": 0.3}],
    "Sigmoid": [{}],
    "Tanh": [{}],
    "HardSigmoid": [{}, {"alpha": 0.5, "beta": 0.3}],
    "HardSwish": [{}],
    "Gelu": [{}, {"approximate": "tanh"}],
    "Erf": [{}],
    "Exp": [{}],
    "Log": [{}],
    "Sqrt": [{}],
    "Reciprocal": [{}],
    "Abs": [{}],
    "Neg": [{}],
}


@pytest.mark.parametrize(
    ("op_type", "attributes"), [(op_type, attributes) for op_type, drawn in ACTIVATIONS.items() for attributes in drawn]
)
@bounded
@given(st.data())
def test_activations(op_type: str, attributes: dict[str, Any], data: st.DataObject) -> None:
    positive = op_type in ("Log", "Sqrt", "Reciprocal")
    wide = {"low": 0.3, "high": 4.0} if positive else {"low": -5.0, "high": 5.0}
    shape = data.draw(st.sampled_from([(2, 5), (2, 3, 2, 2)]))
    x = numbers(*shape, **wide)
    check_op(node(op_type, ["x"], "y", **attributes), {"x": x}, opset=data.draw(opsets(op_type)))


@bounded
@given(st.data())
def test_clip(data: st.DataObject) -> None:
    opset = data.draw(opsets("Clip"))
    low = data.draw(st.sampled_from([None, -0.7, 0.0, -1000.0, -1e30]))
    high = data.draw(st.sampled_from([None, 0.9, 0.0, 6.0, 1000.0, 1e30]))
    scale = data.draw(st.sampled_from([1.0, 1000.0]))
    x = numbers(*data.draw(st.sampled_from([(2, 6), (2, 3, 2, 2)]))) * np.float32(scale)
    bounds = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
    if opset < 11:
        check_op(node("Clip", ["x"], "y", **bounds), {"x": x}, opset=opset)
    else:
        constants = {name: np.array(bound, np.float32) for name, bound in bounds.items()}
        inputs = ["x", "min" if "min" in bounds else "", *(["max"] if "max" in bounds else [])]
        check_op(node("Clip", inputs, "y"), {"x": x}, constants, opset)
