"""What masking methods share: the score of one picture under many masks, and maps added up as scores arrive."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxplain.engine.scores import ClassScores, Kind
from onnxplain.engine.stages import Stage
from onnxplain.errors import FailureError, UnsupportedError, UsageError
from onnxplain.explanation import Explanation, MaskCount
from onnxplain.graph.layers import Tensor
from onnxplain.graph.layout import channel_axis
from onnxplain.methods.job import Job
from onnxplain.model import Model
from onnxplain.targets import Chosen

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Draw = Callable[[int, Floats, Doubles], None]
"""Fills masks (n x H x W), beginning with the mask of that number, and the sum of each."""

Advance = Callable[[int], None]
"""Told how many more masks are done."""

CHECK = 64
"""Masks between two looks at whether a map has settled, whatever the batch size."""
BLOCK = 16
"""Masks written together, so that every thread has some where the model takes one picture at a time."""


def picture_input(model: Model) -> tuple[Tensor, int]:
    """The input that is a picture, and the axis of its channels.

    Raises
    ------
    UnsupportedError
        There is none, or more than one.
    """
    found = [(t, axis) for t in model.inputs if t.shape and len(t.shape) == 4 and (axis := channel_axis(t)) is not None]
    if len(found) != 1:
        named = ", ".join(repr(tensor.name) for tensor, _ in found) or "none"
        raise UnsupportedError(f"masks are laid over the one picture that a model reads; here that would be {named}")
    return found[0]


@dataclass
class Asked:
    """One sample and the score that masks are judged by.

    Attributes
    ----------
    feed : dict of str to numpy.ndarray
        The sample, with its axis.
    scores : ClassScores
    weights : float64 array
        What each element of the score weighs in the target.
    chosen : Chosen
    prediction : numpy.ndarray
        The model's output, with the axis of the samples.
    fill : numpy.ndarray
        float32, one value per channel, for what masks hide.
    """

    feed: dict[str, np.ndarray]
    scores: ClassScores
    weights: Doubles
    chosen: Chosen
    prediction: np.ndarray
    picture: Tensor
    axis: int
    fill: Floats
    _held: tuple[Floats, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        height, width = np.delete(self.feed[self.picture.name].shape[1:], self.axis - 1)
        return int(height), int(width)

    @property
    def score(self) -> float:
        """Of the whole picture."""
        return self.chosen.value

    def under(self, count: int, draw: Draw, advance: Advance) -> Iterator[tuple[Floats, Doubles, Doubles]]:
        """The picture under ``count`` masks, some at a time.

        Yields
        ------
        masks : float32 array, n x H * W
            Valid until the next ones are asked for.
        areas : float64 array, n
            The sum of each mask.
        scores : float64 array, n
        """
        from onnxplain.methods import mask_kernels as kernels

        batch = self.scores.batch
        block = min(-(-BLOCK // batch) * batch, count)
        x = np.ascontiguousarray(self.feed[self.picture.name][0], np.float32)
        blend = kernels.blend_pixels if self.axis == 3 else kernels.blend_planes
        pixels = x.reshape(-1, x.shape[2]) if self.axis == 3 else x.reshape(len(x), -1)
        masks, copies = self._buffers(block, x.shape)
        areas = np.empty(block)
        for start in range(0, count, block):
            n = min(block, count - start)
            draw(start, masks[:n], areas[:n])
            laid = masks[:n].reshape(n, -1)
            blend(n, n * x.size, laid, pixels, self.fill, copies.reshape(block, *pixels.shape))
            scores = np.concatenate([self._of(copies[i : min(i + batch, n)]) for i in range(0, n, batch)])
            yield laid, areas[:n], scores
            advance(n)

    def _buffers(self, block: int, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Room for masks and pictures, kept from layer to layer: fresh memory would cost more than the masks."""
        if not self._held or len(self._held[0]) < block:
            self._held = np.empty((block, *self.size), np.float32), np.empty((block, *shape), np.float32)
        return self._held[0][:block], self._held[1][:block]

    def _of(self, copies: np.ndarray) -> Doubles:
        copies = copies.astype(self.feed[self.picture.name].dtype, copy=False)
        scores = self.scores.of(self.scores.beside(self.picture.name, copies)) @ self.weights
        if not np.isfinite(scores).all():
            raise FailureError("the model gave NaN or Inf for a masked picture")
        return np.asarray(scores)


