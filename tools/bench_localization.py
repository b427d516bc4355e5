"""Boxes on photographs: fixations against maps of relevance and against boxes that know nothing of the model.

    python tools/bench_localization.py PICTURES MODEL.onnx=PREPROCESS ... [--count 174] [--seed 0]

PICTURES holds the photographs, boxes.json (a list of {"file", "voc_class", "box_xyxy"}) and voc_to_imagenet.json (from
a class of the boxes to the model's classes, [index, name] each). Of each model count those pictures whose predicted
class is the box's, so the error is that of the box alone (ground-truth-known).

Fixations box what is left of their points without outliers. A map is boxed as class activation maps are (Zhou et al.
2016): the tight box of the largest connected piece at or above 20 % of the maximum. Maps of single pixels are blurred
before, as the density map of the fixations is. Outside of what the model saw a map is 0.

Error: share of pictures whose box overlaps the true one by less than IoU 0.5, in percent. Pointing: share of pictures
whose map has its maximum in the box, in percent; for the trivial boxes that of their own picture. Means with 95 %
bootstrap intervals over the pictures; then the differences to the first line, picture by picture.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from photographs import Photograph, right_ones
from timing import table

import onnxplain
from onnxplain.inputs.contract import InputContract, discover
from onnxplain.metrics.baselines import gaussian_map
from onnxplain.metrics.boxes import box_mask, iou
from onnxplain.metrics.maps import pointing_game
from onnxplain.metrics.statistics import Estimate, estimate, paired_difference

SHARE = 0.2
"""Of the maximum, from where on a map counts as the object."""
SIGMA = 20.0
"""Pixels; that of the fixations' density map."""
MEASURES = ("IoU", "error, %", "pointing, %")
BLURRED = {"lrp": True, "input-x-gradient": True, "grad-cam": False}
"""The methods compared with, and whether their maps are of single pixels."""


class Found(NamedTuple):
    """What a method finds on a picture: the edges of a box, and a map."""

    box: Sequence[float]
    values: NDArray[np.float32]


def boxed(values: NDArray[np.float32]) -> Found:
    """The tight box of the largest connected piece of a map; all of a map without anything positive."""
    piece = (values >= SHARE * values.max()).astype(np.uint8)
    _, _, pieces, _ = cv2.connectedComponentsWithStats(piece, connectivity=8)
    left, top, width, height, _ = max(pieces[1:], key=lambda one: one[cv2.CC_STAT_AREA])
    return Found((left, top, left + width, top + height), values)


def fixated(model: onnxplain.Model, photograph: Photograph, contract: InputContract, crops: int) -> Found:
    """The box of the fixations, and their density map."""
    e = onnxplain.fixate_picture(model, photograph.picture, crops, contract=contract, sigma=SIGMA)
    [[left, top, right, bottom]] = e.boxes[contract.input_name]
    return Found((left, top, right + 1, bottom + 1), e.map()[0])


def mapped(model: onnxplain.Model, photograph: Photograph, method: str, blurred: bool) -> Found:
    """The box of a method's map, what speaks for the class in it."""
    assert photograph.sample.geometry is not None
    values = onnxplain.explain(model, photograph.sample.feed, method).map()[0]
    placed = photograph.sample.geometry.to_original(np.maximum(values, 0))
    if blurred:
        placed = np.asarray(cv2.GaussianBlur(placed, (0, 0), SIGMA), np.float32)
    return boxed(placed)


def findings(model: onnxplain.Model, photograph: Photograph, contract: InputContract) -> Iterator[tuple[str, Found]]:
    """What each method finds, the trivial ones last."""
    yield "fixations, five crops", fixated(model, photograph, contract, 5)
    yield "fixations, one window", fixated(model, photograph, contract, 1)
    for method, blurred in BLURRED.items():
        yield method, mapped(model, photograph, method, blurred)
    height, width = photograph.picture.size
    centre = gaussian_map((height, width))
    edge = (1 - 0.5**0.5) / 2
    middle = (edge * width, edge * height, (1 - edge) * width, (1 - edge) * height)
    yield "whole picture", Found((0, 0, width, height), np.ones_like(centre))
    yield "middle, half the area", Found(middle, centre)


def measure(path: Path, preprocess: str, given: argparse.Namespace) -> dict[str, NDArray[np.float64]]:
    """Of every method the measures, pictures x measures."""
    model = onnxplain.load(path)
    contract = discover(model, model.inputs[0].name, preprocess=preprocess)
    scores = defaultdict(list)
    for photograph in right_ones(given.pictures, model, contract, given.count, given.seed):
        mask = box_mask(photograph.edges, photograph.picture.size)
        for name, found in findings(model, photograph, contract):
            overlap = float(iou(found.box, photograph.edges).max())
            scores[name].append((overlap, 100 * (overlap < 0.5), 100 * pointing_game(found.values, mask)))
    return {name: np.array(rows, np.float64) for name, rows in scores.items()}


def row(name: str, found: Sequence[Estimate], sign: str = "") -> list[str]:
    """A row of the table."""
    forms = [f"{sign}.{digits}f" for digits in (3, 1, 1)]
    return [
        name,
        *(f"{e.mean:{form}} ({e.low:{form}} .. {e.high:{form}})" for e, form in zip(found, forms, strict=True)),
    ]


def main() -> None:
    """Print a table per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL.onnx=PREPROCESS")
    parser.add_argument("--count", type=int, default=174, help="pictures per model at most")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures' order")
    given = parser.parse_args()
    for entry in given.models:
        model, _, preprocess = entry.rpartition("=")
        scores = measure(Path(model), preprocess, given)
        (first, own), *others = scores.items()
        rows = [row(name, [estimate(column) for column in values.T]) for name, values in scores.items()]
        for name, values in others:
            ahead = [paired_difference(*columns) for columns in zip(own.T, values.T, strict=True)]
            rows.append(row(f"{first} - {name}", ahead, "+"))
        print(f"\n{Path(model).stem}, {len(own)} pictures\n")
        print(table(["method", *MEASURES], rows), flush=True)


if __name__ == "__main__":
    main()
