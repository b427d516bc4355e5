from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.npz import members


def _archive(path: Path, **contents: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(f"{name}.npy", content)
    return path


def _stored(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_whole_and_by_rows(tmp_path: Path, save: object) -> None:
    arrays = {
        "x": np.arange(12, dtype=">f4").reshape(3, 2, 2),
        "names": np.array(["é", "bc"]),
        "half": np.ones(2, np.float16),
        "scalar": np.array(7),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "empty": np.zeros((0, 4)),
    }
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    found = members(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found[name].read(), array)
    np.testing.assert_array_equal(np.stack(list(found["x"].rows())), arrays["x"])
    assert list(found["empty"].rows()) == []
    with pytest.raises(UsageError, match="Fortran"):
        next(found["columns"].rows())


def test_a_claimed_size_is_not_trusted(tmp_path: Path) -> None:
    honest = _stored(np.zeros(4))
    huge = honest.replace(b"(4,), }        ", b"(10000000000,),}")[: len(honest)]
    assert b"10000000000" in huge
    with pytest.raises(FailureError, match=r"claims shape \(10000000000,\)"):
        members(_archive(tmp_path / "a.npz", x=huge))


def test_damage_is_named(tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.npz", x=_stored(np.random.default_rng(0).normal(size=4000)))
    content = bytearray(path.read_bytes())
    content[5000] ^= 0xFF
    path.write_bytes(content)
    member = members(path)["x"]
    with pytest.raises(FailureError, match="'x' cannot be read"):
        member.read()
    with pytest.raises(FailureError, match="'x' cannot be read"):
        list(member.rows())


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x09\x00"])
def test_what_is_no_array(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FailureError, match="'x' cannot be read"):
        members(_archive(tmp_path / "a.npz", x=content))


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(FailureError, match=r"a\.npz cannot be read"):
        members(tmp_path / "a.npz")
    with pytest.raises(UsageError, match="not a file"):
        members(tmp_path / "none.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("notes.txt", "text")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        members(tmp_path / "b.npz")


def test_objects_are_refused_unread(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match="Python objects"):
        members(tmp_path / "a.npz")
