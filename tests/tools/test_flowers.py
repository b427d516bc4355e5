"""The drawn flowers, reproducible, with true masks and no trace of the class elsewhere, and what of them is bundled."""

import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxplain.errors import UsageError
from onnxplain.inputs.datasets import Dataset
from onnxplain.metrics.truth import MaskTruth
from onnxplain.resources import resource

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import an8flower
import evaluate_flowers
import flowers
from flower_canvas import Canvas, box, ellipse
from flower_scene import COLOURS, PART_PALETTES, PARTS, draw_scene, mixed, part_colours
from flowers import VARIANTS, draw, pictures, write

SIZE = 48
DEMO_SIZE, DEMO_SEED = 192, 4


@pytest.fixture(scope="module", params=VARIANTS)
def drawn(request):
    variant = VARIANTS[request.param]
    return variant, list(pictures(variant, 24, SIZE, seed=5, workers=1))


def test_classes():
    assert VARIANTS["single-6c"].classes == ("blue", "orange", "pink", "red", "violet", "yellow")
    double = VARIANTS["double-12c"].classes
    assert len(double) == 12
    assert list(double) == sorted(double)
    assert double[0] == "petals-blue"
    assert double[11] == "pot-yellow"


def test_same_whatever_the_workers(drawn):
    variant, one_by_one = drawn
    for first, second in zip(one_by_one, pictures(variant, 24, SIZE, seed=5, workers=3), strict=True):
        assert (first.number, first.label) == (second.number, second.label)
        np.testing.assert_array_equal(first.pixels, second.pixels)
        np.testing.assert_array_equal(first.mask, second.mask)


def test_classes_in_turn_and_no_picture_twice(drawn):
    variant, every = drawn
    assert [picture.label for picture in every] == [number % len(variant.classes) for number in range(24)]
    assert len({picture.pixels.tobytes() for picture in every}) == 24
    assert draw(variant, SIZE, 6, 0).pixels.tobytes() != every[0].pixels.tobytes()


def test_the_deciding_colour_fills_the_mask(drawn):
    variant, every = drawn
    for picture in every:
        assert 0.01 < picture.mask.mean() < 0.25
        shown = picture.pixels[cv2.erode(picture.mask.astype(np.uint8), np.ones((3, 3))) > 0]
        deciding = variant.decisions[picture.label][1]
        assert nearest_colour(np.median(shown, axis=0)) == deciding, picture.number


def nearest_colour(pixel):
    """Class colour of the same hue and saturation: brightness is the light's."""
    hue, saturation, value = cv2.cvtColor(np.float32(pixel / 255).reshape(1, 1, 3), cv2.COLOR_RGB2HSV).ravel()
    if value < 0.1:
        return None

    def distance(name):
        other_hue, other_saturation, _ = COLOURS[name]
        turn = (hue - other_hue + 180) % 360 - 180
        return (turn / 20) ** 2 + ((saturation - other_saturation) / 0.4) ** 2

    return min(COLOURS, key=distance)


def test_nothing_else_depends_on_the_class(drawn, monkeypatch):
    variant, every = drawn
    canvases = []

    def recorded(*arguments):
        pixels, canvas = draw_scene(*arguments)
        canvases.append(canvas)
        return pixels, canvas

    monkeypatch.setattr(flowers, "draw_scene", recorded)
    for picture in every[:6]:
        others = [draw(variant, SIZE, 5, picture.number, label) for label in range(len(variant.classes))]
        np.testing.assert_array_equal(others[picture.label].pixels, picture.pixels)
        shown = np.isin(canvases[-1].top, [PARTS.index(part) for part in variant.parts]).astype(np.float32)
        may_change = cv2.resize(shown, (SIZE, SIZE), interpolation=cv2.INTER_AREA) > 0
        for first, second in pairwise(others):
            same = (first.pixels == second.pixels).all(axis=2)
            assert same[~may_change].all()
            assert not same[first.mask & second.mask].any()


def test_other_parts_take_the_colours_of_the_classes():
    assert set(COLOURS) < set(PART_PALETTES["pot"])
    assert set(COLOURS) < set(PART_PALETTES["centre"])


