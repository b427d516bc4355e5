"""Numba kernels of the host engine that multiply: products of matrices and convolutions.

Arrays are C-contiguous, inputs read-only; spatial ones have three spatial axes. Window tuples hold one entry per axis,
``begin`` may be negative, and whatever a window reads outside the array is padding. Where a kernel takes a factor of
its result, an array without elements stands for none.

Convolutions multiply matrices tile by tile: what a tile of the output reads is laid out in a panel, one row per channel
and tap, small enough to stay in the second-level cache while all rows of weights go over it. Every element is summed in
the order of channels and taps, whatever the tile, so batches and threads do not change a result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplain.engine.jit import Kernel
from onnxplain.engine.jit import inner as _inner
from onnxplain.engine.pool_kernels import ONE, ZERO, Axes, Floats, inside
from onnxplain.engine.team import Turn, items, turns
from onnxplain.engine.vectors import ROWS, VECTOR_BYTES, VECTORS, clear, move, read, tile, written
from onnxplain.engine.workers import THREADS

Steps = tuple[int, int, int, int, int]

SHARES = 2 * THREADS if THREADS > 1 else 1
"""How many items of a kernel keep all threads busy."""
LANES = 16
"""Elements of the longest vector register: rows of a multiple of it begin where a cache line does, one like the other,
and a loop over them leaves nothing to be done one by one."""
STEP = ROWS
"""Rows of weights that :func:`_multiply` works on together."""
_WIDE, _NARROW = tile(VECTORS, whole=True), tile(1, whole=False)
DEPTH = 256
"""Rows of a panel."""
COLUMNS = 2048
"""Columns of a product of few rows that are added up together."""


@_inner
def up(length: int, multiple: int) -> int:
    """The next multiple."""
    return (length + multiple - 1) // multiple * multiple


@_inner
def copy(
    source: Floats, s: int, s_step: int, s_stride: int, target: Floats, t: int, t_step: int, t_stride: int,
    rows: int, count: int,
) -> None:  # fmt: skip
    """``target[t + h * t_step + i * t_stride] = source[s + h * s_step + i * s_stride]`` for h < rows, i < count.

    Unsigned indices skip the test for negative ones, and strides known to the compiler give vector instructions.
    """
    for h in range(rows):
        first, place = s + h * s_step, t + h * t_step
        if s_stride == 1 and t_stride == 1:
            move(source, first, target, place, count)
        elif s_stride == 2 and t_stride == 1:
            for i in range(count):
                target[np.uintp(place + i)] = source[np.uintp(first + i * 2)]
        else:
            for i in range(count):
                target[np.uintp(place + i * t_stride)] = source[np.uintp(first + i * s_stride)]


@_inner
def _add(
    weight: np.floating[Any], source: Floats, s: int, s_step: int, target: Floats, t: int, t_step: int, t_stride: int,
    rows: int, count: int,
) -> None:  # fmt: skip
    """``target[t + h * t_step + i * t_stride] += weight * source[s + h * s_step + i]`` for h < rows, i < count."""
    for h in range(rows):
        first, place = s + h * s_step, t + h * t_step
        if t_stride == 1:
            for i in range(count):
                target[np.uintp(place + i)] += weight * source[np.uintp(first + i)]
        else:
            for i in range(count):
                target[np.uintp(place + i * t_stride)] += weight * source[np.uintp(first + i)]


@_inner
def _begin(b: Floats, channel: int, size: int, place: int, target: Floats, t: int, count: int) -> None:
    """What the sums of a channel start from: its one number, or its elements from ``place`` on."""
    if size > 1:
        move(b, channel * size + place, target, t, count)
    else:
        for i in range(count):
            target[np.uintp(t + i)] = b[channel]


@_inner
def scale(factor: Floats, target: Floats, first: int, count: int) -> None:
    """``target *= factor`` from ``first`` on; nothing where there is no factor."""
    if factor.size:
        for i in range(count):
            target[np.uintp(first + i)] *= factor[np.uintp(first + i)]


@_inner
def _met(
    size: Axes, out: Axes, tap: Axes, strides: Axes, dilations: Axes, begin: Axes
) -> tuple[int, int, int, int, int, int, int]:
    """What a tap reads inside a plane.

    The rows ``top`` to ``bottom`` and the columns ``left`` to ``right`` of the output that read, where in the plane the
    first of them does, and how many rows of how many columns to go over: rows as wide as those of the plane are one.
    """
    shift_h, shift_w = tap[1] * dilations[1] - begin[1], tap[2] * dilations[2] - begin[2]
    top, bottom = inside(out[1], size[1], strides[1], shift_h)
    left, right = inside(out[2], size[2], strides[2], shift_w)
    if left == right:
        bottom = top
    first = (top * strides[1] + shift_h) * size[2] + left * strides[2] + shift_w
    rows, count = bottom - top, right - left
    if rows and strides[1] == 1 and strides[2] == 1 and out[2] == size[2]:
        rows, count = 1, (rows - 1) * out[2] + count
    return top, bottom, left, right, first, rows, count


@_inner
def _clear_outside(target: Floats, t: int, out: Axes, top: int, bottom: int, left: int, right: int) -> None:
    """Zeros in a plane of the output, but for the columns ``left`` to ``right`` of the rows ``top`` to ``bottom``."""
    for h in range(out[1]):
        low, high = (left, right) if top <= h < bottom else (out[2], out[2])
        clear(target, t + h * out[2], low)
        clear(target, t + h * out[2] + high, out[2] - high)


@_inner
def _lay_out(
    x: Floats, n: int, samples: int, g: int, c: int, target: Floats, t: int,
    out: Axes, tap: Axes, strides: Axes, dilations: Axes, begin: Axes,
) -> None:  # fmt: skip
    """Write what each output position reads by one tap of channel ``c`` to ``target`` from ``t`` on, for all samples.

    Rows as wide as those of x are copied in one go, and cleared where neighbours ran into each other.
    """
    size, source = x.shape[3:], read(x)
    top, bottom, left, right, first, rows, count = _met(size, out, tap, strides, dilations, begin)
    for i in range(samples * out[0]):
        d = i % out[0] * strides[0] + tap[0] * dilations[0] - begin[0]
        begun, end = (top, bottom) if 0 <= d < size[0] else (0, 0)
        place = t + i * out[1] * out[2]
        if begun < end:
            s, to = _plane(x.shape, n + i // out[0], g, c, d) + first, place + top * out[2] + left
            copy(source, s, strides[1] * size[2], strides[2], target, to, out[2], ONE, rows, count)
        if end - begun < out[1] or right - left < out[2]:
            _clear_outside(target, place, out, begun, end, left, right)


@_inner
def _add_back(
    source: Floats, s: int, x: Floats, n: int, samples: int, g: int, c: int,
    out: Axes, tap: Axes, strides: Axes, dilations: Axes, begin: Axes,
) -> None:  # fmt: skip
    """Adjoint of :func:`_lay_out`; ``source`` is overwritten."""
    size, target, one = x.shape[3:], written(x), x.dtype.type(1)
    top, bottom, left, right, first, rows, count = _met(size, out, tap, strides, dilations, begin)
    for i in range(samples * out[0]):
        d = i % out[0] * strides[0] + tap[0] * dilations[0] - begin[0]
        if top < bottom and 0 <= d < size[0]:
            place, t = s + i * out[1] * out[2], _plane(x.shape, n + i // out[0], g, c, d) + first
            if right - left < out[2]:
                _clear_outside(source, place, out, top, bottom, left, right)
            place += top * out[2] + left
            _add(one, read(source), place, out[2], target, t, strides[1] * size[2], strides[2], rows, count)


@_inner
def _plane(shape: tuple[int, int, int, int, int, int], n: int, g: int, c: int, d: int) -> int:
    """Where in a row of all elements the plane of these indices begins."""
    _, groups, channels, depth, height, width = shape
    return (((n * groups + g) * channels + c) * depth + d) * height * width


@_inner
def _aligned(size: int, like: Floats) -> Floats:
    """Room that begins where a cache line begins."""
    store = np.empty(size + 64 // like.itemsize, like.dtype)
    first = -store.ctypes.data % 64 // like.itemsize
    return store[first : first + size]


@_inner
def _multiply(
    w: Floats, first: int, row_step: int, term_step: int, rows: int, terms: int,
    panel: Floats, p: int, p_step: int, sums: Floats, s: int, s_step: int, width: int,
) -> None:  # fmt: skip
    """``sums[s + m * s_step + j] += w[first + m * row_step + k * term_step] * panel[p + k * p_step + j]``, all flat.

    For m < rows, j < width, summed over k < terms in their order. Strips of columns stay in the first-level cache.
    """
    lanes = VECTOR_BYTES // w.itemsize
    j = 0
    while j < width:
        wide = width - j >= VECTORS * lanes
        for m in range(0, rows, STEP):
            row, place, high = first + m * row_step, s + m * s_step + j, min(STEP, rows - m)
            if wide:
                _WIDE(w, row, row_step, term_step, high, terms, panel, p + j, p_step, sums, place, s_step, width)
            else:
                left = width - j
                _NARROW(w, row, row_step, term_step, high, terms, panel, p + j, p_step, sums, place, s_step, left)
        j += VECTORS * lanes if wide else lanes


@Kernel
def matrices(
    turn: Turn, x: Floats, w: Floats, row_step: int, term_step: int, b: Floats, by: Floats, y: Floats,
    block: int, tile: int,
) -> None:  # fmt: skip
    """y = (W x + b) * by for stacks of matrices: x is N x G x K x columns, y and ``by`` N x G x M x columns.

    W of group g has ``w[g, m * row_step + k * term_step]`` in row m and column k. b is N or 1 x G x M x columns or 1.
    Items are samples, groups, blocks of rows and tiles of columns.
    """
    _, groups, terms, columns = x.shape
    rows = y.shape[2]
    source, weights, bias, factor, target = read(x), read(w), read(b), read(by), written(y)
    blocks, tiles = (rows - 1) // block + 1, (columns - 1) // tile + 1
    for i in items(turn):
        rest, j = divmod(i, tiles)
        rest, m = divmod(rest, blocks)
        n, g = divmod(rest, groups)
        m, j = m * block, j * tile
        height, width = min(block, rows - m), min(tile, columns - j)
        channel = (min(n, len(b) - 1) * groups + g) * rows + m
        place = ((n * groups + g) * rows + m) * columns + j
        for r in range(height):
            _begin(bias, channel + r, b.shape[3], j, target, place + r * columns, width)
        for k in range(0, terms, DEPTH):
            _multiply(
                weights, g * w.shape[1] + m * row_step + k * term_step, row_step, term_step, height,
                min(DEPTH, terms - k), source, ((n * groups + g) * terms + k) * columns + j, columns,
                target, place, columns, width,
            )  # fmt: skip
        for r in range(height):
            scale(factor, target, place + r * columns, width)


@_inner
def _tap(k: int, kernel: Axes) -> tuple[int, Axes]:
    """The channel and the place in the kernel of term ``k``."""
    rest, k2 = divmod(k, kernel[2])
    rest, k1 = divmod(rest, kernel[1])
    channel, k0 = divmod(rest, kernel[0])
    return channel, (k0, k1, k2)


@Kernel
def conv(
    turn: Turn, x: Floats, w: Floats, b: Floats, y: Floats,
    kernel: Axes, strides: Axes, dilations: Axes, begin: Axes, steps: Steps,
) -> None:  # fmt: skip
    """Cross-correlation of x, N x G x C x spatial, with w, G x M x C x kernel, plus b, in y, N x G x M x output.

    b is N or 1 x G x M x flat output or 1.

    ``steps`` are the sizes of a tile: output channels, samples, spatial axes. Items are groups and tiles.
    """
    samples, groups, outputs, out_d, out_h, out_w = y.shape
    length = x.shape[2] * kernel[0] * kernel[1] * kernel[2]
    longest = up(steps[1] * steps[2] * steps[3] * steps[4], LANES)
    panel, sums = _aligned(min(DEPTH, length) * longest, x), _aligned(steps[0] * longest, x)
    weights, bias, target = read(w), read(b), written(y)
    tiles_m, tiles_n = (outputs - 1) // steps[0] + 1, (samples - 1) // steps[1] + 1
    tiles_d, tiles_h, tiles_w = (out_d - 1) // steps[2] + 1, (out_h - 1) // steps[3] + 1, (out_w - 1) // steps[4] + 1
    for i in items(turn):
        rest, j = divmod(i, tiles_w)
        rest, h = divmod(rest, tiles_h)
        rest, d = divmod(rest, tiles_d)
        rest, n = divmod(rest, tiles_n)
        g, m = divmod(rest, tiles_m)
        m, n, d, h, j = m * steps[0], n * steps[1], d * steps[2], h * steps[3], j * steps[4]
        rows, count = min(steps[0], outputs - m), min(steps[1], samples - n)
        box = (min(steps[2], out_d - d), min(steps[3], out_h - h), min(steps[4], out_w - j))
        corner = (begin[0] - d * strides[0], begin[1] - h * strides[1], begin[2] - j * strides[2])
        area = box[0] * box[1] * box[2]
        width, place = up(count * area, LANES), (d * out_h + h) * out_w + j
        for r in range(rows):
            for s in range(count):
                channel = (min(n + s, len(b) - 1) * groups + g) * outputs + m + r
                _begin(bias, channel, b.shape[3], place, sums, r * width + s * area, area)
        for first in range(0, length, DEPTH):
            terms = min(DEPTH, length - first)
            for k in range(terms):
                c, tap = _tap(first + k, kernel)
                _lay_out(x, n, count, g, c, panel, k * width, box, tap, strides, dilations, corner)
            row = (g * outputs + m) * length + first
            _multiply(
                weights, row, length, ONE, rows, terms, read(panel), ZERO, width, sums, ZERO, width, count * area
            )  # fmt: skip
        for r in range(rows):
            for s in range(count):
                move(sums, r * width + s * area, target, _plane(y.shape, n + s, g, m + r, ZERO) + place, area)


@Kernel
def conv_input_grad(
    turn: Turn, y: Floats, w: Floats, by: Floats, x: Floats,
    kernel: Axes, strides: Axes, dilations: Axes, begin: Axes, steps: Steps,
) -> None:  # fmt: skip
    """Adjoint of :func:`conv`: from y to x, with the same shapes, times ``by``, in the shape of x.

    ``steps`` are the sizes of a tile: input channels, samples, spatial axes of the output. Items are groups, blocks of
    channels and samples; tiles overlap in x.
    """
    samples, _, outputs, out_d, out_h, out_w = y.shape
    channels, taps = x.shape[2], kernel[0] * kernel[1] * kernel[2]
    longest = up(steps[1] * steps[2] * steps[3] * steps[4], LANES)
    panel = _aligned(min(DEPTH, outputs) * longest, y)
    sums = _aligned(min(DEPTH, steps[0] * taps) * longest, y)
    factor, target, volume = read(by), written(x), x.shape[3] * x.shape[4] * x.shape[5]
    tiles_n, tiles_c = (samples - 1) // steps[1] + 1, (channels - 1) // steps[0] + 1
    for i in items(turn):
        rest, n = divmod(i, tiles_n)
        g, c = divmod(rest, tiles_c)
        n, c = n * steps[1], c * steps[0]
        count, stop_c = min(steps[1], samples - n), min(c + steps[0], channels)
        for s in range(n, n + count):
            clear(target, _plane(x.shape, s, g, c, ZERO), (stop_c - c) * volume)
        for d in range(0, out_d, steps[2]):
            for h in range(0, out_h, steps[3]):
                for j in range(0, out_w, steps[4]):
                    box = (min(steps[2], out_d - d), min(steps[3], out_h - h), min(steps[4], out_w - j))
                    corner = (begin[0] - d * strides[0], begin[1] - h * strides[1], begin[2] - j * strides[2])
                    place = (d * out_h + h) * out_w + j
                    _add_tile(
                        y, w, x, n, count, g, c, stop_c, box, place, kernel, strides, dilations, corner, panel, sums
                    )  # fmt: skip
        for s in range(n, n + count):
            scale(factor, target, _plane(x.shape, s, g, c, ZERO), (stop_c - c) * volume)


@_inner
def _add_tile(
    y: Floats, w: Floats, x: Floats, n: int, samples: int, g: int, start: int, stop: int, box: Axes, place: int,
    kernel: Axes, strides: Axes, dilations: Axes, corner: Axes, panel: Floats, sums: Floats,
) -> None:  # fmt: skip
    """What one tile of y, at ``place``, adds to the channels ``start`` to ``stop`` of group ``g`` of x."""
    outputs, taps = y.shape[2], kernel[0] * kernel[1] * kernel[2]
    length, source, weights = x.shape[2] * taps, read(y), read(w)
    area = box[0] * box[1] * box[2]
    width = up(samples * area, LANES)
    for first in range(start * taps, stop * taps, DEPTH):
        rows = min(DEPTH, stop * taps - first)
        clear(sums, 0, rows * width)
        for m in range(0, outputs, DEPTH):
            terms = min(DEPTH, outputs - m)
            for k in range(terms):
                for s in range(samples):
                    move(source, _plane(y.shape, n + s, g, m + k, ZERO) + place, panel, k * width + s * area, area)
            row = (g * outputs + m) * length + first
            _multiply(
                weights, row, ONE, length, rows, terms, read(panel), ZERO, width, sums, ZERO, width, samples * area
            )  # fmt: skip
        for k in range(rows):
            c, tap = _tap(first + k, kernel)
            _add_back(sums, k * width, x, n, samples, g, c, box, tap, strides, dilations, corner)


@Kernel
def few_rows(turn: Turn, a: Floats, b: Floats, y: Floats) -> None:
    """y = a b for an ``a`` of few rows, ``COLUMNS`` columns to an item; rows of b that meet zeros are not read."""
    rows, inner = a.shape
    width = b.shape[1]
    source, target = read(b), written(y)
    for start, stop in turns(turn):
        high = min(stop * COLUMNS, width)
        for first in range(start * COLUMNS, high, COLUMNS):
            count = min(COLUMNS, high - first)
            for row in range(rows):
                clear(target, row * width + first, count)
            for k in range(inner):
                for row in range(rows):
                    if a[row, k] != 0:
                        s, t = k * width + first, row * width + first
                        _add(a[row, k], source, s, ZERO, target, t, ZERO, ONE, ONE, count)
