from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxplain.cli import main

MAPS = ["--methods", "gradient,lrp", "--metrics", "drop,insertion-blur"]


@pytest.fixture
def boxes(pictures: str) -> str:
    rows = [f"{name}.png,{colour},16,0,31,15" for name, colour in zip("abc", ("red", "green", "blue"), strict=True)]
    Path("boxes.csv").write_text("\n".join(["file,label,x1,y1,x2,y2", *rows]))
    return "boxes.csv"


def shown(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_table(classifier: str, pictures: str, boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["evaluate", classifier, pictures, "--methods", "input-x-gradient,gradient", "--boxes", boxes]
    assert main([*call, "-o", "found"]) == 0
    out, _ = shown(capsys)
    assert out.splitlines()[0].split("  ")[0] == "method"
    names = [line.split()[0] for line in out.splitlines()[1:11:2]]
    assert names == ["input-x-gradient", "gradient", "random", "gaussian", "edges"]
    assert sorted(os.listdir("found")) == ["evaluation.csv", "evaluation.html", "evaluation.json", "journal.jsonl"]
    document = json.loads(Path("found/evaluation.json").read_text())
    assert document["schema"] == "onnxplain.evaluate/1"
    [first, *_] = document["methods"]
    assert first["measures"]["ebpg"]["mean"] == pytest.approx(100, abs=5)  # a half, resized
    assert first["measures"]["ebpg"]["values"] == pytest.approx([100] * 3, abs=5)
    assert document["targets"] == [0, 1, 2]


def test_json_is_what_is_written(classifier: str, pictures: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["evaluate", classifier, pictures, *MAPS, "--option", "lrp.rules=epsilon", "--json", "-o", "found"]) == 0
    )
    document = json.loads(shown(capsys)[0])
    assert document == json.loads(Path("found/evaluation.json").read_text())
    assert document["methods"][1]["options"] == {"rules": "epsilon"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "lrp", "--metrics", "ebpg"], "--boxes FILE or --masks DIR"),
        (["--methods", "lrp", "--metrics", "beauty"], "unknown measure 'beauty'"),
        (["--methods", "guess"], "unknown method 'guess'"),
        (["--methods", ""], "no method was named"),
        (["--methods", "lrp", "--option", "mu=0"], "METHOD.KEY=VALUE"),
        (["--methods", "lrp", "--boxes", "none.csv"], "none.csv does not exist"),
        (["--methods", "lrp", "--masks", "none"], "--masks DIR"),
        (["--methods", "lrp", "--class-map", "none.json"], "none.json"),
        ([], "--methods"),
    ],
)
def test_usage(
    classifier: str, pictures: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", classifier, pictures, *arguments, "-o", "found"]) == 2
    assert said in shown(capsys)[1]
    assert not Path("found").exists()


def test_a_picture_that_is_none(classifier: str, pictures: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(pictures, "b.png").write_bytes(b"")
    assert main(["evaluate", classifier, pictures, *MAPS, "-o", "found"]) == 1
    assert "b.png skipped" in shown(capsys)[1]
    assert list(json.loads(Path("found/evaluation.json").read_text())["skipped"]) == ["b.png"]


def table(folder: Path) -> list[list[str]]:
    """The CSV without the times."""
    rows = list(csv.reader((folder / "evaluation.csv").read_text().splitlines()))
    return [row for row in rows if row[3] != "seconds"]


def one_core() -> None:
    """For a child: small work on a busy machine is done sooner by one thread than by several that wait."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="SIGKILL and affinity as Linux has them")
def test_killed_and_started_again(classifier: str, place: Path) -> None:
    (place / "many").mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(generator.integers(0, 256, (16, 32, 3), np.uint8)).save(place / f"many/{number:03}.png")
    call = [sys.executable, "-m", "onnxplain", "evaluate", classifier, "many", *MAPS, "-o"]
    journal = place / "killed" / "journal.jsonl"
    with subprocess.Popen([*call, "killed"], preexec_fn=one_core, stdout=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 300
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 15):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    done = journal.read_bytes()
    assert 15 < done.count(b"\n") <= 60
    assert not (place / "killed/evaluation.csv").exists()
    for folder in ("killed", "whole"):
        subprocess.run([*call, folder], preexec_fn=one_core, check=True, stdout=subprocess.DEVNULL)
    assert table(place / "killed") == table(place / "whole")
    assert journal.read_bytes().startswith(done[: done.rindex(b"\n") + 1])
