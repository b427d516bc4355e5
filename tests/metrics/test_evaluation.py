"""The whole of an evaluation on a net whose answers are known: the class is the colour with the largest mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from PIL import Image
from scipy.stats import rankdata

import onnxplain
from onnxplain.engine.sessions import Session
from onnxplain.errors import FailureError, UnsupportedError, UsageError
from onnxplain.metrics import baselines, faithfulness, maps
from onnxplain.metrics.statistics import estimate, paired_difference

SIDE = 12
BOX = "2,3,7,8"
SIDECAR = """
[input.x]
size = [12, 12]
colour = "RGB"
resize = "stretch"
range = [0, 1]
mean = 0
std = 1

[output.y]
labels = ["red", "green", "blue"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net, pictures with a coloured square, its boxes and its masks."""
    folder = tmp_path_factory.mktemp("evaluation")
    nodes = [
        nets.node("Conv", ["x", "w"], "c"),
        nets.node("Relu", ["c"], "r"),
        nets.node("GlobalAveragePool", ["r"], "p"),
        nets.node("Flatten", ["p"], "f"),
        nets.node("Gemm", ["f", "v"], "z"),
        nets.node("Softmax", ["z"], "y"),
    ]
    constants = {"w": np.eye(3).reshape(3, 3, 1, 1), "v": 40 * np.eye(3)}
    (folder / "net.onnx").write_bytes(nets.model(nodes, {"x": ["n", 3, SIDE, SIDE]}, constants=constants))
    (folder / "net.onnxplain.toml").write_text(SIDECAR)
    for name in ("pictures", "masks"):
        (folder / name).mkdir()
    for number, channel in enumerate((0, 1, 2, 0, 1)):
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        pixels[3:9, 2:8, channel] = 255
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
        Image.fromarray(pixels.max(axis=2)).save(folder / "masks" / f"{number}.png")
    colours = ("red", "green", "blue", "red", "green")
    rows = [f"{number}.png,{colour},{BOX}" for number, colour in enumerate(colours)]
    (folder / "boxes.csv").write_text("\n".join(["file,label,x1,y1,x2,y2", *rows]))
    return folder


def judged(place: Path, methods: str = "gradient,input-x-gradient", **options: Any) -> onnxplain.Evaluation:
    model = onnxplain.load(place / "net.onnx", threads=1)
    return onnxplain.evaluate(model, place / "pictures", methods.split(","), **options)


def test_a_map_equal_to_the_mask(place: Path) -> None:
    found = judged(place, boxes=place / "boxes.csv", metrics=["ebpg", "miou", "bbox", "pointing", "drop", "increase"])
    row = found["input-x-gradient"]  # relevance is what is there, so the map is the square
    assert found.targets == (0, 1, 2, 0, 1)
    top = round(0.2 * SIDE**2)
    expected = {"ebpg": 100, "miou": 100 * top / 36, "bbox": 100, "pointing": 100}
    for name, value in expected.items():
        np.testing.assert_allclose(row.measured[name].values, value)
        assert row.measured[name].estimate == estimate(row.measured[name].values)
    # 22 of the square's 36 pixels are kept: the logit is 40 * 22 / 144 of one class, 0 of the two others
    whole, part = (np.exp(40 * n / 144) / (np.exp(40 * n / 144) + 2) for n in (36, 22))
    np.testing.assert_allclose(row.measured["drop"].values, 100 * (whole - part) / whole, rtol=1e-4)
    assert row.measured["increase"].values.tolist() == [0] * 5
    assert [row.method for row in found.rows] == ["gradient", "input-x-gradient", "random", "gaussian", "edges"]
    assert [row.trivial for row in found.rows] == [False, False, True, True, True]


def test_every_measure_is_the_function_of_its_name(place: Path) -> None:
    names = ["insertion-blur", "insertion-zero", "deletion-blur", "deletion-zero", "pixel-flipping", "sparseness"]
    found = judged(place, "gradient", metrics=names, steps=7)
    model = onnxplain.load(place / "net.onnx", threads=1)
    x = np.zeros((3, SIDE, SIDE), np.float32)
    x[2, 3:9, 2:8] = 1
    values = baselines.gaussian_map((SIDE, SIDE))

    def score(inputs: Any) -> np.ndarray:
        return np.array([model.run(one[np.newaxis])["y"][0, 2] for one in inputs])

    def curve(name: str, baseline: faithfulness.Baseline) -> float:
        return float(getattr(faithfulness, name)(score, x, values, baseline=baseline, steps=7, seed=seed))

    seed = int(np.random.SeedSequence([0, 2]).generate_state(1)[0])
    expected = {name: curve(*name.split("-")) for name in names[:4]}  # type: ignore[arg-type]
    expected["pixel-flipping"] = faithfulness.pixel_flipping(score, x, values, seed=seed)
    expected["sparseness"] = maps.sparseness(values)
    got = {name: found["gaussian"].measured[name].values[2] for name in names}
    assert got == pytest.approx(expected, rel=1e-4)


def test_passes_are_shared_and_nothing_else_changes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda self, *given: (runs.append(1), run(self, *given))[1])
    model, metrics = onnxplain.load(place / "net.onnx", threads=1), ["insertion-zero", "max-sensitivity", "sparseness"]
    methods = ["grad-cam", "layer-cam", "xgrad-cam", "gradient", "input-x-gradient"]

    def counted() -> tuple[list[list[float]], int]:
        found = onnxplain.evaluate(model, place / "pictures", methods, metrics, steps=3)
        runs.clear()
        again = onnxplain.evaluate(model, place / "pictures", methods, metrics, steps=3)
        values = [row.measured[name].values.tolist() for row in again.rows for name in metrics]
        assert values == [row.measured[name].values.tolist() for row in found.rows for name in metrics]
        return values, len(runs)

    shared, fewer = counted()
    monkeypatch.setattr(onnxplain.Model, "sharing", lambda self, shared: self)
    alone, more = counted()
    assert shared == alone
    # five methods, each for its map and for max-sensitivity: on this net all read the same tensors of one pass
    assert more - fewer == 5 * (2 * 5 - 1)


def test_measures_of_the_method(place: Path) -> None:
    found = judged(
        place, "gradient,input-x-gradient,integrated-gradients,lrp", metrics=["completeness-gap", "max-sensitivity"],
        options={"lrp": {"rules": "lrp-0"}},
    )  # fmt: skip
    gaps = {row.method: row.measured["completeness-gap"].values for row in found.rows}
    for method in ("input-x-gradient", "integrated-gradients", "lrp"):  # before the softmax the net is linear
        np.testing.assert_allclose(gaps[method], 0, atol=1e-5)
    assert np.isnan([gaps[name] for name in ("gradient", "random", "edges")]).all()
    moves = {row.method: row.measured["max-sensitivity"].values for row in found.rows}
    assert (moves["input-x-gradient"] > 0).all()
    for still in ("random", "gaussian"):
        np.testing.assert_array_equal(moves[still], 0)


def test_masks_say_the_same_as_boxes(place: Path) -> None:
    by_box, by_mask = (judged(place, "gradient", **{kind: place / name}, metrics=["ebpg", "miou"])
                       for kind, name in (("boxes", "boxes.csv"), ("masks", "masks")))  # fmt: skip
    for one, two in zip(by_box.rows, by_mask.rows, strict=True):
        for name in ("ebpg", "miou"):
            np.testing.assert_array_equal(one.measured[name].values, two.measured[name].values)


def test_class_without_box(place: Path) -> None:
    options = {"boxes": place / "boxes.csv", "metrics": ["ebpg", "drop"]}
    found = judged(place, "gradient", target="green", **options)
    seen = np.isfinite(found["gradient"].measured["ebpg"].values)
    assert seen.tolist() == [False, True, False, False, True]
    assert np.isfinite(found["gradient"].measured["drop"].values).all()
    assert found.targets == (1,) * 5
    prepared, missing = found.notes
    assert prepared.startswith("pictures: layout NCHW (")
    assert prepared.endswith("resize stretch, range 0, 1, mean 0, std 1 (sidecar net.onnxplain.toml)")
    assert missing == "3 of 5 pictures show nothing of the explained class by the ground truth and do not count in ebpg"


def test_the_class_that_the_boxes_name(place: Path, tmp_path: Path) -> None:
    rows = [f"{number}.png,thing,{BOX}" for number in range(3)] + [f"4.png,unknown,{BOX}"]
    (tmp_path / "boxes.csv").write_text("\n".join(["file,label,x1,y1,x2,y2", *rows]))
    (tmp_path / "map.json").write_text('{"thing": [1, 2]}')
    found = judged(
        place, "gradient", boxes=tmp_path / "boxes.csv", class_map=tmp_path / "map.json", target="truth"
    )  # fmt: skip
    # green and blue stand for it: where the picture is blue, blue; where neither has more, the first
    assert found.targets == (1, 1, 2, None, None)
    assert found.skipped == {
        "3.png": "neither boxes nor data set say which class it shows",
        "4.png": "none of its classes (unknown) is the model's",
    }


def test_class_folders_name_the_class(place: Path, tmp_path: Path) -> None:
    for name in ("blue", "red"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes((place / "pictures/0.png").read_bytes())
    model = onnxplain.load(place / "net.onnx", threads=1)
    found = onnxplain.evaluate(model, tmp_path, ["gradient"], ["sparseness"], target="truth")
    assert dict(zip(found.samples, found.targets, strict=True)) == {"blue/1.png": 2, "red/1.png": 0}


def test_arrays_with_channels_last(place: Path, tmp_path: Path) -> None:
    x = np.stack([np.asarray(Image.open(place / f"pictures/{n}.png")) / np.float32(255) for n in range(3)])
    np.savez(tmp_path / "data.npz", x=x, labels=[0, 1, 2])
    nodes = [nets.node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]), nets.node("Conv", ["t", "w"], "c"),
             nets.node("GlobalAveragePool", ["c"], "p"), nets.node("Flatten", ["p"], "f"),
             nets.node("Mul", ["f", "scale"], "y")]  # fmt: skip
    constants = {"w": np.eye(3).reshape(3, 3, 1, 1), "scale": np.float32([40, 40, 40])}
    net = nets.model(nodes, {"x": [1, SIDE, SIDE, 3]}, constants=constants)
    model = onnxplain.load(net, threads=1)
    found = onnxplain.evaluate(model, tmp_path / "data.npz", ["input-x-gradient"], target="truth")
    expected = judged(place, "input-x-gradient")
    for row in found.rows:
        for name, measured in row.measured.items():
            values = expected[row.method].measured[name].values[:3]
            np.testing.assert_allclose(measured.values, values, rtol=1e-4, err_msg=name)


def test_maps_that_do_not_look_at_the_model_survive_random_weights(place: Path, tmp_path: Path) -> None:
    """The gradient of a filter as large as the picture is that filter."""
    nodes = [nets.node("Conv", ["x", "w"], "c"), nets.node("Flatten", ["c"], "y")]
    w = np.random.default_rng(0).standard_normal((3, 3, SIDE, SIDE))
    (tmp_path / "net.onnx").write_bytes(nets.model(nodes, {"x": ["n", 3, SIDE, SIDE]}, constants={"w": w}))
    (tmp_path / "net.onnxplain.toml").write_text(SIDECAR)
    asked = {"metrics": ["randomization"], "evidence": "signed", "target": "red", "seed": 3}
    found = onnxplain.evaluate(tmp_path / "net.onnx", place / "pictures", ["gradient"], **asked)
    for name in ("random", "gaussian", "edges"):
        np.testing.assert_allclose(found[name].measured["randomization"].values, 1)
    drawn = np.random.default_rng([3, 0]).normal(w.mean(), w.std(), w.shape)
    ranks = [rankdata(np.abs(weights[0].sum(axis=0))) for weights in (w, drawn)]
    np.testing.assert_allclose(found["gradient"].measured["randomization"].values, np.corrcoef(ranks)[0, 1], rtol=1e-3)


def test_a_class_without_probability_has_nothing_to_lose(place: Path) -> None:
    from onnxplain.metrics.measures import MEASURES, Case

    def case(score: float) -> Case:
        x = np.ones((3, 4, 4))
        return Case(
            x[0], x, 0, lambda inputs: np.full(len(list(inputs)), score), lambda x: x[0], lambda: 0.0, lambda: ()
        )

    assert np.isnan(MEASURES["drop"].of(case(0.0)))
    assert MEASURES["drop"].of(case(0.5)) == 0
    with pytest.raises(UsageError, match="take a probability"):
        MEASURES["drop"].of(case(-1.0))


def test_pairs(place: Path) -> None:
    found = judged(place, "gradient", boxes=place / "boxes.csv", target="green", metrics=["ebpg"])
    a, b = (found[name].measured["ebpg"].values[[1, 4]] for name in ("edges", "random"))
    assert found.difference("edges", "random", "ebpg") == paired_difference(a, b)


def test_continued(place: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"metrics": ["drop", "insertion-blur"], "folder": tmp_path}
    told: list[tuple[float, int]] = []

    def stop(done: float, total: int) -> None:
        told.append((done, total))
        if done > 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged(place, progress=stop, **options)
    assert told[-1][1] == 25
    kept = (tmp_path / "journal.jsonl").read_bytes()
    continued, whole = judged(place, **options), judged(place, **{**options, "folder": tmp_path / "other"})
    assert (tmp_path / "journal.jsonl").read_bytes().startswith(kept)
    for one, two in zip(continued.rows, whole.rows, strict=True):
        for name in options["metrics"]:
            np.testing.assert_array_equal(one.measured[name].values, two.measured[name].values)
    more = judged(place, "gradient,lrp", **options)
    assert more["gradient"].seconds.values.tolist() == continued["gradient"].seconds.values.tolist()
    with pytest.raises(UsageError, match="belongs to another job"):
        judged(place, **{**options, "metrics": ["drop"]})


def test_a_picture_that_cannot_be_read(place: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((place / "pictures/0.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"no picture")
    model = onnxplain.load(place / "net.onnx", threads=1)
    found = onnxplain.evaluate(model, tmp_path, ["gradient"], ["drop"])
    assert list(found.skipped) == ["b.png"]
    assert np.isfinite(found["gradient"].measured["drop"].values).tolist() == [True, False]


def test_a_method_that_fails_on_a_picture(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxplain.methods.table import METHODS

    real, calls = METHODS["gradient"], []

    def sometimes(job: Any) -> Any:
        calls.append(job)
        if len(calls) == 2:
            raise FailureError("no gradient today")
        return real.explain(job)

    monkeypatch.setitem(METHODS, "gradient", replace(real, explain=sometimes))
    found = judged(place, "gradient", metrics=["drop"])
    assert found.notes[1:] == ("gradient failed on 1 of 5 pictures: no gradient today",)
    assert np.isfinite(found["gradient"].measured["drop"].values).tolist() == [True, False, True, True, True]
    assert np.isfinite(found["random"].measured["drop"].values).all()


def test_a_method_that_the_model_does_not_take(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxplain.methods.table import METHODS

    def never(job: Any) -> Any:
        raise UnsupportedError("op 'Mystery' has no gradient")

    monkeypatch.setitem(METHODS, "gradient", replace(METHODS["gradient"], explain=never))
    with pytest.raises(UnsupportedError, match=r"^gradient: op 'Mystery' has no gradient"):
        judged(place, "gradient", metrics=["drop"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"metrics": ["ebpg"]}, "'ebpg' needs to know where things are: give --boxes FILE or --masks DIR"),
        ({"metrics": ["accuracy"]}, "unknown measure 'accuracy'; there are ebpg"),
        ({"metrics": []}, "no measure was named"),
        ({"methods": "magic"}, "unknown method 'magic'; there are lrp"),
        ({"methods": "lrp,lrp"}, "'lrp' is named twice"),
        ({"options": {"gradient": {"mu": 1}}}, "'gradient' has no option 'mu'"),
        ({"options": {"rise": {"mu": 1}}}, "an option is given for 'rise', which is not among the methods"),
        ({"target": "purple"}, "target 'purple' is no class of output 'y', which has 0 to 2"),
        ({"target": "3"}, "target 3 stands for 3, which is no class"),
        ({"target": "truth"}, "needs classes: give --boxes FILE"),
        ({"score": "odds"}, "probability or logit"),
        ({"evidence": "all"}, "positive, absolute, signed"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"output": "z"}, "no output of the model"),
    ],
)
def test_what_is_asked_wrongly(place: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        judged(place, **{"methods": "gradient", **options})


def test_truth_that_does_not_belong(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not both"):
        judged(place, boxes=place / "boxes.csv", masks=place / "masks")
    (tmp_path / "boxes.csv").write_text(f"file,label,x1,y1,x2,y2\n0.png,cow,{BOX}")
    with pytest.raises(UsageError, match=r"none of the classes of .*boxes.csv \(cow\)"):
        judged(place, boxes=tmp_path / "boxes.csv")
    (tmp_path / "boxes.csv").write_text("file,label,x1,y1,x2,y2\n0.png,red,20,20,30,30")
    with pytest.raises(UsageError, match="lies outside the picture of 12 x 12"):
        judged(place, boxes=tmp_path / "boxes.csv", folder=tmp_path / "results")
    assert not (tmp_path / "results").exists()
