from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxplain.errors import FailureError, UsageError
from onnxplain.metrics import maps

# Worked by hand: 4 x 5 pixels, the mask is the 2 x 2 block at rows 1-2, columns 1-2.
MAP = np.array(
    [
        [0, 1, 0, 0, 2],
        [0, 9, 4, 0, 0],
        [0, 3, 0, 0, 0],
        [5, 0, 0, 0, 1],
    ],
    dtype=np.float32,
)
MASK = np.zeros((4, 5), dtype=bool)
MASK[1:3, 1:3] = True
MEASURES = (
    maps.energy_in_box,
    maps.top_iou,
    maps.box_score,
    maps.pointing_game,
    maps.best_iou,
    maps.area_under_iou,
)


def test_energy_is_the_share_inside() -> None:
    assert maps.energy_in_box(MAP, MASK) == pytest.approx(16 / 25)


def test_energy_counts_negative_values_by_their_size() -> None:
    assert maps.energy_in_box([[3.0, -1.0], [0.0, -4.0]], [[0, 1], [0, 1]]) == pytest.approx(5 / 8)


def test_top_fifth_against_mask() -> None:
    # the 4 largest of 20 are 9, 5, 4, 3; three lie inside; union 4 + 4 - 3
    assert maps.top_iou(MAP, MASK) == pytest.approx(3 / 5)
    # the 2 largest, one inside; union 2 + 4 - 1
    assert maps.top_iou(MAP, MASK, share=0.1) == pytest.approx(1 / 5)


def test_box_score_takes_as_many_pixels_as_the_mask_has() -> None:
    assert maps.box_score(MAP, MASK) == pytest.approx(3 / 4)


def test_top_pixels_go_by_signed_value() -> None:
    signed = np.where(MASK, -10.0, MAP)
    assert maps.box_score(signed, MASK) == 0
    assert maps.top_iou(signed, MASK) == 0


def test_ties_at_the_cut_share_it() -> None:
    ones = np.array([[1.0, 0, 0, 0, 0]] + [[0.0] * 5] * 3)
    # 1 pixel above the cut (outside), 3 more spread over 19 tied ones, 4 of them inside
    assert maps.box_score(ones, MASK) == pytest.approx(3 * 4 / 19 / 4)
    inside = 3 * 4 / 19
    assert maps.top_iou(ones, MASK) == pytest.approx(inside / (4 + 4 - inside))


def test_a_constant_map_scores_what_chance_gives() -> None:
    flat = np.full((4, 5), 7.0)
    assert maps.energy_in_box(flat, MASK) == pytest.approx(0.2)
    assert maps.box_score(flat, MASK) == pytest.approx(0.2)
    assert maps.pointing_game(flat, MASK) == pytest.approx(0.2)
    assert maps.best_iou(flat, MASK) == pytest.approx(0.2)
    assert maps.area_under_iou(flat, MASK) == pytest.approx(0.2)
    assert maps.sparseness(flat) == pytest.approx(0, abs=1e-12)


def test_a_map_equal_to_the_mask_is_perfect() -> None:
    for measure in (maps.energy_in_box, maps.box_score, maps.pointing_game, maps.best_iou, maps.area_under_iou):
        assert measure(MASK, MASK) == pytest.approx(1), measure.__name__
    assert maps.top_iou(MASK, MASK, share=0.2) == pytest.approx(1)


def test_pointing_game_and_its_tolerance() -> None:
    assert maps.pointing_game(MAP, MASK) == 1
    aside = MAP.copy()
    aside[3, 4] = 20  # nearest pixel of the mask is (2, 2): sqrt(5) away
    assert maps.pointing_game(aside, MASK) == 0
    assert maps.pointing_game(aside, MASK, tolerance=2.2) == 0
    assert maps.pointing_game(aside, MASK, tolerance=2.3) == 1
    aside[1, 1] = 20
    assert maps.pointing_game(aside, MASK) == 0.5


def test_iou_over_thresholds() -> None:
    # pixels at or above 9: 1 in, 1/4; 5: 1/5; 4: 2/5; 3: 3/5; 2: 3/6; 1: 3/8; 0: 4/20
    assert maps.best_iou(MAP, MASK) == pytest.approx(3 / 5)
    area = ((9 - 5) * 1 / 4 + (5 - 4) * 1 / 5 + 2 / 5 + 3 / 5 + 3 / 6 + 3 / 8) / 9
    assert maps.area_under_iou(MAP, MASK) == pytest.approx(area)


