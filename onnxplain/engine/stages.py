"""Where each resolution of a network ends: the tensors that hold its features at every scale, and the last of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from onnxplain.engine.namespace import Window
from onnxplain.engine.recording import Recording
from onnxplain.errors import UnsupportedError, UsageError
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.model import Feed, Model
from onnxplain.ops import At, Kind, Op, find

_CARRIERS = frozenset({"Pad", "Identity", "Dropout", "Cast", "Transpose"})
"""Op types whose output holds the same features as their input."""
_REFORM = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class Stage:
    """A tensor of feature maps.

    Attributes
    ----------
    tensor : Tensor
    channel_axis : int
        The axis that numbers the maps; axis 0 holds the samples, the others are spatial.
    reason : str
        Why this tensor, for people.
    """

    tensor: Tensor
    channel_axis: int
    reason: str


def find_stages(model: Model, target: Tensor, feed: Feed) -> tuple[Stage, ...]:
    """The last tensor of features of each resolution, from the finest on (Sattarzadeh et al. 2021, phase 1).

    A resolution ends at the layers with strides that read it, a size that the network comes back to each time. Where
    several do (the branches of a block), its last tensor is the last one that all ways to them lead through. The last
    resolution ends where features lose their places, at a global pool or a flattening; pools on the way there add
    nothing.

    Parameters
    ----------
    model : Model
    target : Tensor
        Only the way from the inputs to this tensor is looked at.
    feed : mapping of str to numpy.ndarray
        Inputs; their shapes decide the sizes.

    Raises
    ------
    UnsupportedError
        No convolution stands between inputs and target.
    """
    return _map_of(model, target, feed).stages


def last_spatial(model: Model, target: Tensor, feed: Feed, named: str | None = None) -> Stage:
    """The last tensor of features that still has places, as class activation maps take it, or the one that is named.

    Parameters and errors as of :func:`find_stages` and :func:`named_stages`.
    """
    if named is None:
        return find_stages(model, target, feed)[-1]
    if not isinstance(named, str):
        raise UsageError(f"layer must be the name of one tensor, not {named!r}")
    return named_stages(model, target, feed, [named])[0]


def named_stages(model: Model, target: Tensor, feed: Feed, names: Sequence[str]) -> tuple[Stage, ...]:
    """Tensors that the user names, in the order of the network.

    Raises
    ------
    UsageError
        No such tensor, or one that holds no feature maps on the way to the target.
    """
    features = _map_of(model, target, feed)
    if not names:
        raise UsageError("layers names no tensor; leave it out to have them found")
    chosen = {}
    for name in names:
        tensor = model.graph.tensors.get(name) if isinstance(name, str) else None
        if tensor is None or tensor not in features.axes or not features.has_places(tensor):
            raise UsageError(
                f"tensor {name!r} holds no feature maps on the way to {target.name!r}; "
                f"found there are {', '.join(stage.tensor.name for stage in features.stages)}"
            )
        chosen[tensor] = Stage(tensor, features.axes[tensor], "named")
    return tuple(sorted(chosen.values(), key=lambda stage: features.order[stage.tensor]))


def _map_of(model: Model, target: Tensor, feed: Feed) -> _FeatureMap:
    shapes = tuple(sorted((name, value.shape[1 if model.batched else 0 :]) for name, value in feed.items()))
    return model.sessions.get(
        ("features", target.name, shapes),
        lambda: _FeatureMap(
            model.graph.path(target, model.inputs),
            target,
            model.recording(feed, target, 1 if model.batched else model.fixed_batch),
        ),
    )


class _Shapes:
    """What a window is asked for: shapes alone."""

    xp: object = None
    nonnegative: frozenset[Tensor] = frozenset()

    def __init__(self, recording: Recording) -> None:
        self.shape = recording.shape
        self.constant = recording.constant


class _FeatureMap:
    """Which tensors of a path hold features with places, and where their resolutions end."""

    def __init__(self, path: Sequence[Layer], target: Tensor, recording: Recording) -> None:
        self.path, self.target, self.recording = path, target, recording
        self.order = {out: place for place, layer in enumerate(path) for out in layer.outputs if out is not None}
        self.windows = {layer: window for layer in path if (window := self._window(layer)) is not None}
        self.convolutions = {layer for layer in self.windows if _kind(layer) is Kind.LINEAR}
        self.axes = self._axes()
        self.features = _downstream(path, (out for layer in self.convolutions for out in layer.outputs))
        self.spatial = {tensor for tensor in self.axes if tensor in self.features and self.has_places(tensor)}

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The ends of all resolutions, the last one last."""
        if not self.spatial:
            raise UnsupportedError(
                f"no convolution with more than one place stands between the inputs and {self.target.name!r}, "
                "so there are no feature maps to be found"
            )
        found: dict[Tensor, str] = {}
        for size, layers in self._reductions():
            ends = [self._carried(_first(layer)) for layer in layers]
            end = self._joint([tensor for tensor in ends if self._size(tensor) == size], size)
            found[end] = f"{_by(size)}, before {_names(layers)}"
        end, reason = self._last()
        found.setdefault(end, reason)
        ordered = sorted(found, key=lambda tensor: self.order[tensor] if tensor is not end else len(self.path))
        return tuple(Stage(tensor, self.axes[tensor], found[tensor]) for tensor in ordered)

    def has_places(self, tensor: Tensor) -> bool:
        """Whether a tensor extends over more than one place."""
        return math.prod(self._size(tensor)) > 1

    def _window(self, layer: Layer) -> Window | None:
        op = find(layer)
        if op is None or type(op).window is Op.window:
            return None
        return op.window(At(layer, _Shapes(self.recording), set()))  # type: ignore[arg-type]

    def _size(self, tensor: Tensor) -> tuple[int, ...]:
        shape = self.recording.shape(tensor)
        return tuple(size for axis, size in enumerate(shape) if axis not in (0, self.axes[tensor]))

    def _axes(self) -> dict[Tensor, int]:
        """The axis of the channels: 1 around every op with a window, and handed on by ops that keep the axes."""
        axes = dict.fromkeys((_first(layer) for layer in self.windows), 1)
        for layer in self.path:
            source = next((t for t in layer.inputs if t in axes), None)
            out = layer.outputs[0]
            if out is None:
                continue
            if layer in self.windows:
                axes[out] = 1
            elif source is not None and out not in axes:
                axis = self._handed_on(layer, axes[source], len(self.recording.shape(source)), out)
                axes |= {} if axis is None else {other: axis for other in layer.outputs if other is not None}
        return axes

    def _handed_on(self, layer: Layer, axis: int, rank: int, out: Tensor) -> int | None:
        if layer.op_type == "Transpose":
            perm = list(layer.attributes.get("perm") or range(rank)[::-1])
            return perm.index(axis) if perm[0] == 0 else None
        keeps = len(self.recording.shape(out)) == rank and layer.op_type not in _REFORM
        return axis if keeps else None

    def _reductions(self) -> Iterator[tuple[tuple[int, ...], list[Layer]]]:
        """The size of every resolution that ends before the last one, and the layers that end it.

        A size that is come back to is a resolution of its own: it ends at the layers behind those that ended it before.
        """
        found: dict[tuple[int, ...], list[list[Layer]]] = {}
        for layer in self.path:
            source = next((t for t in layer.inputs if t in self.axes), None)
            if source is None or layer.outputs[0] not in self.spatial:
                continue
            before = self._carried(source)
            if before in self.spatial and self._reduces(layer, source, layer.outputs[0]):
                visits = found.setdefault(self._size(before), [])
                earlier = sum(source in _downstream(self.path, map(_out, layers)) for layers in visits)
                if earlier == len(visits):
                    visits.append([])
                visits[earlier].append(layer)
        return ((size, layers) for size, visits in found.items() for layers in visits)

    def _reduces(self, layer: Layer, source: Tensor, out: Tensor) -> bool:
        sizes = list(zip(self._size(source), self._size(out), strict=False))
        if layer in self.windows:
            strided = zip(self.windows[layer].strides, sizes, strict=True)
            return any(stride > 1 and after < before for stride, (before, after) in strided)
        return layer.op_type not in _CARRIERS and any(2 * after <= before + 1 < 2 * before for before, after in sizes)

    def _last(self) -> tuple[Tensor, str]:
        """The last tensor with places, before any pool that follows the last convolution."""
        if self.target in self.spatial:
            last = max(self.convolutions, key=lambda layer: self.order[_out(layer)])
            before = self._carried(_first(last))
            if before in self.spatial:
                return before, f"{_by(self._size(before))}, before {_names([last])}, which gives the target"
            return self.target, f"{_by(self._size(self.target))}, the target itself"
        leading = set(self.spatial)
        for layer in reversed(self.path):
            if any(out in leading for out in layer.outputs):
                leading.update(t for t in layer.inputs if t is not None)
        leaving = [
            layer
            for layer in self.path
            if any(t in self.spatial for t in layer.inputs) and not any(out in leading for out in layer.outputs)
        ]
        ends = [t for layer in leaving for t in layer.inputs if t in self.spatial]
        end = self._before_pools(self._joint(ends, self._size(ends[-1])))
        return end, f"{_by(self._size(end))}, the last before {_names(leaving)}"

    def _before_pools(self, tensor: Tensor) -> Tensor:
        while True:
            tensor = self._carried(tensor)
            producer = tensor.producer
            if producer not in self.windows or producer in self.convolutions:
                return tensor
            assert producer is not None
            if _first(producer) not in self.spatial:
                return tensor
            tensor = _first(producer)

    def _carried(self, tensor: Tensor) -> Tensor:
        """The tensor that ``tensor`` is a padded, transposed or plain copy of."""
        while (
            tensor.producer is not None
            and tensor.producer.op_type in _CARRIERS
            and (before := tensor.producer.inputs[0]) in self.axes
            and before is not None
        ):
            tensor = before
        return tensor

    def _joint(self, ends: Sequence[Tensor], size: tuple[int, ...]) -> Tensor:
        """The last tensor of a size that all ways to ``ends`` lead through; the last of them where there is none."""
        common = set.intersection(*(self._dominators[tensor] for tensor in ends))
        joint = [t for t in common if t in self.spatial and self._size(t) == size]
        return self._carried(max(joint or ends, key=self.order.__getitem__))

    @cached_property
    def _dominators(self) -> dict[Tensor, set[Tensor]]:
        """Per tensor of the path, the tensors that all ways from the inputs to it lead through, itself included."""
        found: dict[Tensor, set[Tensor]] = {}
        for layer in self.path:
            before = [found[t] for t in layer.inputs if t in found]
            above = set.intersection(*before) if len(before) == len(set(self._flowing(layer))) and before else set()
            for out in layer.outputs:
                if out is not None:
                    found[out] = above | {out}
        return found

    def _flowing(self, layer: Layer) -> Iterable[Tensor]:
        return (t for t in layer.inputs if t is not None and (t in self.order or not t.static))


def _downstream(path: Sequence[Layer], sources: Iterable[Tensor | None]) -> set[Tensor]:
    reached = {tensor for tensor in sources if tensor is not None}
    for layer in path:
        if any(tensor in reached for tensor in layer.inputs):
            reached.update(out for out in layer.outputs if out is not None)
    return reached


def _kind(layer: Layer) -> Kind | None:
    op = find(layer)
    return None if op is None else op.kind_of(layer)


def _first(layer: Layer) -> Tensor:
    tensor = layer.inputs[0]
    assert tensor is not None
    return tensor


def _out(layer: Layer) -> Tensor:
    tensor = layer.outputs[0]
    assert tensor is not None
    return tensor


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _names(layers: Sequence[Layer]) -> str:
    shown = [f"{layer.op_type} {layer.name!r}" for layer in layers[:2]]
    more = f" and {len(layers) - 2} more" if len(layers) > 2 else ""
    return ", ".join(shown) + more
