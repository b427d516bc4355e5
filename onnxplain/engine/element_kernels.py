"""Numba kernels of the host engine that go over elements: masks, stabilised ratios and the sums of the ledger.

Arrays are C-contiguous, inputs read-only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplain.engine.jit import Kernel
from onnxplain.engine.jit import reordered as _reordered

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


@Kernel
def mask(
    start: int, stop: int, g: Floats, y: Floats, out: Floats, low: float, high: float, lower: bool, upper: bool
) -> None:
    """g where low < y < high, else 0; ``lower`` and ``upper`` say which bounds count."""
    g, y, out = g[start:stop], y[start:stop], out[start:stop]
    for i in range(len(out)):
        out[i] = g[i] if (not lower or y[i] > low) and (not upper or y[i] < high) else 0


@Kernel
def ratio(start: int, stop: int, r: Floats, z: Floats, out: Floats, epsilon: float) -> None:
    """r / (z + epsilon * sgn(z)) with sgn(0) = +1."""
    r, z, out = r[start:stop], z[start:stop], out[start:stop]
    for i in range(len(out)):
        out[i] = r[i] / (z[i] + (epsilon if z[i] >= 0 else -epsilon))


@Kernel
def sums(start: int, stop: int, x: Floats, out: Floats) -> None:
    """The sum of each row of x in float64."""
    for i in range(start, stop):
        out[i] = _sum(x[i])


@Kernel
def losses(start: int, stop: int, r: Floats, s: Floats, z: Floats, out: Floats) -> None:
    """In float64, for each row: the sum of s, of s * sgn(z), and of r where z is 0."""
    for i in range(start, stop):
        out[i, 0], out[i, 1], out[i, 2] = _losses(r[i], s[i], z[i])


@_reordered
def _losses(r: Floats, s: Floats, z: Floats) -> tuple[float, float, float]:
    total, signed, unmatched = 0.0, 0.0, 0.0
    for i in range(len(z)):
        total += s[i]
        signed += s[i] if z[i] > 0 else -s[i] if z[i] < 0 else 0
        unmatched += r[i] if z[i] == 0 else 0
    return total, signed, unmatched


@_reordered
def _sum(row: Floats) -> float:
    total = 0.0
    for i in range(len(row)):
        total += row[i]
    return total
