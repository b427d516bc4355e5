"""Measures of one map against the boxes or the mask of what it should show.

Every formula is applied to the map as it stands: norms take absolute values, "the top pixels" are those of the largest
signed value. Whoever wants only evidence in favour passes ``np.maximum(map, 0)``. Pixels that tie at a cut share it
evenly, so no measure depends on the order of pixels; a map that is zero everywhere shows nothing and scores 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxplain.errors import FailureError, UsageError

TOP_SHARE = 0.2


def energy_in_box(values: ArrayLike, mask: ArrayLike) -> float:
    """Energy-based pointing game: share of the map's energy inside, ``|S * G|_1 / |S|_1`` (Score-CAM; SISE).

    Parameters
    ----------
    values : array_like, shape (height, width)
        The map S.
    mask : array_like of bool, shape (height, width)
        What the map should show, G; `box_mask` makes it from boxes.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    UsageError
        Shapes differ, or the mask is empty.
    FailureError
        The map holds NaN or infinity.
    """
    s, g = _checked(values, mask)
    energy = np.abs(s)
    total = energy.sum()
    return float(energy[g].sum() / total) if total else 0.0


def top_iou(values: ArrayLike, mask: ArrayLike, *, share: float = TOP_SHARE) -> float:
    """Intersection over union of the mask and the map's top pixels (mIoU of the SISE paper at 20 %).

    Parameters
    ----------
    values, mask
        As in `energy_in_box`.
    share : float
        Share of the pixels taken, rounded to whole pixels, at least one.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    UsageError
        As `energy_in_box`, or `share` out of range.
    FailureError
        As `energy_in_box`.
    """
    if not 0 < share <= 1:
        raise UsageError(f"the share of top pixels lies above 0 and at most at 1, not at {share}")
    s, g = _checked(values, mask)
    if not s.any():
        return 0.0
    count = max(1, round(share * s.size))
    inside = float(_top(s, count)[g].sum())
    return inside / (count + np.count_nonzero(g) - inside)


def box_score(values: ArrayLike, mask: ArrayLike) -> float:
    """Bounding-box score (SISE): share of the map's top N pixels inside, N being the size of the mask.

    Parameters and errors as of `energy_in_box`; between 0 and 1.
    """
    s, g = _checked(values, mask)
    if not s.any():
        return 0.0
    count = int(np.count_nonzero(g))
    return float(_top(s, count)[g].sum() / count)


def pointing_game(values: ArrayLike, mask: ArrayLike, *, tolerance: float = 0.0) -> float:
    """Pointing game (Zhang et al., 2016): 1 where the map's maximum lies inside, else 0.

    Parameters
    ----------
    values, mask
        As in `energy_in_box`.
    tolerance : float
        Distance in pixels from the mask that still counts; 15 in the original on photographs.

    Returns
    -------
    float
        Of several equal maxima, the share inside.

    Raises
    ------
    UsageError
        As `energy_in_box`, or a negative tolerance.
    FailureError
        As `energy_in_box`.
    """
    if not tolerance >= 0:
        raise UsageError(f"the tolerance of the pointing game is a distance in pixels, not {tolerance}")
    s, g = _checked(values, mask)
    if not s.any():
        return 0.0
    if tolerance:
        import cv2

        g = cv2.distanceTransform((~g).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= tolerance
    return float(g[s == s.max()].mean())


def best_iou(values: ArrayLike, mask: ArrayLike) -> float:
    """Intersection over union of the mask and the thresholded map, at the threshold where it is largest.

    Parameters
    ----------
    values, mask
        As in `energy_in_box`.

    Returns
    -------
    float
        Between 0 and 1; at least the mask's share of the picture, which the lowest threshold gives.

    Raises
    ------
    UsageError, FailureError
        As `energy_in_box`.
    """
    s, g = _checked(values, mask)
    return float(_iou_curve(s, g)[1].max()) if s.any() else 0.0


def area_under_iou(values: ArrayLike, mask: ArrayLike) -> float:
    """Area under the curve of IoU against threshold, the measure of VEBI (Oramas et al., 2019).

    The map is brought to [0, 1] by its minimum and maximum; the curve is the IoU of the mask and the pixels at or above
    the threshold. It is a staircase, so the area over all thresholds from 0 to 1 is exact, without a grid. A constant
    map, which has no thresholds, gives the IoU of the whole picture.

    Parameters and errors as of `energy_in_box`; between 0 and 1.
    """
    s, g = _checked(values, mask)
    if not s.any():
        return 0.0
    thresholds, overlap = _iou_curve(s, g)
    if len(thresholds) == 1:
        return float(overlap[0])
    return float((overlap[:-1] * -np.diff(thresholds)).sum() / (thresholds[0] - thresholds[-1]))


def sparseness(values: ArrayLike) -> float:
    """Gini index of the map's absolute values (Hurley and Rickard, 2009).

    ``sum_i (2 i - n - 1) |s|_(i) / (n sum |s|)`` with the values sorted ascending, i from 1 to n.

    Parameters
    ----------
    values : array_like, any shape
        The map.

    Returns
    -------
    float
        0 for a constant map, ``1 - 1/n`` for a single pixel.

    Raises
    ------
    UsageError
        The map is empty.
    FailureError
        The map holds NaN or infinity.
    """
    ordered = np.sort(np.abs(finite(values)), axis=None)
    n, total = ordered.size, ordered.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total)) if total else 0.0


def stride_energy(values: ArrayLike, stride: int) -> float:
    """Share of a map's spectrum that is a grid of period ``stride``: energy on the lines of that frequency.

    With the Fourier transform of the map less its mean, the energy at frequencies that are a multiple of 1/stride, but
    not 0, along either axis, over all energy. Edges are cropped to whole periods at the bottom and the right. Noise
    without a grid has about ``(stride - 1) (1/height + 1/width)``.

    Parameters
    ----------
    values : array_like, shape (height, width)
        The map.
    stride : int
        Period in pixels: that of the first layer, or the product of strides down to a deeper one.

    Returns
    -------
    float
        0 for a constant map, 1 for one that only repeats along an axis with that period.

    Raises
    ------
    UsageError
        The map is no plane, or the stride below 2 or beyond half of an edge.
    FailureError
        The map holds NaN or infinity.
    """
    s = finite(values)
    if s.ndim != 2:
        raise UsageError(f"a map of shape {s.shape} has no grid; it must be H x W")
    if not 2 <= stride <= min(s.shape) // 2:
        raise UsageError(f"a grid in a map of shape {s.shape} has a period from 2 to half an edge, not {stride}")
    height, width = (size - size % stride for size in s.shape)
    energy = np.abs(np.fft.fft2(s[:height, :width] - s[:height, :width].mean())) ** 2
    rows, columns = (np.arange(size) % (size // stride) == 0 for size in energy.shape)
    rows[0] = columns[0] = False
    total = energy.sum()
    return float(energy[rows[:, np.newaxis] | columns].sum() / total) if total > 1e-20 * np.sum(s**2) else 0.0


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """A map as float64.

    Raises
    ------
    UsageError
        It has no pixel.
    FailureError
        It holds NaN or infinity.
    """
    s = np.asarray(values, dtype=np.float64)
    if not s.size:
        raise UsageError(f"a map of shape {s.shape} has no pixel")
    if not np.isfinite(s).all():
        raise FailureError(f"the map holds {np.count_nonzero(~np.isfinite(s))} values that are NaN or infinite")
    return s


def _checked(values: ArrayLike, mask: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    s, g = finite(values), np.asarray(mask).astype(np.bool_)
    if s.ndim != 2 or s.shape != g.shape:
        raise UsageError(f"a map of shape {s.shape} cannot be compared with a mask of shape {g.shape}; both are H x W")
    if not g.any():
        raise UsageError("the mask is empty; leave this image out")
    return s, g


def _top(s: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Weight of every pixel among the `count` largest: 1 above the cut, equal parts of the rest at the cut."""
    cut = np.partition(s, s.size - count, axis=None)[s.size - count]
    above, tied = s > cut, s == cut
    weights: NDArray[np.float64] = above + tied * ((count - np.count_nonzero(above)) / np.count_nonzero(tied))
    return weights


def _iou_curve(s: NDArray[np.float64], g: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distinct values of the map, descending, and the IoU of the mask and the pixels at or above each."""
    order = np.argsort(-s, axis=None)
    ranked = s.ravel()[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), s.size - 1)
    inside = np.cumsum(g.ravel()[order])[last]
    union = last + 1 + np.count_nonzero(g) - inside
    return ranked[last], inside / union
