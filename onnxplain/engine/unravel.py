"""Carry points back through a graph: the walk of CNN-Fixations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxplain.engine.host import Host
from onnxplain.engine.hosted import Trace
from onnxplain.engine.points import Points, Routing, merge
from onnxplain.engine.recording import Recording
from onnxplain.engine.walk import walk
from onnxplain.errors import UnsupportedError
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.model import Feed, Model
from onnxplain.ops import At, find


@dataclass(frozen=True)
class Route:
    """The way from a target back to the inputs: the layers, and the tensors that their fixation steps look at.

    Attributes
    ----------
    target : Tensor
    path : tuple of Layer
    recording : Recording
        Of the feed, or of one of the same shapes.
    read : frozenset of Tensor
    """

    target: Tensor
    path: tuple[Layer, ...]
    recording: Recording
    read: frozenset[Tensor]


def find_route(model: Model, target: Tensor, feed: Feed) -> Route:
    """The route of a target for feeds of these shapes; kept with the model.

    Raises
    ------
    UnsupportedError
        Layers on the path have no fixation step; names them.
    """
    shapes = tuple(sorted((name, value.shape) for name, value in feed.items()))

    def build() -> Route:
        path = model.graph.path(target, model.inputs)
        _check(path)
        recording = model.recording(feed, target)
        scout = _Scout(recording)
        _walk(path, target, scout, _wanted(path, model.inputs), scout, scout, lambda a, b: a)
        return Route(target, path, recording, frozenset(scout.read))

    route: Route = model.sessions.get(("route", target.name, shapes), build)
    return route


def unravel(model: Model, route: Route, values: Feed, weights: np.ndarray, location: str) -> dict[Tensor, Points]:
    """Follow the elements of a target with a positive weight back to the inputs.

    Parameters
    ----------
    route : Route
    values : mapping of str to numpy.ndarray
        At least the tensors of ``route.read``.
    weights : numpy.ndarray
        In the shape of the target; 0 or less for what is not explained.
    location : str
        See :class:`onnxplain.engine.points.Routing`.

    Returns
    -------
    dict of Tensor to Points
        The points at every tensor on the way that they came to, ascending.
    """
    trace = Trace(Host(np.float32), route.recording, dict(values), frozenset())
    index = np.flatnonzero(weights > 0)
    start = Points(index, np.ones(len(index), np.int64))
    wanted = _wanted(route.path, model.inputs)
    keep = [route.target, *wanted]
    found = _walk(route.path, route.target, start, wanted, trace, Routing(location), merge, keep)
    return {tensor: points.merged() for tensor, points in found.items() if len(points)}


def _walk(
    path: Sequence[Layer],
    target: Tensor,
    start: Any,
    wanted: set[Tensor],
    values: Any,
    routing: Any,
    joined: Any,
    keep: Iterable[Tensor] = (),
) -> dict[Tensor, Any]:
    def step(layer: Layer, arrived: list[Any]) -> Sequence[Any]:
        op = find(layer)
        assert op is not None
        while arrived and arrived[-1] is None:
            arrived.pop()
        if len(arrived) > 1 and not op.every_output:
            raise UnsupportedError(
                f"no fixation step for output {len(arrived) - 1} of {layer.op_type} {layer.name!r}; "
                "explain a tensor before it with --output-name"
            )
        return op.fixate(At(layer, values, wanted, points=routing), *arrived)

    return walk(path, {target: start}, step, joined, keep)


def _check(path: Sequence[Layer]) -> None:
    ops = [(layer, find(layer)) for layer in path]
    unknown = [layer for layer, op in ops if op is None or not op.has_fixation(layer)]
    if unknown:
        named = ", ".join(f"{layer.op_type} {layer.name!r}" for layer in unknown[:5])
        raise UnsupportedError(f"no fixation step for {named}; explain a tensor before it with --output-name")


def _wanted(path: Sequence[Layer], inputs: Sequence[Tensor]) -> set[Tensor]:
    return {out for layer in path for out in layer.outputs if out is not None} | set(inputs)


class _Scout:
    """Stands for the values, the namespace, the routing and the points at once, and notes what is read."""

    nonnegative: Set[Tensor] = frozenset()

    def __init__(self, recording: Recording) -> None:
        self.read: set[Tensor] = set()
        self._recording = recording
        self.xp: Any = self

    def value(self, tensor: Tensor) -> _Scout:
        if not tensor.static:
            self.read.add(tensor)
        return self

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        return self._recording.shape(tensor)

    def constant(self, tensor: Tensor) -> np.ndarray:
        return self._recording.constant(tensor)

    def largest(self, points: Any, out_shape: Any, operands: Sequence[Any], measures: Any = None) -> list[Any]:
        return [self] * len(operands)

    def parted(self, points: Any, out_shape: Any, lengths: Sequence[int], axis: int) -> list[Any]:
        return [self] * len(lengths)

    def chosen(self, *arguments: Any) -> list[Any]:
        return [self, self]

    product = chosen

    def __getattr__(self, primitive: str) -> Any:
        return lambda *arguments, **settings: self

    def __mul__(self, other: Any) -> _Scout:
        return self

    __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = __neg__ = __mul__
