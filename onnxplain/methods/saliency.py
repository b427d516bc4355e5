"""Context-aware saliency (Goferman, Zelnik-Manor, Tal; CVPR 2010, PAMI 34:1915, 2012) of an array of any channels.

A pixel is salient when even the patches most similar to its own differ from it, similar patches close by counting more
than similar patches far away. :func:`saliency` keeps the maps of the single scales and the foci of attention;
:func:`context_aware_saliency` returns the map alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

from onnxplain.errors import UsageError
from onnxplain.methods.saliency_kernels import candidate_count, mean_distances
from onnxplain.methods.saliency_options import SaliencyOptions, check

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]

FLAT = 1e-6
"""A plane of values in [0, 1] that spans less than this is constant up to float32 rounding."""
FLAT_LAB = 0.5
"""A Lab plane that spans less than this is colourless: a fifth of what an eye tells apart, and the table behind
opencv's conversion gives greys up to 0.13."""


@dataclasses.dataclass(frozen=True)
class Saliency:
    """What context-aware saliency found.

    Attributes
    ----------
    map : ndarray of float32, H x W
        The saliency map, min-max scaled to [0, 1]; zeros where nothing stands out.
    scales : ndarray of float32, M x H x W
        The saliency S of each scale in [0, 1), brought to full size, not scaled.
    foci : ndarray of bool, H x W
        The foci of attention (of any scale with ``foci_form="per-scale"``).
    options : SaliencyOptions
        What it was computed with.
    """

    map: Floats
    scales: Floats
    foci: NDArray[np.bool_]
    options: SaliencyOptions


def context_aware_saliency(array: ArrayLike, *, progress: Progress | None = None, **options: Any) -> Floats:
    """Context-aware saliency map of a picture or of any other array.

    Parameters
    ----------
    array : array_like, H x W x C or H x W
        Any number of channels, any real dtype, finite. Each channel is min-max scaled. Three channels are read as RGB
        and compared in CIE Lab (``lab=False``: as they are): uint8 is divided by 255, floats in [0, 1] are taken as
        they are, anything else is first min-max scaled over all three channels together.
    progress : callable, optional
        Called with (done, total), in pairs of a pixel and a candidate patch.
    **options
        The attributes of :class:`SaliencyOptions`.

    Returns
    -------
    ndarray of float32, H x W
        In [0, 1]; zeros for an array without structure.

    Raises
    ------
    UsageError
        For an unknown option or value, a wrong shape or dtype, an empty array, NaN or infinity.
    """
    known = [field.name for field in dataclasses.fields(SaliencyOptions)]
    for name in options:
        if name not in known:
            raise UsageError(f"context-aware saliency has no option {name!r}; it has {', '.join(known)}.")
    return saliency(array, SaliencyOptions(**options), progress).map


def saliency(array: ArrayLike, options: SaliencyOptions | None = None, progress: Progress | None = None) -> Saliency:
    """Context-aware saliency with the maps of the single scales and the foci.

    Parameters and errors as of :func:`context_aware_saliency`. At each scale r,
    ``S = 1 - exp(-mean over the k smallest d)`` with ``d = d_color / (1 + c d_pos)``.
    """
    options = options or SaliencyOptions()
    values = _checked(array)
    planes = _planes(values, options)
    size = planes.shape[1:]
    per_scale = np.stack([_resize(found, size) for found in _single_scales(planes, options, progress)])
    weighted, foci = _attend(per_scale, options)
    full = values.shape[:2]
    return Saliency(
        map=_min_max(_resize(weighted, full)),
        scales=np.stack([_resize(found, full) for found in per_scale]),
        foci=cv2.resize(foci.astype(np.uint8), full[::-1], interpolation=cv2.INTER_NEAREST).astype(bool),
        options=options,
    )


def _single_scales(planes: Floats, options: SaliencyOptions, progress: Progress | None) -> Iterator[Floats]:
    """The saliency of each scale, at the size of that scale."""
    pyramids = []
    for scale, patch in zip(options.scales, options.patches, strict=True):
        looked_at = _rescale(planes, scale)
        pyramids.append((looked_at, [_rescale(looked_at, query) for query in options.queries(scale)], patch))
    total = sum(
        looked_at[0].size * candidate_count(candidates, patch)
        for looked_at, pictures, patch in pyramids
        for candidates in pictures
    )
    done = 0

    def advance(pairs: int) -> None:
        nonlocal done
        done += pairs
        if progress:
            progress(done, total)

    for looked_at, pictures, patch in pyramids:
        means = mean_distances(looked_at, pictures, patch=patch, k=options.k, c=options.c, advance=advance)
        factor = 49 / patch**2 if options.variant == "port" else (len(planes) * patch**2) ** -0.5
        yield -np.expm1(-np.float32(factor) * means)


