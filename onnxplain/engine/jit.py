"""Numba functions that are compiled on demand, cached on disk and shared among Python threads.

Numba's own threads are not used: its OpenMP layer breaks after a fork and spins between two kernels, and its workqueue
layer aborts the process when two threads meet in it. Nor are those of BLAS, which wait for each other by spinning, so
that one other busy process makes a product many times slower. Here a kernel is serial code that releases the GIL, and
whichever thread is free takes the next share of the work.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
from numba.core.compiler_lock import global_compiler_lock

F = TypeVar("F", bound=Callable[..., Any])

THREADS = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
"""How many threads share work; numba takes it from the environment variable NUMBA_NUM_THREADS or counts cores."""

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
SERIAL_BELOW = 1 << 16
"""Elements below which handing work to another thread takes longer than doing it."""


_inside = threading.local()


class Kernel:
    """A function ``(start, stop, *arguments)`` that handles the items ``start`` to ``stop``.

    Parameters
    ----------
    function : callable
        Writes its results to its arguments, no element for two items, and returns nothing.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._uncached: Any = numba.njit(**_OPTIONS)(function)
        try:
            self._compiled: Any = numba.njit(cache=True, **_OPTIONS)(function)
        except RuntimeError:  # numba found no folder that it may write to
            self._compiled = self._uncached

    def __call__(self, count: int, elements: float, *arguments: Any) -> None:
        """Handle 0 to ``count``, in several threads when there are enough ``elements``, a nanosecond of work each."""
        if count and elements:
            if elements < SERIAL_BELOW or getattr(_inside, "share", False):
                self._run(0, count, *arguments)
            else:
                share(self._run, [(*part, *arguments) for part in split(count)])

    def _run(self, start: int, stop: int, *arguments: Any) -> None:
        compiled = self._compiled
        try:
            compiled(start, stop, *arguments)
        except Exception as error:
            # Kernels raise nothing themselves: the arguments are wrong, or the cache is damaged or the disk full.
            if compiled is self._uncached or isinstance(error, numba.core.errors.NumbaError):
                raise
            warnings.warn(
                f"numba's cache in {compiled.stats.cache_path} cannot be used ({type(error).__name__}: {error}); "
                f"every process compiles {self._function.__name__} anew until that folder is deleted",
                RuntimeWarning,
                stacklevel=2,
            )
            self._compiled = self._uncached
            self._uncached(start, stop, *arguments)


def inner(function: F) -> F:
    """A function that only kernels call."""
    return cast(F, numba.njit(**_OPTIONS)(function))


def reordered(function: F) -> F:
    """An :func:`inner` one whose sums the compiler may reorder, which lets it use vector registers."""
    return cast(F, numba.njit(**_OPTIONS | {"fastmath": {"contract", "reassoc"}})(function))


def split(count: int) -> list[tuple[int, int]]:
    """Ranges from 0 to ``count``, more than there are threads, so that none waits long for another."""
    parts = max(1, min(count, 2 * THREADS if THREADS > 1 else 1))
    return list(itertools.pairwise(count * part // parts for part in range(parts + 1)))


def share(work: Callable[..., object], shares: Iterable[tuple[Any, ...]]) -> None:
    """Call ``work(*share)`` for every share, in this thread and the workers; kernels within are not shared again.

    Raises
    ------
    Exception
        What a call raised; other shares may then not have been worked on.
    """
    pending = deque(shares)

    def take() -> None:
        while True:
            try:
                arguments = pending.popleft()
            except IndexError:
                return
            _inside.share = True
            try:
                work(*arguments)
            finally:
                _inside.share = False

    helpers = [_workers().submit(take) for _ in range(min(THREADS, len(pending)) - 1)]
    take()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@functools.cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, THREADS - 1), thread_name_prefix="onnxplain")


def _start_in_child() -> None:
    _workers.cache_clear()
    global_compiler_lock.release()  # type: ignore[no-untyped-call]


if hasattr(os, "register_at_fork"):
    # The child has none of the parent's threads: not the workers, and none that would end a compilation under way.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=_start_in_child,
    )