def test_part_that_does_not_decide_is_neutral():
    variant = VARIANTS["double-12c"]
    for number in range(12):
        petals, pot = (draw(variant, SIZE, 1, number, label) for label in (0, 6))
        assert variant.decisions[0][0] == "petals"
        assert variant.decisions[6][0] == "pot"
        for shown, neutral in ((petals, pot), (pot, petals)):
            assert not (shown.mask & neutral.mask).any()
            colourful = cv2.cvtColor(shown.pixels, cv2.COLOR_RGB2HSV)[..., 1]
            assert np.median(colourful[shown.mask]) > 90 > np.median(colourful[neutral.mask])


@pytest.mark.parametrize(
    ("name", "rgb"),
    [("red", (1, 0, 0)), ("green", (0, 1, 0)), ("blue", (0, 0, 1)), ("magenta", (1, 0, 1)), ("yellow", (1, 1, 0))],
)
def test_mixed(name, rgb):
    hues = {"red": 0, "green": 120, "blue": 240, "magenta": 300, "yellow": 60}
    colours = [mixed(np.random.default_rng(seed), {name: (hues[name], 1.0, 0.8)}) for seed in range(200)]
    np.testing.assert_allclose(np.mean(colours, axis=0), 0.8 * np.array(rgb), atol=0.05)
    assert np.ptp(colours, axis=0).max() < 0.25


def test_mask_is_what_remains_visible():
    canvas = Canvas(8, np.eye(3), np.array((0.0, -1.0)))
    petals, centre = PARTS.index("petals"), PARTS.index("centre")
    canvas.fill(box(0.25, 0.25, 0.75, 0.75), np.ones(3), petals)
    canvas.fill(box(0.5, -1, 2, 2), np.ones(3), centre)
    canvas.fill(ellipse((0.3, 0.3), 0.5), np.zeros(3), opacity=0.5)
    canvas.darken(box(0, 0, 1, 1), 0.5, 0.1)
    expected = np.zeros((8, 8), bool)
    expected[2:6, 2:4] = True
    np.testing.assert_array_equal(canvas.visible(petals), expected)
    assert canvas.visible(centre)[:, 4:].all()


def test_outside_of_the_picture():
    canvas = Canvas(8, np.eye(3), np.array((0.0, -1.0)))
    canvas.fill(box(1.5, 0.2, 1.8, 0.4), np.zeros(3), 1)
    canvas.fill(box(-1.5, -0.2, -1.2, 0.4), np.zeros(3), 1)
    assert (canvas.pixels == 1).all()
    assert not canvas.visible(1).any()


@pytest.mark.parametrize("layout", ["folders", "numbered", "npz"])
def test_layouts(tmp_path, layout):
    variant = VARIANTS["single-6c"]
    every = [draw(variant, SIZE, 0, number) for number in range(2)]
    write(iter(every), variant, layout, tmp_path)
    if layout == "npz":
        with np.load(tmp_path / "flowers.npz") as arrays, np.load(tmp_path / "masks.npz") as masks:
            assert arrays["labels"].tolist() == ["blue", "orange"]
            assert arrays["input"].dtype == np.float32
            expected = (every[1].pixels[3, 5] / 255 - 0.5) / 0.5
            np.testing.assert_allclose(arrays["input"][1, :, 3, 5], expected, atol=1e-6)
            np.testing.assert_array_equal(masks["masks"], [picture.mask for picture in every])
        return
    if layout == "folders":
        files = [f"{kind}/{name}.png" for kind in ("masks", "pictures") for name in ("blue/00000", "orange/00001")]
    else:
        files = ["00_blue.png", "00_blue_mask.png", "01_orange.png", "01_orange_mask.png"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")) == files
    picture, mask = (files[2], files[0]) if layout == "folders" else (files[0], files[1])
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / picture))[..., ::-1], every[0].pixels)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / mask), cv2.IMREAD_GRAYSCALE) == 255, every[0].mask)


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["flowers.py", "--per-class", "1", "--size", "32", "--workers", "1", "-o", str(tmp_path)]
    )
    flowers.main()
    assert sorted(path.parent.name for path in (tmp_path / "pictures").rglob("*.png")) == list(COLOURS)


def bundled():
    """Number, class, picture and mask of every demo picture."""
    for path in sorted(resource("models/flowers").glob("*.png")):
        if not path.stem.endswith("_mask"):
            number, name = path.stem.split("_")
            mask = cv2.imread(str(path.with_stem(f"{path.stem}_mask")), cv2.IMREAD_GRAYSCALE)
            yield int(number), name, cv2.imread(str(path))[..., ::-1], mask


