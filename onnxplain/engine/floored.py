"""Pools in ceil mode that read one window fewer than shape inference counts, written so that it counts right.

A last window that would start in the padding behind an axis is left out by onnxruntime's kernels, and counted by shape
inference before opset 22: what is built on the pool's output would not load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from onnxplain.engine.upgrade import constant_node, inside
from onnxplain.errors import UnsupportedError
from onnxplain.graph.layers import Layer
from onnxplain.ops import At
from onnxplain.ops.pooling import miscounted
from onnxplain.ops.window import end_pads, spatial_window

if TYPE_CHECKING:
    from onnxplain.engine.compiled import SymbolicValues


def floored(layer: Layer, values: SymbolicValues) -> list[onnx.NodeProto]:
    """The nodes of such a pool without ceil mode, its pads as the recorded run reads them; none for any other layer.

    Raises
    ------
    UnsupportedError
        The pads reach as far as the kernel, which onnxruntime takes in ceil mode alone.
    """
    if not miscounted(layer) or not values.recorded(layer.outputs[0]):
        return []
    at = At(layer, values, set())
    window = spatial_window(at, at["kernel_shape"])
    asked = end_pads(at, window)
    counted = tuple(
        -(-(size + begin + end - dilation * (kernel - 1) - 1) // stride) + 1
        for size, kernel, stride, dilation, begin, end in zip(at.shape()[2:], *window[:4], asked, strict=True)
    )
    if counted == at.out_shape()[2:]:
        return []
    if any(end >= kernel for kernel, end in zip(window.kernel, window.end, strict=True)):
        raise UnsupportedError(
            f"{layer.op_type} {layer.name!r} reads further behind its input than its kernel is long, for which there "
            "is no form without ceil mode; engine='host' runs it"
        )
    pads = [*window.begin, *window.end]
    if not at.get("count_include_pad", 0) or all(read <= end for read, end in zip(window.end, asked, strict=True)):
        return [_changed(layer, pads=pads)]
    given = [min(read, end) for read, end in zip(window.end, asked, strict=True)]
    beyond = [read - end for read, end in zip(window.end, given, strict=True)]
    nodes = _padded(layer, [0, 0, *window.begin, 0, 0, *given])
    return [*nodes, _changed(layer, nodes[-1].output[0], pads=[0] * len(beyond) + beyond)]


def _changed(layer: Layer, source: str | None = None, *, pads: list[int]) -> onnx.NodeProto:
    """The pool's node with other pads, reading ``source``, whose padding counts as data, where that is given."""
    node = onnx.NodeProto()
    node.CopyFrom(layer.node)
    replaced = {"auto_pad", "ceil_mode", "pads"} | (set() if source is None else {"count_include_pad"})
    kept = [attribute for attribute in node.attribute if attribute.name not in replaced]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", pads)])
    node.input[0] = source or node.input[0]
    return node


def _padded(layer: Layer, pads: list[int]) -> list[onnx.NodeProto]:
    """Zeros that an average counts, around the pool's input."""
    sizes, out = inside(layer, "pads"), inside(layer, "padded")
    return [
        constant_node(sizes, np.array(pads, np.int64)),
        helper.make_node("Pad", [layer.node.input[0], sizes], [out]),
    ]
