"""Numba kernels of the host engine that pool over windows, and what all kernels over windows need.

Arrays are C-contiguous, inputs read-only; spatial ones have three spatial axes. Window tuples hold one entry per axis,
``begin`` may be negative, and whatever a window reads outside the array is padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplain.engine.jit import Kernel
from onnxplain.engine.jit import inner as _inner
from onnxplain.engine.team import Turn, items

Axes = tuple[int, int, int]
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Places = np.ndarray[Any, np.dtype[np.int64]]


@_inner
def inside(out: int, size: int, stride: int, offset: int) -> tuple[int, int]:
    """The range of ``o < out`` for which ``0 <= o * stride + offset < size``."""
    low = min(max(0, -(offset // stride)), out)
    return low, max(low, min(out, (size - 1 - offset) // stride + 1))


@_inner
def _first_maxima(
    x: Floats, maxima: Floats, places: Places, kernel: Axes, strides: Axes, dilations: Axes, begin: Axes, o: int, h: int
) -> None:
    """Maximum and flat place of the first maximum for a row of windows; -inf and -1 where nothing exceeds -inf."""
    maxima[:] = -np.inf
    places[:] = -1
    depth, height, width = x.shape
    for k0 in range(kernel[0]):
        d = o * strides[0] + k0 * dilations[0] - begin[0]
        for k1 in range(kernel[1]):
            r = h * strides[1] + k1 * dilations[1] - begin[1]
            if not (0 <= d < depth and 0 <= r < height):
                continue
            for k2 in range(kernel[2]):
                shift = k2 * dilations[2] - begin[2]
                left, right = inside(len(maxima), width, strides[2], shift)
                first = left * strides[2] + shift
                best, place = maxima[left:right], places[left:right]
                _raise(x[d, r, first:], best, place, (d * height + r) * width + first, strides[2])


@_inner
def _raise(source: Floats, best: Floats, place: Places, first: int, stride: int) -> None:
    """Take every ``stride``-th element of ``source`` where it is greater, and its place counted from ``first``."""
    if stride == 1:
        for i in range(len(best)):
            better = source[i] > best[i]
            best[i] = source[i] if better else best[i]
            place[i] = first + i if better else place[i]
    elif stride == 2:
        for i in range(len(best)):
            better = source[i * 2] > best[i]
            best[i] = source[i * 2] if better else best[i]
            place[i] = first + i * 2 if better else place[i]
    else:
        for i in range(len(best)):
            better = source[i * stride] > best[i]
            best[i] = source[i * stride] if better else best[i]
            place[i] = first + i * stride if better else place[i]


@Kernel
def max_pool(turn: Turn, x: Floats, y: Floats, kernel: Axes, strides: Axes, dilations: Axes, begin: Axes) -> None:
    """Maximum over each window, -inf where it holds padding only; x is planes x spatial, y planes x output."""
    places = np.empty(y.shape[3], np.int64)
    for i in items(turn):
        for o in range(y.shape[1]):
            for h in range(y.shape[2]):
                _first_maxima(x[i], y[i, o, h], places, kernel, strides, dilations, begin, o, h)


@Kernel
def max_unpool(
    turn: Turn, g: Floats, x: Floats, dx: Floats, kernel: Axes, strides: Axes, dilations: Axes, begin: Axes
) -> None:
    """Add g at the first maximum of each window of x, nowhere where that is -inf, as in the padding.

    x and dx are planes x spatial, g is planes x output.
    """
    maxima = np.empty(g.shape[3], x.dtype)
    places = np.empty(g.shape[3], np.int64)
    for i in items(turn):
        plane = dx[i].reshape(-1)
        plane[:] = 0
        for o in range(g.shape[1]):
            for h in range(g.shape[2]):
                _first_maxima(x[i], maxima, places, kernel, strides, dilations, begin, o, h)
                for j in range(g.shape[3]):
                    if places[j] >= 0:
                        plane[places[j]] += g[i, o, h, j]
