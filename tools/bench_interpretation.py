"""Time and memory of the lasso behind 'onnxplain interpret', on planted responses of a given size.

    python tools/bench_interpretation.py --samples 5000 --filters 4000 --classes 100

The responses stand in a file, as they do in 'onnxplain interpret'. Processor time is that of all threads.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from onnxplain.interpretation.lasso import solve

TENSORS = 10
PLANTED = 5


def write(path: Path, samples: int, filters: int, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shares of responses, five filters of each class three times as strong; mapped from the file."""
    x = np.memmap(path, np.float32, "w+", shape=(samples, filters))
    own = rng.integers(0, filters, (int(classes.max()) + 1, PLANTED))
    for start in range(0, samples, 1000):
        part = np.abs(rng.standard_normal((min(1000, samples - start), filters), np.float32))
        for row, label in zip(part, classes[start : start + len(part)], strict=True):
            row[own[label]] *= 3
        shares = part.reshape(len(part), TENSORS, -1)
        x[start : start + len(part)] = (shares / shares.sum(axis=2, keepdims=True)).reshape(len(part), -1)
    x.flush()
    return np.memmap(path, np.float32, "r", shape=(samples, filters))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--filters", type=int, default=4000, help=f"a multiple of {TENSORS}")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--mu", type=float, default=10.0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.arange(arguments.samples) % arguments.classes)
    with tempfile.TemporaryDirectory() as name:
        x = write(Path(name) / "x.f32", arguments.samples, arguments.filters, classes, rng)
        start, spent = time.perf_counter(), time.process_time()
        found = solve(x, np.arange(arguments.samples), classes, arguments.mu, Path(name))
        first = next(found)
        prepared, prepared_spent = time.perf_counter(), time.process_time()
        counts = [len(first.index), *(len(each.index) for each in found)]
        ended, ended_spent = time.perf_counter(), time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"Gram matrix and one class  {prepared - start:8.1f} s  {prepared_spent - spent:8.1f} s of processor")
    print(f"the other classes          {ended - prepared:8.1f} s  {ended_spent - prepared_spent:8.1f} s of processor")
    print(f"features per class         {np.mean(counts):8.1f}")
    print(f"peak memory                {peak:8.2f} GB, pages of the mapped files included")


if __name__ == "__main__":
    main()
