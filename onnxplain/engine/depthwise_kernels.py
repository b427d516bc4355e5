"""The numba kernel of the host engine for convolutions of few channels to a group; see ``product_kernels``."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplain.engine.jit import Kernel
from onnxplain.engine.jit import inner as _inner
from onnxplain.engine.pool_kernels import ONE, ZERO, Axes, Floats, inside
from onnxplain.engine.product_kernels import LANES, copy, scale, up
from onnxplain.engine.team import Turn, turns
from onnxplain.engine.vectors import read, written


@Kernel
def depthwise(
    turn: Turn, x: Floats, w: Floats, b: Floats, by: Floats, y: Floats,
    strides: Axes, dilations: Axes, begin: Axes, spread: Axes,
) -> None:  # fmt: skip
    """Correlate within small groups of channels, without products of matrices: y = (w * x + b) * by.

    x is N x G x A x spatial, w is G x B x A x kernel, y and ``by`` are N x G x B x output, b is N or 1 x G x B x flat
    output or 1; items count samples and groups. x is first spread, with ``spread - 1`` zeros between
    neighbours: that makes this its own adjoint.

    A padded copy of the planes lets each tap run over many rows at once; columns that the stride leaves out are
    computed and dropped, which vector registers make cheaper than to leave them out.
    """
    groups, inputs = x.shape[1:3]
    outputs, _, kd, kh, kw = w.shape[1:]
    out_d, out_h, out_w = y.shape[3:]
    depth = (out_d - 1) * strides[0] + (kd - 1) * dilations[0] + 1
    height = (out_h - 1) * strides[1] + (kh - 1) * dilations[1] + 1
    width = (out_w - 1) * strides[2] + (kw - 1) * dilations[2] + 1
    rows, count = out_h, (out_w - 1) * strides[2] + 1
    if strides[1] == 1:
        rows, count = 1, up((out_h - 1) * width + count, LANES)
    plane, area = height * width + LANES, out_h * out_w
    padded = np.zeros((inputs, depth, plane), x.dtype)
    sums = np.empty(out_h * width + LANES, x.dtype)
    source, weights, factor, target = read(padded), read(w), read(by), written(y)
    for start, stop in turns(turn):
        for i in range(start, stop):
            n, g = divmod(i, groups)
            for a in range(inputs):
                _spread(x[n, g, a], padded[a], height, width, begin, spread)
            for m in range(outputs):
                bias = b[min(n, len(b) - 1), g, m]
                for o in range(out_d):
                    sums[:] = bias[0]
                    if len(bias) > 1:
                        copy(bias, o * area, out_w, ONE, sums, ZERO, width, strides[2], out_h, out_w)
                    for a in range(inputs):
                        for k0 in range(kd):
                            tap = (((g * outputs + m) * inputs + a) * kd + k0) * kh * kw
                            place = (a * depth + o * strides[0] + k0 * dilations[0]) * plane
                            _add_taps(
                                weights, tap, kh, kw, source, place, dilations[1] * width, dilations[2],
                                strides[1] * width, sums, width, rows, count,
                            )  # fmt: skip
                    first = ((i * outputs + m) * out_d + o) * area
                    copy(read(sums), ZERO, width, strides[2], target, first, out_w, ONE, out_h, out_w)
                    scale(factor, target, first, area)


@_inner
def _add_taps(
    w: Floats, first: int, kh: int, kw: int, source: Floats, s: int, down: int, right: int, step: int, sums: Floats,
    width: int, rows: int, count: int,
) -> None:  # fmt: skip
    """Add all taps of one plane of a kernel, of which neighbours lie ``down`` and ``right`` of each other."""
    for k1 in range(0, kh, 3):
        for k2 in range(0, kw, 3):
            _add_nine(
                w, first + k1 * kw + k2, kw, min(3, kh - k1), min(3, kw - k2), source, s + k1 * down + k2 * right,
                down, right, step, sums, width, rows, count,
            )  # fmt: skip


@_inner
def _three(w: Floats, first: int, count: int) -> tuple[Any, Any, Any]:
    """Three weights, 0 from ``count`` on."""
    zero = w.dtype.type(0)
    return (w[first] if count > 0 else zero, w[first + 1] if count > 1 else zero, w[first + 2] if count > 2 else zero)


@_inner
def _add_nine(
    w: Floats, first: int, w_step: int, high: int, wide: int, source: Floats, s: int, down: int, right: int,
    step: int, sums: Floats, width: int, rows: int, count: int,
) -> None:  # fmt: skip
    """Add ``high`` x ``wide`` taps, three by three at most, that lie ``down`` and ``right`` of each other."""
    u = _three(w, first, wide)
    v = _three(w, first + w_step, wide if high > 1 else 0)
    z = _three(w, first + 2 * w_step, wide if high > 2 else 0)
    v0, z0 = min(1, high - 1) * down, min(2, high - 1) * down
    one, two = min(1, wide - 1) * right, min(2, wide - 1) * right
    for h in range(rows):
        t, p = h * width, s + h * step
        for i in range(count):
            sums[np.uintp(t + i)] += (
                _row(u, source, p + i, one, two) + _row(v, source, p + v0 + i, one, two)
                + _row(z, source, p + z0 + i, one, two)
            )  # fmt: skip


@_inner
def _row(w: tuple[Any, Any, Any], x: Floats, p: int, one: int, two: int) -> Any:
    return w[0] * x[np.uintp(p)] + w[1] * x[np.uintp(p + one)] + w[2] * x[np.uintp(p + two)]


@_inner
def _spread(x: Floats, padded: Floats, height: int, width: int, begin: Axes, spread: Axes) -> None:
    """Place x[i] at ``i * spread + begin``."""
    low0, high0 = inside(x.shape[0], padded.shape[0], spread[0], begin[0])
    low1, high1 = inside(x.shape[1], height, spread[1], begin[1])
    low2, high2 = inside(x.shape[2], width, spread[2], begin[2])
    s = low1 * x.shape[2] + low2
    t = (low1 * spread[1] + begin[1]) * width + low2 * spread[2] + begin[2]
    rows, count = high1 - low1, high2 - low2
    for d in range(low0, high0):
        target = padded[d * spread[0] + begin[0]]
        copy(read(x[d]), s, x.shape[2], ONE, target, t, spread[1] * width, spread[2], rows, count)
