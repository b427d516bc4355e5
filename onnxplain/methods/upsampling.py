"""From the size of a feature map to the size of the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxplain.engine.resampling import resize_matrix
from onnxplain.errors import UsageError

_OPENCV = {"bilinear": "INTER_LINEAR", "cubic": "INTER_CUBIC"}
_ALIGNED = {"mode": b"linear", "coordinate_transformation_mode": b"align_corners"}

UPSAMPLINGS = (*_OPENCV, "nearest", "align-corners")


def check_upsampling(how: str) -> None:
    """Refuse a way that :func:`upsample` does not know."""
    if how not in UPSAMPLINGS:
        raise UsageError(f"upsampling must be one of {', '.join(UPSAMPLINGS)}, not {how!r}")


def upsample(maps: NDArray[np.floating], size: Sequence[int], how: str = "bilinear") -> NDArray[np.float32]:
    """Bring maps to a size.

    Parameters
    ----------
    maps : numpy.ndarray
        Samples x places along one or two axes.
    size : sequence of int
        Places wanted along each axis.
    how : {"bilinear", "cubic", "nearest", "align-corners"}
        The first two by OpenCV with half-pixel centres, the border repeated: place i of n lies at (i + 1/2) / n of
        the width. "nearest" takes the place in which that point lies, the later one on a border between two (OpenCV's
        choice there depends on its version). "align-corners" is bilinear with the outermost places on the outermost
        pixels.

    Returns
    -------
    numpy.ndarray
        float32.
    """
    maps = maps.astype(np.float32)
    if how == "align-corners":
        for axis, length in enumerate(size, 1):
            matrix = resize_matrix(_ALIGNED, maps.shape[axis], length, None, None)
            maps = np.moveaxis(np.tensordot(matrix, maps, (1, axis)), 0, axis)
        return maps
    if how == "nearest":
        for axis, length in enumerate(size, 1):
            maps = maps.take((2 * np.arange(length) + 1) * maps.shape[axis] // (2 * length), axis)
        return maps
    import cv2

    height, width = (*size, 1)[:2]
    planes = maps.reshape(*maps.shape[:2], -1)
    interpolation = getattr(cv2, _OPENCV[how])
    resized = [cv2.resize(plane, (width, height), interpolation=interpolation) for plane in planes]
    return np.stack(resized).reshape(len(maps), *size)
