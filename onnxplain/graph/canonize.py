"""Rewrites that leave every output unchanged and make the rules' work plainer; each says what it did or why not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from onnxplain.graph.layers import Layer, LayerGraph, Tensor


@dataclass(frozen=True)
class Change:
    """What a canonizer did at a layer.

    Attributes
    ----------
    canonizer, layer : str
    applied : bool
    reason : str
        What was changed, or why the layer was left alone.
    """

    canonizer: str
    layer: str
    applied: bool
    reason: str


def canonize(graph: LayerGraph) -> tuple[LayerGraph, tuple[Change, ...]]:
    """Fold every batch normalization that stands behind a convolution or a matrix product.

    Returns
    -------
    LayerGraph
        A new graph; ``graph`` itself where nothing applied.
    tuple of Change
        One entry per BatchNormalization layer.
    """
    nodes = {layer.name: layer.node for layer in graph.layers}
    constants = {tensor.name: tensor.value for tensor in graph.constants if tensor.value is not None}
    changes = []
    for layer in graph.layers:
        if layer.op_type != "BatchNormalization":
            continue
        obstacle = _batch_norm_obstacle(layer, graph)
        if obstacle is None:
            _fold_batch_norm(layer, nodes, constants)
        reason = obstacle or f"folded into {_linear_before(layer).name!r}"
        changes.append(Change("batch-norm folding", layer.name, obstacle is None, reason))
    if not any(change.applied for change in changes):
        return graph, tuple(changes)
    declared = {t.name: (t.dtype, t.shape) for t in graph.tensors.values()}
    used = {name for node in nodes.values() for name in node.input} | {out.name for out in graph.outputs}
    used |= {t.name for t in graph.constants if any(t not in layer.inputs for layer in t.consumers)}
    kept = {name: value for name, value in constants.items() if name in used}
    return LayerGraph(nodes.values(), graph.inputs, graph.outputs, kept, graph.opsets, declared), tuple(changes)


def _linear_before(layer: Layer) -> Layer:
    source = layer.inputs[0]
    assert source is not None
    assert source.producer is not None
    return source.producer


def _batch_norm_obstacle(layer: Layer, graph: LayerGraph) -> str | None:
    source = layer.inputs[0]
    if source is None or source.producer is None:
        return "it stands at an input of the graph"
    linear = source.producer
    if linear.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return f"it follows {linear.op_type} {linear.name!r}, not a convolution or Gemm"
    if len(source.consumers) > 1:
        return f"the output of {linear.name!r} has {len(source.consumers)} consumers"
    if source in graph.outputs:
        return f"the output of {linear.name!r} is an output of the graph"
    parameters = (*linear.inputs[1:], *layer.inputs[1:])
    if any(tensor is not None and tensor.value is None for tensor in parameters):
        return "its parameters or the weights before it are not constant"
    if layer.attributes.get("training_mode", 0) or sum(out is not None for out in layer.outputs) > 1:
        return "it is in training mode"
    if not layer.attributes.get("spatial", 1):
        return "it normalizes every position by itself (spatial=0)"
    if not _positive_variance(layer):
        return "its variance is not positive"
    if linear.op_type == "Gemm" and (linear.attributes["transA"] or _bias_rank(linear) > 1):
        return f"Gemm {linear.name!r} is transposed in A or has a two-dimensional C"
    return None


def _positive_variance(layer: Layer) -> bool:
    variance = layer.inputs[4]
    assert variance is not None
    assert variance.value is not None
    return bool((variance.value + layer.attributes["epsilon"] > 0).all())


def _bias_rank(linear: Layer) -> int:
    bias = _input(linear, 2)
    return 0 if bias is None or bias.value is None else bias.value.ndim


def _input(layer: Layer, index: int) -> Tensor | None:
    return layer.inputs[index] if index < len(layer.inputs) else None


def _fold_batch_norm(layer: Layer, nodes: dict[str, onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    """W * gamma / sqrt(var + eps) and (b - mean) * gamma / sqrt(var + eps) + beta, computed in float64."""
    linear = _linear_before(layer)
    gamma, beta, mean, var = (np.asarray(t.value, np.float64) for t in layer.inputs[1:5] if t is not None)
    scale = gamma / np.sqrt(var + layer.attributes["epsilon"])
    weight = _input(linear, 1)
    bias = _input(linear, 2)
    assert weight is not None
    assert weight.value is not None
    b = 0.0 if bias is None or bias.value is None else np.asarray(bias.value, np.float64)
    alpha = beta_factor = 1.0
    if linear.op_type == "Gemm":
        alpha, beta_factor = linear.attributes["alpha"], linear.attributes["beta"]
    folded_bias = (b * beta_factor - mean) * scale + beta
    folded_weight = np.asarray(weight.value, np.float64) * alpha * _along_outputs(linear, weight.value, scale)
    node = onnx.NodeProto()
    node.CopyFrom(linear.node)
    del node.input[1:]
    for role, value in (("weight", folded_weight), ("bias", folded_bias)):
        name = f"{layer.node.output[0]}__folded_{role}"
        constants[name] = value.astype(weight.value.dtype)
        node.input.append(name)
    for attribute in [a for a in node.attribute if a.name in ("alpha", "beta") and linear.op_type == "Gemm"]:
        node.attribute.remove(attribute)
    node.output[0] = layer.node.output[0]
    nodes[linear.name] = node
    del nodes[layer.name]


def _along_outputs(linear: Layer, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``scale`` shaped to multiply the weight's output axis."""
    if linear.op_type == "Conv":
        return scale.reshape((-1,) + (1,) * (weight.ndim - 1))
    if linear.op_type == "Gemm":
        return scale[:, None] if linear.attributes["transB"] else scale[None, :]
    group = linear.attributes["group"]
    per_group = scale.reshape(group, 1, -1)
    spread = np.repeat(per_group, weight.shape[0] // group, axis=1).reshape(weight.shape[0], -1)
    return spread.reshape(spread.shape + (1,) * (weight.ndim - 2))
