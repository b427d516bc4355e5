"""Small models whose input contracts are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxplain
from onnxplain.model import Model

Build = Callable[..., Model]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Make a classifier of four classes: the nodes of ``head``, then, unless told otherwise, a 3 x 3 convolution."""

    def make(
        shape: Sequence[int | str] = ("N", 3, 8, 8),
        head: Sequence[tuple[str, Sequence[Any], dict[str, Any]]] = (),
        dtype: int = TensorProto.FLOAT,
        metadata: dict[str, str] | None = None,
        convolution: bool = True,
        channels: int = 3,
        file: str | None = None,
    ) -> Model:
        nodes, constants, last = [], [], "x"
        for index, (op, values, attributes) in enumerate(head):
            names = [last]
            for place, value in enumerate(values):
                name = f"c{index}_{place}"
                constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
                names.append(name)
            last = f"h{index}"
            nodes.append(helper.make_node(op, names, [last], f"{op}_{index}", **attributes))
        if convolution:
            weight = np.ones((4, channels, 3, 3), np.float32)
            constants.append(numpy_helper.from_array(weight, "w"))
            nodes.append(helper.make_node("Conv", [last, "w"], ["features"], "conv"))
            nodes.append(helper.make_node("GlobalAveragePool", ["features"], ["pooled"], "pool"))
            last = "pooled"
        nodes.append(helper.make_node("Flatten", [last], ["y"], "flatten"))
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", dtype, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, metadata or {})
        if file is None:
            return onnxplain.load(model)
        onnx.save(model, tmp_path / file)
        return onnxplain.load(tmp_path / file)

    return make
