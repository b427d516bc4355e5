"""The compiled engine: forward pass, target and backward walk as one ONNX graph of ordinary ops.

A session on the CPU runs it laid out in blocks of channels, see :mod:`onnxplain.engine.blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxplain.engine.blocks import block_size, in_blocks
from onnxplain.engine.emitter import Emitter
from onnxplain.engine.floored import floored
from onnxplain.engine.matrices import as_inputs, copies_pay
from onnxplain.engine.namespace import Array
from onnxplain.engine.protos import initializer, read_by
from onnxplain.engine.recorder import Sym
from onnxplain.engine.recording import Recording
from onnxplain.engine.sessions import BATCH, Runtime, Session
from onnxplain.engine.upgrade import upgraded
from onnxplain.engine.walk import walk
from onnxplain.errors import UnsupportedError
from onnxplain.graph.layers import Layer, LayerGraph, Tensor
from onnxplain.ops import At, find
from onnxplain.ops.signs import nonnegative_tensors
from onnxplain.relevance.plan import Plan

MIN_OPSET = 18
TARGET = "onnxplain_target"
PREDICTED = "onnxplain_predicted"
RELEVANCE = "relevance/"
LEDGER = "ledger/"
_OWN = ("onnxplain_", RELEVANCE, LEDGER)


@dataclass(frozen=True)
class CompiledGraph:
    """One ONNX graph that predicts and explains.

    Attributes
    ----------
    model : onnx.ModelProto
        Weights declared as external.
    weights : dict of str to numpy.ndarray
        A session takes from it what it lays out for itself.
    relevance : mapping of Tensor to str
        The output that holds the relevance of each explained tensor.
    ledger : mapping of str to mapping of str to str
        Per layer, the output that holds each column.
    target_shape : tuple of int
        Of the explained tensor, -1 for the axis of the samples.
    shapes : mapping of str to tuple of int
        Of the float32 tensors of the graph as far as known, -1 as before.
    """

    model: onnx.ModelProto
    weights: dict[str, np.ndarray]
    relevance: Mapping[Tensor, str]
    ledger: Mapping[str, Mapping[str, str]]
    target_shape: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]

    def without_weights(self) -> CompiledGraph:
        """The names alone."""
        return replace(self, model=onnx.ModelProto(), weights={})

    def session(self, runtime: Runtime, label: str, batch: int | None = None) -> Session:
        """A session of the graph; a known batch size lets the runtime's optimiser keep its blocked layouts."""
        model, weights, filters = onnx.ModelProto.FromString(self.model.SerializeToString()), self.weights, {}
        if not copies_pay(model, weights, self.shapes, batch):
            filters = as_inputs(model, weights, self.shapes, runtime)
        if runtime.in_blocks and block_size() > 1:
            model, weights, laid = in_blocks(model, weights, self.shapes, block_size())
            filters |= laid
        return Session(model, runtime, weights, label=label, batch=batch, filters=filters)


