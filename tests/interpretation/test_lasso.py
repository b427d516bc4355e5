"""The mu-lasso against planted features, an independent solver's numbers, and the optimality conditions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxplain.interpretation import lasso
from onnxplain.interpretation.lasso import Solution, distinct, solve

ORACLE = Path(__file__).parent / "lasso.npz"


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """600 samples, 120 filters in 3 tensors of 40; five filters of each of 6 classes respond three times as much."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 6, 600)
    features = rng.permutation(120)[:30].reshape(6, 5)
    x = np.abs(rng.standard_normal((600, 120)))
    x[np.arange(600)[:, None], features[classes]] *= 3
    shares = x.reshape(600, 3, 40)
    return (shares / shares.sum(axis=2, keepdims=True)).reshape(600, 120).astype(np.float32), classes, features


def solved(x: np.ndarray, classes: np.ndarray, mu: float, folder: Path) -> list[Solution]:
    return list(solve(x, np.arange(len(x)), classes, mu))


@pytest.mark.parametrize("mu", [10.0, 50.0, np.inf])
def test_five_planted_features_of_each_class_are_recovered_exactly(mu: float, tmp_path: Path) -> None:
    for seed in range(2):
        x, classes, features = planted(seed)
        for found, own in zip(solved(x, classes, mu, tmp_path), features, strict=True):
            assert set(found.index) == set(own)
            assert not found.bounded
            assert 7 < found.weight.sum() < 10
    assert list(tmp_path.iterdir()) == []


def test_a_tighter_bound_keeps_fewer(tmp_path: Path) -> None:
    x, classes, features = planted(3)
    for mu, fewest, most in ((5.0, 3, 5), (1.0, 1, 4)):
        for found, own in zip(solved(x, classes, mu, tmp_path), features, strict=True):
            assert fewest <= len(found.index) <= most
            assert set(found.index) <= set(own)
            assert found.bounded
            assert found.weight.sum() == pytest.approx(mu, rel=1e-9)


def test_weights_are_those_of_independent_solvers(tmp_path: Path) -> None:
    oracle = np.load(ORACLE)
    solvers = [name for name in ("spams", "cvxpy") if name in oracle]
    assert solvers
    for place, mu in enumerate(oracle["bounds"]):
        ours = np.zeros((oracle["x"].shape[1], 4))
        for index, found in enumerate(solved(oracle["x"], oracle["classes"], float(mu), tmp_path)):
            ours[found.index, index] = found.weight
        for name in solvers:
            np.testing.assert_allclose(ours, oracle[name][place], atol=2e-5 * max(1, ours.max()))


def test_optimal_on_correlated_filters_whatever_the_sizes_of_block_and_working_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    mix = np.abs(rng.standard_normal((6, 50))) ** 3
    x = (np.abs(rng.standard_normal((90, 6))) @ mix).astype(np.float32)
    x /= x.sum(axis=1, keepdims=True)
    classes = rng.integers(0, 3, 90)
    for mu in (2.0, np.inf):
        whole = solved(x, classes, mu, tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(lasso, "BLOCK_BYTES", 8 * 50 * 7)
            patched.setattr(lasso, "CHUNK", 16)
            patched.setattr(lasso, "_WORKING", 5)
            parts = solved(x, classes, mu, tmp_path)
        for index, (found, part) in enumerate(zip(whole, parts, strict=True)):
            w = np.zeros(50)
            w[found.index] = found.weight
            slope = x.T.astype(float) @ ((classes == index) - x.astype(float) @ w)
            multiplier = slope[found.index].max()
            assert (w >= 0).all()
            assert w.sum() <= mu * (1 + 1e-9)
            assert np.ptp(slope[found.index]) < 1e-6
            assert slope.max() < multiplier + 1e-6
            assert multiplier > 1e-3 if found.bounded else abs(multiplier) < 1e-6
            np.testing.assert_array_equal(part.index, found.index)
            np.testing.assert_allclose(part.weight, found.weight, rtol=1e-4)


def test_fewer_samples_than_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    x = np.abs(rng.standard_normal((40, 500))).astype(np.float32)
    x /= x.sum(axis=1, keepdims=True)
    classes = np.arange(40) % 4
    monkeypatch.setattr(lasso, "_WORKING", 30)
    for mu in (10.0, np.inf):
        for index, found in enumerate(solved(x, classes, mu, tmp_path)):
            w = np.zeros(500)
            w[found.index] = found.weight
            moment = x.T.astype(float) @ (classes == index)
            slope = moment - x.T.astype(float) @ (x.astype(float) @ w)
            assert slope.max() - slope[found.index].min() < 1e-5 * moment.max()
            assert len(found.index) <= 40


def test_the_first_of_equal_filters_counts_and_silent_ones_never(tmp_path: Path) -> None:
    x, classes, _ = planted(0)
    silent = np.zeros((600, 1), np.float32)
    wide = np.concatenate([silent, x, x, silent], axis=1)
    np.testing.assert_array_equal(distinct(wide, np.arange(600)), np.arange(1, 121))
    for alone, doubled in zip(solved(x, classes, 10, tmp_path), solved(wide, classes, 10, tmp_path), strict=True):
        np.testing.assert_array_equal(doubled.index, alone.index + 1)
        np.testing.assert_array_equal(doubled.weight, alone.weight)


def test_nothing_responds(tmp_path: Path) -> None:
    (found,) = solved(np.zeros((3, 4), np.float32), np.zeros(3, int), 10, tmp_path)
    assert (len(found.index), found.bounded) == (0, False)
