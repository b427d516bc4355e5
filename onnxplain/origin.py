"""What an explanation was made from, and with which options: enough to make it again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

_SHOWN = 64
"""Elements of an array among the options that are written out; of larger ones the shape and dtype."""


class Identity:
    """Which file a model is; hashes are computed when they are first asked for.

    Parameters
    ----------
    path : Path or None
        None for a model given as bytes or as a ModelProto.
    external : tuple of Path
        Files that hold its weights.
    """

    def __init__(self, path: Path | None, external: tuple[Path, ...] = ()) -> None:
        self.path = path
        self.external = external
        self._stamps = {file: _stamp(file) for file in (*external, *([path] if path else []))}

    @cached_property
    def sha256(self) -> str | None:
        """Of the file; None without one, or where it has changed since it was read."""
        return None if self.path is None else self._hash(self.path)

    @cached_property
    def external_data(self) -> dict[str, str | None]:
        """The hash of each file of external data, by its name."""
        return {file.name: self._hash(file) for file in self.external}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        path = None if self.path is None else str(self.path)
        return {"path": path, "sha256": self.sha256, "external_data": self.external_data}

    def _hash(self, path: Path) -> str | None:
        if not path.is_file() or _stamp(path) != self._stamps[path]:
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Origin:
    """What stands behind an explanation.

    Attributes
    ----------
    model : Identity or mapping
        A mapping of its fields after :meth:`onnxplain.Explanation.load`.
    options : mapping
        What :func:`onnxplain.explain` was asked for.
    input : str or None
        The file that was explained.
    contract : mapping or None
        How a picture was prepared, each item with its origin.
    """

    model: Identity | Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    input: str | None = None
    contract: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        model = self.model.to_json() if isinstance(self.model, Identity) else dict(self.model)
        options = {name: _plain(value) for name, value in self.options.items()}
        return {"model": model, "input": self.input, "options": options, "contract": self.contract}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist() if value.size <= _SHOWN else {"shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
