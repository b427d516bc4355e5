"""Graphs as protobuf messages, their weights beside them: what sessions are built from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import helper

from onnxplain.errors import UnsupportedError
from onnxplain.graph.layers import LayerGraph, Tensor
from onnxplain.graph.reader import ModelFile

_INLINE_BYTES = 1024
_INITIALIZERS_ALONE = 4
"""The IR version from which on an initializer need not be an input too."""


def graph_model(
    graph: LayerGraph,
    outputs: Sequence[Tensor],
    extra: Sequence[onnx.NodeProto] = (),
    extra_outputs: Sequence[str] = (),
    given: Sequence[Tensor] = (),
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The part of ``graph`` that ``outputs`` need, weights declared but not included.

    Tensors of ``given`` become inputs, and what they are computed by is left out.

    Returns
    -------
    onnx.ModelProto
        Large initializers are marked as external.
    dict of str to numpy.ndarray
        Their values, for :class:`Session`.
    """
    read = [graph.tensors[name] for node in extra for name in node.input if name in graph.tensors]
    layers = graph.upstream([*outputs, *read], given)
    used = {tensor for layer in layers for tensor in graph.read_by(layer)}
    used |= set(outputs)
    weights: dict[str, np.ndarray] = {}
    initializers = [
        initializer(tensor.name, tensor.value, weights)
        for tensor in graph.constants
        if tensor in used and tensor.value is not None
    ]
    proto = helper.make_graph(
        [layer.node for layer in layers] + list(extra),
        "onnxplain",
        [*(_value_info(tensor) for tensor in graph.inputs), *(_value_info(tensor, free=True) for tensor in given)],
        [
            helper.make_empty_tensor_value_info(name)
            for name in dict.fromkeys([*(t.name for t in outputs), *extra_outputs])
        ],
        initializers,
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()]
    return helper.make_model(proto, opset_imports=imports, ir_version=10), weights


def file_model(file: ModelFile) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """``file`` as it was read, nothing folded; as :func:`graph_model` otherwise."""
    proto = onnx.ModelProto()
    proto.CopyFrom(file.proto)
    proto.ir_version = max(proto.ir_version, _INITIALIZERS_ALONE)
    weights: dict[str, np.ndarray] = {}
    proto.graph.initializer.extend(initializer(name, value, weights) for name, value in file.constants.items())
    return proto, weights


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node reads, its subgraphs included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else []), *attribute.graphs]:
            inside = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
            inside |= {name for child in graph.node for name in child.output}
            read = [name for child in graph.node for name in read_by(child)] + [out.name for out in graph.output]
            yield from (name for name in read if name not in inside)


def initializer(name: str, value: np.ndarray, weights: dict[str, np.ndarray]) -> onnx.TensorProto:
    """A TensorProto for ``value``: inline where small, else declared external and entered in ``weights``."""
    if value.nbytes <= _INLINE_BYTES or value.dtype.kind not in "fiub" or value.dtype.itemsize > 8:
        return onnx.numpy_helper.from_array(value, name)
    tensor = onnx.TensorProto(name=name, dims=value.shape, data_type=helper.np_dtype_to_tensor_dtype(value.dtype))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="in-memory")
    tensor.external_data.add(key="length", value=str(value.nbytes))
    weights[name] = value
    return tensor


def _value_info(tensor: Tensor, free: bool = False) -> onnx.ValueInfoProto:
    """The declaration of an input, its shape left ``free``."""
    if tensor.dtype is None:
        raise UnsupportedError(f"input {tensor.name!r} is no tensor; only tensor inputs are supported")
    return helper.make_tensor_value_info(
        tensor.name, helper.np_dtype_to_tensor_dtype(tensor.dtype), None if free else tensor.shape
    )
