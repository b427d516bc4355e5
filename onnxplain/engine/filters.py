"""Filters as the CPU provider's convolutions read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_VECTOR_BYTES = 64
"""The widest vector, and a cache line."""


def laid_out(filters: np.ndarray, block: int, outputs_only: bool) -> np.ndarray:
    """Filters in blocks of output channels, those innermost, and before them blocks of input channels."""
    outputs, inputs, *kernel = filters.shape
    more = [(0, -outputs % block), (0, 0 if outputs_only else -inputs % block), (0, 0), (0, 0)]
    padded = np.pad(filters, more) if any(end for _, end in more) else filters
    within = 1 if outputs_only else block
    parts = padded.reshape(-1, block, padded.shape[1] // within, within, *kernel)
    laid = aligned(padded.shape)
    laid.reshape(-1, padded.shape[1] // within, *kernel, within, block)[:] = parts.transpose(0, 2, 4, 5, 3, 1)
    return laid


def aligned(shape: Sequence[int]) -> np.ndarray:
    """An empty array that starts where vectors are read fastest."""
    room = np.empty(math.prod(shape) + _VECTOR_BYTES // 4, np.float32)
    start = -room.ctypes.data % _VECTOR_BYTES // 4
    return room[start:][: math.prod(shape)].reshape(shape)
