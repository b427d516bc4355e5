"""Small ONNX models for the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Shape = Sequence[int | str]


def node(
    op_type: str, inputs: Sequence[str], outputs: str | Sequence[str], name: str | None = None, **attributes: Any
) -> onnx.NodeProto:
    """A node, named after its first output unless told otherwise."""
    outputs = [outputs] if isinstance(outputs, str) else list(outputs)
    return helper.make_node(op_type, list(inputs), outputs, name or outputs[0], **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, Any] | None = None,
    opset: int = 18,
    dtype: Any = np.float32,
) -> bytes:
    """A serialised model; floating constants and all inputs are of ``dtype``."""
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    arrays = {name: np.asarray(value) for name, value in (constants or {}).items()}
    weights = [
        numpy_helper.from_array(value.astype(dtype) if value.dtype.kind == "f" else value, name)
        for name, value in arrays.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(name, elem, list(shape)) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    proto = onnx.shape_inference.infer_shapes(proto)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()
