from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxplain.errors import FailureError, UsageError
from onnxplain.metrics.box_files import read_boxes, read_truth
from onnxplain.metrics.boxes import Boxes

VOC = """<?xml version="1.0" encoding="UTF-8"?>
<annotation><filename>{name}</filename><size><width>9</width><height>9</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = (
    "<object><name>{label}</name><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>"
    "<ymax>2</ymax></bndbox></part><bndbox><ymax>{4}</ymax><xmin>{1}</xmin><ymin>{2}</ymin><xmax>{3}</xmax></bndbox>"
    "</object>"
)
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}, {"id": 9, "file_name": "c.jpg"}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 44, "name": "dog"}],
    "annotations": [
        {"image_id": 3, "category_id": 44, "bbox": [2, 3, 4.5, 5], "iscrowd": 0},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 4, 4]},
    ],
}


def _listed(boxes: Boxes) -> list[tuple[str, str, list[float]]]:
    names = [boxes.images[k] for k in boxes.image]
    return list(zip(names, boxes.label.tolist(), boxes.edges().tolist(), strict=True))


def _json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def _voc(path: Path, name: str, *objects: tuple[str, int, int, int, int]) -> Path:
    path.write_text(VOC.format(name=name, objects="".join(OBJECT.format(*o, label=o[0]) for o in objects)))
    return path


def test_pascal_voc_counts_from_one_and_names_the_last_pixel(tmp_path: Path) -> None:
    _voc(tmp_path / "b.xml", "b.jpg", ("dog", 3, 4, 7, 8), ("cat", 1, 1, 4, 4))
    one = _voc(tmp_path / "a.xml", "a.jpg", ("cat", 1, 1, 1, 2))
    _voc(tmp_path / "c.xml", "c.jpg")
    assert _listed(read_boxes(one)) == [("a.jpg", "cat", [0, 0, 1, 2])]
    folder = read_truth(tmp_path)
    assert folder.images == ("a.jpg", "b.jpg", "c.jpg")
    assert _listed(folder)[1:] == [("b.jpg", "dog", [2, 3, 7, 8]), ("b.jpg", "cat", [0, 0, 4, 4])]


def test_coco_instances_and_results(tmp_path: Path) -> None:
    truth = read_truth(_json(tmp_path / "truth.json", COCO))
    assert truth.images == ("a.jpg", "b.jpg", "c.jpg")
    assert _listed(truth) == [("a.jpg", "cat", [0, 0, 4, 4]), ("b.jpg", "dog", [2, 3, 6.5, 8])]
    results = [
        {"image_id": 7, "category_id": 44, "bbox": [0, 0, 1, 1], "score": 0.2},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.8},
    ]
    path = _json(tmp_path / "results.json", results)
    assert _listed(read_boxes(path, truth=truth)) == [("a.jpg", "cat", [0, 0, 2, 2]), ("a.jpg", "dog", [0, 0, 1, 1])]
    with pytest.raises(UsageError, match="ground-truth"):
        read_boxes(path)
    with pytest.raises(UsageError, match="image_id 8"):
        read_boxes(_json(tmp_path / "r.json", [{**results[0], "image_id": 8}]), truth=truth)


def test_box_list_in_both_spellings(tmp_path: Path) -> None:
    entries = [
        {"file": "a.jpg", "width": 9, "height": 9, "voc_class": "cat", "box_xyxy": [0, 0, 4, 4]},
        {"file": "b.jpg", "objects": [{"name": "dog", "cls": 2, "box_xyxy": [2, 3, 6.5, 8]}]},
        {"file": "c.jpg", "objects": []},
    ]
    boxes = read_truth(_json(tmp_path / "boxes.json", entries))
    assert boxes.images == ("a.jpg", "b.jpg", "c.jpg")
    assert _listed(boxes) == [("a.jpg", "cat", [0, 0, 4, 4]), ("b.jpg", "dog", [2, 3, 6.5, 8])]


def test_csv_in_any_order_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(
        '\ufeffclass,xmin,ymin,xmax,ymax,Image,score\n"cat, tabby",0,0,3,3,a.jpg,.5\n\ndog,2,3,6,7,a.jpg,.9\n'
    )
    assert _listed(read_boxes(path)) == [("a.jpg", "dog", [2, 3, 7, 8]), ("a.jpg", "cat, tabby", [0, 0, 4, 4])]


def test_npz_of_nets_and_truth(tmp_path: Path) -> None:
    path = tmp_path / "boxes.npz"
    np.savez_compressed(
        path,
        truth_image=[1, 0, 1],
        truth_box=np.array([[5, 5, 6, 6], [0, 0, 1, 1], [7, 7, 8, 8]], np.int16),
        truth_class=np.array([10, 11], np.int16),
        one_class=[10, 12],
        one_box=[[0, 0, 3, 3], [1, 1, 4, 4]],
        top_class=[[1, 2], [3, 4]],
        top_box=np.arange(16).reshape(2, 2, 4),
    )
    truth = read_truth(path)
    assert _listed(truth) == [("0", "10", [0, 0, 2, 2]), ("1", "11", [5, 5, 7, 7]), ("1", "11", [7, 7, 9, 9])]
    one = read_boxes(path, net="one")
    assert one.net == "one"
    assert _listed(one) == [("0", "10", [0, 0, 4, 4]), ("1", "12", [1, 1, 5, 5])]
    assert _listed(read_boxes(path, net="top"))[1:3] == [("0", "2", [4, 5, 7, 8]), ("1", "3", [8, 9, 11, 12])]
    with pytest.raises(UsageError, match="several nets; name one with --net: one, top"):
        read_boxes(path)
    with pytest.raises(UsageError, match="no net 'vgg'"):
        read_boxes(path, net="vgg")


def test_npz_labels_may_share_one_box(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", only_class=[[1, 2]], only_box=[[0, 0, 3, 3]])
    assert _listed(read_boxes(tmp_path / "b.npz")) == [("0", "1", [0, 0, 4, 4]), ("0", "2", [0, 0, 4, 4])]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_class": [1, 2], "x_box": [[0, 0, 1, 1]]}, "do not belong together"),
        ({"x_box": [[0, 0, 1, 1]]}, "no array 'x_class'"),
        ({"x_class": [1]}, "none has NET_box"),
        ({"x_class": [1], "x_box": np.array([[None] * 4])}, "Python objects"),
    ],
)
def test_npz_that_does_not_fit(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(UsageError, match=words):
        read_boxes(tmp_path / "b.npz")


def test_npz_truth_that_does_not_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", truth_image=[0, 2], truth_box=[[0, 0, 1, 1]] * 2, truth_class=[1, 2])
    with pytest.raises(UsageError, match="does not number the 2 images"):
        read_truth(tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", truth_image=[0], truth_box=[[0, 0, 1, 1]] * 2, truth_class=[1, 2])
    with pytest.raises(UsageError, match="have shapes"):
        read_truth(tmp_path / "b.npz")


BILLION_LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation><filename>&b;</filename></annotation>'
EXTERNAL = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>'
NO_NAME = "<annotation><object><bndbox/></object></annotation>"
NO_CORNER = "<annotation><object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("a.xml", BILLION_LAUGHS, FailureError, "DOCTYPE"),
        ("a.xml", EXTERNAL, FailureError, "DOCTYPE"),
        ("a.xml", EXTERNAL.encode("utf-16"), FailureError, "UTF-8"),
        ("a.xml", "<annotation><object>", FailureError, "well-formed"),
        ("a.xml", "<html/>", UsageError, "<html>"),
        ("a.xml", NO_NAME, UsageError, "no <name>"),
        ("a.xml", NO_CORNER, UsageError, "None is not a number"),
        ("a.xml", " " * ((4 << 20) + 1), FailureError, "4 MiB"),
        ("a.json", "[" * 200_000, FailureError, "JSON"),
        ("a.json", "", FailureError, "JSON"),
        ("a.json", '{"a": 1}', UsageError, "neither COCO"),
        ("a.json", "[1]", UsageError, "neither COCO"),
        ("a.json", '[{"file": "a.jpg"}]', UsageError, "no 'label'"),
        ("a.json", '[{"file": "a.jpg", "label": "x"}]', UsageError, "no 'box_xyxy'"),
        ("a.json", '[{"file": "a.jpg", "label": "x", "box_xyxy": [1, 2, 3]}]', UsageError, "four numbers"),
        ("a.json", '[{"file": "a.jpg", "label": "x", "box_xyxy": [1, 2, 3, "z"]}]', UsageError, "'z' is not a number"),
        ("a.json", '[{"label": "x", "box_xyxy": [1, 2, 3, 4]}]', UsageError, "no 'file'"),
        ("a.json", '{"annotations": 1, "images": [], "categories": []}', UsageError, "'annotations' is not a list"),
        ("a.json", '{"annotations": [], "images": [{"id": []}], "categories": []}', UsageError, "not a whole number"),
        ("a.csv", "", UsageError, "no column 'file'"),
        ("a.csv", "file,label,x1,y1,x2\n", UsageError, "no column 'y2'"),
        ("a.csv", "file,label,x1,y1,x2,y2\na,b,1,2,3\n", UsageError, "line 2"),
        ("a.csv", "file,label,x1,y1,x2,y2\na,b,1,2,3,4\na,b,1,2,3,4,5\n", UsageError, "line 3"),
        ("a.csv", "file,label,x1,y1,x2,y2\na,b,1,2,3,?\n", UsageError, "line 2: '\\?'"),
        ("a.npz", "text", FailureError, "npz"),
        ("a.txt", "text", UsageError, "'.txt'"),
    ],
)
def test_rubbish_is_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, error: type[Exception], words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=words) as raised:
        read_boxes(path)
    assert str(path) in str(raised.value)


def test_missing_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_boxes(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"no \.xml"):
        read_boxes(tmp_path)
    with pytest.raises(UsageError, match="leave out net"):
        read_boxes(_json(tmp_path / "b.json", []), net="vgg16")


def test_the_material_reads(material: Path) -> None:
    voc = read_truth(material / "images/voc2007/boxes.json")
    assert (len(voc.images), len(voc.image)) == (174, 174)
    assert voc.edges()[voc.of("000015.jpg")].tolist() == [[76, 135, 360, 358]]
    coco = read_truth(material / "images/coco/boxes.json")
    assert len(coco.images) == 64
    assert coco.label[coco.of("000000000025.jpg")].tolist() == ["giraffe", "giraffe"]