def _attend(per_scale: Floats, options: SaliencyOptions) -> tuple[Floats, NDArray[np.bool_]]:
    """Weight by the distance to the foci, before or after the mean over the scales."""
    if options.foci_form == "averaged":
        return _weighted(per_scale.mean(axis=0), options)
    parts = [_weighted(found, options) for found in per_scale]
    return np.mean([part for part, _ in parts], axis=0), np.any([foci for _, foci in parts], axis=0)


def _weighted(found: Floats, options: SaliencyOptions) -> tuple[Floats, NDArray[np.bool_]]:
    """``found * (1 - d_foci / max d_foci)`` and the foci."""
    if options.scaled_foci:
        found = _min_max(found)
    foci = found > options.foci_threshold * found.max()
    if foci.all() or not foci.any():
        return found, foci
    distance = distance_transform_edt(~foci)  # opencv's changes in the last bit when threads call it at once
    return np.asarray(found * (1 - distance / distance.max()), np.float32), foci


def _checked(array: ArrayLike) -> NDArray[Any]:
    """The array as H x W x C, real and finite."""
    values = np.asarray(array)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.size == 0:
        raise UsageError(f"Context-aware saliency reads an array H x W x C, not one of shape {np.shape(array)}.")
    if values.dtype.kind not in "buif":
        raise UsageError(f"Context-aware saliency reads real numbers, not {values.dtype}.")
    if not np.isfinite(values).all():
        raise UsageError("Context-aware saliency needs finite values, and the array holds NaN or infinity.")
    return values


def _planes(values: NDArray[Any], options: SaliencyOptions) -> Floats:
    """The planes that patches are compared in, C x H x W at the working size, each min-max scaled."""
    channels = values.shape[2]
    lab = channels == 3 if options.lab is None else options.lab
    check(channels == 3 or not lab, "lab", options.lab, f"False for an array of {channels} channels, Lab needs RGB")
    size = _working_size(values.shape[0], values.shape[1], options.long_side)
    bounds = [_rgb_bounds(values)] * 3 if lab else [(plane.min(), plane.max()) for plane in np.moveaxis(values, 2, 0)]
    picture: NDArray[Any] = np.dstack([_resize(_unit(values[..., i], *bounds[i]), size) for i in range(channels)])
    if lab:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2Lab)
    return np.stack([_min_max(picture[..., i], FLAT_LAB if lab else FLAT) for i in range(channels)])


def _rgb_bounds(values: NDArray[Any]) -> tuple[float, float]:
    """What counts as 0 and as 1 in an RGB array."""
    if values.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(values.min()), float(values.max())
    return (0.0, 1.0) if values.dtype.kind == "f" and low >= 0 and high <= 1 else (low, high)


def _unit(plane: NDArray[Any], low: float, high: float) -> Floats:
    """The plane with ``low`` at 0 and ``high`` at 1, scaled in float64; zeros where both are the same."""
    scaled = plane.astype(np.float64)
    scaled -= float(low)
    if high != low:
        scaled /= float(high) - float(low)
    return scaled.astype(np.float32)


def _min_max(plane: Floats, flat: float = FLAT) -> Floats:
    """The plane scaled to [0, 1]; zeros where it spans no more than ``flat``."""
    low, high = plane.min(), plane.max()
    if high - low <= flat:
        return np.zeros_like(plane)
    return np.asarray((plane - low) / (high - low))


def _working_size(height: int, width: int, long_side: int | None) -> tuple[int, int]:
    return (height, width) if long_side is None else _scaled_size(height, width, long_side / max(height, width))


def _scaled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    return max(1, round(height * factor)), max(1, round(width * factor))


def _rescale(planes: Floats, factor: float) -> Floats:
    """Planes C x H x W at ``factor`` times their size."""
    size = _scaled_size(planes.shape[1], planes.shape[2], factor)
    return np.stack([_resize(plane, size) for plane in planes])


def _resize(plane: Floats, size: tuple[int, ...]) -> Floats:
    """A plane at another height and width: area means when it shrinks, bilinear when it grows."""
    if plane.shape == size:
        return plane
    smaller = size[0] * size[1] < plane.size
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(plane, size[::-1], interpolation=method), np.float32)
