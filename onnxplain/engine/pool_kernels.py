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
from onnxplain.engine.vectors import clear, read, written

Axes = tuple[int, int, int]
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Places = np.ndarray[Any, np.dtype[np.int64]]
ZERO: Any = np.intp(0)
ONE: Any = np.intp(1)
"""Arguments of functions that numba would compile anew for a literal 0 or 1."""


@_inner
def inside(out: int, size: int, stride: int, offset: int) -> tuple[int, int]:
    """The range of ``o < out`` for which ``0 <= o * stride + offset < size``."""
    low = min(max(0, -(offset // stride)), out)
    return low, max(low, min(out, (size - 1 - offset) // stride + 1))


@_inner
def _first_maxima(
    x: Floats, plane: int, size: Axes, maxima: Floats, m: int, places: Places, out: int,
    kernel: Axes, strides: Axes, dilations: Axes, begin: Axes, o: int, h: int,
) -> None:  # fmt: skip
    """Maximum, from ``m`` on, and flat place of the first maximum for a row of ``out`` windows over a plane of x.

    -inf and -1 where nothing exceeds -inf.
    """
    for i in range(out):
        maxima[m + i] = -np.inf
        places[i] = -1
    for k0 in range(kernel[0]):
        d = o * strides[0] + k0 * dilations[0] - begin[0]
        for k1 in range(kernel[1]):
            r = h * strides[1] + k1 * dilations[1] - begin[1]
            if not (0 <= d < size[0] and 0 <= r < size[1]):
                continue
            for k2 in range(kernel[2]):
                shift = k2 * dilations[2] - begin[2]
                left, right = inside(out, size[2], strides[2], shift)
                first = (d * size[1] + r) * size[2] + left * strides[2] + shift
                _raise(x, plane, first, strides[2], maxima, m + left, places, left, right - left)


@_inner
def _raise(
    source: Floats, plane: int, first: int, stride: int, best: Floats, b: int, places: Places, p: int, count: int
) -> None:
    """Take every ``stride``-th element from ``first`` on where it is greater, and its place in the plane."""
    if stride == 1:
        for i in range(count):
            _take(source, plane, first + i, best, b + i, places, p + i)
    elif stride == 2:
        for i in range(count):
            _take(source, plane, first + i * 2, best, b + i, places, p + i)
    else:
        for i in range(count):
            _take(source, plane, first + i * stride, best, b + i, places, p + i)


@_inner
def _take(source: Floats, plane: int, place: int, best: Floats, b: int, places: Places, p: int) -> None:
    value, most = source[np.uintp(plane + place)], best[np.uintp(b)]
    better = value > most
    best[np.uintp(b)] = value if better else most
    places[np.uintp(p)] = place if better else places[np.uintp(p)]


@Kernel
def max_pool(turn: Turn, x: Floats, y: Floats, kernel: Axes, strides: Axes, dilations: Axes, begin: Axes) -> None:
    """Maximum over each window, -inf where it holds padding only; x is planes x spatial, y planes x output."""
    places = np.empty(y.shape[3], np.int64)
    size, (out_d, out_h, out_w) = x.shape[1:], y.shape[1:]
    volume, source, target = size[0] * size[1] * size[2], read(x), written(y)
    for i in items(turn):
        for o in range(out_d):
            for h in range(out_h):
                m = ((i * out_d + o) * out_h + h) * out_w
                _first_maxima(
                    source, i * volume, size, target, m, places, out_w, kernel, strides, dilations, begin, o, h
                )  # fmt: skip


@Kernel
def max_unpool(
    turn: Turn, g: Floats, x: Floats, dx: Floats, kernel: Axes, strides: Axes, dilations: Axes, begin: Axes
) -> None:
    """Add g at the first maximum of each window of x, nowhere where that is -inf, as in the padding.

    x and dx are planes x spatial, g is planes x output.
    """
    size, (out_d, out_h, out_w) = x.shape[1:], g.shape[1:]
    maxima, places = np.empty(out_w, x.dtype), np.empty(out_w, np.int64)
    volume, source, arriving, target = size[0] * size[1] * size[2], read(x), read(g), written(dx)
    for i in items(turn):
        plane = i * volume
        clear(target, plane, volume)
        for o in range(out_d):
            for h in range(out_h):
                _first_maxima(
                    source, plane, size, maxima, ZERO, places, out_w, kernel, strides, dilations, begin, o, h
                )  # fmt: skip
                first = ((i * out_d + o) * out_h + h) * out_w
                for j in range(out_w):
                    if places[j] >= 0:
                        target[plane + places[j]] += arriving[first + j]
