"""An explanation names what it was made from."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from nets import model, node
from PIL import Image

import onnxplain
from onnxplain.cli import main

X = np.ones((1, 3, 4, 4), np.float32)


@pytest.fixture
def classifier(tmp_path, monkeypatch):
    """A net of two classes in the working folder, its first class the red, with the contract of its input."""
    monkeypatch.chdir(tmp_path)
    nodes = [node("GlobalAveragePool", ["x"], "p"), node("Flatten", ["p"], "f"), node("MatMul", ["f", "w"], "y")]
    Path("net.onnx").write_bytes(model(nodes, {"x": ["N", 3, 4, 4]}, constants={"w": np.eye(3)[:, :2]}))
    Path("net.onnxplain.toml").write_text(
        '[input.x]\nlayout = "NCHW"\ncolour = "RGB"\nresize = "stretch"\nrange = [0, 1]\nmean = 0\nstd = 1\n'
    )
    return Path("net.onnx")


def test_model_and_options(classifier):
    e = onnxplain.explain(classifier, X, "integrated-gradients", target=1, steps=3, baseline=np.zeros((1, 3, 4, 4)))
    e.save("maps")
    origin = json.loads(Path("maps/explanation.json").read_text())["origin"]
    assert origin["model"] == {
        "path": "net.onnx",
        "sha256": hashlib.sha256(classifier.read_bytes()).hexdigest(),
        "external_data": {},
    }
    options = origin["options"]
    assert (options["target"], options["steps"], options["seed"]) == (1, 3, 0)
    assert np.shape(options["baseline"]) == (1, 3, 4, 4)
    assert options["providers"] == ["CPUExecutionProvider"]
    assert origin["input"] is None
    assert origin["contract"] is None
    assert onnxplain.Explanation.load("maps").origin.to_json() == origin


def test_rule_book_that_was_taken_by_default(classifier):
    assert onnxplain.explain(classifier, X).origin.options["rules"] == "epsilon-plus-flat"
    assert onnxplain.explain(classifier, X, "gradient").origin.options["rules"] is None


def test_a_model_without_a_file(classifier):
    origin = onnxplain.explain(classifier.read_bytes(), X, target=lambda y: np.ones_like(y)).origin.to_json()
    assert origin["model"] == {"path": None, "sha256": None, "external_data": {}}
    json.dumps(origin)


def test_a_file_that_changed_has_no_hash(classifier):
    e = onnxplain.explain(classifier, X)
    with classifier.open("ab") as file:
        file.write(b"\0")
    assert e.origin.to_json()["model"]["sha256"] is None


def test_input_and_contract_on_the_command_line(classifier):
    Image.new("RGB", (8, 8), "red").save("red.png")
    np.save("array.npy", X)
    assert main(["explain", "net.onnx", "red.png", "array.npy", "--option", "epsilon=0.01", "--seed", "3"]) == 0
    red, array = (onnxplain.Explanation.load(f"onnxplain-out/{name}").origin for name in ("red", "array"))
    assert (red.input, array.input) == ("red.png", "array.npy")
    assert red.options["epsilon"] == 0.01
    assert red.options["seed"] == 3
    assert red.contract["range"] == {"value": [0.0, 1.0], "origin": "sidecar net.onnxplain.toml"}
    assert array.contract is None, "an array is not prepared"
