"""What the first layers of a graph say about its input: layout, and the normalisation that the graph does itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxplain.graph.layers import Layer, Tensor
from onnxplain.graph.layout import channel_axis
from onnxplain.inputs.items import Found, Item
from onnxplain.inputs.presets import IMAGENET_MEAN

_SKIPPED = ("Cast", "Identity", "Transpose")
_ARITHMETIC = ("Sub", "Add", "Mul", "Div")
_LAYOUTS = {1: "NCHW", 3: "NHWC"}
_PICTURE_CHANNELS = (1, 3)


@dataclass(frozen=True)
class _Head:
    """The input's normalisation in the graph: ``scale * x + shift``, one number or one per channel.

    ``axis`` is the input's axis along which constants differ, None where all are single numbers.
    """

    scale: np.ndarray
    shift: np.ndarray
    axis: int | None
    layers: tuple[str, ...]


def graph_items(tensor: Tensor) -> Found:
    """The items that the graph behind a four-dimensional input settles."""
    if tensor.shape is None or len(tensor.shape) != 4:
        return {"layout": Item("tensor", f"input shape {shape_text(tensor)}, which is not a batch of pictures")}
    head = _head(tensor)
    return _normalisation(head) | _dtype_items(tensor) | _shape_items(tensor, head)


def shape_text(tensor: Tensor) -> str:
    """The declared shape, such as ``Nx3x224x224``; a question mark where nothing is declared."""
    return "x".join("?" if dim is None else str(dim) for dim in tensor.shape or ()) or "unknown"


def _shape_items(tensor: Tensor, head: _Head) -> Found:
    assert tensor.shape is not None
    axis, origin = channel_axis(tensor), "the graph's first convolution or pooling"
    if axis is None:
        axis, origin = head.axis, f"constants at the head of the graph ({', '.join(head.layers)})"
    candidates = [place for place in _LAYOUTS if tensor.shape[place] in _PICTURE_CHANNELS]
    if axis is None and len(candidates) == 1:
        axis, origin = candidates[0], f"input shape {shape_text(tensor)}, where only that axis can be the channels"
    if axis not in _LAYOUTS:
        return {}
    found: Found = {"layout": Item(_LAYOUTS[axis], origin)}
    if tensor.shape[axis] == 1:
        found["colour"] = Item("GRAY", f"input shape {shape_text(tensor)}")
    height, width = (dim for place, dim in enumerate(tensor.shape) if place not in (0, axis))
    if isinstance(height, int) and isinstance(width, int):
        found["size"] = Item((height, width), f"input shape {shape_text(tensor)}")
    return found


def _dtype_items(tensor: Tensor) -> Found:
    if tensor.dtype != np.uint8:
        return {}
    values = {"range": (0.0, 255.0), "mean": (0.0,), "std": (1.0,)}
    return {key: Item(value, "input dtype uint8") for key, value in values.items()}


def _normalisation(head: _Head) -> Found:
    """Range, mean and std of what is fed, and the colour order where the subtracted means are published ones.

    A mean lies inside the range of the pixels, and no scale is wider than it: means and scales up to 1 are those of
    pixels from 0 to 1, larger ones those of pixels up to 255. Anything else settles nothing.
    """
    if not head.layers or (head.scale <= 0).any():
        return {}
    with np.errstate(over="ignore"):
        mean, std = -head.shift / head.scale, 1 / head.scale
    if not (mean >= -1e-6).all() or max(mean.max(), std.max()) > 256:
        return {}
    plain = not (mean > 1e-6).any()
    if max(mean.max(), std.max()) > 1.001:
        limits = (0.0, 255.0)
    elif not plain or np.allclose(std * 255, 1, rtol=1e-3):
        limits = (0.0, 1.0)
    else:
        return {}
    origin = f"constants at the head of the graph ({', '.join(head.layers)})"
    found: Found = {"range": Item(limits, origin), "mean": Item((0.0,), origin), "std": Item((1.0,), origin)}
    colour = _published_order(mean / limits[1])
    return found if colour is None else found | {"colour": Item(colour, f"{origin}: ImageNet means in this order")}


def _published_order(mean: np.ndarray) -> str | None:
    if mean.shape == (3,):
        for colour, ordered in (("RGB", mean), ("BGR", mean[::-1])):
            if np.allclose(ordered, IMAGENET_MEAN, atol=2e-3):
                return colour
    return None


def _head(tensor: Tensor) -> _Head:
    """Follow the input through single consumers that only scale, shift, cast or transpose it."""
    scale, shift = np.ones(1), np.zeros(1)
    axis: int | None = None
    layers: list[str] = []
    axes = list(range(len(tensor.shape or ())))
    while len(tensor.consumers) == 1:
        layer = tensor.consumers[0]
        out = layer.outputs[0]
        if out is None or layer.op_type not in _SKIPPED + _ARITHMETIC:
            break
        if layer.op_type == "Transpose":
            axes = [axes[place] for place in layer.attributes.get("perm", reversed(range(len(axes))))]
        elif layer.op_type in _ARITHMETIC:
            constant = _constant(layer, tensor)
            place = None if constant is None else _varying_axis(constant, axes)
            if constant is None or place == -1 or (None not in (axis, place) and axis != place):
                break
            axis = axis if place is None else place
            scale, shift = _OPERATIONS[layer.op_type](scale, shift, constant.astype(np.float64).reshape(-1))
            layers.append(layer.name)
        tensor = out
    return _Head(scale, shift, axis, tuple(layers))


_OPERATIONS: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "Sub": lambda scale, shift, c: (scale, shift - c),
    "Add": lambda scale, shift, c: (scale, shift + c),
    "Mul": lambda scale, shift, c: (scale * c, shift * c),
    "Div": lambda scale, shift, c: (scale / c, shift / c),
}


def _constant(layer: Layer, tensor: Tensor) -> np.ndarray | None:
    """The constant that a layer combines ``tensor`` with; None where there is none or its place inverts the input."""
    left, right = layer.inputs
    if left is tensor and right is not None:
        constant = right.value
    elif layer.op_type in ("Add", "Mul") and left is not None:
        constant = left.value
    else:
        return None
    sound = constant is not None and constant.dtype.kind in "fiu" and np.isfinite(constant).all() and constant.size
    return constant if sound and (layer.op_type != "Div" or np.all(constant)) else None


def _varying_axis(constant: np.ndarray, axes: list[int]) -> int | None:
    """The input's axis along which a constant has several values: None for none, -1 where it is no axis of channels."""
    varying = [place for place in range(-constant.ndim, 0) if constant.shape[place] > 1]
    if not varying:
        return None
    channels = len(varying) == 1 and constant.shape[varying[0]] in _PICTURE_CHANNELS and constant.ndim <= len(axes)
    return axes[varying[0]] if channels else -1
