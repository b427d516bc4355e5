"""Numba kernels of the host engine that go over elements: masks, stabilised ratios and the sums of the ledger.

Arrays are C-contiguous, inputs read-only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplain.engine.jit import Kernel
from onnxplain.engine.jit import reordered as _reordered
from onnxplain.engine.team import Turn, turns

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


@Kernel
def mask(turn: Turn, g: Floats, y: Floats, out: Floats, low: float, high: float, lower: bool, upper: bool) -> None:
    """g where low < y < high, else 0; ``lower`` and ``upper`` say which bounds count."""
    for start, stop in turns(turn):
        g_part, y_part, out_part = g[start:stop], y[start:stop], out[start:stop]
        for i in range(len(out_part)):
            inside = (not lower or y_part[i] > low) and (not upper or y_part[i] < high)
            out_part[i] = g_part[i] if inside else 0


@Kernel
def clip(turn: Turn, x: Floats, out: Floats, low: float, high: float) -> None:
    """x between low and high; NaN stays."""
    for start, stop in turns(turn):
        x_part, out_part = x[start:stop], out[start:stop]
        for i in range(len(out_part)):
            out_part[i] = low if x_part[i] < low else high if x_part[i] > high else x_part[i]


@Kernel
def sums(turn: Turn, x: Floats, out: Floats) -> None:
    """The sum of each row of x in float64."""
    for start, stop in turns(turn):
        for i in range(start, stop):
            out[i] = _sum(x[i])


@Kernel
def shares(turn: Turn, r: Floats, z: Floats, s: Floats, sums: Floats, epsilon: float, unsigned: bool) -> None:
    """s = r / (z + epsilon * sgn(z)) with sgn(0) = +1, and +1 everywhere where ``unsigned``.

    In float64, for each row: the sums of s, of s * sgn(z) with sgn(0) = 0, and of r where z is 0.
    """
    for start, stop in turns(turn):
        for i in range(start, stop):
            sums[i, 0], sums[i, 1], sums[i, 2] = _shares(r[i], z[i], s[i], epsilon, 1 if unsigned else -1)


@_reordered
def _shares(r: Floats, z: Floats, s: Floats, epsilon: float, minus: int) -> tuple[float, float, float]:
    total, signed, unmatched = 0.0, 0.0, 0.0
    for i in range(len(s)):
        s[i] = r[i] / (z[i] + (epsilon if z[i] >= 0 else minus * epsilon))
        total += s[i]
        signed += s[i] if z[i] > 0 else minus * s[i] if z[i] < 0 else 0
        unmatched += r[i] if z[i] == 0 else 0
    return total, signed, unmatched


@_reordered
def _sum(row: Floats) -> float:
    total = 0.0
    for i in range(len(row)):
        total += row[i]
    return total
