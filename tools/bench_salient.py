"""Salient relevance on photographs with boxes: its map against its own LRP map and against trivial maps.

    python tools/bench_salient.py PICTURES MODEL.onnx=PREPROCESS ... [--count 40] [--seed 0] [--rules BOOK]

PICTURES holds the photographs, boxes.json (a list of {"file", "voc_class", "box_xyxy"}) and voc_to_imagenet.json (from
a class of the boxes to the model's classes, [index, name] each). Of each model count those pictures, in an order drawn
from the seed, whose predicted class is the box's. Maps are brought onto the picture and measured there; outside of what
the model saw they are 0.

Energy: share of the map's magnitude in the box. Pointing: share of pictures whose maximum lies in it, without
tolerance. IoU: of the box and the map at its best threshold. Areas: connected pieces that the top 5 % of the pixels
fall into. Means with 95 % bootstrap intervals over the pictures; then the differences, picture by picture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from photographs import right_ones
from timing import table

import onnxplain
from onnxplain.inputs.contract import discover
from onnxplain.inputs.loaders import Sample
from onnxplain.metrics.baselines import gaussian_map
from onnxplain.metrics.boxes import box_mask
from onnxplain.metrics.maps import best_iou, energy_in_box, pointing_game
from onnxplain.metrics.statistics import Estimate, estimate, paired_difference

Scores = dict[str, list[float]]

BLUR = 0.05
"""Standard deviation of the blurred map, as a share of its side."""
TOP = 0.05
MEASURES = ("energy", "pointing", "IoU", "areas")


def areas(values: NDArray[np.float32]) -> float:
    """How many connected pieces the top pixels of a map fall into."""
    top = values >= np.quantile(values, 1 - TOP)
    return float(cv2.connectedComponents((top & (values > values.min())).astype(np.uint8), connectivity=8)[0] - 1)


def maps(model: onnxplain.Model, sample: Sample, rules: str, colour: str) -> dict[str, NDArray[np.float32]]:
    """Every map on the pixels of the picture."""
    e = onnxplain.explain(model, sample.feed, "salient-relevance", rules=rules, colour=colour)
    [(name, relevance)] = e.relevance.items()
    axis = e.channels[name]
    assert axis is not None
    assert sample.geometry is not None
    magnitude = np.abs(relevance[0]).sum(axis=axis - 1)
    found = {
        "SR map": e.map()[0],
        "LRP": relevance[0].sum(axis=axis - 1),
        "LRP, magnitude": magnitude,
        "LRP, magnitude, blurred": cv2.GaussianBlur(magnitude, (0, 0), BLUR * max(magnitude.shape)),
        "centred Gaussian": gaussian_map((magnitude.shape[0], magnitude.shape[1])),
    }
    return {kind: sample.geometry.to_original(values) for kind, values in found.items()}


def measure(model: str, preprocess: str, given: argparse.Namespace) -> dict[str, Scores]:
    """Of every kind of map, each measure picture by picture."""
    loaded = onnxplain.load(model)
    contract = discover(loaded, loaded.inputs[0].name, preprocess=preprocess)
    scores: dict[str, Scores] = {}
    for photograph in right_ones(given.pictures, loaded, contract, given.count, given.seed):
        mask = box_mask(photograph.edges, photograph.picture.size)
        for kind, values in maps(loaded, photograph.sample, given.rules, contract.colour.value or "RGB").items():
            found = energy_in_box(values, mask), pointing_game(values, mask), best_iou(values, mask), areas(values)
            for name, value in zip(MEASURES, found, strict=True):
                scores.setdefault(kind, {}).setdefault(name, []).append(value)
    return scores


def row(kind: str, found: Mapping[str, Estimate], sign: str = "") -> list[str]:
    """A row of the table."""
    cells = []
    for name, one in found.items():
        form = f"{sign}.{1 if name == 'areas' else 3}f"
        cells.append(f"{one.mean:{form}} ({one.low:{form}} .. {one.high:{form}})")
    return [kind, *cells]


def main() -> None:
    """Print a table per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL.onnx=PREPROCESS")
    parser.add_argument("--count", type=int, default=40, help="pictures per model")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures' order")
    parser.add_argument("--rules", default="salient-relevance")
    given = parser.parse_args()
    for entry in given.models:
        model, _, preprocess = entry.rpartition("=")
        started = time.process_time()
        scores = measure(model, preprocess, given)
        count = len(scores["SR map"]["energy"])
        print(f"\n{Path(model).stem}, {count} pictures, {time.process_time() - started:.0f} s of CPU\n")
        salient = scores["SR map"]
        rows = [row(kind, {name: estimate(own[name]) for name in MEASURES}) for kind, own in scores.items()]
        for kind, own in scores.items():
            if own is not salient:
                ahead = {name: paired_difference(salient[name], own[name]) for name in MEASURES}
                rows.append(row(f"SR map - {kind}", ahead, "+"))
        print(table(["map", *MEASURES], rows), flush=True)


if __name__ == "__main__":
    main()
