from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxplain.cli import main

TRUTH = "file,label,x1,y1,x2,y2\na.jpg,cat,0,0,9,9\nb.jpg,dog,0,0,9,9\n"


@pytest.fixture
def truth(tmp_path: Path) -> str:
    (tmp_path / "truth.csv").write_text(TRUTH)
    return str(tmp_path / "truth.csv")


@pytest.fixture
def predicted(tmp_path: Path) -> str:
    (tmp_path / "predicted.csv").write_text("file,label,x1,y1,x2,y2\na.jpg,cat,0,0,9,4\n")
    return str(tmp_path / "predicted.csv")


def test_json(truth: str, predicted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["localize", predicted, "--truth", truth, "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document.pop("schema") == "onnxplain.localize/1"
    low, high = document.pop("top1_error_ci95")
    assert 0 <= low <= 50 <= high <= 100
    assert document == {"net": None, "n": 2, "top1_error": 50, "gt_known_error": 50, "top5_error": None}
    assert "1 of 2 images have no predicted box" in shown.err


def test_options_reach_the_measure(truth: str, predicted: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--iou", "0.6"], ["--pixels", "exclusive"]):
        assert main(["localize", predicted, "--truth", truth, "--json", *option]) == 0
        assert json.loads(capsys.readouterr().out)["top1_error"] == 100


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = np.tile([0, 0, 9, 9], (2, 1))
    path = tmp_path / "boxes.npz"
    truth = {"truth_image": [0, 1], "truth_box": boxes, "truth_class": [1, 2]}
    np.savez(path, **truth, ours_class=[[1, 3, 4, 5, 6], [3, 4, 5, 6, 2]], ours_box=boxes)
    assert main(["localize", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "ours: 2 images, IoU >= 0.5, inclusive pixels, any true box" in shown
    assert [line.split("%")[0].split()[-1] for line in shown.splitlines()[2:]] == ["50.00", "0.00", "0.00"]


def test_what_is_asked_wrongly_is_a_usage_error(truth: str, predicted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["localize", predicted]) == 2
    assert "--truth FILE" in capsys.readouterr().err
    for arguments in (
        ["--truth", "none.csv"],
        ["--truth", truth, "--net", "vgg16"],
        ["--truth", truth, "--boxes", "x"],
    ):
        assert main(["localize", predicted, *arguments]) == 2


def test_released_boxes(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(material / "ilsvrc_val/cnn_fixations_boxes.npz")
    assert main(["localize", path, "--net", "googlenet", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["net"], document["n"], document["top5_error"]) == ("googlenet", 50000, None)
    assert document["top1_error"] == pytest.approx(57.494, abs=1e-9)
