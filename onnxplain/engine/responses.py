"""How strongly the filters of a model respond: squared norms reduced inside the graph, one number per filter."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxplain.engine.protos import graph_model
from onnxplain.engine.recording import Recording
from onnxplain.engine.sessions import Session
from onnxplain.engine.walk import walk
from onnxplain.errors import FailureError, UsageError
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.graph.layout import channel_axes, channel_axis
from onnxplain.model import Feed, Model
from onnxplain.ops import Kind, Op, find

FAMILIES = {"convolution": "conv", "activation": "relu", "normalization": "norm", "pooling": "pool", "matmul": "fc"}
"""The modules of :mod:`onnxplain.ops` whose outputs are taken for filters, and how `layers` calls them."""
_OTHERWISE = {
    "PRelu": "relu",
    **dict.fromkeys(["Abs", "Erf", "Exp", "Log", "LogSoftmax", "Neg", "Reciprocal", "Softmax", "Sqrt"]),
}
"""Op types of another family than their module's, or of none: parts of formulas, and probabilities."""

_ENERGY = "__onnxplain_energy"


@dataclass(frozen=True)
class Filters:
    """The filters of one tensor.

    Attributes
    ----------
    tensor, layer, op_type : str
        The tensor and the layer that makes it.
    family : str
        conv, relu, norm, pool or fc.
    axis : int
        The axis of the channels.
    rank : int
    count : int
        How many channels there are.
    """

    tensor: str
    layer: str
    op_type: str
    family: str
    axis: int
    rank: int
    count: int


def find_filters(model: Model, target: Tensor, feed: Feed, layers: str = "all") -> tuple[Filters, ...]:
    """The filters between the inputs and the class scores, in the order of the graph.

    The class scores themselves are none: the last layer with weights before ``target`` and what follows it. Nor is a
    tensor of one channel, whose response would be the same for every sample.

    Parameters
    ----------
    model : Model
    target : Tensor
        The class scores.
    feed : dict of str to numpy.ndarray
        Any input, for the shapes.
    layers : str
        "all"; a family (conv, relu, norm, pool, fc); or a pattern with ``*`` and ``?`` over layers and tensors.

    Raises
    ------
    UsageError
        No filter fits ``layers``.
    """
    recording = model.recording(feed, target)
    axes = channel_axes(model.graph)
    scores = _scores(model, target)
    found = (_filters(layer, axes, recording) for layer in model.graph.path(target, model.inputs)
             if layer.outputs[0] not in scores)  # fmt: skip
    offered = [each for each in found if each is not None]
    if not offered:
        raise UsageError(f"{model.label} has no layer with channels before its class scores")
    chosen = tuple(
        each for each in offered if layers in ("all", each.family)
        or fnmatch.fnmatchcase(each.layer, layers) or fnmatch.fnmatchcase(each.tensor, layers)
    )  # fmt: skip
    if not chosen:
        families = ", ".join(dict.fromkeys(each.family for each in offered))
        names = ", ".join(each.layer for each in offered[:5]) + ", ..." * (len(offered) > 5)
        raise UsageError(f"{model.label} has no layer {layers!r} with channels; it has {families}: {names}")
    return chosen


def _filters(layer: Layer, axes: Mapping[Tensor, int], recording: Recording) -> Filters | None:
    """The filters of a layer's output, where it has several channels and the graph tells their axis."""
    tensor, family = layer.outputs[0], _family(layer)
    if family is None or tensor is None or (tensor.dtype or np.dtype("f4")).kind != "f":
        return None
    shape = recording.shape(tensor)
    axis = axes.get(tensor, channel_axis(tensor) if len(shape) > 2 else 1)
    if axis is None or len(shape) < 2 or axis % len(shape) == 0 or shape[axis] < 2:
        return None
    return Filters(tensor.name, layer.name, layer.op_type, family, axis % len(shape), len(shape), shape[axis])


def _family(layer: Layer) -> str | None:
    op = find(layer)
    if op is None or op.kind_of(layer) not in (Kind.LINEAR, Kind.PASS, Kind.WINNER, Kind.SUM):
        return None
    return _OTHERWISE.get(layer.op_type, FAMILIES.get(type(op).__module__.rpartition(".")[2]))


