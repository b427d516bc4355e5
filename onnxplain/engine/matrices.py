"""Large matrices: which of them a session reads where they are, and which it may copy."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from onnxplain.engine.protos import read_by
from onnxplain.engine.sessions import Runtime

LARGE = 4_000_000
"""Elements of a matrix that outweighs what the caches of a core hold."""
WORK = 100
"""Multiply-adds of convolutions for each element of large matrices from which on copies of these are not worth it.

onnxruntime then packs them anew in every run, which adds a fifth to the time at most.
"""
Shapes = Mapping[str, Sequence[object]]


def is_large(weight: np.ndarray) -> bool:
    """Whether a weight is a matrix that is worth a thought."""
    return weight.ndim == 2 and weight.size >= LARGE and weight.dtype == np.float32


def is_large_product(node: onnx.NodeProto, weights: Mapping[str, np.ndarray], shapes: Shapes) -> bool:
    """Whether a node multiplies rows by a large matrix."""
    if node.op_type not in ("Gemm", "MatMul") or node.domain not in ("", "ai.onnx"):
        return False
    matrix = weights.get(node.input[1])
    if matrix is None or not is_large(matrix):
        return False
    return node.op_type == "Gemm" or len(shapes.get(node.input[0], ())) == 2


def as_inputs(
    model: onnx.ModelProto, weights: dict[str, np.ndarray], shapes: Shapes, runtime: Runtime
) -> dict[str, np.ndarray]:
    """Make inputs of the large matrices that rows are multiplied by and that nothing else reads.

    onnxruntime works on an input where it is. Of an initializer it keeps a copy, packed or plain.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place.
    weights : dict of str to numpy.ndarray
        Values of initializers that the model declares as external; what becomes an input is taken from it.
    shapes : mapping of str to sequence
        Of the model's tensors, as far as known.
    runtime : Runtime
        On a GPU, which has copies of its own, nothing changes.

    Returns
    -------
    dict of str to numpy.ndarray
        The values of the new inputs.
    """
    if runtime.on_gpu:
        return {}
    graph = model.graph
    reads = collections.Counter(name for node in graph.node for name in read_by(node))
    reads.update(out.name for out in graph.output)
    products = collections.Counter(node.input[1] for node in graph.node if is_large_product(node, weights, shapes))
    matrices = {name: np.ascontiguousarray(weights.pop(name)) for name in products if products[name] == reads[name]}
    kept = [tensor for tensor in graph.initializer if tensor.name not in matrices]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.input.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape) for name, value in matrices.items()
    )
    return matrices


def copies_pay(
    model: onnx.ModelProto, weights: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int]], batch: int | None
) -> bool:
    """Whether large matrices are worth a copy: one row is as fast without, as are many convolutions around.

    ``batch`` is what -1 stands for in ``shapes``.
    """
    elements = work = most = 0
    for node in model.graph.node:
        samples, *sizes = shapes.get(node.output[0]) or (0,)
        rows = (batch or 1) if samples == -1 else samples
        if is_large_product(node, weights, shapes):
            elements += weights[node.input[1]].size
            most = max(most, rows)
        elif node.op_type == "Conv" and node.input[1] in weights:
            work += rows * math.prod(sizes[1:]) * weights[node.input[1]].size
    return most > 1 and work < WORK * elements
