"""Where resolutions end: nets drawn by hand, and the zoo's graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

import onnxplain
from onnxplain import UnsupportedError, UsageError
from onnxplain.engine.stages import find_stages, last_spatial, named_stages
from onnxplain.targets import parse_target

RNG = np.random.default_rng(0)
PADS = {"pads": [1, 1, 1, 1]}
HALF = {"kernel_shape": [2, 2], "strides": [2, 2]}


class Net:
    """Nodes written one after another, with weights for those that need them."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}

    def conv(self, source: str, out: str, channels: tuple[int, int], size: int = 3, **attributes: Any) -> str:
        self.weights[f"{out}.w"] = RNG.normal(size=(channels[1], channels[0], size, size)) / 3
        return self.op("Conv", [source, f"{out}.w"], out, **(({} if size == 1 else PADS) | attributes))

    def op(self, op_type: str, sources: list[str], out: str, **attributes: Any) -> str:
        self.nodes.append(nets.node(op_type, sources, out, **attributes))
        return out

    def relu(self, source: str) -> str:
        return self.op("Relu", [source], f"{source}.relu")

    def head(self, source: str, channels: int, pool: str = "GlobalAveragePool") -> str:
        flat = self.op("Flatten", [self.op(pool, [source], "pooled")], "flat")
        self.weights["head.w"] = RNG.normal(size=(channels, 3))
        return self.op("Gemm", [flat, "head.w"], "y")

    def load(self, shape: tuple[int | str, ...] = ("N", 2, 16, 16)) -> onnxplain.Model:
        return onnxplain.load(nets.model(self.nodes, {"x": list(shape)}, constants=self.weights), threads=1)


def found(model: onnxplain.Model, target: str | None = None, **options: Any) -> list[tuple[str, int]]:
    shape = [size if isinstance(size, int) else 1 for size in model.inputs[0].shape or ()]
    feed = {model.inputs[0].name: np.zeros(shape, np.float32)}
    tensor = parse_target(model.graph, None, target).tensor
    if "names" in options:
        stages = named_stages(model, tensor, feed, options["names"])
    else:
        stages = find_stages(model, tensor, feed)
        assert last_spatial(model, tensor, feed) == stages[-1]
    assert all(stage.reason for stage in stages)
    return [(stage.tensor.name, stage.channel_axis) for stage in stages]


def test_the_input_of_every_pool_and_of_the_global_one() -> None:
    net = Net()
    h = net.op("MaxPool", [net.relu(net.conv("x", "a", (2, 4)))], "p", **HALF)
    net.head(net.relu(net.conv(h, "b", (4, 4))), 4)
    assert found(net.load()) == [("a.relu", 1), ("b.relu", 1)]


def test_a_pool_behind_the_last_convolution_ends_its_block_and_adds_nothing() -> None:
    net = Net()
    h = net.op("MaxPool", [net.relu(net.conv("x", "a", (2, 4)))], "p1", **HALF)
    h = net.op("AveragePool", [net.relu(net.conv(h, "b", (4, 4)))], "p2", **HALF)
    net.head(h, 4)
    assert found(net.load()) == [("a.relu", 1), ("b.relu", 1)]


def test_the_five_blocks_of_vgg() -> None:
    net, h, width = Net(), "x", 2
    for block, convolutions in enumerate((2, 2, 3, 3, 3), 1):
        for place in range(1, convolutions + 1):
            h = net.relu(net.conv(h, f"conv{block}_{place}", (width, 4)))
            width = 4
        h = net.op("MaxPool", [h], f"pool{block}", **HALF)
    net.weights["w"] = RNG.normal(size=(4, 3))
    net.op("Gemm", [net.op("Flatten", [h], "flat"), "w"], "y")
    ends = ["conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"]
    assert found(net.load(("N", 2, 32, 32))) == [(f"{name}.relu", 1) for name in ends]


def residual(net: Net) -> str:
    h = net.relu(net.conv("x", "a", (2, 4)))
    inner = net.relu(net.conv(h, "b1", (4, 4), 1))
    inner = net.conv(inner, "b2", (4, 4), strides=[2, 2])
    shortcut = net.conv(h, "s", (4, 4), 1, strides=[2, 2])
    return net.relu(net.op("Add", [inner, shortcut], "sum"))


def test_where_a_block_branches_its_last_common_tensor() -> None:
    net = Net()
    net.head(residual(net), 4)
    assert found(net.load()) == [("a.relu", 1), ("sum.relu", 1)]


def test_the_gate_of_a_channel_is_no_end() -> None:
    net = Net()
    h = residual(net)
    gate = net.op("Sigmoid", [net.conv(net.op("GlobalAveragePool", [h], "squeeze"), "g", (4, 4), 1)], "gate")
    net.head(net.op("Mul", [h, gate], "gated"), 4)
    assert found(net.load()) == [("a.relu", 1), ("gated", 1)]


