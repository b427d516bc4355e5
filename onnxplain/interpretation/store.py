"""Responses of a data set on disk: one row per sample, and the journal that says which rows stand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.files import Opened, reserve, write_whole, written
from onnxplain.inputs.journal import Journal

_ROWS = "responses.f32"


class ResponseStore(Opened):
    """Rows of responses and the class predicted for each; what was added survives a kill at any moment.

    A row is on the disk before its entry in the journal is, so an entry without its row does not exist, and a row
    without an entry is written again.

    Parameters
    ----------
    folder : Path
        Holds ``responses.f32`` (samples x filters, little-endian float32, row by row) and ``journal.jsonl``.
    job : mapping of JSON values
        What the rows depend on.
    ids : sequence of str
        The samples in order.
    width : int
        Filters.

    Raises
    ------
    UsageError
        The folder belongs to another job.
    FailureError
        It cannot be written.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], ids: Sequence[str], width: int) -> None:
        self.ids = tuple(ids)
        self.width = width
        self._path = folder / _ROWS
        with ExitStack() as opened:
            self._journal = opened.enter_context(Journal(folder / "journal.jsonl", job))
            with written(self._path):
                mode = "r+b" if self._path.exists() else "w+b"
                self._rows = opened.enter_context(open(self._path, mode, buffering=0))
                reserve(self._rows, len(self.ids) * width * 4)
            super().__init__(opened.pop_all())

    def __contains__(self, row: int) -> bool:
        return self.ids[row] in self._journal

    def add(self, rows: Sequence[int], responses: np.ndarray, predicted: Sequence[int]) -> None:
        """Enter samples, those that stand already left alone."""
        new = [place for place, row in enumerate(rows) if row not in self]
        with written(self._path):
            for place in new:
                self._rows.seek(rows[place] * self.width * 4)
                write_whole(self._rows, responses[place].astype("<f4").tobytes())
            os.fsync(self._rows.fileno())
        for place in new:
            self._journal.append(self.ids[rows[place]], {"predicted": int(predicted[place])})

    def skip(self, row: int, reason: str) -> None:
        """Enter a sample that cannot be used."""
        if row not in self:
            self._journal.append(self.ids[row], {"skipped": reason})

    def responses(self) -> np.ndarray:
        """Samples x filters, mapped from the file."""
        if not self.ids or not self.width:
            return np.zeros((len(self.ids), self.width), np.float32)
        return np.memmap(self._path, "<f4", "r", shape=(len(self.ids), self.width))

    def entries(self) -> list[dict[str, Any]]:
        """What the journal says of every sample, in their order."""
        return [self._journal[identity] for identity in self.ids]
