"""Batch normalizations folded into the layer before them, and every reason to leave one alone."""

import numpy as np
import onnx
import pytest
from nets import model, node
from onnx import numpy_helper

import onnxplain
from onnxplain.graph.canonize import Change, canonize

NORM = ("scale", "shift", "mean", "var")


def drawn(*shape):
    return np.random.default_rng(sum(shape)).uniform(-1, 1, shape)


def parameters(channels):
    rng = np.random.default_rng(channels)
    values = dict(zip(NORM, rng.uniform(-1, 1, (4, channels)), strict=True))
    return values | {"var": rng.uniform(0.5, 2, channels)}


LINEAR = {
    "Conv": (node("Conv", ["x", "w"], "c"), [2, 4, 6, 6], {"w": drawn(6, 4, 3, 3)}),
    "Conv with a bias": (node("Conv", ["x", "w", "b"], "c"), [2, 4, 6, 6], {"w": drawn(6, 4, 3, 3), "b": drawn(6)}),
    "Conv in groups": (node("Conv", ["x", "w"], "c", group=2), [2, 4, 6, 6], {"w": drawn(6, 2, 3, 3)}),
    "Conv of a signal": (node("Conv", ["x", "w"], "c"), [2, 4, 9], {"w": drawn(6, 4, 3)}),
    "ConvTranspose": (
        node("ConvTranspose", ["x", "w", "b"], "c"), [2, 4, 6, 6], {"w": drawn(4, 6, 3, 3), "b": drawn(6)},
    ),
    "ConvTranspose in groups": (
        node("ConvTranspose", ["x", "w"], "c", group=2), [2, 4, 6, 6], {"w": drawn(4, 3, 3, 3)},
    ),
    "Gemm": (node("Gemm", ["x", "w", "b"], "c"), [5, 4], {"w": drawn(4, 6), "b": drawn(6)}),
    "Gemm transposed": (node("Gemm", ["x", "w"], "c", transB=1), [5, 4], {"w": drawn(6, 4)}),
    "Gemm with factors": (
        node("Gemm", ["x", "w", "b"], "c", alpha=0.5, beta=-2.0), [5, 4], {"w": drawn(4, 6), "b": drawn(6)},
    ),
    "Gemm with a single bias": (node("Gemm", ["x", "w", "b"], "c"), [5, 4], {"w": drawn(4, 6), "b": drawn(1)}),
}  # fmt: skip


def loaded(nodes, shape, constants, outputs=("y",), opset=18, inputs=None):
    proto = model(nodes, {"x": ["N", *shape[1:]], **(inputs or {})}, list(outputs), constants, opset)
    return onnxplain.load(proto, threads=1)


@pytest.mark.parametrize("opset", [7, 9, 14, 18])
@pytest.mark.parametrize("kind", LINEAR)
def test_the_folded_net_gives_the_same_outputs(kind, opset):
    linear, shape, constants = LINEAR[kind]
    if opset < 11 and linear.op_type == "Gemm" and len(linear.input) < 3:
        pytest.skip("C is not optional before opset 11")
    norm = node("BatchNormalization", ["c", *NORM], "n", epsilon=0.01)
    nodes = [linear, norm, node("Relu", ["n"], "y")]
    net = loaded(nodes, shape, constants | parameters(6), opset=opset)
    assert net.changes == (Change("batch-norm folding", "n", True, "folded into 'c'"),)
    assert [layer.op_type for layer in net.graph.layers] == [linear.op_type, "Relu"]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = net.run(x)["y"]
    found = net.trace([net.graph.tensors["n"]], {"x": x})["n"]
    np.testing.assert_allclose(np.maximum(found, 0), expected, rtol=1e-4, atol=1e-5)
    assert len(net.original_graph.layers) == 3, "the graph of the file stays as it is"


def test_folded_values_by_hand():
    """w = 2, b = 1; (2x + 1 - 3) * 4 / sqrt(3 + 1) + 5 = 4x + 1."""
    constants = {"w": np.full((1, 1), 2.0), "b": np.ones(1)}
    constants |= {"scale": np.full(1, 4.0), "shift": np.full(1, 5.0), "mean": np.full(1, 3.0), "var": np.full(1, 3.0)}
    nodes = [node("Gemm", ["x", "w", "b"], "c"), node("BatchNormalization", ["c", *NORM], "y", epsilon=1.0)]
    [gemm] = loaded(nodes, [1, 1], constants).graph.layers
    assert [tensor.value.item() for tensor in gemm.inputs[1:]] == [4, 1]


CONV = node("Conv", ["x", "w"], "c")
BN = node("BatchNormalization", ["c", *NORM], "n")
WEIGHTS = {"w": drawn(6, 4, 3, 3), **parameters(6)}
SHAPE = [2, 4, 6, 6]


def left_alone(nodes, constants=None, outputs=("y",), **settings):
    """The reason, with the check that the graph is untouched."""
    net = loaded(nodes, settings.pop("shape", SHAPE), WEIGHTS | (constants or {}), outputs, **settings)
    [change] = net.changes
    assert not change.applied
    assert net.graph is net.original_graph
    return change.reason


