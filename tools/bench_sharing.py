"""What it gains that methods share passes over the same picture, in pairs.

    chrt -f 50 python tools/bench_sharing.py MODEL DATASET [--count 4] [--rounds 5] [--preprocess NAME]
        [--methods grad-cam,layer-cam ...]

Each round explains the first pictures of the data set with the methods of a group, once with every pass carried out
where it is asked for and once shared, as `onnxplain evaluate` does. Printed are the median milliseconds per picture of
all methods together and the ratio with its quartiles. Under `chrt` other work on the machine does not count.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from timing import spread, table, timed

import onnxplain
from onnxplain.engine.budget import MEMORY_BUDGET
from onnxplain.engine.sharing import Shared
from onnxplain.inputs.datasets import read_dataset
from onnxplain.inputs.loaders import Sample, contract_for, load_record
from onnxplain.model import Feed

GROUPS = (
    "grad-cam,grad-cam++,hires-cam,layer-cam,xgrad-cam",
    "gradient,input-x-gradient",
    "lrp,gradient",
    "sise,ada-sise",
    "grad-cam,grad-cam++,hires-cam,layer-cam,xgrad-cam,lrp,gradient,sise,ada-sise",
)


def measure(model: onnxplain.Model, feeds: Sequence[Feed], methods: str, rounds: int) -> list[object]:
    """One line of the table."""

    def alone() -> None:
        for feed in feeds:
            explained(model, feed)

    def shared() -> None:
        for feed in feeds:
            explained(model.sharing(Shared(feed, MEMORY_BUDGET)), feed)

    def explained(through: onnxplain.Model, feed: Feed) -> None:
        for method in methods.split(","):
            onnxplain.explain(through, feed, method)

    alone()
    shared()
    times = np.array([(timed(alone), timed(shared)) for _ in range(rounds)])
    before, after = np.median(times, axis=0) * 1e3 / len(feeds)
    return [methods, f"{before:.1f}", f"{after:.1f}", spread(times[:, 1] / times[:, 0])]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--preprocess")
    parser.add_argument("--methods", nargs="+", default=GROUPS)
    given = parser.parse_args()
    model, data = onnxplain.load(given.model), read_dataset(given.dataset)
    contract = contract_for(data, model, given.preprocess)
    samples = (load_record(record, model, contract) for record in islice(data, given.count))
    feeds = [sample.feed for sample in samples if isinstance(sample, Sample)]
    rows = [measure(model, feeds, group, given.rounds) for group in given.methods]
    print(table(["methods", "each alone, ms", "shared, ms", "shared / alone"], rows))


if __name__ == "__main__":
    main()
