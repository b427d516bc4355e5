"""Area under the IoU curve on flowers whose deciding part is known, for vebi and every other method, in five folds.

    python tools/flowers.py --layout an8flower --per-class 80 --seed 2 -o DIR
    python tools/evaluate_flowers.py models/an8flower-single-6c.onnx DIR/an8Flower_single_6c -o RESULTS

PICTURES holds files named as in an8Flower, PICTURES_MASK or --masks the masks. Plants, not pictures, are divided into
folds, so no plant is in two. For each fold the features of the classes are found on the other four, with mu 5 as the
paper does, and every method explains the predicted class of a seeded choice of the fold's pictures. A map's score is
the exact area under its IoU with the mask over all thresholds, in percent, of its positive part, or of its magnitude
where it is a gradient, whose sign does not tell for or against; the table has the mean of the folds' means and their
deviation. Below it stand the accuracy and the mean score of the right class on the same pictures when
the relevant filters of their class are set to 0, and when random ones of the same tensors are: as many, and more.
Interrupted, the evaluation goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from an8flower import An8Flower, masks_as_png, read_an8flower
from numpy.typing import NDArray
from timing import table

import onnxplain
from onnxplain.inputs.datasets import Dataset

Scores = dict[str, float]

FOLDS = 5
MU = 5.0
MEASURE = "iou-auc"
REMEDIED = ("vebi", "guided-backprop", "deconvnet")
"""Methods that are measured with the remedy against the grid of strides and without."""

REMOVED = (2, 4, 8, 16, 32)
"""Random filters that are removed."""
GRADIENTS = ("gradient", "smoothgrad", "guided-backprop", "deconvnet", "guided-grad-cam")


def folds(flowers: An8Flower, test: int, seed: int) -> Iterator[tuple[Dataset, Dataset]]:
    """Per fold, the pictures of the other plants, and ``test`` pictures per class of its own."""
    rank = np.random.default_rng(seed).permutation(len(flowers.plants))
    labels = np.array(flowers.data.labels)
    for fold in range(FOLDS):
        own = flowers.plants % FOLDS == fold
        tested = np.zeros_like(own)
        for label in np.unique(labels):
            places = np.flatnonzero(own & (labels == label))
            tested[places[np.argsort(rank[places])[:test]]] = True
        yield flowers.where(~own), flowers.where(tested)


def scores(model: onnxplain.Model, known: Dataset, tested: Dataset, given: argparse.Namespace, folder: Path) -> Scores:
    """The mean score of every method on the pictures of a fold."""
    features = folder / "features"
    onnxplain.interpret(model, known, mu=MU, folder=folder / "responses").save(features)
    told: dict[str, dict[str, Any]] = {"vebi": {"interpretation": str(features)}, "rise": {"masks": given.masked}}
    signed = [name for name in given.methods if name not in GRADIENTS]
    unsigned = [name for name in given.methods if name in GRADIENTS]
    means: Scores = {}
    for methods, evidence, own in ((signed, "positive", folder), (unsigned, "absolute", folder / "gradients")):
        for strides in ("plain", "remedy"):
            asked = [name for name in methods if strides == "plain" or name in REMEDIED]
            added = {name: {"stride_artifacts": strides} for name in REMEDIED}
            if not asked:
                continue
            result = onnxplain.evaluate(
                model, tested, asked, [MEASURE], masks=given.masks, evidence=evidence, folder=own, seed=given.seed,
                options={name: told.get(name, {}) | added.get(name, {}) for name in asked},
            )  # fmt: skip
            for note in result.notes:
                print(note, file=sys.stderr)
            for row in result.rows:
                name = row.method + (", remedy" if strides == "remedy" and not row.trivial else "")
                means[name] = float(np.nanmean(row.measured[MEASURE].values))
    return means


def ablated(model: onnxplain.Model, tested: Dataset, features: Path, seed: int) -> dict[str, tuple[float, ...]]:
    """Mean number of filters removed, accuracy in percent and score, by what is removed.

    The last entry is the number of random filters that costs a class at least as much score as its relevant ones;
    classes for which the most are too few count with that number.
    """
    found = onnxplain.ablate(model, tested, features, labels="given", seed=seed, removals=REMOVED[-1])
    accuracy, score = 100 * found.random.mean(axis=0), found.random_score.mean(axis=0)
    own = found.filters
    as_low = score <= found.relevant_score[:, -1:]
    as_low[:, -1] = True
    enough = as_low.argmax(axis=1)
    places = np.arange(len(own))
    rows: dict[str, tuple[NDArray[np.float64] | int, ...]] = {
        "nothing": (0, accuracy[:, 0], score[:, 0]),
        "the relevant": (own, 100 * found.relevant[:, -1], found.relevant_score[:, -1]),
        "as many random": (own, accuracy[places, own], score[places, own]),
        **{f"{count} random": (count, accuracy[:, count], score[:, count]) for count in REMOVED},
        "random, to the score without the relevant": (enough, accuracy[places, enough], score[places, enough]),
    }
    return {name: tuple(float(np.mean(each)) for each in row) for name, row in rows.items()}


def folded(values: Sequence[float] | NDArray[np.float64], digits: int = 1) -> str:
    """Mean over the folds and their deviation."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of features, responses and journals")
    parser.add_argument("--masks", type=Path, help="folder of masks (default: PICTURES_MASK)")
    parser.add_argument("--test", type=int, default=10, help="pictures per class and fold (default: %(default)s)")
    parser.add_argument("--methods", type=lambda text: text.split(","), help="LIST of methods (default: all)")
    parser.add_argument("--masked", type=int, default=1000, help="masks of rise (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of pictures and of methods")
    given = parser.parse_args()
    given.methods = given.methods or [method.name for method in onnxplain.available_methods()]
    masks = given.masks or given.pictures.with_name(f"{given.pictures.name}_MASK")
    given.masks = masks_as_png(masks, given.output / "masks")
    flowers = read_an8flower(given.pictures)
    model = onnxplain.load(given.model)
    found, removed = [], []
    for fold, (known, tested) in enumerate(folds(flowers, given.test, given.seed)):
        folder = given.output / f"fold-{fold}"
        found.append(scores(model, known, tested, given, folder))
        removed.append(ablated(model, tested, folder / "features", given.seed))
        print(f"fold {fold}: features of {len(known)} pictures, {len(tested)} explained", file=sys.stderr)
    ranked = sorted(found[0], key=lambda name: -np.mean([fold[name] for fold in found]))
    print(table(["method", "area, %"], [(name, folded([fold[name] for fold in found])) for name in ranked]))
    print()
    rows = []
    for name in removed[0]:
        count, accuracy, score = np.transpose([fold[name] for fold in removed])
        rows.append((name, f"{count.mean():.1f}", folded(accuracy), folded(score, 2)))
    print(table(["removed", "filters", "accuracy, %", "score"], rows))


if __name__ == "__main__":
    main()
