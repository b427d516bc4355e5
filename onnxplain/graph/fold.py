"""From the file's nodes to a graph without constant arithmetic, every size checked before memory is taken."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import checker, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxplain.errors import FailureError
from onnxplain.graph.layers import LayerGraph, Tensor, captured_names, subgraphs
from onnxplain.graph.reader import ModelFile, take_constants
from onnxplain.graph.sizes import byte_size, check_size, type_parts

MAX_GROWTH_BYTES = 2**28
"""By how much folding may make a graph's constants larger; what goes beyond is left to the runtime."""

_BODY_ROOM = 2**20
"""The same within a subgraph, whose constants serve to know sizes only."""
_SMALL = 4096
_GROWING = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Upsample", "Pad", "OneHot", "EyeLike"})
_NEVER_FOLDED = frozenset({"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "Multinomial", "Bernoulli"})

gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.CRITICAL


def surgeon_graph(file: ModelFile) -> gs.Graph:
    """The file's graph as a mutable onnx-graphsurgeon graph, weights attached, names unique."""
    graph = gs.import_onnx(file.proto)
    tensors = graph.tensors()
    for name, value in file.constants.items():
        if name in tensors:
            tensors[name].to_constant(value)
    graph.toposort()
    taken: set[str] = set()
    suffixes: Counter[str] = Counter()
    for node in graph.nodes:
        name = base = node.name or node.op
        while name in taken:
            suffixes[base] += 1
            name = f"{base}_{suffixes[base] + 1}"
        node.name = name
        taken.add(name)
    return graph


def freeze(graph: gs.Graph, file: ModelFile) -> tuple[LayerGraph, LayerGraph]:
    """Fold constants and freeze ``graph``.

    Returns
    -------
    whole : LayerGraph
        Every node of the file, which all run in the plain session.
    live : LayerGraph
        What the outputs need.

    Raises
    ------
    FailureError
        A tensor of known size would exceed :data:`~onnxplain.graph.sizes.MAX_TENSOR_BYTES`, or one has a type that
        the node reading it does not take.
    """
    opsets = {entry.domain: entry.version for entry in file.proto.opset_import}
    declared = [tensor for tensor in graph.inputs if tensor.dtype is not None]
    types = {tensor.name: OnnxExporter.export_value_info_proto(tensor, True).type for tensor in declared}
    folder = _Folder(dict(file.constants), types, opsets, file)

    def frozen(nodes: list[onnx.NodeProto]) -> LayerGraph:
        used = {name for node in nodes for name in _names_read(node)} | {out.name for out in graph.outputs}
        return LayerGraph(
            nodes,
            [_declaration(tensor) for tensor in graph.inputs],
            [_declaration(tensor) for tensor in graph.outputs],
            {name: value for name, value in folder.constants.items() if name in used},
            opsets,
            folder.declared,
        )

    whole = frozen([node for node in map(OnnxExporter.export_node, graph.nodes) if not folder.fold(node)])
    live = whole.upstream(whole.outputs)
    return whole, whole if len(live) == len(whole.layers) else frozen([layer.node for layer in live])


def _names_read(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    yield from captured_names(node)


def _declaration(tensor: gs.Tensor) -> Tensor:
    return Tensor(tensor.name, _numpy_dtype(tensor.dtype), None if tensor.shape is None else tuple(tensor.shape))


def _numpy_dtype(dtype: Any) -> np.dtype[Any] | None:
    if not dtype:
        return None
    return np.dtype(helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else dtype)


def _type_of(value: np.ndarray) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


class _Folder:
    """Propagates types and constant values through the nodes, one node at a time; ``room`` is for what values grow."""

    def __init__(
        self,
        constants: dict[str, np.ndarray],
        types: dict[str, onnx.TypeProto],
        opsets: dict[str, int],
        file: ModelFile,
        room: int = MAX_GROWTH_BYTES,
    ) -> None:
        self.file = file
        self.opsets = opsets
        self.imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        self.constants = constants
        self.types = types
        self.room = room

    @property
    def declared(self) -> dict[str, tuple[np.dtype[Any] | None, tuple[int | str | None, ...] | None]]:
        return {name: type_parts(proto) for name, proto in self.types.items()}

    def fold(self, node: onnx.NodeProto) -> bool:
        """Whether the node was replaced by its constant outputs."""
        for body in subgraphs(node):
            self._check_body(body, captured_names(node))
        outputs = self._infer(node)
        for name, proto in outputs.items():
            check_size(node, proto, self.file.label)
            self.types[name] = proto
        foldable = (
            node.domain in ("", "ai.onnx")
            and node.op_type not in _NEVER_FOLDED
            and node.input
            and all(not name or name in self.constants for name in node.input)
            and not any(subgraphs(node))
        )
        if not foldable:
            return False
        if node.op_type in _GROWING and any(byte_size(self.types.get(name)) is None for name in node.output):
            return False
        read = sum(self.constants[name].nbytes for name in set(node.input) if name)
        growth = sum(byte_size(self.types.get(name)) or 0 for name in node.output) - read
        if growth > self.room or not self._evaluate(node):
            return False
        self.room -= max(growth, 0)
        return True

    def _check_body(self, graph: onnx.GraphProto, captured: Collection[str]) -> None:
        """Refuse what a subgraph makes too large; of its constants and those it reads, the small ones are followed."""
        body = onnx.GraphProto.FromString(graph.SerializeToString())
        constants = {name: self.constants[name] for name in captured if name in self.constants}
        constants |= take_constants(body, self.file.path, set(), self.file.label)
        types = {name: self.types[name] for name in captured if name in self.types}
        types |= {name: _type_of(value) for name, value in constants.items()}
        types |= {value.name: value.type for value in body.input if value.type.WhichOneof("value")}
        small = {name: value for name, value in constants.items() if value.size <= _SMALL}
        folder = _Folder(small, types, self.opsets, self.file, room=_BODY_ROOM)
        for node in body.node:
            folder.fold(node)

    def _evaluate(self, node: onnx.NodeProto) -> bool:
        names = sorted({name for name in node.input if name})
        feed = {name: self.constants[name] for name in names}
        graph = helper.make_graph(
            [node],
            "fold",
            [helper.make_value_info(name, self._type(name)) for name in names],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
        )
        model = helper.make_model(graph, opset_imports=self.imports, ir_version=13)
        try:
            with np.errstate(all="ignore"):
                values = ReferenceEvaluator(model).run(None, feed)
        except Exception as error:  # the reference lacks an op or a type: the runtime computes it instead
            logging.getLogger(__name__).debug("%s %s is not folded: %s", node.op_type, node.name, error)
            return False
        if not all(isinstance(value, np.ndarray | np.generic) for value in values):
            return False
        for name, value in zip([name for name in node.output if name], values, strict=True):
            self.constants[name] = np.asarray(value)
        return True

    def _type(self, name: str) -> onnx.TypeProto:
        if name not in self.types:
            self.types[name] = _type_of(self.constants[name])
        return self.types[name]

    def _infer(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if not onnx.defs.has(node.op_type, self.opsets.get(domain, 0), domain):
            return {}
        schema = onnx.defs.get_schema(node.op_type, self.opsets[domain], domain)
        names = [name for name in node.input if name]
        if any(name not in self.types and name not in self.constants for name in names):
            return {}
        data = {
            name: numpy_helper.from_array(self.constants[name], name)
            for name in names
            if name in self.constants and self.constants[name].size <= _SMALL
        }
        types = {name: self._type(name) for name in names}
        if any(subgraphs(node)):
            types |= self.types
        try:
            inferred = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=self.imports)
        except checker.ValidationError as error:
            raise FailureError(
                f"{self.file.label}: {node.op_type} {node.name or node.output[0]!r} reads a tensor of a type that it "
                f"does not take: {error}; export the model again"
            ) from error
        except (shape_inference.InferenceError, RuntimeError, ValueError):
            return {}
        return {name: proto for name, proto in inferred.items() if name}
