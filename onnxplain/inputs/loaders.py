"""What a user names on the command line (files, folders, globs) as feeds for a model."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.errors import FailureError, OnnxplainError, UsageError
from onnxplain.inputs.contract import MAX_PIXELS, InputContract, ModelView, discover
from onnxplain.inputs.datasets import Dataset, Record
from onnxplain.inputs.npz import BROKEN, members, read_header
from onnxplain.inputs.pictures import SUFFIXES, Geometry, Picture, prepare, read_picture

MAX_BYTES = 4 << 30
"""Largest array that is read."""

_ARRAYS = (".npy", ".npz")


@dataclass(frozen=True)
class Sample:
    """One input, ready for the model.

    Attributes
    ----------
    name : str
        Unique among the samples of a call; the stem of the file's name.
    path : Path
    feed : mapping of str to numpy.ndarray
        By input name, batch axis included.
    picture : Picture or None
        What a map is laid over; None for model-ready arrays.
    geometry : Geometry or None
        Where the model's window lies on the picture.
    """

    name: str
    path: Path
    feed: Mapping[str, np.ndarray]
    picture: Picture | None = None
    geometry: Geometry | None = None


@dataclass(frozen=True)
class Skipped:
    """An input that cannot be used; the caller reports it, or raises ``error``."""

    name: str
    path: Path
    error: OnnxplainError


def load_inputs(
    paths: Sequence[str | os.PathLike[str]],
    model: ModelView,
    contract: InputContract | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Sample | Skipped]:
    """Read inputs one at a time, in the order given, folders and globs by name.

    Parameters
    ----------
    paths : sequence of path
        Pictures, .npy and .npz files, folders of them (searched to the bottom, hidden files passed over), or globs.
    model : Model
    contract : InputContract, optional
        How pictures are prepared; without one only .npy and .npz files can be read.
    max_pixels : int
        Larger pictures are skipped.

    Returns
    -------
    iterator of Sample or Skipped
        Decoding happens while iterating.

    Raises
    ------
    UsageError
        At once: a path that does not exist, a folder or glob without inputs, pictures without a complete contract or
        for a model of several inputs.
    """
    files = find_inputs(paths)
    if any(file.suffix.lower() not in _ARRAYS for file in files):
        _check_pictures(model, contract)
    names = _unique_names(files)
    return (_load(name, file, model, contract, max_pixels) for name, file in zip(names, files, strict=True))


def load_record(record: Record, model: ModelView, contract: InputContract | None) -> Sample | Skipped:
    """Read one sample of a data set."""
    if record.path is not None:
        return _load(record.id, record.path, model, contract, MAX_PIXELS)
    try:
        return Sample(record.id, Path(record.id), model.check_feed(record.arrays or {}))
    except OnnxplainError as error:
        return Skipped(record.id, Path(record.id), error)


def contract_for(
    dataset: Dataset,
    model: ModelView,
    preprocess: str | Path | None = None,
    labels: str | Path | None = None,
    output_name: str | None = None,
) -> InputContract | None:
    """How the pictures of a data set are prepared; None where it holds arrays only and nothing tells.

    Raises
    ------
    UsageError
        The data set holds pictures and the contract is incomplete, or the model takes several inputs.
    """
    pictures = _holds_pictures(dataset)
    if not pictures and (labels is None and preprocess is None) and len(model.inputs) != 1:
        return None
    contract = discover(model, model.inputs[0].name, preprocess=preprocess, labels=labels, output_name=output_name)
    if pictures:
        _check_pictures(model, contract)
    return contract


def preparation(dataset: Dataset, contract: InputContract | None) -> tuple[str, ...]:
    """How the pictures of a data set are prepared, as a note; none where it holds arrays only."""
    return (contract.preparation,) if contract is not None and _holds_pictures(dataset) else ()


def _holds_pictures(dataset: Dataset) -> bool:
    return not dataset.holds_arrays and any(not identity.lower().endswith(_ARRAYS) for identity in dataset.ids)


def find_inputs(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files that paths, folders and globs stand for.

    Raises
    ------
    UsageError
        Nothing there.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files = _below(path)
            if not files:
                raise UsageError(f"{path} holds no input ({', '.join((*SUFFIXES, *_ARRAYS))})")
        elif path.exists():
            files = [path]
        else:
            files = sorted(Path(hit) for hit in glob.glob(str(path), recursive=True) if Path(hit).is_file())
            if not files:
                raise UsageError(f"{path}: there is no such file, folder or match")
        found += files
    if not found:
        raise UsageError("no input was given; name a picture, .npy or .npz file, a folder or a glob")
    return found


def _below(folder: Path) -> list[Path]:
    files: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.suffix.lower() in (*SUFFIXES, *_ARRAYS))


def _refuse(error: OSError) -> None:
    raise FailureError(f"{error.filename} cannot be read: {error.strerror}") from error


def _check_pictures(model: ModelView, contract: InputContract | None) -> None:
    if len(model.inputs) != 1:
        names = ", ".join(tensor.name for tensor in model.inputs)
        raise UsageError(f"a picture cannot fill the inputs {names}; give an .npz file with one array per input")
    if contract is None:
        raise UsageError("pictures need an input contract; without one, give .npy or .npz files")
    contract.check()


def _unique_names(files: Sequence[Path]) -> list[str]:
    """Stems; the second file of the same stem gets ``-2``, the third ``-3``."""
    taken = {file.stem for file in files}
    seen: set[str] = set()
    names: list[str] = []
    for file in files:
        name, count = file.stem, 2
        while name in seen or (name != file.stem and name in taken):
            name, count = f"{file.stem}-{count}", count + 1
        seen.add(name)
        names.append(name)
    return names


def _load(name: str, path: Path, model: ModelView, contract: InputContract | None, max_pixels: int) -> Sample | Skipped:
    try:
        if path.suffix.lower() in _ARRAYS:
            return Sample(name, path, read_arrays(path, model))
        assert contract is not None
        picture = read_picture(path, max_pixels)
        array, geometry = prepare(picture, contract)
        return Sample(name, path, model.check_feed({contract.input_name: array}), picture, geometry)
    except OnnxplainError as error:
        return Skipped(name, path, error)


def read_arrays(path: Path, model: ModelView, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """Model-ready arrays of an .npy or .npz file; no preprocessing touches them.

    Raises
    ------
    UsageError
        Missing file, Python objects instead of numbers, an array for a model of several inputs, unknown or missing
        input, wrong dtype or shape, or an array larger than ``max_bytes``.
    FailureError
        Truncated or damaged file, NaN or Inf.
    """
    if path.suffix.lower() == ".npz":
        stored = members(path)
        for name, member in stored.items():
            _check_bytes(path, name, member.shape, member.dtype, max_bytes)
        arrays = {name: member.read() for name, member in stored.items()}
    elif len(model.inputs) == 1:
        arrays = {model.inputs[0].name: _read_npy(path, max_bytes)}
    else:
        names = ", ".join(tensor.name for tensor in model.inputs)
        raise UsageError(f"{path} holds one array, the model has inputs {names}; give an .npz file with one per input")
    try:
        return model.check_feed(arrays)
    except OnnxplainError as error:
        raise type(error)(f"{path}: {error}") from error


def _read_npy(path: Path, max_bytes: int) -> np.ndarray:
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    try:
        with path.open("rb") as stream:
            shape, fortran, dtype = read_header(stream)
            if dtype.hasobject:
                raise UsageError(f"{path} holds Python objects, which are not read; save numbers with np.save")
            size = _check_bytes(path, "the array", shape, dtype, max_bytes)
            if size != path.stat().st_size - stream.tell():
                raise ValueError(f"its data are not the {size} bytes of shape {shape} and {dtype}")
            return np.frombuffer(stream.read(size), dtype).reshape(shape, order="F" if fortran else "C")
    except BROKEN as error:
        raise FailureError(f"{path} is not a sound .npy file: {error or type(error).__name__}") from error


def _check_bytes(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], max_bytes: int) -> int:
    size = math.prod(shape) * dtype.itemsize
    if size > max_bytes:
        raise UsageError(f"{path}: {name} takes {size / 2**30:.3g} GiB, more than {max_bytes / 2**30:.3g}; split it")
    return size
