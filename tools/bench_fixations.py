"""Fixations against the plain forward pass: time and memory, in pairs.

    python tools/bench_fixations.py MODEL.onnx [MODEL.onnx ...] [--batch 1] [--rounds 20]

Each round runs the model's own session and then trace and routing, with a pause before each in which the threads of
the other come to rest. Printed are the medians, of the ratio with its quartiles, the size of the traced tensors, and
how far the memory peak of the process, one per model, lies above that of an explanation
of one sample.
Under `chrt -f 50` other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from pathlib import Path

import numpy as np
from timing import MIB, PAUSE, peak_memory, spread, table, timed

import onnxplain
from onnxplain.engine.unravel import find_route


def one_round(model: onnxplain.Model, feed: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """Seconds of the plain run, of trace and of routing."""
    plain = timed(lambda: model.plain.run(feed))
    time.sleep(PAUSE)
    spent = onnxplain.explain(model, feed, "fixations").timings
    return plain, spent["forward"], spent["backward"]


def measure(path: Path, batch: int, rounds: int) -> list[object]:
    """One line of the table."""
    model = onnxplain.load(path)
    [source] = model.inputs
    assert source.shape is not None
    shape = [size if isinstance(size, int) else 224 for size in source.shape]
    shape[0] = batch if model.batched else shape[0]
    feed = {source.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    onnxplain.explain(model, {source.name: feed[source.name][:1]}, "fixations")
    before = peak_memory()
    [*_, chosen] = onnxplain.explain(model, feed, "fixations").target
    route = find_route(model, model.tensor(chosen.tensor), feed)
    traced = sum(4 * math.prod(route.recording.shape(tensor)) for tensor in route.read)
    rows = np.array([one_round(model, feed) for _ in range(rounds)])
    plain, trace, routing = np.median(rows, axis=0) * 1e3
    ratio = spread(rows[:, 1:].sum(axis=1) / rows[:, 0])
    times = [f"{milliseconds:.1f}" for milliseconds in (plain, trace, routing)]
    memory = (peak_memory() - before) / MIB
    return [path.stem, batch, *times, ratio, f"{traced / MIB:.0f}", f"{memory:.0f}"]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    header = "model", "batch", "plain, ms", "trace, ms", "routing, ms", "both / plain", "traced, MiB", "peak, MiB"
    rows = []
    for path in given.models:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (path, given.batch, given.rounds)))
    print(table(header, rows))


if __name__ == "__main__":
    main()