def asked(job: Job, score: Kind, fill: float | list[float] = 0.0) -> Iterator[Asked]:
    """The samples of a job, one by one.

    Parameters
    ----------
    job : Job
    score : {"probability", "logit"}
        The probability that the model gives, or what stands before its closing softmax or sigmoid.
    fill : float or list of float
        In the units of the preprocessed input, one value or one per channel.
    """
    picture, axis = picture_input(job.model)
    output = job.target.tensor if score == "logit" else job.target.output
    x = job.feed[picture.name]
    fills = _fill_values(fill, x.shape[axis])
    if not job.model.batched and any(t.shape and t.shape[0] != 1 for t in job.model.inputs):
        raise UnsupportedError("masks need a model that takes any number of pictures at once, or one")
    for index in range(len(x)):
        feed = {name: value[index : index + 1] for name, value in job.feed.items()}
        scores = ClassScores(job.model, output, feed, score, job.work.batch_size)
        prediction = job.model.trace([job.target.output], feed)[job.target.output.name]
        shaped = scores.of(feed).reshape(job.model.recording(feed, output).shape(output))
        target = replace(job.target, tensor=output, first=index, total=len(x))
        weights = target.weights(shaped)
        [chosen] = target.describe(shaped, weights)
        yield Asked(feed, scores, weights.reshape(-1), chosen, prediction, picture, axis, fills)


def _fill_values(fill: float | list[float], channels: int) -> Floats:
    values = np.atleast_1d(np.asarray(fill, np.float32)) if not isinstance(fill, str | bool) else np.array([np.nan])
    if values.ndim != 1 or len(values) not in (1, channels) or not np.isfinite(values).all():
        raise UsageError(f"fill must be a number or one per channel ({channels}), not {fill!r}")
    return np.ascontiguousarray(np.broadcast_to(values, channels), np.float32)


def tables(small: int, large: int) -> tuple[NDArray[np.int64], Floats]:
    """Between which two cells a pixel lies and how far from the first: centres aligned, edges continued.

    Returns
    -------
    int64 array, 2 x large
    float32 array, large
    """
    centre = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    first = np.minimum(centre.astype(np.int64), max(small - 2, 0))
    return np.stack([first, np.minimum(first + 1, small - 1)]), (centre - first).astype(np.float32)


class Upsampled:
    """Masks upsampled from small planes, each scaled to [0, 1] where asked.

    Parameters
    ----------
    planes : float32 array, n x h x w
    size : (int, int)
        To which a plane is upsampled.
    scaled : bool
    """

    def __init__(self, planes: np.ndarray, size: tuple[int, int], scaled: bool = True) -> None:
        self.planes = np.ascontiguousarray(planes, np.float32)
        self.scaled = scaled
        self.rows, self.row_share = tables(planes.shape[1], size[0])
        self.columns, self.column_share = tables(planes.shape[2], size[1])

    def draw(self, index: np.ndarray, masks: Floats, areas: Doubles, corners: np.ndarray | None = None) -> None:
        """Fill ``masks`` with the planes of ``index``, cut out where ``corners`` (n x 2) lie."""
        from onnxplain.methods import mask_kernels as kernels

        if corners is None:
            corners = np.zeros((len(index), 2), np.int64)
        kernels.upsample(
            len(masks), masks.size, self.planes, np.asarray(index, np.int64), self.rows, self.row_share, self.columns,
            self.column_share, corners, self.scaled, masks, areas,
        )  # fmt: skip


