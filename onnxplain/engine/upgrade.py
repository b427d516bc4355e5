"""A layer's node in the newer opset that the compiled engine emits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from onnxplain.errors import UnsupportedError
from onnxplain.graph.layers import Layer, Tensor

Constants = Callable[[Tensor], np.ndarray]
"""The value of a static tensor."""


def upgraded(layer: Layer, constant: Constants, opset: int, newer: int) -> list[onnx.NodeProto]:
    """The nodes that compute a layer of ``opset`` in the ``newer`` one, its inputs and outputs under their names.

    Raises
    ------
    UnsupportedError
        The op has no form in that opset.
    """
    if layer.domain or _same(layer.op_type, opset, newer):
        return [layer.node]
    inner = [node for node in _inner_nodes(layer.node) if node.domain in ("", "ai.onnx")]
    if inner:
        changed = [node.op_type for node in inner if not _same(node.op_type, opset, newer)]
        if changed:
            raise _no_form(layer, f"its subgraph holds {changed[0]}, which changed")
        return [layer.node]
    if layer.op_type in ("Resize", "Upsample") and layer.since_version <= 10:
        return _resize(layer, constant)
    if layer.op_type == "BatchNormalization" and not layer.attributes.get("spatial", 1):
        return _position_norm(layer)
    return _converted(layer, opset, newer)


def _same(op_type: str, opset: int, newer: int) -> bool:
    versions = [onnx.defs.get_schema(op_type, version, "").since_version for version in (opset, newer)]
    return versions[0] == versions[1]


def _inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for child in graph.node:
                yield child
                yield from _inner_nodes(child)


def _no_form(layer: Layer, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"{layer.op_type} {layer.name!r} has no form in the opset that the compiled engine emits: {reason}; "
        "engine='host' runs it"
    )


def _converted(layer: Layer, opset: int, newer: int) -> list[onnx.NodeProto]:
    """The node as onnx's version converter has it."""
    node = onnx.NodeProto.FromString(layer.node.SerializeToString())
    for attribute in [attribute for attribute in node.attribute if attribute.name == "value"]:
        if layer.op_type == "Pad" and layer.attributes["mode"] != "constant":  # the converter would leave it behind
            node.attribute.remove(attribute)
    inputs = [_typed(tensor, layer) for tensor in dict.fromkeys(layer.inputs) if tensor is not None]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in layer.node.output if name]
    graph = helper.make_graph([node], "layer", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        found = version_converter.convert_version(model, newer).graph
    except (RuntimeError, version_converter.ConvertError) as error:
        raise _no_form(layer, str(error).strip().splitlines()[0]) from error
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in found.initializer]
    return _renamed([*constants, *found.node], {*layer.node.input, *layer.node.output}, layer)


def _typed(tensor: Tensor, layer: Layer) -> onnx.ValueInfoProto:
    if tensor.dtype is None:
        raise _no_form(layer, f"the type of {tensor.name!r} is unknown")
    return helper.make_tensor_value_info(tensor.name, helper.np_dtype_to_tensor_dtype(tensor.dtype), None)


def _renamed(nodes: Sequence[onnx.NodeProto], kept: set[str], layer: Layer) -> list[onnx.NodeProto]:
    """The nodes with a prefix of the layer's own before every name but ``kept``."""
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [name if name in kept or not name else inside(layer, name) for name in names]
    return list(nodes)


def inside(layer: Layer, name: str) -> str:
    """A name of the layer's own for what stands between its nodes."""
    return f"onnxplain_layer{layer.index}_{name}"


def _resize(layer: Layer, constant: Constants) -> list[onnx.NodeProto]:
    """Before opset 11 coordinates were not centred, and onnxruntime rounded up along axes that shrink."""
    x, y = layer.node.input[0], layer.node.output[0]
    if "scales" in layer.attributes:
        scales = np.array(layer.attributes["scales"], np.float32)
    else:
        tensor = layer.inputs[1]
        assert tensor is not None
        if not tensor.static:
            raise _no_form(layer, "its scales are computed from the data")
        scales = constant(tensor)
    middle = inside(layer, "grown")
    settings = {"mode": layer.attributes["mode"], "coordinate_transformation_mode": "asymmetric"}
    nodes = []
    for source, out, factors, rounding in (
        (x, middle, np.maximum(scales, 1), "floor"),
        (middle, y, np.minimum(scales, 1), "ceil"),
    ):
        name = inside(layer, f"{rounding}_scales")
        nodes.append(constant_node(name, factors))
        nodes.append(helper.make_node("Resize", [source, "", name], [out], nearest_mode=rounding, **settings))
    return nodes


def _position_norm(layer: Layer) -> list[onnx.NodeProto]:
    """Batch normalization with statistics per position, which opset 9 dropped."""
    x, scale, bias, mean, variance = layer.node.input
    epsilon, shifted, deviation, centred, normal, scaled = (
        inside(layer, name) for name in ("epsilon", "shifted", "deviation", "centred", "normal", "scaled")
    )
    return [
        constant_node(epsilon, np.array(layer.attributes["epsilon"], np.float32)),
        helper.make_node("Add", [variance, epsilon], [shifted]),
        helper.make_node("Sqrt", [shifted], [deviation]),
        helper.make_node("Sub", [x, mean], [centred]),
        helper.make_node("Div", [centred, deviation], [normal]),
        helper.make_node("Mul", [normal, scale], [scaled]),
        helper.make_node("Add", [scaled, bias], [layer.node.output[0]]),
    ]


def constant_node(name: str, value: Any) -> onnx.NodeProto:
    """The node that gives a number or an array."""
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
