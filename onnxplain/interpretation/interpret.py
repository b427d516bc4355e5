"""Find the features that each class of a model uses, over a data set (Oramas, Wang and Tuytelaars 2019)."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.budget import samples_held
from onnxplain.engine.responses import Responses, find_filters
from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.contract import InputContract
from onnxplain.inputs.datasets import Dataset, Record, read_dataset
from onnxplain.inputs.loaders import Sample, Skipped, contract_for, load_record, preparation
from onnxplain.interpretation.lasso import CHUNK, solve
from onnxplain.interpretation.result import ClassEntry, Interpretation, ranked
from onnxplain.interpretation.store import ResponseStore
from onnxplain.model import Model, load
from onnxplain.targets import Target, parse_target
from onnxplain.wording import counted

GROUP = 16
"""The most samples that go through the model at once."""
LABELS = ("predicted", "given")

Progress = Callable[[int, int], None]
"""Told how many of how many samples are done."""


def interpret(
    model: Model | Any,
    dataset: Dataset | str | os.PathLike[str],
    mu: float = 10.0,
    labels: str = "predicted",
    layers: str = "all",
    *,
    output: str | None = None,
    preprocess: str | None = None,
    class_names: str | None = None,
    top: int = 100,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Interpretation:
    """Find the features that each class of a model uses (Oramas, Wang and Tuytelaars 2019, sections 3.1 and 3.2).

    Parameters
    ----------
    model : Model or path
    dataset : Dataset or path
        A folder of class folders, a CSV of files and labels, or an .npz.
    mu : float
        Bound on the sum of a class's weights; infinity for none.
    labels : {"predicted", "given"}
        Whether a sample counts to the class that the model predicts, or to its label in the data set.
    layers : str
        "all" for every convolution, activation, normalization, pool and fully connected layer; one of conv, relu, norm,
        pool, fc; or a pattern over names of layers and tensors.
    output : str, optional
        The output with the class scores; the only one by default.
    preprocess, class_names : str, optional
        How pictures are prepared, and a file of class names, where the model does not say.
    top : int
        Samples kept per relevant filter.
    folder : path, optional
        Where responses are kept while they are collected: an interrupted call with the same folder goes on where it
        stopped, and one with another ``mu`` or other labels needs no new pass. By default a temporary folder.
    progress : callable, optional

    Raises
    ------
    UsageError
        A data set whose labels do not fit, no filter, a wrong option.
    FailureError
        No sample can be used.
    """
    if not mu > 0:
        raise UsageError(f"mu must be above 0, not {mu}")
    if labels not in LABELS:
        raise UsageError(f"labels must be predicted or given, not {labels!r}")
    if top < 1:
        raise UsageError(f"top must be at least 1, not {top}")
    model = model if isinstance(model, Model) else load(model)
    dataset = dataset if isinstance(dataset, Dataset) else read_dataset(Path(dataset))
    target = parse_target(model.graph, None, output)
    contract = contract_for(dataset, model, preprocess, class_names)
    survey = Survey(model, dataset, target, contract, layers)
    names = class_labels(contract)
    given = given_classes(dataset, survey.classes, names) if labels == "given" else None
    with ExitStack() as opened:
        work = Path(folder) if folder else Path(opened.enter_context(tempfile.TemporaryDirectory()))
        store = opened.enter_context(survey.collect(work, progress))
        bound = mu if math.isfinite(mu) else None
        settings = {"dataset": str(dataset.source), "labels": labels, "mu": bound, "layers": layers}
        return _interpretation(survey, store, given, names, mu, top, settings)


def class_labels(contract: InputContract | None) -> Sequence[str] | None:
    """The names of the model's classes where they are known."""
    return None if contract is None else contract.labels.value


