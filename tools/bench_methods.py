"""Every method on photographs with boxes, in the measures of the SISE paper: the shape of its comparison.

    python tools/bench_methods.py PICTURES MODEL.onnx[=PREPROCESS] ... [--methods LIST] [--books LIST]
                                  [--interpret DATASET] [--count 24] [--rise-masks 1000]

PICTURES holds the photographs, boxes.json (a list of {"file", "voc_class", "box_xyxy"}) and voc_to_imagenet.json (from
a class of the boxes to the model's classes, [index, name] each). Of each model count the first COUNT of those pictures,
in an order drawn from the seed, whose predicted class is the box's; that class is explained. What is measured is the
positive part of each map, in the window that the model sees. VEBI explains by features that it finds in the data set
DATASET; without one it is left out.

Prints the measures of the paper with 95 % bootstrap intervals over the pictures, the means of the others, then the
differences of SISE to its rivals and what lies above a centred Gaussian, picture by picture. A journal in the folder
of -o keeps what is done, so that an interrupted run goes on there, and more methods cost only themselves.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from timing import table

import onnxplain
from onnxplain.inputs.datasets import Dataset, read_dataset
from onnxplain.inputs.loaders import Skipped, contract_for, load_record
from onnxplain.metrics.box_files import read_boxes
from onnxplain.metrics.measures import PUBLISHED
from onnxplain.metrics.results import Evaluation, Row
from onnxplain.metrics.truth import read_class_map
from onnxplain.render.evaluation import cell, counted, heading

METRICS = (*PUBLISHED, "pointing", "insertion-blur", "deletion-zero", "sparseness")
BOOKS = ("epsilon", "epsilon-alpha2-beta1-flat", "epsilon-gamma-box", "excitation-backprop")
"""Rule books of lrp that stand beside its own."""
RIVALS = ("rise", "grad-cam")
QUESTIONS = ("ebpg", "drop")
LOCATED = ("ebpg", "miou", "bbox")


def chosen(model: onnxplain.Model, preprocess: str | None, pictures: Path, count: int, seed: int) -> Dataset:
    """The pictures that the model classifies as what is in the box, ``count`` of them."""
    everything = read_dataset(pictures)
    records = list(everything)
    boxes, classes = read_boxes(pictures / "boxes.json"), read_class_map(pictures / "voc_to_imagenet.json")
    contract = contract_for(everything, model, preprocess)
    found: list[str] = []
    for place in np.random.default_rng(seed).permutation(len(records)):
        if len(found) == count:
            break
        sample = load_record(records[place], model, contract)
        if isinstance(sample, Skipped):
            continue
        [prediction] = model.run(sample.feed).values()
        names = boxes.label[boxes.of(sample.name)].tolist()
        if any(int(prediction.argmax()) in classes[name] for name in names):
            found.append(sample.name)
    return dataclasses.replace(everything, ids=tuple(found), labels=(None,) * len(found))


def judged(
    model: onnxplain.Model, methods: Sequence[str], books: Sequence[str], options: dict[str, Any], **asked: Any
) -> Evaluation:
    """One evaluation of all methods, in which every further rule book of lrp is a method of its own."""
    evaluate = partial(onnxplain.evaluate, model, metrics=METRICS, **asked)
    found = evaluate(methods=methods, options={name: own for name, own in options.items() if name in methods})
    variants = [
        dataclasses.replace(evaluate(methods=["lrp"], options={"lrp": {"rules": book}})["lrp"], method=f"lrp {book}")
        for book in books
    ]
    place = next((place for place, row in enumerate(found.rows, 1) if row.method == "lrp"), 0)
    return dataclasses.replace(found, rows=(*found.rows[:place], *variants, *found.rows[place:]))


def features(model: onnxplain.Model, preprocess: str | None, dataset: Path, folder: Path) -> Mapping[str, str]:
    """The options of VEBI: the features that the classes use on a data set, found where they are not yet."""
    if not (folder / "interpretation.json").exists():
        onnxplain.interpret(model, dataset, preprocess=preprocess, folder=folder / "responses").save(folder)
    return {"interpretation": str(folder)}


def lines(found: Evaluation, title: str) -> Iterator[str]:
    """The tables of one model, what is to be known of them, and what SISE's lead over its rivals is."""
    main = [measure for measure in found.measures if measure.name in PUBLISHED]
    rest = [measure for measure in found.measures if measure.name not in PUBLISHED]

    def cells(row: Row, intervals: bool) -> list[str]:
        told = [cell(row.measured[measure.name], measure.percent) for measure in (main if intervals else rest)]
        return [f"{mean} ({interval})" if interval and intervals else mean for mean, interval in told]

    yield f"{title}\n"
    yield table(["method", *map(heading, main)], [[row.method, *cells(row, True)] for row in found.rows])
    yield ""
    yield table(["method", *map(heading, rest)], [[row.method, *cells(row, False)] for row in found.rows])
    yield ""
    yield from (f"- {note}" for note in found.notes)
    names = {row.method for row in found.rows}
    for measure in QUESTIONS:
        for rival in RIVALS:
            if {"sise", rival} <= names and (lead := found.difference("sise", rival, measure)) is not None:
                interval = f"{lead.mean:+.1f} ({lead.low:+.1f} .. {lead.high:+.1f})"
                yield f"- {measure}, sise - {rival}: {interval}, n = {lead.n}"
    yield from (f"- {measure} above the Gaussian's, picture by picture: {ahead(found, measure)}" for measure in LOCATED)


def ahead(found: Evaluation, measure: str) -> str:
    """The methods that lead the centred Gaussian by an interval above 0, picture by picture."""
    leads = {row.method: found.difference(row.method, "gaussian", measure) for row in found.rows}
    return ", ".join(method for method, lead in leads.items() if lead is not None and lead.low > 0) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL[=PREPROCESS]")
    parser.add_argument("--methods", help="comma-separated; all of them by default")
    parser.add_argument("--books", default=",".join(BOOKS), help="rule books of lrp besides its own, comma-separated")
    parser.add_argument("--interpret", type=Path, metavar="DATASET", help="where VEBI finds its features")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25, help="of insertion and deletion")
    parser.add_argument("--rise-masks", type=int, default=1000)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench-methods"))
    asked = parser.parse_args()
    everything = [entry.name for entry in onnxplain.available_methods() if asked.interpret or entry.name != "vebi"]
    methods = asked.methods.split(",") if asked.methods else everything
    for given in asked.models:
        path, _, named = given.partition("=")
        preprocess = named or None
        model, folder = onnxplain.load(path), asked.output / Path(path).stem
        dataset = chosen(model, preprocess, asked.pictures, asked.count, asked.seed)
        options: dict[str, Any] = {"rise": {"masks": asked.rise_masks}}
        if asked.interpret and "vebi" in methods:
            options["vebi"] = features(model, preprocess, asked.interpret, folder / "features")
        found = judged(
            model, methods, list(filter(None, asked.books.split(","))), options,
            dataset=dataset,
            boxes=asked.pictures / "boxes.json",
            class_map=asked.pictures / "voc_to_imagenet.json",
            preprocess=preprocess,
            steps=asked.steps,
            seed=asked.seed,
            folder=folder,
        )  # fmt: skip
        print("\n".join(lines(found, f"{Path(path).name}, {counted(found)}")), flush=True)


if __name__ == "__main__":
    main()
