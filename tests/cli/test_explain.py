"""The verb explain: what it writes, what it says, and that nothing half-done stays behind."""

import errno
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import nets
import numpy as np
import pytest
from PIL import Image

import onnxplain
from onnxplain import Explanation
from onnxplain.cli import main


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def document(capsys):
    return json.loads(capsys.readouterr().out)


def test_picture(classifier, pictures, capsys):
    assert main(["explain", classifier, f"{pictures}/a.png", "-o", "maps"]) == 0
    streams = capsys.readouterr()
    assert "0 red" in streams.out
    assert "relevance at the input is 100.0% of the target\n" in streams.out
    assert "host engine" in streams.out
    assert re.search(r"time +read [\d.]+ s, forward [\d.]+ s, backward [\d.]+ s, render [\d.]+ s\n", streams.out)
    assert "range: 0, 1 (sidecar net.onnxplain.toml)" in streams.err
    assert "before the closing Softmax" in streams.err

    assert names("maps/a") == ["arrays.npz", "explanation.json", "heatmap.png", "overlay.png"]
    e = Explanation.load("maps/a")
    assert e.target[0].label == "red"
    [values] = e.map()
    assert np.abs(values[:, :3]).max() == 0, "the two columns at the edge are blurred by resampling"
    assert values[:, 5:].min() > 0
    heat = np.asarray(Image.open("maps/a/heatmap.png"))
    assert heat.shape == (8, 8, 3)
    assert (heat[:, :3] == 255).all()
    assert (heat[:, 5:, 0] > heat[:, 5:, 2]).all()
    assert Image.open("maps/a/overlay.png").size == (32, 16)


def test_sise_says_what_it_masked_with(classifier, pictures, capsys):
    assert main(["explain", classifier, pictures, "-o", "maps", "--method", "sise", "--option", "mu=0"]) == 0
    streams = capsys.readouterr()
    told = re.findall(r"  layer   (\S+): (\d+) of (\d+) maps as masks \((\d+ x \d+), ", streams.out)
    assert len(told) % 3 == 0, "three pictures, the same layers each"
    assert "the score is the probability that the closing Softmax gives" in streams.err
    assert "before the closing Softmax" not in streams.err
    for name in ("a", "b", "c"):
        assert names(f"maps/{name}") == ["arrays.npz", "blocks.png", "explanation.json", "heatmap.png", "overlay.png"]
        e = Explanation.load(f"maps/{name}")
        counts = [
            (count.tensor, str(count.selected[0]), str(count.selected[0] + count.skipped[0])) for count in e.masks
        ]
        assert counts == [entry[:3] for entry in told[: len(counts)]]
        told = told[len(counts) :]
    assert not told


def test_folder_as_json(classifier, pictures, capsys):
    assert main(["explain", classifier, pictures, "-o", "maps", "--json"]) == 0
    said = document(capsys)
    assert said["schema"] == "onnxplain.explain/1"
    assert said["skipped"] == []
    assert [one["samples"][0]["target"]["label"] for one in said["results"]] == ["red", "green", "blue"]
    assert [one["folder"] for one in said["results"]] == ["maps/a", "maps/b", "maps/c"]
    assert said["results"][1]["samples"][0]["top"][0]["index"] == 1
    assert said["contract"]["size"]["value"] == [8, 8]
    assert set(said["seconds"]) == {"read", "forward", "backward", "render"}
    assert names("maps") == ["a", "b", "c"]


@pytest.mark.parametrize("engine", ["host", "compiled"])
def test_a_batch_gives_what_single_inputs_give(classifier, pictures, capsys, engine):
    for size in ("1", "3"):
        assert main(["explain", classifier, pictures, "-o", size, "--batch-size", size, "--engine", engine]) == 0
    for name in "abc":
        one, batch = (Explanation.load(f"{size}/{name}") for size in ("1", "3"))
        assert batch.prediction.shape == (1, 3)
        assert batch.target[0].label == one.target[0].label
        np.testing.assert_allclose(batch.relevance["image"], one.relevance["image"], atol=1e-6)


@pytest.fixture
def detector(place):
    """``det.onnx`` of x, n x 4, with the outputs scores, n x 3, and boxes, n x 2 x 3; and three inputs, two alike."""
    rng = np.random.default_rng(0)
    nodes = [
        nets.node("MatMul", ["x", "w"], "scores"),
        nets.node("MatMul", ["x", "v"], "flat"),
        nets.node("Reshape", ["flat", "shape"], "boxes"),
    ]
    constants = {"w": rng.normal(size=(4, 3)), "v": rng.normal(size=(4, 6)), "shape": np.array([0, 2, 3])}
    Path("det.onnx").write_bytes(nets.model(nodes, {"x": ["n", 4]}, ["scores", "boxes"], constants))
    first, last = rng.normal(size=(2, 1, 4)).astype(np.float32)
    for name, x in (("a", first), ("b", first), ("c", last)):
        np.save(f"{name}.npy", x)
    return ["explain", "det.onnx", "a.npy", "b.npy", "c.npy"]


