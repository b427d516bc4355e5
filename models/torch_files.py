"""Tensors by name from PyTorch's .pth files, in the zipped form and the one before it.

Such a file is a pickle, which may name any function to be called. This reader knows the handful that rebuild a tensor,
as its own stand-ins, and refuses every other name before anything is called.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxplain.errors import FailureError, UsageError

MAX_PICKLE = 16 << 20
"""Largest table of tensors in bytes; VGG-16's has four thousand."""
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype[Any]
    key: str
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor as the pickle describes it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, values: np.ndarray) -> np.ndarray:
        """The tensor, a view of its storage's values."""
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        inside = min((self.offset, *self.shape, *self.strides)) >= 0
        if not inside or (0 not in self.shape and self.offset + reach >= len(values)):
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its storage")
        steps = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps)


def _rebuilt(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _View:
    return _View(storage, offset, shape, strides)


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): lambda view, *_: view,
    **{("torch", name): np.dtype(form) for name, form in _STORAGES.items()},
}


class _Tables(pickle.Unpickler):
    """Reads tables of tensors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise UsageError(
                f"the file asks for {module}.{name}, which rebuilds no tensor; save the net's state_dict()"
            )
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _place, count, *_view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ValueError(f"{kind!r} is no storage of numbers")
        return _Storage(dtype, str(key), int(count))


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a saved state_dict.

    Raises
    ------
    UsageError
        It holds something else.
    FailureError
        A damaged file.
    """
    try:
        if zipfile.is_zipfile(path):
            return _zipped(path)
        return _one_after_the_other(path)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (
        *(pickle.UnpicklingError, zipfile.BadZipFile, OSError, EOFError, ValueError, TypeError, KeyError, IndexError),
        *(AttributeError, OverflowError, RecursionError, MemoryError, ImportError),
    ) as error:
        raise FailureError(f"{path} is not a sound .pth file: {error}") from error


def _zipped(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        table = next((info for info in archive.infolist() if info.filename.endswith("/data.pkl")), None)
        if table is None or table.file_size > MAX_PICKLE:
            raise ValueError("it holds no table of tensors, or one that is too large")
        folder = table.filename.removesuffix("data.pkl")

        def values(storage: _Storage) -> np.ndarray:
            info = archive.getinfo(f"{folder}data/{storage.key}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != storage.count * storage.dtype.itemsize:
                raise ValueError(f"storage {storage.key!r} is not the size that it should be")
            return np.frombuffer(archive.read(info), storage.dtype)

        return _tensors(_Tables(io.BytesIO(archive.read(table))).load(), values)


def _one_after_the_other(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        if _Tables(file).load() != _MAGIC or _Tables(file).load() != _PROTOCOL:
            raise ValueError("it does not begin as one")
        _Tables(file).load()
        table, keys = _Tables(file).load(), _Tables(file).load()
        needed = {view.storage.key: view.storage for view in _views(table).values()}
        found = {str(key): _counted(file, needed.get(str(key))) for key in keys}
    return _tensors(table, lambda storage: found[storage.key])


def _counted(file: IO[bytes], storage: _Storage | None) -> np.ndarray:
    count = int(np.frombuffer(file.read(8), "<i8")[0])
    if storage is None or count != storage.count:
        raise ValueError("a storage is not the size that it should be")
    values = np.frombuffer(file.read(count * storage.dtype.itemsize), storage.dtype)
    if len(values) != count:
        raise ValueError("it ends early")
    return values


def _tensors(table: Any, values: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    kept: dict[str, np.ndarray] = {}
    found = {}
    for name, view in _views(table).items():
        if view.storage.key not in kept:
            kept[view.storage.key] = values(view.storage)
        found[name] = view.of(kept[view.storage.key])
    return found


def _views(table: Any) -> dict[str, _View]:
    """The tensors of a table; the state_dict of a checkpoint that holds more."""
    if isinstance(table, Mapping) and isinstance(table.get("state_dict"), Mapping):
        table = table["state_dict"]
    if not isinstance(table, Mapping) or not all(isinstance(view, _View) for view in table.values()):
        raise UsageError("it holds no table of tensors by name; save the net's state_dict()")
    return {str(name): view for name, view in table.items()}
