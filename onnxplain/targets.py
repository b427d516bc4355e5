"""The target: which element of which tensor is explained, and the seed put there."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from onnxplain.errors import UsageError
from onnxplain.graph.layers import LayerGraph, Tensor

TargetSpec = None | int | str | Sequence[int | str] | np.ndarray | Callable[[np.ndarray], np.ndarray]

_CLOSING = ("Softmax", "LogSoftmax", "Sigmoid")
_CONTRAST = "contrast:"
_RANKED = re.compile(r"top\d|predicted")
_ELEMENT = re.compile(r"^(?P<name>.*)\[(?P<index>[-\d:, ]+)\]$")


@dataclass(frozen=True)
class Chosen:
    """The target of one sample as results state it.

    Attributes
    ----------
    output : str
        The model output (or internal tensor) that was asked for.
    tensor : str
        Where the seed stands: the output, or the input of its closing softmax.
    description : str
    index : int or None
        The class, where the target is one.
    label : str or None
    value : float
        The target's own value: the seed-weighted sum of the tensor.
    """

    output: str
    tensor: str
    description: str
    index: int | None
    label: str | None
    value: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Target:
    """A parsed target.

    Attributes
    ----------
    tensor : Tensor
        Where the seed stands.
    output : Tensor
        What was asked for.
    spec : TargetSpec
        What was asked for, without the output's name.
    labels : sequence of str or None
    notes : tuple of str
    first, total : int, int or None
        Where the batch is computed in parts: the sample at which this part begins, and how many there are in all.
    """

    tensor: Tensor
    output: Tensor
    spec: TargetSpec
    labels: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    first: int = 0
    total: int | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two targets the same."""
        spec: Any = self.spec
        if isinstance(spec, np.ndarray):
            spec = (spec.dtype.str, spec.shape, spec.tobytes())
        elif _is_listed(spec):
            spec = tuple(spec)
        return self.tensor, self.output, spec, tuple(self.labels or ()), self.first, self.total

    @property
    def predicted(self) -> bool:
        """Whether this is the default, the largest element of each sample."""
        return self.spec is None

    @property
    def direct(self) -> bool:
        """Whether the weights are the seed themselves: a callable's result, a contrastive seed."""
        contrastive = {isinstance(spec, str) and spec.startswith(_CONTRAST) for spec in self._specs}
        if len(contrastive) > 1:
            raise UsageError("contrastive targets cannot be mixed with others in one batch")
        return callable(self.spec) or contrastive == {True}

    @property
    def needs_value(self) -> bool:
        """Whether the weights depend on the tensor's value, other than through the predicted class."""
        if self.spec is None:
            return False
        ranked = (spec is None or (isinstance(spec, str) and _RANKED.search(spec)) for spec in self._specs)
        return callable(self.spec) or any(ranked)

    @property
    def _specs(self) -> list[Any]:
        """One entry per sample of the whole batch, or a single one for all."""
        return list(self.spec) if _is_listed(self.spec) else [self.spec]

    def weights(self, y: np.ndarray) -> np.ndarray:
        """One weight per element of the tensor's value ``y``, samples along axis 0.

        Raises
        ------
        UsageError
            The target does not exist in a tensor of this shape.
        """
        if _is_weights(self.spec):
            return self._given(self.spec, y)
        if callable(self.spec):
            seed: np.ndarray = np.asarray(self.spec(y), y.dtype)
            if seed.shape != y.shape:
                raise UsageError(f"the target callable returned shape {seed.shape} for an output of shape {y.shape}")
            return _finite(seed)
        if isinstance(self.spec, str) and self.spec.startswith("["):
            return self._slice(y)
        if not y.ndim:
            return np.asarray(self.weights(y[None])[0])
        specs = self._per_sample(len(y))
        return np.stack([self._sample(spec, sample) for spec, sample in zip(specs, y, strict=True)])

    def describe(self, y: np.ndarray, weights: np.ndarray) -> list[Chosen]:
        """The target of each sample in words and numbers."""
        chosen = []
        samples, rows = np.atleast_1d(y), np.atleast_1d(weights)
        for spec, sample, row in zip(self._per_sample(len(samples)), samples, rows, strict=True):
            places = np.flatnonzero(row)
            index = int(places[0]) if len(places) == 1 else None
            label = self._label(index)
            value = float((np.ravel(row)[places].astype(np.float64) * np.ravel(sample)[places]).sum())
            said = "predicted class" if spec is None else f"target {_shown(spec)}"
            chosen.append(Chosen(self.output.name, self.tensor.name, said, index, label, value))
        return chosen

    def _label(self, index: int | None) -> str | None:
        return self.labels[index] if index is not None and self.labels and index < len(self.labels) else None

    def _per_sample(self, count: int) -> Sequence[Any]:
        specs = self._specs
        if not _is_listed(self.spec):
            return specs * count
        if len(specs) != (self.total or count):
            raise UsageError(f"{len(specs)} targets were given for {self.total or count} samples")
        return specs[self.first : self.first + count]

    def _given(self, weights: np.ndarray, y: np.ndarray) -> np.ndarray:
        if weights.ndim == y.ndim > 0 and len(weights) == self.total:
            weights = weights[self.first : self.first + len(y)]
        try:
            return _finite(np.array(np.broadcast_to(weights, y.shape), y.dtype))
        except ValueError as error:
            raise UsageError(f"target weights of shape {weights.shape} do not fit the output {y.shape}") from error

    def _sample(self, spec: Any, sample: np.ndarray) -> np.ndarray:
        weights = np.zeros(sample.size, sample.dtype)
        flat = sample.reshape(-1)
        if not flat.size:
            raise UsageError(f"output {self.output.name!r} has no elements")
        if spec is None:
            weights[np.argmax(flat)] = 1
        elif isinstance(spec, str) and spec.startswith(_CONTRAST):
            weights[:] = -1 / flat.size
            weights[self._class(spec.removeprefix(_CONTRAST), flat)] = 1
        else:
            for name, sign in self._terms(spec, flat):
                weights[self._class(name, flat)] += sign
        return weights.reshape(sample.shape)

    def _terms(self, spec: Any, flat: np.ndarray) -> list[tuple[Any, int]]:
        """``cat-dog`` is cat minus dog, unless a label is spelled like that."""
        if not isinstance(spec, str) or (self.labels and spec in self.labels):
            return [(spec, 1)]
        for position in [match.start() for match in re.finditer("-", spec)]:
            left, right = spec[:position].strip(), spec[position + 1 :].strip()
            if self._known(left, flat) and self._known(right, flat):
                return [(left, 1), (right, -1)]
        return [(spec, 1)]

    def _known(self, name: str, flat: np.ndarray) -> bool:
        try:
            self._class(name, flat)
        except UsageError:
            return False
        return True

    def _class(self, spec: Any, flat: np.ndarray) -> int:
        if isinstance(spec, str):
            if self.labels and spec in self.labels:
                places = [index for index, label in enumerate(self.labels) if label == spec]
                if len(places) > 1:
                    raise UsageError(f"label {spec!r} is ambiguous: elements {_listed(places)} bear it; give the index")
                return places[0]
            if spec == "predicted":
                return int(np.argmax(flat))
            rank = re.fullmatch(r"top(\d+)", spec)
            if rank and 1 <= int(rank[1]) <= flat.size:
                return int(np.argsort(-flat, kind="stable")[int(rank[1]) - 1])
            if not re.fullmatch(r"-?\d+", spec):
                raise UsageError(f"unknown target {spec!r}: {self._offer(flat.size)}")
        try:
            index = int(spec) if isinstance(spec, str) else operator.index(spec)
        except TypeError as error:
            raise UsageError(f"a target is an index, a label or an array of weights, not {spec!r}") from error
        if not -flat.size <= index < flat.size:
            raise UsageError(f"target {index} does not exist: {self._offer(flat.size)}")
        return index % flat.size

    def _offer(self, size: int) -> str:
        labels = f", or a label such as {self.labels[0]!r}" if self.labels else "; --labels names them"
        return f"output {self.output.name!r} has elements 0 to {size - 1}{labels}"

    def _slice(self, y: np.ndarray) -> np.ndarray:
        assert isinstance(self.spec, str)
        parts = [_index(part.strip(), self.spec) for part in self.spec[1:-1].split(",")]
        if len(parts) == y.ndim - 1:
            parts.insert(0, slice(None))
        if len(parts) != y.ndim:
            raise UsageError(
                f"target {self.spec} has {len(parts)} indices; output {self.output.name!r} has {y.ndim} axes"
            )
        samples, elements = np.zeros(self.total or len(y), y.dtype), np.zeros(y.shape[1:], y.dtype)
        shape = (len(samples), *elements.shape)
        try:
            samples[parts[0]] = 1
            elements[tuple(parts[1:])] = 1
        except IndexError as error:
            raise UsageError(f"target {self.spec} lies outside output {self.output.name!r} of shape {shape}") from error
        if not samples.any() or not elements.any():
            raise UsageError(f"target {self.spec} selects nothing of output {self.output.name!r} of shape {shape}")
        return np.multiply.outer(samples[self.first : self.first + len(y)], elements)