@pytest.mark.parametrize("target", ["boxes[0,1:,2]", "boxes[-1,1:,2]", "boxes[:,1:,2]", "boxes[1:,2]"])
@pytest.mark.parametrize("size", [[], ["--batch-size", "2"], ["--engine", "compiled"]])
def test_an_element_is_that_of_each_input(detector, capsys, target, size):
    assert main([*detector, "--target", target, "--json", *size]) == 0
    values = [one["samples"][0]["target"]["value"] for one in document(capsys)["results"]]
    model = onnxplain.load("det.onnx")
    for name, value in zip("abc", values, strict=True):
        x = np.load(f"{name}.npy")
        np.testing.assert_allclose(value, model.run({"x": x})["boxes"][0, 1, 2], rtol=1e-5)
        alone = onnxplain.explain(model, x, target="boxes[1,2]").relevance["x"]
        np.testing.assert_allclose(Explanation.load(f"onnxplain-out/{name}").relevance["x"], alone, rtol=1e-5)


@pytest.mark.parametrize("size", [[], ["--batch-size", "2"]])
def test_an_input_has_no_second_sample(detector, capsys, size):
    assert main([*detector, "--target", "boxes[1,0,2]", *size]) == 2
    assert "target [1,0,2] lies outside output 'boxes' of shape (1, 2, 3)" in capsys.readouterr().err
    assert not Path("onnxplain-out").exists()


def test_an_array_of_several_samples_is_a_batch_of_its_own(detector, capsys):
    np.save("two.npy", np.concatenate([np.load("a.npy"), np.load("c.npy")]))
    assert main([*detector[:2], "a.npy", "two.npy", "--target", "boxes[-1,1,2]", "--json"]) == 0
    one, two = document(capsys)["results"]
    assert one["samples"][0]["target"]["value"] != 0
    assert [sample["target"]["value"] != 0 for sample in two["samples"]] == [False, True]


def test_fixations_draw_no_path_for_a_sample_that_the_target_leaves_out(classifier):
    np.save("two.npy", np.ones((2, 3, 8, 8), np.float32))
    assert main(["explain", classifier, "two.npy", "-m", "fixations", "--target", "logits[1,2]"]) == 0
    drawn = names("onnxplain-out/two")
    assert "path-1.png" in drawn
    assert "path-0.png" not in drawn


def test_arrays_of_several_samples(classifier, capsys):
    x = np.zeros((2, 3, 8, 8), np.float32)
    x[0, 0], x[1, 2] = 1, 1
    np.savez("two.npz", image=x)
    assert main(["explain", classifier, "two.npz", "--json"]) == 0
    [result] = document(capsys)["results"]
    assert [one["target"]["label"] for one in result["samples"]] == ["red", "blue"]
    assert names("onnxplain-out/two") == ["arrays.npz", "explanation.json", "heatmap-0.png", "heatmap-1.png"]


def test_options_reach_the_method(classifier, pictures, capsys):
    words = ["explain", classifier, f"{pictures}/a.png", "--json"]
    assert main([*words, "--method", "integrated-gradients", "--option", "steps=8", "--target", "green-blue"]) == 0
    assert "green-blue" in document(capsys)["results"][0]["samples"][0]["target"]["description"]
    assert main([*words, "--keep-softmax"]) == 0
    assert document(capsys)["results"][0]["samples"][0]["target"]["tensor"] == "class"
    assert main([*words, "--at", "relu"]) == 0
    assert "relu" in Explanation.load("onnxplain-out/a").at
    assert main([*words, "--rules", "epsilon-gamma-box"]) == 0, "the bounds of z-box come from the input contract"


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--option", "steps"], "KEY=VALUE"),
        (["--option", "a=1", "--option", "a=2"], "given twice"),
        (["--option", "nonsense=1"], "nonsense"),
        (["--method", "magic"], "unknown method 'magic'"),
        (["--rules", "magic"], "no rule book 'magic'"),
        (["--target", "violet"], "unknown target 'violet'"),
        (["--output-name", "boxes"], "no output 'boxes'"),
        (["--at", "nowhere"], "no tensor 'nowhere'"),
        (["--engine", "magic"], "magic"),
        (["--providers", "tensorrt"], "ensor"),
        (["--labels", "missing.txt"], "missing.txt"),
        (["--preprocess", "magic"], "magic"),
        (["--batch-size", "0"], "--batch-size"),
    ],
)
def test_what_is_asked_wrongly(classifier, pictures, capsys, extra, sentence):
    assert main(["explain", classifier, f"{pictures}/a.png", *extra]) == 2
    streams = capsys.readouterr()
    assert sentence in streams.err
    assert "Falling back" not in streams.err, "the runtime's own fallback is off"
    assert streams.out == ""
    assert not Path("onnxplain-out").exists()


