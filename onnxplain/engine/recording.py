"""What one forward pass says about shapes: the shape of every tensor, and the values that depend on shapes only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxplain.engine.matrices import as_inputs
from onnxplain.engine.protos import graph_model
from onnxplain.engine.sessions import Runtime, Session, give_memory_back
from onnxplain.graph.layers import LayerGraph, Tensor
from onnxplain.ops.pooling import miscounted

_SHAPE = "__onnxplain_shape"


@dataclass(frozen=True)
class Recording:
    """Shapes and static values of one run.

    Attributes
    ----------
    shapes : mapping of Tensor to tuple of int
    values : mapping of Tensor to numpy.ndarray
        Static tensors that are not constants of the file.
    """

    shapes: Mapping[Tensor, tuple[int, ...]]
    values: Mapping[Tensor, np.ndarray]

    @property
    def size(self) -> int:
        """Bytes of all tensors of the run together, in float32."""
        return 4 * sum(math.prod(shape) for shape in self.shapes.values())

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape of a tensor in this run."""
        if tensor.value is not None:
            return tensor.value.shape
        if tensor in self.values:
            return self.values[tensor].shape
        return self.shapes[tensor]

    def constant(self, tensor: Tensor) -> np.ndarray:
        """The value of a static tensor."""
        return self.values[tensor] if tensor.value is None else tensor.value


def record(
    graph: LayerGraph, target: Tensor, runtime: Runtime, label: str, feed: Mapping[str, np.ndarray]
) -> Recording:
    """Compute everything up to ``target`` once, in a session of its own that keeps shapes and static values only."""
    flowing, static = _observed(graph, target)
    taps = [node for tensor in flowing for node in _shape_of(tensor)]
    model, weights = graph_model(graph, static, taps, [tensor.name + _SHAPE for tensor in flowing])
    # The optimiser puts the shapes that it infers in the place of those that the kernels make.
    optimization = "disable" if any(map(miscounted, graph.layers)) else "basic"
    matrices = as_inputs(model, weights, graph.shapes, runtime)
    session = Session(model, runtime, weights, optimization, label, lean=True, filters=matrices)
    found = session.run(feed)
    shapes = {tensor: tuple(int(size) for size in found[tensor.name + _SHAPE]) for tensor in flowing}
    give_memory_back()
    return Recording(shapes, {tensor: found[tensor.name] for tensor in static})


def _shape_of(tensor: Tensor) -> list[onnx.NodeProto]:
    """The nodes that give a tensor's shape; of four bits and float8, which no Shape kernel takes, once dequantized."""
    shape = tensor.name + _SHAPE
    if not str(tensor.dtype).startswith(("int4", "uint4", "float8")):
        return [helper.make_node("Shape", [tensor.name], [shape])]
    scale, wide = f"{shape}_scale", f"{shape}_wide"
    return [
        helper.make_node("Constant", [], [scale], value_float=1.0),
        helper.make_node("DequantizeLinear", [tensor.name, scale], [wide]),
        helper.make_node("Shape", [wide], [shape]),
    ]


def _observed(graph: LayerGraph, target: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The tensors up to ``target`` whose shapes are asked for, and the static ones whose values are."""
    path = graph.path(target, graph.inputs)
    tensors = dict.fromkeys(t for layer in path for t in (*layer.inputs, *layer.outputs) if t is not None)
    tensors |= dict.fromkeys(graph.inputs)
    flowing = [t for t in tensors if not t.static and t.value is None]
    return flowing, [t for t in tensors if t.static and t.value is None]
