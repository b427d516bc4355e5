"""The comparison of methods: which pictures count, and rule books of LRP as methods of their own."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import onnxplain
from onnxplain.metrics.measures import MEASURES
from onnxplain.metrics.results import Evaluation, Row
from onnxplain.metrics.statistics import Measured
from onnxplain.resources import resource

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench_methods

RED, BLUE = "03_red.png", "00_blue.png"
RED_CLASS = 3


@pytest.fixture(scope="module")
def model():
    return onnxplain.load(resource("models") / "flowers.onnx", threads=1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A red and a blue flower; the boxes call both of them red."""
    folder = tmp_path_factory.mktemp("pictures")
    boxes = []
    for name in (RED, BLUE):
        shutil.copy(resource("models") / "flowers" / name, folder)
        boxes.append({"file": name, "voc_class": "red one", "box_xyxy": [40, 40, 120, 120]})
    (folder / "boxes.json").write_text(json.dumps(boxes))
    (folder / "voc_to_imagenet.json").write_text(json.dumps({"red one": RED_CLASS}))
    return folder


def test_only_pictures_that_the_model_takes_for_what_is_in_the_box_count(model, pictures):
    assert bench_methods.chosen(model, None, pictures, 2, seed=0).ids == (RED,)


def test_every_rule_book_is_a_method_of_its_own_behind_lrp(model, pictures, tmp_path):
    options = {"rise": {"masks": 10}}
    found = bench_methods.judged(
        model, ["gradient", "lrp", "grad-cam"], ["lrp-0"], options,
        dataset=bench_methods.chosen(model, None, pictures, 2, seed=0),
        boxes=pictures / "boxes.json", class_map=pictures / "voc_to_imagenet.json", folder=tmp_path, steps=2,
    )  # fmt: skip
    methods = [row.method for row in found.rows]
    assert methods == ["gradient", "lrp", "lrp lrp-0", "grad-cam", "random", "gaussian", "edges"]
    plain, book = (row.measured["ebpg"].values for row in found.rows[1:3])
    assert plain != book
    printed = list(bench_methods.lines(found, "flowers"))
    assert printed[1].splitlines()[0] == "| method | ebpg % ↑ | miou % ↑ | bbox % ↑ | drop % ↓ | increase % ↑ |"
    assert printed[3].splitlines()[0].endswith("| deletion-zero ↓ | sparseness |")
    assert [line.split(":")[0] for line in printed[-3:]] == [
        f"- {measure} above the Gaussian's, picture by picture" for measure in ("ebpg", "miou", "bbox")
    ]


def test_ahead_of_the_gaussian_is_who_leads_it_on_the_pictures():
    def row(method, *values):
        return Row(method, {}, {"ebpg": Measured.of(values)}, Measured.of([1.0] * len(values)))

    rows = (row("surely", 60, 70, 65), row("maybe", 60, 40, 65), row("gaussian", 50, 55, 50))
    found = Evaluation(rows, (MEASURES["ebpg"],), ("a", "b", "c"), (0, 0, 0), {}, (), {})
    assert bench_methods.ahead(found, "ebpg") == "surely"
    assert bench_methods.ahead(replace(found, rows=rows[1:]), "ebpg") == "none"
