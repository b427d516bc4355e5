"""Time and memory of the lasso behind 'onnxplain interpret', on planted responses of a given size.

    python tools/bench_interpretation.py --samples 5000 --filters 4000 --classes 100 -o DIR

Five filters of each class respond three times as much in its samples, and every sample's responses sum to 1 in each
tensor. They stand in a response store in the folder, as in 'onnxplain interpret'; written once, they serve every run.
Processor time is that of all threads. Memory of the process is what it holds of its own; mapped are pages of the
responses beside, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
from timing import peak_memory, table

from onnxplain.interpretation.interpret import strongest
from onnxplain.interpretation.lasso import solve
from onnxplain.interpretation.store import ResponseStore

PLANTED = 5
PART = 1000
"""Samples that are drawn at once."""


def fill(store: ResponseStore, classes: np.ndarray, own: np.ndarray, tensor: int) -> None:
    """Draw the responses that the store lacks, the same whatever stands already."""
    for start in range(0, len(classes), PART):
        rows = range(start, min(start + PART, len(classes)))
        if all(row in store for row in rows):
            continue
        part = np.abs(np.random.default_rng([1, start]).standard_normal((len(rows), store.width), np.float32))
        labels = classes[rows.start : rows.stop]
        part[np.arange(len(part))[:, np.newaxis], own[labels]] *= 3
        shares = part.reshape(len(part), -1, tensor)
        store.add(rows, (shares / shares.sum(axis=2, keepdims=True)).reshape(part.shape), labels.tolist())


class Stages:
    """Wall-clock and processor seconds of one stage after another, and the largest memory of the process' own."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        self._held = 0
        threading.Thread(target=self._watch, daemon=True).start()
        self._begin = (time.perf_counter(), time.process_time())

    def _watch(self) -> None:
        while True:
            found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
            assert found is not None
            self._held = max(self._held, int(found[1]) * 1024)
            time.sleep(0.05)

    def done(self, name: str) -> None:
        """Enter what passed since the stage before."""
        now = (time.perf_counter(), time.process_time())
        wall, spent = (after - before for after, before in zip(now, self._begin, strict=True))
        self.rows.append((name, f"{wall:.1f}", f"{spent:.1f}", f"{self._held / 2**30:.2f}"))
        print(f"{name}: {wall:.0f} s", file=sys.stderr)
        self._held, self._begin = 0, (time.perf_counter(), time.process_time())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--filters", type=int, default=4000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--tensor", type=int, default=40, help="filters per tensor (default: %(default)s)")
    parser.add_argument("--mu", type=float, default=10.0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the responses")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.arange(given.samples) % given.classes)
    own = np.array([rng.choice(given.filters, PLANTED, replace=False) for _ in range(given.classes)])
    rows = np.arange(given.samples)
    job = {name: value for name, value in vars(given).items() if name not in ("mu", "output")}
    stages = Stages()
    with ResponseStore(given.output, job, [str(row) for row in rows], given.filters) as store:
        fill(store, classes, own, given.tensor)
        stages.done("draw and write the responses")
        found = list(solve(store.responses(), rows, classes, given.mu))
        stages.done("the weights of all classes")
        relevant = np.unique(np.concatenate([each.index for each in found]))
        strongest(store.responses(), rows, relevant, 100)
        stages.done(f"top 100 samples of the {len(relevant)} relevant filters")
    print(table(["stage", "wall clock, s", "processor, s", "memory of the process, GB"], stages.rows))
    counts = [len(each.index) for each in found]
    held = sum(np.isin(planted, each.index).sum() for each, planted in zip(found, own, strict=True))
    print(f"features per class: {np.mean(counts):.2f}, {min(counts)} to {max(counts)}")
    print(f"planted features found: {held} of {own.size}, and {sum(counts) - held} others")
    print(f"the bound binds in {sum(each.bounded for each in found)} classes")
    print(f"peak memory with mapped pages: {peak_memory() / 2**30:.2f} GB")


if __name__ == "__main__":
    main()
