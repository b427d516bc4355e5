"""The threads that work on one kernel of the host engine together.

Numba's own threads are not used: its OpenMP layer breaks after a fork, and its workqueue layer aborts the process when
two threads meet in it. Nor are those of BLAS, which wait for each other by spinning, so that one other busy process
makes a product many times slower. Here a kernel is serial code without the GIL that every thread may call: whoever is
free claims the next items from a counter. A helper that has found no more waits for the next kernel inside the call, so
that it needs the GIL only while the leader does without; after a millisecond or so it goes back to sleep.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import cgutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from onnxplain.engine import workers

Counters = np.ndarray[Any, np.dtype[np.int64]]

_ALONE, _LEADS, _HELPS = range(3)
_NEXT, _DONE, _COUNT, _GRAIN, _NUMBER = range(5)
_PATIENCE = 1 << 21
"""How often a thread looks at a counter before it gives up waiting; each look takes half a nanosecond or so."""


class Turn(NamedTuple):
    """A thread's part in one call of a kernel.

    Attributes
    ----------
    role : int
    claims : numpy.ndarray
        Next item, items done, number of items, items to a claim, number of the task.
    bell : numpy.ndarray
        The number of the task that was begun last.
    """

    role: int
    claims: Counters
    bell: Counters


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    value = context.make_array(kind)(context, builder, value=array)
    return cgutils.get_item_pointer(context, builder, kind, value, [index], wraparound=False)


def _adding(_: Any, array: Any, index: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args[0], *arguments[:2])
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return types.int64(array, types.intp, types.int64), code


def _looking(_: Any, array: Any, index: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(context, builder, signature.args[0], *arguments), "seq_cst", 8)

    return types.int64(array, types.intp), code


_add: Any = intrinsic(_adding)
"""``_add(array, index, value)`` adds to an element in one step for all threads, and returns what it was."""
_look: Any = intrinsic(_looking)
"""``_look(array, index)`` is an element as other threads have left it."""


@numba.njit(nogil=True)
def turns(turn: Turn) -> Iterator[tuple[int, int]]:
    """Ranges of items that this thread is to work on, until there are no more.

    At the end the leader waits until all are done, and a helper until the next task begins, neither for long.
    """
    claims = turn.claims
    count, grain, number = claims[_COUNT], claims[_GRAIN], claims[_NUMBER]
    if turn.role == _LEADS:
        _add(turn.bell, 0, number - turn.bell[0])
    while True:
        start = _add(claims, _NEXT, grain)
        if start >= count:
            break
        stop = min(start + grain, count)
        yield start, stop
        _add(claims, _DONE, stop - start)
    if turn.role == _LEADS:
        for _ in range(_PATIENCE):
            if _look(claims, _DONE) == count:
                break
    elif turn.role == _HELPS:
        for _ in range(_PATIENCE):
            if _look(turn.bell, 0) > number:
                break


@numba.njit(nogil=True)
def items(turn: Turn) -> Iterator[int]:
    """The items of :func:`turns` one by one, for such as take a microsecond or more."""
    for start, stop in turns(turn):
        for i in range(start, stop):  # noqa: UP028  numba knows no ``yield from``
            yield i


@dataclass
class _Task:
    run: Callable[..., None]
    arguments: tuple[Any, ...]
    claims: Counters
    error: BaseException | None = None


class Team:
    """The leader, which is any thread that calls a kernel, and the helpers that join it."""

    def __init__(self) -> None:
        self._leading = threading.Lock()
        self._door = threading.Lock()
        self._bell = np.zeros(1, np.int64)
        self._task: _Task | None = None
        self._helpers = 0

    def work(self, run: Callable[..., None], count: int, arguments: tuple[Any, ...], together: bool) -> None:
        """Call ``run(turn, *arguments)`` until all of ``count`` items are done: in this thread, and ``together``.

        A team that works for another thread is not waited for.

        Raises
        ------
        Exception
            What a call raised.
        """
        if (
            together
            and workers.THREADS > 1
            and count > 1
            and not workers.inside()
            and self._leading.acquire(blocking=False)
        ):
            try:
                self._lead(run, count, arguments)
            finally:
                self._task = None
                self._leading.release()
        else:
            run(Turn(_ALONE, np.array([0, 0, count, count, 0]), self._bell), *arguments)

    def _lead(self, run: Callable[..., None], count: int, arguments: tuple[Any, ...]) -> None:
        grain = max(1, count // (4 * workers.THREADS))
        claims = np.array([0, 0, count, grain, self._bell[0] + 1])
        task = self._task = _Task(run, arguments, claims)
        self._call_helpers(min(workers.THREADS, count) - 1)
        run(Turn(_LEADS, claims, self._bell), *arguments)
        while claims[_DONE] < count and task.error is None:
            time.sleep(0)
        if task.error is not None:
            raise task.error

    def _call_helpers(self, wanted: int) -> None:
        with self._door:
            missing = max(0, wanted - self._helpers)
            self._helpers += missing
        for _ in range(missing):
            workers.pool().submit(self._help)

    def _help(self) -> None:
        seen = 0
        while (task := self._task) is not None and task.claims[_NUMBER] > seen:
            seen = int(task.claims[_NUMBER])
            try:
                task.run(Turn(_HELPS, task.claims, self._bell), *task.arguments)
            except BaseException as error:
                task.error = error
        with self._door:
            self._helpers -= 1


@functools.cache
def team() -> Team:
    """The team of this process."""
    return Team()


def _start_in_child() -> None:
    team.cache_clear()
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    # The child has none of the parent's threads, so none that would end a compilation under way.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=_start_in_child,
    )
