from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxplain.errors import UsageError
from onnxplain.metrics.boxes import Row, box_mask, collect, image_key, iou

SIDE = 12


def test_iou_by_hand() -> None:
    # inclusive: 10 x 10 and 10 x 5 pixels; exclusive: 9 x 9 and 9 x 4
    a, b = [0, 0, 9, 9], [0, 0, 9, 4]
    assert iou(a, b, "inclusive") == 50 / 100
    assert iou(a, b, "exclusive") == 36 / 81
    assert iou([0, 0, 4, 4], [4, 0, 8, 4], "exclusive") == 0
    assert iou([0, 0, 4, 4], [4, 0, 8, 4], "inclusive") == 5 / 45
    assert iou([3, 3, 3, 3], [3, 3, 3, 3], "inclusive") == 1
    assert iou([3, 3, 3, 3], [3, 3, 3, 3], "exclusive") == 0
    assert iou([0, 0, 1, 1], [5, 5, 6, 6]) == 0


def test_iou_broadcasts() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [4, 4, 5, 5]])
    np.testing.assert_allclose(iou(boxes[:, None], boxes[None]), [[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 1]])


@st.composite
def whole_boxes(draw: st.DrawFn) -> list[int]:
    left, top = draw(st.integers(0, SIDE - 1)), draw(st.integers(0, SIDE - 1))
    return [left, top, draw(st.integers(left, SIDE - 1)), draw(st.integers(top, SIDE - 1))]


def _pixels(box: list[int]) -> set[tuple[int, int]]:
    left, top, right, bottom = box
    return {(x, y) for x in range(left, right + 1) for y in range(top, bottom + 1)}


@given(whole_boxes(), whole_boxes())
def test_inclusive_iou_counts_pixels(a: list[int], b: list[int]) -> None:
    expected = len(_pixels(a) & _pixels(b)) / len(_pixels(a) | _pixels(b))
    assert iou(a, b, "inclusive") == pytest.approx(expected)
    edges = np.array([a, b]) + np.array([0, 0, 1, 1])
    masks = [box_mask(box, (SIDE, SIDE)) for box in edges]
    assert iou(*edges) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_mask_covers_every_box_and_is_cut_at_the_border() -> None:
    mask = box_mask([[1, 0, 3, 2], [3, 1, 99, 2], [-5, -5, 1, 1]], (3, 5))
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]])


def test_a_pixel_belongs_to_the_box_that_holds_its_centre() -> None:
    np.testing.assert_array_equal(box_mask([0.4, 0, 2.6, 1], (1, 4)), [[1, 1, 1, 0]])
    np.testing.assert_array_equal(box_mask([0.6, 0, 2.4, 1], (1, 4)), [[0, 1, 0, 0]])


@pytest.mark.parametrize(("low", "high", "pixel"), [(3.6, 3.9, 3), (9.7, 40, 9), (-8, 0.2, 0), (5, 5, 5)])
def test_a_box_thinner_than_a_pixel_keeps_one(low: float, high: float, pixel: int) -> None:
    np.testing.assert_array_equal(np.flatnonzero(box_mask([low, 0, high, 1], (1, 10))), [pixel])


@pytest.mark.parametrize("box", [[5, 0, 7, 2], [-3, 0, 0, 2], [0, 3, 2, 9], [0, -2, 2, 0]])
def test_a_box_outside_the_picture_is_refused(box: list[int]) -> None:
    with pytest.raises(UsageError, match="outside the picture of 5 x 3"):
        box_mask([[0, 0, 1, 1], box], (3, 5))


def test_no_box_is_refused() -> None:
    with pytest.raises(UsageError, match="no box"):
        box_mask(np.zeros((0, 4)), (3, 5))


def test_rows_are_grouped_by_image_and_ranked_by_score() -> None:
    rows = [
        Row("b.jpg", [0, 0, 1, 1], "low", 0.1),
        Row("a.jpg", [0, 0, 2, 2], "only", 0.5),
        Row("b.jpg", [0, 0, 3, 3], "high", 0.9),
    ]
    boxes = collect("here", rows, closed=False, images=["a.jpg", "none.jpg", "b.jpg"])
    assert boxes.images == ("a.jpg", "none.jpg", "b.jpg")
    assert boxes.label.tolist() == ["only", "high", "low"]
    assert boxes.image.tolist() == [0, 2, 2]
    assert boxes.starts.tolist() == [0, 1, 1, 3]
    assert boxes.label[boxes.of("b")].tolist() == ["high", "low"]
    assert boxes.label[boxes.of("none.jpg")].tolist() == []
    with pytest.raises(UsageError, match=r"no image 'c\.jpg'"):
        boxes.of("c.jpg")


def test_edges_depend_on_what_the_source_means_by_right_and_bottom() -> None:
    rows = [Row("a", [1, 2, 3, 4], "x")]
    closed, edges = (collect("here", rows, closed=closed) for closed in (True, False))
    assert closed.edges().tolist() == [[1, 2, 4, 5]]
    assert closed.edges("exclusive").tolist() == [[1, 2, 3, 4]]
    assert edges.edges("inclusive").tolist() == edges.edges("exclusive").tolist() == [[1, 2, 3, 4]]


def test_image_names_meet_without_their_suffix() -> None:
    assert image_key("./set\\a.JPEG") == image_key("set/a.png") == "set/a"
    assert image_key("ILSVRC2012_val_00000001.v2") == "ILSVRC2012_val_00000001.v2"
    twins = collect("here", [Row("a.jpg", [0, 0, 1, 1], "x"), Row("a.png", [0, 0, 1, 1], "x")], closed=True)
    with pytest.raises(UsageError, match=r"'a\.jpg' and 'a\.png'"):
        twins.of("a.jpg")


def test_impossible_rows_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\[3, 0, 1, 1\] of 'a'"):
        collect("here", [Row("a", [3, 0, 1, 1], "x")], closed=True)
    with pytest.raises(UsageError, match="nan"):
        collect("here", [Row("a", [0, 0, float("nan"), 1], "x")], closed=True)
    with pytest.raises(UsageError, match="1 of 2 boxes have a score"):
        collect("here", [Row("a", [0, 0, 1, 1], "x", 0.5), Row("a", [0, 0, 1, 1], "x")], closed=True)