class SymbolicValues:
    """The forward tensors as the emitter sees them."""

    def __init__(self, graph: LayerGraph, emitter: Emitter, small: Recording, large: Recording) -> None:
        self.xp = emitter
        self.nonnegative = nonnegative_tensors(graph)
        self._small, self._large = small, large
        self._source = graph.inputs[0]

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape, -1 where the two recordings of different batch sizes differ."""
        shape = self._both(tensor)
        if shape.count(-1) > 1:
            raise UnsupportedError(f"tensor {tensor.name!r} grows with the batch along several axes")
        return shape

    def recorded(self, tensor: Tensor | None) -> bool:
        """Whether the recordings reach as far as a tensor."""
        return tensor in self._small.shapes

    def _both(self, tensor: Tensor) -> tuple[int, ...]:
        pairs = zip(self._small.shape(tensor), self._large.shape(tensor), strict=True)
        return tuple(a if a == b else -1 for a, b in pairs)

    def float32(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what is computed in float32, by name."""
        shapes = {t.name: self._both(t) for t in self._small.shapes if t.dtype == np.float32}
        return {name: shape for name, shape in shapes.items() if shape.count(-1) < 2}

    def value(self, tensor: Tensor) -> Array:
        """A static tensor as numpy, a computed one or one that depends on the batch size as a symbol, in float32."""
        if tensor.static and not self._varies(tensor):
            return self.xp.const(self.constant(tensor))
        dtype = tensor.dtype or np.dtype(np.float32)
        symbol = Sym(self.xp, tensor.name, self.shape(tensor), dtype)
        for layer in tensor.consumers:
            if layer.op_type == "Relu" and layer.outputs[0] is not None:
                self.xp.rectified[tensor.name] = Sym(self.xp, layer.outputs[0].name, symbol.shape, dtype)
        return self.xp.cast(symbol) if dtype.kind == "f" and dtype != np.float32 else symbol

    def constant(self, tensor: Tensor) -> np.ndarray:
        """The value of a static tensor.

        Raises
        ------
        UnsupportedError
            It depends on the batch size.
        """
        if self._varies(tensor):
            raise UnsupportedError(
                f"the setting {tensor.name!r} depends on the batch size, which a compiled graph leaves open; "
                "engine='host' runs it"
            )
        return self._small.constant(tensor)

    def samples_first(self, tensor: Tensor) -> bool:
        """Whether axis 0 counts the samples and no other axis grows with them; true where the batch is fixed."""
        shape = self.shape(tensor)
        runs = (self._small, self._large)
        return -1 not in shape or (
            shape[0] == -1 and all(run.shape(tensor)[0] == run.shape(self._source)[0] for run in runs)
        )

    def _varies(self, tensor: Tensor) -> bool:
        return tensor.value is None and not np.array_equal(self._small.constant(tensor), self._large.constant(tensor))


def compile_plan(
    graph: LayerGraph,
    plan: Plan,
    recordings: tuple[Recording, Recording],
    outputs: Sequence[Tensor],
    keep: Sequence[Tensor] = (),
    ledger: bool = False,
    blocked: bool = True,
    elementwise: bool = False,
) -> CompiledGraph:
    """Record ``plan`` as one graph.

    Parameters
    ----------
    recordings : pair of Recording
        Runs at two batch sizes; equal runs give a graph of fixed batch.
    outputs : sequence of Tensor
        Model outputs that the graph returns besides the relevance.
    keep : sequence of Tensor
        Internal tensors whose relevance is returned too.
    ledger : bool
        Whether the graph also returns the ledger's sums.
    blocked : bool
        Whether the CPU provider is to run it.
    elementwise : bool
        Whether the ledger holds what was absorbed element by element.
    """
    own = graph.opsets.get("", MIN_OPSET)
    opset = max(MIN_OPSET, own)
    layers = graph.upstream([plan.target, *outputs])
    constants = _constants(graph, layers)
    emitter = Emitter(blocked, constants)
    values = SymbolicValues(graph, emitter, *recordings)
    forward = [
        node for layer in layers for node in floored(layer, values) or upgraded(layer, values.constant, own, opset)
    ]
    seed = _seed(emitter, values, plan)
    wanted = plan.wanted
    books: dict[str, dict[str, Sym]] = {}
    rules = {step.layer: step.rule for step in plan}

    def step(layer: Layer, arrived: list[Sym | None]) -> Sequence[Sym | None]:
        op = find(layer)
        assert op is not None
        at = At(layer, values, wanted, ledger, elementwise=elementwise)
        handed = rules[layer](at, op, *arrived)
        if ledger:
            passed = [v for t, v in zip(layer.inputs, handed, strict=False) if t in wanted and v is not None]
            arriving = _sums(emitter, [v for v in arrived if v is not None])
            handing = _sums(emitter, passed) if passed else emitter.zeros_like(arriving)
            books[layer.name] = {"in": arriving, "out": handing, **(at.absorbed or {})}
        return handed

    carried = walk(plan.path, {plan.target: seed}, step, lambda a, b: a + b, keep)
    relevance = {tensor: emitter.output(symbol, RELEVANCE + tensor.name) for tensor, symbol in carried.items()}
    columns = {
        layer: {column: emitter.output(total, f"{LEDGER}{layer}/{column}") for column, total in book.items()}
        for layer, book in books.items()
    }
    names = [*(t.name for t in outputs), *relevance.values(), *(n for book in columns.values() for n in book.values())]
    nodes = _needed_nodes(forward + emitter.nodes, names)
    weights = _initializers(nodes, constants | emitter.weights)
    inputs = [_input_info(tensor, values) for tensor in graph.inputs]
    target_shape = [BATCH if dim == -1 else dim for dim in values.shape(plan.target)]
    inputs.append(helper.make_tensor_value_info(TARGET, onnx.TensorProto.FLOAT, target_shape))
    inputs.append(helper.make_tensor_value_info(PREDICTED, onnx.TensorProto.FLOAT, []))
    external: dict[str, np.ndarray] = {}
    protos = [initializer(name, value, external) for name, value in weights.items()]
    proto = helper.make_graph(
        nodes, "onnxplain", inputs, [helper.make_empty_tensor_value_info(name) for name in names], protos
    )
    imports = [helper.make_opsetid(domain, opset if domain == "" else v) for domain, v in graph.opsets.items()]
    model = helper.make_model(proto, opset_imports=imports, ir_version=10)
    shapes = values.float32() | emitter.shapes
    return CompiledGraph(model, external, relevance, columns, values.shape(plan.target), shapes)