def rubbish(kind):
    """A file that is no model, by kind."""
    content = {
        "empty": b"",
        "text": b"not a model\n" * 10,
        "truncated": Path("net.onnx").read_bytes()[:200],
    }[kind]
    Path("bad.onnx").write_bytes(content)
    return "bad.onnx"


@pytest.mark.parametrize("kind", ["empty", "text", "truncated"])
def test_rubbish_models(classifier, pictures, capsys, kind):
    assert main(["explain", rubbish(kind), pictures]) == 1
    assert "bad.onnx" in capsys.readouterr().err
    assert not Path("onnxplain-out").exists()


@pytest.mark.parametrize("missing", ["model", "input"])
def test_missing_files(classifier, pictures, capsys, missing):
    words = ["nothing.onnx", pictures] if missing == "model" else [classifier, "nothing.png"]
    assert main(["explain", *words]) == 2
    assert "nothing" in capsys.readouterr().err


def test_unsupported_model(unsupported, pictures, capsys):
    assert main(["explain", unsupported, pictures, "--preprocess", "unit"]) == 3
    assert "Mystery" in capsys.readouterr().err
    assert not Path("onnxplain-out").exists()


def test_one_bad_picture_is_an_error(classifier, place, capsys):
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    assert main(["explain", classifier, "broken.png"]) == 1
    assert "broken.png" in capsys.readouterr().err
    assert not Path("onnxplain-out").exists()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_picture_among_many_is_skipped(classifier, pictures, capsys, as_json):
    Path(pictures, "aa.png").write_bytes(b"rubbish")
    assert main(["explain", classifier, pictures, *(["--json"] if as_json else [])]) == 1
    assert names("onnxplain-out") == ["a", "b", "c"]
    streams = capsys.readouterr()
    assert "aa.png skipped: " in streams.err
    assert "1 of 4 inputs were skipped" in streams.err
    if as_json:
        [skipped] = json.loads(streams.out)["skipped"]
        assert skipped["input"] == "pictures/aa.png"


def test_nan_among_many_is_skipped(classifier, capsys):
    for name, value in (("good", 1), ("bad", np.nan)):
        np.save(f"{name}.npy", np.full((1, 3, 8, 8), value, np.float32))
    assert main(["explain", classifier, "good.npy", "bad.npy"]) == 1
    assert names("onnxplain-out") == ["good"]
    assert "bad.npy skipped: " in capsys.readouterr().err


def test_folder_that_cannot_be_written(classifier, pictures, capsys):
    Path("taken").touch()
    assert main(["explain", classifier, pictures, "-o", "taken/maps"]) == 1
    assert "taken is a file" in capsys.readouterr().err