def test_area_is_the_limit_of_a_fine_sweep_and_ignores_scale() -> None:
    rng = np.random.default_rng(3)
    values, mask = rng.normal(size=(12, 9)), rng.random((12, 9)) < 0.3
    unit = (values - values.min()) / np.ptp(values)
    sweep = [
        np.count_nonzero((unit >= t) & mask) / np.count_nonzero((unit >= t) | mask) for t in np.linspace(0, 1, 20001)
    ]
    assert maps.area_under_iou(values, mask) == pytest.approx(np.mean(sweep), abs=1e-3)
    assert maps.best_iou(values, mask) == pytest.approx(max(sweep))
    assert maps.area_under_iou(values * 37 - 5, mask) == pytest.approx(maps.area_under_iou(values, mask))


def test_sparseness_by_hand() -> None:
    # (2i - n - 1) = -3 -1 1 3 on 0 1 2 5
    assert maps.sparseness([[5, 0], [-2, 1]]) == pytest.approx((-1 + 2 + 15) / (4 * 8))
    assert maps.sparseness(np.eye(1, 10)) == pytest.approx(0.9)


def test_sparseness_is_half_the_mean_absolute_difference() -> None:
    s = np.abs(np.random.default_rng(0).normal(size=50))
    gini = np.abs(s[:, None] - s[None]).mean() / (2 * s.mean())
    assert maps.sparseness(s) == pytest.approx(gini)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_map_of_zeros_scores_nothing(measure: object) -> None:
    assert measure(np.zeros((4, 5)), MASK) == 0  # type: ignore[operator]


def test_zeros_are_not_sparse() -> None:
    assert maps.sparseness(np.zeros((4, 5))) == 0


@pytest.mark.parametrize("measure", MEASURES)
@given(s=arrays(np.float64, (6, 7), elements=st.integers(-4, 4)), g=arrays(np.bool_, (6, 7)))
def test_no_measure_depends_on_the_order_of_pixels(measure: object, s: np.ndarray, g: np.ndarray) -> None:
    g[0, 0] = True
    straight, turned = measure(s, g), measure(s[::-1, ::-1].T, g[::-1, ::-1].T)  # type: ignore[operator]
    assert straight == pytest.approx(turned)
    assert 0 <= straight <= 1 + 1e-12


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_refused(measure: object) -> None:
    with pytest.raises(UsageError, match="mask is empty"):
        measure(MAP, np.zeros_like(MASK))  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"\(4, 5\).*\(5, 4\)"):
        measure(MAP, MASK.T)  # type: ignore[operator]
    with pytest.raises(FailureError, match="NaN"):
        measure(np.where(MASK, np.nan, MAP), MASK)  # type: ignore[operator]


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="share"):
        maps.top_iou(MAP, MASK, share=0)
    with pytest.raises(UsageError, match="tolerance"):
        maps.pointing_game(MAP, MASK, tolerance=-1)
    with pytest.raises(UsageError, match="no pixel"):
        maps.sparseness(np.zeros((0, 3)))


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_grid_is_all_energy_at_its_stride(stride: int) -> None:
    y, x = np.mgrid[:36, :24]
    assert maps.stride_energy((x % stride == 0) * 1.0, stride) == pytest.approx(1)
    assert maps.stride_energy((x % stride == 0) * (y % stride == 0) + 5.0, stride) == pytest.approx(1)
    # what is left of a period at the edges does not count
    assert maps.stride_energy(np.pad((y % stride == 0) * 1.0, (0, stride - 1)), stride) == pytest.approx(1)
    assert maps.stride_energy((x % 6 == 0) * 1.0, stride) < 0.9


def test_a_grid_on_a_wave_has_its_share_of_the_energy() -> None:
    y, x = np.mgrid[:48, :40]
    grid, wave = np.cos(np.pi * (x + y)), np.cos(2 * np.pi * (x / 40 + 3 * y / 48))
    # mean squares: grid 1, wave 1/2
    assert maps.stride_energy(3 + 2 * grid + 4 * wave, 2) == pytest.approx(4 / (4 + 8))
    assert maps.stride_energy(wave, 2) == pytest.approx(0, abs=1e-12)
    # a grid whose strength varies along it is a grid
    assert maps.stride_energy(np.cos(np.pi * x) * (2 + np.cos(2 * np.pi * y / 48)), 2) == pytest.approx(1)


def test_noise_has_the_share_of_the_lines() -> None:
    noise = np.random.default_rng(0).standard_normal((96, 96))
    assert maps.stride_energy(noise, 2) == pytest.approx(2 / 96, rel=0.3)


def test_no_grid() -> None:
    assert maps.stride_energy(np.full((8, 8), 0.1), 2) == 0
    for shape, stride in (((8, 8), 1), ((8, 8), 5), ((8,), 2)):
        with pytest.raises(UsageError):
            maps.stride_energy(np.ones(shape), stride)
