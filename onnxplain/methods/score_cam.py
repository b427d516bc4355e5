"""Score-CAM: feature maps weighted by what the model says of the picture under each."""

from __future__ import annotations

import time

import numpy as np

from onnxplain.engine.scores import Kind
from onnxplain.engine.stages import Stage, last_spatial
from onnxplain.explanation import Explanation
from onnxplain.methods.job import Job
from onnxplain.methods.masking import (
    Asked,
    Counter,
    Doubles,
    Floats,
    Upsampled,
    asked,
    feature_planes,
    masked_explanation,
    noted,
)


def score_cam(
    job: Job, layer: str | None = None, score: Kind = "logit", fill: float | list[float] = 0.0
) -> Explanation:
    """The last feature maps, weighted by the softmax of the score under each as a mask (Score-CAM; Wang et al. 2020).

    Parameters
    ----------
    job : Job
    layer : str, optional
        Tensor to take the feature maps from; the last with places by default.
    score : {"logit", "probability"}
    fill : float or list of float
        What masks show instead of the picture, in the units of the preprocessed input; one value, or one per channel.

    Returns
    -------
    Explanation
        ``map``, N x H x W: the positive part of the weighted sum, upsampled to the input; ``layers``; ``masks``.
    """
    started, samples, maps, counts = time.perf_counter(), [], [], []
    stages: list[Stage] = []
    for index, one in enumerate(asked(job, score, fill)):
        stages = stages or [last_spatial(job.model, one.scores.logits, one.feed, layer)]
        tensor = stages[0].tensor
        features = feature_planes(job.model.trace([tensor], one.feed)[tensor.name], stages[0])
        scores = _scores(one, features, Counter(job, index, len(features)))
        weights = np.exp(scores - scores.max())
        maps.append(_joined(features, weights / weights.sum(), one.size))
        samples.append(one)
        counts.append(len(features))
    return noted(masked_explanation(job, samples, maps, started), stages, [counts], [[0] * len(counts)], [counts])


def _scores(one: Asked, features: Floats, advance: Counter) -> Doubles:
    """The score under every feature map."""
    upsampled = Upsampled(features, one.size)

    def draw(start: int, masks: Floats, areas: Doubles) -> None:
        upsampled.draw(np.arange(start, start + len(masks)), masks, areas)

    return np.concatenate([scores for *_, scores in one.under(len(features), draw, advance)])


def _joined(features: Floats, weights: Doubles, size: tuple[int, int]) -> Floats:
    joined, mask = np.maximum(np.tensordot(weights, features, 1), 0), np.empty((1, *size), np.float32)
    Upsampled(joined[None], size, scaled=False).draw(np.zeros(1, np.int64), mask, np.empty(1))
    return np.asarray(mask[0])
