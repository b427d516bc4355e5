"""Every method on photographs with boxes, in the measures of the SISE paper: the shape of its comparison.

    python tools/bench_methods.py PICTURES MODEL.onnx=PREPROCESS ... [--methods LIST] [--count 24] [--rise-masks 1000]

PICTURES holds the photographs, boxes.json (a list of {"file", "voc_class", "box_xyxy"}) and voc_to_imagenet.json (from
a class of the boxes to the model's classes, [index, name] each). Of each model count the first COUNT of those pictures,
in an order drawn from the seed, whose predicted class is the box's; that class is explained. What is measured is the
positive part of each map, in the window that the model sees.

Prints means with 95 % bootstrap intervals over the pictures, then the differences of SISE to its rivals, picture by
picture. A journal in the folder of -o keeps what is done, so that more methods cost only themselves.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from timing import table

import onnxplain
from onnxplain.inputs.datasets import Dataset, read_dataset
from onnxplain.inputs.loaders import Skipped, contract_for, load_record
from onnxplain.metrics.box_files import read_boxes
from onnxplain.metrics.results import Row
from onnxplain.metrics.truth import read_class_map
from onnxplain.render.evaluation import cell, heading, seconds

METRICS = ("ebpg", "miou", "bbox", "drop", "increase", "pointing", "insertion-blur", "deletion-zero", "sparseness")
LEFT_OUT = ("vebi",)
"""Methods that need more than a model and a picture."""
RIVALS = ("rise", "grad-cam")
QUESTIONS = ("ebpg", "drop")


def chosen(model: onnxplain.Model, preprocess: str, pictures: Path, count: int, seed: int) -> Dataset:
    """The pictures that the model classifies as what is in the box, ``count`` of them."""
    everything = read_dataset(pictures)
    records = list(everything)
    boxes, classes = read_boxes(pictures / "boxes.json"), read_class_map(pictures / "voc_to_imagenet.json")
    contract = contract_for(everything, model, preprocess)
    found: list[str] = []
    for place in np.random.default_rng(seed).permutation(len(records)):
        sample = load_record(records[place], model, contract)
        if len(found) == count or isinstance(sample, Skipped):
            continue
        [prediction] = model.run(sample.feed).values()
        names = boxes.label[boxes.of(sample.name)].tolist()
        if any(int(prediction.argmax()) in classes[name] for name in names):
            found.append(sample.name)
    return dataclasses.replace(everything, ids=tuple(found), labels=(None,) * len(found))


def lines(found: onnxplain.Evaluation, level: str) -> Iterator[str]:
    """The table of one model, and what SISE's lead over its rivals is."""
    rows = []
    for row in found.rows:
        cells = [" ".join(filter(None, (mean, interval and f"({interval})"))) for mean, interval in _cells(found, row)]
        rows.append([row.method, *cells, seconds(row)])
    yield f"{level}\n"
    yield table(["method", *(heading(measure) for measure in found.measures), "s"], rows)
    methods = [row.method for row in found.rows]
    for measure in QUESTIONS:
        for rival in RIVALS:
            if {"sise", rival} <= set(methods) and (lead := found.difference("sise", rival, measure)) is not None:
                yield f"{measure}, sise - {rival}: {lead.mean:+.1f} ({lead.low:+.1f} .. {lead.high:+.1f}), n = {lead.n}"


def _cells(found: onnxplain.Evaluation, row: Row) -> list[tuple[str, str]]:
    return [cell(row.measured[measure.name], measure.percent) for measure in found.measures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL=PREPROCESS")
    parser.add_argument("--methods", help="comma-separated; all of them by default")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25, help="of insertion and deletion")
    parser.add_argument("--rise-masks", type=int, default=1000)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench-methods"))
    asked = parser.parse_args()
    everything = [entry.name for entry in onnxplain.available_methods() if entry.name not in LEFT_OUT]
    methods = asked.methods.split(",") if asked.methods else everything
    for given in asked.models:
        path, _, preprocess = given.partition("=")
        model = onnxplain.load(path)
        dataset = chosen(model, preprocess, asked.pictures, asked.count, asked.seed)
        found = onnxplain.evaluate(
            model,
            dataset,
            methods,
            METRICS,
            boxes=asked.pictures / "boxes.json",
            class_map=asked.pictures / "voc_to_imagenet.json",
            preprocess=preprocess,
            options={"rise": {"masks": asked.rise_masks}} if "rise" in methods else {},
            steps=asked.steps,
            seed=asked.seed,
            folder=asked.output / Path(path).stem,
        )
        print("\n".join(lines(found, f"{Path(path).name}, {len(dataset)} pictures")), flush=True)


if __name__ == "__main__":
    main()
