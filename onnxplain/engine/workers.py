"""Pieces of work shared among threads, one each."""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def _count() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else cores


THREADS = _count()
"""How many threads share work: as many as there are cores, or the environment variable NUMBA_NUM_THREADS says."""


def share(work: Callable[..., object], shares: Iterable[tuple[Any, ...]], threads: int | None = None) -> None:
    """Call ``work(*share)`` for every share, in this thread and the workers; kernels within are not shared again.

    No more than ``threads`` calls go on at once, :data:`THREADS` at most.

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

    helpers = [pool().submit(take) for _ in range(min(THREADS, threads or THREADS, len(pending)) - 1)]
    take()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


_inside = threading.local()


def inside() -> bool:
    """Whether this thread is at work on a share."""
    return getattr(_inside, "share", False)


@functools.cache
def pool() -> ThreadPoolExecutor:
    """The threads beside the one that shares its work."""
    return ThreadPoolExecutor(max(1, THREADS - 1), thread_name_prefix="onnxplain")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.cache_clear)
