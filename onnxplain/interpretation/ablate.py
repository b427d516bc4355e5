"""The ablation experiment: what a class loses without its relevant filters, and without as many random ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.ablated import Ablated
from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.contract import InputContract
from onnxplain.inputs.datasets import Dataset, read_dataset
from onnxplain.inputs.loaders import Sample, Skipped, contract_for, load_record, preparation
from onnxplain.interpretation.interpret import GROUP, LABELS, given_classes, of_one_shape, stacked
from onnxplain.interpretation.result import Interpretation
from onnxplain.model import Model, load

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Ablation:
    """Accuracy of every class while its filters are removed one after the other.

    Attributes
    ----------
    classes : tuple of int
        Those with samples and relevant filters.
    names : tuple of str or None
    samples : numpy.ndarray
        Per class.
    filters : numpy.ndarray
        Relevant filters per class; after so many removals the accuracy stays.
    relevant : numpy.ndarray
        classes x removals, from 0 on: the share of the class's samples that the model still gives to it.
    random : numpy.ndarray
        draws x classes x removals.
    relevant_score, random_score : numpy.ndarray
        The same for the mean score of the class, which falls where the accuracy does not yet.
    skipped : tuple of (str, str)
    settings : dict
    notes : tuple of str
        What was assumed.
    """

    classes: tuple[int, ...]
    names: tuple[str | None, ...]
    samples: np.ndarray
    filters: np.ndarray
    relevant: np.ndarray
    random: np.ndarray
    relevant_score: np.ndarray
    random_score: np.ndarray
    skipped: tuple[tuple[str, str], ...]
    settings: dict[str, Any]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "settings": self.settings,
            "classes": [
                {
                    "index": index,
                    "name": name,
                    "samples": int(self.samples[place]),
                    "filters": int(self.filters[place]),
                    "relevant": self.relevant[place].tolist(),
                    "random": self.random[:, place].tolist(),
                    "relevant_score": self.relevant_score[place].tolist(),
                    "random_score": self.random_score[:, place].tolist(),
                }
                for place, (index, name) in enumerate(zip(self.classes, self.names, strict=True))
            ],
            "mean": {
                "relevant": self.relevant.mean(axis=0).tolist(),
                "random": self.random.mean(axis=(0, 1)).tolist(),
                "random_deviation": self.random.mean(axis=1).std(axis=0).tolist(),
                "relevant_score": self.relevant_score.mean(axis=0).tolist(),
                "random_score": self.random_score.mean(axis=(0, 1)).tolist(),
            },
            "skipped": [{"sample": identity, "error": reason} for identity, reason in self.skipped],
            "notes": self.notes,
        }


def ablate(
    model: Model | Any,
    dataset: Dataset | str | os.PathLike[str],
    interpretation: Interpretation | str | os.PathLike[str],
    *,
    labels: str | None = None,
    draws: int = 5,
    seed: int = 0,
    samples: int | None = None,
    removals: int | None = None,
    preprocess: str | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Set the relevant filters of every class to 0, the strongest first, and as many random ones.

    Each random filter is of the same tensor as the relevant one in its place, and not relevant to the class itself.
    With ``removals`` the tensors come round again. Where a tensor has no others left, fewer random ones are removed.
    Filters are silenced in a copy of the graph; the loaded model is not changed.

    Parameters
    ----------
    model : Model or path
    dataset : Dataset or path
        The one of the interpretation or, better, another one of the same classes.
    interpretation : Interpretation or path
    labels : {"predicted", "given"}, optional
        What a sample's class is; as in the interpretation by default. With "predicted" every class begins at 1.
    draws : int
        Random choices per class.
    seed : int
    samples : int, optional
        Samples per class at most, the first ones; all by default.
    removals : int, optional
        Filters removed, relevant ones as far as the class has them; by default as many as it has.
    preprocess : str, optional
    progress : callable, optional

    Raises
    ------
    UsageError
        A wrong option, an interpretation of another model, labels that do not fit.
    FailureError
        No class has both samples and relevant filters.
    """
    model = model if isinstance(model, Model) else load(model)
    dataset = dataset if isinstance(dataset, Dataset) else read_dataset(Path(dataset))
    known = interpretation if isinstance(interpretation, Interpretation) else Interpretation.load(interpretation)
    known.check_model(model)
    labels = labels or str(known.settings.get("labels", LABELS[0]))
    if labels not in LABELS:
        raise UsageError(f"labels must be predicted or given, not {labels!r}")
    if any(each is not None and each < 1 for each in (draws, samples, removals)):
        raise UsageError("draws, samples and removals must be at least 1")
    names = [entry.name for entry in known.classes]
    settled = [name for name in names if name is not None]
    given = given_classes(dataset, len(names), settled or None) if labels == "given" else None
    experiment = _Experiment(model, known, contract_for(dataset, model, preprocess), draws, seed, samples, removals)
    records = enumerate(dataset)
    for start in range(0, len(dataset), experiment.group):
        group = [(row, load_record(record, model, experiment.contract)) for row, record in
                 islice(records, experiment.group)]  # fmt: skip
        experiment.add(group, given)
        if progress is not None:
            progress(min(start + experiment.group, len(dataset)), len(dataset))
    settings = {
        "dataset": str(dataset.source), "labels": labels, "draws": draws, "seed": seed, "samples": samples,
        "removals": removals,
    }  # fmt: skip
    return experiment.finished(names, settings, preparation(dataset, experiment.contract))


