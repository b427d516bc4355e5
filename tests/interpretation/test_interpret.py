"""Interpretation end to end: forms of data sets, interruptions, what is wrong with data, and the file set."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.errors import FailureError, UsageError
from onnxplain.interpretation.result import Interpretation

CLASSES = 3
Samples = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def net() -> bytes:
    """Filter k sees channel k; the class is the channel that shines."""
    rng = np.random.default_rng(0)
    kernels = np.zeros((6, 3, 3, 3))
    kernels[range(3), range(3), 1, 1] = 1
    kernels[3:] = rng.standard_normal((3, 3, 3, 3)) * 0.1
    return nets.model(
        [
            nets.node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]),
            nets.node("Relu", ["c"], "r"),
            nets.node("GlobalAveragePool", ["r"], "g"),
            nets.node("Flatten", ["g"], "f"),
            nets.node("Gemm", ["f", "v"], "y"),
        ],
        {"x": ["N", 3, 8, 8]},
        constants={"w": kernels, "v": np.eye(6)[:, :3]},
    )


@pytest.fixture(scope="module")
def samples() -> Samples:
    rng = np.random.default_rng(1)
    labels = np.sort(np.arange(45) % CLASSES)
    x = np.abs(rng.standard_normal((45, 3, 8, 8))).astype(np.float32) * 0.3
    for sample, label in zip(x, labels, strict=True):
        sample[label] += rng.uniform(0.5, 2)
    return x, labels


@pytest.fixture(scope="module")
def npz(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "samples.npz"
    np.savez(path, x=samples[0], labels=samples[1])
    return path


def equal(a: Interpretation, b: Interpretation) -> bool:
    arrays = (np.array_equal(getattr(a, name), getattr(b, name)) for name in Interpretation._ARRAYS)
    return all(arrays) and (a.filters, a.classes, a.digest) == (b.filters, b.classes, b.digest)


def test_the_filter_of_each_class_is_found_in_every_form_of_the_data_set(
    net: bytes, npz: Path, samples: Samples, tmp_path: Path
) -> None:
    x, labels = samples
    lines = ["file,label"]
    for row, (sample, label) in enumerate(zip(x, labels, strict=True)):
        file = tmp_path / "folder" / str(label) / f"{row:03}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, sample[None])
        lines.append(f"folder/{label}/{row:03}.npy,{label}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    forms = [
        onnxplain.interpret(net, form, labels="given") for form in (npz, tmp_path / "folder", tmp_path / "list.csv")
    ]
    for index in range(CLASSES):
        tensor, channel, weight = forms[0].features[index][0]
        assert (tensor in ("c", "r", "g"), channel, weight > 1) == (True, index, True)
        weights = [feature.weight for feature in forms[0].features[index]]
        assert weights == sorted(weights, reverse=True)
    assert equal(forms[0], forms[1])
    assert equal(forms[0], forms[2])
    predicted = onnxplain.interpret(net, npz)
    assert predicted.features[1] == forms[0].features[1]


def test_kept_responses_serve_other_bounds_and_labels(net: bytes, npz: Path, tmp_path: Path) -> None:
    told: list[int] = []
    onnxplain.interpret(net, npz, folder=tmp_path, progress=lambda done, total: told.append(done))
    written = (tmp_path / "journal.jsonl").read_bytes()
    names = tmp_path / "names.txt"
    names.write_text("rose\ntulip\naster\n")
    again = onnxplain.interpret(net, npz, mu=0.5, labels="given", class_names=str(names), folder=tmp_path)
    assert told == [16, 32, 45]
    assert (tmp_path / "journal.jsonl").read_bytes() == written
    assert again.classes[0].bounded
    assert sum(feature.weight for feature in again.features["rose"]) == pytest.approx(0.5)
    with pytest.raises(UsageError, match=r"belongs to another job \(layers"):
        onnxplain.interpret(net, npz, layers="conv", folder=tmp_path)


SLOW = """
import sys, time
import onnxplain
from onnxplain.interpretation.store import ResponseStore
add = ResponseStore.add
def slow(self, *arguments):
    add(self, *arguments)
    print("added", flush=True)
    time.sleep(float(sys.argv[4]))