def test_full_disk(classifier, pictures, capsys, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("onnxplain.saved.write_arrays", full)
    assert main(["explain", classifier, f"{pictures}/a.png"]) == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert not Path("onnxplain-out").exists()
    assert names(".") == ["net.onnx", "net.onnxplain.toml", "pictures"]


def test_quiet(classifier, pictures, capsys):
    assert main(["explain", classifier, f"{pictures}/a.png", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_results_of_an_earlier_run_are_replaced(classifier, pictures):
    words = ["explain", classifier, f"{pictures}/a.png", "--target"]
    assert main([*words, "red"]) == 0
    Path("onnxplain-out/a/mine.txt").touch()
    assert main([*words, "blue"]) == 0
    assert Explanation.load("onnxplain-out/a").target[0].label == "blue"
    assert "mine.txt" in names("onnxplain-out/a")


SLOW_WRITING = """
import signal, sys, time
from onnxplain import saved
from onnxplain.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
plain = saved.write_arrays
def slow(path, arrays):
    plain(path, arrays)
    print("writing", file=sys.stderr, flush=True)
    for _ in range(600):  # a signal just before a sleep ends the next one
        time.sleep(0.1)
saved.write_arrays = slow
sys.exit(main(["explain", "net.onnx", "pictures/a.png", "--quiet"]))
"""


def test_ctrl_c_while_writing_leaves_nothing(classifier, pictures):
    process = subprocess.Popen([sys.executable, "-c", SLOW_WRITING], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "writing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "onnxplain: interrupted\n"
    assert process.returncode == 130
    assert names(".") == ["net.onnx", "net.onnxplain.toml", "pictures"]


def test_fixations_of_pictures(classifier, pictures, capsys):
    """Points and path as pictures, the box on the picture; a group of pictures gives what each gives alone."""
    assert main(["explain", classifier, pictures, "-m", "fixations", "-o", "maps", "--json"]) == 0
    said = document(capsys)["results"]
    assert names("maps/b") == ["arrays.npz", "explanation.json", "heatmap.png", "overlay.png", "path.png", "points.png"]
    e = Explanation.load("maps/b")
    assert e.points["image"].tolist() == [[0, 1, 0, 5]], "the first of the fully coloured pixels"
    assert e.path[0].shape == (1, 3)
    assert e.path[0].points.tolist() == [[0, 1]]
    left, top, right, bottom = said[1]["samples"][0]["fixations"]["image"]["box"]
    assert (left, top) == (right, bottom)
    assert 20 <= left < 24, "column 5 of 8 lies there on the 32 columns of the picture"
    points = np.asarray(Image.open("maps/b/points.png"))
    assert points.shape == (16, 32, 3)
    assert (points != np.asarray(Image.open("pictures/b.png"))).any()


def test_crops_of_a_picture(classifier, pictures, capsys):
    words = ["explain", classifier, f"{pictures}/b.png", "-m", "fixations", "--option", "crops=5", "-o", "maps"]
    assert main(words) == 0
    notes = capsys.readouterr().err
    assert "points are pixels of the picture, 16 x 32" in notes
    assert "3 of 5 crops give points" in notes, "those on the left are black, the middle is half green"
    e = Explanation.load("maps/b")
    assert e.map("image").shape == (1, 16, 32)
    assert (e.points["image"][:, 3] >= 16).all()
    assert e.prediction.sum() == pytest.approx(1)
    assert Image.open("maps/b/heatmap.png").size == (32, 16)


@pytest.mark.parametrize("target", ["logits[0,1]", "logits[:,1]", "logits[-1,1:2]", "logits[1]"])
def test_an_element_is_that_of_every_crop(classifier, pictures, capsys, target):
    words = ["explain", classifier, pictures, "-m", "fixations", "--option", "crops=5"]
    assert main([*words, "-o", "class", "--target", "1"]) == 0
    assert main([*words, "-o", "element", "--target", target]) == 0
    for name in "abc":
        by_class, by_element = (Explanation.load(f"{folder}/{name}") for folder in ("class", "element"))
        assert by_element.points["image"].tolist() == by_class.points["image"].tolist()
        assert by_element.point_weights["image"].tolist() == by_class.point_weights["image"].tolist()
        assert by_element.target[0].value == by_class.target[0].value
        assert by_element.origin.options["target"] == target


def test_a_picture_of_crops_has_no_second_sample(classifier, pictures, capsys):
    words = ["explain", classifier, pictures, "-m", "fixations", "--option", "crops=5", "--target", "logits[1,1]"]
    assert main(words) == 2
    assert "target [1,1] lies outside output 'logits' of shape (1, 3)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [("crops=3", "crops must be 1, 5 or 10"), ("sigma=0", "sigma must be"), ("share=1", "share must lie"),
     ("outliers=maybe", "outliers must be true or false"), ("conv_location=corner", "conv_location must be one of")],
)  # fmt: skip
def test_wrong_options_of_fixations(classifier, pictures, capsys, option, message):
    assert main(["explain", classifier, f"{pictures}/a.png", "-m", "fixations", "--option", option]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("size", [[], ["--batch-size", "1"]])
def test_what_lies_inside_belongs_to_its_input(tmp_path, monkeypatch, size):
    """Of a net that puts the sequence first, three inputs of three steps each."""
    monkeypatch.chdir(tmp_path)
    nodes = [
        nets.node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        nets.node("MatMul", ["t", "w"], "u"),
        nets.node("ReduceMean", ["u", "axes"], "y", keepdims=0),
    ]
    w = np.random.default_rng(0).normal(size=(4, 2))
    Path("net.onnx").write_bytes(nets.model(nodes, {"x": ["N", 3, 4]}, constants={"w": w, "axes": np.array([0])}))
    inputs = np.random.default_rng(1).normal(size=(3, 1, 3, 4)).astype(np.float32)
    for name, x in zip("abc", inputs, strict=True):
        np.save(f"{name}.npy", x)
    assert main(["explain", "net.onnx", "a.npy", "b.npy", "c.npy", "--at", "t", "-q", *size]) == 0
    for name in "abc":
        e = Explanation.load(f"onnxplain-out/{name}")
        np.testing.assert_allclose(e.at["t"].transpose(1, 0, 2), e.relevance["x"], rtol=1e-6)
