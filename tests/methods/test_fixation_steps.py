"""The step of each operator type, worked by hand."""

import numpy as np
import onnx
import pytest
from methods.found_points import only, points_of
from nets import model, node

import onnxplain
from onnxplain.errors import UnsupportedError, UsageError


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