ResponseStore.add = slow
onnxplain.interpret(sys.argv[1], sys.argv[2], folder=sys.argv[3])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_and_restarted_is_the_same(net: bytes, npz: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(net)
    work = tmp_path / "work"
    arguments = [sys.executable, "-c", SLOW, str(tmp_path / "net.onnx"), str(npz), str(work), "60"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "added\n"
        os.kill(process.pid, signal.SIGKILL)
    lines = (work / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 17
    (work / "journal.jsonl").write_bytes(b"".join(lines[:11]) + lines[11][:9])  # killed while a line was written
    resumed = onnxplain.interpret(tmp_path / "net.onnx", npz, folder=work)
    assert equal(resumed, onnxplain.interpret(net, npz))
    assert len((work / "journal.jsonl").read_bytes().splitlines()) == 46


def test_a_broken_sample_is_skipped_and_named(net: bytes, samples: Samples, tmp_path: Path) -> None:
    for row, label in enumerate(samples[1]):
        file = tmp_path / "data" / str(label) / f"{row:03}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, samples[0][row, None])
    (tmp_path / "data" / "1" / "020.npy").write_bytes(b"\x93NUMPY broken")
    nan = np.full((1, 3, 8, 8), np.nan, np.float32)
    np.save(tmp_path / "data" / "2" / "030.npy", nan)
    found = onnxplain.interpret(net, tmp_path / "data", folder=tmp_path / "work")
    assert [identity for identity, _ in found.skipped] == ["1/020.npy", "2/030.npy"]
    assert "NaN" in found.skipped[1][1]
    assert [entry.samples for entry in found.classes] == [15, 14, 14]
    assert any("2 samples skipped" in note for note in found.notes)
    assert equal(found, onnxplain.interpret(net, tmp_path / "data", folder=tmp_path / "work"))
    for file in (tmp_path / "data").rglob("*.npy"):
        file.write_bytes(b"")
    with pytest.raises(FailureError, match=r"no sample of .* can be read; 0/000.npy: .* is not a sound .npy file"):
        onnxplain.interpret(net, tmp_path / "data")


def test_classes_without_samples_one_class_and_nothing_to_see(net: bytes, samples: Samples, tmp_path: Path) -> None:
    x, labels = samples
    np.savez(tmp_path / "two.npz", x=x[labels < 2], labels=labels[labels < 2])
    found = onnxplain.interpret(net, tmp_path / "two.npz", labels="given")
    assert found.features[2] == []
    assert any("1 of 3 classes have no sample" in note for note in found.notes)
    np.savez(tmp_path / "one.npz", x=x[:5])
    found = onnxplain.interpret(net, tmp_path / "one.npz")
    assert any("one class" in note for note in found.notes)
    np.savez(tmp_path / "dark.npz", x=np.zeros_like(x[:4]))
    found = onnxplain.interpret(net, tmp_path / "dark.npz")
    assert found.features[0] == []
    assert found.relevant.size == 0
    assert any("no relevant features for class 0" in note for note in found.notes)


def test_wrong_requests_are_answered(net: bytes, npz: Path, samples: Samples, tmp_path: Path) -> None:
    np.savez(tmp_path / "named.npz", x=samples[0][:2], labels=np.array(["rose", "tulip"]))
    np.savez(tmp_path / "beyond.npz", x=samples[0][:2], labels=np.array([0, 3]))
    np.savez(tmp_path / "none.npz", x=samples[0][:2])
    np.savez(tmp_path / "other.npz", z=samples[0][:2], labels=samples[1][:2])
    for name, said in (
        ("named", r"label 'rose' .* is no class of the model, which has 3 classes and no names"),
        ("beyond", r"label '3' .* is no class"),
        ("none", "has no labels; labels='predicted' needs none"),
        ("other", "no sample of .* can be read; 0: .*'z'"),
    ):
        with pytest.raises(UsageError, match=said):
            onnxplain.interpret(net, tmp_path / f"{name}.npz", labels="given")
    for options, said in (
        ({"mu": 0}, "mu must be above 0"),
        ({"labels": "true"}, "predicted or given"),
        ({"top": 0}, "top must be at least 1"),
    ):
        with pytest.raises(UsageError, match=said):
            onnxplain.interpret(net, npz, **options)  # type: ignore[arg-type]


@pytest.fixture
def written(net: bytes, npz: Path, tmp_path: Path) -> Path:
    onnxplain.interpret(net, npz).save(tmp_path / "written")
    return tmp_path / "written"


def test_what_was_saved_comes_back_and_is_refused_for_another_model(net: bytes, npz: Path, written: Path) -> None:
    model = onnxplain.load(net)
    loaded = Interpretation.load(written, model)
    fresh = onnxplain.interpret(model, npz)
    assert equal(loaded, fresh)
    assert loaded.features[2] == fresh.features[2]
    assert loaded.features == fresh.features
    assert loaded.top_samples.shape == loaded.top_responses.shape == (len(loaded.relevant), 45)
    other = nets.model([nets.node("Relu", ["x"], "y")], {"x": ["N", 3, 8, 8]})
    with pytest.raises(UsageError, match="belongs to another model than the model; run 'onnxplain interpret'"):
        Interpretation.load(written, onnxplain.load(other))


def test_no_bound_is_written_as_json_has_it(net: bytes, npz: Path, tmp_path: Path) -> None:
    onnxplain.interpret(net, npz, mu=np.inf).save(tmp_path / "free")
    text = (tmp_path / "free" / "interpretation.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["settings"]["mu"] is None


def without(key: str) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "interpretation.json").read_text())
        del content[key]
        (folder / "interpretation.json").write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda folder: (folder / "arrays.npz").unlink(), UsageError, "arrays.npz is missing"),
        (lambda folder: (folder / "arrays.npz").write_bytes(b"PK"), FailureError, "cannot be read"),
        (lambda folder: (folder / "interpretation.json").write_text("{"), FailureError, "cannot be read"),
        (without("layers"), FailureError, "lacks or misplaces 'layers'"),
        (without("schema"), FailureError, "schema None is not"),
    ],
)
def test_a_damaged_interpretation_is_told(
    written: Path, damage: Callable[[Path], object], error: type[Exception], said: str
) -> None:
    damage(written)
    with pytest.raises(error, match=said):
        Interpretation.load(written)


def test_equal_weights_stand_in_the_order_of_the_graph(written: Path) -> None:
    found = Interpretation.load(written)
    assert [dataclasses.asdict(entry)["index"] for entry in found.classes] == [0, 1, 2]
    from onnxplain.interpretation.result import ranked

    index, weight = ranked(np.array([7, 2, 5]), np.array([1.0, 1.0, 2.0]))
    assert (index.tolist(), weight.tolist()) == ([5, 2, 7], [2.0, 1.0, 1.0])
