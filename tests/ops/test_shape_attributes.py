"""Ops that move elements with drawn attributes, in every version of each op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gradient_checks import bounded, check_op, numbers, opsets
from hypothesis import given
from hypothesis import strategies as st
from nets import node


def integers(values: Sequence[int]) -> np.ndarray:
    return np.array(values, np.int64)


def drawn_shape(draw: st.DrawFn, low: int = 2, high: int = 4) -> tuple[int, ...]:
    """A shape of two samples and one to three more axes."""
    return (2, *draw(st.lists(st.integers(1, 4), min_size=low - 1, max_size=high - 1)))


def drawn_axis(draw: st.DrawFn, rank: int, opset: int, first: int = 1, negative_from: int = 11) -> int:
    """An axis, counted from the end too where the version allows it."""
    axis = draw(st.integers(first, rank - 1))
    return axis - rank if opset >= negative_from and draw(st.booleans()) else axis


@bounded
@given(st.data())
def test_reshape(data: st.DataObject) -> None:
    opset = data.draw(opsets("Reshape"))
    target, attributes = data.draw(
        st.sampled_from(
            [([0, -1], {}), ([-1, 12], {}), ([0, 0, 4], {}), ([0, 2, 2, 3], {}), ([-1, 3, 4], {"allowzero": 1})]
        )
    )
    reshape = node("Reshape", ["x", "shape"], "y", **(attributes if opset >= 14 else {}))
    check_op(reshape, {"x": numbers(2, 3, 4)}, {"shape": integers(target)}, opset)


@bounded
@given(st.data())
def test_flatten(data: st.DataObject) -> None:
    opset = data.draw(opsets("Flatten"))
    x = numbers(*drawn_shape(data.draw))
    axis = drawn_axis(data.draw, x.ndim, opset)
    check_op(node("Flatten", ["x"], "y", axis=axis), {"x": x}, opset=opset, symbolic=axis % x.ndim == 1)


def test_flatten_of_the_whole() -> None:
    check_op(node("Flatten", ["x"], "y", axis=0), {"x": numbers(2, 3)}, opset=9, symbolic=False)
    check_op(node("Flatten", ["x"], "y", axis=2), {"x": numbers(2, 3)}, opset=9, symbolic=False)


@pytest.mark.parametrize("given_axes", [True, False])
@bounded
@given(st.data())
def test_squeeze(given_axes: bool, data: st.DataObject) -> None:
    opset = data.draw(opsets("Squeeze"))
    axes = data.draw(st.sampled_from([[1], [3], [1, 3], [3, 1]] + ([[-1], [1, -1]] if opset >= 11 else [])))
    check_axes("Squeeze", numbers(2, 1, 3, 1), axes if given_axes else None, opset)


@bounded
@given(st.data())
def test_unsqueeze(data: st.DataObject) -> None:
    opset = data.draw(opsets("Unsqueeze"))
    axes = data.draw(st.sampled_from([[1], [2], [1, 3], [4, 1]] + ([[-1], [1, -1]] if opset >= 11 else [])))
    check_axes("Unsqueeze", numbers(2, 3, 2), axes, opset)


def check_axes(op_type: str, x: np.ndarray, axes: list[int] | None, opset: int) -> None:
    """Axes as an attribute before opset 13, as an input from then on."""
    if axes is None:
        check_op(node(op_type, ["x"], "y"), {"x": x}, opset=opset, symbolic=False)
    elif opset < 13:
        check_op(node(op_type, ["x"], "y", axes=axes), {"x": x}, opset=opset)
    else:
        check_op(node(op_type, ["x", "axes"], "y"), {"x": x}, {"axes": integers(axes)}, opset)


@bounded
@given(st.data())
def test_transpose(data: st.DataObject) -> None:
    opset = data.draw(opsets("Transpose"))
    x = numbers(2, 3, 1, 4)
    perm = data.draw(st.permutations(range(4)))
    check_op(node("Transpose", ["x"], "y", perm=perm), {"x": x}, opset=opset, symbolic=perm[0] == 0)
    check_op(node("Transpose", ["x"], "y"), {"x": x[:, :, 0]}, opset=opset, symbolic=False)


@bounded
@given(st.data())
def test_concat(data: st.DataObject) -> None:
    opset = data.draw(opsets("Concat"))
    shape = drawn_shape(data.draw, 3)
    axis = drawn_axis(data.draw, len(shape), opset)
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    parts = {
        f"x{i}": numbers(*shape[: axis % len(shape)], length, *shape[axis % len(shape) + 1 :], seed=i)
        for i, length in enumerate(lengths)
    }
    constants: dict[str, np.ndarray] = {}
    if len(parts) > 1 and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(parts)))
        constants[name] = parts.pop(name)
    order = [f"x{i}" for i in range(len(lengths))]
    check_op(node("Concat", order, "y", axis=axis), parts, constants, opset, symbolic=not constants)


@bounded
@given(st.data())
def test_split(data: st.DataObject) -> None:
    opset = data.draw(opsets("Split"))
    way = data.draw(st.sampled_from(["equal", "given", *(["count"] if opset >= 18 else [])]))
    shape = drawn_shape(data.draw, 3)
    axis = drawn_axis(data.draw, len(shape), opset)
    count = data.draw(st.integers(1, 3))
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=count, max_size=count)) if way == "given" else [2] * count
    total = sum(lengths) - (1 if way == "count" and count > 1 else 0)
    x = numbers(*shape[: axis % len(shape)], total, *shape[axis % len(shape) + 1 :])
    attributes: dict[str, Any] = {"axis": axis}
    constants: dict[str, np.ndarray] = {}
    if way == "given" and opset < 13:
        attributes["split"] = lengths
    elif way == "given":
        constants["split"] = integers(lengths)
    elif opset >= 18:
        attributes["num_outputs"] = count
    check_op(
        node("Split", ["x", *constants], [f"y{i}" for i in range(count)], **attributes), {"x": x}, constants, opset
    )


@bounded
@given(st.data())
def test_slice(data: st.DataObject) -> None:
    opset = data.draw(opsets("Slice"))
    x = numbers(2, 5, 4)
    axes = data.draw(st.sampled_from([[1], [2], [1, 2]] + ([[2, 1], [-1], [-2, -1]] if opset >= 10 else [])))
    bound = st.sampled_from([0, 1, 3, 100, -1, -3, -100, 2**31 - 1, -(2**31)])
    steps = [data.draw(st.sampled_from([1, 2, -1, -2])) if opset >= 10 else 1 for _ in axes]
    starts, ends = ([data.draw(bound) for _ in axes] for _ in range(2))
    for i, axis in enumerate(axes):
        if not len(range(x.shape[axis])[slice(starts[i], ends[i], steps[i])]):
            starts[i], ends[i] = (0, 2**31 - 1) if steps[i] > 0 else (-1, -(2**31))
    settings: dict[str, Any] = {"starts": starts, "ends": ends, "axes": axes}
    if opset < 10:
        check_op(node("Slice", ["x"], "y", **settings), {"x": x}, opset=opset)
    else:
        settings["steps"] = steps
        constants = {name: integers(value) for name, value in settings.items()}
        check_op(node("Slice", ["x", *constants], "y"), {"x": x}, constants, opset)


@bounded
@given(st.data())
def test_gather(data: st.DataObject) -> None:
    opset = data.draw(opsets("Gather"))
    axis = drawn_axis(data.draw, 3, opset)
    index = st.integers(-3 if opset >= 11 else 0, 2)
    rows = st.lists(index, min_size=2, max_size=2)
    indices = data.draw(st.one_of(index, st.lists(index, min_size=1, max_size=4), st.tuples(rows, rows)))
    gather = node("Gather", ["x", "i"], "y", axis=axis)
    check_op(gather, {"x": numbers(2, 3, 3)}, {"i": np.array(indices, np.int64)}, opset)


@bounded
@given(st.data())
def test_expand(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(1, 3, 4), (4,), (3, 3, 1), (1, 1), (5, 1, 3, 4), (1, 1, 1, 1)]))
    x = numbers(*data.draw(st.sampled_from([(1, 3, 1), (3, 1), (1, 1, 4)])))
    check_op(
        node("Expand", ["x", "s"], "y"), {"x": x}, {"s": integers(shape)}, data.draw(opsets("Expand")), symbolic=False
    )


@bounded
@given(st.data())
def test_tile(data: st.DataObject) -> None:
    repeats = [data.draw(st.integers(1, 3)) for _ in range(3)]
    symbolic = repeats[0] == 1
    tile = node("Tile", ["x", "r"], "y")
    check_op(tile, {"x": numbers(2, 3, 2)}, {"r": integers(repeats)}, data.draw(opsets("Tile")), symbolic)


@bounded
@given(st.data())
def test_pad(data: st.DataObject) -> None:
    opset = data.draw(opsets("Pad"))
    mode = data.draw(st.sampled_from(["constant", "reflect", "edge", *(["wrap"] if opset >= 19 else [])]))
    amount = st.integers(-1, 3) if mode == "constant" else st.integers(0, 2)
    pads = np.array([[data.draw(amount) for _ in range(2)] for _ in range(2)])
    x = numbers(2, 4, 3)
    if opset < 11:
        attributes = {"pads": [0, *pads[0].tolist(), 0, *pads[1].tolist()], "value": 1.5}
        check_op(node("Pad", ["x"], "y", mode=mode, **attributes), {"x": x}, opset=opset)
        return
    some_axes = opset >= 18 and data.draw(st.booleans())
    whole = pads if some_axes else np.pad(pads, [(0, 0), (1, 0)])
    constants = {"pads": integers(whole.reshape(-1).tolist())}
    inputs = ["x", "pads"]
    if some_axes:
        inputs += ["", "axes"]
        constants["axes"] = integers(data.draw(st.sampled_from([[1, 2], [-1, 1], [2, -2]])))
    if mode == "constant" and data.draw(st.booleans()):
        inputs[2:3] = ["value"]
        constants["value"] = np.array(1.5, np.float32)
    check_op(node("Pad", inputs, "y", mode=mode), {"x": x}, constants, opset)


@bounded
@given(st.data())
def test_where(data: st.DataObject) -> None:
    condition = np.random.default_rng(0).random((2, 3, 1)) > 0.5
    which = data.draw(st.sampled_from([("x", "z"), ("x",), ("z",)]))
    arrays = {"x": numbers(2, 3, 4), "z": numbers(2, *data.draw(st.sampled_from([(1, 4), (3, 1), (1, 1)])), seed=1)}
    constants = {"c": condition} | {name: array for name, array in arrays.items() if name not in which}
    where = node("Where", ["c", "x", "z"], "y")
    check_op(where, {name: arrays[name] for name in which}, constants, data.draw(opsets("Where")), symbolic=False)


@pytest.mark.parametrize("op_type", ["Identity", "Dropout", "Cast"])
@bounded
@given(st.data())
def test_copies(op_type: str, data: st.DataObject) -> None:
    attributes = {"to": 1} if op_type == "Cast" else {}
    check_op(node(op_type, ["x"], "y", **attributes), {"x": numbers(2, 3)}, opset=data.draw(opsets(op_type)))


@bounded
@given(st.data())
def test_dropout_with_its_mask(data: st.DataObject) -> None:
    opset = data.draw(opsets("Dropout", first=10))
    attributes = {"ratio": 0.3} if opset < 12 else {}
    constants = {} if opset < 12 else {"ratio": np.array(0.3, np.float32)}
    check_op(node("Dropout", ["x", *constants], ["y", "mask"], **attributes), {"x": numbers(2, 3)}, constants, opset)