def _scores(model: Model, target: Tensor) -> set[Tensor]:
    """The tensors from the last weights before ``target`` on."""

    def step(layer: Layer, arrived: list[bool | None]) -> Sequence[bool | None]:
        op: Op | None = find(layer)
        linear = op is not None and op.kind_of(layer) is Kind.LINEAR
        return [None if linear else True for _ in layer.inputs]

    path = model.graph.path(target, model.inputs)
    tensors = [out for layer in path for out in layer.outputs if out is not None]
    return set(walk(path, {target: True}, step, lambda a, b: a, tensors))


class Responses:
    """Runs a model and returns, beside its class scores, the responses of its filters.

    Parameters
    ----------
    model : Model
    target : Tensor
        The class scores.
    filters : sequence of Filters
    """

    def __init__(self, model: Model, target: Tensor, filters: Sequence[Filters]) -> None:
        self.model = model
        self.target = target
        self.filters = tuple(filters)
        self.offsets = np.cumsum([0, *(each.count for each in filters)])
        names = tuple((each.tensor, each.axis) for each in filters)
        self._key = ("responses", target.name, names)

    @property
    def count(self) -> int:
        """How many filters there are."""
        return int(self.offsets[-1])

    def run(self, feed: Feed) -> tuple[np.ndarray, np.ndarray]:
        """Class scores and responses.

        Returns
        -------
        numpy.ndarray
            The target's value.
        numpy.ndarray
            float32, N x filters: the squared L2 norm of every filter over the sum of them in its tensor (Oramas et al.
            2019, section 3.1); 0 where a tensor is 0 everywhere.

        Raises
        ------
        FailureError
            A response is NaN or infinite.
        """
        session = self.model.sessions.get(self._key, self._session)
        found = session.run(feed)
        self.model.check(self._key, feed, lambda: found)
        rows = [self._share(each, found[each.tensor + _ENERGY]) for each in self.filters]
        return found[self.target.name], np.concatenate(rows, axis=1)

    def _share(self, filters: Filters, energy: np.ndarray) -> np.ndarray:
        energy = energy.reshape(-1, filters.count).astype(np.float64)
        total = energy.sum(axis=1, keepdims=True)
        if not np.isfinite(total).all():
            raise FailureError(f"tensor {filters.tensor!r} holds NaN or Inf, or values whose squares overflow")
        share: np.ndarray = np.divide(energy, total, out=np.zeros_like(energy), where=total > 0)
        return share.astype(np.float32)

    def _session(self) -> Session:
        graph = self.model.graph
        nodes = [node for each in self.filters for node in self._nodes(each)]
        outputs = list(dict.fromkeys([self.target, *(out for out in graph.outputs if out.value is None)]))
        extra = [each.tensor + _ENERGY for each in self.filters]
        proto, weights = graph_model(graph, outputs, nodes, extra)
        return Session(proto, self.model.runtime, weights, label=self.model.label)

    def _nodes(self, filters: Filters) -> list[onnx.NodeProto]:
        """The sum of squares over all axes but the channels', and the samples' where they can be stacked."""
        first = int(self.model.batched)
        axes = [axis for axis in range(first, filters.rank) if axis != filters.axis]
        wide, name = f"{filters.tensor}__onnxplain_wide", filters.tensor + _ENERGY
        cast = helper.make_node("Cast", [filters.tensor], [wide], name=wide, to=onnx.TensorProto.FLOAT)
        if not axes:
            return [cast, helper.make_node("Mul", [wide, wide], [name], name=name)]
        if self.model.graph.opsets[""] < 18:
            return [cast, helper.make_node("ReduceSumSquare", [wide], [name], name=name, axes=axes, keepdims=0)]
        value = numpy_helper.from_array(np.array(axes, np.int64), "axes")
        constant = helper.make_node("Constant", [], [f"{name}_axes"], name=f"{name}_axes", value=value)
        inputs = [wide, f"{name}_axes"]
        return [cast, constant, helper.make_node("ReduceSumSquare", inputs, [name], name=name, keepdims=0)]
