"""Localisation error of predicted boxes against ground truth: top-1, top-5 and ground-truth-known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxplain.errors import UsageError
from onnxplain.metrics.boxes import Boxes, Pixels, image_key, iou
from onnxplain.metrics.statistics import RESAMPLES, Estimate, estimate

TruthBoxes = Literal["any", "first"]

_LABELS = 5


@dataclass(frozen=True)
class LocalizationError:
    """Share of images whose object was not found, in percent.

    Attributes
    ----------
    top1 : Estimate
        The first label is wrong or its box overlaps no ground-truth box of that class enough.
    gt_known : Estimate
        The first box overlaps no ground-truth box enough, whatever its label.
    top5 : Estimate or None
        None of the first five labels is right with its box overlapping enough; None where an image has fewer than five.
    n : int
        Images that count: those with a ground-truth box.
    unpredicted : int
        Images among them without a predicted box, which count as errors.
    without_truth : int
        Images left out because they have no ground-truth box.
    """

    top1: Estimate
    gt_known: Estimate
    top5: Estimate | None
    n: int
    unpredicted: int
    without_truth: int


def localization_error(
    predicted: Boxes,
    truth: Boxes,
    *,
    threshold: float = 0.5,
    pixels: Pixels = "inclusive",
    boxes: TruthBoxes = "any",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LocalizationError:
    """Localisation error with bootstrap intervals over the images.

    The defaults are the protocol of CNN-Fixations (Mopuri et al., 2019) and of the ILSVRC localisation task: right
    label and IoU >= 0.5 with any ground-truth box of that class, corners inclusive, over all images.

    Parameters
    ----------
    predicted : Boxes
        Predicted boxes; the rows of an image are its labels by rank. Images are matched by name; `truth` has to know
        every one.
    truth : Boxes
        Ground-truth boxes.
    threshold : float
        Least intersection over union of a hit.
    pixels : {"inclusive", "exclusive"}
        See `Boxes.edges`.
    boxes : {"any", "first"}
        Whether any ground-truth box of the image counts or only the first.
    resamples, seed
        See `estimate`.

    Raises
    ------
    UsageError
        An option is out of range, a predicted image is unknown to `truth`, or one of the two has no box.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"the IoU threshold lies above 0 and at most at 1, not at {threshold}")
    if pixels not in ("inclusive", "exclusive"):
        raise UsageError(f"pixels are counted 'inclusive' or 'exclusive', not {pixels!r}")
    if boxes not in ("any", "first"):
        raise UsageError(f"ground-truth boxes count as 'any' or 'first', not {boxes!r}")
    if not len(predicted.image):
        raise UsageError(f"{predicted.source} has no predicted box; give the file that has them")
    if not len(truth.image):
        raise UsageError(f"{truth.source} has no ground-truth box; give the file that has them")
    image, rank = _places(predicted, truth)
    found, named = _hits(predicted, truth, image, threshold, pixels, boxes)

    images = len(truth.images)
    with_truth = np.diff(truth.starts) > 0
    guesses = np.bincount(image, minlength=images)
    five = guesses[guesses > 0].min() >= _LABELS

    def error(hits: NDArray[np.bool_]) -> Estimate:
        missed = np.bincount(image[hits], minlength=images) == 0
        return estimate(100.0 * missed[with_truth], resamples=resamples, seed=seed)

    return LocalizationError(
        top1=error(named & (rank == 0)),
        gt_known=error(found & (rank == 0)),
        top5=error(named & (rank < _LABELS)) if five else None,
        n=int(with_truth.sum()),
        unpredicted=int((with_truth & (guesses == 0)).sum()),
        without_truth=int((~with_truth).sum()),
    )


def _places(predicted: Boxes, truth: Boxes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of every predicted box: its image's position in `truth` and its rank within the image."""
    unknown = [name for name in predicted.images if image_key(name) not in truth.index]
    if unknown:
        share = f"{len(unknown)} of {len(predicted.images)} images"
        raise UsageError(
            f"{truth.source} does not know {share} of {predicted.source}, such as {unknown[0]!r}; "
            f"its names look like {', '.join(truth.images[:1])!r}"
        )
    position = np.array([truth.index[image_key(name)] for name in predicted.images], dtype=np.int64)
    rank = np.arange(len(predicted.image)) - predicted.starts[predicted.image]
    return position[predicted.image], rank


def _hits(
    predicted: Boxes, truth: Boxes, image: NDArray[np.int64], threshold: float, pixels: Pixels, boxes: TruthBoxes
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of every predicted box: whether it overlaps a ground-truth box enough, and one of its own class."""
    first, counts = truth.starts[image], np.diff(truth.starts)[image]
    if boxes == "first":
        counts = np.minimum(counts, 1)
    guess = np.repeat(np.arange(len(image)), counts)
    offset = np.arange(len(guess)) - np.repeat(np.cumsum(counts) - counts, counts)
    target = np.repeat(first, counts) + offset
    overlap = iou(predicted.edges(pixels)[guess], truth.edges(pixels)[target]) >= threshold
    same = predicted.label[guess] == truth.label[target]
    found, named = np.zeros((2, len(image)), dtype=np.bool_)
    found[guess[overlap]] = True
    named[guess[overlap & same]] = True
    return found, named
