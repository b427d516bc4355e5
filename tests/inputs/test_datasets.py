from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.datasets import Dataset, read_dataset


def _files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def _csv(root: Path, text: str) -> Path:
    (root / "set.csv").write_text(text)
    return root / "set.csv"


def _npz(root: Path, **arrays: object) -> Path:
    np.savez_compressed(root / "set.npz", **arrays)  # type: ignore[arg-type]
    return root / "set.npz"


def _named(dataset: Dataset) -> list[tuple[str, str | None]]:
    return [(r.id, None if r.label is None else dataset.class_names[r.label]) for r in dataset]


def test_folder_of_classes(tmp_path: Path) -> None:
    root = _files(tmp_path, "dog/b.PNG", "dog/a.jpg", "cat/deep/z.npy", "cat/y.webp", "cat/notes.txt", "README.md")
    _files(tmp_path, ".git/x.png", "cat/.hidden.png", "dog/.thumbs/a.png")
    dataset = read_dataset(root)
    expected = [("cat/deep/z.npy", "cat"), ("cat/y.webp", "cat"), ("dog/a.jpg", "dog"), ("dog/b.PNG", "dog")]
    assert _named(dataset) == expected
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset) == 4
    assert dataset.ignored == ("README.md", "cat/notes.txt")
    assert [r.path.read_bytes().decode() for r in dataset if r.path] == [name for name, _ in expected]


def test_numbered_classes_stand_in_their_order(tmp_path: Path) -> None:
    dataset = read_dataset(_files(tmp_path, "10/a.png", "9/a.png", "other/a.png", "0/a.png"))
    assert dataset.class_names == ("0", "9", "10", "other")
    assert dataset.labels == (0, 1, 2, 3)


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    _files(tmp_path, "store/cat1/a.png", "set/dog/b.png")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "store" / "cat1")
    (tmp_path / "set" / "dog" / "loop").symlink_to(tmp_path / "set")
    assert _named(read_dataset(tmp_path / "set")) == [("cat/a.png", "cat"), ("dog/b.png", "dog")]


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    dataset = read_dataset(_files(tmp_path, "b.png", "a.png"))
    assert _named(dataset) == [("a.png", None), ("b.png", None)]
    assert dataset.class_names == ()


def test_csv_keeps_its_order(tmp_path: Path) -> None:
    _files(tmp_path, "x/b.png", "a, b.png", "c.bin")
    dataset = read_dataset(_csv(tmp_path, 'label,note,FILE\ndog,,x/b.png\ncat,1,"a, b.png"\n\ndog,,c.bin\n'))
    assert _named(dataset) == [("x/b.png", "dog"), ("a, b.png", "cat"), ("c.bin", "dog")]
    assert [r.path for r in dataset] == [tmp_path / "x/b.png", tmp_path / "a, b.png", tmp_path / "c.bin"]
    assert _named(read_dataset(_csv(tmp_path, "file\nc.bin\n"))) == [("c.bin", None)]


@pytest.mark.parametrize("labels", [np.array([7, 0, 10], np.uint8), np.array(["7", "0", "10"])])
def test_npz_gives_one_sample_with_a_batch_axis(tmp_path: Path, labels: np.ndarray) -> None:
    x, y = np.arange(24, dtype=np.float32).reshape(3, 2, 4), np.array([1, 2, 3])
    dataset = read_dataset(_npz(tmp_path, x=x, labels=labels, y=y))
    assert _named(dataset) == [("0", "7"), ("1", "0"), ("2", "10")]
    assert dataset.class_names == ("0", "7", "10")
    for row, record in enumerate(dataset):
        assert record.path is None
        assert record.arrays is not None
        assert list(record.arrays) == ["x", "y"]
        np.testing.assert_array_equal(record.arrays["x"], x[row : row + 1])
        np.testing.assert_array_equal(record.arrays["y"], y[row : row + 1])
        assert record.arrays["x"].dtype == np.float32


def test_npz_without_labels(tmp_path: Path) -> None:
    dataset = read_dataset(_npz(tmp_path, x=np.zeros((2, 3))))
    assert _named(dataset) == [("0", None), ("1", None)]


