"""A classifier small enough to know its answers: the colour with the largest mean wins."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDECAR = """
[input.image]
size = [8, 8]
colour = "RGB"
resize = "stretch"
range = [0, 1]
mean = 0
std = 1

[output.class]
labels = ["red", "green", "blue"]
"""


def save_classifier(path, last="Softmax"):
    constants = {"w": np.eye(3).reshape(3, 3, 1, 1), "dense": 5 * np.eye(3), "bias": np.zeros(3)}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"], "conv"),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "dense", "bias"], ["logits"], "gemm"),
        helper.make_node(last, ["logits"], ["class"], "last", domain="" if last == "Softmax" else "my.ops"),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("class", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), *([] if last == "Softmax" else [helper.make_opsetid("my.ops", 1)])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def classifier(place):
    """``net.onnx`` with its sidecar, in the folder to work in."""
    (place / "net.onnxplain.toml").write_text(SIDECAR)
    save_classifier(place / "net.onnx")
    return "net.onnx"


@pytest.fixture
def pictures(place):
    """``pictures/``: two halves each, black on the left, a colour on the right."""
    folder = place / "pictures"
    folder.mkdir()
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))):
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:, 16:] = colour
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return "pictures"


@pytest.fixture
def unsupported(place):
    """``custom.onnx``, which ends in an op that nobody knows."""
    save_classifier(place / "custom.onnx", last="Mystery")
    return "custom.onnx"
