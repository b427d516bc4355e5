from __future__ import annotations

from pathlib import Path

import pytest

from onnxplain.errors import UsageError
from onnxplain.metrics.box_files import read_boxes, read_truth
from onnxplain.metrics.boxes import Boxes, Row, collect
from onnxplain.metrics.localization import localization_error

FAR = [50, 50, 59, 59]
TRUTH = collect(
    "truth",
    [
        Row("a.jpg", [0, 0, 9, 9], "cat"),
        Row("a.jpg", [20, 20, 29, 29], "cat"),
        Row("b.jpg", [0, 0, 9, 9], "dog"),
        Row("c.jpg", [0, 0, 9, 9], "cat"),
        Row("d.jpg", [0, 0, 9, 9], "dog"),
        Row("d.jpg", [20, 20, 29, 29], "cat"),
    ],
    images=["a.jpg", "b.jpg", "c.jpg", "d.jpg", "empty.jpg"],
    closed=True,
)


def _predicted(**boxes: tuple[str, list[int]] | list[tuple[str, list[int]]]) -> Boxes:
    rows = [
        Row(image, box, label)
        for image, given in boxes.items()
        for label, box in (given if isinstance(given, list) else [given])
    ]
    return collect("predicted", rows, closed=True)


def test_by_hand() -> None:
    predicted = _predicted(
        a=("cat", [20, 20, 29, 24]),  # second box, IoU 0.5 with inclusive pixels, 36 / 81 without
        b=("cat", [0, 0, 9, 9]),  # wrong label
        c=("cat", FAR),
        d=("cat", [0, 0, 9, 9]),  # on the dog
    )
    error = localization_error(predicted, TRUTH)
    assert (error.n, error.unpredicted, error.without_truth) == (4, 0, 1)
    assert error.top1.mean == 75
    assert error.gt_known.mean == 25
    assert error.top5 is None
    assert localization_error(predicted, TRUTH, pixels="exclusive").top1.mean == 100
    assert localization_error(predicted, TRUTH, threshold=0.51).top1.mean == 100
    assert localization_error(predicted, TRUTH, threshold=0.4, pixels="exclusive").top1.mean == 75
    first = localization_error(predicted, TRUTH, boxes="first")
    assert (first.top1.mean, first.gt_known.mean) == (100, 50)


def test_top5_looks_at_five_labels_each_with_its_box() -> None:
    wrong = [("mouse", [0, 0, 9, 9])]
    right = [("cat", [0, 0, 9, 9])]
    predicted = _predicted(
        a=wrong * 4 + right,
        b=wrong * 5 + [("dog", [0, 0, 9, 9])],  # the sixth comes too late
        c=right + wrong * 4,
        d=wrong * 4 + [("dog", FAR)],
    )
    error = localization_error(predicted, TRUTH)
    assert error.top5 is not None
    assert (error.top1.mean, error.top5.mean, error.gt_known.mean) == (75, 50, 0)


def test_images_without_prediction_are_errors() -> None:
    error = localization_error(_predicted(c=("cat", [0, 0, 9, 9])), TRUTH)
    assert (error.n, error.unpredicted, error.top1.mean, error.gt_known.mean) == (4, 3, 75, 75)


def test_interval_covers_and_is_seeded() -> None:
    predicted = _predicted(a=("cat", [0, 0, 9, 9]))
    error = localization_error(predicted, TRUTH)
    assert 0 <= error.top1.low < 75 < error.top1.high <= 100
    assert localization_error(predicted, TRUTH).top1 == error.top1


def test_what_is_refused() -> None:
    predicted = _predicted(c=("cat", FAR))
    with pytest.raises(UsageError, match="IoU threshold"):
        localization_error(predicted, TRUTH, threshold=0)
    with pytest.raises(UsageError, match="outer"):
        localization_error(predicted, TRUTH, pixels="outer")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="last"):
        localization_error(predicted, TRUTH, boxes="last")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="1 of 1 images of predicted, such as 'z'"):
        localization_error(_predicted(z=("cat", FAR)), TRUTH)
    empty = collect("empty", [], closed=True, images=["c"])
    with pytest.raises(UsageError, match="no ground-truth box"):
        localization_error(predicted, empty)
    with pytest.raises(UsageError, match="no predicted box"):
        localization_error(empty, TRUTH)


@pytest.mark.parametrize(
    ("net", "top1", "exclusive", "first", "gt_known"),
    [
        ("alexnet", 65.688, 65.81, 66.68, 48.03),
        ("vgg16", 55.186, 55.29, 56.49, 43.66),
        ("googlenet", 57.494, 57.61, 58.76, 43.80),
        ("resnet101", 54.296, 54.41, 55.54, 44.74),
    ],
)
def test_the_released_boxes_give_the_published_errors(
    material: Path, net: str, top1: float, exclusive: float, first: float, gt_known: float
) -> None:
    path = material / "ilsvrc_val/cnn_fixations_boxes.npz"
    truth, predicted = read_truth(path), read_boxes(path, net=net)
    error = localization_error(predicted, truth)
    assert error.n == 50000
    assert error.top1.mean == pytest.approx(top1, abs=1e-9)
    assert error.top1.low < top1 < error.top1.high < error.top1.low + 1
    assert error.gt_known.mean == pytest.approx(gt_known, abs=0.005)
    assert localization_error(predicted, truth, pixels="exclusive").top1.mean == pytest.approx(exclusive, abs=0.005)
    assert localization_error(predicted, truth, boxes="first").top1.mean == pytest.approx(first, abs=0.005)
