"""The read-only layer graph that everything else works on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

Dim = int | str | None
"""A declared dimension: a number, a symbol, or unknown."""


@dataclass(eq=False, frozen=True)
class Tensor:
    """A value of the graph.

    Attributes
    ----------
    name : str
    dtype : numpy.dtype or None
        None where the file does not say (sequences, optional types, missing value_info).
    shape : tuple of int, str or None, or None
        As declared in the file; the shapes of a run are in :class:`onnxplain.engine.recording.Recording`.
    value : numpy.ndarray or None
        The constant value, read-only, or None for what is computed.
    producer : Layer or None
        None for inputs and constants.
    consumers : tuple of Layer
    static : bool
        Whether the value depends only on constants and on the shapes of the inputs.
    """

    name: str
    dtype: np.dtype[Any] | None = None
    shape: tuple[Dim, ...] | None = None
    value: np.ndarray | None = None
    producer: Layer | None = None
    consumers: tuple[Layer, ...] = ()
    static: bool = False

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.dtype}, {self.shape})"


@dataclass(eq=False, frozen=True)
class Layer:
    """One node of the analysed graph.

    Attributes
    ----------
    name : str
        The node's name, made unique; named after its op type where the file gives none.
    op_type, domain : str
        ``domain`` is "" for ai.onnx.
    since_version : int
        The op version of the schema that the model's opset selects; 0 where no schema is known.
    attributes : mapping
        Every attribute of the schema, defaults filled in; tensors as numpy arrays.
    inputs : tuple of Tensor or None
        None for an omitted optional input.
    outputs : tuple of Tensor or None
    node : onnx.NodeProto
        What the runtime executes.
    index : int
        Position in topological order.
    """

    name: str
    op_type: str
    domain: str
    since_version: int
    attributes: Mapping[str, Any]
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]
    node: onnx.NodeProto = field(repr=False)
    index: int = 0

    def __repr__(self) -> str:
        return f"Layer({self.name!r}, {self.op_type})"


@dataclass(eq=False, frozen=True, init=False, repr=False)
class LayerGraph:
    """Layers in topological order and the tensors between them; read-only once built.

    Parameters
    ----------
    nodes : iterable of onnx.NodeProto
        In topological order, names unique.
    inputs, outputs : iterable of Tensor
        Declarations; only name, dtype and shape are read.
    constants : mapping of str to numpy.ndarray
    opsets : mapping of str to int
        Version per domain, "" for ai.onnx.
    declared : mapping of str to (dtype, shape), optional
        Types of intermediate tensors where the file states them.

    Attributes
    ----------
    opsets : mapping of str to int
    inputs, outputs : tuple of Tensor
    layers : tuple of Layer
    tensors : mapping of str to Tensor
    by_name : mapping of str to Layer
    """

    opsets: Mapping[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    tensors: Mapping[str, Tensor]
    by_name: Mapping[str, Layer]
    _captured: Mapping[Layer, list[Tensor]]

    def __init__(
        self,
        nodes: Iterable[onnx.NodeProto],
        inputs: Iterable[Tensor],
        outputs: Iterable[Tensor],
        constants: Mapping[str, np.ndarray],
        opsets: Mapping[str, int],
        declared: Mapping[str, tuple[np.dtype[Any] | None, tuple[Dim, ...] | None]] | None = None,
    ) -> None:
        declared = declared or {}
        tensors: dict[str, Tensor] = {}
        for source in inputs:
            tensors[source.name] = Tensor(source.name, source.dtype, source.shape)
        entries = tuple(tensors.values())
        for name, value in constants.items():
            value.flags.writeable = False
            tensors[name] = Tensor(name, value.dtype, value.shape, value, static=True)
        layers = tuple(_layer(index, node, tensors, opsets, declared) for index, node in enumerate(nodes))
        captured = {layer: sorted(captured_names(layer.node)) for layer in layers}
        _settle(
            self,
            opsets=MappingProxyType(dict(opsets)),
            inputs=entries,
            outputs=tuple(_declare(tensors[out.name], out) for out in outputs),
            layers=layers,
            tensors=MappingProxyType(tensors),
            by_name=MappingProxyType({layer.name: layer for layer in layers}),
            _captured={
                layer: [tensors[name] for name in names if name in tensors]
                for layer, names in captured.items()
                if names
            },
        )

    @property
    def constants(self) -> Iterator[Tensor]:
        """The constant tensors."""
        return (tensor for tensor in self.tensors.values() if tensor.value is not None)

    @property
    def shapes(self) -> dict[str, tuple[Dim, ...]]:
        """The shapes that are declared, by the names of tensors."""
        return {name: tensor.shape for name, tensor in self.tensors.items() if tensor.shape is not None}

    def downstream(self, sources: Iterable[Tensor]) -> set[Tensor]:
        """Every tensor that a value of ``sources`` flows into, differentiable or not, sources included."""
        reached = set(sources)
        for layer in self.layers:
            if any(tensor in reached for tensor in self.read_by(layer)):
                reached.update(out for out in layer.outputs if out is not None and not out.static)
        return reached

    def captured(self, layer: Layer) -> list[Tensor]:
        """The outer tensors that the layer's subgraphs read."""
        return self._captured.get(layer, [])

    def read_by(self, layer: Layer) -> list[Tensor]:
        """The inputs of the layer and what its subgraphs capture."""
        return [tensor for tensor in (*layer.inputs, *self.captured(layer)) if tensor is not None]

    def upstream(self, outputs: Iterable[Tensor], given: Iterable[Tensor] = ()) -> list[Layer]:
        """The layers that ``outputs`` are computed by where the values of ``given`` are known, in topological order."""
        wanted, known = set(outputs), set(given)
        layers = []
        for layer in reversed(self.layers):
            if any(out in wanted and out not in known for out in layer.outputs):
                layers.append(layer)
                wanted.update(self.read_by(layer))
        return layers[::-1]

    def path(self, target: Tensor, sources: Iterable[Tensor]) -> tuple[Layer, ...]:
        """The layers between ``sources`` and ``target``, in topological order."""
        reached = self.downstream(sources)
        wanted = {target}
        chosen: list[Layer] = []
        for layer in reversed(self.layers):
            flowing = [tensor for tensor in self.read_by(layer) if tensor in reached]
            if flowing and any(out in wanted and out in reached for out in layer.outputs):
                chosen.append(layer)
                wanted.update(flowing)
        return tuple(reversed(chosen))