def _constants(graph: LayerGraph, layers: Sequence[Layer]) -> dict[str, np.ndarray]:
    """The constants that ``layers`` read, none of their tensors under a name that a compiled graph gives."""
    read = {tensor.name: tensor for layer in layers for tensor in graph.read_by(layer)}
    made = {tensor.name: tensor for layer in layers for tensor in layer.outputs if tensor is not None}
    for name in read | made:
        if name.startswith(_OWN):
            raise UnsupportedError(
                f"a compiled graph has names like {name!r} for itself; engine='host' explains this one"
            )
    return {name: tensor.value for name, tensor in read.items() if tensor.value is not None}


def _sums(emitter: Emitter, values: Sequence[Sym]) -> Sym:
    """The sum of each sample over all values; one number where their first axes differ and so are not the samples."""
    sums: list[Sym] = [emitter.sum_samples(value) for value in values]
    if len({each.shape for each in sums}) > 1:
        sums = [emitter.sum(each, (0,), keepdims=True) for each in sums]
    return sum(sums[1:], sums[0])


def _seed(emitter: Emitter, values: SymbolicValues, plan: Plan) -> Any:
    """target + predicted * (one-hot of the largest element of each sample), times the value or the plan's seed."""
    if not values.samples_first(plan.target):
        raise UnsupportedError(
            f"the samples do not lie along axis 0 of {plan.target.name!r}; engine='host' explains it"
        )
    y = values.value(plan.target)
    shape = values.shape(plan.target)
    size = int(np.prod(shape[1:]))
    flat = emitter.reshape(y, (shape[0] if shape else 1, size))
    best = emitter.reshape(emitter.one_hot(emitter.argmax(flat, 1), 1, size), shape)
    target = Sym(emitter, TARGET, shape, np.dtype(np.float32))
    predicted = Sym(emitter, PREDICTED, (), np.dtype(np.float32))
    weights = target + best * predicted
    if plan.seed is not None:
        return weights * plan.seed
    return emitter.where(emitter.equal(weights, 0.0), 0.0, weights * y)


def _needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            kept.append(node)
            wanted.update(read_by(node))
    return kept[::-1]


def _initializers(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    used = {name for node in nodes for name in read_by(node)}
    return {name: value for name, value in constants.items() if name in used}


def _input_info(tensor: Tensor, values: SymbolicValues) -> onnx.ValueInfoProto:
    assert tensor.dtype is not None
    shape = [BATCH if dim == -1 else dim for dim in values.shape(tensor)]
    return helper.make_tensor_value_info(tensor.name, helper.np_dtype_to_tensor_dtype(tensor.dtype), shape)
