from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxplain.errors import UsageError
from onnxplain.inputs.datasets import Dataset, read_dataset
from onnxplain.inputs.items import Resize
from onnxplain.inputs.loaders import Sample
from onnxplain.inputs.pictures import Geometry, picture_size, read_picture
from onnxplain.metrics.truth import BoxTruth, MaskTruth, Names, read_class_map, without_masks

CROP = Geometry.fit((20, 40), (10, 10), Resize("short-side", 10))
"""40 x 20 pixels brought to 20 x 10, of which the columns 5 to 14 are seen: 10 to 29 of the picture."""


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 20)).save(folder / f"{name}.png")
    return read_dataset(folder)


def boxes(tmp_path: Path, *rows: str) -> BoxTruth:
    path = tmp_path / "boxes.csv"
    path.write_text("\n".join(["file,label,x1,y1,x2,y2", *rows]))
    return BoxTruth.read(path)


def sample(name: str) -> Sample:
    return Sample(name, Path(name), {}, None, CROP)


def test_only_boxes_of_the_explained_class_count(tmp_path: Path) -> None:
    truth = boxes(tmp_path, "a.png,cat,10,0,19,9", "a.png,dog,20,10,29,19", "a.png,cat,0,0,3,3")
    names = Names({"cat": frozenset({1, 2}), "dog": frozenset({5})})
    cat, dog = np.zeros((2, 10, 10), bool)
    cat[:5, :5] = True
    dog[5:, 5:] = True
    for index, expected in ((1, cat), (2, cat), (5, dog)):
        np.testing.assert_array_equal(truth.mask(sample("a.png"), (10, 10), names, index), expected)
    assert truth.mask(sample("a.png"), (10, 10), names, 3) is None
    assert truth.mask(sample("b.png"), (10, 10), names, 1) is None
    assert truth.names("a.png") == {"cat", "dog"}


def test_a_box_that_was_cropped_away_shows_nothing(tmp_path: Path) -> None:
    truth = boxes(tmp_path, "a.png,1,0,0,9,19", "b.png,1,0,0,10,19")
    assert truth.mask(sample("a.png"), (10, 10), Names(), 1) is None
    mask = truth.mask(sample("b.png"), (10, 10), Names(), 1)
    assert mask is not None
    assert mask.sum() == 10  # half a pixel wide, rounded up to one


@pytest.mark.parametrize("row", ["a.png,1,40,0,50,9", "a.png,1,0,20,9,25", "a.png,1,-9,0,-1,9"])
def test_boxes_outside_their_picture(tmp_path: Path, pictures: Dataset, row: str) -> None:
    with pytest.raises(UsageError, match=r"of 'a.png' lies outside the picture of 40 x 20"):
        boxes(tmp_path, "b.png,1,39,19,60,60", row).check(pictures)


def test_a_box_that_is_cut_by_its_picture_is_told(tmp_path: Path, pictures: Dataset) -> None:
    truth = boxes(tmp_path, "a.png,1,30,5,60,9", "b.png,1,-0.4,0,40,20")
    assert truth.check(pictures) == ["1 picture with a box that reaches beyond it, which is cut: a.png"]


def test_pictures_are_found_by_their_last_name_too(tmp_path: Path, pictures: Dataset) -> None:
    truth = boxes(tmp_path, "JPEGImages/a.jpg,1,0,0,9,9", "b.jpg,1,0,0,9,9")
    assert truth.check(pictures) == [f"no truth for 1 picture not in {tmp_path / 'boxes.csv'}: a.png"]
    assert truth.names("some/folder/b.png") == {"1"}
    with pytest.raises(UsageError, match=r"knows none of the 2 pictures, such as 'a.png'; its names look like 'x.jpg'"):
        boxes(tmp_path, "x.jpg,1,0,0,9,9").check(pictures)


def test_one_name_for_two_pictures(tmp_path: Path) -> None:
    for name in ("p", "q"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "set" / name / "a.png")
    with pytest.raises(UsageError, match=r"'a.png' stands for several pictures"):
        boxes(tmp_path, "a.png,1,0,0,9,9").check(read_dataset(tmp_path / "set"))


def test_masks(tmp_path: Path, pictures: Dataset) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    bright = np.zeros((20, 40), np.uint8)
    bright[4:8, 12:20] = 255
    Image.fromarray(bright).save(folder / "a_mask.png")
    truth = MaskTruth(folder)
    assert truth.check(pictures) == [f"no truth for 1 picture without a mask in {folder}: b.png"]
    seen = np.zeros((10, 10), bool)
    seen[2:4, 1:5] = True
    np.testing.assert_array_equal(truth.mask(sample("a.png"), (10, 10), Names(), 7), seen)
    assert truth.mask(sample("b.png"), (10, 10), Names(), 7) is None
    before = truth.fingerprint
    Image.new("L", (40, 20)).save(folder / "b.png")
    assert MaskTruth(folder).check(pictures) == ["no truth for 1 picture with an empty mask: b.png"]
    assert MaskTruth(folder).mask(sample("b.png"), (10, 10), Names(), 7) is None
    assert MaskTruth(folder).fingerprint != before


def test_masks_beside_their_pictures(tmp_path: Path) -> None:
    for name, light in (("a", 0), ("a_mask", 255), ("b", 0), ("c_mask", 0)):
        Image.new("RGB", (40, 20), (light,) * 3).save(tmp_path / f"{name}.png")
    assert without_masks(read_dataset(tmp_path)).ids == ("a.png", "b.png", "c_mask.png")
    mask = MaskTruth(tmp_path).mask(sample("a.png"), (10, 10), Names(), 0)
    assert mask is not None
    assert mask.all()


def test_masks_that_do_not_belong(tmp_path: Path, pictures: Dataset) -> None:
    with pytest.raises(UsageError, match="--masks DIR"):
        MaskTruth(tmp_path / "none").check(pictures)
    folder = tmp_path / "other"
    folder.mkdir()
    Image.new("L", (20, 40), 255).save(folder / "z.png")
    with pytest.raises(UsageError, match=r"has no mask .* for any of the 2 pictures, such as 'a.png'"):
        MaskTruth(folder).check(pictures)
    with pytest.raises(UsageError, match="has 20 x 40 pixels, its picture 40 x 20"):
        MaskTruth(folder).mask(sample("z.png"), (10, 10), Names(), 0)


def test_names() -> None:
    assert Names(labels=("cat", "dog")).indices("dog") == {1}
    assert Names().indices("7") == {7}
    assert Names().indices("dog") == frozenset()
    assert Names({"dog": frozenset({3, 4})}, ("cat", "dog")).indices("dog") == {3, 4}
    with pytest.raises(UsageError, match=r"none of the classes of boxes.csv \(cow\) .* --class-map FILE"):
        Names(labels=("cat",)).check({"cow"}, "boxes.csv")


def test_class_map(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"cat": [281, 282], "dog": [[151, "n0 chihuahua"], [152, "x"]], "cow": 345, "man": []}))
    found = read_class_map(path)
    assert found == {"cat": {281, 282}, "dog": {151, 152}, "cow": {345}, "man": frozenset()}


@pytest.mark.parametrize("content", ["[1]", '{"a": "b"}', '{"a": [[]]}', '{"a": -1}', '{"a": true}', "{", "3"])
def test_what_is_no_class_map(tmp_path: Path, content: str) -> None:
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(UsageError, match="is no class map"):
        read_class_map(tmp_path / "map.json")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_from_the_head_is_the_size_that_is_read(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (7, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert picture_size(tmp_path / "a.jpg") == read_picture(tmp_path / "a.jpg").size
