"""A model whose last layers were given random weights, in a copy of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxplain.engine.protos import graph_model
from onnxplain.errors import UnsupportedError, UsageError
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.graph.reader import ModelFile
from onnxplain.model import Model
from onnxplain.ops import Kind, find


class Reweighted(Model):
    """The graph of a model with other values for some of its constants; the model itself stays as it is.

    Parameters
    ----------
    model : Model
    weights : mapping of str to numpy.ndarray
        The new values, by the names of constants of ``model.graph``.
    """

    def __init__(self, model: Model, weights: Mapping[str, np.ndarray]) -> None:
        constants = {tensor.name: tensor.value for tensor in model.graph.constants if tensor.value is not None}
        proto, _ = graph_model(model.graph, model.outputs)
        del proto.graph.initializer[:]
        super().__init__(ModelFile(proto, {**constants, **weights}), None, model.runtime)


@dataclass(frozen=True, eq=False)
class Redrawn:
    """A step of a cascade.

    Attributes
    ----------
    layers : tuple of str
        The layers that lost their weights at this step, from the output on.
    model : Model
        Without the weights of these and of all steps before.
    """

    layers: tuple[str, ...]
    model: Model


def cascade(model: Model, target: Tensor, stages: int, seed: int = 0) -> Iterator[Redrawn]:
    """Redraw the weights of layer after layer, from ``target`` towards the inputs (Adebayo et al., 2018, section 4).

    Layers are products with constant weights: convolutions, dense layers, matrix products. Weights and biases of
    the k-th from the target are drawn by ``default_rng([seed, k])`` from the normal distribution that has the mean
    and the standard deviation of the tensor, so that signals keep their scale.

    Parameters
    ----------
    model : Model
    target : Tensor
    stages : int
        Steps, each with as many layers as the others or one more; no more steps than layers.
    seed : int

    Raises
    ------
    UsageError
        Fewer than one stage.
    UnsupportedError
        No layer before the target has weights.
    """
    if stages < 1:
        raise UsageError(f"weights are redrawn in at least one stage, not {stages}")
    layers = [layer for layer in reversed(model.graph.path(target, model.inputs)) if _weights(layer)]
    if not layers:
        raise UnsupportedError(f"no layer before {target.name!r} has constant floating weights that could be redrawn")
    stages = min(stages, len(layers))
    weights: dict[str, np.ndarray] = {}
    for stage in range(stages):
        first, last = (len(layers) * step // stages for step in (stage, stage + 1))
        for place in range(first, last):
            weights = {**_draws(layers[place], np.random.default_rng([seed, place])), **weights}
        yield Redrawn(tuple(layer.name for layer in layers[first:last]), Reweighted(model, weights))


def _weights(layer: Layer) -> dict[str, np.ndarray]:
    op = find(layer)
    if op is None or op.kind_of(layer) is not Kind.LINEAR:
        return {}
    constants = [(t.name, t.value) for t in layer.inputs if t is not None and t.value is not None]
    return {name: value for name, value in constants if value.dtype.kind == "f" and value.size}


def _draws(layer: Layer, generator: np.random.Generator) -> dict[str, np.ndarray]:
    drawn = {}
    for name, value in _weights(layer).items():
        mean, deviation = value.mean(dtype=np.float64), value.std(dtype=np.float64)
        drawn[name] = generator.normal(mean, deviation, value.shape).astype(value.dtype)
    return drawn
