from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

import onnxplain
from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.contract import discover
from onnxplain.inputs.items import Resize

SIDECAR = """
[input.x]
layout = "NCHW"
colour = "BGR"
size = [8, 8]
resize = "short-side"
short_side = 10
crop = "center"
range = [0.0, 255.0]
mean = [1, 2.0, 3]
std = 2.0

[output.y]
labels = ["a", "b", "c", "d"]
"""


def _origins(contract) -> dict[str, str]:
    return {name: item.origin for name, item in contract.items.items()}


def test_nothing_is_guessed(build) -> None:
    contract = discover(build(), "x")
    assert contract.layout.value == "NCHW"
    assert contract.size.value == (8, 8)
    assert contract.missing == ("colour", "resize", "range", "mean", "std")
    with pytest.raises(UsageError, match=r"colour \(nothing states it\).*--preprocess imagenet\|caffe.*\[input\.x\]"):
        contract.check()
    with pytest.raises(UsageError, match="range"):
        _ = contract.low


@pytest.mark.parametrize(
    ("name", "colour", "low", "high", "mode"),
    [
        ("imagenet", "RGB", (-2.117904, -2.035714, -1.804444), (2.248908, 2.428571, 2.64), Resize("short-side", 9)),
        ("caffe", "BGR", (-103.939, -116.779, -123.68), (151.061, 138.221, 131.32), Resize("short-side", 9)),
        ("tf", "RGB", (-1,), (1,), Resize("short-side", 9)),
        ("unit", "RGB", (0,), (1,), Resize("stretch")),
        ("raw", "RGB", (0,), (255,), Resize("stretch")),
    ],
)
def test_presets(build, name, colour, low, high, mode) -> None:
    contract = discover(build(), "x", preprocess=name)
    contract.check()
    assert contract.colour.value == colour
    assert contract.resize.value == mode
    np.testing.assert_allclose(contract.low, low, atol=1e-6)
    np.testing.assert_allclose(contract.high, high, atol=1e-6)
    assert contract.mean.origin == f"--preprocess {name}"


def test_presets_for_grey_models(build) -> None:
    grey = build(shape=("N", 1, 8, 8), channels=1)
    contract = discover(grey, "x", preprocess="unit")
    assert contract.colour.value == "GRAY"
    with pytest.raises(UsageError, match="three channels"):
        discover(grey, "x", preprocess="imagenet")
    with pytest.raises(UsageError, match="'vgg'; there are imagenet, caffe"):
        discover(grey, "x", preprocess="vgg")


