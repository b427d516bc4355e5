"""The walk: reverse topological order, fan-out merged; generic over what it carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from onnxplain.graph.layers import Layer, Tensor

C = TypeVar("C")
"""What the walk carries from tensor to tensor: arrays, point sets, intervals."""


def walk(
    path: Sequence[Layer],
    start: Mapping[Tensor, C],
    step: Callable[[Layer, list[C | None]], Sequence[C | None]],
    merge: Callable[[C, C], C],
    keep: Iterable[Tensor] = (),
) -> dict[Tensor, C]:
    """Carry ``start`` back through ``path``.

    Parameters
    ----------
    path : sequence of Layer
        In topological order; see :meth:`onnxplain.graph.layers.LayerGraph.path`.
    start : mapping of Tensor to C
        What stands at the targets.
    step : callable
        One layer: what arrived at each output (None where nothing did) to what each input gets (None for nothing).
    merge : callable
        Joins what several consumers hand to one tensor.
    keep : iterable of Tensor
        Tensors whose final value is returned besides the sources of the path.

    Returns
    -------
    dict of Tensor to C
        What arrived at the tensors that no layer of the path produces, and at ``keep``.
    """
    carried = dict(start)
    kept = set(keep)
    result: dict[Tensor, C] = {}
    produced = {out for layer in path for out in layer.outputs}
    for layer in reversed(path):
        arrived = [carried.pop(out, None) if out is not None else None for out in layer.outputs]
        for out, value in zip(layer.outputs, arrived, strict=True):
            if out in kept and value is not None:
                result[out] = value
        if all(value is None for value in arrived):
            continue
        for tensor, value in zip(layer.inputs, step(layer, arrived), strict=False):
            if value is None or tensor is None or tensor.static:
                continue
            carried[tensor] = merge(carried[tensor], value) if tensor in carried else value
    result |= {tensor: value for tensor, value in carried.items() if tensor not in produced or tensor in kept}
    return result
