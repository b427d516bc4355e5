"""Numba functions that are compiled on demand, cached on disk and shared among threads."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from onnxplain.engine.team import Turn, team

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
SERIAL_BELOW = 50_000
"""Elements below which handing work to another thread takes longer than doing it."""


@functools.cache
def _sources() -> str:
    """A digest of the code that kernels are made of.

    Numba keeps what it compiled until the kernel's own file changes; what the kernel calls may stand in another one.
    """
    package = Path(__file__).parents[1]
    files = [
        *package.rglob("*_kernels.py"),
        *(package / "engine" / name for name in ("jit.py", "team.py", "vectors.py")),
    ]
    code = b"".join(file.read_bytes() for file in sorted(files) if file.is_file())
    return hashlib.sha256(code).hexdigest()[:12]


class Kernel:
    """A function ``(turn, *arguments)`` that handles the items of ``for start, stop in turns(turn)``.

    Parameters
    ----------
    function : callable
        Writes its results to its arguments, no element for two items, and returns nothing.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        function.__qualname__ = f"{function.__name__}-{_sources()}"  # part of the name of the file in numba's cache
        self._uncached: Any = numba.njit(**_OPTIONS)(function)
        try:
            self._compiled: Any = numba.njit(cache=True, **_OPTIONS)(function)
        except RuntimeError:  # numba found no folder that it may write to
            self._compiled = self._uncached

    def __call__(self, count: int, elements: float, *arguments: Any) -> None:
        """Handle 0 to ``count``, in several threads when there are enough ``elements``, a nanosecond of work each."""
        if count and elements:
            team().work(self._run, count, arguments, elements >= SERIAL_BELOW)

    def _run(self, turn: Turn, *arguments: Any) -> None:
        compiled = self._compiled
        try:
            compiled(turn, *arguments)
        except MemoryError:  # with items claimed, which nobody would work on again
            raise
        except Exception as error:
            # Kernels raise nothing else themselves: the arguments are wrong, or the cache is damaged or the disk full.
            if compiled is self._uncached or isinstance(error, numba.core.errors.NumbaError):
                raise
            warnings.warn(
                f"numba's cache in {compiled.stats.cache_path} cannot be used ({type(error).__name__}: {error}); "
                f"every process compiles {self._function.__name__} anew until that folder is deleted",
                RuntimeWarning,
                stacklevel=2,
            )
            self._compiled = self._uncached
            self._uncached(turn, *arguments)


def inner(function: F) -> F:
    """A function that only kernels call."""
    return cast(F, numba.njit(**_OPTIONS)(function))


def reordered(function: F) -> F:
    """An :func:`inner` one whose sums the compiler may reorder, which lets it use vector registers."""
    return cast(F, numba.njit(**_OPTIONS | {"fastmath": {"contract", "reassoc"}})(function))
