"""Pictures of fixations: points and box where they belong, and the counts of the path."""

import numpy as np
import pytest

from onnxplain.explanation import PathStep
from onnxplain.render.fixations import path_figure, points_over


def test_points_stand_at_their_pixels_and_grow_with_their_weight():
    black = np.zeros((60, 90, 3), np.uint8)
    drawn = points_over(black, np.array([20, 40]), np.array([15, 70]), np.array([1, 4]))
    red = (drawn[..., 0] > 150) & (drawn[..., 1] < 100)
    assert red[20, 15]
    assert red[40, 70]
    left, right = red[:, :45].sum(), red[:, 45:].sum()
    assert 0 < left <= right
    assert not black.any(), "the picture that was given stays"


def test_points_at_one_pixel_are_one_of_their_joint_weight():
    black = np.zeros((40, 40, 3), np.uint8)
    twice = points_over(black, np.array([9, 9]), np.array([9, 9]), np.array([1, 3]))
    np.testing.assert_array_equal(twice, points_over(black, np.array([9]), np.array([9]), np.array([4])))


def test_the_box_holds_its_last_pixels():
    drawn = points_over(
        np.zeros((40, 50, 3), np.uint8), np.zeros(0, int), np.zeros(0, int), np.zeros(0), (5, 8, 30, 25)
    )
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (5, 8, 30, 25)


def step(layer, shape, *index):
    return PathStep(layer, "Conv", layer, shape, np.array(index), np.ones(len(index), np.int64))


def test_the_path_counts_neurons_and_shows_places():
    path = [step("head", (2, 5), 3, 9), step("same", (2, 5), 3, 9), step("deep", (2, 3, 4, 4), 2, 7, 50)]
    figure = path_figure(path)
    bars, places = figure.axes[0], figure.axes[1]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["head", "deep"], "'same' moves nothing"
    assert [bar.get_width() for bar in bars.patches] == [1, 2], "of the first sample"
    assert places.get_title() == "deep\n2 of 3x4x4"
    second = path_figure(path, sample=1)
    assert [bar.get_width() for bar in second.axes[0].patches] == [1, 1]


def test_a_path_needs_a_layer():
    with pytest.raises(ValueError, match="at least one"):
        path_figure([])
