"""The journal of a long job: what is done stays done, however the job ends.

One UTF-8 text file. Its first line names the job, every further line is one finished record, both as JSON; arrays are
stored inside as base64 of their .npy form. A record is on the disk before `Journal.append` returns.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxplain.errors import FailureError, UsageError
from onnxplain.files import Opened, write_whole, written

_FORMAT = "onnxplain.journal/1"
_ARRAY = "__npy__"


class Journal(Opened):
    """Append-only record of finished samples, resumed after an interruption.

    Killing the process at any moment loses no record that was appended and doubles none: a last line that was cut off
    is dropped when the file is opened again, and its sample is not in the journal.

    Parameters
    ----------
    path : str or Path
        The file; made, with its folder, if it does not exist.
    job : mapping of JSON values
        What the records depend on: model hash, data set, options. A journal is resumed for an equal job only.

    Raises
    ------
    UsageError
        The file belongs to another job, is no journal, or another process has it open.
    FailureError
        The file is damaged before its last line, or cannot be read or written.

    Examples
    --------
    >>> with Journal(folder / "journal.jsonl", {"model": digest, "method": "lrp"}) as journal:
    ...     for record in dataset:
    ...         if record.id not in journal:
    ...             journal.append(record.id, {"score": score(record)})
    """

    def __init__(self, path: str | Path, job: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._places: dict[str, int] = {}
        self._end = 0
        with ExitStack() as opened:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = opened.enter_context(open(self.path, "ab", buffering=0))
                _lock(self._file, self.path)
                with open(self.path, "rb") as written:
                    self._resume(written, _line({"format": _FORMAT, "job": job}))
                self._reader = opened.enter_context(open(self.path, "rb"))
            except OSError as error:
                raise FailureError(f"{self.path} cannot be used as a journal: {error.strerror}") from error
            super().__init__(opened.pop_all())

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        """Keys in the order of appending."""
        return iter(self._places)

    def __getitem__(self, key: str) -> dict[str, Any]:
        self._reader.seek(self._places[key])
        record: dict[str, Any] = json.loads(self._reader.readline(), object_hook=_restore)["record"]
        return record

    def append(self, key: str, record: Mapping[str, Any]) -> None:
        """Add a finished record and wait until the disk has it.

        Parameters
        ----------
        key : str
            Identifies the sample; each key is appended once.
        record : mapping
            JSON values, numpy numbers and small arrays of numbers or text.

        Raises
        ------
        ValueError
            The key is in the journal already.
        FailureError
            The disk refuses; the journal is as before.
        """
        if key in self._places:
            raise ValueError(f"{key!r} is in {self.path} already")
        line, place = _line({"key": key, "record": record}), self._end
        with written(self.path):
            try:
                self._write(line)
                self._places[key] = place
            except BaseException:
                self._file.truncate(place)
                self._end = place
                raise

    def _write(self, line: bytes) -> None:
        write_whole(self._file, line)
        os.fsync(self._file.fileno())
        self._end += len(line)

    def _resume(self, written: IO[bytes], header: bytes) -> None:
        """Take over the records that stand in the file, or begin it."""
        first = written.readline()
        if header.startswith(first) and first != header:  # new, or ended while its header was written
            self._file.truncate(0)
            self._write(header)
            _sync_folder(self.path.parent)
            return
        if first != header:
            raise UsageError(f"{self.path} {_other_job(first, header)}; continue that job or name another folder")
        self._end = len(first)
        for line in written:
            key = _key(line)
            if key is None or key in self._places:
                break
            self._places[key] = self._end
            self._end += len(line)
        if written.read(1):
            raise FailureError(f"{self.path} is damaged at byte {self._end}; restore it or remove it and start again")
        self._file.truncate(self._end)


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, default=_portable, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _key(line: bytes) -> str | None:
    """Key of a whole record; None for a line that was cut off."""
    try:
        return str(json.loads(line)["key"]) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None


def _portable(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        stored = io.BytesIO()
        np.save(stored, value, allow_pickle=False)
        return {_ARRAY: base64.b64encode(stored.getvalue()).decode()}
    raise TypeError(f"a journal holds JSON values, numbers and arrays, not {type(value).__name__}")


def _restore(entry: dict[str, Any]) -> Any:
    return np.load(io.BytesIO(base64.b64decode(entry[_ARRAY])), allow_pickle=False) if _ARRAY in entry else entry


def _other_job(first: bytes, header: bytes) -> str:
    try:
        found = json.loads(first)
        if found["format"] != _FORMAT:
            return f"is a journal of another version, {found['format']}"
        keys: list[str] = []
        there, here = found["job"], json.loads(header)["job"]
        while isinstance(there, dict) and isinstance(here, dict):
            key = min(key for key in there | here if there.get(key) != here.get(key))
            there, here, keys = there.get(key), here.get(key), [*keys, key]
    except (ValueError, KeyError, TypeError):
        return "is not a journal"
    return f"belongs to another job ({' '.join(keys)} is {there!r} there and {here!r} here)"


def _lock(file: IO[bytes], path: Path) -> None:
    """Keep a second process out; the system releases the lock with the process, however that ends."""
    if sys.platform != "win32":  # Windows has no lock that leaves the file readable
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{path} is in use by another process; wait for it or name another folder") from None


def _sync_folder(folder: Path) -> None:
    """Put the folder's entry for a new file on the disk."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