class _Experiment:
    """Counts, sample by sample, what stays right."""

    def __init__(
        self,
        model: Model,
        known: Interpretation,
        contract: InputContract | None,
        draws: int,
        seed: int,
        most: int | None,
        removals: int | None = None,
    ) -> None:
        self.model = model
        self.known = known
        self.contract = contract
        self.most = most
        self.group = GROUP if model.batched else 1
        self.orders = {entry.index: known.weights_of(entry.index)[0] for entry in known.classes}
        self.steps = removals or max((len(order) for order in self.orders.values()), default=0)
        self.random = [
            {
                index: self._draw(order, removals or len(order), np.random.default_rng([seed, draw, index]))
                for index, order in self.orders.items()
            }
            for draw in range(draws)
        ]
        tensors = {known.located(int(place))[0] for place in known.relevant}
        used = [filters for filters in known.filters if filters in tensors]
        self.ablated = Ablated(model, model.tensor(known.target), used)
        self.counts = np.zeros(len(known.classes), np.int64)
        self.right = np.zeros((1 + draws, len(known.classes), self.steps + 1), np.int64)
        self.score = np.zeros(self.right.shape)
        self.skipped: list[tuple[str, str]] = []

    def add(self, group: Sequence[tuple[int, Sample | Skipped]], given: np.ndarray | None) -> None:
        """Run a group with every number of filters removed."""
        for _, item in group:
            if isinstance(item, Skipped):
                self.skipped.append((item.name, str(item.error)))
        usable = [(row, item) for row, item in group if isinstance(item, Sample)]
        for samples in of_one_shape(usable):
            self._run(samples, given)

    def _run(self, samples: Sequence[tuple[int, Sample]], given: np.ndarray | None) -> None:
        feed = stacked([sample for _, sample in samples])
        scores = self._scores(feed, None, len(samples))
        predicted = scores.argmax(axis=1)
        classes = predicted if given is None else given[[row for row, _ in samples]]
        chosen = [place for place, index in enumerate(classes) if self._takes(int(index))]
        if not chosen:
            return
        feed = {name: value[chosen] for name, value in feed.items()} if len(samples) > 1 else feed
        classes = classes[chosen]
        for which in range(len(self.right)):
            self._count(which, 0, classes, scores[chosen])
        for which, orders in enumerate([self.orders, *self.random]):
            for step in range(1, self.steps + 1):
                removed = [orders[int(index)][:step] for index in classes]
                self._count(which, step, classes, self._scores(feed, removed, len(classes)))

    def _count(self, which: int, step: int, classes: np.ndarray, scores: np.ndarray) -> None:
        np.add.at(self.right[which, :, step], classes, scores.argmax(axis=1) == classes)
        np.add.at(self.score[which, :, step], classes, scores[np.arange(len(classes)), classes])

    def finished(self, names: Sequence[str | None], settings: dict[str, Any], notes: tuple[str, ...]) -> Ablation:
        """Shares of what was counted."""
        chosen = np.flatnonzero(self.counts)
        if not chosen.size:
            told = f"; {len(self.skipped)} skipped, {': '.join(self.skipped[0])}" if self.skipped else ""
            raise FailureError(f"no class with relevant filters has a sample in {settings['dataset']}{told}")
        share, score = (each[:, chosen] / self.counts[chosen][:, np.newaxis] for each in (self.right, self.score))
        return Ablation(
            tuple(chosen.tolist()), tuple(names[int(index)] for index in chosen), self.counts[chosen],
            np.array([len(self.orders[int(index)]) for index in chosen]), share[0], share[1:],
            score[0], score[1:],
            tuple(self.skipped), settings, notes,
        )  # fmt: skip

    def _takes(self, index: int) -> bool:
        """Count a sample to its class, unless that has no features or enough samples."""
        if index < 0 or not len(self.orders[index]) or (self.most is not None and self.counts[index] >= self.most):
            return False
        self.counts[index] += 1
        return True

    def _scores(self, feed: dict[str, np.ndarray], removed: Sequence[np.ndarray] | None, count: int) -> np.ndarray:
        """Samples x classes, each sample without its own filters."""
        kept = None
        if removed is not None:
            kept = {each.tensor: np.ones((count, each.count)) for each in self.ablated.filters}
            for sample, places in enumerate(removed):
                for place in places[places >= 0]:
                    tensor, channel = self.known.named(int(place))
                    kept[tensor][sample, channel] = 0
        return self.ablated.run(feed, kept).reshape(count, -1)

    def _draw(self, order: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """For each relevant filter, round and round, another of its tensor, none twice; -1 where one has too few."""
        drawn = np.full(count if len(order) else 0, -1, np.int64)
        places = np.resize(order, len(drawn))
        for filters, offset in zip(self.known.filters, self.known.offsets, strict=False):
            own = np.flatnonzero((places >= offset) & (places < offset + filters.count))
            if own.size:
                free = rng.permutation(np.setdiff1d(np.arange(offset, offset + filters.count), order))[: own.size]
                drawn[own[: len(free)]] = free
        return drawn


def curve(found: Ablation) -> Iterator[tuple[int, float, float, float]]:
    """Filters removed; mean class accuracy without relevant, without random filters; deviation over the draws."""
    random = found.random.mean(axis=1)
    for step, relevant in enumerate(found.relevant.mean(axis=0)):
        yield step, float(relevant), float(random[:, step].mean()), float(random[:, step].std())
