"""Numba kernels of the host engine that go over windows: convolutions and pools.

Arrays are C-contiguous, inputs read-only; spatial ones have three spatial axes. Window tuples hold one entry per axis,
``begin`` may be negative, and whatever a window reads outside the array is padding.

Convolutions multiply matrices tile by tile: what a tile of the output reads is laid out in a panel, one row per channel
and tap, small enough to stay in the second-level cache while all rows of weights go over it. Every element is summed in
the order of channels and taps, whatever the tile, so batches and threads do not change a result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplain.engine.jit import THREADS, Kernel
from onnxplain.engine.jit import inner as _inner

Axes = tuple[int, int, int]
Steps = tuple[int, int, int, int, int]
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Places = np.ndarray[Any, np.dtype[np.int64]]

SHARES = 2 * THREADS if THREADS > 1 else 1
"""How many items of a kernel keep all threads busy."""
LANES = 16
"""Elements of the longest vector register; a loop over a multiple of it leaves nothing to be done one by one."""
STEP = 4
"""Rows of weights, and rows of a panel, that :func:`_multiply` works on together."""
DEPTH = 256
"""Rows of a panel."""
COLUMNS = 2048
"""Columns of a product of few rows that are added up together."""


@_inner
def _up(length: int, multiple: int) -> int:
    return (length + multiple - 1) // multiple * multiple


@_inner
def _inside(out: int, size: int, stride: int, offset: int) -> tuple[int, int]:
    """The range of ``o < out`` for which ``0 <= o * stride + offset < size``."""
    low = min(max(0, -(offset // stride)), out)
    return low, max(low, min(out, (size - 1 - offset) // stride + 1))


@_inner
def _copy(
    source: Floats, s: int, s_step: int, s_stride: int, target: Floats, t: int, t_step: int, t_stride: int,
    rows: int, count: int,
) -> None:  # fmt: skip
    """``target[t + h * t_step + i * t_stride] = source[s + h * s_step + i * s_stride]`` for h < rows, i < count.

    Unsigned indices skip the test for negative ones, and strides known to the compiler give vector instructions.
    """
    for h in range(rows):
        first, place = s + h * s_step, t + h * t_step
        if s_stride == 1 and t_stride == 1:
            for i in range(count):
                target[np.uintp(place + i)] = source[np.uintp(first + i)]
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
def _fill(target: Floats, t: int, step: int, rows: int, count: int) -> None:
    for h in range(rows):
        for i in range(count):
            target[np.uintp(t + h * step + i)] = 0


@_inner
def _clear_outside(target: Floats, t: int, width: int, top: int, bottom: int, left: int, right: int) -> None:
    """Zeros in the columns outside ``left`` to ``right`` of the rows ``top`` to ``bottom``."""
    _fill(target, t + top * width, width, bottom - top, left)
    _fill(target, t + top * width + right, width, bottom - top, width - right)


@_inner
def _lay_out(
    x: Floats, n: int, samples: int, g: int, c: int, target: Floats, t: int,
    out: Axes, tap: Axes, strides: Axes, dilations: Axes, begin: Axes,
) -> None:  # fmt: skip
    """Write what each output position reads by one tap of channel ``c`` to ``target`` from ``t`` on, for all samples.

    Rows as wide as those of x are copied in one go, and cleared where neighbours ran into each other.
    """
    depth, height, width = x.shape[3:]
    shift_h, shift_w = tap[1] * dilations[1] - begin[1], tap[2] * dilations[2] - begin[2]
    top, bottom = _inside(out[1], height, strides[1], shift_h)
    left, right = _inside(out[2], width, strides[2], shift_w)
    rows, count = bottom - top, right - left
    s = (top * strides[1] + shift_h) * width + left * strides[2] + shift_w
    together = strides[1] == 1 and strides[2] == 1 and out[2] == width
    for i in range(samples * out[0]):
        d = i % out[0] * strides[0] + tap[0] * dilations[0] - begin[0]
        first = t + i * out[1] * out[2]
        if not 0 <= d < depth or not rows or not count:
            _fill(target, first, 0, 1, out[1] * out[2])
            continue
        source, place = x[n + i // out[0], g, c, d].reshape(-1), first + top * out[2] + left
        if together:
            _copy(source, s, 0, 1, target, place, 0, 1, 1, (rows - 1) * width + count)
        else:
            _copy(source, s, strides[1] * width, strides[2], target, place, out[2], 1, rows, count)
        _fill(target, first, 0, 1, top * out[2])
        _fill(target, first + bottom * out[2], 0, 1, (out[1] - bottom) * out[2])
        _clear_outside(target, first, out[2], top, bottom, left, right)


@_inner
def _add_back(
    source: Floats, s: int, x: Floats, n: int, samples: int, g: int, c: int,
    out: Axes, tap: Axes, strides: Axes, dilations: Axes, begin: Axes,
) -> None:  # fmt: skip
    """Adjoint of :func:`_lay_out`; ``source`` is overwritten."""
    depth, height, width = x.shape[3:]
    shift_h, shift_w = tap[1] * dilations[1] - begin[1], tap[2] * dilations[2] - begin[2]
    top, bottom = _inside(out[1], height, strides[1], shift_h)
    left, right = _inside(out[2], width, strides[2], shift_w)
    rows, count = bottom - top, right - left
    t = (top * strides[1] + shift_h) * width + left * strides[2] + shift_w
    together = strides[1] == 1 and strides[2] == 1 and out[2] == width
    one = x.dtype.type(1)
    for i in range(samples * out[0]):
        d = i % out[0] * strides[0] + tap[0] * dilations[0] - begin[0]
        if not 0 <= d < depth or not rows or not count:
            continue
        first = s + i * out[1] * out[2]
        target, place = x[n + i // out[0], g, c, d].reshape(-1), first + top * out[2] + left
        if together:
            _clear_outside(source, first, width, top, bottom, left, right)
            _add(one, source, place, 0, target, t, 0, 1, 1, (rows - 1) * width + count)
        else:
            _add(one, source, place, out[2], target, t, strides[1] * width, strides[2], rows, count)


@_inner
def _aligned(size: int, like: Floats) -> Floats:
    """Room that begins where a cache line begins."""
    store = np.empty(size + 64 // like.itemsize, like.dtype)
    first = -store.ctypes.data % 64 // like.itemsize
    return store[first : first + size]


@_inner
def _four(w: Floats, row: int, k0: int, k1: int, k2: int, k3: int) -> tuple[Any, Any, Any, Any]:
    return w[np.uintp(row + k0)], w[np.uintp(row + k1)], w[np.uintp(row + k2)], w[np.uintp(row + k3)]


@_inner
def _dot(w: tuple[Any, Any, Any, Any], x: tuple[Any, Any, Any, Any]) -> Any:
    return w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3]


@_inner
def _multiply(
    w: Floats, first: int, row_step: int, term_step: int, rows: int, terms: int, panel: Floats, sums: Floats, width: int
) -> None:
    """``sums[m, :] += w[first + m * row_step + k * term_step] * panel[k, :]`` for m < rows, k < terms.

    Panel and sums are flat, with rows of ``width`` up to the next multiple of STEP, those of the panel zero. The rows
    of sums stay in the first-level cache; four products for each load and store keep the multipliers busy.
    """
    for m in range(0, rows, STEP):
        r0, r1 = first + m * row_step, first + min(m + 1, rows - 1) * row_step
        r2, r3 = first + min(m + 2, rows - 1) * row_step, first + min(m + 3, rows - 1) * row_step
        s0, s1, s2, s3 = m * width, (m + 1) * width, (m + 2) * width, (m + 3) * width
        for k in range(0, terms, STEP):
            k0, k1 = k * term_step, min(k + 1, terms - 1) * term_step
            k2, k3 = min(k + 2, terms - 1) * term_step, min(k + 3, terms - 1) * term_step
            w0, w1 = _four(w, r0, k0, k1, k2, k3), _four(w, r1, k0, k1, k2, k3)
            w2, w3 = _four(w, r2, k0, k1, k2, k3), _four(w, r3, k0, k1, k2, k3)
            p0, p1, p2, p3 = k * width, (k + 1) * width, (k + 2) * width, (k + 3) * width
            for j in range(width):
                x = _four(panel, j, p0, p1, p2, p3)
                sums[np.uintp(s0 + j)] += _dot(w0, x)
                sums[np.uintp(s1 + j)] += _dot(w1, x)
                sums[np.uintp(s2 + j)] += _dot(w2, x)
                sums[np.uintp(s3 + j)] += _dot(w3, x)


@_inner
def _tap(k: int, kernel: Axes) -> tuple[int, Axes]:
    """The channel and the place in the kernel of term ``k``."""
    rest, k2 = divmod(k, kernel[2])
    rest, k1 = divmod(rest, kernel[1])
    channel, k0 = divmod(rest, kernel[0])
    return channel, (k0, k1, k2)


@_inner
def _clear_margins(panel: Floats, width: int, rows: int, columns: int) -> None:
    """Zeros in the panel behind the last column and below the last row."""
    _fill(panel, columns, width, rows, width - columns)
    _fill(panel, rows * width, 0, 1, (_up(rows, STEP) - rows) * width)


@Kernel
def conv(
    start: int, stop: int, x: Floats, w: Floats, y: Floats,
    kernel: Axes, strides: Axes, dilations: Axes, begin: Axes, steps: Steps,
) -> None:  # fmt: skip
    """Cross-correlation of x, N x G x C x spatial, with w, G x M x C x kernel, in y, N x G x M x output.

    ``steps`` are the sizes of a tile: output channels, samples, spatial axes. ``start`` to ``stop`` count groups and
    tiles.
    """
    samples, _, outputs, out_d, out_h, out_w = y.shape
    length = x.shape[2] * kernel[0] * kernel[1] * kernel[2]
    longest = _up(steps[1] * steps[2] * steps[3] * steps[4], LANES)
    panel = _aligned(_up(min(DEPTH, length), STEP) * longest, x)
    sums = _aligned(_up(steps[0], STEP) * longest, x)
    weights = w.reshape(-1)
    tiles_m, tiles_n = (outputs - 1) // steps[0] + 1, (samples - 1) // steps[1] + 1
    tiles_d, tiles_h, tiles_w = (out_d - 1) // steps[2] + 1, (out_h - 1) // steps[3] + 1, (out_w - 1) // steps[4] + 1
    for i in range(start, stop):
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
        width = _up(count * area, LANES)
        _fill(sums, 0, 0, 1, _up(rows, STEP) * width)
        for first in range(0, length, DEPTH):
            terms = min(DEPTH, length - first)
            _clear_margins(panel, width, terms, count * area)
            for k in range(terms):
                c, tap = _tap(first + k, kernel)
                _lay_out(x, n, count, g, c, panel, k * width, box, tap, strides, dilations, corner)
            _multiply(weights, (g * outputs + m) * length + first, length, 1, rows, terms, panel, sums, width)
        place = (d * out_h + h) * out_w + j
        for r in range(rows):
            for s in range(count):
                _copy(sums, r * width + s * area, 0, 1, y[n + s, g, m + r].reshape(-1), place, 0, 1, 1, area)


@Kernel
def conv_input_grad(
    start: int, stop: int, y: Floats, w: Floats, x: Floats,
    kernel: Axes, strides: Axes, dilations: Axes, begin: Axes, steps: Steps,
) -> None:  # fmt: skip
    """Adjoint of :func:`conv`: from y to x, with the same shapes.

    ``steps`` are the sizes of a tile: input channels, samples, spatial axes of the output. ``start`` to ``stop`` count
    groups, blocks of channels and samples; tiles overlap in x.
    """
    samples, _, outputs, out_d, out_h, out_w = y.shape
    channels, taps = x.shape[2], kernel[0] * kernel[1] * kernel[2]
    longest = _up(steps[1] * steps[2] * steps[3] * steps[4], LANES)
    panel = _aligned(_up(min(DEPTH, outputs), STEP) * longest, y)
    sums = _aligned(_up(min(DEPTH, steps[0] * taps), STEP) * longest, y)
    tiles_n, tiles_c = (samples - 1) // steps[1] + 1, (channels - 1) // steps[0] + 1
    for i in range(start, stop):
        rest, n = divmod(i, tiles_n)
        g, c = divmod(rest, tiles_c)
        n, c = n * steps[1], c * steps[0]
        count, stop_c = min(steps[1], samples - n), min(c + steps[0], channels)
        x[n : n + count, g, c:stop_c] = 0
        for d in range(0, out_d, steps[2]):
            for h in range(0, out_h, steps[3]):
                for j in range(0, out_w, steps[4]):
                    box = (min(steps[2], out_d - d), min(steps[3], out_h - h), min(steps[4], out_w - j))
                    corner = (begin[0] - d * strides[0], begin[1] - h * strides[1], begin[2] - j * strides[2])
                    place = (d * out_h + h) * out_w + j
                    _add_tile(
                        y, w[g].reshape(-1), x, n, count, g, c, stop_c, box, place,
                        kernel, strides, dilations, corner, panel, sums,
                    )  # fmt: skip


@_inner
def _add_tile(
    y: Floats, w: Floats, x: Floats, n: int, samples: int, g: int, start: int, stop: int, box: Axes, place: int,
    kernel: Axes, strides: Axes, dilations: Axes, corner: Axes, panel: Floats, sums: Floats,
) -> None:  # fmt: skip
    """What one tile of y, at ``place``, adds to the channels ``start`` to ``stop`` of group ``g`` of x."""
    outputs, taps = y.shape[2], kernel[0] * kernel[1] * kernel[2]
    length = x.shape[2] * taps
    area = box[0] * box[1] * box[2]
    width = _up(samples * area, LANES)
    for first in range(start * taps, stop * taps, DEPTH):
        rows = min(DEPTH, stop * taps - first)
        _fill(sums, 0, 0, 1, _up(rows, STEP) * width)
        for m in range(0, outputs, DEPTH):
            terms = min(DEPTH, outputs - m)
            _clear_margins(panel, width, terms, samples * area)
            for k in range(terms):
                for s in range(samples):
                    source = y[n + s, g, m + k].reshape(-1)
                    _copy(source, place, 0, 1, panel, k * width + s * area, 0, 1, 1, area)
            _multiply(w, m * length + first, 1, length, rows, terms, panel, sums, width)
        for k in range(rows):
            c, tap = _tap(first + k, kernel)
            _add_back(sums, k * width, x, n, samples, g, c, box, tap, strides, dilations, corner)


@Kernel
def few_rows(start: int, stop: int, a: Floats, b: Floats, y: Floats) -> None:
    """y = a b for an ``a`` of few rows, ``COLUMNS`` columns to an item; rows of b that meet zeros are not read."""
    rows, inner = a.shape
    width = b.shape[1]
    flat_b, flat_y = b.reshape(-1), y.reshape(-1)
    low, high = start * COLUMNS, min(stop * COLUMNS, width)
    for first in range(low, high, COLUMNS):
        count = min(COLUMNS, high - first)
        _fill(flat_y, first, width, rows, count)
        for k in range(inner):
            for row in range(rows):
                if a[row, k] != 0:
                    _add(a[row, k], flat_b, k * width + first, 0, flat_y, row * width + first, 0, 1, 1, count)


@Kernel
def depthwise(
    start: int, stop: int, x: Floats, w: Floats, y: Floats, strides: Axes, dilations: Axes, begin: Axes, spread: Axes
) -> None:
    """Correlate within small groups of channels, without products of matrices.

    x is N x G x A x spatial, w is G x B x A x kernel, y is N x G x B x output; ``start`` to ``stop`` count samples and
    groups. x is first spread, with ``spread - 1`` zeros between neighbours: that makes this its own adjoint.

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
        rows, count = 1, _up((out_h - 1) * width + count, LANES)
    padded = np.zeros((inputs, depth, height * width + LANES), x.dtype)
    sums = np.empty(out_h * width + LANES, x.dtype)
    for i in range(start, stop):
        n, g = divmod(i, groups)
        for a in range(inputs):
            _spread(x[n, g, a], padded[a], height, width, begin, spread)
        for b in range(outputs):
            for o in range(out_d):
                sums[:] = 0
                for a in range(inputs):
                    for k0 in range(kd):
                        plane = padded[a, o * strides[0] + k0 * dilations[0]]
                        for k1 in range(kh):
                            for k2 in range(kw):
                                shift = k1 * dilations[1] * width + k2 * dilations[2]
                                weight = w[g, b, a, k0, k1, k2]
                                _add(weight, plane, shift, strides[1] * width, sums, 0, width, 1, rows, count)
                _copy(sums, 0, width, strides[2], y[n, g, b, o].reshape(-1), 0, out_w, 1, out_h, out_w)


