"""Files that appear whole or not at all, and what libraries say behind Python's back."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Self

from onnxplain.errors import FailureError

_HIDDEN = ".onnxplain-"


class Opened:
    """Files that stay open until :meth:`close`, or the end of a ``with`` block.

    Parameters
    ----------
    files : ExitStack
        Closes them.
    """

    def __init__(self, files: ExitStack) -> None:
        self._opened = files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; another process may continue."""
        self._opened.close()


@contextmanager
def atomic_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Collect files in a hidden folder on the same disk and move them to ``folder`` once all are written.

    Files of the same name are replaced, others in ``folder`` stay. If the block raises (Ctrl-C and a full disk
    included), ``folder`` is as it was.

    Parameters
    ----------
    folder : path
        Made, with its parents, if it does not exist.

    Yields
    ------
    pathlib.Path
        Where to write.

    Raises
    ------
    FailureError
        The disk refuses.
    """
    with written(folder), _collected(Path(folder)) as made:
        yield made


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a hidden name and rename it when it is complete.

    Parameters
    ----------
    path : path
        Its folder is made if it does not exist.

    Yields
    ------
    pathlib.Path
        Where to write, in a hidden folder; every file written there is moved.

    Raises
    ------
    FailureError
        The disk refuses.
    """
    target = Path(path)
    with written(target), _collected(target.parent) as folder:
        yield folder / target.name


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the system refuses in the block is a failure to write ``path``.

    Where ``path`` is in the hidden folder of an :func:`atomic_folder`, that one tells: it knows where the files go.

    Raises
    ------
    FailureError
    """
    try:
        yield
    except OSError as error:
        if any(part.startswith(_HIDDEN) for part in Path(path).parts):
            raise
        raise FailureError(f"{path} cannot be written: {error.strerror or error}") from error


def write_whole(file: IO[bytes], data: bytes) -> None:
    """Write all of ``data`` to an unbuffered file, which may take less at once when the disk is nearly full."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def reserve(file: IO[bytes], size: int) -> None:
    """Give a file its size in bytes, and the blocks for it: memory mapped from a hole is fatal on a full disk.

    Raises
    ------
    OSError
        The disk is full; where the system cannot reserve blocks, that shows only when they are written.
    """
    file.truncate(size)
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)


@contextmanager
def captured_stderr() -> Iterator[Callable[[], list[str]]]:
    """What C libraries write on file descriptor 2, kept off the terminal; the yielded function gives it afterwards."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        lines: list[str] = []
        try:
            yield lambda: lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines.extend(file.read().decode(errors="replace").splitlines())


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Make sure that results can be written, before any work is done for them.

    Parameters
    ----------
    folder : path
        It need not exist; nothing is made.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FailureError
        If it, or the nearest parent that exists, is no folder or not writable.
    """
    path = Path(folder)
    existing = _nearest(path)
    if not existing.is_dir():
        raise FailureError(_refused(folder, f"{existing} is a file"))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise FailureError(_refused(folder, f"{existing} is not writable"))
    return path


def _refused(folder: str | os.PathLike[str], reason: str) -> str:
    return f"{folder}: cannot write there, {reason}; name another folder with -o"


@contextmanager
def _collected(target: Path) -> Iterator[Path]:
    made = _nearest(target) / f"{_HIDDEN}{uuid.uuid4().hex}"
    try:
        made.mkdir()
    except OSError as error:
        raise FailureError(_refused(target, f"{made.parent} refuses new files ({error.strerror})")) from error
    try:
        yield made
        if target.is_dir():
            for file in made.iterdir():
                os.replace(file, target / file.name)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _nearest(path: Path) -> Path:
    """The path itself or its nearest parent that exists."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
