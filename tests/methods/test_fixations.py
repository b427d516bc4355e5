"""CNN-Fixations: worked by hand, against the slow unravelling, and what must hold for every net."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from methods.slow_unravelling import slow_points
from nets import model, node

import onnxplain
from onnxplain.engine.unravel import find_route
from onnxplain.errors import UnsupportedError, UsageError
from onnxplain.inputs.contract import discover
from onnxplain.inputs.pictures import prepare, read_picture
from onnxplain.ops import Kind, Op, table
from onnxplain.resources import resource

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from adversarial_twins import likeness, noisy, shift, twin


def points_of(net, feed, **options):
    """Input name to {index: weight}, no outliers removed."""
    e = onnxplain.explain(onnxplain.load(net), feed, method="fixations", outliers=False, **options)
    return {
        name: dict(zip(map(tuple, found.tolist()), e.point_weights[name].tolist(), strict=True))
        for name, found in e.points.items()
    }


def only(net, x, **options):
    [found] = points_of(net, {"x": np.asarray(x, np.float32)}, **options).values()
    return found


# worked by hand


def test_the_point_of_a_one_layer_net_is_the_largest_pixel_of_the_best_channel():
    net = model(
        [node("Conv", ["x", "w"], "c"), node("GlobalAveragePool", ["c"], "p"), node("Flatten", ["p"], "f"),
         node("Gemm", ["f", "d"], "y")],
        {"x": (1, 2, 3, 4)}, constants={"w": np.eye(2).reshape(2, 2, 1, 1), "d": np.eye(2)},
    )  # fmt: skip
    x = np.zeros((1, 2, 3, 4))
    x[0, 1, 2, 1], x[0, 1, 0, 0], x[0, 0, 1, 1] = 5, 4, 1
    assert only(net, x) == {(0, 1, 2, 1): 1}
    assert only(net, x, target=0) == {(0, 0, 1, 1): 1}


def test_a_vector_keeps_all_positive_contributions_and_counts_the_ways():
    net = model([node("Gemm", ["x", "a"], "h"), node("Relu", ["h"], "r"), node("Gemm", ["r", "b"], "y")], {"x": (1, 3)},
                constants={"a": [[1., 1], [2, 0], [-1, 1]], "b": [[1.], [3]]})  # fmt: skip
    # both hidden neurons contribute; x0 reaches both, x1 the first, x2 the second
    assert only(net, [[1, 1, 2]]) == {(0, 0): 2, (0, 1): 1, (0, 2): 1}


def test_where_no_contribution_is_positive_the_first_largest_is_kept():
    net = model([node("Gemm", ["x", "w"], "y")], {"x": (1, 3)}, constants={"w": [[-2.0], [-1], [-1]]})
    assert only(net, [[1, 1, 1]]) == {(0, 1): 1}


def test_behind_a_spatial_tensor_one_place_is_kept():
    net = model([node("Flatten", ["x"], "f"), node("Gemm", ["f", "w"], "y")], {"x": (1, 2, 1, 2)},
                constants={"w": [[1.], [2], [3], [-1]]})  # fmt: skip
    assert only(net, [[[[5, 1]], [[2, 9]]]]) == {(0, 1, 0, 0): 1}
    pooled = model([node("GlobalMaxPool", ["x"], "p"), node("Flatten", ["p"], "f"), node("Gemm", ["f", "w"], "y")],
                   {"x": (1, 2, 1, 2)}, constants={"w": [[1.], [1]]})  # fmt: skip
    assert only(pooled, [[[[5, 1]], [[2, 9]]]]) == {(0, 0, 0, 0): 1, (0, 1, 0, 1): 1}


def test_a_classifier_written_as_a_convolution_is_a_fully_connected_layer():
    rest = [node("Flatten", ["p"], "f"), node("Gemm", ["f", "w"], "y")]
    as_conv = [node("Conv", ["p", "c"], "scores"), node("Flatten", ["scores"], "y")]
    constants = {"w": [[1.0, -1], [1, 1]], "c": np.array([[1.0, 1], [-1, 1]]).reshape(2, 2, 1, 1)}
    x = [[[[5, 1]], [[2, 9]]]]
    nets = [
        model([node("GlobalMaxPool", ["x"], "p"), *nodes], {"x": (1, 2, 1, 2)}, constants={name: constants[name]})
        for nodes, name in ((rest, "w"), (as_conv, "c"))
    ]
    assert only(nets[0], x) == only(nets[1], x) == {(0, 0, 0, 0): 1, (0, 1, 0, 1): 1}


def test_channels_last_vectors_are_vectors():
    nodes = [node("GlobalMaxPool", ["x"], "p"), node("Transpose", ["p"], "t", perm=[0, 2, 3, 1]),
             node("Flatten", ["t"], "f"), node("Gemm", ["f", "w"], "y")]  # fmt: skip
    net = model(nodes, {"x": (1, 2, 1, 2)}, constants={"w": [[1.0], [1]]})
    assert only(net, [[[[5, 1]], [[2, 9]]]]) == {(0, 0, 0, 0): 1, (0, 1, 0, 1): 1}


def conv_net(x_shape, w, **attributes):
    return model([node("Conv", ["x", "w"], "y", **attributes)], {"x": x_shape}, constants={"w": np.asarray(w, float)})


@pytest.mark.parametrize(("location", "place"), [("center", (1, 1)), ("contribution", (0, 2)), ("activation", (2, 2))])
def test_the_channel_by_summed_contribution_and_the_place_by_option(location, place):
    x = np.zeros((1, 2, 3, 3))
    x[0, 1] = [[0, 0, 2], [0, 0, 0], [0, 0, 3]]
    w = np.zeros((1, 2, 3, 3))
    w[0, 1, 0, 2], w[0, 1, 2, 2], w[0, 0] = 2, 1, 9
    assert only(conv_net(x.shape, w), x, conv_location=location) == {(0, 1, *place): 1}


@pytest.mark.parametrize(
    ("size", "kernel", "attributes", "index", "centre"),
    [
        (227, 11, {"strides": [4, 4]}, 10, 45),  # AlexNet's conv1: 4 * 10 + 5, not 40
        (9, 3, {"pads": [1, 1, 1, 1], "strides": [2, 2]}, 2, 4),
        (9, 3, {"pads": [0, 0, 1, 1], "strides": [2, 2]}, 2, 5),  # TensorFlow's SAME: windows begin at 2 i
        (9, 3, {"pads": [2, 2, 2, 2], "dilations": [2, 2]}, 4, 4),
        (8, 2, {"strides": [2, 2]}, 1, 2),  # an even kernel: the cell before the middle
        (8, 4, {"strides": [2, 2], "pads": [1, 1, 1, 1]}, 1, 2),
        (5, 5, {"pads": [4, 4, 4, 4]}, 0, 0),  # the middle lies in the padding: clipped
        (5, 5, {"pads": [4, 4, 4, 4]}, 8, 4),
        (9, 1, {"strides": [3, 3]}, 2, 6),
    ],
)
def test_the_centre_of_a_window(size, kernel, attributes, index, centre):
    net = conv_net((1, 1, size, size), np.ones((1, 1, kernel, kernel)), **attributes)
    x = np.ones((1, 1, size, size))
    assert only(net, x, target=f"y[0,0,{index},{index}]") == {(0, 0, centre, centre): 1}


def test_groups_read_their_own_channels():
    w = np.ones((4, 2, 1, 1))
    net = conv_net((1, 4, 1, 1), w, group=2)
    x = np.array([9.0, 1, 2, 3]).reshape(1, 4, 1, 1)
    assert only(net, x, target="y[0,1,0,0]") == {(0, 0, 0, 0): 1}
    assert only(net, x, target="y[0,2,0,0]") == {(0, 3, 0, 0): 1}


def test_every_pool_goes_to_the_first_largest_activation_and_never_into_the_padding():
    x = np.full((1, 1, 4, 4), -1.0)
    x[0, 0, 1, 1] = x[0, 0, 2, 1] = -0.5
    for kind in ("MaxPool", "AveragePool"):
        net = model([node(kind, ["x"], "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {"x": (1, 1, 4, 4)})
        assert only(net, x, target="y[0,0,0,0]") == {(0, 0, 1, 1): 1}
        assert only(net, x, target="y[0,0,1,1]") == {(0, 0, 1, 1): 1}
        assert only(net, x, target="y[0,0,3,3]") == {(0, 0, 2, 2): 1}


def test_sums_go_to_the_larger_addend_the_first_on_ties_constants_left_out():
    nodes = [node("Mul", ["x", "three"], "a"), node("Neg", ["x"], "b"), node("Sum", ["b", "a", "hundred", "a"], "y")]
    net = model(nodes, {"x": (1, 2)}, constants={"three": [[0.0, 1]], "hundred": [[100.0, 100]]})
    e = onnxplain.explain(onnxplain.load(net), np.array([[1, 2]], np.float32), "fixations", at=["a", "b"], target=1)
    assert e.at["a"].tolist() == [[0, 1]]
    assert e.at["b"].tolist() == [[0, 0]]
    with pytest.raises(UsageError, match="does not lie between"):
        onnxplain.explain(onnxplain.load(net), np.array([[1, 2]], np.float32), "fixations", at=["y"], output="a")


def two_inputs(kind, a, b, swap=False, **attributes):
    net = model(
        [node(kind, ["b", "a"] if swap else ["a", "b"], "y", **attributes)], {"a": np.shape(a), "b": np.shape(b)}
    )
    feed = {"a": np.asarray(a, np.float32), "b": np.asarray(b, np.float32)}
    return points_of(net, feed, target="y[0,0]")


@pytest.mark.parametrize(
    ("kind", "a", "b", "winner"),
    [
        ("Add", 2, 1, "a"), ("Add", 1, 2, "b"), ("Add", 1, 1, "a"), ("Add", -3, -2, "b"),
        ("Sub", 2, -3, "b"), ("Sub", 1, -1, "a"), ("Sub", -2, 1, "b"), ("Sub", -1, 2, "a"),
        ("Max", 1, 2, "b"), ("Min", 1, 2, "a"), ("Min", 2, 1, "b"), ("Mul", 1, -2, "b"), ("Mul", 2, -2, "a"),
        ("Div", 1, 5, "a"),
    ],
)  # fmt: skip
def test_arithmetic_of_two_activations(kind, a, b, winner):
    if (kind, a, b) == ("Sub", -1, 2):
        winner = "a"  # the addends are -1 and -2
    assert two_inputs(kind, [[a]], [[b]]) == {winner: {(0, 0): 1}}


def test_gates_are_not_followed():
    x = np.arange(1, 9, dtype=np.float32).reshape(1, 2, 2, 2)
    nodes = [node("GlobalAveragePool", ["x"], "p"), node("Sigmoid", ["p"], "g"), node("Mul", ["g", "x"], "y")]
    assert only(model(nodes, {"x": x.shape}), x, target="y[0,1,0,0]") == {(0, 1, 0, 0): 1}
    nodes = [node("Sigmoid", ["b"], "g"), node("Mul", ["g", "a"], "y")]
    net = model(nodes, {"a": (1, 1), "b": (1, 1)})
    small, large = np.array([[0.1]], np.float32), np.array([[9]], np.float32)
    assert points_of(net, {"a": small, "b": large}, target="y[0,0]") == {"a": {(0, 0): 1}}


def test_products_of_activations_and_attention():
    a, b = [[1, 2, -4]], [[3.0], [1], [-1]]
    assert two_inputs("MatMul", a, b) == {"a": {(0, 2): 1}}  # 3, 2, 4: the third, |-4| > |-1|
    assert two_inputs("MatMul", b, a, swap=True) == {"b": {(0, 2): 1}}
    nodes = [node("Softmax", ["a"], "s"), node("MatMul", ["s", "b"], "y")]
    net = model(nodes, {"a": (1, 2), "b": (2, 1)})
    feed = {"a": np.array([[0, 5]], np.float32), "b": np.array([[0.1], [0.2]], np.float32)}
    assert points_of(net, feed, target="y[0,0]") == {"b": {(1, 0): 1}}


def test_tokens_follow_one_contribution_each():
    net = model([node("MatMul", ["x", "w"], "y")], {"x": (1, 2, 3)}, constants={"w": [[1.0], [2], [1]]})
    assert only(net, [[[1, 1, 1], [4, 1, 1]]], target="y[0,1,0]") == {(0, 1, 0): 1}


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_products_with_vectors(shape):
    x = np.arange(6, dtype=np.float32)[: np.prod(shape)].reshape(shape)
    net = model([node("MatMul", ["x", "w"], "v"), node("Reshape", ["v", "s"], "y")], {"x": shape},
                constants={"w": [1.0, -1, 1], "s": np.array([-1, 1])})  # fmt: skip
    last = (shape[0] - 1,) if len(shape) == 2 else ()
    kept = {(*last, 0), (*last, 2)} if len(shape) == 2 else {(2,)}
    assert set(only(net, x, target=f"y[{shape[0] - 1 if last else 0},0]")) == kept


@pytest.mark.parametrize(
    ("name", "attributes", "constants", "index", "source"),
    [
        ("Reshape", {}, {"s": [1, 4, 2, 3]}, (0, 3, 0, 2), (0, 1, 2, 0)),
        ("Flatten", {}, {}, (0, 23), (0, 1, 2, 3)),
        ("Transpose", {"perm": [0, 2, 3, 1]}, {}, (0, 2, 3, 1), (0, 1, 2, 3)),
        ("Slice", {}, {"a": [2], "b": [-9], "c": [2], "d": [-2]}, (0, 1, 1, 3), (0, 1, 0, 3)),
        ("Gather", {"axis": 3}, {"i": [3, -2, 0]}, (0, 1, 0, 1), (0, 1, 0, 2)),
        ("Pad", {}, {"p": [0, 0, 1, 2, 0, 0, 0, 1]}, (0, 1, 0, 6), (0, 1, 0, 3)),
        ("Pad", {"mode": "reflect"}, {"p": [0, 0, 1, 0, 0, 0, 0, 0]}, (0, 1, 0, 0), (0, 1, 1, 0)),
        ("Expand", {}, {"s": [5, 2, 3, 4]}, (4, 1, 2, 3), (0, 1, 2, 3)),
        ("Tile", {}, {"r": [1, 1, 2, 1]}, (0, 1, 4, 0), (0, 1, 1, 0)),
        ("Dropout", {}, {}, (0, 1, 2, 3), (0, 1, 2, 3)),
        ("Softmax", {"axis": 1}, {}, (0, 1, 2, 3), (0, 1, 2, 3)),
        ("ReduceMax", {"keepdims": 0}, {"axes": [1, 3]}, (0, 1), (0, 1, 1, 3)),
        ("Cast", {"to": onnx.TensorProto.FLOAT}, {}, (0, 1, 2, 3), (0, 1, 2, 3)),
    ],
)  # fmt: skip
def test_elements_that_move(name, attributes, constants, index, source):
    arrays = {key: np.array(value, np.int64) for key, value in constants.items()}
    net = model([node(name, ["x", *arrays], "y", **attributes)], {"x": (1, 2, 3, 4)}, constants=arrays)
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    target = np.zeros(onnxplain.load(net).run(x)["y"].shape, np.float32)
    target[index] = 1
    assert only(net, x, target=target, keep_softmax=True) == {source: 1}


def test_blocks_of_pixels_and_resizing():
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 2, 2)
    net = model([node("DepthToSpace", ["x"], "y", blocksize=2)], {"x": x.shape})
    assert only(net, x, target="y[0,0,3,2]") == {(0, 2, 1, 1): 1}
    net = model([node("SpaceToDepth", ["x"], "y", blocksize=2)], {"x": x.shape})
    assert only(net, x, target="y[0,9,0,0]") == {(0, 1, 1, 0): 1}
    for attributes, source in (({"mode": "nearest"}, 1), ({"mode": "linear"}, 1), ({"mode": "cubic"}, 1)):
        nodes = [node("Resize", ["x", "", "scales"], "y", **attributes)]
        net = model(nodes, {"x": x.shape}, constants={"scales": np.array([1, 1, 2, 2], np.float32)})
        assert only(net, x, target="y[0,1,3,2]") == {(0, 1, source, 1): 1}
    nodes = [node("Resize", ["x", "", "scales"], "y", coordinate_transformation_mode="asymmetric", nearest_mode="ceil")]
    net = model(nodes, {"x": x.shape}, constants={"scales": np.array([1, 1, 2, 2], np.float32)})
    assert only(net, x, target="y[0,1,1,0]") == {(0, 1, 1, 0): 1}


def test_split_and_concat_route_to_their_part():
    nodes = [node("Split", ["x", "s"], ["a", "b"], "split", axis=1), node("Concat", ["b", "c", "a"], "y", axis=1)]
    net = model(nodes, {"x": (1, 3)}, constants={"s": np.array([1, 2]), "c": [[7.0]]})
    assert only(net, [[1, 2, 3]], target="y[0,1]") == {(0, 2): 1}
    assert only(net, [[1, 2, 3]], target="y[0,3]") == {(0, 0): 1}
    with pytest.raises(UnsupportedError, match="constants"):
        only(net, [[1, 2, 3]], target="y[0,2]")


def test_where_follows_the_branch_that_was_taken_also_when_the_condition_is_computed():
    nodes = [node("Greater", ["x", "zero"], "c"), node("Neg", ["x"], "n"), node("Where", ["c", "x", "n"], "y")]
    net = model(nodes, {"x": (1, 2)}, constants={"zero": [[0.0]]})
    assert only(net, [[3, -4]]) == {(0, 1): 1}


def test_a_table_looked_up_leads_to_the_index():
    nodes = [
        node("Gather", ["table", "ids"], "e"),
        node("ReduceMean", ["e", "one"], "m", keepdims=0),
        node("MatMul", ["m", "w"], "y"),
    ]
    arrays = {"table": np.array([[0, 1], [5, 0], [0, 2.0]]), "one": np.array([1]), "w": np.array([[1.0], [1]])}
    net = model(nodes, {"ids": (1, 4)}, constants=arrays, dtype=np.float32)
    proto = onnx.load_from_string(net)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    assert points_of(proto.SerializeToString(), {"ids": np.array([[0, 2, 1, 1]])}) == {"ids": {(0, 2): 1, (0, 1): 1}}


def test_gemm_with_an_activation_for_c():
    net = model(
        [node("Gemm", ["a", "w", "c"], "y", beta=2.0)], {"a": (1, 2), "c": (1, 1)}, constants={"w": [[1.0], [1]]}
    )
    for c, found in ((1, {"a": {(0, 0): 1, (0, 1): 1}}), (5, {"c": {(0, 0): 1}})):
        assert points_of(net, {"a": np.ones((1, 2), np.float32), "c": np.array([[c]], np.float32)}) == found


# nets at random: small whole numbers, so that everything is exact, ties are many and contributions all negative


class Draft:
    """Nodes and random whole-numbered weights, added one after another."""

    def __init__(self, seed, channels=3, spatial=(7, 6)):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], {}
        self.channels = {"x": channels}
        self.shape = ("n", channels, *spatial)
        self.rank = len(spatial)

    def add(self, op, inputs, channels, constants=(), **attributes):
        out = f"t{len(self.nodes)}"
        names = [f"{out}_{k}" for k in range(len(constants))]
        self.constants |= dict(zip(names, constants, strict=True))
        self.nodes.append(node(op, [*inputs, *names], out, **attributes))
        self.channels[out] = channels
        return out

    def whole(self, *shape, low=-2, high=2):
        return self.rng.integers(low, high, shape, endpoint=True).astype(np.float32)

    def conv(self, x, m, kernel=3, group=1, relu=True, **attributes):
        kernel = (kernel,) * self.rank if isinstance(kernel, int) else kernel
        attributes.setdefault("pads", [k // 2 for k in kernel] * 2)
        w = self.whole(m, self.channels[x] // group, *kernel)
        y = self.add("Conv", [x], m, [w, self.whole(m)], group=group, **attributes)
        return self.add("Relu", [y], m) if relu else y

    def norm(self, x, fold=False):
        c = self.channels[x]
        scale = self.rng.choice([-2, -1, 0.5, 1, 2], c).astype(np.float32)
        constants = [scale, self.whole(c), self.whole(c), np.full(c, 0.75, np.float32)]
        return self.add("BatchNormalization", [x], c, constants, epsilon=0.25)

    def join(self, op, *xs, **attributes):
        total = sum(self.channels[x] for x in xs) if op == "Concat" else self.channels[xs[0]]
        return self.add(op, xs, total, **attributes)

    def pool(self, x, op="MaxPool", kernel=2, **attributes):
        attributes.setdefault("strides", [kernel] * self.rank)
        return self.add(op, [x], self.channels[x], kernel_shape=[kernel] * self.rank, **attributes)

    def head(self, x, classes=4):
        x = self.add("Flatten", [self.add("GlobalMaxPool", [x], self.channels[x])], self.channels[x])
        return self.model(self.add("Gemm", [x], classes, [self.whole(self.channels[x], classes), self.whole(classes)]))

    def model(self, last):
        self.nodes.append(node("Identity", [last], "y"))
        return model(self.nodes, {"x": self.shape}, constants=self.constants)


def plain(d):
    x = d.pool(d.conv("x", 4))
    x = d.add("Flatten", [d.conv(x, 5)], 0)
    size = 5 * (d.shape[2] // 2) * (d.shape[3] // 2)
    h = d.add("Relu", [d.add("Gemm", [x], 6, [d.whole(size, 6)])], 6)
    h = d.add("Relu", [d.add("Gemm", [h], 5, [d.whole(5, 6)], transB=1, alpha=-2.0)], 5)
    return d.model(d.add("Gemm", [h], 3, [d.whole(5, 3)]))


def inception(d):
    a, b = d.conv("x", 2, 1), d.conv(d.conv("x", 2, 1), 3)
    c, p = d.conv(d.conv("x", 2, 1), 2, 5), d.conv(d.pool("x", kernel=3, strides=[1, 1], pads=[1] * 4), 2, 1)
    return d.head(d.conv(d.join("Concat", a, b, c, p, axis=1), 4))


def convolutional_head(d):
    x = d.conv(d.add("GlobalMaxPool", [d.conv("x", 6)], 6), 5, 1)
    return d.model(d.add("Flatten", [d.conv(x, 4, 1, relu=False)], 4))


def residual(d):
    x = d.conv("x", 4)
    x = d.add("Relu", [d.join("Add", d.conv(d.conv(x, 4), 4, relu=False), x)], 4)
    projection = d.conv(x, 6, 1, relu=False, strides=[2, 2])
    x = d.join("Add", projection, d.conv(d.conv(x, 3, strides=[2, 2]), 6, relu=False))
    return d.head(d.add("Relu", [x], 6))


def residual_norm(d):
    x = d.add("Relu", [d.norm(d.conv("x", 4, relu=False))], 4)
    x = d.join("Sum", d.norm(d.conv(x, 4, relu=False)), x, d.norm(d.conv(x, 4, 1, relu=False)))
    return d.head(d.add("Relu", [x], 4))


def dense(d):
    x = d.conv("x", 3)
    for _ in range(3):
        x = d.join("Concat", x, d.conv(d.add("Relu", [d.norm(x)], d.channels[x]), 2), axis=1)
    return d.head(d.pool(x, "AveragePool"))


def depthwise(d):
    x = d.conv("x", 6)
    x = d.add("Clip", [d.norm(d.conv(x, 6, group=6, relu=False))], 6, [np.float32(0), np.float32(6)])
    return d.head(d.conv(d.conv(x, 12, group=6), 5, 1))


def squeeze_excite(d):
    x = d.conv("x", 4)
    g = d.conv(d.conv(d.add("GlobalAveragePool", [d.pool(x, "AveragePool", 2)], 4), 2, 1), 4, 1, relu=False)
    return d.head(d.conv(d.join("Mul", x, d.add("HardSigmoid", [g], 4, alpha=0.25, beta=0.5)), 4))


def groups_and_windows(d):
    x = d.conv("x", 4, (2, 4), pads=[1, 0, 2, 3])
    x = d.conv(x, 6, (3, 2), group=2, dilations=[2, 3], pads=[2, 1, 0, 3], strides=[1, 2])
    x = d.pool(x, kernel=3, strides=[2, 1], pads=[1, 2, 0, 1])
    return d.head(d.conv(x, 4, (3, 1), group=2, pads=[2, 0, 2, 0]))


def transposed(d):
    x = d.conv("x", 4, strides=[2, 2])
    x = d.add(
        "Relu", [d.add("ConvTranspose", [x], 6, [d.whole(4, 3, 3, 2)], group=2, strides=[2, 3], pads=[1, 0, 0, 1])], 6
    )
    return d.head(d.conv(x, 3))


def shuffled(d):
    x = d.conv("x", 4)
    x = d.add("Transpose", [x], 4, perm=[0, 2, 3, 1])
    x = d.add("Slice", [x], 4, [np.array([1]), np.array([6]), np.array([1]), np.array([2])])
    x = d.add("Gather", [x], 4, [np.array([3, 0, 0, 1, 2])], axis=2)
    x = d.add("Transpose", [x], 4, perm=[0, 3, 1, 2])
    x = d.add("Pad", [x], 4, [np.array([0, 0, 1, 2, 0, 0, 2, 1])])
    return d.head(d.conv(x, 3))


def mean_head(d):
    x = d.add("ReduceMean", [d.conv("x", 4, strides=[2, 2])], 4, [np.array([2, 3])], keepdims=0)
    return d.model(d.add("Gemm", [x], 3, [d.whole(4, 3)]))


FLAT = [
    convolutional_head,
    mean_head,
    plain,
    inception,
    residual,
    residual_norm,
    dense,
    depthwise,
    squeeze_excite,
    groups_and_windows,
    transposed,
    shuffled,
]


def feed_for(d, samples=3):
    return {"x": d.whole(samples, *d.shape[1:], low=-3, high=3)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("structure", FLAT)
def test_agrees_with_the_slow_unravelling(structure, seed):
    d = Draft(seed, spatial=(8, 8) if structure is mean_head else (7, 6))
    net, feed = structure(d), feed_for(d)
    expected = slow_points(net, feed)
    assert points_of(net, feed) == {name: dict(found) for name, found in expected.items()}
    singles = [points_of(net, {"x": feed["x"][n : n + 1]})["x"] for n in range(3)]
    assert points_of(net, feed)["x"] == {(n, *at[1:]): w for n, one in enumerate(singles) for at, w in one.items()}


@pytest.mark.parametrize("location", ["contribution", "activation"])
@pytest.mark.parametrize("structure", [plain, groups_and_windows, residual_norm])
def test_agrees_for_every_location(structure, location):
    d = Draft(7)
    net, feed = structure(d), feed_for(d)
    expected = slow_points(net, feed, location=location)
    assert points_of(net, feed, conv_location=location) == {name: dict(found) for name, found in expected.items()}


@pytest.mark.parametrize("spatial", [(11,), (5, 4, 3)])
def test_agrees_in_one_and_three_dimensions(spatial):
    d = Draft(3, spatial=spatial)
    x = d.conv("x", 4, strides=[2] * d.rank)
    net = d.head(d.conv(d.pool(x, kernel=2, strides=[1] * d.rank), 4, 2, pads=[0] * d.rank + [1] * d.rank))
    feed = feed_for(d)
    assert points_of(net, feed) == {name: dict(found) for name, found in slow_points(net, feed).items()}


def test_all_contributions_negative_and_all_equal():
    d = Draft(0)
    net = residual(d)
    for x in (np.zeros((2, 3, 7, 6), np.float32), np.full((2, 3, 7, 6), -2, np.float32)):
        assert points_of(net, {"x": x}) == {name: dict(found) for name, found in slow_points(net, {"x": x}).items()}


# batch normalization


def norm_net(folded, extra=None):
    """Conv, norm with negative scales, Relu, Conv; ``extra``: why the norm cannot be folded."""
    d = Draft(5)
    w, b, gamma, beta = d.whole(4, 3, 3, 3), d.whole(4), np.array([-1, 2, -2, 0.5], np.float32), d.whole(4)
    constants = {"w": w, "b": b, "v": d.whole(4, 4, 3, 3), "dense": d.whole(4, 3), "gamma": gamma, "beta": beta,
                 "mean": d.whole(4), "var": np.full(4, 0.75, np.float32)}  # fmt: skip
    nodes = [node("Conv", ["x", "w", "b"], "c", pads=[1] * 4)]
    norm = node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], "norm", epsilon=0.25)
    if folded:
        constants["wf"], constants["bf"] = w * gamma[:, None, None, None], (b - constants["mean"]) * gamma + beta
        norm = node("Conv", ["x", "wf", "bf"], "norm", pads=[1] * 4)
    rest = [node("Relu", ["norm"], "r"), node("Conv", ["r", "v"], "c2", pads=[1] * 4)]
    last = "c2"
    if extra == "consumer":
        rest.append(node("Add", ["c2", "c"], "sum"))
        last = "sum"
    rest += [node("GlobalMaxPool", [last], "p"), node("Flatten", ["p"], "f"), node("Gemm", ["f", "dense"], "y")]
    outputs = ("y", "c") if extra == "output" else ("y",)
    used = {name for one in [*nodes, norm, *rest] for name in one.input}
    kept = {name: value for name, value in constants.items() if name in used}
    return model([*nodes, norm, *rest] if extra or not folded else [norm, *rest], {"x": ("n", 3, 7, 6)}, outputs, kept)


@pytest.mark.parametrize("extra", [None, "consumer", "output"])
def test_a_norm_folded_or_not_gives_the_same_points(extra):
    feed = feed_for(Draft(9), 6)
    unfolded, folded = (norm_net(folded, extra) for folded in (False, True))
    assert [change.applied for change in onnxplain.load(unfolded).changes] == [extra is None]
    found = points_of(unfolded, feed, output="y")
    assert found == points_of(folded, feed, output="y")
    assert found["x"] == slow_points(folded, feed)["x"]


def test_a_run_that_ignores_the_norm_differs():
    feed = feed_for(Draft(9), 6)
    net, folded = norm_net(False, "output"), norm_net(True, "output")
    seeds = np.zeros((6, 4, 7, 6), np.float32)
    seeds[:, 0, 3, 3] = 1  # a channel with a negative scale
    found = points_of(net, feed, output="norm", target=seeds)
    assert found == points_of(folded, feed, output="norm", target=seeds)
    assert found != points_of(net, feed, output="c", target=seeds)


def test_the_convolution_itself_is_explained_without_the_sign_of_the_norm_behind_it():
    feed = feed_for(Draft(9))
    assert points_of(norm_net(False, "output"), feed, output="c") == slow_points(norm_net(False, "output"), feed, "c")


def test_two_exports_give_the_same_points():
    oracles = Path(__file__).parents[1] / "oracles"
    files = sorted(oracles.glob("*_opset13.onnx"))
    assert files
    for file in files:
        with np.load(str(file).replace("_opset13.onnx", ".npz")) as stored:
            feed = {"input": stored["input"]}
        newer = str(file).replace("opset13", "opset18")
        assert points_of(str(file), feed) == points_of(newer, feed), file.name


# real and own models


CLASSIFIERS = [
    ("imagenet_squeezenet_fp32", "caffe"), ("imagenet_squeezenet_fp16", "caffe"),
    ("imagenet_mobilenetv1_025_keras", "tf"), ("imagenet_mobilenetv2_qdq", "imagenet"), ("mnist_cntk", None),
    ("mnist01_pytorch", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "preprocess"), CLASSIFIERS)
def test_points_of_every_image_classifier_lie_inside_the_image(material, name, preprocess):
    loaded = onnxplain.load(material / "models" / f"{name}.onnx")
    [source] = loaded.inputs
    shape = [size if isinstance(size, int) else 1 for size in source.shape]
    x = (np.random.default_rng(0).random(shape) * 255).astype(source.dtype)
    if preprocess is not None:
        photo = sorted((material / "images" / "voc2007").glob("*.jpg"))[3]
        x, _ = prepare(read_picture(photo), discover(loaded, source.name, preprocess=preprocess))
    e = onnxplain.explain(loaded, x.astype(source.dtype), "fixations")
    found = e.points[source.name]
    assert len(found)
    assert (found >= 0).all()
    assert (found < x.shape).all()
    assert e.map().shape == tuple(size for axis, size in enumerate(x.shape) if axis != e.channels[source.name])
    for step in e.path:
        assert (step.index >= 0).all()
        assert (step.index < np.prod(step.shape)).all()


def test_recurrent_layers_on_the_path_are_refused_by_name(material):
    loaded = onnxplain.load(material / "models" / "rul_lstm_keras.onnx")
    with pytest.raises(UnsupportedError, match=r"no fixation step for LSTM 'LSTM__51', LSTM 'LSTM__72'"):
        onnxplain.explain(loaded, np.zeros((1, 30, 17), np.float32), "fixations")


def test_bytes_give_index_tuples_and_say_that_there_is_no_map(material):
    loaded = onnxplain.load(material / "models" / "magika_v3_3.onnx")
    file = next(path for path in sorted((material / "magika").rglob("*")) if path.is_file())
    content = np.frombuffer(file.read_bytes()[:1024].ljust(2048, b"\0"), np.uint8).astype(np.int32)[None]
    e = onnxplain.explain(loaded, content, "fixations")
    assert e.points["bytes"].shape[1] == 2
    assert not e.maps
    assert any("no picture" in note for note in e.notes)


def test_every_op_has_a_step_or_is_named():
    """What has neither a step nor works element by element is refused by name; no op of the table is so today."""
    for key, op in table().items():
        assert op.kind is Kind.PASS or type(op).fixate is not Op.fixate, key

    class Mystery(Op):
        kind = Kind.SUM

    assert not Mystery().has_fixation(onnxplain.load(norm_net(True)).graph.layers[0])


def test_parts_of_a_batch_give_what_the_whole_gives():
    d = Draft(1)
    net = residual(d)
    feed, targets = feed_for(d, 7), [0, 1, 2, 3, 0, 1, 2]
    whole, parts = (
        onnxplain.explain(onnxplain.load(net), feed, "fixations", target=targets, batch_size=size, at=["t3"])
        for size in (None, 3)
    )
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(parts.arrays()[name], array, err_msg=name)


def test_saved_and_loaded(tmp_path):
    d = Draft(1)
    e = onnxplain.explain(onnxplain.load(inception(d)), feed_for(d), "fixations")
    e.save(tmp_path / "e")
    back = onnxplain.Explanation.load(tmp_path / "e")
    assert back.to_json()["path"] == e.to_json()["path"]
    np.testing.assert_array_equal(back.path[3].index, e.path[3].index)
    np.testing.assert_array_equal(back.points["x"], e.points["x"])
    np.testing.assert_array_equal(back.boxes["x"], e.boxes["x"])


def test_weights_that_would_overflow_are_counted_as_the_most_there_is():
    layers = [node("MatMul", [f"h{k}" if k else "x", "w"], f"h{k + 1}") for k in range(8)]
    net = model([*layers, node("Identity", ["h8"], "y")], {"x": (1, 256)}, constants={"w": np.full((256, 256), 0.01)})
    assert set(only(net, np.ones((1, 256))).values()) == {2**53}


def test_targets_without_a_positive_weight_are_refused():
    net = model([node("Gemm", ["x", "w"], "y")], {"x": (1, 3)}, constants={"w": np.eye(3)})
    with pytest.raises(UsageError, match="no positive weight"):
        only(net, [[1, 2, 3]], target=np.array([[0, -1, 0]], np.float32))
    assert only(net, [[1, 2, 3]], target="2-1") == {(0, 2): 1}
    assert only(net, [[1, 2, 3]], target="top2") == {(0, 1): 1}


def test_only_what_is_looked_at_is_traced():
    nodes = [
        node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "r"), node("Add", ["r", "b"], "a"),
        node("Sigmoid", ["a"], "s"), node("MaxPool", ["s"], "p", kernel_shape=[2, 2]), node("Flatten", ["p"], "f"),
        node("Gemm", ["f", "d"], "y"),
    ]  # fmt: skip
    constants = {"w": np.ones((2, 1, 1, 1)), "b": np.ones((2, 1, 1)), "d": np.ones((2, 3))}
    loaded = onnxplain.load(model(nodes, {"x": (1, 1, 2, 2)}, constants=constants))
    route = find_route(loaded, loaded.outputs[0], {"x": np.ones((1, 1, 2, 2), np.float32)})
    assert {tensor.name for tensor in route.read} == {"x", "s", "f"}


def test_an_adversarial_twin_has_other_fixations():
    loaded = onnxplain.load(resource("models/flowers.onnx"))
    x, _ = prepare(read_picture(resource("models/flowers/00_blue.png")), discover(loaded, "input"))
    found = twin(loaded, x, levels=8)
    assert 0 < np.abs(found.twin - x).max() <= 16.01 / 255, "8 of 255 grey levels, of a range of 2"
    clean, attacked, noise = (
        onnxplain.explain(loaded, picture, "fixations") for picture in (x, found.twin, noisy(x, levels=8))
    )
    assert [e.target[0].index for e in (clean, attacked, noise)] == [found.first, found.second, found.first]
    assert likeness(clean, attacked) < 0.3, "the points move elsewhere"
    assert likeness(clean, noise) > 0.9, "noise of the same size leaves them where they are"
    assert shift(clean, attacked) > 3 * shift(clean, noise)