@_inner
def _spread(x: Floats, padded: Floats, height: int, width: int, begin: Axes, spread: Axes) -> None:
    """Place x[i] at ``i * spread + begin``."""
    low0, high0 = _inside(x.shape[0], padded.shape[0], spread[0], begin[0])
    low1, high1 = _inside(x.shape[1], height, spread[1], begin[1])
    low2, high2 = _inside(x.shape[2], width, spread[2], begin[2])
    s = low1 * x.shape[2] + low2
    t = (low1 * spread[1] + begin[1]) * width + low2 * spread[2] + begin[2]
    rows, count = high1 - low1, high2 - low2
    for d in range(low0, high0):
        target = padded[d * spread[0] + begin[0]]
        _copy(x[d].reshape(-1), s, x.shape[2], 1, target, t, spread[1] * width, spread[2], rows, count)


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
                left, right = _inside(len(maxima), width, strides[2], shift)
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
def max_pool(
    start: int, stop: int, x: Floats, y: Floats, kernel: Axes, strides: Axes, dilations: Axes, begin: Axes
) -> None:
    """Maximum over each window, -inf where it holds padding only; x is planes x spatial, y planes x output."""
    places = np.empty(y.shape[3], np.int64)
    for i in range(start, stop):
        for o in range(y.shape[1]):
            for h in range(y.shape[2]):
                _first_maxima(x[i], y[i, o, h], places, kernel, strides, dilations, begin, o, h)


@Kernel
def max_unpool(
    start: int, stop: int, g: Floats, x: Floats, dx: Floats, kernel: Axes, strides: Axes, dilations: Axes, begin: Axes
) -> None:
    """Add g at the first maximum of each window of x, nowhere where that is -inf, as in the padding.

    x and dx are planes x spatial, g is planes x output.
    """
    maxima = np.empty(g.shape[3], x.dtype)
    places = np.empty(g.shape[3], np.int64)
    for i in range(start, stop):
        plane = dx[i].reshape(-1)
        plane[:] = 0
        for o in range(g.shape[1]):
            for h in range(g.shape[2]):
                _first_maxima(x[i], maxima, places, kernel, strides, dilations, begin, o, h)
                for j in range(g.shape[3]):
                    if places[j] >= 0:
                        plane[places[j]] += g[i, o, h, j]
