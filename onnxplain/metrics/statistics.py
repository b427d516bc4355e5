"""Means with seeded bootstrap intervals, the form in which every measure of the package is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxplain.errors import FailureError, UsageError

RESAMPLES = 2000
_COUNTS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Estimate:
    """Mean of per-sample values with its bootstrap percentile interval.

    Attributes
    ----------
    mean, low, high : float
        Mean and interval bounds, in the unit of the values.
    n : int
        Number of values.
    level : float
        Coverage of the interval, between 0 and 1.
    """

    mean: float
    low: float
    high: float
    n: int
    level: float

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound."""
        return self.low, self.high


def estimate(values: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean of `values` and its percentile bootstrap interval (Efron, 1979).

    Drawing n values with replacement is one multinomial draw over the distinct values, so hits and misses cost the
    same for ten images and for a million; memory is bounded whatever `resamples` is.

    Parameters
    ----------
    values : array_like, shape (n,)
        One value per sample.
    level : float
        Coverage of the interval.
    resamples : int
        Number of bootstrap samples.
    seed : int
        Seed of the resampling; the same seed gives the same interval.

    Raises
    ------
    UsageError
        No values, or `level` or `resamples` out of range.
    FailureError
        A value is NaN or infinite.
    """
    sample = _checked(values)
    if not 0 < level < 1:
        raise UsageError(f"the level of a bootstrap interval lies between 0 and 1, not {level}")
    if resamples < 1:
        raise UsageError(f"a bootstrap interval needs at least one resample, not {resamples}")
    means = _bootstrap_means(sample, resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(sample.mean()), float(low), float(high), sample.size, level)


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean of `first - second`, sample by sample, with its bootstrap interval.

    The pairs are resampled, not the two sets, so what both have in common cancels.

    Parameters
    ----------
    first, second : array_like, shape (n,)
        Values of two methods on the same samples, in the same order.
    level, resamples, seed
        As in `estimate`.

    Raises
    ------
    UsageError
        The two have different lengths, or as in `estimate`.
    FailureError
        A value is NaN or infinite.
    """
    a, b = _checked(first), _checked(second)
    if a.size != b.size:
        raise UsageError(f"a paired difference needs the same samples on both sides, got {a.size} and {b.size} values")
    return estimate(a - b, level=level, resamples=resamples, seed=seed)


@dataclass(frozen=True, eq=False)
class Measured:
    """A measure over a set of samples.

    Attributes
    ----------
    values : float64 array, shape (n,)
        The measure of every sample; NaN where it has no meaning.
    estimate : Estimate or None
        Mean and interval over the samples where it has one; None where there is none.
    """

    values: NDArray[np.float64]
    estimate: Estimate | None

    @classmethod
    def of(cls, values: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Measured:
        """Take the mean of per-sample values, NaN left aside; parameters and errors as in `estimate`."""
        sample = np.asarray(values, dtype=np.float64)
        known = sample[~np.isnan(sample)]
        return cls(sample, estimate(known, level=level, resamples=resamples, seed=seed) if known.size else None)


def measured(measure: Callable[..., float], samples: Iterable[tuple[Any, ...]], **options: Any) -> Measured:
    """A measure of one sample, taken over many.

    >>> measured(energy_in_box, zip(maps, masks))

    Parameters
    ----------
    measure : callable
        From the parts of a sample to a number.
    samples : iterable of tuple
        Taken one by one; nothing but the numbers is kept.
    **options
        Of the measure.
    """
    return Measured.of([measure(*sample, **options) for sample in samples])


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1:
        raise UsageError(f"statistics take one value per sample, got an array of shape {sample.shape}")
    if sample.size == 0:
        raise UsageError("there are no values to take the mean of; the data set or the selection is empty")
    bad = np.flatnonzero(~np.isfinite(sample))
    if bad.size:
        raise FailureError(f"value {bad[0]} of {sample.size} is {sample[bad[0]]}; leave that sample out or repair it")
    return sample


def _bootstrap_means(sample: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    distinct, counts = np.unique(sample, return_counts=True)
    shares = counts / sample.size
    generator = np.random.default_rng(seed)
    rows = max(1, _COUNTS_AT_ONCE // distinct.size)
    means = [
        generator.multinomial(sample.size, shares, size=min(rows, resamples - start)) @ distinct
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(means) / sample.size