def given_classes(dataset: Dataset, count: int, names: Sequence[str] | None) -> np.ndarray:
    """The element of the output that each sample's label stands for.

    A label is the name of a class, or its number.

    Raises
    ------
    UsageError
        The data set has no labels, or one that is neither.
    """
    if not dataset.class_names:
        raise UsageError(f"{dataset.source} has no labels; labels='predicted' needs none")
    known = {name: index for index, name in enumerate(names or ())}
    places = []
    for name in dataset.class_names:
        place = known.get(name, int(name) if name.isdecimal() else -1)
        if not 0 <= place < count:
            offer = f"names such as {names[0]!r}" if names else "no names (class_names= or --class-names gives them)"
            raise UsageError(
                f"label {name!r} of {dataset.source} is no class of the model, which has {count} classes and {offer}"
            )
        places.append(place)
    return np.array([places[label] if label is not None else -1 for label in dataset.labels])


@dataclass
class Survey:
    """A model's way over a data set.

    Attributes
    ----------
    model : Model
    dataset : Dataset
    target : Target
    contract : InputContract or None
    layers : str
    """

    model: Model
    dataset: Dataset
    target: Target
    contract: InputContract | None
    layers: str

    def __post_init__(self) -> None:
        first = self._first()
        feed = self.model.check_feed({name: value[:1] for name, value in first.feed.items()})
        filters = find_filters(self.model, self.target.tensor, feed, self.layers)
        self.responses = Responses(self.model, self.target.tensor, filters)
        recording = self.model.recording(feed, self.target.tensor)
        shape = recording.shape(self.target.tensor)
        self.classes = math.prod(shape[1:] if self.model.batched or len(shape) > 1 else shape)
        self.group = min(GROUP, samples_held(recording.size)) if self.model.batched else 1

    def _first(self) -> Sample:
        """The first sample that can be read; where none can, the reason of the first is the reason of all."""
        why: Skipped | None = None
        for record in self.dataset:
            item = load_record(record, self.model, self.contract)
            if isinstance(item, Sample):
                return item
            why = why or item
        if why is None:
            raise UsageError(f"{self.dataset.source} holds no sample")
        raise type(why.error)(f"no sample of {self.dataset.source} can be read; {why.name}: {why.error}")

    def collect(self, folder: Path, progress: Progress | None = None) -> ResponseStore:
        """The responses of every sample; those that stand in ``folder`` are not computed again.

        Groups are the same in every run, so that a result does not depend on where a run was interrupted.
        """
        contract = {} if self.contract is None else self.contract.to_json()
        job = {
            "model": self.model.digest,
            "dataset": self.dataset.fingerprint,
            "target": self.target.tensor.name,
            "layers": self.layers,
            "contract": {name: item for name, item in contract.items() if name != "labels"},
        }
        store = ResponseStore(folder, job, self.dataset.ids, self.responses.count)
        try:
            records = enumerate(self.dataset)
            for start in range(0, len(self.dataset), self.group):
                group = list(islice(records, self.group))
                if not all(row in store for row, _ in group):
                    self._enter(store, group)
                if progress is not None:
                    progress(min(start + self.group, len(self.dataset)), len(self.dataset))
        except BaseException:
            store.close()
            raise
        return store

    def _enter(self, store: ResponseStore, group: Sequence[tuple[int, Record]]) -> None:
        """Run a group and enter it; where it fails as a whole, its samples one by one."""
        samples: list[tuple[int, Sample]] = []
        for row, record in group:
            item = load_record(record, self.model, self.contract)
            if isinstance(item, Skipped):
                store.skip(row, str(item.error))
            else:
                samples.append((row, item))
        for alike in of_one_shape(samples):
            self._run(store, alike)

    def _run(self, store: ResponseStore, samples: Sequence[tuple[int, Sample]]) -> None:
        feed = stacked([sample for _, sample in samples])
        try:
            scores, responses = self.responses.run(feed)
        except FailureError as error:
            if len(samples) == 1:
                store.skip(samples[0][0], str(error))
                return
            for one in samples:
                self._run(store, [one])
            return
        predicted = scores.reshape(len(samples), -1).argmax(axis=1)
        store.add([row for row, _ in samples], responses, predicted.tolist())


