"""QuantizeLinear and DequantizeLinear: straight through where the value is representable, as a Clip."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from onnxplain.engine.namespace import Array
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.ops.base import At, Gradients, Op, register

_RANGES = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
}


class _Scaled(Op):
    status = "approximate"
    fixed = (1, 2)

    def scale(self, at: At) -> Array:
        """The scale, broadcastable to the input."""
        return self._spread(at, at.x(1), at.rank(1))

    def zero_point(self, at: At) -> Array | float:
        """The zero point in the working precision."""
        return 0.0 if at.input(2) is None else self._spread(at, at.xp.cast(at.x(2)), at.rank(2))

    def _spread(self, at: At, parameter: Array, rank: int) -> Array:
        if rank == 0 or at.shape(1) == (1,):
            return at.xp.reshape(parameter, (1,) * at.rank())
        axis = at.axis(at.get("axis", 1))
        if rank == at.rank() and at.get("block_size", 0):
            block = at["block_size"]
            return at.xp.gather(parameter, [i // block for i in range(at.shape()[axis])], axis)
        return at.xp.reshape(parameter, tuple(-1 if i == axis else 1 for i in range(at.rank())))


@register("QuantizeLinear")
class QuantizeLinear(_Scaled):
    """round(x / scale) + zero point, saturated; the gradient is zero where it saturates.

    To eight bits behind another quantizer it is zero wherever the first or the last step comes out: onnxruntime
    computes such layers on integers, which a reader of the value before it is rounded would prevent.
    """

    def forward(self, at: At, x: Array, *settings: Array) -> Array:
        low, high = self._range(at)
        return at.xp.minimum(at.xp.maximum(self._step(at, x), low), high)

    def refusal(self, layer: Layer, wanted: Set[Tensor]) -> str | None:
        out = layer.outputs[0]
        if out is not None and str(out.dtype) not in _RANGES:
            return f"it quantizes to {out.dtype}; there are {', '.join(_RANGES)}"
        return super().refusal(layer, wanted)

    def vjp(self, at: At, g: Array) -> Gradients:
        low, high = self._range(at)
        if _on_integers(at.layer):
            step = at.xp.cast(at.y())
        else:
            step, low, high = self._step(at, at.x()), low - 0.5, high + 0.5
        return (at.xp.mask(g / self.scale(at), step, low, high), None, None)

    def _step(self, at: At, x: Array) -> Array:
        """The step that x is rounded to, before it is cut off at either end."""
        return at.xp.round(x / self.scale(at)) + self.zero_point(at)

    def _range(self, at: At) -> tuple[float, float]:
        dtype: Any = at.output().dtype
        low, high = _RANGES[str(dtype)]
        return float(low), float(high)


def _on_integers(layer: Layer) -> bool:
    """Whether onnxruntime may compute what is quantized here on integers: eight bits, behind another quantizer."""
    out = layer.outputs[0]
    if out is None or str(out.dtype) not in ("uint8", "int8"):
        return False
    pending, seen = [layer], {layer}
    while pending:
        makers = {t.producer for t in pending.pop().inputs if t is not None and not t.static and t.producer is not None}
        if any(maker.op_type == "DequantizeLinear" for maker in makers):
            return True
        pending += makers - seen
        seen |= makers
    return False


@register("DequantizeLinear")
class DequantizeLinear(_Scaled):
    """(x - zero point) * scale."""

    def forward(self, at: At, x: Array, *settings: Array) -> Array:
        return (at.xp.cast(x) - self.zero_point(at)) * self.scale(at)

    def vjp(self, at: At, g: Array) -> Gradients:
        return (g * self.scale(at), None, None)
