"""Checks of one op or net: the float64 forward, central differences, host against compiled engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import nets
import numpy as np
import onnx
from hypothesis import HealthCheck, currently_in_test_context, reject, settings
from hypothesis import strategies as st

import onnxplain
from onnxplain.engine.host import Host
from onnxplain.engine.hosted import Trace, forward_float64
from onnxplain.graph.layers import Tensor
from onnxplain.graph.reader import OPSETS
from onnxplain.model import Model

Feed = Mapping[str, np.ndarray]

STEP = 1e-7
"""Of the central differences, in inputs of magnitude one."""
EPSILON = float(np.finfo(np.float64).eps)


def own_forward(model: Model, feed: Feed, out: Tensor) -> np.ndarray:
    """``out`` by the ops' own forward, in float64 where the input is floating."""
    if out.value is not None:
        return out.value
    recorded = {tensor.name: feed[tensor.name].astype(tensor.dtype) for tensor in model.inputs}
    recording = model.recording(recorded, out)
    layers = model.graph.path(out, model.graph.inputs)
    return forward_float64(layers, Trace(Host(np.float64), recording, {}, set()), feed, {out})[out.name]


def gradient(
    model: Model, feed: Feed, out: Tensor, weights: np.ndarray, engine: str, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """The gradient of the weighted sum of ``out`` in every floating input; zero where nothing reaches one."""
    target = weights if weights.ndim else lambda y: weights
    zeros = {name: np.zeros(value.shape) for name, value in feed.items() if value.dtype.kind == "f"}
    try:
        e = onnxplain.explain(
            model, feed, "gradient", target=target, output=out.name, engine=engine, dtype=dtype, keep_softmax=True
        )
    except onnxplain.UsageError as error:
        if "nothing reaches" not in str(error) and "does not depend" not in str(error):
            raise
        return zeros
    return zeros | {name: value for name, value in e.relevance.items() if name in zeros}


def random_weights(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weights of magnitude one half to one and a half, of both signs."""
    return np.asarray(rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1.0, 1.0], y.shape))


def check_central_differences(
    model: Model, feed: Feed, out: Tensor, rng: np.random.Generator, directions: int = 2
) -> None:
    """The float64 gradient on the host equals central differences of the float64 forward along random directions."""
    point = {name: value.astype(np.float64) if value.dtype.kind == "f" else value for name, value in feed.items()}
    y = own_forward(model, point, out)
    weights = random_weights(y, rng)
    grads = gradient(model, feed, out, weights, "host", "float64")
    for name, grad in grads.items():
        assert grad.shape == point[name].shape
        for _ in range(directions):
            direction = rng.standard_normal(grad.shape)
            above, below = (
                own_forward(model, point | {name: point[name] + sign * STEP * direction}, out) for sign in (1, -1)
            )
            change = float(((above - below) * weights).sum()) / (2 * STEP)
            rounding = EPSILON / STEP * (np.abs(y).sum() + np.abs(grad).sum() * np.abs(point[name]).max(initial=0.0))
            tolerance = 1e-6 * np.abs(grad * direction).sum() + 4 * rounding + 1e-9
            assert abs(change - float((grad * direction).sum())) <= tolerance, name


def check_engines(model: Model, feed: Feed, out: Tensor, rng: np.random.Generator, tolerance: float = 1e-5) -> None:
    """Host and compiled engine give the same float32 gradient, to ``tolerance`` of its largest element."""
    shape = model.recording(feed, out).shape(out)
    weights = random_weights(np.empty(shape), rng).astype(np.float32)
    host, compiled = (gradient(model, feed, out, weights, engine) for engine in ("host", "compiled"))
    assert host.keys() == compiled.keys()
    for name, expected in host.items():
        assert compiled[name].shape == expected.shape == feed[name].shape
        scale = np.abs(expected).max(initial=0.0)
        np.testing.assert_allclose(compiled[name], expected, rtol=1e-4, atol=tolerance * scale + 1e-7, err_msg=name)


def check_op(
    node: onnx.NodeProto, data: Feed, constants: Feed | None = None, opset: int = 18, symbolic: bool = True
) -> None:
    """One node: its forward against onnxruntime, its gradient against central differences, host against compiled.

    Axis 0 of the data is a symbol where ``symbolic``.
    """
    shapes = {name: ("N", *value.shape[1:]) if symbolic else value.shape for name, value in data.items()}
    names = [name for name in node.output if name]
    model = onnxplain.load(nets.model([node], shapes, names, constants, opset))
    check_model(model, {name: value.astype(np.float32) for name, value in data.items()})


def check_model(model: Model, feed: Feed) -> None:
    """Every floating output of a model, as :func:`check_op` does."""
    expected = model.run(feed)
    rng = np.random.default_rng(0)
    for out in model.outputs:
        if out.dtype is None or out.dtype.kind != "f":
            continue
        if not _as_inferred(out, expected[out.name]):
            assert currently_in_test_context(), "onnxruntime makes another shape than ONNX infers"
            reject()
        found = own_forward(model, feed, out)
        scale = np.abs(expected[out.name]).max(initial=0.0)
        np.testing.assert_allclose(found, expected[out.name], rtol=1e-4, atol=1e-5 * scale + 1e-7, err_msg=out.name)
        check_central_differences(model, feed, out, rng)
        check_engines(model, feed, out, rng)


def _as_inferred(out: Tensor, value: np.ndarray) -> bool:
    """Whether onnxruntime's kernel makes the shape that ONNX infers, save of pools, which are written otherwise then.

    Nothing can be built on other outputs that differ.
    """
    if out.producer is not None and out.producer.op_type in ("AveragePool", "MaxPool"):
        return True
    declared = out.shape or value.shape
    if len(declared) != value.ndim:
        return False
    return all(not isinstance(dim, int) or dim == size for dim, size in zip(declared, value.shape, strict=True))


def opsets(op_type: str, first: int = OPSETS[0], last: int = OPSETS[-1]) -> st.SearchStrategy[int]:
    """One opset for each version of an op, the newest that still has it."""
    by_version = {
        onnx.defs.get_schema(op_type, opset, "").since_version: opset
        for opset in range(first, last + 1)
        if onnx.defs.has(op_type, opset, "") and not onnx.defs.get_schema(op_type, opset, "").deprecated
    }
    return st.sampled_from(sorted(by_version.values(), reverse=True))


def bounded(test: Callable[..., None]) -> Callable[..., None]:
    """As many drawn examples as the environment asks for, the same ones in every run."""
    examples = int(os.environ.get("ONNXPLAIN_EXAMPLES", "12"))
    return settings(deadline=None, derandomize=True, max_examples=examples, suppress_health_check=list(HealthCheck))(
        test
    )


def numbers(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Random numbers, none of them alike and none near zero."""
    count = int(np.prod(shape))
    grid = np.linspace(low, high, count + 1)[:-1] + (high - low) / (3 * count + 1)
    return np.random.default_rng(seed).permutation(grid).reshape(shape).astype(np.float32)
