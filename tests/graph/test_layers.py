"""The read-only graph: order, links, schema defaults."""

import dataclasses

import numpy as np
import pytest
from nets import model, node
from onnx import TensorProto, helper

import onnxplain
from onnxplain.graph.layers import LayerGraph, Tensor

W = np.random.default_rng(0).standard_normal((3, 2, 3, 3))


@pytest.fixture(scope="module")
def graph() -> LayerGraph:
    """A residual block with a branch that no path takes; the nodes in the file are sorted, as ONNX demands."""
    nodes = [
        node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], "r"),
        node("GlobalAveragePool", ["r"], "p"),
        node("Shape", ["c"], "shape"),
        node("Add", ["r", "c"], "s"),
        node("Clip", ["s", "", "six"], "y"),
        node("Dropout", ["s"], ["d", ""], "drop"),
    ]
    constants = {"w": W, "six": np.float32(6)}
    return onnxplain.load(model(nodes, {"x": ["N", 2, 5, 5]}, ["y", "p", "shape", "d"], constants), threads=1).graph


def test_layers_are_in_topological_order(graph):
    known = {*graph.inputs, *graph.constants}
    for index, layer in enumerate(graph.layers):
        assert layer.index == index
        assert {tensor for tensor in layer.inputs if tensor is not None} <= known
        known |= {tensor for tensor in layer.outputs if tensor is not None}
    assert set(graph.outputs) <= known


def test_nodes_out_of_order_are_sorted():
    """Functions inlined and branches merged may leave any order; the surgeon sorts."""
    nodes = [helper.make_node("Relu", ["x"], ["a"], "first"), helper.make_node("Exp", ["a"], ["y"], "second")]
    tensor = Tensor("x", np.dtype(np.float32), (3,))
    graph = LayerGraph(nodes, [tensor], [Tensor("y")], {}, {"": 18})
    assert [layer.name for layer in graph.layers] == ["first", "second"]
    with pytest.raises(KeyError):
        LayerGraph(nodes[::-1], [tensor], [Tensor("y")], {}, {"": 18})


def test_producers_and_consumers(graph):
    tensors, layers = graph.tensors, graph.by_name
    assert tensors["x"].producer is None
    assert tensors["w"].producer is None
    assert tensors["x"].consumers == (layers["c"],)
    assert set(tensors["c"].consumers) == {layers["r"], layers["shape"], layers["s"]}
    assert tensors["y"].producer is layers["y"]
    assert tensors["y"].consumers == ()
    for layer in graph.layers:
        assert all(out.producer is layer for out in layer.outputs if out is not None)
        assert all(layer in tensor.consumers for tensor in layer.inputs if tensor is not None)


def test_a_tensor_used_twice_by_a_layer_has_it_once_among_its_consumers():
    net = onnxplain.load(model([node("Add", ["x", "x"], "y")], {"x": [3]}), threads=1)
    assert net.graph.tensors["x"].consumers == net.graph.layers


def test_omitted_inputs_and_outputs_are_none(graph):
    clip, drop = graph.by_name["y"], graph.by_name["drop"]
    assert clip.inputs[1] is None
    assert clip.inputs[2].value == 6
    assert drop.outputs[0].name == "d"
    assert all(out is None for out in drop.outputs[1:])


def test_attributes_are_those_of_the_schema_with_defaults(graph):
    conv = graph.by_name["c"].attributes
    assert conv["pads"] == (1, 1, 1, 1)
    assert conv["group"] == 1
    assert conv["auto_pad"] == "NOTSET"
    assert "strides" not in conv, "a default that the schema leaves to the op"


@pytest.mark.parametrize(("opset", "since", "axis"), [(7, 1, 1), (11, 11, 1), (13, 13, -1), (18, 13, -1)])
def test_versions_and_defaults_follow_the_opset(opset, since, axis):
    net = onnxplain.load(model([node("Softmax", ["x"], "y")], {"x": [2, 3]}, opset=opset), threads=1)
    [layer] = net.graph.layers
    assert layer.since_version == since
    assert layer.attributes["axis"] == axis


def test_tensor_attributes_are_arrays():
    fill = helper.make_tensor("value", TensorProto.FLOAT, [1], [2.5])
    nodes = [node("Shape", ["x"], "s"), node("ConstantOfShape", ["s"], "f", value=fill), node("Add", ["x", "f"], "y")]
    net = onnxplain.load(model(nodes, {"x": ["N"]}), threads=1)
    assert net.graph.by_name["f"].attributes["value"].tolist() == [2.5]


def test_it_is_read_only(graph):
    with pytest.raises(TypeError):
        graph.tensors["z"] = Tensor("z")
    with pytest.raises(TypeError):
        graph.by_name["c"].attributes["group"] = 2
    with pytest.raises(TypeError):
        graph.opsets[""] = 7
    with pytest.raises(ValueError, match="read-only"):
        graph.tensors["w"].value[0] = 0
    for part, name in ((graph, "layers"), (graph.by_name["c"], "name"), (graph.tensors["w"], "value")):
        with pytest.raises(AttributeError, match=name):
            setattr(part, name, None)
        with pytest.raises(AttributeError, match=name):
            delattr(part, name)
    assert isinstance(graph.layers, tuple)
    assert isinstance(graph.tensors["c"].consumers, tuple)


def test_shapes_come_from_the_run():
    """value_info in the file that is wrong changes nothing: the recorded run counts."""
    nodes = [node("Relu", ["x"], "r"), node("ReduceSum", ["r", "axes"], "y")]
    net = onnxplain.load(model(nodes, {"x": ["N", "M"]}, constants={"axes": np.array([1])}), threads=1)
    assert net.graph.tensors["r"].shape == ("N", "M")
    recording = net.recording({"x": np.ones((4, 7), np.float32)}, net.graph.tensors["y"])
    assert recording.shape(net.graph.tensors["r"]) == (4, 7)
    assert recording.shape(net.graph.tensors["y"]) == (4, 1)


def test_paths(graph):
    tensors = graph.tensors
    assert [layer.name for layer in graph.path(tensors["y"], graph.inputs)] == ["c", "r", "s", "y"]
    assert [layer.name for layer in graph.path(tensors["y"], [tensors["r"]])] == ["s", "y"]
    assert [layer.name for layer in graph.path(tensors["p"], graph.inputs)] == ["c", "r", "p"]
    assert graph.path(tensors["x"], graph.inputs) == ()
    assert graph.path(tensors["shape"], graph.inputs) == (), "shapes carry nothing"
    assert [layer.name for layer in graph.upstream([tensors["shape"]])] == ["c", "shape"]


def test_downstream_stops_at_shapes(graph):
    reached = {tensor.name for tensor in graph.downstream(graph.inputs)}
    assert {"x", "c", "r", "p", "s", "y", "d"} <= reached
    assert not reached & {"shape", "w", "six"}


def test_what_nobody_declares_has_no_shape():
    assert dataclasses.replace(Tensor("t")).shape is None
    assert repr(Tensor("t", np.dtype(np.float32), (2,))) == "Tensor('t', float32, (2,))"
