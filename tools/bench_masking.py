"""What masks cost beside the forward passes of as many pictures, in pairs.

    chrt -f 50 python tools/bench_masking.py MODEL.onnx [MODEL.onnx ...] [--masks 64] [--rounds 7]

Each round runs the model on as many ready pictures, in batches of the same size, and then a block of SISE: masks
upsampled from planes of 14 x 14, scaled, laid over a picture, run, added up weighted by score and area. Printed are
the batch size, the median milliseconds per picture of both, and their ratio with its quartiles. Under `chrt` other
work on the machine does not count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from timing import spread, table, timed

import onnxplain
from onnxplain.engine.run import Work
from onnxplain.methods.job import Job
from onnxplain.methods.masking import Asked, asked
from onnxplain.methods.sise import visualization
from onnxplain.targets import parse_target


def sample(model: onnxplain.Model) -> Asked:
    """A random picture, and its predicted class as what is asked."""
    [source] = model.inputs
    assert source.shape is not None
    shape = [1, *(size if isinstance(size, int) else 224 for size in source.shape[1:])]
    feed = {source.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    job = Job(model, feed, parse_target(model.graph, None), "", Work(), 0, "sise")
    return next(asked(job, "probability"))


def measure(path: Path, masks: int, rounds: int) -> list[object]:
    """One line of the table."""
    one = sample(onnxplain.load(path))
    batch = one.scores.batch
    x = one.feed[one.picture.name]
    planes = np.random.default_rng(1).random((masks, 14, 14), dtype=np.float32)
    ready = np.repeat(x, min(batch, masks), axis=0)

    def bare() -> None:
        for start in range(0, masks, batch):
            feed = {one.picture.name: ready[: min(batch, masks - start)]}
            one.scores.model.plain.run(feed, [one.scores.output.name])

    def masked() -> None:
        visualization(one, planes, np.arange(masks), lambda done: None, 0.0)

    bare()
    masked()
    times = np.array([(timed(bare), timed(masked)) for _ in range(rounds)])
    plain, with_masks = np.median(times, axis=0) * 1e3 / masks
    return [path.stem, batch, f"{plain:.2f}", f"{with_masks:.2f}", spread(times[:, 1] / times[:, 0])]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--masks", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    rows = [measure(path, given.masks, given.rounds) for path in given.models]
    print(table(["model", "batch", "bare, ms", "masked, ms", "masked / bare"], rows))


if __name__ == "__main__":
    main()
