"""Fixations of pictures: the crops, their votes, and points on the picture's own pixels."""

import numpy as np
import pytest
from nets import model, node
from PIL import Image

import onnxplain
from onnxplain.engine.points import Points
from onnxplain.errors import UsageError
from onnxplain.inputs.contract import discover
from onnxplain.inputs.pictures import Geometry, Picture, prepare
from onnxplain.methods.crops import _agreeing
from onnxplain.methods.density import without_outliers

SIDE = 224


@pytest.fixture(scope="module")
def colours():
    """A classifier of colours over 224 x 224 pixels; the brightest place of a colour is its fixation."""
    net = model(
        [node("Conv", ["x", "w"], "c"), node("GlobalMaxPool", ["c"], "p"), node("Flatten", ["p"], "f"),
         node("Gemm", ["f", "d"], "logits"), node("Softmax", ["logits"], "y")],
        {"x": ("n", 3, SIDE, SIDE)}, constants={"w": np.eye(3).reshape(3, 3, 1, 1), "d": 4 * np.eye(3)},
    )  # fmt: skip
    return onnxplain.load(net)


def picture(height, width, dots):
    pixels = np.zeros((height, width, 3), np.uint8)
    for y, x, channel in dots:
        pixels[y - 6 : y + 7, x - 6 : x + 7, channel] = 120
        pixels[y, x, channel] = 255
    return Picture(Image.fromarray(pixels))


def test_four_corners_and_the_middle():
    contract_window = Geometry.whole((224, 224))
    windows = Geometry((375, 500), (0, 0), (0, 0), contract_window.window).crops(256)
    assert {window.resized for window in windows} == {(256, 341)}
    assert [window.offset for window in windows] == [(0, 0), (0, 117), (32, 0), (32, 117), (16, 58)]


def test_places_are_the_pixels_under_the_middles():
    shrunk = Geometry((40, 80), (20, 40), (2, 10), (16, 16))
    y, x = shrunk.places(np.array([0, 15]), np.array([0, 15]))
    assert y.tolist() == [5, 35]
    assert x.tolist() == [21, 51]
    framed = Geometry((10, 20), (8, 16), (-4, 0), (16, 16))
    y, x = framed.places(np.array([0, 4, 15]), np.array([0, 8, 15]))
    assert y.tolist() == [0, 0, 9], "the frame leads to the nearest row"
    assert x.tolist() == [0, 10, 19]


def test_points_of_every_crop_meet_at_one_pixel(colours):
    e = onnxplain.fixate_picture(colours, picture(300, 400, [(150, 200, 1)]), preprocess="unit")
    assert e.prediction.shape == (1, 3)
    assert e.target[0].index == 1
    assert "5 of 5 crops give points" in e.notes
    assert e.point_weights["x"].sum() == 5
    places = e.points["x"]
    assert (places[:, 1] == 1).all()
    assert (np.abs(places[:, 2:] - [150, 200]) <= 1).all()
    assert e.map("x").shape == (1, 300, 400)
    left, top, right, bottom = e.boxes["x"][0]
    assert left >= 199
    assert right <= 201
    assert bottom - top <= 2


def test_only_crops_of_the_voted_class_give_points(colours):
    """Red in the middle, in every crop; brighter green where the two left corners alone reach."""
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[144:157, 194:207, 0] = 200
    pixels[44:57, 4:17, 1] = 255
    shown = Picture(Image.fromarray(pixels))
    e = onnxplain.fixate_picture(colours, shown, preprocess="unit")
    assert e.target[0].index == 0
    assert "3 of 5 crops give points" in e.notes
    assert set(e.points["x"][:, 1]) == {0}
    green = onnxplain.fixate_picture(colours, shown, target=1, preprocess="unit", outliers=False)
    assert "5 of 5 crops give points" in green.notes, "a target that is named needs no vote"
    assert 1 in green.points["x"][:, 1]


@pytest.mark.parametrize(
    ("own", "label", "giving"),
    [([0, 1, 1, 2, 0], 1, [1, 2]), ([0, 1, 1, 2, 0], 3, [0, 4]), ([2] * 5, 2, [0, 1, 2, 3, 4])],
)  # fmt: skip
def test_the_vote(own, label, giving):
    assert _agreeing(np.eye(4)[own], label) == giving


def test_one_crop_is_the_unravelling_of_the_one_window(colours):
    shown = picture(300, 400, [(150, 200, 2)])
    e = onnxplain.fixate_picture(colours, shown, crops=1, preprocess="unit", outliers=False)
    array, geometry = prepare(shown, discover(colours, "x", preprocess="unit"))
    plain = onnxplain.explain(colours, array, "fixations", crops=1, outliers=False)
    [[_, channel, y, x]] = plain.points["x"]
    y, x = geometry.places(y, x)
    assert e.points["x"].tolist() == [[0, channel, y, x]]


def test_ten_names_the_same_protocol(colours):
    shown = picture(300, 400, [(150, 200, 2), (30, 30, 0)])
    five, ten = (onnxplain.fixate_picture(colours, shown, crops=crops, preprocess="unit") for crops in (5, 10))
    assert five.points["x"].tolist() == ten.points["x"].tolist()


def test_mistakes(colours):
    shown = picture(300, 300, [(100, 100, 0)])
    with pytest.raises(UsageError, match="1, 5 or 10"):
        onnxplain.fixate_picture(colours, shown, crops=2, preprocess="unit")
    with pytest.raises(UsageError, match="needs the picture"):
        onnxplain.explain(colours, np.zeros((1, 3, SIDE, SIDE), np.float32), "fixations", crops=5)
    with pytest.raises(UsageError, match="no option"):
        onnxplain.fixate_picture(colours, shown, steps=3, preprocess="unit")
    with pytest.raises(UsageError, match="no class vector"):
        onnxplain.fixate_picture(colours, shown, output="c", preprocess="unit")


def points_at(places, side=100):
    index = np.sort(np.array([y * side + x for y, x in places]))
    return Points(index, np.ones(len(index), np.int64))


def test_three_far_points_of_a_hundred_are_outliers_six_that_lie_together_are_not():
    cluster = [(y, x) for y in range(10) for x in range(10)]
    far = [(90, 90), (90, 50), (50, 90)]
    assert len(without_outliers(points_at(cluster + far), (1, 1, 100, 100), 1, 0.1, 0.05)) == 100
    together = [(90, 90 + k) for k in range(6)]
    assert len(without_outliers(points_at(cluster + together), (1, 1, 100, 100), 1, 0.1, 0.05)) == 106


def test_where_nothing_would_stay_everything_does():
    scattered = [(y, x) for y in range(5, 100, 20) for x in range(5, 100, 20)]
    assert len(without_outliers(points_at(scattered), (1, 1, 100, 100), 1, 0.1, 0.05)) == 25
