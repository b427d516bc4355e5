"""Methods that hide parts of the picture and watch the score: RISE and occlusion."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np

from onnxplain.checks import check_count, check_number, check_share
from onnxplain.engine.scores import Kind
from onnxplain.errors import UsageError
from onnxplain.explanation import Explanation
from onnxplain.methods.job import Job
from onnxplain.methods.masking import (
    Asked,
    Counter,
    Doubles,
    Draw,
    Floats,
    Upsampled,
    add_up,
    asked,
    masked_explanation,
)


def rise(
    job: Job,
    masks: int = 4000,
    cells: int = 7,
    keep: float = 0.5,
    score: Kind = "probability",
    fill: float | list[float] = 0.0,
    tolerance: float = 0.0,
) -> Explanation:
    """The mean of random masks, weighted by the score of the picture under each (RISE; Petsiuk et al. 2018).

    Parameters
    ----------
    job : Job
        ``seed`` settles the masks; every sample gets the same ones.
    masks : int
        Number of masks; the paper takes 4000 for VGG-16 and 8000 for ResNet-50.
    cells : int
        Cells of a mask along each side, before it is upsampled.
    keep : float
        Probability that a cell shows the picture.
    score : {"probability", "logit"}
    fill : float or list of float
        What masks show instead of the picture, in the units of the preprocessed input; one value, or one per channel.
    tolerance : float
        Stop once the map, min-max scaled, changed nowhere by more than this with the last 64 masks; 0: never.

    Returns
    -------
    Explanation
        ``map``, N x H x W: the sum of score times mask, over ``keep`` times the number of masks;
        ``extras["masks"]``, N: that number.
    """
    check_count("masks", masks)
    check_count("cells", cells)
    check_share("keep", keep)
    check_share("tolerance", tolerance, zero=True)
    started, samples, maps, used = time.perf_counter(), [], [], []
    for index, one in enumerate(asked(job, score, fill)):
        draw = random_masks(one.size, job.seed, cells, keep)
        total, count = add_up(one, masks, draw, lambda s, areas: s, Counter(job, index, masks), tolerance)
        samples.append(one)
        maps.append(total / (keep * count))
        used.append(count)
    e = masked_explanation(job, samples, maps, started)
    e.extras["masks"] = np.array(used)
    return e


def random_masks(size: tuple[int, int], seed: int, cells: int, keep: float) -> Draw:
    """The masks of RISE: a random grid of cells, upsampled to one cell more than the picture and cut out of it.

    Mask k depends on ``seed`` and k alone: ``default_rng([seed, k])`` draws ``cells * cells`` uniform numbers, of which
    those below ``keep`` show the picture, and then the row and the column of the upper left corner, within one cell.
    """
    cell = [math.ceil(side / cells) for side in size]
    large = ((cells + 1) * cell[0], (cells + 1) * cell[1])

    def draw(start: int, masks: Floats, areas: Doubles) -> None:
        grids, corners = np.empty((len(masks), cells, cells), np.float32), np.empty((len(masks), 2), np.int64)
        for k in range(len(masks)):
            rng = np.random.default_rng([seed, start + k])
            grids[k] = rng.random((cells, cells)) < keep
            corners[k] = rng.integers(0, cell)
        Upsampled(grids, large, scaled=False).draw(np.arange(len(masks)), masks, areas, corners)

    return draw


def occlusion(
    job: Job,
    window: float = 0.2,
    stride: float = 0.05,
    score: Kind = "probability",
    fill: float | list[float] = 0.0,
) -> Explanation:
    """How much the score falls when a window over a pixel is hidden, mean over the windows (Zeiler and Fergus 2014).

    Parameters
    ----------
    job : Job
    window, stride : float
        Side of the window and step between two, in pixels of the input; below 1, as a share of its smaller side.
        The last window of a row or column ends at the border.
    score : {"probability", "logit"}
    fill : float or list of float
        What the window shows, in the units of the preprocessed input; one value, or one per channel.

    Returns
    -------
    Explanation
        ``map``, N x H x W, in units of the score.

    Raises
    ------
    UsageError
        As of :func:`windows`.
    """
    started, samples, maps = time.perf_counter(), [], []
    for index, one in enumerate(asked(job, score, fill)):
        places = windows(one.size, window, stride)
        maps.append(_falls(one, places, Counter(job, index, len(places))))
        samples.append(one)
    return masked_explanation(job, samples, maps, started)


def windows(size: tuple[int, int], window: float, stride: float) -> list[tuple[slice, slice]]:
    """The windows of occlusion, row by row.

    Raises
    ------
    UsageError
        A size that is no positive number, a window larger than the picture, or windows with gaps between them.
    """
    side, step = (_pixels(name, value, size) for name, value in (("window", window), ("stride", stride)))
    if side > min(size):
        raise UsageError(f"window={window} is larger than the picture of {size[0]} x {size[1]} pixels")
    if step > side:
        raise UsageError(f"stride={stride} leaves pixels between windows of {side} pixels that are never hidden")
    starts = [[*range(0, length - side, step), length - side] for length in size]
    return [(slice(y, y + side), slice(x, x + side)) for y, x in itertools.product(*starts)]


def _pixels(name: str, value: float, size: tuple[int, int]) -> int:
    check_number(name, value)
    return max(1, round(value * min(size) if value < 1 else value))


def _falls(one: Asked, places: list[tuple[slice, slice]], advance: Counter) -> Doubles:
    def draw(start: int, masks: Floats, areas: Doubles) -> None:
        masks[:] = 1
        for mask, place in zip(masks, places[start:], strict=False):
            mask[place] = 0

    fall, often = np.zeros(one.size), np.zeros(one.size)
    found = np.concatenate([scores for _, _, scores in one.under(len(places), draw, advance)])
    for place, score in zip(places, found, strict=True):
        fall[place] += one.score - score
        often[place] += 1
    return np.asarray(fall / often)
