"""Trivial maps: what a measure gives without any explanation, beside which every method is to be read."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxplain.errors import UsageError


def random_map(shape: tuple[int, int], *, seed: int = 0) -> NDArray[np.float32]:
    """Independent uniform values in [0, 1).

    Parameters
    ----------
    shape : (int, int)
        Height and width.
    seed : int
        Seed of the values.

    Returns
    -------
    float32 array, shape (height, width)
    """
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def gaussian_map(shape: tuple[int, int], *, sigma: float = 0.25) -> NDArray[np.float32]:
    """Gaussian at the centre of the picture: photographers put things in the middle.

    Parameters
    ----------
    shape : (int, int)
        Height and width.
    sigma : float
        Standard deviation along each axis as a share of that side.

    Returns
    -------
    float32 array, shape (height, width)

    Raises
    ------
    UsageError
        `sigma` is not positive.
    """
    if not sigma > 0:
        raise UsageError(f"sigma of the centred Gaussian is a share of the picture's side above 0, not {sigma}")
    vertical, horizontal = (
        np.exp(-0.5 * (((np.arange(size) + 0.5) / size - 0.5) / sigma) ** 2).astype(np.float32) for size in shape
    )
    return np.outer(vertical, horizontal)


def edge_map(picture: ArrayLike) -> NDArray[np.float32]:
    """Length of the Sobel gradient, the largest over the channels (beside saliency maps in Adebayo et al., 2018).

    Parameters
    ----------
    picture : array_like, shape (height, width) or (height, width, channels)
        The picture in any value range.

    Returns
    -------
    float32 array, shape (height, width)
        In units of the picture per pixel.

    Raises
    ------
    UsageError
        Not a picture.
    """
    import cv2

    pixels = np.asarray(picture, dtype=np.float32)
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise UsageError(f"edges are found in a picture of shape H x W or H x W x C, not {pixels.shape}")
    channels = np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))
    slopes = [[cv2.Sobel(channel, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (1, 0)] for channel in channels]
    edges: NDArray[np.float32] = np.max([np.hypot(*pair) for pair in slopes], axis=0)
    return edges
