"""Reductions along axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxplain.engine.namespace import Array
from onnxplain.ops.base import At, Gradients, Kind, Op, register


class _Reduction(Op):
    kind = Kind.SUM
    keeps_sign = True

    def axes(self, at: At) -> tuple[int, ...]:
        """The reduced axes; none where an empty list means no reduction."""
        axes = at.parameter("axes", 1)
        given = [] if axes is None else [int(axis) for axis in axes]
        if not given:
            return () if at.get("noop_with_empty_axes", 0) else at.axes(None)
        return at.axes(given)

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The largest element that was reduced."""
        axes = self.axes(at)
        return (at.points.along(points, at.x(), at.out_shape(), axes) if axes else points,)

    def spread(self, at: At, g: Array) -> Array:
        """``g`` repeated along the reduced axes."""
        reduced = {axis: at.length(axis) for axis in self.axes(at)}
        kept = tuple(1 if axis in reduced else size for axis, size in enumerate(at.shape()))
        return at.xp.expand(at.xp.reshape(g, kept), at.shape())

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """Everything along the reduced axes."""
        axes = self.axes(at)
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(at.shape()))
        return (fields[0].reshaped(at.out_shape(), kept).whole(axes, at.shape()) if axes else fields[0], None)[
            : len(at.layer.inputs)
        ]


@register("ReduceSum")
class ReduceSum(_Reduction):
    """The sum along axes."""

    def forward(self, at: At, x: Array, *axes: Array) -> Array:
        return at.xp.sum(x, self.axes(at), bool(at["keepdims"])) if self.axes(at) else x

    def vjp(self, at: At, g: Array) -> Gradients:
        return (self.spread(at, g),)


@register("ReduceMean")
class ReduceMean(_Reduction):
    """The mean along axes."""

    def forward(self, at: At, x: Array, *axes: Array) -> Array:
        return at.xp.sum(x, self.axes(at), bool(at["keepdims"])) * self._share(at) if self.axes(at) else x

    def vjp(self, at: At, g: Array) -> Gradients:
        return (self.spread(at, g * self._share(at)),)

    def _share(self, at: At) -> float:
        return 1.0 / math.prod(at.length(axis) for axis in self.axes(at))


@register("ReduceMax")
class ReduceMax(_Reduction):
    """The maximum along axes; the first one in row-major order takes all."""

    kind = Kind.WINNER

    def forward(self, at: At, x: Array, *axes: Array) -> Array:
        return at.xp.max(x, self.axes(at), bool(at["keepdims"])) if self.axes(at) else x

    def vjp(self, at: At, g: Array) -> Gradients:
        xp, axes, shape = at.xp, self.axes(at), at.shape()
        if not axes:
            return (g,)
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        order = (*kept, *axes)
        size = math.prod(at.length(axis) for axis in axes)
        outer = tuple(shape[axis] for axis in kept)
        rows = xp.reshape(xp.transpose(at.x(), order), (*outer, size))
        chosen = xp.one_hot(xp.argmax(rows, len(outer)), len(outer), size)
        won = xp.reshape(chosen * xp.reshape(g, (*outer, 1)), tuple(shape[axis] for axis in order))
        return (xp.transpose(won, tuple(order.index(axis) for axis in range(len(shape)))),)
