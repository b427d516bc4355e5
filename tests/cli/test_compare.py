"""The verb compare: two models, the same pictures; and the panels of salient relevance."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxplain import Explanation
from onnxplain.cli import main
from onnxplain.cli.output import Steps

QUICK = ["--option", "long_side=16"]


@pytest.fixture
def other(classifier, place):
    """``other.onnx``: the same weights under other labels, so that it calls red violet."""
    sidecar = (place / "net.onnxplain.toml").read_text()
    (place / "other.onnxplain.toml").write_text(sidecar.replace('"red"', '"violet"'))
    (place / "other.onnx").write_bytes((place / classifier).read_bytes())
    return "other.onnx"


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_picture(classifier, other, pictures, capsys):
    assert main(["compare", classifier, other, f"{pictures}/a.png", "-o", "both"]) == 0
    streams = capsys.readouterr()
    assert "A  net.onnx" in streams.out
    assert "red 0.859" in streams.out
    assert "violet 0.859" in streams.out
    assert "different classes" in streams.out
    assert "A time    read" in streams.out
    assert "B: range: 0, 1 (sidecar other.onnxplain.toml)" in streams.err
    assert names("both") == ["a", "a.png", "b"]
    written = ["arrays.npz", "explanation.json", "heatmap.png", "overlay.png"]
    assert names("both/a/a") == names("both/b/a") == written
    assert Explanation.load("both/b/a").target[0].label == "violet"
    figure = np.asarray(Image.open("both/a.png"))
    assert figure.shape[1] > figure.shape[0], "two rows of three panels"
    assert (figure.min(axis=2) < 250).any()


def test_as_json(classifier, other, pictures, capsys):
    assert main(["compare", classifier, other, pictures, "-o", "both", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "onnxplain.compare/1"
    assert [one["agree"] for one in said["results"]] == [[False], [True], [True]]
    assert [one["figures"] for one in said["results"]] == [["both/a.png"], ["both/b.png"], ["both/c.png"]]
    assert said["results"][1]["a"]["samples"][0]["target"]["label"] == "green"
    assert said["models"]["b"]["model"] == "other.onnx"
    assert said["models"]["a"]["call"]["rules"] == "epsilon-plus-flat"
    assert said["models"]["a"]["contract"]["size"]["value"] == [8, 8]
    assert said["skipped"] == []


def test_each_model_has_its_own_input_contract(classifier, other, pictures, capsys):
    words = ["compare", classifier, other, f"{pictures}/a.png", "--json"]
    assert main([*words, "--preprocess", "raw", "--preprocess-b", "tf"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert models["a"]["contract"]["range"] == {"value": [0, 255], "origin": "--preprocess raw"}
    assert models["b"]["contract"]["range"] == {"value": [-1, 1], "origin": "--preprocess tf"}
    Path("names.txt").write_text("rot\ngrün\nblau\n")
    assert main([*words, "--labels-a", "names.txt"]) == 0
    [result] = json.loads(capsys.readouterr().out)["results"]
    assert result["a"]["samples"][0]["target"]["label"] == "rot"
    assert result["b"]["samples"][0]["target"]["label"] == "violet"


def test_salient_relevance_in_the_layout_of_the_paper(classifier, other, pictures, capsys):
    words = ["--method", "salient-relevance", *QUICK]
    assert main(["explain", classifier, f"{pictures}/a.png", *words]) == 0
    streams = capsys.readouterr()
    assert "relevance at the input is " in streams.out
    assert "saliency" in streams.out
    assert "its channels read as RGB" in streams.err
    assert names("onnxplain-out/a") == ["arrays.npz", "explanation.json", "heatmap.png", "overlay.png", "panels.png"]
    e = Explanation.load("onnxplain-out/a")
    assert e.map().shape == (1, 8, 8)
    assert e.plan_json["rules"] == "salient-relevance"
    assert main(["compare", classifier, other, f"{pictures}/a.png", *words]) == 0
    one = Image.open("onnxplain-out/a/panels.png")
    both = Image.open("onnxplain-compare/a.png")
    assert one.width == both.width
    assert both.height > 1.8 * one.height
    assert names("onnxplain-compare/a/a") == names("onnxplain-out/a")


def test_colours_of_a_model_that_takes_blue_first(classifier, pictures, capsys):
    words = ["explain", classifier, f"{pictures}/a.png", "--method", "salient-relevance", "--json", *QUICK]
    assert main([*words, "--preprocess", "caffe"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["call"]["colour"] == "BGR"
    assert any("its channels read as BGR" in note for note in said["notes"])
    assert main([*words, "--preprocess", "caffe", "--option", "colour=RGB"]) == 0
    assert json.loads(capsys.readouterr().out)["call"]["colour"] == "RGB"


def test_arrays_of_several_samples(classifier, other, capsys):
    x = np.zeros((2, 3, 8, 8), np.float32)
    x[0, 0], x[1, 2] = 1, 1
    np.save("two.npy", x)
    assert main(["compare", classifier, other, "two.npy", "--json"]) == 0
    [result] = json.loads(capsys.readouterr().out)["results"]
    assert result["figures"] == ["onnxplain-compare/two-0.png", "onnxplain-compare/two-1.png"]
    assert result["agree"] == [False, True]
    words = ["explain", classifier, "two.npy", "--method", "salient-relevance", *QUICK]
    assert main(words) == 0
    assert "panels-1.png" in names("onnxplain-out/two")


def test_a_bad_picture_among_many_is_skipped(classifier, other, pictures, capsys):
    Path(pictures, "aa.png").write_bytes(b"rubbish")
    assert main(["compare", classifier, other, pictures]) == 1
    streams = capsys.readouterr()
    assert streams.err.count("aa.png skipped: ") == 1
    assert "1 of 4 inputs were skipped" in streams.err
    assert names("onnxplain-compare") == ["a", "a.png", "b", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["net.onnx", "nothing.onnx", "pictures"], 2, "nothing.onnx"),
        (["net.onnx", "pictures/a.png"], 2, "PICTURE"),
        (["net.onnx", "other.onnx", "nothing.png"], 2, "nothing.png"),
        (["net.onnx", "other.onnx", "pictures", "--preprocess-b", "magic"], 2, "magic"),
        (["net.onnx", "other.onnx", "pictures", "--method", "magic"], 2, "unknown method 'magic'"),
        (["net.onnx", "other.onnx", "pictures", "--rules", "magic"], 2, "no rule book 'magic'"),
        (
            ["net.onnx", "other.onnx", "pictures", "--method", "salient-relevance", "--option", "x=1"],
            2,
            "no option 'x'",
        ),
        (["net.onnx", "other.onnx", "bad.png"], 1, "bad.png"),
    ],
)
def test_what_goes_wrong_leaves_nothing(classifier, other, pictures, capsys, words, status, sentence):
    Path("bad.png").write_bytes(b"rubbish")
    assert main(["compare", *words]) == status
    streams = capsys.readouterr()
    assert sentence in streams.err
    assert streams.out == ""
    assert not Path("onnxplain-compare").exists()


def test_steps_never_go_back():
    shown = []
    step = Steps(shown.append)
    step.part(0.5)
    step.part(2)
    step()
    step()
    step.part(0.25)
    assert shown == [0.5, 2, 2, 2, 2.25]
