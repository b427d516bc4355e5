"""Constants folded, shape arithmetic gone, and no memory taken before its size is known."""

import time

import numpy as np
import onnx
import pytest
from nets import model, node
from onnx import TensorProto, helper, numpy_helper

import onnxplain
from onnxplain.errors import FailureError


def loaded(nodes, inputs, outputs=("y",), constants=None, opset=18):
    return onnxplain.load(model(nodes, inputs, list(outputs), constants, opset), threads=1)


def ops(graph):
    return [layer.op_type for layer in graph.layers]


def test_arithmetic_of_constants_is_folded():
    """Weights that are transposed, cast and scaled in the graph are one constant in the analysed one."""
    w = np.arange(6).reshape(2, 3)
    nodes = [
        node("Transpose", ["w"], "t"),
        node("Cast", ["t"], "f", to=TensorProto.FLOAT),
        node("Mul", ["f", "half"], "h"),
        node("MatMul", ["x", "h"], "y"),
    ]
    net = loaded(nodes, {"x": ["N", 3]}, constants={"w": w, "half": np.float32(0.5)})
    assert ops(net.graph) == ["MatMul"]
    np.testing.assert_array_equal(net.graph.tensors["h"].value, w.T / 2)
    assert set(net.graph.tensors) == {"x", "h", "y"}, "nothing is kept that nothing reads"


def test_a_constant_output_is_kept():
    net = loaded(
        [node("Add", ["a", "a"], "two"), node("Relu", ["x"], "y")], {"x": [1]}, ["y", "two"], {"a": np.ones(1)}
    )
    assert ops(net.graph) == ["Relu"]
    np.testing.assert_array_equal(net.run(np.ones(1, np.float32))["two"], [2])


def test_shape_arithmetic_is_no_layer_of_the_path():
    """Reshape to (batch, -1), the batch read off the input, as PyTorch writes it."""
    nodes = [
        node("Shape", ["x"], "shape"),
        node("Gather", ["shape", "zero"], "batch"),
        node("Unsqueeze", ["batch", "axis"], "rows"),
        node("Concat", ["rows", "minus"], "to", axis=0),
        node("Reshape", ["x", "to"], "flat"),
        node("MatMul", ["flat", "w"], "y"),
    ]
    constants = {"zero": np.array(0), "axis": np.array([0]), "minus": np.array([-1]), "w": np.eye(4)}
    net = loaded(nodes, {"x": ["N", 2, 2]}, constants=constants)
    path = net.graph.path(net.graph.outputs[0], net.graph.inputs)
    assert [layer.op_type for layer in path] == ["Reshape", "MatMul"]
    assert all(net.graph.tensors[name].static for name in ("shape", "batch", "rows", "to"))
    assert len(onnxplain.plan(net)) == 2
    x = np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32)
    e = onnxplain.explain(net, x, "gradient", target=2)
    assert e.relevance["x"].reshape(3, 4).tolist() == [[0, 0, 1, 0]] * 3


def test_a_shape_that_is_fixed_is_folded():
    nodes = [node("Shape", ["x"], "shape"), node("Reshape", ["z", "shape"], "y")]
    net = loaded(nodes, {"x": [2, 3], "z": [6]})
    recorded = net.recording({"x": np.ones((2, 3), np.float32), "z": np.ones(6, np.float32)}, net.graph.tensors["y"])
    assert recorded.constant(net.graph.tensors["shape"]).tolist() == [2, 3]


def test_random_numbers_are_not_constants():
    net = loaded([node("RandomNormal", [], "r", shape=[3]), node("Add", ["x", "r"], "y")], {"x": [3]})
    assert ops(net.graph) == ["RandomNormal", "Add"]
    assert not net.graph.tensors["r"].static


def test_dead_nodes_are_removed():
    net = loaded([node("Exp", ["x"], "unused"), node("Relu", ["x"], "y")], {"x": [3]})
    assert ops(net.graph) == ["Relu"]


def test_names_become_unique():
    nodes = [helper.make_node("Relu", ["x"], ["a"], "same"), helper.make_node("Relu", ["a"], ["b"], "same")]
    nodes += [helper.make_node("Relu", ["b"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    net = loaded(nodes, {"x": [3]})
    assert [layer.name for layer in net.graph.layers] == ["same", "same_2", "Relu", "Relu_2"]
    assert net.graph.by_name["same_2"].outputs[0].name == "b"


SIDE = 40_000
"""Squared, in float32, 6.4 GB."""


def growing(op_type):
    """A graph whose one node makes SIDE x SIDE numbers, from constants or from the input."""
    size = numpy_helper.from_array(np.array([SIDE, SIDE]), "size")
    one = numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
    ends = [numpy_helper.from_array(np.array(value), name) for name, value in (("a", 0), ("b", SIDE * SIDE), ("c", 1))]
    inputs, constants = {
        "ConstantOfShape": (["size"], [size]),
        "Expand": (["one", "size"], [one, size]),
        "Tile": (["one", "size"], [one, size]),
        "Range": (["a", "b", "c"], ends),
        "Expand of the input": (["x", "size"], [size]),
        "Tile of the input": (["x", "size"], [size]),
    }[op_type]
    made = TensorProto.INT64 if op_type == "Range" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op_type.split()[0], inputs, ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("y", made, None)],
        constants,
    )
    graph.output[0].type.tensor_type.shape.dim.add()
    if op_type != "Range":
        graph.output[0].type.tensor_type.shape.dim.add()
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(
    "op_type", ["ConstantOfShape", "Expand", "Tile", "Range", "Expand of the input", "Tile of the input"]
)
def test_gigabytes_from_a_small_file_are_refused_at_once(op_type):
    data = growing(op_type).SerializeToString()
    assert len(data) < 250
    onnxplain.load(model([node("Relu", ["x"], "y")], {"x": [1]}))  # what is imported on first use
    started = time.perf_counter()
    with pytest.raises(FailureError, match=r"(would make a tensor of (6.0|11.9) GiB; the limit is 2 GiB)"):
        onnxplain.load(data)
    assert time.perf_counter() - started < 1


def text(body, inputs="float[1, 4] x, bool c"):
    """A model in ONNX's own language, with a shape of 6.0 GiB among its constants."""
    head = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[a] y) <int64[1] huge = {{1600000000}}>'
    return onnx.parser.parse_model(f"{head} {{ {body} }}")