def test_npz_streams(tmp_path: Path) -> None:
    dataset = read_dataset(_npz(tmp_path, x=np.zeros((400, 100_000), np.uint8)))
    tracemalloc.start()
    assert sum(1 for _ in dataset) == 400
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # the array takes 40 MB


def test_three_forms_of_one_data_set_agree(tmp_path: Path) -> None:
    pixels = np.arange(8.0).reshape(4, 2)
    names = ["0/a.npy", "0/b.npy", "2/a.npy", "10/a.npy"]
    for name, values in zip(names, pixels, strict=True):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "set" / name, values)
    labels = [name.split("/")[0] for name in names]
    lines = [f"set/{name},{label}" for name, label in zip(names, labels, strict=True)]
    forms = [
        read_dataset(tmp_path / "set"),
        read_dataset(_csv(tmp_path, "\n".join(["file,label", *lines]))),
        read_dataset(_npz(tmp_path, x=pixels, labels=[int(label) for label in labels])),
    ]
    assert {(form.class_names, form.labels) for form in forms} == {(("0", "2", "10"), (0, 0, 1, 2))}


def test_a_data_set_can_be_read_twice_and_has_a_fingerprint(tmp_path: Path) -> None:
    root = _files(tmp_path, "cat/a.png", "dog/b.png")
    dataset = read_dataset(root)
    assert list(dataset) == list(dataset)
    assert dataset.fingerprint == read_dataset(root).fingerprint
    before = dataset.fingerprint
    (root / "dog/b.png").rename(root / "cat/b.png")
    _files(root, "dog/c.png")
    assert read_dataset(root).fingerprint != before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label\n1\n", "no column 'file'"),
        ("file,label,class\na.png,1,1\n", "2 column 'label'"),
        ("file,label\na.png\n", "line 2: 1 values for the 2 columns"),
        ("file,label\na.png,x\nnone.png,x\n", "line 3: there is no file 'none.png'"),
        ("file,label\na.png,x\na.png,y\n", "line 3: 'a.png' is listed before, in .*line 2"),
        ("file,label\na.png,\n", "line 2: 'a.png' has no label"),
        ("file,label\n", "holds no sample"),
        ("", "no column 'file'"),
    ],
)
def test_csv_that_is_refused(tmp_path: Path, text: str, words: str) -> None:
    _files(tmp_path, "a.png")
    with pytest.raises(UsageError, match=words):
        read_dataset(_csv(tmp_path, text))


def test_csv_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(b"file\n\xff\xfe")
    with pytest.raises(FailureError, match="UTF-8"):
        read_dataset(tmp_path / "set.csv")
    with pytest.raises(FailureError, match="line 2: not CSV"):
        read_dataset(_csv(tmp_path, "file\n" + "a" * 200_000))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": [1, 2]}, "no array of samples"),
        ({"x": np.zeros((3, 2)), "labels": [1, 2]}, "2 labels, but arrays of {'x': 3} samples"),
        ({"x": np.zeros((3, 2)), "y": np.zeros((2, 2))}, "'x': 3, 'y': 2"),
        ({"x": np.zeros((2, 2)), "labels": [0.5, 1]}, "float64"),
        ({"x": np.zeros((2, 2)), "labels": np.eye(2, dtype=int)}, r"shape \(2, 2\)"),
        ({"x": np.array([None, 1]), "labels": [0, 1]}, "Python objects"),
        ({"x": np.zeros((0, 2))}, "no sample"),
        ({"x": np.float32(1)}, "no sample"),
    ],
)
def test_npz_that_is_refused(tmp_path: Path, arrays: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_dataset(_npz(tmp_path, **arrays))


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sample"):
        read_dataset(tmp_path)
    _files(tmp_path, "cat/a.png", "dog/notes.txt")
    with pytest.raises(UsageError, match="class folder 'dog' holds no input"):
        read_dataset(tmp_path)
    _files(tmp_path, "dog/a.png", "stray.png")
    with pytest.raises(UsageError, match=r"stray\.png.* beside class folders \(cat\)"):
        read_dataset(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        read_dataset(tmp_path / "none")
    with pytest.raises(UsageError, match="no data set"):
        read_dataset(tmp_path / "stray.png")
