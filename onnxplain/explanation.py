"""The result of an explanation: relevance per input, with everything needed to judge and repeat it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxplain.errors import UsageError
from onnxplain.origin import Origin
from onnxplain.saved import opened, save
from onnxplain.targets import Chosen
from onnxplain.version import __version__

if TYPE_CHECKING:
    from onnxplain.relevance.plan import Plan

SCHEMA = "onnxplain.explanation/1"


@dataclass
class Ledger:
    """Where relevance went, layer by layer.

    Attributes
    ----------
    layers : mapping of str to mapping of str to numpy.ndarray
        Per layer the columns ``in`` (arriving), ``out`` (handed down), and what was absorbed: ``bias`` (constant
        parts, padding among them), ``stabilizer``, ``zero`` (outputs that are exactly 0), ``stopped``. One number per
        sample; one for the whole batch at layers whose tensors do not hold the samples along axis 0.
    """

    layers: Mapping[str, Mapping[str, np.ndarray]]

    COLUMNS = ("bias", "stabilizer", "zero", "stopped")

    def __post_init__(self) -> None:
        books = {name: zip(book, _alike(list(book.values())), strict=True) for name, book in self.layers.items()}
        self.layers = {name: dict(columns) for name, columns in books.items()}

    def unexplained(self, layer: str) -> np.ndarray:
        """``in`` minus ``out`` minus every absorbed column: rounding, or a rule that does not conserve."""
        book = self.layers[layer]
        return np.asarray(book["in"] - book["out"] - sum(book[column] for column in self.COLUMNS if column in book))

    @property
    def totals(self) -> dict[str, np.ndarray]:
        """The absorbed columns summed over the layers, per sample."""
        totals = {}
        for column in self.COLUMNS:
            parts = [book[column] for book in self.layers.values() if column in book]
            if parts:
                totals[column] = np.asarray(np.sum(_alike(parts), axis=0))
        return totals

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        layers = {
            name: {**{c: v.tolist() for c, v in book.items()}, "unexplained": self.unexplained(name).tolist()}
            for name, book in self.layers.items()
        }
        return {"layers": layers, "totals": {name: value.tolist() for name, value in self.totals.items()}}


def _path(
    steps: Sequence[Mapping[str, Any]], points: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]
) -> tuple[PathStep, ...]:
    """What :meth:`PathStep.to_json` and the arrays say together."""
    return tuple(
        PathStep(
            step["layer"],
            step["op_type"],
            step["tensor"],
            tuple(step["shape"]),
            np.ravel_multi_index(list(points[step["tensor"]].T), tuple(step["shape"])),
            weights[step["tensor"]],
        )
        for step in steps
    )


def _alike(columns: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The columns, each summed to one number where their lengths differ."""
    if len({len(column) for column in columns}) > 1:
        return [column.sum(keepdims=True) for column in columns]
    return list(columns)


@dataclass(frozen=True)
class PathStep:
    """The neurons of one layer that fixations lead through.

    Attributes
    ----------
    layer, op_type, tensor : str
        The layer and its output.
    shape : tuple of int
        Of the output.
    index, weight : numpy.ndarray
        int64, one per neuron: its flat index in the output, and how many ways lead through it.
    """

    layer: str
    op_type: str
    tensor: str
    shape: tuple[int, ...]
    index: np.ndarray
    weight: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """P x rank, the full index of each neuron."""
        return np.stack(np.unravel_index(self.index, self.shape), axis=1)

    def of_sample(self, index: int) -> PathStep:
        """The neurons of one sample, for outputs that hold the samples along axis 0."""
        size = math.prod(self.shape[1:])
        here = self.index // size == index
        return replace(self, shape=(1, *self.shape[1:]), index=self.index[here] % size, weight=self.weight[here])

    def to_json(self) -> dict[str, Any]:
        """Plain values; which neurons they are stands in arrays.npz."""
        named = {"layer": self.layer, "op_type": self.op_type, "tensor": self.tensor}
        return {**named, "shape": list(self.shape), "neurons": len(self.index)}


@dataclass(frozen=True)
class MaskCount:
    """How many feature maps of a layer became masks.

    Attributes
    ----------
    tensor, reason : str
        The layer's tensor, and why it was taken.
    selected, skipped : tuple of int
        Per sample.
    used : tuple of int
        How many of the selected ones the map is made of: fewer than all after an early stop by ``tolerance``.
    """

    tensor: str
    reason: str
    selected: tuple[int, ...]
    skipped: tuple[int, ...]
    used: tuple[int, ...]

    def of_sample(self, index: int) -> MaskCount:
        """The counts of one sample."""
        counts = {name: getattr(self, name)[index : index + 1] for name in ("selected", "skipped", "used")}
        return replace(self, **counts)