def test_it_follows_something_else():
    nodes = [node("Relu", ["x"], "c"), BN, node("Relu", ["n"], "y")]
    reason = left_alone(nodes, parameters(4))
    assert reason == "it follows Relu 'c', not a convolution or Gemm"


def test_it_stands_at_an_input():
    nodes = [node("BatchNormalization", ["x", *NORM], "y")]
    assert left_alone(nodes, parameters(4)) == "it stands at an input of the graph"


def test_several_consumers():
    nodes = [CONV, BN, node("Add", ["n", "c"], "y")]
    assert left_alone(nodes) == "the output of 'c' has 2 consumers"


def test_an_output_of_the_graph():
    assert (
        left_alone([CONV, BN, node("Relu", ["n"], "y")], outputs=["y", "c"])
        == "the output of 'c' is an output of the graph"
    )


@pytest.mark.parametrize("name", ["w", "scale", "var"])
def test_parameters_that_are_inputs(name):
    nodes = [CONV, BN, node("Relu", ["n"], "y")]
    constants = {key: value for key, value in WEIGHTS.items() if key != name}
    net = loaded(nodes, SHAPE, constants, inputs={name: WEIGHTS[name].shape})
    assert [change.reason for change in net.changes] == ["its parameters or the weights before it are not constant"]


def test_training_mode():
    outputs = ["n", "running_mean", "running_var"]
    norm = node("BatchNormalization", ["c", *NORM], outputs, "n", training_mode=1)
    assert left_alone([CONV, norm, node("Relu", ["n"], "y")], outputs=["y"]) == "it is in training mode"


def test_every_position_by_itself():
    norm = node("BatchNormalization", ["c", *NORM], "n", spatial=0)
    constants = {name: np.ones((6, 4, 4)) for name in NORM}
    reason = left_alone([CONV, norm, node("Relu", ["n"], "y")], constants, opset=7)
    assert reason == "it normalizes every position by itself (spatial=0)"


@pytest.mark.parametrize("gemm", [{"transA": 1}, {"bias": drawn(5, 6)}])
def test_gemms_that_are_no_dense_layer(gemm):
    bias = gemm.pop("bias", drawn(6))
    nodes = [node("Gemm", ["x", "w", "b"], "c", **gemm), BN, node("Relu", ["n"], "y")]
    proto = model(nodes, {"x": [4, 5] if gemm else [5, 4]}, ["y"], {"w": drawn(4, 6), "b": bias, **parameters(6)})
    [change] = onnxplain.load(proto, threads=1).changes
    assert change.reason == "Gemm 'c' is transposed in A or has a two-dimensional C"


def test_a_variance_that_has_no_root():
    assert left_alone([CONV, BN, node("Relu", ["n"], "y")], {"var": np.full(6, -1.0)}) == "its variance is not positive"


def test_weights_that_two_convolutions_share_stay_with_the_other():
    nodes = [CONV, BN, node("Conv", ["x", "w"], "c2"), node("Add", ["n", "c2"], "y")]
    net = loaded(nodes, SHAPE, WEIGHTS)
    np.testing.assert_array_equal(net.graph.tensors["w"].value, WEIGHTS["w"].astype(np.float32))
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    found = net.trace([net.graph.tensors["y"]], {"x": x})["y"]
    np.testing.assert_allclose(found, net.run(x)["y"], rtol=1e-4, atol=1e-5)


def test_of_two_in_a_row_the_first_is_folded():
    second = node("BatchNormalization", ["n", *NORM], "y")
    net = loaded([CONV, BN, second], SHAPE, WEIGHTS)
    reasons = [change.reason for change in net.changes]
    assert reasons == ["folded into 'c'", "it follows BatchNormalization 'n', not a convolution or Gemm"]


def test_nothing_to_fold_gives_the_graph_itself():
    net = loaded([CONV, node("Relu", ["c"], "y")], SHAPE, {"w": WEIGHTS["w"]})
    assert canonize(net.original_graph) == (net.original_graph, ())


def test_the_file_is_not_written_to():
    nodes = [CONV, BN, node("Relu", ["n"], "y")]
    proto = onnx.load_from_string(model(nodes, {"x": SHAPE}, ["y"], WEIGHTS))
    before = proto.SerializeToString()
    net = onnxplain.load(proto, threads=1)
    net.run(np.ones(SHAPE, np.float32))
    assert proto.SerializeToString() == before
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    np.testing.assert_array_equal(net.original_graph.tensors["w"].value, stored["w"])


def test_a_tensor_folded_away_says_where_it_went():
    net = loaded([CONV, BN, node("Relu", ["n"], "y")], SHAPE, WEIGHTS)
    with pytest.raises(onnxplain.UsageError, match="tensor 'c' lies between a convolution and the batch normalization"):
        net.tensor("c")
