"""Heat maps: maps coloured by a lookup table, alone or over a picture, and written as PNG."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from onnxplain.files import atomic_file

# The schemes RdBu and OrRd of ColorBrewer (Apache-2.0; colorbrewer2.org), with pure white for zero.
_DIVERGING = (
    (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (255, 255, 255),
    (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
)  # fmt: skip
_SEQUENTIAL = (
    (255, 255, 255), (254, 232, 200), (253, 212, 158), (253, 187, 132), (252, 141, 89), (239, 101, 72), (215, 48, 31),
    (179, 0, 0), (127, 0, 0),
)  # fmt: skip
_UNSEEN = 200
"""Grey level of what the model did not see (NaN)."""
_PAPER = 0.4
"""How far a picture under a map is drawn towards white."""
_SHADE = 0.7
"""Brightness of the parts of a picture that the model did not see."""
_OPACITY = 0.9
_PALEST = 0.5
"""Share of the colour scale where overlays begin: their opacity shows what is weak, and paler colours would vanish."""

Bytes = NDArray[np.uint8]


def _table(stops: tuple[tuple[int, int, int], ...], entries: int) -> Bytes:
    places = np.linspace(0, len(stops) - 1, entries)
    channels = [np.interp(places, np.arange(len(stops)), channel) for channel in zip(*stops, strict=True)]
    table: Bytes = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return table


DIVERGING = _table(_DIVERGING, 255)
"""Blue, white, red: 255 x 3, entry 127 is exactly white."""

SEQUENTIAL = _table(_SEQUENTIAL, 256)
"""White to dark red: 256 x 3."""


def scaled(values: np.ndarray, percentile: float | None = None) -> NDArray[np.float32]:
    """Divide a map by its largest magnitude, so that it lies in -1..1 and zero stays zero.

    Parameters
    ----------
    values : numpy.ndarray
        H x W; NaN where the model saw nothing.
    percentile : float, optional
        Divide by this percentile (0..100) of the magnitudes instead and cut what is larger.
    """
    magnitude = np.abs(values[np.isfinite(values)]).astype(np.float64)
    largest = magnitude.max(initial=0)
    limit = largest if percentile is None or not largest else np.percentile(magnitude, percentile) or largest
    return np.clip(values / (limit or 1), -1, 1).astype(np.float32)


def heatmap(values: np.ndarray, signed: bool | None = None, percentile: float | None = None) -> Bytes:
    """Colour a map.

    Parameters
    ----------
    values : numpy.ndarray
        H x W; NaN where the model saw nothing, drawn grey.
    signed : bool, optional
        Blue for negative, white for zero, red for positive, on one scale for both signs; otherwise white to red,
        negative values white; where all are positive, as in RISE, white is the smallest. By default signed where a
        value is negative.
    percentile : float, optional
        Cut magnitudes above this percentile (0..100); off by default.

    Returns
    -------
    numpy.ndarray
        uint8, H x W x 3, RGB.
    """
    share, unseen, signed = _shares(values, signed, percentile)
    coloured = _coloured(share, signed)
    coloured[unseen] = _UNSEEN
    return coloured


def _shares(values: np.ndarray, signed: bool | None, percentile: float | None) -> tuple[np.ndarray, np.ndarray, bool]:
    """The scaled map, where the model saw nothing, and whether both signs are drawn."""
    seen = values[np.isfinite(values)]
    signed = bool((seen < 0).any()) if signed is None else signed
    if not signed and seen.size and 0 < seen.min() < seen.max():
        values = values - seen.min()
    share = scaled(values, percentile)
    unseen = np.isnan(share)
    return np.nan_to_num(share, copy=False), unseen, signed


def _coloured(share: np.ndarray, signed: bool) -> Bytes:
    index = np.rint((share + 1) * 127) if signed else np.rint(np.maximum(share, 0) * 255)
    colours: Bytes = (DIVERGING if signed else SEQUENTIAL)[index.astype(np.uint8)]
    return colours


def overlay(
    values: np.ndarray, picture: np.ndarray, signed: bool | None = None, percentile: float | None = None
) -> Bytes:
    """Lay a coloured map over a picture drawn in light grey; the stronger the relevance, the more opaque.

    Parameters
    ----------
    values : numpy.ndarray
        H x W, the picture's size; NaN where the model saw nothing, which stays darker.
    picture : numpy.ndarray
        uint8, H x W x 3, RGB.
    signed, percentile
        As in :func:`heatmap`.

    Returns
    -------
    numpy.ndarray
        uint8, H x W x 3, RGB.
    """
    share, unseen, signed = _shares(values, signed, percentile)
    strength = np.abs(share) if signed else np.maximum(share, 0)
    alpha = (_OPACITY * np.sqrt(strength))[..., np.newaxis]
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    paper = np.where(unseen, grey * _SHADE, grey + (255 - grey) * _PAPER)[..., np.newaxis]
    colour = _coloured(np.copysign(_PALEST + (1 - _PALEST) * strength, share), signed)
    blended: Bytes = np.rint(paper + alpha * (colour - paper)).astype(np.uint8)
    return blended


def write_png(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """Write a picture, whole or not at all.

    Parameters
    ----------
    path : path
    rgb : numpy.ndarray
        uint8, H x W x 3, RGB.

    Raises
    ------
    FailureError
        It cannot be written.
    """
    import cv2

    _, data = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    with atomic_file(path) as file:
        file.write_bytes(data.tobytes())
