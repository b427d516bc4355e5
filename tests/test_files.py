import errno
import io

import pytest

from onnxplain.errors import FailureError
from onnxplain.files import atomic_file, atomic_folder, check_writable, reserve, write_whole


def test_folder_appears_whole(tmp_path):
    target = tmp_path / "new" / "result"
    with atomic_folder(target) as folder:
        (folder / "a.txt").write_text("a")
        assert not target.exists()
    assert [file.name for file in target.iterdir()] == ["a.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_folder_keeps_what_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "a.txt").write_text("old")
    with atomic_folder(tmp_path) as folder:
        (folder / "a.txt").write_text("new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"mine.txt": "mine", "a.txt": "new"}


@pytest.mark.parametrize(("error", "seen"), [(KeyboardInterrupt, KeyboardInterrupt), (OSError, FailureError)])
@pytest.mark.parametrize("existing", [True, False])
def test_nothing_is_left_behind(tmp_path, error, seen, existing):
    target = tmp_path / "result"
    if existing:
        target.mkdir()

    def interrupted():
        with atomic_folder(target) as folder:
            (folder / "a.txt").write_text("half")
            raise error

    with pytest.raises(seen):
        interrupted()
    assert list(tmp_path.rglob("*")) == ([target] if existing else [])


def test_file(tmp_path):
    target = tmp_path / "deep" / "model.onnx"
    with atomic_file(target) as path:
        path.write_bytes(b"1")
        assert not target.exists()
    assert target.read_bytes() == b"1"
    assert [file.name for file in tmp_path.iterdir()] == ["deep"]


def test_a_folder_that_takes_no_new_files(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    said = r"result: cannot write there, .* refuses new files \(Permission denied\)"
    with pytest.raises(FailureError, match=said), atomic_folder(tmp_path / "result"):
        pass


def test_a_failure_names_where_the_file_was_to_be(tmp_path):
    def full():
        with atomic_folder(tmp_path / "result") as folder, atomic_file(folder / "a.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FailureError) as caught:
        full()
    assert str(caught.value) == f"{tmp_path / 'result'} cannot be written: No space left on device"


def test_write_whole():
    class Nearly(io.BytesIO):
        """Takes three bytes at once, as an unbuffered file may."""

        def write(self, data):
            return super().write(data[:3])

    file = Nearly()
    write_whole(file, b"0123456789")
    assert file.getvalue() == b"0123456789"


@pytest.mark.parametrize("size", [0, 70000])
def test_reserve(tmp_path, size):
    """The size changes, what stands in the file stays."""
    with open(tmp_path / "a", "w+b") as file:
        file.write(b"before")
        file.flush()
        reserve(file, size)
    assert (tmp_path / "a").read_bytes() == b"before".ljust(size, b"\0")[:size]


def test_check_writable(tmp_path):
    assert check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FailureError, match="is a file"):
        check_writable(file / "below")
    with pytest.raises(FailureError, match="is not writable"):
        check_writable("/proc/self/nothing")
