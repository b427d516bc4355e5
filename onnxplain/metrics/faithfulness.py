"""Measures of a map against the model: what the score does when pixels of the input are kept, removed or put back.

Every measure takes the score as a function of altered inputs, so it can be held against functions with a known answer:
``score`` gets an iterable of arrays in the shape of ``x`` and returns one number each, and takes them one by one, as
its batches need them. Pixels are ranked by the map as it stands, the largest first; those that tie come in a seeded
random order, so that no corner of the picture is favoured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxplain.errors import FailureError, UsageError
from onnxplain.metrics.maps import finite

Score = Callable[[Iterable[np.ndarray]], NDArray[np.float64]]
Baseline = Literal["blur", "mean", "zero"]

KEPT_SHARE = 0.15
STEPS = 50
REGION = 9
FLIPS = 100
_BLUR = (11, 5.0)


def kept_score(
    score: Score, x: np.ndarray, values: ArrayLike, *, share: float = KEPT_SHARE, axis: int = 0, seed: int = 0
) -> tuple[float, float]:
    """The score of an input and of its top pixels alone, ``f(I)`` and ``f(I * T(I))`` of the SISE paper.

    T is 1 at the map's top pixels and 0 elsewhere; it multiplies the preprocessed input.

    Parameters
    ----------
    score : callable
        From altered inputs to one number each.
    x : array, shape (channels, height, width)
        The input without the axis of the samples.
    values : array_like, shape (height, width)
        The map.
    share : float
        Share of the pixels kept, rounded to whole pixels, at least one.
    axis : int
        The axis of `x` that holds the channels.
    seed : int
        Of the order of pixels that tie.

    Returns
    -------
    (float, float)

    Raises
    ------
    UsageError
        Map and input do not fit, or `share` out of range.
    FailureError
        The map holds NaN or infinity, or a score is not finite.
    """
    if not 0 < share <= 1:
        raise UsageError(f"the share of kept pixels lies above 0 and at most at 1, not at {share}")
    order = ranked(x, values, axis, seed)
    kept = _moved(np.zeros_like(x), x, order[: max(1, round(share * order.size))], axis)
    whole, part = _scored(score, [x, kept])
    return float(whole), float(part)


def drop(whole: float, part: float) -> float:
    """Drop % of one sample: ``100 max(0, f(I) - f(I * T)) / f(I)`` (Chattopadhay et al., 2018; SISE).

    Parameters
    ----------
    whole, part : float
        From `kept_score`.

    Raises
    ------
    UsageError
        ``f(I)`` is not positive, so a share of it means nothing.
    """
    if not whole > 0:
        raise UsageError(f"the drop is a share of the score of the whole input, which is {whole:g}; take a probability")
    return 100 * max(0.0, whole - part) / whole


def increase(whole: float, part: float) -> float:
    """Increase % of one sample: 100 where ``f(I * T) > f(I)``, else 0 (Chattopadhay et al., 2018; SISE)."""
    return 100.0 * (part > whole)


def deletion(
    score: Score,
    x: np.ndarray,
    values: ArrayLike,
    *,
    baseline: Baseline = "zero",
    steps: int = STEPS,
    axis: int = 0,
    seed: int = 0,
) -> float:
    """Area under the score while pixels are replaced by a baseline, the map's largest first (Petsiuk et al., 2018).

    Parameters
    ----------
    score, x, values, axis, seed
        As in `kept_score`.
    baseline : {"zero", "mean", "blur"}
        Zero in the preprocessed input, the mean of each channel, or the input blurred (11 x 11, sigma 5).
    steps : int
        Parts of nearly equal size in which the pixels are replaced; the curve has one point more.

    Returns
    -------
    float
        By the trapezoidal rule over the share of replaced pixels; lower is better.

    Raises
    ------
    UsageError, FailureError
        As `kept_score`.
    """
    order = ranked(x, values, axis, seed)
    return _area(_scored(score, _exchanged(x, baseline_of(x, baseline, axis), order, steps, axis)))


def insertion(
    score: Score,
    x: np.ndarray,
    values: ArrayLike,
    *,
    baseline: Baseline = "blur",
    steps: int = STEPS,
    axis: int = 0,
    seed: int = 0,
) -> float:
    """Area under the score while a baseline gets the input's pixels, the map's largest first (Petsiuk et al., 2018).

    Parameters, errors and area are those of `deletion`; higher is better.
    """
    order = ranked(x, values, axis, seed)
    return _area(_scored(score, _exchanged(baseline_of(x, baseline, axis), x, order, steps, axis)))


def pixel_flipping(
    score: Score,
    x: np.ndarray,
    values: ArrayLike,
    *,
    region: int = REGION,
    steps: int = FLIPS,
    axis: int = 0,
    seed: int = 0,
) -> float:
    """Area over the perturbation curve, most relevant first (Bach et al., 2015; Samek et al., 2017, eq. 12).

    The picture is cut into squares (smaller ones at the right and bottom edge), ranked by the sum of the map inside;
    one after another is filled with uniform noise between the smallest and the largest value of each channel.

    Parameters
    ----------
    score, x, values, axis
        As in `kept_score`.
    region : int
        Side of the squares in pixels.
    steps : int
        Squares flipped, at most all of them.
    seed : int
        Of the noise, and of the order of squares that tie.

    Returns
    -------
    float
        Mean of ``f(x_0) - f(x_k)`` over k = 0 ... steps; higher is better.

    Raises
    ------
    UsageError, FailureError
        As `kept_score`.
    """
    if region < 1 or steps < 1:
        raise UsageError(f"pixel flipping needs region and steps of at least 1, not {region} and {steps}")
    s = _fitting(x, values, axis)
    rows, columns = (np.arange(0, side, region) for side in s.shape)
    sums = np.add.reduceat(np.add.reduceat(s, rows, axis=0), columns, axis=1)
    order = _descending(sums, seed)[:steps]
    scores = _scored(score, _flipped(x, order, sums.shape[1], region, axis, seed))
    return float((scores[0] - scores).mean())


def ranked(x: np.ndarray, values: ArrayLike, axis: int = 0, seed: int = 0) -> NDArray[np.int64]:
    """Flat indices of the map's pixels, the largest first, ties in a seeded random order.

    Raises
    ------
    UsageError
        Map and input do not fit.
    FailureError
        The map holds NaN or infinity.
    """
    return _descending(_fitting(x, values, axis), seed)


def baseline_of(x: np.ndarray, baseline: Baseline, axis: int = 0) -> np.ndarray:
    """What pixels are replaced by: an input that says nothing.

    Raises
    ------
    UsageError
        Unknown baseline.
    """
    match baseline:
        case "zero":
            return np.zeros_like(x)
        case "mean":
            sides = tuple(side for side in range(x.ndim) if side != axis % x.ndim)
            return np.broadcast_to(x.mean(axis=sides, keepdims=True), x.shape).astype(x.dtype)
        case "blur":
            import cv2

            size, sigma = _BLUR
            channels = np.moveaxis(x, axis, 0).astype(np.float32)
            blurred = [cv2.GaussianBlur(channel, (size, size), sigma) for channel in channels]
            return np.stack(blurred, axis=axis).astype(x.dtype)
    raise UsageError(f"the baseline is zero, mean or blur, not {baseline!r}")


def _exchanged(
    start: np.ndarray, end: np.ndarray, order: NDArray[np.int64], steps: int, axis: int
) -> Iterator[np.ndarray]:
    """``start``, then copies in which more and more pixels, and at last all, are those of ``end``."""
    if steps < 1:
        raise UsageError(f"a curve needs at least one step, not {steps}")
    yield start
    for part in np.array_split(order, min(steps, order.size)):
        start = _moved(start, end, part, axis)
        yield start


def _flipped(
    x: np.ndarray, order: NDArray[np.int64], columns: int, region: int, axis: int, seed: int
) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    yield x
    for place in order:
        x = x.copy()
        top, left = region * (place // columns), region * (place % columns)
        for channel in np.moveaxis(x, axis, 0):
            square = channel[top : top + region, left : left + region]
            square[...] = generator.uniform(channel.min(), channel.max(), square.shape)
        yield x


def _moved(onto: np.ndarray, source: np.ndarray, pixels: NDArray[np.int64], axis: int) -> np.ndarray:
    """A copy of ``onto`` with some pixels of ``source``."""
    made = np.moveaxis(onto, axis, 0).copy()
    shape = made.shape
    made = made.reshape(shape[0], -1)
    made[:, pixels] = np.moveaxis(source, axis, 0).reshape(shape[0], -1)[:, pixels]
    return np.moveaxis(made.reshape(shape), 0, axis)


def _fitting(x: np.ndarray, values: ArrayLike, axis: int) -> NDArray[np.float64]:
    found = finite(values)
    if x.ndim != 3 or found.shape != np.moveaxis(x, axis, 0).shape[1:]:
        raise UsageError(f"a map of shape {found.shape} does not fit an input {x.shape} with its channels at {axis}")
    return found


def _descending(values: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    chance = np.random.default_rng(seed).permutation(values.size)
    return np.lexsort((chance, -values.ravel()))


def _scored(score: Score, inputs: Iterable[np.ndarray]) -> NDArray[np.float64]:
    scores = np.asarray(score(inputs), dtype=np.float64)
    if not np.isfinite(scores).all():
        raise FailureError(f"the score of {np.count_nonzero(~np.isfinite(scores))} altered inputs is NaN or infinite")
    return scores


def _area(scores: NDArray[np.float64]) -> float:
    return float(np.trapezoid(scores, dx=1 / (len(scores) - 1)))
