from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from onnxplain.errors import FailureError, UsageError
from onnxplain.metrics import statistics
from onnxplain.metrics.statistics import Measured, estimate, measured, paired_difference


def test_mean_and_count() -> None:
    result = estimate([1, 2, 6])
    assert (result.mean, result.n, result.level) == (3, 3, 0.95)
    assert result.low <= result.mean <= result.high


def test_interval_is_that_of_the_plain_bootstrap() -> None:
    values = np.random.default_rng(1).gamma(2, size=80)
    draws = np.random.default_rng(2).integers(80, size=(20000, 80))
    low, high = np.quantile(values[draws].mean(axis=1), [0.05, 0.95])
    result = estimate(values, level=0.9, resamples=20000)
    assert result.interval == pytest.approx((low, high), rel=0.01)


def test_interval_of_hits_is_the_binomial_one() -> None:
    result = estimate(np.arange(50000) < 20000, resamples=20000)
    spread = 1.96 * np.sqrt(0.4 * 0.6 / 50000)
    assert result.interval == pytest.approx((0.4 - spread, 0.4 + spread), abs=2e-4)


def test_same_seed_same_interval_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=40)
    whole = estimate(values, seed=3)
    assert estimate(values, seed=4).interval != whole.interval
    monkeypatch.setattr(statistics, "_COUNTS_AT_ONCE", 100)
    assert estimate(values, seed=3).interval == pytest.approx(whole.interval, rel=1e-12)


def test_memory_is_bounded() -> None:
    values = np.random.default_rng(0).normal(size=20000)
    tracemalloc.start()
    estimate(values, resamples=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # 300 x 20 000 counts at once would take 48 MB


def test_pairs_are_resampled_together() -> None:
    common = np.random.default_rng(0).normal(scale=100, size=60)
    result = paired_difference(common + 1, common)
    assert result.mean == pytest.approx(1)
    assert result.interval == pytest.approx((1, 1))


def test_one_value_has_no_width() -> None:
    assert estimate([0.25]).interval == (0.25, 0.25)


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="no values"):
        estimate([])
    with pytest.raises(FailureError, match="1 of 3 is nan"):
        estimate([1, np.nan, 2])
    with pytest.raises(UsageError, match="shape"):
        estimate([[1, 2]])
    with pytest.raises(UsageError, match="level"):
        estimate([1], level=1)
    with pytest.raises(UsageError, match="resample"):
        estimate([1], resamples=0)
    with pytest.raises(UsageError, match="3 and 2"):
        paired_difference([1, 2, 3], [1, 2])


def test_a_measure_over_a_stream() -> None:
    found = measured(lambda a, b, scale: scale * (a - b), zip([1, 2, 3], [1, 0, 0], strict=True), scale=2)
    assert found.values.tolist() == [0, 4, 6]
    assert found.estimate == estimate([0, 4, 6])


def test_samples_without_meaning_are_left_aside() -> None:
    found = Measured.of([1, np.nan, 3])
    assert found.estimate == estimate([1, 3])
    assert Measured.of([np.nan]).estimate is None