def test_bundled_pictures_are_drawn_by_the_generator():
    numbers = []
    for number, name, pixels, mask in bundled():
        picture = draw(VARIANTS["single-6c"], DEMO_SIZE, DEMO_SEED, number)
        assert VARIANTS["single-6c"].classes[picture.label] == name
        # Versions of OpenCV round differently.
        assert np.abs(picture.pixels.astype(int) - pixels).mean() < 1
        assert (picture.mask != (mask == 255)).mean() < 0.002
        assert set(np.unique(mask)) == {0, 255}
        numbers.append(number)
    assert numbers == list(range(8))


def test_bundled_model_decides_by_the_petals():
    import onnxruntime

    contract = tomllib.loads(resource("models/flowers.onnxplain.toml").read_text())
    labels, size = contract["output"]["logits"]["labels"], contract["input"]["input"]["size"]
    assert labels == list(VARIANTS["single-6c"].classes)
    session = onnxruntime.InferenceSession(resource("models/flowers.onnx"), providers=["CPUExecutionProvider"])
    assert [(given.name, given.shape) for given in session.get_inputs()] == [("input", ["batch", 3, *size])]

    def decisions(pictures):
        small = [cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA) for pixels in pictures]
        (logits,) = session.run(["logits"], {"input": flowers.model_ready(np.stack(small))})
        return [labels[label] for label in logits.argmax(axis=1)]

    _, names, shown, masks = zip(*bundled(), strict=True)
    assert decisions(shown) == list(names)
    petals = np.stack([cv2.dilate(mask, np.ones((5, 5))) > 0 for mask in masks])[..., np.newaxis]
    grey = np.uint8(128)
    assert decisions(np.where(petals, shown, grey)) == list(names)
    without = decisions(np.where(petals, grey, shown))
    assert sum(map(str.__eq__, without, names)) <= len(names) / 2


def test_bundle_is_small():
    files = [resource("models/flowers.onnx"), *resource("models/flowers").iterdir()]
    assert sum(path.stat().st_size for path in files) < 1_000_000


@pytest.mark.parametrize("name", VARIANTS)
def test_plants_from_several_viewpoints(name, monkeypatch):
    monkeypatch.setattr(flowers, "PLANTS", 2)
    variant = VARIANTS[name]
    plants = 2 * len(variant.classes)
    first, again = draw(variant, SIZE, 3, 7, turn=0), draw(variant, SIZE, 3, 7, turn=1)
    straight = draw(variant, SIZE, 3, 7)
    assert straight.view is None
    assert first.view != again.view
    assert first.label == again.label == 7 % len(variant.classes)
    assert not np.array_equal(first.pixels, again.pixels)
    assert {draw(variant, SIZE, 3, 7, turn=turn).view for turn in range(25)} == set(flowers.VIEWS)
    drawn = list(flowers.viewed(variant, 4, SIZE, seed=3, workers=1))
    assert [picture.number for picture in drawn] == [*range(plants), *range(plants)]
    assert drawn[plants + 7].view == again.view
    with pytest.raises(ValueError, match="at most 50 per class"):
        list(flowers.viewed(variant, 51, 8, seed=3, workers=1))


def test_a_camera_aside_shifts_the_picture_and_a_turned_one_turns_it():
    variant = VARIANTS["single-6c"]
    plant = part_colours(np.random.default_rng(0))

    def middle(shift, turn):
        _, canvas = draw_scene(np.random.default_rng(1), plant, 96, (shift, turn))
        return np.argwhere(canvas.visible(PARTS.index("petals"))).mean(axis=0) / 96

    straight = middle(0.0, 0.0)
    assert variant.parts == ("petals",)
    np.testing.assert_allclose(middle(0.08, 0.0) - straight, (0, -0.08), atol=0.01)
    turn = 0.1
    about = np.array(((np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))))  # rows first
    np.testing.assert_allclose(middle(0.0, turn), 0.5 + about @ (straight - 0.5), atol=0.01)


