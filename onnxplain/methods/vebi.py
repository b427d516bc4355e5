"""Visual explanation by interpretation: a prediction through the features that its class is known to use.

Oramas, Wang and Tuytelaars, ICLR 2019 (arXiv 1712.06302).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnxplain.checks import check_count
from onnxplain.engine.responses import Filters, Responses
from onnxplain.engine.run import Result
from onnxplain.errors import UsageError
from onnxplain.explanation import Explanation
from onnxplain.graph.layout import channel_axis
from onnxplain.interpretation.result import Interpretation
from onnxplain.interpretation.visual import SIDE, read_averages
from onnxplain.methods.gradients import signal_book
from onnxplain.methods.job import Job
from onnxplain.relevance.books import RuleBook
from onnxplain.targets import Chosen, Target

RULES = "guided-backprop"


def vebi(
    job: Job,
    interpretation: Interpretation | str | os.PathLike[str] | None = None,
    top: int = 3,
    stride_artifacts: str = "remedy",
    strided_pools: str = "plain",
) -> Explanation:
    """The relevant features of the class that respond most here, each carried back to the input (Oramas et al. 2019).

    Parameters
    ----------
    job : Job
    interpretation : Interpretation or path
        What :func:`onnxplain.interpret` found for this model.
    top : int
        How many features are carried back.
    stride_artifacts, strided_pools : {"plain", "remedy"}
        See :func:`onnxplain.methods.gradients.signal_book`. The authors remedy convolutions and leave pools alone.

    Returns
    -------
    Explanation
        ``relevance`` is the sum of the features' signals. For pictures ``map`` is the pixel-wise maximum of the
        features' maps, each in [0, 1]; ``extras`` holds ``features/NAME``, N x top x H x W, the maps one by one.
        ``feature_names``, ``feature_index``, ``feature_scores``, N x top, say which filters they are ("", -1 and 0
        where a class has fewer); ``average``, N x top x 64 x 64 x 3, what each responds to, where that was drawn.

    Raises
    ------
    UsageError
        No interpretation, one of another model or output, or a target that is no class.
    """
    known = _opened(job, interpretation, top)
    book = signal_book(RULES, stride_artifacts, strided_pools)
    started = time.perf_counter()
    responses = Responses(job.model, job.target.tensor, known.filters)
    rows = list(_each(job))
    ran = [responses.run(row.feed) for row in rows]
    scores = np.concatenate([y for y, _ in ran])
    weights = job.target.weights(scores)
    chosen = job.target.describe(scores, weights)
    timings = {"forward": time.perf_counter() - started}
    picks = [_strongest(known, target.index, x, top) for target, (_, x) in zip(chosen, ran, strict=True)]
    prediction = job.model.plain.run(job.feed)[job.target.output.name]
    e = Explanation(
        {}, prediction, chosen, job.method, "host", timings=timings,
        notes=(*job.notes, *_notes(known, chosen, picks)),
        channels={tensor.name: channel_axis(tensor) for tensor in job.model.inputs},
    )  # fmt: skip
    signals = [
        [_carried_back(row, book, *known.located(place)) for place, _ in pick]
        for row, pick in zip(rows, picks, strict=True)
    ]
    if any(signals):
        e.engine = next(result.engine for row in signals for result in row)
    timings["backward"] = time.perf_counter() - started - timings["forward"]
    for tensor in job.model.inputs:
        _enter(e, tensor.name, np.shape(job.feed[tensor.name]), signals, top)
    _name(e, known, picks, top)
    return e


def _opened(job: Job, interpretation: Interpretation | str | os.PathLike[str] | None, top: int) -> Interpretation:
    if interpretation is None:
        raise UsageError("vebi needs what 'onnxplain interpret' found: give it as interpretation= (--option)")
    if not isinstance(interpretation, Interpretation | str | os.PathLike):
        raise UsageError(f"interpretation must be an Interpretation or its folder, not {interpretation!r}")
    check_count("top", top)
    if not isinstance(interpretation, Interpretation):
        interpretation = Interpretation.load(interpretation)
    interpretation.check_model(job.model)
    if interpretation.target != job.target.tensor.name:
        raise UsageError(
            f"the interpretation is of {interpretation.target!r}, the target is {job.target.tensor.name!r}; "
            "choose the same output for both"
        )
    return interpretation


def _each(job: Job) -> Iterator[Job]:
    """The samples one by one."""
    count = len(next(iter(job.feed.values()))) if job.model.batched else 1
    for index in range(count):
        feed = {name: value[index : index + 1] if count > 1 else value for name, value in job.feed.items()}
        yield replace(job, feed=feed)


def _strongest(known: Interpretation, index: int | None, x: np.ndarray, top: int) -> list[tuple[int, float]]:
    """The relevant filters of a class by their share of x . w / sum w, x being of unit length; only those above 0."""
    if index is None:
        raise UsageError("vebi explains one class: an index, a label or the predicted class")
    filters, weights = known.weights_of(index)
    if not filters.size or not x.any():
        return []
    scores = x[0, filters] / np.linalg.norm(x) * weights / weights.sum()
    order = np.argsort(-scores, kind="stable")[:top]
    return [(int(filters[place]), float(scores[place])) for place in order if scores[place] > 0]


def _carried_back(job: Job, book: RuleBook, filters: Filters, channel: int) -> Result:
    """Guided backpropagation from the whole map of one filter."""
    tensor = job.model.tensor(filters.tensor)

    def own_map(y: np.ndarray) -> np.ndarray:
        seed = np.zeros_like(y)
        place = [slice(None)] * filters.axis + [channel]
        seed[tuple(place)] = y[tuple(place)]
        return seed

    start = replace(job, target=Target(tensor, tensor, own_map))
    return start.run(start.plan(book))


def _enter(e: Explanation, name: str, shape: tuple[int, ...], signals: list[list[Result]], top: int) -> None:
    """Relevance, maps and the map of each feature for one input."""
    relevance = np.zeros(shape, np.float32)
    axis = e.channels[name]
    picture = axis is not None and len(shape) > 2
    plane = tuple(size for place, size in enumerate(shape) if place not in (0, axis))
    maps = np.zeros((len(signals), top, *plane), np.float32)
    for sample, row in enumerate(signals):
        for rank, result in enumerate(row):
            signal = next((value for tensor, value in result.relevance.items() if tensor.name == name), None)
            if signal is None:
                continue
            relevance[sample : sample + 1] += signal
            if picture:
                maps[sample, rank] = feature_map(signal[0], axis - 1 if axis is not None else 0)
    e.relevance[name] = relevance
    if picture:
        e.extras[f"features/{name}"] = maps
        e.maps[name] = maps.max(axis=1)


def feature_map(signal: np.ndarray, axis: int) -> np.ndarray:
    """The L2 norm of the positive signal over the channels, min-max scaled; 0 where it is the same everywhere.

    Pixels whose channels sum to exactly 0 are 0. The authors' affine step between norm and scaling leaves the result as
    it is.
    """
    norm = np.sqrt((np.maximum(signal, 0).astype(np.float64) ** 2).sum(axis=axis))
    norm[signal.sum(axis=axis) == 0] = 0
    span = np.ptp(norm)
    return np.asarray((norm - norm.min()) / span if span else np.zeros_like(norm), np.float32)


def _name(e: Explanation, known: Interpretation, picks: list[list[tuple[int, float]]], top: int) -> None:
    index = np.full((len(picks), top), -1, np.int64)
    scores = np.zeros((len(picks), top))
    names = [[""] * top for _ in picks]
    for sample, pick in enumerate(picks):
        for rank, (place, score) in enumerate(pick):
            tensor, channel = known.named(place)
            index[sample, rank], scores[sample, rank] = place, score
            names[sample][rank] = f"{tensor}[{channel}]"
    averages = None if known.folder is None else read_averages(known.folder)
    if averages is not None:
        drawn = np.full((*index.shape, SIDE, SIDE, 3), 255, np.uint8)
        for spot in np.argwhere(index >= 0):
            drawn[tuple(spot)] = averages.get(int(index[tuple(spot)]), 255)
        e.extras["average"] = drawn
    e.extras |= {"feature_names": np.array(names, np.str_), "feature_index": index, "feature_scores": scores}


def _notes(known: Interpretation, chosen: list[Chosen], picks: list[list[tuple[int, float]]]) -> Iterator[str]:
    yield f"relevant features from {known.settings.get('dataset')}, labels {known.settings.get('labels')}"
    for target in {target.index: target for target, pick in zip(chosen, picks, strict=True) if not pick}.values():
        name = target.label or target.index
        filters, _ = known.weights_of(target.index or 0)
        reason = "none of its relevant features responds" if filters.size else "it has no relevant feature"
        yield f"nothing to show for class {name}: {reason}"
