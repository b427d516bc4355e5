"""The verbs that explain no input: inspect, plan, export and the lists."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import onnxplain
from onnxplain.cli import main


def lines(capsys):
    """The rows that were printed, as lists of words."""
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_inspect(classifier, capsys):
    assert main(["inspect", classifier]) == 0
    rows = lines(capsys)
    assert ["image", "float32", "nx3x8x8"] in rows
    assert ["class", "float32", "nx3"] in rows
    assert ["Conv", "1", "exact"] in rows
    assert ["Flatten", "1", "pass-through"] in rows
    assert ["versions", "IR", "9,", "ai.onnx", "17"] in rows
    assert ["colour", "RGB", "sidecar", "net.onnxplain.toml"] in rows
    assert not any(row[:1] == ["gemm"] for row in rows)


def test_inspect_says_how_pictures_are_resized_in_the_words_of_explain(classifier, capsys):
    assert main(["inspect", classifier]) == 0
    assert ["resize", "stretch", "sidecar", "net.onnxplain.toml"] in lines(capsys)
    sidecar = Path(classifier).with_suffix(".onnxplain.toml")
    sidecar.write_text(sidecar.read_text().replace('"stretch"', '"short-side"\nshort_side = 9\ncrop = "center"'))
    assert main(["inspect", classifier]) == 0
    found = lines(capsys)
    assert ["resize", "short", "side", "to", "9,", "centre", "crop", "sidecar", "net.onnxplain.toml"] in found
    assert ["range", "0,", "1", "sidecar", "net.onnxplain.toml"] in found


def test_inspect_layers(classifier, capsys):
    assert main(["inspect", classifier, "--layers"]) == 0
    assert ["gemm", "Gemm", "logits"] in lines(capsys)


def test_inspect_as_json(classifier, capsys):
    assert main(["inspect", classifier, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "onnxplain.inspect/1"
    assert document["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["n", 3, 8, 8]}]


def test_plan(classifier, capsys):
    assert main(["plan", classifier]) == 0
    rows = lines(capsys)
    assert ["conv", "Conv", "flat"] in [row[:3] for row in rows]
    assert ["gemm", "Gemm", "epsilon"] in [row[:3] for row in rows]
    assert main(["plan", classifier, "--rules", "epsilon", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {step["layer"]: step["rule"] for step in document["steps"]}["conv"] == "epsilon"


def test_plan_of_an_unsupported_model(unsupported, capsys):
    assert main(["plan", unsupported]) == 3
    assert "Mystery" in capsys.readouterr().err


def test_own_rule_book(classifier, capsys):
    Path("own.toml").write_text('description = "own"\n\n[[rule]]\nkind = "linear"\nuse = "w-square"\n')
    assert main(["plan", classifier, "--rules", "own.toml"]) == 0
    assert ["conv", "Conv", "w-square"] in [row[:3] for row in lines(capsys)]


def test_export(classifier, capsys):
    assert main(["export", classifier, "-o", "deep/explained.onnx"]) == 0
    assert "relevance/image" in capsys.readouterr().out
    x = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    session = ort.InferenceSession("deep/explained.onnx", providers=["CPUExecutionProvider"])
    [relevance] = session.run(["relevance/image"], {"image": x})
    expected = onnxplain.explain(classifier, x, engine="host").relevance["image"]
    np.testing.assert_allclose(relevance, expected, atol=1e-5)


def test_export_where_it_cannot_be_written(classifier, capsys):
    Path("taken").touch()
    assert main(["export", classifier, "-o", "taken/explained.onnx"]) == 1
    assert "taken is a file" in capsys.readouterr().err


def test_export_replaces_a_file_but_never_the_model(classifier, capsys):
    Path("old.onnx").write_text("old")
    assert main(["export", classifier, "-o", "old.onnx"]) == 0
    before = Path(classifier).read_bytes()
    Path("link.onnx").symlink_to(classifier)
    for name, said in (
        (classifier, "belongs to the model"),
        ("link.onnx", "belongs to the model"),
        (".", "is a folder"),
    ):
        capsys.readouterr()
        assert main(["export", classifier, "-o", name]) == 2
        assert said in capsys.readouterr().err
    assert Path(classifier).read_bytes() == before


@pytest.mark.parametrize(
    ("verb", "names"),
    [
        ("methods", {"lrp", "gradient", "integrated-gradients"}),
        ("rules", {"epsilon-plus-flat", "deconvnet"}),
        ("ops", {"Conv", "Softmax"}),
    ],
)
def test_lists(capsys, verb, names):
    assert main([verb]) == 0
    assert names <= {row[0] for row in lines(capsys)}
    assert main([verb, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    [entries] = [value for value in document.values() if isinstance(value, list)]
    assert names <= {value for entry in entries for value in entry.values() if isinstance(value, str)}


def test_methods_fit_a_terminal(capsys):
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    at = shown.index("integrated-gradients")
    assert shown[at + 1].startswith("    The gradient integrated from a baseline to the input")
    assert "      baseline=0.0, steps=32" in shown[at:]
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["methods"]
    assert [line for line in shown if not line.startswith(" ")] == [entry["name"] for entry in listed]