def test_sidecar_and_its_rank_among_the_sources(build, tmp_path: Path) -> None:
    (tmp_path / "net.onnxplain.toml").write_text(SIDECAR)
    metadata = {"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "Normalized_0_1"}
    model = build(file="net.onnx", metadata=metadata)
    contract = discover(model, "x")
    contract.check()
    assert contract.colour.value == "BGR"
    assert contract.resize.value == Resize("short-side", 10)
    assert contract.labels.value == ("a", "b", "c", "d")
    assert set(_origins(contract).values()) == {"sidecar net.onnxplain.toml"}
    np.testing.assert_allclose(contract.high, [127, 126.5, 126])
    flagged = discover(model, "x", preprocess="unit")
    assert flagged.colour.value == "RGB"
    assert flagged.layout.origin == "sidecar net.onnxplain.toml"
    assert flagged.to_json()["mean"] == {"value": [0.0], "origin": "--preprocess unit"}
    assert ("range", "0, 1", "--preprocess unit") in flagged.describe()


def test_contract_file_by_flag(build, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(SIDECAR)
    contract = discover(build(), "x", preprocess=tmp_path / "own.toml")
    assert set(_origins(contract).values()) == {"--preprocess own.toml"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[input.x", "not TOML"),
        ("[" * 5000, "not TOML"),
        ("[inputs.x]", "has no key 'inputs'; allowed are input, output"),
        ("[input]\nx = 1", r"\[input.NAME\]"),
        ("[input.z]", "no input 'z'; it has x"),
        ("[output.z]", "no output 'z'; it has y"),
        ("[input.x]\ncolor = 'RGB'", "no key 'color'; allowed are layout, colour"),
        ("[input.x]\ncolour = 'rgb'", 'colour of .* takes "RGB" or "BGR" or "GRAY", not .rgb.'),
        ("[input.x]\nsize = [8.0, 8]", "size of .* takes .height, width."),
        ("[input.x]\nsize = [0, 8]", "size of"),
        ("[input.x]\nsize = 8", "size of"),
        ("[input.x]\nrange = [1, 0]", "range of"),
        ("[input.x]\nrange = [0, inf]", "range of"),
        ("[input.x]\nmean = [1, 2]", "mean of"),
        ("[input.x]\nmean = [true, 1, 1]", "mean of"),
        ("[input.x]\nstd = 0", "std of"),
        ("[input.x]\ncolour = 'GRAY'\nmean = [1, 2, 3]", "one per channel"),
        ("[input.x]\nresize = 'short-side'", "needs short_side"),
        ("[input.x]\nresize = 'stretch'\nshort_side = 9", "short_side .* goes with"),
        ("[input.x]\nresize = 'short-side'\nshort_side = 7", "smaller than the size"),
        ("[input.x]\nresize = 'letterbox'\nfill = 256", "fill of"),
        ("[input.x]\nlayout = 'NHWC'\nsize = [8, 8]", "size .* does not fit axis 1 of input 'x'"),
        ("[input.x]\nsize = [8, 9]", "does not fit axis 3"),
        ("[input.x]\ncolour = 'GRAY'", "GRAY .* does not fit axis 1"),
        ("[output.y]\nlabels = ['a', 'b']", "2 labels .* for the 4 classes"),
        ("[output.y]\nlabels = [1, 2, 3, 4]", "labels of .* takes a list of names"),
        ("[output.y]\nlabels = 'none.txt'", "none.txt is not a file"),
        ("[output.y]\nlabels = '../outside.txt'", "outside the folder"),
        ("[output.y]\nlabels = '/etc/hostname'", "outside the folder"),
        ("[output.y]\nlabels = 'link.txt'", "outside the folder"),
        ("[output.y]\nname = 'y'", "no key 'name'; allowed are labels"),
    ],
)
def test_wrong_sidecars(build, tmp_path: Path, text: str, said: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "outside.txt").write_text("a\nb\nc\nd\n")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "net.onnxplain.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        discover(build(file="models/net.onnx"), "x")


def test_a_file_of_labels_beside_the_sidecar(build, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\ncow\nowl\n")
    (tmp_path / "net.onnxplain.toml").write_text("[output.y]\nlabels = 'labels.txt'")
    model = build(file="net.onnx")
    assert discover(model, "x").labels.value == ("cat", "dog", "cow", "owl")
    (tmp_path / "other.json").write_text('["w", "x", "y", "z"]')
    flagged = discover(model, "x", labels=tmp_path / "other.json")
    assert flagged.labels.value == ("w", "x", "y", "z")
    assert flagged.labels.origin == f"file {tmp_path / 'other.json'}"  # verbs call the option differently


def test_image_metadata_whatever_its_case(build) -> None:
    metadata = {"image.bitmapPixelFormat": "BGR8", "Image.NominalPixelRange": "normalized_1_1"}
    contract = discover(build(metadata=metadata), "x")
    assert contract.colour.value == "BGR"
    assert (contract.low.tolist(), contract.high.tolist()) == ([-1], [1])
    assert contract.missing == ("resize",)


@pytest.mark.parametrize(
    ("metadata", "item"),
    [
        ({"Image.BitmapPixelFormat": "Rgba8"}, "colour"),
        ({"Image.NominalPixelRange": "0-255"}, "range"),
        ({"Image.NominalPixelRange": "NominalRange_0_255", "Image.ColorSpaceGamma": "Linear"}, "range"),
        ({"names": "{0: 'a', 2: 'b'}"}, "labels"),
        ({"names": "__import__('os').getcwd()"}, "labels"),
        ({"names": "-" * 200_000 + "1"}, "labels"),
        ({"names": "[" * 200_000}, "labels"),
        ({"names": "['a', 'b']"}, "labels"),
        ({"names": "[" + "'a'," * 300_000 + "]"}, "labels"),
    ],
)
def test_metadata_that_cannot_be_used_is_named(build, metadata, item) -> None:
    start = time.process_time()
    contract = discover(build(metadata=metadata), "x")
    assert time.process_time() - start < 2
    assert contract.items[item].value is None
    assert list(metadata)[-1] in contract.items[item].origin


@pytest.mark.parametrize(
    ("task", "resize"),
    [("detect", Resize("letterbox")), ("classify", Resize("short-side", 8)), (None, Resize("letterbox"))],
)
def test_the_exporter_of_ultralytics(build, task, resize) -> None:
    metadata = {
        "author": "Ultralytics",
        "imgsz": "[8, 8]",
        "names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd'}",
        "stride": "32",
    } | ({"task": task} if task else {})
    contract = discover(build(metadata=metadata), "x")
    contract.check()
    assert contract.labels.value == ("a", "b", "c", "d")
    assert contract.size.origin == "metadata imgsz"
    assert contract.resize.value == resize
    assert contract.high.tolist() == [1]


@pytest.mark.parametrize(
    ("head", "limits", "colour"),
    [
        ([("Div", [255.0], {})], (0, 255), None),
        ([("Mul", [1 / 255], {})], (0, 255), None),
        ([("Mul", [2.0], {}), ("Sub", [1.0], {})], (0, 1), None),
        ([("Sub", [np.reshape([103.939, 116.779, 123.68], (3, 1, 1))], {})], (0, 255), "BGR"),
        (
            [
                ("Sub", [np.reshape([0.485, 0.456, 0.406], (1, 3, 1, 1))], {}),
                ("Div", [np.reshape([0.229, 0.224, 0.225], (1, 3, 1, 1))], {}),
            ],
            (0, 1),
            "RGB",
        ),
        (
            [
                ("Div", [255.0], {}),
                ("Add", [-np.reshape([0.485, 0.456, 0.406], (1, 3, 1, 1))], {}),
                ("Mul", [1 / np.reshape([0.229, 0.224, 0.225], (1, 3, 1, 1))], {}),
            ],
            (0, 255),
            "RGB",
        ),
        ([("Cast", [], {"to": TensorProto.FLOAT}), ("Sub", [127.5], {}), ("Div", [128.0], {})], (0, 255), None),
        ([("Mul", [0.5], {}), ("Add", [0.5], {})], None, None),
        ([("Mul", [3.0], {})], None, None),
        ([("Mul", [-1.0], {})], None, None),
        ([("Sub", [1000.0], {})], None, None),
        ([("Relu", [], {}), ("Div", [255.0], {})], None, None),
    ],
)
def test_normalisation_at_the_head_of_the_graph(build, head, limits, colour) -> None:
    contract = discover(build(head=head), "x")
    assert contract.range.value == limits
    assert contract.colour.value == colour
    if limits is not None:
        assert contract.range.origin.startswith("constants at the head of the graph (")
        assert (contract.low.tolist(), contract.high.tolist()) == ([limits[0]], [limits[1]])


def test_what_is_stated_on_top_of_the_head_of_the_graph_is_told(build) -> None:
    model = build(head=[("Sub", [0.5], {}), ("Div", [0.25], {})])
    contract = discover(model, "x", preprocess="imagenet")
    assert contract.mean.value == (0.485, 0.456, 0.406), "a flag settles it"
    for item in (contract.mean, contract.std):
        assert item.origin.startswith("--preprocess imagenet, on top of constants at the head of the graph (")
    assert discover(model, "x", preprocess="unit").mean.origin == "--preprocess unit"


def test_layout_behind_a_transpose_and_constants_in_front_of_it(build) -> None:
    head = [("Sub", [[123.68, 116.779, 103.939]], {}), ("Transpose", [], {"perm": [0, 3, 1, 2]})]
    contract = discover(build(shape=("N", 8, 6, 3), head=head), "x")
    assert contract.layout.value == "NHWC"
    assert contract.size.value == (8, 6)
    assert contract.colour.value == "RGB"
    assert contract.range.value == (0, 255)


def test_layout_from_constants_and_from_the_shape(build) -> None:
    with_constant = build(shape=("N", "h", "w", 3), head=[("Sub", [[120.0, 110, 100]], {})], convolution=False)
    contract = discover(with_constant, "x")
    assert contract.layout.value == "NHWC"
    assert contract.size.value is None
    by_shape = discover(build(shape=("N", 8, 8, 1), convolution=False), "x")
    assert (by_shape.layout.value, by_shape.colour.value) == ("NHWC", "GRAY")
    ambiguous = discover(build(shape=("N", 3, 8, 3), convolution=False), "x")
    assert ambiguous.layout.value is None


def test_inputs_that_are_no_pictures(build) -> None:
    contract = discover(build(shape=("N", 4), convolution=False), "x")
    assert contract.layout.value == "tensor"
    with pytest.raises(UsageError, match=r"Nx4.*\.npy"):
        contract.check()
    with pytest.raises(UsageError, match="no input 'z'; it has x"):
        discover(build(), "z")


def test_integer_inputs(build) -> None:
    model = build(dtype=TensorProto.UINT8, head=[("Cast", [], {"to": TensorProto.FLOAT})])
    contract = discover(model, "x", preprocess="raw")
    contract.check()
    assert discover(model, "x").range.origin == "input dtype uint8"
    for preset in ("imagenet", "unit", "tf"):
        with pytest.raises(UsageError, match="uint8, which cannot hold"):
            discover(model, "x", preprocess=preset).check()


def test_a_gigantic_size_is_refused_before_a_picture_is_resized(build) -> None:
    contract = discover(build(shape=("N", 3, 40_000, 40_000)), "x", preprocess="unit")
    with pytest.raises(FailureError, match=r"input 'x' takes pictures of 40000 x 40000 pixels .* limit is 100 megapix"):
        contract.check()


def test_labels_of_several_outputs(tmp_path: Path) -> None:
    from onnxplain.inputs.sidecar import read_sidecar

    file = tmp_path / "c.toml"
    file.write_text("[output.a]\nlabels = ['p']\n[output.b]\nlabels = ['q']\n")
    both = read_sidecar(file, "sidecar", "x", ["x"], ["a", "b"], None)
    assert both["labels"].value is None
    assert "name the output" in both["labels"].origin
    assert read_sidecar(file, "sidecar", "x", ["x"], ["a", "b"], "b")["labels"].value == ("q",)


def test_the_example_in_the_documentation(build, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "inputs.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    (tmp_path / "own.toml").write_text(
        example.replace("input.data", "input.x").replace("output.probabilities", "output.y")
    )
    (tmp_path / "labels.txt").write_text("n01440764 tench\nn01443537 goldfish\nn01484850 shark\nn01491361 ray\n")
    contract = discover(build(shape=("N", 3, 224, 224)), "x", preprocess=tmp_path / "own.toml")
    preset = discover(build(shape=("N", 3, 224, 224)), "x", preprocess="imagenet")
    assert contract.labels.value == ("tench", "goldfish", "shark", "ray")
    for name in ("layout", "colour", "size", "resize", "range", "mean", "std"):
        assert contract.items[name].value == preset.items[name].value, name


def test_models_of_the_material(material: Path) -> None:
    model = onnxplain.load(material / "models" / "imagenet_mobilenetv1_025_keras.onnx")
    contract = discover(model, "input", preprocess="tf", labels=material / "imagenet_labels.txt")
    contract.check()
    assert (contract.layout.value, contract.size.value) == ("NHWC", (224, 224))
    assert contract.labels.value is not None
    assert contract.labels.value[0] == "tench, Tinca tinca"
