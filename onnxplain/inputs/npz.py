"""Arrays of an .npz file, read whole or sample by sample, never trusting a size the file only claims."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxplain.errors import FailureError, UsageError

_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
BROKEN = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged array file raises."""


@dataclass(frozen=True)
class Member:
    """One array of an .npz file, not read yet.

    Attributes
    ----------
    file : Path
        The .npz file.
    name : str
        Name of the array.
    shape, dtype
        As the array's header states them; the header is held against the stored size when the file is opened.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    def read(self) -> NDArray[Any]:
        """The whole array.

        Raises
        ------
        FailureError
            The stored data are damaged.
        """
        with _opened(self.file, self.name) as stream:
            read_header(stream)
            data = stream.read(math.prod(self.shape) * self.dtype.itemsize)
            return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")

    def rows(self) -> Iterator[NDArray[Any]]:
        """The array's slices along its first axis, one at a time in memory.

        Raises
        ------
        UsageError
            The array is stored column by column, so that a sample is not one piece.
        FailureError
            The stored data are damaged.
        """
        if self.fortran and len(self.shape) > 1:
            raise UsageError(f"{self.file}: {self.name!r} is in Fortran order; save it with np.ascontiguousarray")
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _opened(self.file, self.name) as stream:
            read_header(stream)
            for _ in range(self.shape[0]):
                yield np.frombuffer(stream.read(size), self.dtype).reshape(self.shape[1:])


def members(path: str | Path) -> dict[str, Member]:
    """The arrays of an .npz file by name, in the file's order.

    Raises
    ------
    UsageError
        Missing file, or an array of Python objects, which would have to be executed to be read.
    FailureError
        Not an .npz file, or an array whose size is not what its header claims.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path} is not a file; give an .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except BROKEN as error:
        raise FailureError(f"{path} cannot be read as an .npz file: {error}") from error
    strange = [entry.filename for entry in entries if not entry.filename.endswith(".npy")]
    if strange:
        raise UsageError(f"{path} holds {strange[0]!r}, which is not an array; write the file with np.savez")
    return {entry.filename.removesuffix(".npy"): _member(path, entry) for entry in entries}


def _member(path: Path, entry: zipfile.ZipInfo) -> Member:
    name = entry.filename.removesuffix(".npy")
    with _opened(path, name) as stream:
        shape, fortran, dtype = read_header(stream)
        stored = entry.file_size - stream.tell()
    if dtype.hasobject:
        raise UsageError(f"{path}: array {name!r} holds Python objects; save it with a numeric or text dtype")
    if math.prod(shape) * dtype.itemsize != stored:
        raise FailureError(f"{path}: array {name!r} claims shape {shape} of {dtype} but {stored} bytes are stored")
    return Member(path, name, shape, dtype, fortran)


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype that an .npy stream claims, leaving it at the data.

    Raises
    ------
    ValueError
        Not an .npy header; damaged ones raise the others of `BROKEN` as well.
    """
    version = npy.read_magic(stream)
    if version not in _READERS:
        raise ValueError(f"unknown array format {version}")
    shape, fortran, dtype = _READERS[version](stream)
    return shape, fortran, dtype


@contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            yield stream
    except BROKEN as error:
        raise FailureError(f"{path}: array {name!r} cannot be read: {error}") from error