SMALL = "else_branch = e () => (float[p] small) { s = Constant <value = int64[1] {1}> () small = ConstantOfShape (s) }"
BRANCH = f"<{SMALL}, then_branch = t () => (float[q] big) {{ %s }}>"
HIDDEN = {
    "that nothing reads": "big = ConstantOfShape (huge) y = Relu (x)",
    "behind arithmetic that nothing reads": "m = Neg (huge) h = Abs (m) big = ConstantOfShape (h) y = Relu (x)",
    "in a branch": "y = If (c) " + BRANCH % "h = Constant <value = int64[1] {1600000000}> () big = ConstantOfShape (h)",
    "in a branch, from outside": "y = If (c) " + BRANCH % "m = Neg (huge) h = Abs (m) big = ConstantOfShape (h)",
    "in a branch of a branch": f"y = If (c) {BRANCH}".replace("big)", "outer)", 1)
    % ("outer = If (c) " + BRANCH % "big = ConstantOfShape (huge)").replace("small", "least"),
    "in a loop": "m = Constant <value = int64 {2}> () "
    "y = Loop (m, c, x) <body = b (int64 i, bool ci, float[n] v) => (bool co, float[n] big) "
    "{ co = Identity (ci) big = ConstantOfShape (huge) }>",
}


@pytest.mark.parametrize("place", HIDDEN)
def test_gigabytes_are_refused_wherever_they_stand(place):
    with pytest.raises(FailureError, match=r"ConstantOfShape '\w+' would make a tensor of 6\.0 GiB"):
        onnxplain.load(text(HIDDEN[place]))


def test_gigabytes_in_a_chain_of_small_steps():
    """Each node doubles: the limit meets the first tensor beyond it."""
    nodes = [node("Concat", [f"t{i}", f"t{i}"], f"t{i + 1}", axis=0) for i in range(40)]
    with pytest.raises(FailureError, match="Concat 't30' would make a tensor of"):
        loaded([*nodes, node("Add", ["x", "t40"], "y")], {"x": [1]}, constants={"t0": np.ones(1)})


def test_the_branches_of_an_if_keep_what_they_capture():
    def branch(name, op_type):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])
        return helper.make_graph([helper.make_node(op_type, ["x", "w"], [name])], name, [], [out])

    chosen = helper.make_node(
        "If", ["yes"], ["y"], "choice", then_branch=branch("sum", "Add"), else_branch=branch("product", "Mul")
    )
    net = loaded([chosen], {"x": [3]}, constants={"yes": np.array(True), "w": np.array([1.0, 2, 3])})
    np.testing.assert_array_equal(net.run(np.ones(3, np.float32))["y"], [2, 3, 4])
    assert "w" in net.graph.tensors, "a weight that only the branches read"
    with pytest.raises(onnxplain.UnsupportedError, match="no rule for If 'choice'"):
        onnxplain.explain(net, np.ones(3, np.float32))


def test_what_the_reference_cannot_fold_is_left_to_the_runtime():
    """onnx's checker passes it, the reference evaluator has no kernel for the domain: the node stays."""
    fused = helper.make_node("Gelu", ["w"], ["g"], "gelu", domain="com.microsoft")
    proto = onnx.load_from_string(
        model([node("Relu", ["w"], "g"), node("Add", ["x", "g"], "y")], {"x": [3]}, ["y"], {"w": np.ones(3)})
    )
    proto.graph.node[0].CopyFrom(fused)
    proto.opset_import.add(domain="com.microsoft", version=1)
    net = onnxplain.load(proto, threads=1)
    assert ops(net.graph) == ["Gelu", "Add"]
    assert net.graph.tensors["g"].static, "it depends on constants only"
    e = onnxplain.explain(net, np.ones(3, np.float32), "gradient", target=np.ones(3, np.float32))
    np.testing.assert_array_equal(e.relevance["x"], np.ones(3))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (node("Add", ["x", "three"], "y", "bad"), "Add 'bad' reads .*: B has inconsistent type"),
        (node("Not", ["x"], "y", "bad"), "Not 'bad' reads .*: X .*unsupported type"),
    ],
    ids=["one against the other", "one by itself"],
)
def test_types_that_do_not_fit_together(bad, said):
    proto = onnx.load_from_string(model([node("Relu", ["x"], "y")], {"x": [3]}, constants={"three": np.array(3)}))
    proto.graph.node[0].CopyFrom(bad)
    with pytest.raises(FailureError, match=f"the model: {said}"):
        onnxplain.load(proto)


@pytest.mark.filterwarnings("error")
def test_folding_tells_nothing_of_what_it_computes():
    net = loaded(
        [node("Log", ["k"], "l"), node("Add", ["x", "l"], "y")], {"x": [2]}, constants={"k": np.array([-1.0, 1])}
    )
    assert np.isnan(net.graph.tensors["l"].value).tolist() == [True, False]