def of_one_shape(samples: Sequence[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
    """Rows and samples of one shape together, so that they can be stacked."""
    by_shape: dict[object, list[tuple[int, Sample]]] = {}
    for row, sample in samples:
        shape = tuple((name, value.shape) for name, value in sorted(sample.feed.items()))
        by_shape.setdefault(shape, []).append((row, sample))
    yield from by_shape.values()


def stacked(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """The feeds of samples of one shape as one."""
    return {name: np.concatenate([sample.feed[name] for sample in samples]) for name in samples[0].feed}


def _interpretation(
    survey: Survey,
    store: ResponseStore,
    given: np.ndarray | None,
    names: Sequence[str] | None,
    mu: float,
    top: int,
    settings: dict[str, Any],
) -> Interpretation:
    entries = store.entries()
    skipped = [(identity, entry["skipped"]) for identity, entry in zip(store.ids, entries, strict=True)
               if "skipped" in entry]  # fmt: skip
    predicted = np.array([entry.get("predicted", -1) for entry in entries])
    classes = predicted if given is None else np.where(predicted < 0, -1, given)
    rows = np.flatnonzero(classes >= 0)
    if not rows.size:
        raise FailureError(f"no sample of {survey.dataset.source} can be used: {skipped[0][1]}")
    x = store.responses()
    counts = np.bincount(classes[rows], minlength=survey.classes)
    present = np.flatnonzero(counts)
    compact = np.searchsorted(present, classes[rows])
    solutions = dict(zip(present.tolist(), solve(x, rows, compact, mu), strict=True))
    chosen = [(index, *ranked(found.index, found.weight)) for index, found in solutions.items()]
    relevant = np.unique(np.concatenate([filters for _, filters, _ in chosen]))
    best, values = strongest(x, rows, relevant, top)
    return Interpretation(
        survey.model.digest,
        survey.target.tensor.name,
        survey.responses.filters,
        tuple(
            ClassEntry(index, names[index] if names and index < len(names) else None, int(count),
                       index in solutions and solutions[index].bounded)
            for index, count in enumerate(counts)
        ),
        np.concatenate([np.full(len(filters), index) for index, filters, _ in chosen]),
        np.concatenate([filters for _, filters, _ in chosen]),
        np.concatenate([weights for _, _, weights in chosen]),
        relevant,
        best,
        values,
        survey.dataset.ids,
        classes,
        tuple(skipped),
        settings,
        (*preparation(survey.dataset, survey.contract), *_notes(solutions, counts, skipped, mu)),
    )  # fmt: skip


def _notes(solutions: dict[int, Any], counts: np.ndarray, skipped: Sequence[Any], mu: float) -> Iterator[str]:
    free = sum(not found.bounded for found in solutions.values())
    if free:
        yield f"mu = {mu:g} does not bind in {free} of {len(solutions)} classes: non-negative least squares there"
    empty = int((counts == 0).sum())
    if empty:
        yield f"{empty} of {len(counts)} classes have no sample and so no features"
    without = [index for index, found in solutions.items() if not found.index.size]
    if without:
        yield f"no relevant features for class {', '.join(map(str, without[:10]))}{', ...' * (len(without) > 10)}"
    if len(solutions) == 1:
        yield "all samples count to one class: its features tell nothing from other classes"
    if skipped:
        yield f"{counted(len(skipped), 'sample')} skipped, the first {skipped[0][0]}"


def strongest(x: np.ndarray, rows: np.ndarray, filters: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples that each filter responds to most: rows (-1 where there are fewer) and responses, descending."""
    best = np.full((0, len(filters)), -1, np.int64)
    values = np.zeros((0, len(filters)), np.float32)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        values = np.concatenate([values, x[part][:, filters]])
        best = np.concatenate([best, np.repeat(part[:, np.newaxis], len(filters), axis=1)])
        order = np.argsort(-values, axis=0, kind="stable")[:count]
        values, best = np.take_along_axis(values, order, 0), np.take_along_axis(best, order, 0)
    best[values == 0] = -1
    return best.T, values.T
