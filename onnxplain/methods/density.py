"""From points to what people look at: outliers removed, a density map, a bounding box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxplain.engine.points import Points


def without_outliers(points: Points, shape: Sequence[int], channels: int, radius: float, share: float) -> Points:
    """Points of each sample with more than ``share`` of its points closer than ``radius`` times the diagonal.

    One pass; a point counts itself, and counts as often as its weight. Where nothing would stay, everything does.
    """
    sample, y, x = _places(points, shape, channels)
    height, width = (size for axis, size in enumerate(shape) if axis not in (0, channels))
    kept = np.ones(len(points), bool)
    for n in np.unique(sample):
        here = np.flatnonzero(sample == n)
        near = _near(y[here], x[here], points.weight[here], radius * float(np.hypot(height, width)))
        stays = near > share * points.weight[here].sum()
        kept[here] = stays if stays.any() else True
    return Points(points.index[kept], points.weight[kept])


def _near(y: np.ndarray, x: np.ndarray, weight: np.ndarray, distance: float) -> np.ndarray:
    """The weight within ``distance`` of each point, itself included."""
    near = np.empty(len(y), np.int64)
    step = max(1, 2**22 // max(len(y), 1))
    for first in range(0, len(y), step):
        part = slice(first, first + step)
        close = (y[part, None] - y) ** 2 + (x[part, None] - x) ** 2 < distance**2
        near[part] = (close * weight).sum(axis=1)
    return near


def density_map(points: Points, shape: Sequence[int], channels: int, sigma: float) -> np.ndarray:
    """Counts per pixel blurred by a Gaussian, each sample's maximum 1; N x H x W float32.

    ``sigma`` is in pixels, or below 1 a share of the smaller side. The kernel spans the smaller side, as published, but
    no more than five standard deviations to each side: what lies beyond is below 4e-6.
    """
    import cv2

    sample, y, x = _places(points, shape, channels)
    height, width = (size for axis, size in enumerate(shape) if axis not in (0, channels))
    counts = np.zeros((shape[0], height, width), np.float32)
    np.add.at(counts, (sample, y, x), points.weight)
    side = min(height, width)
    deviation = sigma * side if sigma < 1 else sigma
    span = min(side - 1 + side % 2, 2 * math.ceil(5 * deviation) + 1)
    maps = [cv2.GaussianBlur(count, (span, span), deviation) for count in counts]
    return np.stack([blurred / blurred.max() if blurred.max() > 0 else blurred for blurred in maps])


def bounding_boxes(points: Points, shape: Sequence[int], channels: int) -> np.ndarray:
    """The tight box x1, y1, x2, y2 (inclusive pixels) of each sample's points, N x 4 int64; -1 without points."""
    sample, y, x = _places(points, shape, channels)
    boxes = np.full((shape[0], 4), -1, np.int64)
    for n in np.unique(sample):
        here = sample == n
        boxes[n] = x[here].min(), y[here].min(), x[here].max(), y[here].max()
    return boxes


def _places(points: Points, shape: Sequence[int], channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    coordinates = np.unravel_index(points.index, tuple(shape))
    y, x = (axis for axis in range(1, 4) if axis != channels)
    return coordinates[0], coordinates[y], coordinates[x]
