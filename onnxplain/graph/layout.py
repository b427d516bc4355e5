"""Which axis of a tensor holds the channels, read off the ops that consume it."""

from __future__ import annotations

from collections.abc import Mapping

from onnxplain.graph.layers import Layer, LayerGraph, Tensor

_KEEP_AXES = frozenset(
    {"Cast", "Sub", "Add", "Mul", "Div", "Identity", "Pad", "Clip", "Relu", "QuantizeLinear", "DequantizeLinear",
     "BatchNormalization", "Sqrt", "Neg", "Dropout"}
)  # fmt: skip
_NORMALIZED_FIRST = ("BatchNormalization", "InstanceNormalization", "GroupNormalization")
_FEATURES_LAST = ("Gemm", "MatMul", "LayerNormalization")
_ACTIVATIONS = frozenset(
    {"LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish",
     "Tanh", "Erf", "Softplus", "ThresholdedRelu"}
)  # fmt: skip
_CHANNELS_FIRST = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LRN")


def channel_axis(tensor: Tensor) -> int | None:
    """The axis of the channels, or None where no convolution or pool on either side of ``tensor`` tells."""
    before = tensor.producer
    while before is not None and before.op_type in _KEEP_AXES and before.inputs[0] is not None:
        before = before.inputs[0].producer
    if before is not None and before.op_type in _CHANNELS_FIRST:
        return 1
    seen: set[Tensor] = set()
    todo: list[tuple[Tensor, int | None]] = [(tensor, None)]
    return _search(todo, seen)


def _search(todo: list[tuple[Tensor, int | None]], seen: set[Tensor]) -> int | None:
    """Breadth first; each entry holds a tensor and, behind a Transpose, the original axis that is now axis 1."""
    while todo:
        tensor, moved = todo.pop(0)
        if tensor in seen:
            continue
        seen.add(tensor)
        for layer in tensor.consumers:
            if layer.op_type in _CHANNELS_FIRST and layer.inputs[0] is tensor:
                return 1 if moved is None else moved
            out = layer.outputs[0]
            if out is None:
                continue
            if layer.op_type == "Transpose" and moved is None and "perm" in layer.attributes:
                todo.append((out, layer.attributes["perm"][1] if len(layer.attributes["perm"]) > 1 else None))
            elif layer.op_type in _KEEP_AXES:
                todo.append((out, moved))
    return None


def channel_axes(graph: LayerGraph) -> dict[Tensor, int]:
    """The axis of the channels of every tensor where the layers up to it tell: -1 for features along the last axis.

    Convolutions, pools and batch normalizations have their channels along axis 1, products with weights and layer
    normalizations along the last; what works element by element keeps them, a Transpose moves them.
    """
    axes: dict[Tensor, int] = {}
    for layer in graph.layers:
        axis = _axis_behind(layer, axes)
        if axis is not None:
            axes |= {out: axis for out in layer.outputs[:1] if out is not None}
    return axes


def _axis_behind(layer: Layer, axes: Mapping[Tensor, int]) -> int | None:
    if layer.op_type in (*_CHANNELS_FIRST, *_NORMALIZED_FIRST):
        return 1
    if layer.op_type in _FEATURES_LAST:
        return -1
    known = [axes[tensor] for tensor in layer.inputs if tensor is not None and tensor in axes]
    if not known:
        return None
    if layer.op_type == "Transpose" and "perm" in layer.attributes:
        perm = layer.attributes["perm"]
        return int(perm.index(known[0] % len(perm)))
    return known[0] if layer.op_type in _KEEP_AXES | _ACTIVATIONS else None