def _index(part: str, spec: str) -> int | slice:
    try:
        if ":" in part:
            cut = slice(*(int(piece) if piece.strip() else None for piece in part.split(":")))
            cut.indices(0)  # raises for a step of 0
            return cut
        return int(part)
    except (ValueError, TypeError) as error:
        raise UsageError(f"target {spec}: {part!r} is no index or slice") from error


def _listed(places: Sequence[int]) -> str:
    return f"{', '.join(map(str, places[:-1]))} and {places[-1]}"


def _shown(spec: TargetSpec) -> str:
    return "callable" if callable(spec) else ("weights" if isinstance(spec, np.ndarray) else str(spec))


def _is_weights(spec: TargetSpec) -> TypeGuard[np.ndarray]:
    """Whether an array weighs the output's elements; whole numbers along one axis name an element per sample."""
    return isinstance(spec, np.ndarray) and (spec.dtype.kind in "fb" or spec.ndim > 1)


def _is_listed(spec: TargetSpec) -> TypeGuard[Sequence[Any]]:
    """Whether there is one target per sample."""
    return isinstance(spec, np.ndarray | list | tuple) and not _is_weights(spec)


def _finite(weights: np.ndarray) -> np.ndarray:
    if not np.isfinite(weights).all():
        raise UsageError("the target's weights contain NaN or Inf")
    return weights


