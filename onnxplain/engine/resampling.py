"""The matrix of a one-axis Resize, read off onnxruntime's own kernel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxplain.engine.sessions import Runtime, Session

_TAKEN = (
    "antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "keep_aspect_ratio_policy",
    "mode", "nearest_mode",
)  # fmt: skip


def resize_matrix(
    attributes: Mapping[str, Any],
    size: int,
    out: int,
    scale: float | None,
    roi: tuple[float, float] | None,
    beside: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Resize the identity along one axis.

    Parameters
    ----------
    attributes : mapping
        Of the Resize node.
    size, out : int
        Length of the axis before and after.
    scale : float or None
        As the node gives it; None where it gives sizes.
    roi : pair of float or None
    beside : pair of int
        Length and size asked for of another axis, to whose scale a policy of equal aspect ratio may hold this one.

    Returns
    -------
    numpy.ndarray
        float32, out x size.
    """
    settings = tuple((key, attributes[key]) for key in _TAKEN if key in attributes)
    return _matrix(settings, size, out, scale, roi, beside)


@lru_cache(maxsize=64)
def _matrix(
    settings: tuple[tuple[str, Any], ...],
    size: int,
    out: int,
    scale: float | None,
    roi: tuple[float, float] | None,
    beside: tuple[int, int],
) -> np.ndarray:
    def tensor(name: str, value: np.ndarray) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(value, name)

    start, stop = roi or (0.0, 1.0)
    values = [tensor("roi", np.array([start, 0, stop, 1], np.float32))]
    if scale is None:
        inputs = ["x", "roi", "", "sizes"]
        values.append(tensor("sizes", np.array([out, beside[1]], np.int64)))
    else:
        inputs = ["x", "roi", "scales"]
        values.append(tensor("scales", np.array([scale, 2], np.float32)))  # a resize of no axis would be a plain copy
    node = helper.make_node("Resize", inputs, ["y"], axes=[2, 3], **dict(settings))
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, size, size, beside[0]])
    y = helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph([node], "resize", [x], [y], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = Session(model.SerializeToString(), Runtime(), label="Resize")
    planes = np.broadcast_to(np.eye(size, dtype=np.float32)[None, :, :, None], (1, size, size, beside[0]))
    return session.run({"x": planes})["y"][0, :, :, 0].T.copy()
