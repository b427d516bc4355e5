"""Data sets: folders of classes, a CSV of files and labels, an .npz of arrays and labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.npz import Member, members
from onnxplain.inputs.text import csv_rows

LABELS = "labels"

_SPELLINGS = {"image": "file", "filename": "file", "class": "label"}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".npz")


@dataclass(frozen=True)
class Record:
    """One sample of a data set.

    Attributes
    ----------
    id : str
        Unique in the data set and the same in every reading: relative path, the CSV's `file`, or row of the .npz.
    label : int or None
        Index into the data set's class names; None where the data set has no labels.
    path : Path or None
        File to decode.
    arrays : mapping of str to array, or None
        Model-ready arrays by input name, each with a batch axis of one, where the data set is an .npz.
    """

    id: str
    label: int | None
    path: Path | None = None
    arrays: Mapping[str, NDArray[Any]] | None = None


@dataclass(frozen=True)
class Dataset:
    """A data set in a fixed order; iterating yields `Record` s and decodes nothing ahead.

    Attributes
    ----------
    source : Path
        Folder, CSV or .npz file.
    ids : tuple of str
        Ids of the records in order.
    labels : tuple of int or None
        Label of every record.
    class_names : tuple of str
        Names of the labels: numbers in their order first, then names in theirs; empty without labels.
    ignored : tuple of str
        Files of a folder that are no input.
    """

    source: Path
    ids: tuple[str, ...]
    labels: tuple[int | None, ...]
    class_names: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    _arrays: Mapping[str, Member] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Record]:
        if not self._arrays:
            root = self.source if self.source.is_dir() else self.source.parent
            for identity, label in zip(self.ids, self.labels, strict=True):
                yield Record(identity, label, path=root / identity)
            return
        samples = zip(*(member.rows() for member in self._arrays.values()), strict=True)
        for identity, label, sample in zip(self.ids, self.labels, samples, strict=True):
            arrays = {name: array[np.newaxis] for name, array in zip(self._arrays, sample, strict=True)}
            yield Record(identity, label, arrays=arrays)

    @property
    def holds_arrays(self) -> bool:
        """Whether the samples are arrays of one file."""
        return bool(self._arrays)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the data set consists of (ids, labels, class names), for a journal to be pinned to."""
        content = repr((self.ids, self.labels, self.class_names))
        return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def read_dataset(path: str | Path) -> Dataset:
    """Open a data set; the files themselves are read when the data set is iterated.

    - A folder with one folder per class: everything below ``cat/`` is a ``cat``. Hidden files are passed over, files
      that are no input are listed in `Dataset.ignored`. A folder of files without folders has no labels.
    - A ``.csv`` with the columns ``file`` (relative to the CSV) and, unless there are no labels, ``label``.
    - An ``.npz`` with one array per model input, samples along the first axis, and ``labels``, unless there are none.

    Parameters
    ----------
    path : str or Path
        Folder, .csv or .npz.

    Raises
    ------
    UsageError
        Missing or other file, no sample, an empty class folder, files beside class folders, a listed file that is
        missing or listed twice, arrays of different length, labels that are neither whole numbers nor text.
    FailureError
        The folder or file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist; give a folder of class folders, a .csv or an .npz file")
    match path.suffix.lower():
        case ".csv":
            return _read_csv(path)
        case ".npz":
            return _read_npz(path)
    raise UsageError(f"{path} is no data set; give a folder of class folders, a .csv or an .npz file")


def _read_folder(root: Path) -> Dataset:
    beside, ignored = _inputs(root, root, deep=False)
    folders = _in_order(entry.name for entry in root.iterdir() if entry.is_dir() and not _hidden(entry.name))
    if folders and beside:
        raise UsageError(f"{root} holds files ({beside[0]}) beside class folders ({folders[0]}); move them into one")
    ids = list(beside)
    labels: list[str | None] = [None] * len(beside)
    for name in folders:
        found, others = _inputs(root, root / name)
        if not found:
            raise UsageError(f"{root}: class folder {name!r} holds no input ({', '.join(_SUFFIXES)})")
        ids += found
        labels += [name] * len(found)
        ignored += others
    return _dataset(root, ids, labels, ignored=ignored)


def _inputs(root: Path, folder: Path, *, deep: bool = True) -> tuple[list[str], list[str]]:
    """Files below a folder that are inputs and those that are not, both sorted and relative to the root."""
    found: list[str] = []
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if deep and not _hidden(name)]
        found += [Path(place, name).relative_to(root).as_posix() for name in files if not _hidden(name)]
    inputs = sorted(file for file in found if file.lower().endswith(_SUFFIXES))
    return inputs, sorted(set(found).difference(inputs))


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _refuse(error: OSError) -> None:
    raise FailureError(f"{error.filename} cannot be read: {error.strerror}") from error


def _read_csv(path: Path) -> Dataset:
    places: dict[str, str] = {}
    labels: list[str | None] = []
    for where, row in csv_rows(path, _SPELLINGS, ["file"]):
        file, label = row["file"], row.get("label")
        if file in places:
            raise UsageError(f"{where}: {file!r} is listed before, in {places[file]}; list every file once")
        if not (path.parent / file).is_file():
            raise UsageError(f"{where}: there is no file {file!r} in {path.parent}")
        if label == "":
            raise UsageError(f"{where}: {file!r} has no label; give every file one or leave out the column")
        places[file] = where
        labels.append(label)
    return _dataset(path, list(places), labels)


def _read_npz(path: Path) -> Dataset:
    arrays = dict(members(path))
    given = arrays.pop(LABELS, None)
    if not arrays:
        raise UsageError(f"{path} has no array of samples; it takes one per model input besides {LABELS!r}")
    lengths = {name: member.shape[0] if member.shape else 0 for name, member in arrays.items()}
    count = next(iter(lengths.values()))
    labels = [None] * count if given is None else _npz_labels(path, given)
    if len({*lengths.values(), len(labels)}) > 1:
        raise UsageError(f"{path}: {len(labels)} labels, but arrays of {lengths} samples")
    return _dataset(path, [str(row) for row in range(count)], labels, arrays=arrays)


def _npz_labels(path: Path, member: Member) -> list[str | None]:
    if len(member.shape) != 1 or member.dtype.kind not in "iuU":
        kind = f"shape {member.shape}, {member.dtype}"
        raise UsageError(f"{path}: {LABELS!r} has {kind}; it takes one whole number or name per sample")
    return [str(label) for label in member.read().tolist()]


def _dataset(
    source: Path,
    ids: Sequence[str],
    labels: Sequence[str | None],
    *,
    ignored: Sequence[str] = (),
    arrays: Mapping[str, Member] | None = None,
) -> Dataset:
    if not ids:
        raise UsageError(f"{source} holds no sample ({', '.join(_SUFFIXES)})")
    names = _in_order({label for label in labels if label is not None})
    position = {name: index for index, name in enumerate(names)}
    indices = tuple(None if label is None else position[label] for label in labels)
    return Dataset(source, tuple(ids), indices, tuple(names), tuple(ignored), arrays or {})


def _in_order(names: Iterable[str]) -> list[str]:
    """Whole numbers by value, then names."""
    return sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