def test_written_and_read_as_an8flower(tmp_path, monkeypatch):
    monkeypatch.setattr(flowers, "PLANTS", 4)
    variant = VARIANTS["single-6c"]
    every = list(flowers.viewed(variant, 5, SIZE, seed=0, workers=1))
    write(iter(every), variant, "an8flower", tmp_path)
    read = an8flower.read_an8flower(tmp_path / "an8Flower_single_6c")
    assert len(read.data) == 5 * 6
    assert np.bincount(read.data.labels).tolist() == [5] * 6
    assert set(read.plants.tolist()) == set(range(1, 5))
    for name, label, plant in zip(read.data.ids, read.data.labels, read.plants, strict=True):
        assert name.startswith(f"class{label + 1}_img{plant}_p")
        assert (tmp_path / "an8Flower_single_6c_MASK" / name).with_suffix(".png").is_file()
    some = read.where(read.plants == 4)
    assert len(some) == 6
    assert all("_img4_" in name for name in some.ids)
    pixels = cv2.imread(str(tmp_path / "an8Flower_single_6c" / read.data.ids[0]))[..., ::-1]
    drawn = {(picture.view, picture.number): picture for picture in every}
    number = 6 * (read.plants[0] - 1)
    nearest = min(np.abs(p.pixels.astype(int) - pixels).mean() for (_, n), p in drawn.items() if n == number)
    assert nearest < 4


def test_names_of_an8flower(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        an8flower.read_an8flower(tmp_path / "none")
    (tmp_path / "deep").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="no file called as"):
        an8flower.read_an8flower(tmp_path)
    for name in ("class10_img2_p1_r1.jpg", "deep/class2_img30_p5_r2.jpg", "class2_img4_p1_r1.JPG"):
        (tmp_path / name).touch()
    read = an8flower.read_an8flower(tmp_path)
    assert read.data.ids == ("class2_img4_p1_r1.JPG", "deep/class2_img30_p5_r2.jpg", "class10_img2_p1_r1.jpg")
    assert read.data.labels == (0, 0, 1)
    assert read.plants.tolist() == [4, 30, 2]


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("an8Flower_single_6c", ["class2_img30_p1_r2.jpg", "class6_img31_p5_r5.jpg"]),
        ("an8Flower_double_12c", ["4/class4_img22_p3_r5.jpg", "12/class12_img1_p1_r1.jpg"]),
    ],
)
def test_published_names_are_read_and_find_their_masks(variant, names, tmp_path):
    """Names of the authors' demo; folders of classes as Keras reads them in jmaces/rde."""
    square = np.zeros((16, 16), np.uint8)
    square[4:10, 6:12] = 255
    for folder in (variant, f"{variant}_MASK"):
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / name), square)
    read = an8flower.read_an8flower(tmp_path / variant)
    assert read.data.ids == tuple(names)
    assert read.data.labels == (0, 1)
    truth = MaskTruth(an8flower.masks_as_png(tmp_path / f"{variant}_MASK", tmp_path / "made"))
    assert truth.check(read.data) == []


def test_masks_as_jpeg_become_png(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    square = np.zeros((16, 16), np.uint8)
    square[4:10, 6:12] = 255
    cv2.imwrite(str(masks / "a.png"), square)
    assert an8flower.masks_as_png(masks, tmp_path / "made") == masks
    (masks / "a.png").unlink()
    cv2.imwrite(str(masks / "a.jpg"), square)
    made = an8flower.masks_as_png(masks, tmp_path / "made")
    np.testing.assert_array_equal(cv2.imread(str(made / "a.png"), cv2.IMREAD_GRAYSCALE), square)
    (masks / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="cannot be read"):
        an8flower.masks_as_png(masks, tmp_path / "made")


def test_folds_keep_a_plant_together():
    plants = np.tile(np.arange(1, 11), 6)
    labels = np.repeat((0, 1), 30).tolist()
    ids = tuple(str(number) for number in range(60))
    every = an8flower.An8Flower(Dataset(Path(), ids, tuple(labels), ("0", "1")), plants)
    seen = []
    for known, tested in evaluate_flowers.folds(every, 3, seed=0):
        own = {plants[int(name)] for name in tested.ids}
        assert not own & {plants[int(name)] for name in known.ids}
        assert len(known) == 48
        assert sorted(tested.labels) == [0, 0, 0, 1, 1, 1]
        seen += tested.ids
    assert len(set(seen)) == len(seen) == 30
