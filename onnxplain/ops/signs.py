"""Which tensors cannot be negative, whatever the data."""

from __future__ import annotations

from onnxplain.graph.layers import LayerGraph, Tensor
from onnxplain.ops.base import find


def nonnegative_tensors(graph: LayerGraph) -> set[Tensor]:
    """Tensors known not to be negative from the ops that make them."""
    numbers = (t for t in graph.constants if t.value is not None and t.value.size and t.value.dtype.kind not in "OSUc")
    known = {t for t in numbers if t.value is not None and bool((t.value >= 0).all())}
    for layer in graph.layers:
        op = find(layer)
        if op is None:
            continue
        data = [t for t in layer.inputs if t is not None and (t.dtype is None or t.dtype.kind == "f")]
        if op.nonnegative_at(layer) or (op.keeps_sign and all(tensor in known for tensor in data)):
            known.update(out for out in layer.outputs if out is not None)
    return known
