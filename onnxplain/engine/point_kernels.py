"""Numba kernels that route points; their items are points unless they say otherwise."""

from __future__ import annotations

import numpy as np

from onnxplain.engine.jit import Kernel
from onnxplain.engine.jit import inner as _inner
from onnxplain.engine.pool_kernels import Axes, Floats, Places
from onnxplain.engine.team import Turn, items, turns


@_inner
def _clipped(position: int, size: int) -> int:
    return min(max(position, 0), size - 1)


@Kernel
def window(
    turn: Turn, index: Places, x: Floats, out: Axes, kernel: Axes, strides: Axes, dilations: Axes,
    begin: Axes, found: Places,
) -> None:  # fmt: skip
    """The first maximum of each point's window; x is planes x spatial. All padding: the cell nearest to its first."""
    _, depth, height, width = x.shape
    for start, stop in turns(turn):
        for p in range(start, stop):
            rest, o2 = divmod(index[p], out[2])
            rest, o1 = divmod(rest, out[1])
            plane, o0 = divmod(rest, out[0])
            first = (o0 * strides[0] - begin[0], o1 * strides[1] - begin[1], o2 * strides[2] - begin[2])
            at = (_clipped(first[0], depth) * height + _clipped(first[1], height)) * width + _clipped(first[2], width)
            best, seen = x[plane, 0, 0, 0], False
            for k0 in range(kernel[0]):
                z = first[0] + k0 * dilations[0]
                for k1 in range(kernel[1]):
                    y = first[1] + k1 * dilations[1]
                    for k2 in range(kernel[2]):
                        u = first[2] + k2 * dilations[2]
                        if 0 <= z < depth and 0 <= y < height and 0 <= u < width:
                            value = x[plane, z, y, u]
                            if not seen or value > best:
                                best, seen = value, True
                                at = (z * height + y) * width + u
            found[p] = plane * depth * height * width + at


@_inner
def _columns(
    x: Floats, n: int, base: int, channels: int, first: Axes, kernel: Axes, dilations: Axes, offsets: Places,
    column: Floats,
) -> None:  # fmt: skip
    """What a window sees of ``channels`` channels from ``base`` on, in the order of the weights; padding is 0."""
    _, _, depth, height, width = x.shape
    size = depth * height * width
    taps = len(offsets)
    tap = 0
    for k0 in range(kernel[0]):
        z = first[0] + k0 * dilations[0]
        for k1 in range(kernel[1]):
            y = first[1] + k1 * dilations[1]
            for k2 in range(kernel[2]):
                u = first[2] + k2 * dilations[2]
                inside = 0 <= z < depth and 0 <= y < height and 0 <= u < width
                offsets[tap] = (z * height + y) * width + u if inside else -1
                tap += 1
    flat = x.reshape(-1)
    start = (n * x.shape[1] + base) * size
    for c in range(channels):
        for tap in range(taps):
            value = flat[np.uintp(start + c * size + offsets[tap])] if offsets[tap] >= 0 else np.float32(0)
            column[np.uintp(c * taps + tap)] = value


@_inner
def _best_channel(column: Floats, w: Floats, taps: int, sign: float) -> int:
    """The channel with the largest sum of column * w, the first on ties."""
    winner, most = 0, -np.inf
    channels = len(w) // taps
    in_fours = channels // 4 * 4
    for c in range(0, in_fours, 4):  # four sums at a time: none waits for the addition before
        a, b, d, e = 0.0, 0.0, 0.0, 0.0
        for k in range(c * taps, (c + 1) * taps):
            a += float(column[np.uintp(k)]) * w[np.uintp(k)]
            b += float(column[np.uintp(k + taps)]) * w[np.uintp(k + taps)]
            d += float(column[np.uintp(k + 2 * taps)]) * w[np.uintp(k + 2 * taps)]
            e += float(column[np.uintp(k + 3 * taps)]) * w[np.uintp(k + 3 * taps)]
        a, b, d, e = a * sign, b * sign, d * sign, e * sign
        if max(max(a, b), max(d, e)) > most:
            for place, total in ((c, a), (c + 1, b), (c + 2, d), (c + 3, e)):
                if total > most:
                    winner, most = place, total
    for c in range(in_fours, channels):
        total = 0.0
        for k in range(c * taps, (c + 1) * taps):
            total += float(column[k]) * w[k]
        if total * sign > most:
            winner, most = c, total * sign
    return winner


