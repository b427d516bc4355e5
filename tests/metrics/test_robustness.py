from __future__ import annotations

import numpy as np
import pytest

from onnxplain.errors import FailureError, UsageError
from onnxplain.metrics.robustness import completeness_gap, max_sensitivity


def test_gap_of_a_linear_model() -> None:
    # f(x) = w x + b with the baseline 0: input times gradient adds up to f(x) - f(0), not to f(x)
    w, x, b = np.array([1.0, -2.0, 3.0]), np.array([2.0, 1.0, 4.0]), 4.0
    assert completeness_gap(w * x, w @ x + b, b) == 0
    assert completeness_gap(w * x, w @ x + b) == pytest.approx(4 / 16)
    assert np.isnan(completeness_gap(w * x, 3, 3))


def test_a_map_that_does_not_look_does_not_move() -> None:
    assert max_sensitivity(lambda x: np.ones((3, 3)), np.arange(9.0).reshape(3, 3)) == 0
    assert np.isnan(max_sensitivity(lambda x: np.zeros((3, 3)), np.arange(9.0).reshape(3, 3)))


def test_a_map_that_is_the_input_moves_as_the_input_does() -> None:
    x = np.array([0.0, 10.0])
    generator = np.random.default_rng(3)
    noise = [generator.uniform(-0.5, 0.5, 2) for _ in range(4)]
    expected = max(np.linalg.norm(d) for d in noise) / 10
    assert max_sensitivity(lambda x: x, x, radius=0.05, draws=4, seed=3) == pytest.approx(expected)


def test_the_noise_depends_on_the_seed_alone() -> None:
    x = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    one, two, other = (max_sensitivity(lambda x: x**2, x, seed=seed) for seed in (0, 0, 1))
    assert one == two != other


def test_errors() -> None:
    for options in ({"radius": 0.0}, {"radius": float("nan")}, {"draws": 0}):
        with pytest.raises(UsageError, match="max-sensitivity needs"):
            max_sensitivity(lambda x: x, np.ones(3), **options)  # type: ignore[arg-type]
    with pytest.raises(FailureError, match="NaN"):
        max_sensitivity(lambda x: x * np.nan, np.ones(3))
    with pytest.raises(FailureError, match="NaN"):
        completeness_gap([np.nan], 1)
