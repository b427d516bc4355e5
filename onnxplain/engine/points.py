"""Point sets and their routing: what a fixation step is written against.

A point is one element of a tensor that carried the decision; several paths to one element are one point with their
number as its weight. Ops see :class:`Routing` as ``at.points``; numba does the work per point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxplain.engine.namespace import Window

LOCATIONS = ("center", "contribution", "activation")

MOST = 2**53
"""The largest weight: more paths to one element are counted as so many, as floats hold every integer below."""

Shape = Sequence[int]


@dataclass(frozen=True)
class Points:
    """Elements of one tensor, each once.

    Attributes
    ----------
    index : numpy.ndarray
        int64, P flat indices into the tensor, ascending for each sign.
    weight : numpy.ndarray
        int64, how many paths end at each.
    sign : numpy.ndarray or None
        float32, +1, -1 or 0: what the contributions to each point are multiplied with, for points that came through a
        batch normalization; an element may then stand here once per sign. None where every sign is +1.
    """

    index: np.ndarray
    weight: np.ndarray
    sign: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def signs(self) -> np.ndarray:
        """``sign``, ones where it is None."""
        return np.ones(len(self), np.float32) if self.sign is None else self.sign

    def merged(self) -> Points:
        """Every element once, whatever its signs."""
        return self if self.sign is None else gathered(self.index, self.weight)


def gathered(index: np.ndarray, weight: np.ndarray) -> Points:
    """Points with equal indices merged, ascending; negative indices are left out."""
    order = index.argsort()
    index = index[order]
    if len(index) and index[0] < 0:
        order, index = order[index >= 0], index[index >= 0]
    weight = weight[order]
    new = index[1:] != index[:-1]
    if new.all():
        return Points(index, weight)
    starts = np.concatenate([[0], np.flatnonzero(new) + 1])
    total = np.add.reduceat(weight, starts, dtype=np.float64)
    return Points(index[starts], np.minimum(total, MOST).astype(np.int64))


def merge(a: Points, b: Points) -> Points:
    """Both sets as one."""
    index, weight = np.concatenate([a.index, b.index]), np.concatenate([a.weight, b.weight])
    if a.sign is None and b.sign is None:
        return gathered(index, weight)
    signs = np.concatenate([a.signs, b.signs])
    parts = [(sign, gathered(index[signs == sign], weight[signs == sign])) for sign in np.unique(signs)]
    return Points(
        np.concatenate([part.index for _, part in parts]),
        np.concatenate([part.weight for _, part in parts]),
        np.concatenate([np.full(len(part), sign, np.float32) for sign, part in parts]),
    )


class Routing:
    """The steps that points take from the output of an op to its inputs.

    Parameters
    ----------
    location : {"center", "contribution", "activation"}
        Where in a convolution's window a point lands: its middle (the published rule; of an even number of cells the
        one before the middle), the largest contribution of the winning channel, or that channel's largest activation.
    """

    def __init__(self, location: str = "center") -> None:
        from onnxplain.engine import point_kernels  # numba takes long to import

        self.location = LOCATIONS.index(location)
        self._kernels = point_kernels

    def joined(self, a: Points, b: Points) -> Points:
        """Both sets as one."""
        return merge(a, b)

    # elements that move

    def fitted(self, points: Points, out_shape: Shape, shape: Shape) -> Points:
        """The same element of an operand that was broadcast from ``shape``."""
        if tuple(out_shape) == tuple(shape):
            return points
        return gathered(_fit(points.index, out_shape, shape), points.weight)

    def along_axes(self, points: Points, out_shape: Shape, shape: Shape, places: Mapping[int, Sequence[int]]) -> Points:
        """Replace the coordinate along each axis of ``places`` by the input coordinate that stands there."""
        coordinates = list(np.unravel_index(points.index, tuple(out_shape)))
        for axis, table in places.items():
            coordinates[axis] = np.asarray(table, np.int64).reshape(-1)[coordinates[axis]] % shape[axis]
        return gathered(np.ravel_multi_index(coordinates, tuple(shape)), points.weight)

    def transposed(self, points: Points, out_shape: Shape, perm: Shape) -> Points:
        """Back through a transposition to ``out_shape`` by ``perm``."""
        coordinates = np.unravel_index(points.index, tuple(out_shape))
        axes = [perm.index(axis) for axis in range(len(perm))]
        index = np.ravel_multi_index([coordinates[axis] for axis in axes], [out_shape[axis] for axis in axes])
        return gathered(index, points.weight)

    def parted(self, points: Points, out_shape: Shape, lengths: Shape, axis: int) -> list[Points]:
        """Each point to the operand that it was taken from, for operands of ``lengths`` one behind the other."""
        inner = math.prod(out_shape[axis + 1 :])
        outer, rest = np.divmod(points.index, out_shape[axis] * inner)
        parts, start = [], 0
        for length in lengths:
            here = (rest >= start * inner) & (rest < (start + length) * inner)
            index = outer[here] * (length * inner) + rest[here] - start * inner
            parts.append(Points(index, points.weight[here]))
            start += length
        return parts

    def chosen(self, points: Points, out_shape: Shape, condition: np.ndarray, shapes: Sequence[Shape]) -> list[Points]:
        """Each point to the first operand where the condition holds, else to the second."""
        held = condition.reshape(-1)[_fit(points.index, out_shape, condition.shape)].astype(bool)
        parts = [Points(points.index[here], points.weight[here]) for here in (held, ~held)]
        return [self.fitted(part, out_shape, shape) for part, shape in zip(parts, shapes, strict=True)]

    def signed(self, points: Points, out_shape: Shape, scale: np.ndarray) -> Points:
        """The same elements, their contributions to be taken with the sign of their channel's ``scale``."""
        channel = points.index // math.prod(out_shape[2:]) % len(scale)
        signs = np.sign(scale).astype(np.float32)[channel]
        return points if (signs == 1).all() else Points(points.index, points.weight, signs)

    # elements that were computed

    def largest(
        self,
        points: Points,
        out_shape: Shape,
        operands: Sequence[np.ndarray],
        measures: Sequence[Callable[[np.ndarray], np.ndarray]] | None = None,
    ) -> list[Points]:
        """Each point to the operand that is largest there, the first on ties; ``measures`` say what is compared."""
        places = [_fit(points.index, out_shape, operand.shape) for operand in operands]
        values = [operand.reshape(-1)[place] for operand, place in zip(operands, places, strict=True)]
        if measures is not None:
            values = [measure(value) for measure, value in zip(measures, values, strict=True)]
        winner = np.stack(values).argmax(axis=0)
        return [gathered(place[winner == i], points.weight[winner == i]) for i, place in enumerate(places)]

    def along(self, points: Points, x: np.ndarray, out_shape: Shape, axes: Sequence[int]) -> Points:
        """Through a reduction over ``axes``: the largest element that was reduced, the first on ties."""
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        turned = x.transpose(*kept, *axes)
        inner = math.prod(x.shape[axis] for axis in axes)
        best = turned.reshape(-1, inner).argmax(axis=1)[points.index]
        here = Points(points.index * inner + best, points.weight)
        return self.transposed(here, turned.shape, [*kept, *axes])

    def window(self, points: Points, x: np.ndarray, out_shape: Shape, window: Window) -> Points:
        """The largest activation of the window in the point's channel, padding left out."""
        planes = np.ascontiguousarray(x).reshape(-1, *_three(x.shape[2:], 1))
        found = np.empty(len(points), np.int64)
        work = len(points) * math.prod(window.kernel)
        self._kernels.window(len(points), work, points.index, planes, _three(out_shape[2:], 1), *_steps(window), found)
        return gathered(found, points.weight)

    def conv(self, points: Points, x: np.ndarray, w: np.ndarray, out_shape: Shape, window: Window) -> Points:
        """The channel with the largest summed contribution, then the place by ``location``."""
        spatial = math.prod(out_shape[2:])
        order = np.argsort(points.index % spatial, kind="stable")
        here = Points(points.index[order], points.weight[order], points.signs[order])
        return self._convolved(self._kernels.conv, here, _volume(x), w.reshape(len(w), -1), out_shape, window)

    def conv_transpose(self, points: Points, x: np.ndarray, w: np.ndarray, out_shape: Shape, window: Window) -> Points:
        """As :meth:`conv` for a transposed convolution; the window holds the inputs that reach the point."""
        return self._convolved(self._kernels.conv_transpose, points, _volume(x), _volume(w), out_shape, window)

    def _convolved(
        self, kernel: Any, points: Points, x: np.ndarray, w: np.ndarray, out_shape: Shape, window: Window
    ) -> Points:
        found = np.empty(len(points), np.int64)
        work = len(points) * math.prod(w.shape[1:])
        out = (out_shape[1], *_three(out_shape[2:], 1))
        kernel(
            len(points), work, points.index, points.signs, x, w, out, *_steps(window), self.location, found
        )  # fmt: skip
        return gathered(found, points.weight)

    def dense(self, points: Points, x: np.ndarray, w: np.ndarray, every: bool) -> Points:
        """Through rows ``x @ w``: every positive contribution, or the largest one.

        Parameters
        ----------
        x : R x K
        w : K x M
        every : bool
            Keep all positive contributions (the largest where none is), else the largest only.
        """
        x, turned = np.ascontiguousarray(x), w.T
        best, value = np.empty(len(points), np.int64), np.empty(len(points), np.float64)
        work = len(points) * x.shape[1]
        self._kernels.dense_best(len(points), work, points.index, points.signs, x, turned, best, value)
        row = points.index // w.shape[1]
        if not every:
            return gathered(row * x.shape[1] + best, points.weight)
        counts = np.zeros(x.shape, np.float64)
        some = value > 0
        self._kernels.dense_all(
            x.shape[1], work, points.index[some], points.weight[some].astype(np.float64), points.signs[some], x, turned,
            counts,
        )  # fmt: skip
        np.add.at(counts, (row[~some], best[~some]), points.weight[~some])
        index = np.flatnonzero(counts)
        return Points(index, np.minimum(counts.reshape(-1)[index], MOST).astype(np.int64))

    def product(
        self, points: Points, a: np.ndarray, b: np.ndarray, out_shape: Shape, follow: int | None
    ) -> list[Points]:
        """Through a batched product a @ b: the largest a * b of the sum, then operand ``follow``.

        ``follow`` None takes the operand whose element there is larger in magnitude, the first on ties.
        """
        out_shape = list(out_shape)
        if a.ndim == 1:
            a = a[None]
            out_shape.insert(len(out_shape) - (b.ndim > 1), 1)
        if b.ndim == 1:
            b = b[:, None]
            out_shape.append(1)
        *batch, i, j = np.unravel_index(points.index, tuple(out_shape))
        lines = np.ravel_multi_index(batch, out_shape[:-2]) if batch else np.zeros(len(points), np.int64)
        left = _fit(lines, out_shape[:-2], a.shape[:-2]) * a.shape[-2] + i
        right = _fit(lines, out_shape[:-2], b.shape[:-2])
        rows = np.ascontiguousarray(a).reshape(-1, a.shape[-1])
        matrices = np.ascontiguousarray(b).reshape(-1, *b.shape[-2:])
        at_a, at_b = np.empty(len(points), np.int64), np.empty(len(points), np.int64)
        self._kernels.product(
            len(points), len(points) * a.shape[-1], points.signs, left, right, j, rows, matrices,
            -1 if follow is None else follow, at_a, at_b,
        )  # fmt: skip
        return [gathered(at_a, points.weight), gathered(at_b, points.weight)]


def _fit(index: np.ndarray, out_shape: Shape, shape: Shape) -> np.ndarray:
    if tuple(out_shape) == tuple(shape):
        return index
    if not shape:
        return np.zeros_like(index)
    coordinates = np.unravel_index(index, tuple(out_shape))[len(out_shape) - len(shape) :]
    fitted = [np.where(size == 1, 0, coordinate) for size, coordinate in zip(shape, coordinates, strict=True)]
    return np.asarray(np.ravel_multi_index(fitted, tuple(shape)))


def _three(sizes: Shape, fill: int) -> tuple[int, int, int]:
    padded = (fill,) * (3 - len(sizes)) + tuple(sizes)
    return padded[0], padded[1], padded[2]


def _steps(window: Window) -> tuple[tuple[int, int, int], ...]:
    kernel, strides, dilations, begin = window[:4]
    return _three(kernel, 1), _three(strides, 1), _three(dilations, 1), _three(begin, 0)


def _volume(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(*x.shape[:2], *_three(x.shape[2:], 1))
