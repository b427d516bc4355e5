"""Which axis of a tensor holds the channels, read off the ops that consume it."""

from __future__ import annotations

from onnxplain.graph.layers import Tensor

_KEEP_AXES = frozenset(
    {"Cast", "Sub", "Add", "Mul", "Div", "Identity", "Pad", "Clip", "Relu", "QuantizeLinear", "DequantizeLinear",
     "BatchNormalization", "Sqrt", "Neg", "Dropout"}
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
