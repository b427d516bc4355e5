"""What the benchmarks share: paired repetitions, their spread, peak memory, Markdown tables."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

PAUSE = 0.05
"""Seconds before a measurement, in which the threads of what ran before come to rest."""
MIB = 2**20


class Spread(NamedTuple):
    """Quartiles of repetitions."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """The quartiles of ``values``; few disturbed repetitions do not move them."""
    return Spread(*(float(value) for value in np.percentile(values, [25, 50, 75])))


def timed(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, after a pause."""
    time.sleep(PAUSE)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def beside(plain: Callable[[], object], measured: Callable[[], float]) -> tuple[float, float]:
    """Seconds of a measurement and of a plain pass: the faster of two, and the fastest of the three around them.

    Now and then the scheduler leaves two threads on one core for a few milliseconds, which is all that a pass takes.
    """
    passes, found = [timed(plain)], []
    for _ in range(2):
        found.append(measured())
        passes.append(timed(plain))
    return min(found), min(passes)


def peak_memory() -> int:
    """The most memory that this process has held, in bytes (Linux).

    Unlike ``ru_maxrss`` it does not begin with what the parent held when it started this process.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
