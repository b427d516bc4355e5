"""Receptive fields against brute force: which input pixels change a unit."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import onnxplain
from onnxplain.engine.fields import receptive_fields

SIZE = (11, 13)


def boxes(data: bytes, shape: tuple[int, ...], tensor: str, clipped: bool = True) -> tuple[np.ndarray, np.ndarray, Any]:
    model = onnxplain.load(data, threads=1)
    feed = {"x": np.ones((1, *shape), np.float32)}
    inner = model.tensor(tensor)
    out = model.run(feed, [tensor])[tensor].shape
    index = np.argwhere(np.ones(out))
    fields = receptive_fields(model, inner, feed, index, clipped)[model.inputs[0]]
    return fields.low, fields.high, (model, out)


def brute(model: onnxplain.Model, tensor: str, shape: tuple[int, ...]) -> np.ndarray:
    """Units x pixels: whether a unit changes with a pixel. Positive weights and inputs: nothing cancels."""
    rng = np.random.default_rng(0)
    base = (1 + rng.random((1, *shape))).astype(np.float32)
    count = int(np.prod(shape[1:]))
    changed = []
    before = model.run({"x": base}, [tensor])[tensor]
    for pixel in range(count):
        x = base.reshape(shape[0], -1).copy()
        x[:, pixel] += 100
        changed.append(np.abs(model.run({"x": x.reshape(1, *shape)}, [tensor])[tensor] - before).reshape(-1) > 1e-3)
    return np.array(changed).T


def check(data: bytes, tensor: str, shape: tuple[int, ...] = (2, *SIZE), exact: bool = True) -> None:
    low, high, (model, _) = boxes(data, shape, tensor)
    for unit, pixels in enumerate(brute(model, tensor, shape)):
        places = np.argwhere(pixels.reshape(shape[1:]))
        if not len(places):  # all in the padding
            assert not exact or (low[unit] >= high[unit]).any()
            continue
        first, last = places.min(axis=0), places.max(axis=0) + 1
        if exact:
            assert (low[unit, 2:].tolist(), high[unit, 2:].tolist()) == (first.tolist(), last.tolist())
        assert (low[unit, 2:] <= first).all()
        assert (high[unit, 2:] >= last).all()


@st.composite
def networks(draw: st.DrawFn) -> tuple[bytes, bool]:
    """Up to three spatial layers in a row, then perhaps a branch; positive weights, and every window fits."""
    nodes, constants, channels, name, exact, size = [], {}, 2, "x", True, list(SIZE)
    for depth in range(draw(st.integers(1, 3))):
        kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
        strides = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
        pads = [draw(st.integers(0, (k - 1) // 2 + k // 3)) for k in kernel] * 2
        pads = [min(p, kernel[i % 2] - 1) for i, p in enumerate(pads)]
        op = draw(st.sampled_from(["Conv", "AveragePool", "ConvTranspose"]))
        out, dilations = f"t{depth}", [1, 1]
        if op == "AveragePool":
            nodes.append(nets.node(op, [name], out, kernel_shape=kernel, strides=strides, pads=pads))
        else:
            constants[f"w{depth}"] = np.full((channels, channels, *kernel), 0.5)
            dilations = [draw(st.integers(1, 2)) for _ in kernel] if op == "Conv" else dilations
            pads = [p if op == "Conv" else 0 for p in pads]
            strides = strides if op == "Conv" else [min(s, k) for s, k in zip(strides, kernel, strict=True)]
            exact = exact and (dilations == [1, 1] or not any(pads))
            nodes.append(nets.node(op, [name, f"w{depth}"], out, strides=strides, pads=pads, dilations=dilations))
        if op == "ConvTranspose":
            size = [(n - 1) * s + k for n, s, k in zip(size, strides, kernel, strict=True)]
        else:
            room = [n + 2 * p - d * (k - 1) - 1 for n, p, d, k in zip(size, pads, dilations, kernel, strict=False)]
            assume(min(room) >= 0)
            size = [n // s + 1 for n, s in zip(room, strides, strict=True)]
        name = out
    if draw(st.booleans()):
        constants["wb"] = np.full((channels, channels, 3, 3), 0.5)
        nodes.append(nets.node("Conv", [name, "wb"], "b", pads=[1, 1, 1, 1]))
        nodes.append(nets.node("Relu", [name], "a"))
        nodes.append(nets.node("Add", ["a", "b"], "s"))
        name = "s"
    nodes.append(nets.node("Relu", [name], "y"))
    return nets.model(nodes, {"x": [1, 2, *SIZE]}, constants=constants), exact


@given(networks())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_random_networks(drawn: tuple[bytes, bool]) -> None:
    data, exact = drawn
    # A stride above the kernel leaves holes that later windows jump over: the box is then an upper bound.
    low, _, (model, out) = boxes(data, (2, *SIZE), "y")
    if np.prod(out) > 3000:
        return
    strided = any(
        s > k
        for layer in model.graph.layers
        if layer.op_type in ("Conv", "AveragePool")
        for s, k in zip(layer.attributes.get("strides") or (1, 1), _kernel(layer), strict=True)
    )
    assert len(low) == np.prod(out)
    check(data, "y", exact=exact and not strided)


def _kernel(layer: Any) -> Any:
    if "kernel_shape" in layer.attributes:
        return layer.attributes["kernel_shape"]
    return layer.inputs[1].value.shape[2:]


ROUTES = {
    "slice": ([nets.node("Slice", ["x", "starts", "ends", "axes", "steps"], "t")],
              {"starts": np.array([1, 9]), "ends": np.array([9, 1]),
               "axes": np.array([2, 3]), "steps": np.array([2, -3])}),
    "pad": ([nets.node("Pad", ["x", "pads"], "t")], {"pads": np.array([0, 0, 2, 1, 0, 0, 1, 0])}),
    "reflect": ([nets.node("Pad", ["x", "pads"], "t", mode="reflect")], {"pads": np.array([0, 0, 2, 1, 0, 0, 1, 0])}),
    "resize": ([nets.node("Resize", ["x", "", "scales"], "t", mode="linear")], {"scales": np.array([1, 1, 2.0, 0.5])}),
    "concat": ([nets.node("Concat", ["x", "x"], "t", axis=3)], {}),
    "transpose": ([nets.node("Transpose", ["x"], "u", perm=[0, 2, 3, 1]), nets.node("Relu", ["u"], "v"),
                   nets.node("Transpose", ["v"], "t", perm=[0, 3, 1, 2])], {}),
    "shuffle": ([nets.node("Reshape", ["x", "six"], "u"), nets.node("Transpose", ["u"], "v", perm=[0, 2, 1, 3, 4]),
                 nets.node("Reshape", ["v", "four"], "t")],
                {"six": np.array([1, 2, 1, *SIZE]), "four": np.array([1, 2, *SIZE])}),
    "mean": ([nets.node("ReduceMean", ["x", "axis"], "t")], {"axis": np.array([3])}),
    "space": ([nets.node("Slice", ["x", "zero", "even", "axes"], "u"),
               nets.node("SpaceToDepth", ["u"], "v", blocksize=2),
               nets.node("DepthToSpace", ["v"], "t", blocksize=2)],
              {"zero": np.array([0, 0]), "even": np.array([10, 12]), "axes": np.array([2, 3])}),
}  # fmt: skip


@pytest.mark.parametrize("name", ROUTES)
def test_what_moves_elements(name: str) -> None:
    nodes, constants = ROUTES[name]
    constants = {**constants, "w": np.full((2, 2, 3, 3), 0.5)}
    after = (
        [nets.node("Conv", ["t", "w"], "y", pads=[1, 1, 1, 1])] if name != "mean" else [nets.node("Relu", ["t"], "y")]
    )
    data = nets.model([*nodes, *after], {"x": [1, 2, *SIZE]}, constants=constants)
    check(data, "y", exact=name not in ("concat", "reflect", "slice", "space"))


def test_fields_that_go_on_into_the_padding_keep_their_middle() -> None:
    nodes = [
        nets.node("Conv", ["x", "w"], "a", strides=[2, 2], pads=[1, 1, 1, 1]),
        nets.node("MaxPool", ["a"], "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    data = nets.model(nodes, {"x": [1, 2, 16, 16]}, constants={"w": np.ones((3, 2, 3, 3))})
    low, high, (_, out) = boxes(data, (2, 16, 16), "y", clipped=False)
    place = np.argwhere(np.ones(out))[:, 2:]
    np.testing.assert_array_equal(low[:, 2:], place * 4 - 3)
    np.testing.assert_array_equal(high[:, 2:], place * 4 + 4)
    low, high, _ = boxes(data, (2, 16, 16), "y")
    np.testing.assert_array_equal(low[:, 2:], np.maximum(place * 4 - 3, 0))
    np.testing.assert_array_equal(high[:, 2:], np.minimum(place * 4 + 4, 16))


def test_flattened_pixels_depend_on_everything_and_tokens_on_their_row() -> None:
    dense = nets.model(
        [nets.node("Flatten", ["x"], "f"), nets.node("Gemm", ["f", "w"], "y")],
        {"x": [1, 2, 3, 4]},
        constants={"w": np.ones((24, 2))},
    )
    low, high, _ = boxes(dense, (2, 3, 4), "y")
    assert (low == 0).all()
    assert (high == [1, 2, 3, 4]).all()
    tokens = nets.model(
        [nets.node("MatMul", ["x", "w"], "q"), nets.node("LayerNormalization", ["q", "s"], "y")],
        {"x": [1, 5, 4]},
        constants={"w": np.ones((4, 3)), "s": np.ones(3)},
    )
    low, high, (_, out) = boxes(tokens, (5, 4), "y")
    row = np.argwhere(np.ones(out))[:, 1]
    np.testing.assert_array_equal(low, np.stack([row * 0, row, row * 0], axis=1))
    np.testing.assert_array_equal(high, np.stack([row * 0 + 1, row + 1, row * 0 + 4], axis=1))