def _settle(part: Tensor | LayerGraph, **values: Any) -> None:
    """Give a part of a graph what is known of it only while the graph is built; nothing is assigned afterwards."""
    for name, value in values.items():
        object.__setattr__(part, name, value)


def _declare(tensor: Tensor, source: Tensor) -> Tensor:
    _settle(tensor, dtype=tensor.dtype or source.dtype, shape=tensor.shape or source.shape)
    return tensor


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of a node: the branches of an If, what a Loop or a Scan repeats."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def captured_names(node: onnx.NodeProto) -> set[str]:
    """Names of outer tensors that the node's subgraphs read."""
    names: set[str] = set()
    for graph in subgraphs(node):
        inner = {name for child in graph.node for name in child.output}
        inner |= {value.name for value in graph.input} | {value.name for value in graph.initializer}
        used = {name for child in graph.node for name in child.input} | {value.name for value in graph.output}
        for child in graph.node:
            used |= captured_names(child)
        names |= used - inner - {""}
    return names


def _layer(
    index: int,
    node: onnx.NodeProto,
    tensors: dict[str, Tensor],
    opsets: Mapping[str, int],
    declared: Mapping[str, tuple[np.dtype[Any] | None, tuple[Dim, ...] | None]],
) -> Layer:
    domain = "" if node.domain == "ai.onnx" else node.domain
    since, attributes = _schema_attributes(node, domain, opsets.get(domain, 0))
    inputs = tuple(tensors[name] if name else None for name in node.input)
    captured = [tensors[name] for name in sorted(captured_names(node)) if name in tensors]
    static = node.op_type in ("Shape", "Size") or all(t is None or t.static for t in (*inputs, *captured))
    static = static and not node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))
    outputs: list[Tensor | None] = []
    for name in node.output:
        dtype, shape = declared.get(name, (None, None))
        tensor = Tensor(name, dtype, shape, static=static) if name else None
        if tensor is not None:
            tensors[name] = tensor
        outputs.append(tensor)
    layer = Layer(node.name, node.op_type, domain, since, attributes, inputs, tuple(outputs), node, index)
    for tensor in {t for t in (*inputs, *captured) if t is not None}:
        _settle(tensor, consumers=(*tensor.consumers, layer))
    for out in outputs:
        if out is not None:
            _settle(out, producer=layer)
    return layer


def _schema_attributes(node: onnx.NodeProto, domain: str, opset: int) -> tuple[int, Mapping[str, Any]]:
    attributes: dict[str, Any] = {}
    since = 0
    if onnx.defs.has(node.op_type, opset, domain):
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
        since = schema.since_version
        for name, spec in schema.attributes.items():
            if spec.default_value.name:
                attributes[name] = _python_value(spec.default_value)
    for attribute in node.attribute:
        attributes[attribute.name] = _python_value(attribute)
    return since, MappingProxyType(attributes)


def _python_value(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return tuple(value)
    if attribute.type == onnx.AttributeProto.STRINGS:
        return tuple(item.decode("utf-8", errors="replace") for item in value)
    return value
