"""Measures that ask the model, held against functions whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import pytest

from onnxplain.errors import FailureError, UsageError
from onnxplain.metrics import faithfulness as f

WEIGHTS = np.arange(1.0, 13.0).reshape(3, 4)
X = np.ones((1, 3, 4))


def linear(inputs: Iterable[np.ndarray]) -> np.ndarray:
    """The weighted sum of the pixels; its true map is WEIGHTS."""
    return np.array([(WEIGHTS * x[0]).sum() for x in inputs])


def brittle(inputs: Iterable[np.ndarray]) -> np.ndarray:
    """1 while nothing is touched, else 0: the net that dies on any deletion."""
    return np.array([float((x == X).all()) for x in inputs])


def counting(score: f.Score) -> tuple[f.Score, list[np.ndarray]]:
    seen: list[np.ndarray] = []

    def count(inputs: Iterable[np.ndarray]) -> np.ndarray:
        seen.extend(inputs)
        return np.asarray(score(seen))

    return count, seen


def test_kept_pixels_of_a_linear_model() -> None:
    # 15 % of 12 pixels are 2: the weights 12 and 11; the sum of all is 78
    assert f.kept_score(linear, X, WEIGHTS) == (78, 23)
    assert f.kept_score(linear, X, WEIGHTS, share=0.5) == (78, 12 + 11 + 10 + 9 + 8 + 7)
    assert f.kept_score(linear, X, -WEIGHTS, share=0.01) == (78, 1)


def test_drop_and_increase_by_hand() -> None:
    # K = 4 samples of (f(I), f(I * T)): the printed formula gives 100/4 (0.5 + 0 + 0.25 + 0)
    pairs = [(0.8, 0.4), (0.5, 0.6), (0.4, 0.3), (0.2, 0.2)]
    assert np.mean([f.drop(*pair) for pair in pairs]) == pytest.approx(18.75)
    assert np.mean([f.increase(*pair) for pair in pairs]) == 25


def test_a_score_that_is_not_positive_has_no_drop() -> None:
    with pytest.raises(UsageError, match="take a probability"):
        f.drop(-1.0, 0.5)


def test_deletion_and_insertion_of_a_linear_model() -> None:
    # One pixel at a time: after k deletions of the largest, the smallest 12 - k weights are left.
    left = np.array([np.arange(1, 13 - k).sum() for k in range(13)], float)
    area = ((left[:-1] + left[1:]) / 2).mean()
    assert f.deletion(linear, X, WEIGHTS, steps=12) == pytest.approx(area)
    assert f.insertion(linear, X, WEIGHTS, baseline="zero", steps=12) == pytest.approx(78 - area)
    assert f.deletion(linear, X, -WEIGHTS, steps=12) == pytest.approx(78 - area)


def test_the_true_map_is_the_best_one() -> None:
    generator = np.random.default_rng(0)
    best = f.deletion(linear, X, WEIGHTS, steps=12)
    assert all(f.deletion(linear, X, generator.permuted(WEIGHTS), steps=12) > best for _ in range(5))


@pytest.mark.parametrize("steps", [1, 4, 12])
def test_a_net_that_dies_on_any_deletion(steps: int) -> None:
    # 1 at the start and 0 after the first step: the first trapezoid alone has an area.
    assert f.deletion(brittle, X, WEIGHTS, steps=steps) == pytest.approx(1 / (2 * steps))
    assert f.insertion(brittle, X, WEIGHTS, baseline="zero", steps=steps) == pytest.approx(1 / (2 * steps))
    assert f.drop(*f.kept_score(brittle, X, WEIGHTS)) == 100


def test_curves_go_from_end_to_end() -> None:
    x = np.random.default_rng(1).normal(size=(4, 5, 3))
    values = np.random.default_rng(2).normal(size=(4, 5))
    score, seen = counting(lambda inputs: np.array([x.sum() for x in inputs]))
    f.insertion(score, x, values, baseline="mean", steps=7, axis=2)
    assert len(seen) == 8
    np.testing.assert_allclose(seen[0], np.broadcast_to(x.mean(axis=(0, 1)), x.shape))
    np.testing.assert_array_equal(seen[-1], x)
    changed = [(one != two).any(axis=2) for one, two in pairwise(seen)]
    assert [int(step.sum()) for step in changed] == [3, 3, 3, 3, 3, 3, 2]
    assert values[changed[0]].min() > values[~changed[0]].max()


def test_channels_may_stand_last() -> None:
    x = np.random.default_rng(3).normal(size=(2, 6, 7))
    values = np.random.default_rng(4).normal(size=(6, 7))
    weights = np.random.default_rng(5).normal(size=x.shape)

    def first(inputs: Iterable[np.ndarray]) -> np.ndarray:
        return np.array([(weights * one).sum() for one in inputs])

    def last(inputs: Iterable[np.ndarray]) -> np.ndarray:
        return first(np.moveaxis(one, -1, 0) for one in inputs)

    moved = np.moveaxis(x, 0, -1)
    for baseline in ("zero", "mean", "blur"):
        expected = f.deletion(first, x, values, baseline=baseline)
        assert f.deletion(last, moved, values, baseline=baseline, axis=2) == pytest.approx(expected)
    assert f.pixel_flipping(last, moved, values, region=2, axis=2) == pytest.approx(
        f.pixel_flipping(first, x, values, region=2)
    )


def test_blur_keeps_a_flat_picture_and_spreads_a_point() -> None:
    flat = np.full((2, 20, 20), 3.0, np.float32)
    np.testing.assert_allclose(f.baseline_of(flat, "blur"), flat, rtol=1e-6)
    point = np.zeros((1, 21, 21), np.float32)
    point[0, 10, 10] = 1
    # 11 taps of exp(-d^2 / (2 * 5^2)), normalised, along each axis
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 5) ** 2)
    expected = np.outer(taps, taps) / taps.sum() ** 2
    np.testing.assert_allclose(f.baseline_of(point, "blur")[0, 5:16, 5:16], expected, rtol=1e-5)


def test_pixel_flipping_by_hand() -> None:
    # Squares of 2 x 2 in a 3 x 4 picture: 2 rows of 2 columns, the lower ones cut. The net counts untouched squares.
    values = np.array([[0, 0, 2, 0], [0, 1, 0, 2], [9, 0, 0, 3.0]])

    def untouched(inputs: Iterable[np.ndarray]) -> np.ndarray:
        return np.array(
            [sum((x[0, r : r + 2, c : c + 2] == PICTURE[0, r : r + 2, c : c + 2]).all() for r in (0, 2) for c in (0, 2))
             for x in inputs]
        )  # fmt: skip

    PICTURE = np.random.default_rng(0).normal(size=(1, 3, 4))
    # scores 4 3 2 1 0: the mean of 0 1 2 3 4
    assert f.pixel_flipping(untouched, PICTURE, values, region=2) == 2
    assert f.pixel_flipping(untouched, PICTURE, values, region=2, steps=1) == 0.5
    # the order of the sums 9, 4, 3, 1: bottom left, top right, bottom right, top left
    score, seen = counting(untouched)
    f.pixel_flipping(score, PICTURE, values, region=2)
    changed = [np.argwhere(a[0] != b[0])[0].tolist() for a, b in pairwise(seen)]
    assert changed == [[2, 0], [0, 2], [2, 2], [0, 0]]


def test_flipped_squares_stay_in_the_range_of_their_channel() -> None:
    x = np.stack([np.linspace(0, 1, 36).reshape(6, 6), np.linspace(5, 9, 36).reshape(6, 6)])
    score, seen = counting(lambda inputs: np.array([x.sum() for x in inputs]))
    f.pixel_flipping(score, x, np.arange(36.0).reshape(6, 6), region=3)
    assert seen[-1][0].min() >= 0
    assert seen[-1][0].max() <= 1
    assert seen[-1][1].min() >= 5
    assert not (seen[-1] == x).any()


def test_ties_come_in_a_seeded_random_order() -> None:
    flat = np.zeros((3, 4))
    orders = [f.ranked(X, flat, seed=seed).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(12)) != orders[0]


def test_the_input_is_left_alone() -> None:
    x = X.copy()
    for measure in (f.deletion, f.insertion, f.pixel_flipping):
        measure(linear, x, WEIGHTS)
    f.kept_score(linear, x, WEIGHTS)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: f.deletion(linear, X, WEIGHTS.T), r"shape \(4, 3\) does not fit an input \(1, 3, 4\)"),
        (lambda: f.deletion(linear, X, WEIGHTS, axis=2), "does not fit"),
        (lambda: f.deletion(linear, X, WEIGHTS, steps=0), "at least one step"),
        (lambda: f.deletion(linear, X, WEIGHTS, baseline="noise"), "zero, mean or blur"),  # type: ignore[arg-type]
        (lambda: f.kept_score(linear, X, WEIGHTS, share=0), "share of kept pixels"),
        (lambda: f.pixel_flipping(linear, X, WEIGHTS, region=0), "at least 1"),
    ],
)
def test_what_is_asked_wrongly(call: Callable[[], object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        call()


def test_what_is_not_finite() -> None:
    with pytest.raises(FailureError, match="12 values that are NaN"):
        f.deletion(linear, X, WEIGHTS * np.nan)
    with pytest.raises(FailureError, match="score of 51"):
        f.deletion(lambda inputs: np.full(len(list(inputs)), np.nan), np.ones((1, 8, 8)), np.ones((8, 8)))
