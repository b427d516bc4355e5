"""Sizes that follow from an input whose dimensions the file leaves open."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from nets import model, node

import onnxplain
from onnxplain.errors import FailureError

SIDE = 20_000
"""By which height and width grow: 2 x 4 x 4 numbers become 47.7 GiB in float32."""
CONSTANTS = {"many": np.array([1, 1, SIDE, SIDE]), "scales": np.array([1, 1, SIDE, SIDE], np.float32)}
SCALED = [node("Shape", ["x"], "shape"), node("Mul", ["shape", "many"], "large")]
MOST = node("ReduceMax", ["x"], "m", axes=[2, 3])
WAYS = {
    "Tile": [node("Tile", ["x", "many"], "big")],
    "Expand": [*SCALED, MOST, node("Expand", ["m", "large"], "big")],
    "ConstantOfShape": [*SCALED, MOST, node("ConstantOfShape", ["large"], "zeros"), node("Add", ["zeros", "m"], "big")],
    "Resize": [node("Resize", ["x", "", "scales"], "big")],
}


def loaded(nodes: list[onnx.NodeProto]) -> onnxplain.Model:
    read = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in CONSTANTS.items() if name in read}
    return onnxplain.load(model(nodes, {"x": ["batch", 2, "height", "width"]}, constants=constants, opset=17))


@pytest.mark.parametrize("way", WAYS)
def test_gigabytes_of_an_open_dimension_are_refused_before_the_run(way: str) -> None:
    net = loaded([*WAYS[way], node("ReduceMean", ["big"], "y", axes=[2, 3])])
    started = time.perf_counter()
    with pytest.raises(FailureError, match=rf"{way} '.*' would make a tensor of 47.7 GiB; the limit is 2 GiB"):
        onnxplain.explain(net, np.ones((1, 2, 4, 4), np.float32), "gradient", target=0)
    with pytest.raises(FailureError, match=r"would make a tensor of 11\.9 GiB"):
        net.run(np.ones((1, 2, 2, 2), np.float32))
    assert time.perf_counter() - started < 1


BRANCHES = (
    "If (c) <then_branch = t () => (float[p1, p2, p3, p4] big) { big = Tile (x, %s) },"
    " else_branch = e () => (float[q1, q2, q3, q4] same) { same = Identity (x) }>"
)


@pytest.mark.parametrize(
    "body",
    [
        "unread = Tile (x, many) y = Relu (x)",
        f"y = {BRANCHES % 'many'}",
        f"more = Add (many, one) y = {BRANCHES % 'more'}",
    ],
)
def test_also_of_nodes_that_nothing_reads_and_in_branches(body: str) -> None:
    constants = f"<int64[4] many = {{1, 1, {SIDE}, {SIDE}}}, int64[1] one = {{0}}>"
    signature = f"(float[n, 2, h, w] x, bool c) => (float[n, 2, k, l] y) {constants}"
    net = onnxplain.load(
        onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {signature} {{ {body} }}')
    )
    with pytest.raises(FailureError, match=r"Tile '\w+' would make a tensor of 47\.7 GiB"):
        net.check_feed({"x": np.ones((1, 2, 4, 4), np.float32), "c": np.array(True)})


def test_what_one_sample_makes_counts_not_how_many_there_are() -> None:
    """A pixel of a sample becomes 512 MiB, eight of them 4 GiB: how many run at once is left to the budget."""
    factors = np.array([1, 1, 8192, 8192])
    nodes = [node("Tile", ["x", "factors"], "big"), node("ReduceMean", ["big"], "y", axes=[2, 3])]
    net = onnxplain.load(
        model(nodes, {"x": ["batch", 2, "height", "width"]}, constants={"factors": factors}, opset=17), threads=1
    )
    assert net.check_feed(np.ones((8, 2, 1, 1), np.float32))["x"].shape == (8, 2, 1, 1)
    with pytest.raises(FailureError, match=r"would make a tensor of 3\.0 GiB"):
        net.check_feed(np.ones((1, 2, 2, 3), np.float32))
