"""Shapes, ranges and comparisons: no relevance and no gradient flows through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxplain.engine.namespace import Array
from onnxplain.errors import UnsupportedError
from onnxplain.ops.base import At, Gradients, Kind, Op, register


@register("Constant", "ConstantOfShape", "Shape", "Size", "Range")
class Static(Op):
    """Known once the shapes are."""

    kind = Kind.NONE
    status = "constant"

    def forward(self, at: At, *xs: Array) -> Array:
        if not at.output().static:
            raise UnsupportedError(
                f"{at.layer.op_type} {at.layer.name!r} is computed from the data and has no float64 forward; "
                "use dtype='float32'"
            )
        return at.xp.const(at.values.constant(at.output()))

    def vjp(self, at: At, *grads: Array) -> Gradients:
        return [None] * len(at.layer.inputs)

    def fixate(self, at: At, *points: Any) -> Sequence[Any | None]:
        """No point goes through."""
        return [None] * len(at.layer.inputs)


class _Comparison(Op):
    kind = Kind.NONE
    status = "no relevance"

    def vjp(self, at: At, *grads: Array) -> Gradients:
        return [None] * len(at.layer.inputs)

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The element that was compared: a one-hot code leads back to the number that it stands for."""
        return super().fixate(at, points)


@register("Equal")
class Equal(_Comparison):
    """a == b."""

    def forward(self, at: At, a: Array, b: Array) -> Array:
        return at.xp.equal(a, b)


@register("Less")
class Less(_Comparison):
    """a < b."""

    def forward(self, at: At, a: Array, b: Array) -> Array:
        return at.xp.less(a, b)


@register("Greater")
class Greater(_Comparison):
    """a > b."""

    def forward(self, at: At, a: Array, b: Array) -> Array:
        return at.xp.greater(a, b)


@register("Not")
class Not(_Comparison):
    """Not a."""

    def forward(self, at: At, a: Array) -> Array:
        return at.xp.equal(at.xp.cast(a), 0.0)


@register("And")
class And(_Comparison):
    """a and b."""

    def forward(self, at: At, a: Array, b: Array) -> Array:
        return at.xp.greater(at.xp.cast(a) * at.xp.cast(b), 0.0)


@register("Or")
class Or(_Comparison):
    """a or b."""

    def forward(self, at: At, a: Array, b: Array) -> Array:
        return at.xp.greater(at.xp.cast(a) + at.xp.cast(b), 0.0)
