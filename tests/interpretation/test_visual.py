"""Crops, averages and the page: what is cut is where the filter responds, and data never becomes markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest
from PIL import Image

import onnxplain
from onnxplain.errors import FailureError, UsageError
from onnxplain.interpretation.visual import CROPS, SIDE, Visuals, visualise
from onnxplain.render.interpretation import class_pictures, page, write_pages

CONTRACT = """[input.x]
layout = "NCHW"
colour = "RGB"
size = [24, 24]
resize = "stretch"
range = [0.0, 1.0]
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Filter k answers to a patch of colour k of 4 x 4 pixels; pictures hold one such patch somewhere."""
    folder = tmp_path_factory.mktemp("visual")
    kernels = np.zeros((3, 3, 4, 4))
    kernels[range(3), range(3)] = 1
    nodes = [
        nets.node("Conv", ["x", "w", "b"], "c"),
        nets.node("Relu", ["c"], "r"),
        nets.node("GlobalMaxPool", ["r"], "g"),
        nets.node("Flatten", ["g"], "f"),
        nets.node("Gemm", ["f", "v"], "y"),
    ]
    constants = {"w": kernels, "b": -12 * np.ones(3), "v": np.eye(3)}
    (folder / "net.onnx").write_bytes(nets.model(nodes, {"x": ["N", 3, 24, 24]}, constants=constants))
    (folder / "net.onnxplain.toml").write_text(CONTRACT)
    rng = np.random.default_rng(0)
    for row in range(18):
        picture = np.full((24, 24, 3), 30, np.uint8)
        top, left = rng.integers(0, 21, 2)
        picture[top : top + 4, left : left + 4, row % 3] = 255
        file = folder / "pictures" / str(row % 3) / f"{row:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    return folder


@pytest.fixture(scope="module")
def drawn(built: Path) -> tuple[onnxplain.Interpretation, Visuals]:
    model = onnxplain.load(built / "net.onnx", threads=1)
    found = onnxplain.interpret(model, built / "pictures", layers="r")
    return found, visualise(model, found, built / "pictures")


def test_how_pictures_were_prepared_is_said(built: Path, drawn: tuple[onnxplain.Interpretation, Visuals]) -> None:
    found, _ = drawn
    assert found.notes[0].startswith("pictures: layout NCHW, colour RGB, size 24, 24,")
    assert found.notes[0].endswith("(sidecar net.onnxplain.toml)")
    model = onnxplain.load(built / "net.onnx", threads=1)
    ablation = onnxplain.ablate(model, built / "pictures", found, draws=1, samples=1)
    assert ablation.notes == found.notes[:1]


def test_crops_are_the_patches_that_filters_answer_to(drawn: tuple[onnxplain.Interpretation, Visuals]) -> None:
    found, visuals = drawn
    assert [found.named(int(place)) for place in visuals.filters] == [("r", 0), ("r", 1), ("r", 2)]
    assert visuals.field.tolist() == [[4, 4]] * 3
    for channel in range(3):
        colour = np.full(3, 30)
        colour[channel] = 255
        assert (visuals.crops[channel][:6] == colour).all()
        assert (visuals.averages[channel] == colour).all()
        assert (visuals.crop_samples[channel][:6] >= 0).all()
        assert (visuals.crop_samples[channel][6:] == -1).all()
        assert {found.samples[row][0] for row in visuals.crop_samples[channel][:6]} == {str(channel)}
    assert visuals.crops.shape == (3, CROPS, SIDE, SIDE, 3)


def average_of(picture: np.ndarray, reach: int, folder: Path) -> np.ndarray:
    """The average of the first channel that answers; units see ``reach`` pixels to each side of their own."""
    size = picture.shape[0]
    nodes = [
        nets.node("Conv", ["x", "w"], "c", pads=[reach] * 4),
        nets.node("Relu", ["c"], "r"),
        nets.node("GlobalMaxPool", ["r"], "g"),
        nets.node("Flatten", ["g"], "f"),
        nets.node("Gemm", ["f", "v"], "y"),
    ]
    kernels = np.pad(np.eye(3)[:, :, None, None], [(0, 0), (0, 0), (reach, reach), (reach, reach)])
    proto = nets.model(nodes, {"x": ["N", 3, size, size]}, constants={"w": kernels, "v": np.eye(3)})
    (folder / "net.onnx").write_bytes(proto)
    (folder / "net.onnxplain.toml").write_text(CONTRACT.replace("24", str(size)))
    (folder / "pictures").mkdir()
    Image.fromarray(picture).save(folder / "pictures" / "corner.png")
    model = onnxplain.load(folder / "net.onnx", threads=1)
    found = onnxplain.interpret(model, folder / "pictures", layers="r")
    return np.asarray(visualise(model, found, folder / "pictures").averages[0])


def test_a_field_beyond_the_border_counts_only_inside(tmp_path: Path) -> None:
    picture = np.zeros((24, 24, 3), np.uint8)
    picture[0, 0, 1] = 255
    average = average_of(picture, 2, tmp_path)
    assert (average[:24] == 200).all()
    assert (average[:, :24] == 200).all()
    assert (average[30:34, 30:34] == [0, 255, 0]).all()


def test_the_border_of_a_picture_draws_no_line(tmp_path: Path) -> None:
    """A field of 71 pixels shrinks to 64, so that the picture's border at 36 falls into the middle of a pixel."""
    picture = np.zeros((80, 80, 3), np.uint8)
    picture[..., 0] = 254
    picture[-1, -1, 0] = 255
    average = average_of(picture, 35, tmp_path)
    inside = (average != 200).any(axis=2)
    assert inside[:32, :32].all()
    assert not inside[33:].any()
    assert (average[inside] >= [254, 0, 0]).all()