@dataclass
class Explanation:
    """What :func:`onnxplain.explain` returns.

    Attributes
    ----------
    relevance : dict of str to numpy.ndarray
        Per explained input, in its shape.
    prediction : numpy.ndarray
        The explained output, samples along axis 0.
    target : list of Chosen
        What was explained, per sample.
    method, engine : str
    plan : Plan or None
        The layers and their rules; None for methods without a backward walk, and after :meth:`load`.
    ledger : Ledger or None
    at : dict of str to numpy.ndarray
        Relevance of the internal tensors that were asked for.
    timings : dict of str to float
        Seconds per phase.
    notes : tuple of str
        Assumptions and choices.
    points, point_weights : dict of str to numpy.ndarray
        Fixations per input: P x rank indices (sample, channel, y, x for pictures) and P multiplicities.
    boxes : dict of str to numpy.ndarray
        Per picture input N x 4: left, top, right, bottom of the fixations, the last pixels included; -1 without any.
    path : tuple of PathStep
        The neurons at every layer that the fixations lead through, from the target down.
    extras : dict of str to numpy.ndarray
        What a method reports besides, such as the completeness gap.
    maps : dict of str to numpy.ndarray
        Per input, the map of methods whose map is not the relevance summed over the channels.
    layers : tuple of str
        The internal tensors that a method looked at, for methods that choose some.
    origin : Origin or None
        The model's file, the input's file and how it was prepared, and the options.
    masks : tuple of MaskCount
        Of methods that mask the input with feature maps, per layer.
    """

    relevance: dict[str, np.ndarray]
    prediction: np.ndarray
    target: list[Chosen]
    method: str
    engine: str
    plan: Plan | None = None
    ledger: Ledger | None = None
    at: dict[str, np.ndarray] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    channels: dict[str, int | None] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    points: dict[str, np.ndarray] = field(default_factory=dict)
    point_weights: dict[str, np.ndarray] = field(default_factory=dict)
    boxes: dict[str, np.ndarray] = field(default_factory=dict)
    path: tuple[PathStep, ...] = ()
    layers: tuple[str, ...] = ()
    origin: Origin | None = None
    masks: tuple[MaskCount, ...] = ()
    plan_json: dict[str, Any] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The explained inputs: those with relevance, and those with a map alone."""
        return tuple(dict.fromkeys([*self.relevance, *self.maps]))

    def map(self, name: str | None = None, channels: int | None = None) -> np.ndarray:
        """The map of an input: N x H x W for pictures, relevance summed over the channels.

        Parameters
        ----------
        name : str, optional
            The input or an internal tensor of ``at``; the only input by default.
        channels : int, optional
            The axis that holds the channels, where the graph does not tell.

        Raises
        ------
        UsageError
            Several inputs and none named, no such name, or the axis of the channels is not known.
        """
        name = self._name(name)
        if name in self.maps:
            return self.maps[name]
        value = self.relevance[name] if name in self.relevance else self.at[name]
        axis = channels if channels is not None else self.channels.get(name)
        if value.ndim < 3:
            return value
        if axis is None:
            raise UsageError(
                f"the graph does not tell which axis of {name!r} holds the channels: map({name!r}, channels=1)"
            )
        return np.asarray(value.sum(axis=axis))

    @property
    def mapped(self) -> tuple[str, ...]:
        """The inputs that have a map: for others the graph does not tell which axis holds the channels."""
        return tuple(
            name
            for name in self.inputs
            if name in self.maps or self.channels.get(name) is not None or self.relevance[name].ndim < 3
        )

    @property
    def conserved(self) -> np.ndarray:
        """Relevance at the inputs as a share of the target's value, per sample.

        NaN where the value is 0, where no relevance reaches an input, and for methods whose relevance is no share of
        the value: their plan does not begin with it.
        """
        if not (self.relevance and self._shares_value):
            return np.full(len(self.target), np.nan)
        total = np.sum([v.reshape(len(v), -1).sum(axis=1, dtype=np.float64) for v in self.relevance.values()], axis=0)
        start = np.array([chosen.value for chosen in self.target], np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(start == 0, np.nan, total / start)

    @property
    def _shares_value(self) -> bool:
        """Whether what was carried back is the target's value."""
        if self.plan is not None:
            return self.plan.seed is None
        return self.plan_json is not None and self.plan_json["seed"] == "value"

    def plot(self) -> Any:
        """A matplotlib figure of the maps, one panel per sample and input that has one; shown by notebooks."""
        from onnxplain.render.figure import map_figure

        panels = []
        for name in self.mapped or self.inputs:
            for index, sample in enumerate(self.map(name)):
                chosen = self.target[index]
                label = chosen.label or (chosen.index if chosen.index is not None else chosen.description)
                panels.append((f"{name} {index}: {label}", sample))
        return map_figure(panels)

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as plain values; ``conserved`` for methods that promise to conserve alone."""
        shares = [None if np.isnan(share) else float(share) for share in self.conserved]
        return {
            "schema": SCHEMA,
            "onnxplain": __version__,
            "method": self.method,
            "engine": self.engine,
            "origin": None if self.origin is None else self.origin.to_json(),
            "target": [chosen.to_json() for chosen in self.target],
            "inputs": {name: list(value.shape) for name, value in (self.maps | self.relevance).items()},
            **({"conserved": shares} if self._shares_value else {}),
            "channels": self.channels,
            "plan": self.plan.to_json() if self.plan is not None else self.plan_json,
            "ledger": None if self.ledger is None else self.ledger.to_json(),
            "points": {name: len(value) for name, value in self.points.items()},
            "boxes": {name: value.tolist() for name, value in self.boxes.items()},
            "path": [step.to_json() for step in self.path],
            "layers": list(self.layers),
            "masks": [vars(count) for count in self.masks],
            "timings": self.timings,
            "notes": list(self.notes),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array under the name it has in arrays.npz."""
        groups = {"relevance": self.relevance, "at": self.at, "extras": self.extras, "maps": self.maps,
                  "points": self.points, "point_weights": self.point_weights,
                  "path": {step.tensor: step.points for step in self.path},
                  "path_weights": {step.tensor: step.weight for step in self.path}}  # fmt: skip
        named = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        return {**named, "prediction": self.prediction}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write arrays.npz and explanation.json, both or none."""
        save(folder, "explanation", self.to_json(), self.arrays())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Explanation:
        """Read what :meth:`save` wrote; the plan comes back as ``plan_json``.

        Raises
        ------
        UsageError
            No explanation there.
        FailureError
            It is corrupt or of another schema.
        """
        with opened(folder, "explanation", SCHEMA) as (content, arrays):
            loaded = cls._from(content, arrays)
        return loaded

    @classmethod
    def _from(cls, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Explanation:
        def group(name: str) -> dict[str, np.ndarray]:
            return {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{name}/")}

        ledger = content["ledger"]
        if ledger is not None:
            ledger = Ledger(
                {
                    layer: {column: np.array(values) for column, values in book.items() if column != "unexplained"}
                    for layer, book in ledger["layers"].items()
                }
            )
        return cls(
            group("relevance"),
            arrays["prediction"],
            [Chosen(**chosen) for chosen in content["target"]],
            content["method"],
            content["engine"],
            ledger=ledger,
            at=group("at"),
            timings=dict(content["timings"]),
            notes=tuple(content["notes"]),
            extras=group("extras"),
            channels=dict(content["channels"]),
            maps=group("maps"),
            points=group("points"),
            point_weights=group("point_weights"),
            boxes={name: np.array(value, np.int64).reshape(-1, 4) for name, value in content["boxes"].items()},
            path=_path(content["path"], group("path"), group("path_weights")),
            layers=tuple(content.get("layers", ())),
            origin=Origin(**content["origin"]) if content.get("origin") else None,
            masks=tuple(
                MaskCount(one["tensor"], one["reason"], *(tuple(one[name]) for name in ("selected", "skipped", "used")))
                for one in content.get("masks", ())
            ),
            plan_json=content["plan"],
        )

    def _name(self, name: str | None) -> str:
        known: Sequence[str] = [*self.inputs, *self.at]
        if name is None:
            if len(self.inputs) != 1:
                names = ", ".join(self.inputs)
                raise UsageError(f"there are {len(self.inputs)} explained inputs ({names}): name one")
            return self.inputs[0]
        if name not in known:
            raise UsageError(f"nothing was explained at {name!r}; there are {', '.join(known)}")
        return name
