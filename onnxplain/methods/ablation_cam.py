"""Ablation-CAM: feature maps weighted by what the target loses without them; no gradient is taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnxplain.engine.budget import MEMORY_BUDGET
from onnxplain.engine.run import Result, joined
from onnxplain.explanation import Explanation
from onnxplain.methods.feature_maps import Array, FeatureMaps
from onnxplain.methods.job import Job

MOST = 64
"""Largest number of feature maps left out in one pass: beyond it a CPU gains nothing."""


def ablation_cam(job: Job, layer: str | None = None, relu: bool = True, upsampling: str = "bilinear") -> Explanation:
    """Feature maps weighted by how much the target loses without them (Desai and Ramaswamy 2020).

    w_k = (y - y_k) / |y|, where y_k is the target with feature map k set to 0. The network is run from the layer on,
    once per feature map. Parameters and result as of :func:`onnxplain.methods.cam.grad_cam`.
    """
    features = FeatureMaps.settled(job, layer, relu, upsampling)
    results, weights, cams = [], [], []
    for result, a, w in _parts(features):
        results.append(result)
        weights.append(w)
        cams.append((w * a).sum(axis=1))
    return features.explanation(joined(results), np.concatenate(weights), np.concatenate(cams))


def _parts(features: FeatureMaps) -> Iterator[tuple[Result, Array, Array]]:
    """Per sample, or per batch where the file fixes one: the prediction, the feature maps, their weights."""
    job = features.job
    model, target = job.model, job.target
    count = len(next(iter(job.feed.values())))
    size = 1 if model.batched else model.fixed_batch or count
    for start in range(0, count, size):
        started = time.perf_counter()
        feed = {name: value[start : start + size] for name, value in job.feed.items()}
        part = replace(target, first=start, total=count) if count > size else target
        found = model.trace([features.tensor, target.tensor, target.output], feed)
        y = found[target.tensor.name]
        chosen = part.weights(y)
        a = features.channels_first(found[features.tensor.name])
        lost = np.empty(a.shape[:2])
        for first, scores in _without(features, feed, found[features.tensor.name], chosen):
            lost[:, first : first + len(scores)] = scores.T
            if job.progress:
                job.progress(start * a.shape[1] + (first + len(scores)) * len(a), count * a.shape[1])
        score = _score(chosen, y)[:, None]
        w = (score - lost) / np.where(score == 0, 1, np.abs(score))
        spent = {"forward": time.perf_counter() - started}
        result = Result({}, found[target.output.name], chosen, part.describe(y, chosen), None, "host", timings=spent)
        yield result, a, w.reshape(*w.shape, *[1] * (a.ndim - 2))


def _without(
    features: FeatureMaps, feed: dict[str, np.ndarray], value: np.ndarray, chosen: np.ndarray
) -> Iterator[tuple[int, Array]]:
    """The scores, maps x samples, with each of the next few feature maps left out, and the first of these."""
    job, axis = features.job, features.stage.channel_axis
    fitting = MEMORY_BUDGET // (4 * max(value.nbytes, 1))
    most = (job.work.batch_size or min(MOST, max(1, fitting))) if job.model.batched else 1
    for first in range(0, value.shape[axis], most):
        left_out = range(first, min(first + most, value.shape[axis]))
        copies = np.concatenate([value] * len(left_out))
        for row, k in enumerate(left_out):
            np.moveaxis(copies[row * len(value) : (row + 1) * len(value)], axis, 1)[:, k] = 0
        repeated = {name: np.concatenate([each] * len(left_out)) for name, each in feed.items()}
        y = job.model.resume(features.tensor, copies, repeated, job.target.tensor)
        yield first, np.stack([_score(chosen, each) for each in np.split(y, len(left_out))])


def _score(weights: np.ndarray, y: np.ndarray) -> Array:
    """The target's value, per sample."""
    return np.asarray((weights.astype(np.float64) * y).reshape(len(y), -1).sum(axis=1))
