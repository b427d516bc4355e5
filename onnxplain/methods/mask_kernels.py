"""Masks written, laid over a picture and added up; see :mod:`onnxplain.engine.jit` for how kernels run."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplain.engine.jit import Kernel
from onnxplain.engine.team import Turn, items, turns

Floats = np.ndarray[Any, np.dtype[np.float32]]
Doubles = np.ndarray[Any, np.dtype[np.float64]]
Places = np.ndarray[Any, np.dtype[np.int64]]
BLOCK = 1024
"""Pixels that one item of :data:`accumulate` adds up."""


def _upsample(
    turn: Turn, planes: Floats, index: Places, rows: Places, row_share: Floats, columns: Places,
    column_share: Floats, corners: Places, scaled: bool, masks: Floats, areas: Doubles,
) -> None:  # fmt: skip
    """``masks[b]`` from ``planes[index[b]]``, linear along columns and then rows, cut out at ``corners[b]``.

    ``rows[0]`` and ``rows[1]`` name the two rows between which a row of the upsampled plane lies, ``row_share`` how far
    it is from the first; columns alike. With ``scaled`` the mask is brought to [0, 1], a constant one to 0.
    """
    height, width = masks.shape[1:]
    wide = np.empty((planes.shape[1], width), np.float32)
    low, high, area = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float64)
    for b in items(turn):
        plane, mask = planes[index[b]], masks[b]
        top, left = corners[b]
        for r in range(planes.shape[1]):
            for j in range(width):
                first = plane[r, columns[0, left + j]]
                wide[r, j] = first + column_share[left + j] * (plane[r, columns[1, left + j]] - first)
        for j in range(width):
            low[j], high[j], area[j] = np.inf, -np.inf, 0
        for i in range(height):
            above, below, share = wide[rows[0, top + i]], wide[rows[1, top + i]], row_share[top + i]
            for j in range(width):
                value = above[j] + share * (below[j] - above[j])
                mask[i, j] = value
                low[j] = value if value < low[j] else low[j]
                high[j] = value if value > high[j] else high[j]
        lowest, factor = np.float32(0), np.float32(1)
        if scaled:
            lowest, highest = low.min(), high.max()
            factor = 1 / (highest - lowest) if highest > lowest else np.float32(0)
        for i in range(height):
            for j in range(width):
                mask[i, j] = (mask[i, j] - lowest) * factor
                area[j] += mask[i, j]
        areas[b] = area.sum()


def _blend_planes(turn: Turn, masks: Floats, x: Floats, fill: Floats, out: Floats) -> None:
    """``out[b, c] = fill[c] + masks[b] * (x[c] - fill[c])``, pixels along the last axis."""
    for b in items(turn):
        for c in range(len(x)):
            for p in range(x.shape[1]):
                out[b, c, p] = fill[c] + masks[b, p] * (x[c, p] - fill[c])


def _blend_pixels(turn: Turn, masks: Floats, x: Floats, fill: Floats, out: Floats) -> None:
    """The same with the channels along the last axis; three of them, written out, become vector instructions."""
    for b in items(turn):
        mask, source, target = masks[b], x.reshape(-1), out[b].reshape(-1)
        if x.shape[1] == 3:
            red, green, blue = fill
            for p in range(len(x)):
                q = np.uintp(3 * p)
                target[q] = red + mask[p] * (source[q] - red)
                target[q + np.uintp(1)] = green + mask[p] * (source[q + np.uintp(1)] - green)
                target[q + np.uintp(2)] = blue + mask[p] * (source[q + np.uintp(2)] - blue)
        else:
            for p in range(len(x)):
                for c in range(x.shape[1]):
                    out[b, p, c] = fill[c] + mask[p] * (x[p, c] - fill[c])


def _accumulate(turn: Turn, masks: Floats, weights: Doubles, total: Doubles) -> None:
    """``total += sum over b of weights[b] * masks[b]``, every pixel in the order of the masks."""
    for start, stop in turns(turn):
        end = min(stop * BLOCK, len(total))
        for first in range(start * BLOCK, end, BLOCK):
            part = total[first : min(first + BLOCK, end)]
            for b in range(len(masks)):
                mask, weight = masks[b, first:], weights[b]
                for p in range(len(part)):
                    part[p] += weight * mask[p]


upsample = Kernel(_upsample)
blend_planes = Kernel(_blend_planes)
blend_pixels = Kernel(_blend_pixels)
accumulate = Kernel(_accumulate)
