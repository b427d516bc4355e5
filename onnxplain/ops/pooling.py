"""Max and average pools, local and global."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxplain.engine.namespace import Array, Window
from onnxplain.graph.layers import Layer
from onnxplain.ops.base import At, Gradients, Kind, Op, register
from onnxplain.ops.window import end_pads, spatial_window, unstrided

_AGREED = 22
"""The version from which on shape inference counts the windows that kernels read."""


def miscounted(layer: Layer) -> bool:
    """Whether inference may count one more along an axis: in ceil mode, a last window that starts in the padding."""
    pool = layer.op_type in ("AveragePool", "MaxPool") and not layer.domain
    return pool and layer.since_version < _AGREED and bool(layer.attributes.get("ceil_mode", 0))


class _Pool(Op):
    keeps_sign = True

    def window(self, at: At) -> Window:
        """Where each output looks."""
        raise NotImplementedError  # pragma: no cover

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """The window, of the same channel."""
        return (fields[0].windowed(self.window(at), at.shape()),)

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The largest activation of the window, of average pools too."""
        return (at.points.window(points, at.x(), at.out_shape(), self.window(at)),)


class _GlobalWindow(_Pool):
    def window(self, at: At) -> Window:
        """One window over everything."""
        size = at.shape(0)[2:]
        ones, zeros = (1,) * len(size), (0,) * len(size)
        return Window(tuple(size), ones, ones, zeros, zeros)


class _LocalWindow(_Pool):
    def window(self, at: At) -> Window:
        """Kernel, strides, dilations and pads from the node."""
        return spatial_window(at, at["kernel_shape"])


class _Max(_Pool):
    kind = Kind.WINNER

    def forward(self, at: At, x: Array) -> Array:
        return at.xp.max_pool(x, self.window(at))

    def vjp(self, at: At, g: Array, *indices: Array) -> Gradients:
        return (at.xp.max_unpool(g, at.x(), self.window(at)),)

    def unstrided(self, at: At, g: Array, *indices: Array) -> Gradients:
        """A maximum that several windows share takes the mean of their signals instead of the sum."""
        window = self.window(at)
        (total,) = self.vjp(at, g)
        if all(kernel <= stride for kernel, stride in zip(window.kernel, window.strides, strict=True)):
            return (total,)
        return (total / at.xp.maximum(at.xp.max_unpool(at.xp.ones_like(g), at.x(), window), 1.0),)


class _Average(_Pool):
    kind = Kind.SUM

    def forward(self, at: At, x: Array) -> Array:
        return at.xp.sum_pool(x, self.window(at)) * self._share(at)

    def vjp(self, at: At, g: Array) -> Gradients:
        return (at.xp.sum_unpool(g * self._share(at), self.window(at), at.shape(0)[2:]),)

    def unstrided(self, at: At, g: Array) -> Gradients:
        """The sum over windows moved by one."""
        g, window = unstrided(at, g * self._share(at), self.window(at))
        return (at.xp.sum_unpool(g, window, at.shape(0)[2:]),)

    def _share(self, at: At) -> Array:
        """1 / (number of elements that an output averages), a number where all outputs agree."""
        window, size = self.window(at), at.shape(0)[2:]
        begin, end = (0,) * len(size), (0,) * len(size)
        if at.get("count_include_pad", 0):
            begin, end = window.begin, end_pads(at, window)
        counts = [
            [
                sum(-begin[axis] <= o * stride - first + k * dilation < size[axis] + end[axis] for k in range(kernel))
                for o in range(at.out_shape()[2 + axis])
            ]
            for axis, (kernel, stride, dilation, first) in enumerate(zip(*window[:4], strict=True))
        ]
        if all(count == kernel for per_axis, kernel in zip(counts, window.kernel, strict=True) for count in per_axis):
            return 1.0 / math.prod(window.kernel)
        share = at.xp.const([1.0])
        for axis, per_axis in enumerate(counts):
            shape = [1] * at.rank()
            shape[2 + axis] = len(per_axis)
            share = share * at.xp.reshape(at.xp.const([1.0 / count for count in per_axis]), shape)
        return share


@register("MaxPool")
class MaxPool(_LocalWindow, _Max):
    """The first maximum of each window takes all."""


@register("GlobalMaxPool")
class GlobalMaxPool(_GlobalWindow, _Max):
    """The first maximum of each channel takes all."""


@register("AveragePool")
class AveragePool(_LocalWindow, _Average):
    """The mean over each window, padding counted where count_include_pad says so."""


@register("GlobalAveragePool")
class GlobalAveragePool(_GlobalWindow, _Average):
    """The mean over each channel."""