def is_element(spec: TargetSpec, labels: Sequence[str] | None = None) -> bool:
    """Whether a target is an element or slice of an output, which may index the axis of the samples as well."""
    return isinstance(spec, str) and not (labels and spec in labels) and _ELEMENT.match(spec) is not None


def parse_target(
    graph: LayerGraph,
    spec: TargetSpec,
    output: str | None = None,
    labels: Sequence[str] | None = None,
    keep_softmax: bool = False,
) -> Target:
    """Settle the output and where the seed stands.

    Parameters
    ----------
    spec : None, int, str, sequence, array or callable
        None or "predicted" for the largest element; an index; a label; "top2" for the second largest; "cat-dog" for a
        margin; "contrast:cat" for a contrastive seed, 1 there and -1/N at all others; "name[0,4:,17]" or "[...]" for an
        element or slice of an output, with or without the axis of the samples; one index or text per sample; an array
        of weights; a callable from the tensor's value to the seed, called for each part of a batch.
    output : str or None
        An output, or an internal tensor; None means the only output.
    keep_softmax : bool
        Explain behind a closing Softmax, LogSoftmax or Sigmoid instead of before it.

    A label goes before every other reading of a text; one that several elements bear is refused.

    Raises
    ------
    UsageError
        Several outputs and none chosen, no such output, or two different ones named.
    """
    if isinstance(spec, np.ndarray) and not spec.ndim:
        spec = spec.item()
    if isinstance(spec, str) and not (labels and spec in labels):
        match = _ELEMENT.match(spec)
        named = match["name"] if match else ""
        if named and output not in (None, named):
            raise UsageError(f"target {spec!r} names another output than {output!r}")
        output = named or output
        spec = f"[{match['index']}]" if match else (None if spec in ("predicted", "top1") else spec)
        if isinstance(spec, str) and re.fullmatch(r"-?\d+", spec):
            spec = int(spec)
    chosen = _choose_output(graph, output)
    producer = chosen.producer
    if keep_softmax or producer is None or producer.op_type not in _CLOSING:
        return Target(chosen, chosen, spec, labels)
    if callable(spec):
        note = f"the target callable is given what the closing {producer.op_type} {producer.name!r} returns"
        return Target(chosen, chosen, spec, labels, (note,))
    before = producer.inputs[0]
    assert before is not None
    note = f"explained before the closing {producer.op_type} {producer.name!r} (keep_softmax explains behind it)"
    return Target(before, chosen, spec, labels, (note,))


def _choose_output(graph: LayerGraph, output: str | None) -> Tensor:
    if output is not None:
        named = [tensor for tensor in graph.outputs if tensor.name == output]
        if named:
            return named[0]
        if output in graph.tensors and graph.tensors[output].producer is not None:
            return graph.tensors[output]
        names = ", ".join(tensor.name for tensor in graph.outputs)
        raise UsageError(f"there is no output {output!r}; there are {names}")
    if len(graph.outputs) != 1:
        names = ", ".join(tensor.name for tensor in graph.outputs)
        raise UsageError(
            f"the model has {len(graph.outputs)} outputs ({names}): choose one with output= or --output-name"
        )
    return graph.outputs[0]