def add_up(
    one: Asked, count: int, draw: Draw, weigh: Callable[[Doubles, Doubles], Doubles], advance: Advance,
    tolerance: float = 0.0,
) -> tuple[Doubles, int]:  # fmt: skip
    """The sum of masks weighted by their scores, added up as scores arrive.

    Parameters
    ----------
    one : Asked
    count : int
        Number of masks.
    draw : callable
        See :data:`Draw`.
    weigh : callable
        From scores and areas to weights.
    advance : callable
        Told how many more are done.
    tolerance : float
        Stop once the map, min-max scaled, changed nowhere by more than this with the last ``CHECK`` masks; 0: never.

    Returns
    -------
    float64 array, H x W
    int
        How many masks were used.
    """
    from onnxplain.methods import mask_kernels as kernels

    total, before = np.zeros(math.prod(one.size)), None
    step = CHECK if tolerance else count
    for first in range(0, count, step or 1):
        for masks, areas, scores in one.under(min(step, count - first), _from(first, draw), advance):
            weights = weigh(scores, areas)
            kernels.accumulate(math.ceil(len(total) / kernels.BLOCK), masks.size, masks, weights, total)
        now = min_max(total)
        if tolerance and before is not None and np.abs(now - before).max() <= tolerance:
            count = min(first + step, count)
            break
        before = now
    return total.reshape(one.size), count


def _from(first: int, draw: Draw) -> Draw:
    return lambda start, masks, areas: draw(first + start, masks, areas)


def min_max(values: np.ndarray) -> np.ndarray:
    """Scaled to [0, 1]; zeros where it is constant."""
    low, high = values.min(), values.max()
    return np.asarray((values - low) / (high - low)) if high > low else np.zeros_like(values)


class Counter:
    """Tells a job's progress over all samples.

    Parameters
    ----------
    job : Job
    index : int
        Of the sample.
    total : int
        Masks of this sample.
    """

    def __init__(self, job: Job, index: int, total: int) -> None:
        self._job, self._total, self._done = job, total, index * total
        self._samples = len(job.feed[job.model.inputs[0].name])

    def __call__(self, done: int) -> None:
        """That many more masks are done."""
        self._done += done
        if self._job.progress:
            self._job.progress(self._done, self._samples * self._total)


def masked_explanation(job: Job, samples: Sequence[Asked], maps: Sequence[np.ndarray], started: float) -> Explanation:
    """The explanation of maps H x W, one per sample."""
    picture, axis = samples[0].picture, samples[0].axis
    return Explanation(
        {},
        np.concatenate([one.prediction for one in samples]),
        [one.chosen for one in samples],
        job.method,
        "host",
        timings={"masked passes": time.perf_counter() - started},
        notes=(samples[0].scores.note, *job.notes[len(job.target.notes) :], *sorted(job.model.remarks)),
        channels={picture.name: axis},
        maps={picture.name: np.stack(maps).astype(np.float32)},
    )


def feature_planes(value: np.ndarray, stage: Stage) -> Floats:
    """The only sample of a stage's tensor as C x h x w.

    Raises
    ------
    UnsupportedError
        Its maps do not have two axes.
    """
    planes = np.moveaxis(value, stage.channel_axis, 1)[0]
    if planes.ndim != 3:
        raise UnsupportedError(f"tensor {stage.tensor.name!r} of shape {value.shape} holds no maps of two axes")
    return np.ascontiguousarray(planes, np.float32)


def noted(
    e: Explanation,
    stages: Sequence[Stage],
    selected: Sequence[Sequence[int]],
    skipped: Sequence[Sequence[int]],
    used: Sequence[Sequence[int]],
) -> Explanation:
    """Enter the layers, and how many of the maps of each became masks, per sample."""
    e.layers = tuple(stage.tensor.name for stage in stages)
    e.masks = tuple(
        MaskCount(stage.tensor.name, stage.reason, *map(tuple, counts))
        for stage, *counts in zip(stages, selected, skipped, used, strict=True)
    )
    return e
