"""What tensors take, known before memory is taken for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, shape_inference

from onnxplain.errors import FailureError
from onnxplain.graph.layers import captured_names, subgraphs

MAX_TENSOR_BYTES = 2**31
"""The largest tensor that a graph may compute from constants, declare between layers or make of one sample."""

Dims = tuple[int | str | None, ...]


def type_parts(proto: onnx.TypeProto) -> tuple[np.dtype[Any] | None, Dims | None]:
    """Dtype and dimensions of a declared type, None where they are open."""
    tensor = proto.tensor_type
    if not proto.HasField("tensor_type") or not tensor.elem_type:
        return None, None
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if not tensor.HasField("shape"):
        return dtype, None
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        kind = dim.WhichOneof("value")
        dims.append(dim.dim_value if kind == "dim_value" else dim.dim_param or None)
    return dtype, tuple(dims)


def byte_size(proto: onnx.TypeProto | None) -> int | None:
    """Bytes of a tensor of a declared type; None where a dimension is open."""
    dtype, dims = type_parts(proto) if proto is not None else (None, None)
    if dtype is None or dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return math.prod(dim for dim in dims if isinstance(dim, int)) * dtype.itemsize


def check_size(node: onnx.NodeProto, proto: onnx.TypeProto, label: str) -> None:
    """Refuse an output of ``node`` that is too large.

    Raises
    ------
    FailureError
        It would exceed ``MAX_TENSOR_BYTES``.
    """
    size = byte_size(proto)
    if size is not None and size > MAX_TENSOR_BYTES:
        raise FailureError(
            f"{label}: {node.op_type} {node.name or node.output[0]!r} would make a tensor of {size / 2**30:.1f} GiB; "
            f"the limit is {MAX_TENSOR_BYTES / 2**30:.0f} GiB"
        )


def check_sizes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], label: str) -> None:
    """Refuse a model whose tensors are too large once its inputs have the shapes given.

    Parameters
    ----------
    model : onnx.ModelProto
        Its inputs are changed.
    shapes : mapping of str to sequence of int
        By input.
    label : str
        How messages call the model.

    Raises
    ------
    FailureError
        A tensor would exceed ``MAX_TENSOR_BYTES``.
    """
    for declared in model.graph.input:
        sizes = declared.type.tensor_type.shape
        del sizes.dim[:]
        sizes.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in shapes[declared.name])
    _hand_down(model.graph)
    _check_graph(shape_inference.infer_shapes(model, data_prop=True).graph, label)


def _hand_down(graph: onnx.GraphProto) -> None:
    """Give subgraphs the constants they read, which inference does not look up, and drop the types they declare."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        captured = captured_names(node)
        for body in subgraphs(node):
            del body.value_info[:]
            body.initializer.extend(constants[name] for name in captured if name in constants)
            _hand_down(body)


def _check_graph(graph: onnx.GraphProto, label: str) -> None:
    types = {value.name: value.type for value in (*graph.value_info, *graph.output)}
    for node in graph.node:
        for name in node.output:
            if name in types:
                check_size(node, types[name], label)
        for body in subgraphs(node):
            _check_graph(body, label)
