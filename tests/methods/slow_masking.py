"""Masking methods written out: loops in float64, the model run by onnxruntime one picture at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnxruntime

Score = Callable[[np.ndarray], float]


def runner(data: bytes, index: int, logits: bool = False) -> Score:
    """The score of class ``index`` for a picture without the axis of the samples: softmax of the last output's row."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def score(picture: np.ndarray) -> float:
        z = session.run(None, {name: picture[None].astype(np.float32)})[0].reshape(-1).astype(np.float64)
        return float(z[index] if logits else np.exp(z[index]) / np.exp(z).sum())

    return score


def upsample(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, pixel centres at (i + 1/2), edges continued, pixel by pixel."""
    h, w = plane.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            y0, x0 = math.floor(y), math.floor(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            a, b = y - y0, x - x0
            above = (1 - b) * plane[y0, x0] + b * plane[y0, x1]
            below = (1 - b) * plane[y1, x0] + b * plane[y1, x1]
            out[i, j] = (1 - a) * above + a * below
    return out


def min_max(values: np.ndarray) -> np.ndarray:
    """Scaled to [0, 1], 0 where constant."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros(values.shape)


def otsu(values: np.ndarray) -> float:
    """The threshold, in 1/255, that leaves the largest variance between the classes of a histogram of 256 levels."""
    levels = np.rint(255 * values).astype(int).reshape(-1)
    best, threshold = 0.0, 0
    for t in range(256):
        low, high = levels[levels <= t], levels[levels > t]
        if len(low) and len(high):
            between = len(low) * len(high) * (low.mean() - high.mean()) ** 2 / len(levels) ** 2
            if between > best * (1 + 1e-9):
                best, threshold = between, t
    return threshold / 255


def rise(score: Score, x: np.ndarray, seed: int, count: int, cells: int, keep: float) -> np.ndarray:
    """S = 1 / (p N) sum of f(I * M) M over the masks that the seed gives; x is C x H x W."""
    height, width = x.shape[1:]
    cell = math.ceil(height / cells), math.ceil(width / cells)
    total = np.zeros((height, width))
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        grid = (rng.random((cells, cells)) < keep).astype(np.float64)
        top, left = rng.integers(0, cell)
        large = upsample(grid, (cells + 1) * cell[0], (cells + 1) * cell[1])
        mask = large[top : top + height, left : left + width]
        total += score(x * mask) * mask
    return total / (keep * count)


def occlusion(score: Score, x: np.ndarray, side: int, step: int, fill: float) -> np.ndarray:
    """Per pixel the mean fall of the score over the windows that hide it."""
    height, width = x.shape[1:]
    rows = sorted({*range(0, height - side, step), height - side})
    columns = sorted({*range(0, width - side, step), width - side})
    falls: list[list[list[float]]] = [[[] for _ in range(width)] for _ in range(height)]
    for top in rows:
        for left in columns:
            hidden = x.copy()
            hidden[:, top : top + side, left : left + side] = fill
            fall = score(x) - score(hidden)
            for i in range(top, top + side):
                for j in range(left, left + side):
                    falls[i][j].append(fall)
    return np.array([[np.mean(f) for f in row] for row in falls])