@Kernel
def conv(
    turn: Turn, index: Places, signs: Floats, x: Floats, w: Floats, out: tuple[int, int, int, int],
    kernel: Axes, strides: Axes, dilations: Axes, begin: Axes, location: int, found: Places,
) -> None:  # fmt: skip
    """The input element behind each output element of a convolution; x is N x C x spatial, w M x (C/group * kernel).

    Points at one place of one group stand behind one another: what their window sees is laid out once.
    """
    _, channels, depth, height, width = x.shape
    taps = kernel[0] * kernel[1] * kernel[2]
    per_group = w.shape[1] // taps
    outs_per_group = out[0] // (channels // per_group)
    column, offsets = np.empty(w.shape[1], np.float32), np.empty(taps, np.int64)
    seen_n, seen_base, seen_first = -1, -1, (0, 0, 0)
    for p in items(turn):
        rest, o2 = divmod(index[p], out[3])
        rest, o1 = divmod(rest, out[2])
        rest, o0 = divmod(rest, out[1])
        n, m = divmod(rest, out[0])
        base = m // outs_per_group * per_group
        first = (o0 * strides[0] - begin[0], o1 * strides[1] - begin[1], o2 * strides[2] - begin[2])
        if n != seen_n or base != seen_base or first != seen_first:
            _columns(x, n, base, per_group, first, kernel, dilations, offsets, column)
            seen_n, seen_base, seen_first = n, base, first
        winner = _best_channel(column, w[m], taps, signs[p])
        z = _clipped(first[0] + (kernel[0] - 1) * dilations[0] // 2, depth)
        y = _clipped(first[1] + (kernel[1] - 1) * dilations[1] // 2, height)
        u = _clipped(first[2] + (kernel[2] - 1) * dilations[2] // 2, width)
        if location:
            best, seen, tap = 0.0, False, winner * taps
            for k0 in range(kernel[0]):
                a = first[0] + k0 * dilations[0]
                for k1 in range(kernel[1]):
                    b = first[1] + k1 * dilations[1]
                    for k2 in range(kernel[2]):
                        c = first[2] + k2 * dilations[2]
                        if 0 <= a < depth and 0 <= b < height and 0 <= c < width:
                            value = float(column[tap])
                            if location == 1:
                                value *= w[m, tap] * signs[p]
                            if not seen or value > best:
                                best, seen = value, True
                                z, y, u = a, b, c
                        tap += 1
        found[p] = (((n * channels + base + winner) * depth + z) * height + y) * width + u


@Kernel
def conv_transpose(
    turn: Turn, index: Places, signs: Floats, x: Floats, w: Floats, out: tuple[int, int, int, int],
    kernel: Axes, strides: Axes, dilations: Axes, begin: Axes, location: int, found: Places,
) -> None:  # fmt: skip
    """The same for a transposed convolution; w is C x M/group x kernel, the window that of the convolution it turns."""
    _, channels, depth, height, width = x.shape
    outs_per_group = w.shape[1]
    per_group = channels // (out[0] // outs_per_group)
    for p in items(turn):
        rest, o2 = divmod(index[p], out[3])
        rest, o1 = divmod(rest, out[2])
        rest, o0 = divmod(rest, out[1])
        n, m = divmod(rest, out[0])
        group, inner = divmod(m, outs_per_group)
        base = group * per_group
        winner, most = 0, 0.0
        best, seen = 0.0, False
        z = _clipped((o0 + begin[0] - (kernel[0] - 1) * dilations[0] // 2) // strides[0], depth)
        y = _clipped((o1 + begin[1] - (kernel[1] - 1) * dilations[1] // 2) // strides[1], height)
        u = _clipped((o2 + begin[2] - (kernel[2] - 1) * dilations[2] // 2) // strides[2], width)
        for candidate in range(per_group + (1 if location else 0)):
            chosen = candidate if candidate < per_group else winner
            total = 0.0
            for k0 in range(kernel[0]):
                a, rest0 = divmod(o0 + begin[0] - k0 * dilations[0], strides[0])
                for k1 in range(kernel[1]):
                    b, rest1 = divmod(o1 + begin[1] - k1 * dilations[1], strides[1])
                    if rest0 or rest1 or not (0 <= a < depth and 0 <= b < height):
                        continue
                    for k2 in range(kernel[2]):
                        c, rest2 = divmod(o2 + begin[2] - k2 * dilations[2], strides[2])
                        if rest2 or not 0 <= c < width:
                            continue
                        activation = float(x[n, base + chosen, a, b, c])
                        part = activation * w[base + chosen, inner, k0, k1, k2] * signs[p]
                        total += part
                        value = part if location == 1 else activation
                        if candidate == per_group and (not seen or value > best):
                            best, seen = value, True
                            z, y, u = a, b, c
            if candidate < per_group and (candidate == 0 or total > most):
                winner, most = candidate, total
        found[p] = (((n * channels + base + winner) * depth + z) * height + y) * width + u


@Kernel
def dense_best(turn: Turn, index: Places, signs: Floats, x: Floats, w: Floats, best: Places, value: Floats) -> None:
    """The largest contribution to each output of rows x @ w^T, the first on ties."""
    for p in items(turn):
        row, m = divmod(index[p], w.shape[0])
        most, at = 0.0, 0
        for k in range(x.shape[1]):
            part = float(x[row, k]) * w[m, k] * signs[p]
            if k == 0 or part > most:
                most, at = part, k
        best[p], value[p] = at, most


@Kernel
def dense_all(turn: Turn, index: Places, weight: Floats, signs: Floats, x: Floats, w: Floats, counts: Floats) -> None:
    """counts[row, k] += weight of every point to whose output input k contributes positively; items are inputs."""
    for start, stop in turns(turn):
        for p in range(len(index)):
            row, m = divmod(index[p], w.shape[0])
            for k in range(start, stop):
                if float(x[row, k]) * w[m, k] * signs[p] > 0:
                    counts[row, k] += weight[p]


@Kernel
def product(
    turn: Turn, signs: Floats, left: Places, right: Places, column: Places, a: Floats, b: Floats,
    follow: int, at_a: Places, at_b: Places,
) -> None:  # fmt: skip
    """The largest term of each point's a[left] . b[right, :, column], at the operand to follow; -1 at the other."""
    for p in items(turn):
        most, at = 0.0, 0
        for k in range(a.shape[1]):
            part = float(a[left[p], k]) * b[right[p], k, column[p]] * signs[p]
            if k == 0 or part > most:
                most, at = part, k
        to_b = follow == 1 or (follow == -1 and abs(b[right[p], at, column[p]]) > abs(a[left[p], at]))
        at_a[p] = -1 if to_b else left[p] * a.shape[1] + at
        at_b[p] = (right[p] * b.shape[1] + at) * b.shape[2] + column[p] if to_b else -1
