"""What an interpretation says: the features that every class of a model uses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onnxplain.engine.responses import Filters
from onnxplain.errors import UsageError
from onnxplain.model import Model
from onnxplain.saved import opened, save
from onnxplain.version import __version__
from onnxplain.wording import counted

SCHEMA = "onnxplain.interpretation/1"


class Feature(NamedTuple):
    """A filter that a class uses: tensor, channel, weight."""

    tensor: str
    channel: int
    weight: float


@dataclass(frozen=True)
class ClassEntry:
    """One class of a model over a data set.

    Attributes
    ----------
    index : int
        Element of the model's output.
    name : str or None
    samples : int
        How many of the data set count to it.
    bounded : bool
        Whether the bound on its weights is active.
    """

    index: int
    name: str | None
    samples: int
    bounded: bool


class Features(Mapping[int, list[Feature]]):
    """Relevant features by class, descending by weight; a class is named by its index or its label.

    Equal weights stand in the order of the tensors, then of the channels.
    """

    def __init__(self, by_class: Mapping[int, list[Feature]], names: Mapping[int, str | None]) -> None:
        self._by_class = dict(by_class)
        self._index = {name: index for index, name in names.items() if name is not None}

    def __getitem__(self, key: int | str) -> list[Feature]:
        if isinstance(key, str):
            if key not in self._index:
                raise KeyError(key)
            key = self._index[key]
        return self._by_class[int(key)]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_class)

    def __len__(self) -> int:
        return len(self._by_class)


@dataclass
class Interpretation:
    """What :func:`onnxplain.interpret` returns.

    Attributes
    ----------
    digest : str
        Of the model; see :attr:`onnxplain.Model.digest`.
    target : str
        The tensor of the class scores.
    filters : tuple of Filters
        The tensors whose filters were looked at, in the order of the graph.
    classes : tuple of ClassEntry
        Ascending by index; those without samples included.
    class_of, filter_of, weights : numpy.ndarray
        The positive weights: index of the class in the output, filter (counted through all tensors), float64 weight.
        By class; inside one descending by weight, equal weights by filter.
    relevant : numpy.ndarray
        The filters that some class uses, ascending.
    top_samples, top_responses : numpy.ndarray
        Relevant filters x samples: rows of the data set by descending response, and the responses; -1 and 0 where there
        are fewer.
    samples : tuple of str
        Ids of the data set.
    sample_class : numpy.ndarray
        The class that each sample counted to; -1 for one that was skipped.
    skipped : tuple of (str, str)
        Ids and reasons.
    settings : dict
        Data set, labels, mu, layers.
    notes : tuple of str
    """

    digest: str
    target: str
    filters: tuple[Filters, ...]
    classes: tuple[ClassEntry, ...]
    class_of: np.ndarray
    filter_of: np.ndarray
    weights: np.ndarray
    relevant: np.ndarray
    top_samples: np.ndarray
    top_responses: np.ndarray
    samples: tuple[str, ...]
    sample_class: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def features(self) -> Features:
        """The relevant features of every class."""
        found: dict[int, list[Feature]] = {entry.index: [] for entry in self.classes}
        for index, place, weight in zip(self.class_of, self.filter_of, self.weights, strict=True):
            found[int(index)].append(Feature(*self.named(int(place)), float(weight)))
        return Features(found, {entry.index: entry.name for entry in self.classes})

    @property
    def extent(self) -> str:
        """How much was looked at, in words."""
        samples = counted(len(self.samples) - len(self.skipped), "sample")
        return f"{counted(int(self.offsets[-1]), 'filter')} in {counted(len(self.filters), 'tensor')}, {samples}"

    @property
    def offsets(self) -> np.ndarray:
        """Where the filters of each tensor begin, and how many there are in all."""
        return np.cumsum([0, *(each.count for each in self.filters)])

    def named(self, place: int) -> tuple[str, int]:
        """Tensor and channel of a filter."""
        filters, channel = self.located(place)
        return filters.tensor, channel

    def located(self, place: int) -> tuple[Filters, int]:
        """The tensor's filters and the channel of a filter."""
        which = int(np.searchsorted(self.offsets, place, side="right")) - 1
        return self.filters[which], place - int(self.offsets[which])

    def weights_of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Filters and weights of a class, descending."""
        chosen = self.class_of == index
        return self.filter_of[chosen], self.weights[chosen]

    def check_model(self, model: Model) -> None:
        """Make sure that this is the model that was interpreted.

        Raises
        ------
        UsageError
            It is another one.
        """
        if model.digest != self.digest:
            raise UsageError(
                f"the interpretation{f' in {self.folder}' if self.folder else ''} belongs to another model than "
                f"{model.label}; run 'onnxplain interpret' on this one"
            )

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as plain values."""
        return {
            "schema": SCHEMA,
            "onnxplain": __version__,
            "model": self.digest,
            "target": self.target,
            "settings": self.settings,
            "layers": [asdict(each) for each in self.filters],
            "classes": [asdict(entry) for entry in self.classes],
            "features": {
                str(index): [feature._asdict() for feature in features] for index, features in self.features.items()
            },
            "skipped": [{"sample": identity, "error": reason} for identity, reason in self.skipped],
            "notes": list(self.notes),
        }

    _ARRAYS = ("class_of", "filter_of", "weights", "relevant", "top_samples", "top_responses", "sample_class")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write interpretation.json and arrays.npz, both or none; docs/formats.md documents them."""
        arrays = {name: getattr(self, name) for name in self._ARRAYS}
        save(folder, "interpretation", self.to_json(), {"samples": np.array(self.samples, np.str_), **arrays})
        self.folder = Path(folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], model: Model | None = None) -> Interpretation:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        folder : path
        model : Model, optional
            The model it must belong to.

        Raises
        ------
        UsageError
            No interpretation there, or of another model.
        FailureError
            It is corrupt or of another schema.
        """
        with opened(folder, "interpretation", SCHEMA, "; 'onnxplain interpret' makes one") as (content, arrays):
            loaded = cls(
                content["model"],
                content["target"],
                tuple(Filters(**each) for each in content["layers"]),
                tuple(ClassEntry(**entry) for entry in content["classes"]),
                samples=tuple(arrays["samples"].tolist()),
                **{name: arrays[name] for name in cls._ARRAYS},
                skipped=tuple((entry["sample"], entry["error"]) for entry in content["skipped"]),
                settings=content["settings"],
                notes=tuple(content["notes"]),
                folder=Path(folder),
            )
        if model is not None:
            loaded.check_model(model)
        return loaded


def ranked(index: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Filters and weights descending by weight, equal ones by filter."""
    order = np.lexsort((index, -weight))
    return index[order], weight[order]