def test_padding_and_transposes_belong_to_the_layer_behind_them() -> None:
    """As tf2onnx writes a channels-last net: every convolution between two transposes, padded beforehand."""
    net = Net()
    first, back = {"perm": [0, 3, 1, 2]}, {"perm": [0, 2, 3, 1]}
    h = net.conv(net.op("Transpose", ["x"], "t1", **first), "a", (2, 4))
    h = net.relu(net.op("Transpose", [h], "t2", **back))
    net.weights["pads"] = np.array([0, 0, 0, 0, 0, 1, 1, 0])
    h = net.op("Transpose", [net.op("Pad", [h, "pads"], "padded")], "t3", **first)
    h = net.conv(h, "b", (4, 4), 3, strides=[2, 2], pads=[0, 0, 0, 0])
    h = net.relu(net.op("Transpose", [h], "t4", **back))
    net.weights["axes"] = np.array([1, 2])
    h = net.op("ReduceMean", [h, "axes"], "mean", keepdims=0)
    net.weights["head.w"] = RNG.normal(size=(4, 3))
    net.op("MatMul", [h, "head.w"], "y")
    assert found(net.load(("N", 16, 16, 2))) == [("t2.relu", 3), ("t4.relu", 3)]


def test_without_any_reduction_one_block() -> None:
    net = Net()
    h = net.relu(net.conv(net.relu(net.conv("x", "a", (2, 4))), "b", (4, 4)))
    net.weights["head.w"] = RNG.normal(size=(4 * 25, 3))
    net.op("Gemm", [net.op("Flatten", [h], "flat"), "head.w"], "y")
    assert found(net.load(("N", 2, 5, 5))) == [("b.relu", 1)]


def test_a_strided_first_convolution_reads_the_input_which_is_none() -> None:
    net = Net()
    net.head(net.relu(net.conv("x", "a", (2, 4), strides=[2, 2])), 4, "GlobalMaxPool")
    assert found(net.load()) == [("a.relu", 1)]


def test_a_target_with_places_is_explained_by_what_its_convolution_reads() -> None:
    net = Net()
    net.conv(net.relu(net.conv("x", "a", (2, 4))), "y", (4, 3), 1)
    model = net.load()
    assert found(model) == [("a.relu", 1)]
    assert found(model, "a") == [("a", 1)]


def hourglass(net: Net, skip: bool) -> None:
    """16, 8, 4 and up again to 8 and 16, then 16, 8, 4 once more: every descent has pools of its own."""
    up = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    net.weights["twice"] = np.array([1, 1, 2, 2], np.float32)
    fine = net.relu(net.conv("x", "down16", (2, 4)))
    middle = net.relu(net.conv(net.op("MaxPool", [fine], "pool1", **HALF), "down8", (4, 4)))
    h = net.relu(net.conv(net.op("MaxPool", [middle], "pool2", **HALF), "bottom", (4, 4)))
    for size, beside in ((8, middle), (16, fine)):
        h = net.op("Resize", [h, "", "twice"], f"up{size}", **up)
        h = net.op("Add", [h, beside], f"joined{size}") if skip else h
        h = net.relu(net.conv(h, f"up{size}.conv", (4, 4)))
    h = net.relu(net.conv(net.op("MaxPool", [h], "pool3", **HALF), "again8", (4, 4)))
    left = net.conv(h, "left", (4, 4), strides=[2, 2])  # the second descent ends 8 in two branches
    right = net.conv(h, "right", (4, 4), 1, strides=[2, 2])
    net.head(net.relu(net.op("Add", [left, right], "again4")), 4)


@pytest.mark.parametrize("skip", [False, True])
def test_a_size_that_a_net_comes_back_to_ends_each_time(skip: bool) -> None:
    net = Net()
    hourglass(net, skip)
    ends = ["down16", "down8", "up16.conv", "again8", "again4"]
    assert found(net.load()) == [(f"{name}.relu", 1) for name in ends]


def test_layers_can_be_named_in_any_order() -> None:
    net = Net()
    net.head(residual(net), 4)
    model = net.load()
    assert found(model, names=["sum", "b1.relu"]) == [("b1.relu", 1), ("sum", 1)]
    for name, said in (("flat", "no feature maps"), ("pooled", "no feature maps"), ("nothing", "found there are")):
        with pytest.raises(UsageError, match=said):
            found(model, names=[name])
    with pytest.raises(UsageError, match="names no tensor"):
        found(model, names=[])


def test_a_net_without_convolution_has_none() -> None:
    net = Net()
    net.weights["w"] = RNG.normal(size=(6, 3))
    net.op("Gemm", ["x", "w"], "y")
    with pytest.raises(UnsupportedError, match="no convolution"):
        found(net.load(("N", 6)))


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("resnet50", [(64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7)]),
        ("inception_v2", [(64, 112), (192, 56), (320, 28), (576, 14), (1024, 7)]),
    ],
)
def test_the_zoo(name: str, maps: list[tuple[int, int]]) -> None:
    file = Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx"
    model = onnxplain.load(file, threads=1)
    feed = {model.inputs[0].name: np.zeros((1, 3, 224, 224), np.float32)}
    target = parse_target(model.graph, None).tensor
    recording = model.recording(feed, target)
    stages = find_stages(model, target, feed)
    assert [recording.shape(stage.tensor)[1:3] for stage in stages] == maps