def test_what_was_drawn_comes_back(drawn: tuple[onnxplain.Interpretation, Visuals], tmp_path: Path) -> None:
    _, visuals = drawn
    assert Visuals.load(tmp_path) is None
    visuals.save(tmp_path)
    loaded = Visuals.load(tmp_path)
    assert loaded is not None
    for name, value in vars(visuals).items():
        np.testing.assert_array_equal(getattr(loaded, name), value)
    (tmp_path / "visuals.npz").write_bytes(b"PK")
    with pytest.raises(FailureError, match=r"visuals.npz cannot be read"):
        Visuals.load(tmp_path)


def test_other_data_and_models_without_pictures_are_refused(
    drawn: tuple[onnxplain.Interpretation, Visuals], built: Path, tmp_path: Path
) -> None:
    found, _ = drawn
    model = onnxplain.load(built / "net.onnx", threads=1)
    np.savez(tmp_path / "other.npz", x=np.ones((2, 3, 24, 24), np.float32))
    with pytest.raises(UsageError, match="is not the data set of the interpretation"):
        visualise(model, found, tmp_path / "other.npz")


def test_a_page_holds_everything_as_data(drawn: tuple[onnxplain.Interpretation, Visuals], tmp_path: Path) -> None:
    found, visuals = drawn
    evil = "</script><img src=x onerror=alert(1)>&"
    first, *rest = found.classes
    found = replace(found, classes=(replace(first, name=evil), *rest), notes=(evil,))
    text = page(found, visuals, evil)
    assert "onerror" in text
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:", text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert data["classes"][0]["name"] == evil
    assert data["features"]["0"]["tiles"] == 1 + CROPS
    write_pages(found, visuals, tmp_path, "flowers")
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["0000-_script_img_src_x_onerror_alert_1_.png", "0001.png", "0002.png"]
    (_, picture), *_ = class_pictures(found, visuals)
    np.testing.assert_array_equal(picture[:, SIDE : 2 * SIDE], visuals.crops[0, 0])
    assert "Search classes" in page(found, None, "without pictures")


def test_vebi_shows_the_averages(drawn: tuple[onnxplain.Interpretation, Visuals], built: Path, tmp_path: Path) -> None:
    from onnxplain.cli import main

    found, visuals = drawn
    found.save(tmp_path / "known")
    visuals.save(tmp_path / "known")
    arguments = ["explain", str(built / "net.onnx"), str(built / "pictures" / "1" / "01.png"), "--method", "vebi"]
    assert main([*arguments, "--option", f"interpretation={tmp_path / 'known'}", "-o", str(tmp_path / "out")]) == 0
    files = {path.name for path in (tmp_path / "out" / "01").iterdir()}
    assert files == {"arrays.npz", "explanation.json", "heatmap.png", "overlay.png", "features.png"}
    arrays = np.load(tmp_path / "out" / "01" / "arrays.npz")
    np.testing.assert_array_equal(arrays["extras/average"][0, 0], visuals.averages[1])
