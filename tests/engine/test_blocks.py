"""Graphs laid out in blocks compute what they computed before, and leave the blocks only where they must."""

import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from onnxplain.engine import matrices
from onnxplain.engine.blocks import DOMAIN, block_size, in_blocks
from onnxplain.engine.filters import laid_out
from onnxplain.engine.protos import initializer
from onnxplain.engine.sessions import Runtime, Session
from onnxplain.errors import FailureError

FLOAT = onnx.TensorProto.FLOAT
needs_blocks = pytest.mark.skipif(
    block_size() == 1, reason="the CPU provider has no blocks of channels on this machine"
)
rng = np.random.default_rng(3)


def conv(x, y, outputs, inputs, kernel=1, group=1, bias=False, **attributes):
    """A Conv node and its constants."""
    constants = {f"{y}_w": rng.standard_normal((outputs, inputs // group, kernel, kernel)).astype(np.float32)}
    if bias:
        constants[f"{y}_b"] = rng.standard_normal(outputs).astype(np.float32)
    attributes = {"group": group, "pads": [kernel // 2] * 4, **attributes}
    return helper.make_node("Conv", [x, *constants], [y], **attributes), constants


def node(op_type, inputs, output, constants=None, **attributes):
    return helper.make_node(op_type, inputs, [output] if isinstance(output, str) else output, **attributes), {
        name: np.asarray(value) for name, value in (constants or {}).items()
    }


def built(parts, channels=16, size=6, batch=2, outputs=("y",), opset=18):
    """The model, its large constants apart."""
    weights: dict[str, np.ndarray] = {}
    constants = [initializer(name, value, weights) for _, found in parts for name, value in found.items()]
    graph = helper.make_graph(
        [part for part, _ in parts],
        "parts",
        [helper.make_tensor_value_info("x", FLOAT, [batch, channels, size, size])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), weights


def shapes_of(model):
    """By onnx, symbols as -1."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim
        )
        for value in [*inferred.input, *inferred.value_info, *inferred.output]
        if value.type.tensor_type.elem_type == FLOAT
    }


def compared(parts, runs=1, **settings):
    """The op types of the graph in blocks, after it gave what onnxruntime makes of the graph as it is."""
    model, weights = built(parts, **settings)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for tensor in whole.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(whole.SerializeToString(), options, ["CPUExecutionProvider"])
    laid, left, filters = in_blocks(model, weights, shapes_of(model), block_size())
    session = Session(laid.SerializeToString(), Runtime(threads=1), left, filters=filters)
    outputs = settings.get("outputs", ("y",))
    for run in range(runs):
        batch = settings.get("batch", 2)
        x = rng.standard_normal((batch if isinstance(batch, int) else run + 1, *shapes_of(model)["x"][1:]))
        x = x.astype(np.float32)
        expected = plain.run(list(outputs), {"x": x})
        found = session.run({"x": x}, outputs)
        for name, value in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-5 * np.abs(value).max(), err_msg=name)
    return Counter(each.op_type if each.domain == DOMAIN else f"plain {each.op_type}" for each in laid.graph.node)


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 32), (20, 12), (5, 4)])
def test_filters_by_the_letter(block, outputs, inputs):
    """Every weight stands where its block and its place in it say; what is beyond is 0."""
    filters = rng.standard_normal((outputs, inputs, 2, 3)).astype(np.float32)
    both = laid_out(filters, block, False)
    only = laid_out(filters, block, True)
    assert both.shape == (-(-outputs // block) * block, -(-inputs // block) * block, 2, 3)
    assert only.shape == (both.shape[0], inputs, 2, 3)
    assert both.ctypes.data % 64 == only.ctypes.data % 64 == 0
    both = both.reshape(both.shape[0] // block, both.shape[1] // block, 2, 3, block, block)
    only = only.reshape(both.shape[0], inputs, 2, 3, block)
    for (o, i, h, w), value in np.ndenumerate(filters):
        assert both[o // block, i // block, h, w, i % block, o % block] == value
        assert only[o // block, i, h, w, o % block] == value
    assert np.count_nonzero(both) == np.count_nonzero(only) == filters.size


@needs_blocks
def test_a_division_stays_in_blocks():
    parts = [
        conv("x", "a", 16, 16),
        conv("x", "b", 16, 16),
        node("Exp", ["b"], "e"),
        node("Div", ["a", "e"], "q"),
        conv("q", "y", 32, 16, 3),
    ]
    assert compared(parts) == {"ReorderInput": 1, "Conv": 3, "plain Exp": 1, "plain Div": 1, "ReorderOutput": 1}


@needs_blocks
def test_nothing_is_made_of_what_is_beyond_the_channels():
    """0 / 0 there would be NaN, and everything that reads it."""
    parts = [conv("x", "a", 20, 16), conv("x", "b", 20, 16), node("Div", ["a", "b"], "q"), conv("q", "y", 4, 20)]
    assert compared(parts)["ReorderOutput"] == 3
    parts = [conv("x", "a", 20, 16), conv("a", "b", 20, 20), node("Mul", ["a", "b"], "q"), conv("q", "y", 4, 20)]
    assert compared(parts)["ReorderOutput"] == 1


@needs_blocks
@pytest.mark.parametrize(
    ("channels", "outputs", "group", "kernel", "blocked"),
    [
        (3, 16, 1, 3, True), (6, 10, 1, 3, True), (16, 1, 1, 1, True), (20, 24, 1, 3, True), (18, 16, 1, 1, False),
        (16, 16, 16, 3, True), (20, 20, 20, 3, True), (18, 18, 18, 3, False), (32, 64, 2, 3, True),
        (32, 16, 2, 3, block_size() == 8), (16, 32, 16, 3, False),
    ],
)  # fmt: skip
def test_convolutions(channels, outputs, group, kernel, blocked):
    found = compared([conv("x", "y", outputs, channels, kernel, group, bias=True)], channels=channels)
    assert found["Conv"] == int(blocked or (channels == 18 and group == 1 and block_size() > 18))
    compared([conv("x", "y", outputs, channels, kernel, group, strides=[2, 2])], channels=channels)
    compared([conv("x", "y", outputs, channels, kernel, group, pads=[0] * 4, dilations=[2, 2])], channels=channels)


@needs_blocks
@pytest.mark.parametrize(
    ("op_type", "bounds", "settings"),
    [
        ("Relu", {}, {}),
        ("Tanh", {}, {}),
        ("Sigmoid", {}, {}),
        ("LeakyRelu", {}, {"alpha": 0.3}),
        ("LeakyRelu", {}, {}),
        ("HardSigmoid", {}, {"alpha": 2.0**120, "beta": 0.5}),
        ("HardSigmoid", {}, {}),
        ("Clip", {"low": np.float32(-0.5), "high": np.float32(0.25)}, {}),
        ("Clip", {"low": np.float32(-0.5)}, {}),
        ("Clip", {}, {}),
    ],
)
def test_activations_of_convolutions(op_type, bounds, settings):
    for outputs in (16, 20):
        parts = [conv("x", "a", outputs, 16), node(op_type, ["a", *bounds], "r", bounds, **settings)]
        found = compared([*parts, conv("r", "y", 16, outputs)])
        assert found == {"ReorderInput": 1, "Conv": 2, "ReorderOutput": 1}
        found = compared([*parts, conv("r", "y", 16, outputs)], outputs=("a", "y"))
        assert found["Conv"] == 2
        assert found[f"plain {op_type}"] == 1


@needs_blocks
def test_a_convolution_that_copies():
    ones = {"w": np.ones((20, 1, 1, 1), np.float32), "b": np.zeros(20, np.float32)}
    copy = node("Conv", ["x", *ones], "c", ones, group=20)
    assert compared([copy, conv("c", "y", 16, 20)], channels=20) == {"ReorderInput": 1, "Conv": 1, "ReorderOutput": 1}
    assert compared([copy, node("Neg", ["c"], "y")], channels=20)["Conv"] == 0


@needs_blocks
def test_clip_that_lifts_what_is_beyond_the_channels_is_not_fused():
    bounds = {"low": np.float32(0.5), "high": np.float32(1.5)}
    for outputs, left in ((16, 0), (20, 1)):
        parts = [conv("x", "a", outputs, 16), node("Clip", ["a", *bounds], "r", bounds), conv("r", "y", 16, outputs)]
        assert compared(parts)["plain Clip"] == left


@needs_blocks
def test_sums_of_convolutions():
    """The one that is read by nothing else does it, wherever it stands; then it takes an activation too."""
    parts = [
        conv("x", "a", 16, 16),
        conv("x", "b", 16, 16, bias=True),
        node("Relu", ["a"], "other"),
        node("Add", ["b", "other"], "s"),
        node("Relu", ["s"], "r"),
        node("Add", ["r", "other"], "t"),
        conv("t", "y", 16, 16),
    ]
    assert compared(parts) == {"ReorderInput": 1, "Conv": 3, "plain Add": 1, "ReorderOutput": 1}
    assert compared([conv("x", "a", 16, 16), node("Add", ["a", "a"], "y")])["plain Add"] == 1
    assert compared([conv("x", "a", 16, 16), node("Add", ["a", "x"], "y")])["plain Add"] == 0


@needs_blocks
def test_constants_and_settings_beside_blocks():
    parts = [conv("x", "a", 16, 16), node("Mul", ["a", "mask"], "m", {"mask": np.eye(6, dtype=np.float32)[None, None]})]
    assert compared([*parts, conv("m", "y", 16, 16)])["ReorderOutput"] == 1
    parts = [
        conv("x", "a", 16, 16),
        node("ReduceMax", ["x"], "most", axes=[1, 2, 3]),
        node("Sub", ["a", "most"], "m"),
        node("Pow", ["m", "two"], "p", {"two": np.int64(2)}),
        conv("p", "y", 16, 16),
    ]
    assert compared(parts, opset=13)["ReorderOutput"] == 1


@needs_blocks
@pytest.mark.parametrize("outputs", [16, 20, 10])
@pytest.mark.parametrize("bias", [True, False])
def test_what_scales_and_shifts_channels(outputs, bias):
    """The convolution in front does it where nothing else reads that, another one where something does."""
    a, b = (rng.standard_normal((outputs, 1, 1)).astype(np.float32) for _ in range(2))
    parts = [
        conv("x", "z", outputs, 16, 3, bias=bias),
        node("Mul", ["a", "z"], "m", {"a": a}),
        node("Add", ["m", "b"], "s", {"b": b[None]}),
        node("Relu", ["s"], "r"),
        node("Add", ["r", "b"], "y"),
    ]
    assert compared(parts) == {"ReorderInput": 1, "Conv": 2, "ReorderOutput": 1}
    assert compared(parts, outputs=("z", "y")) == {"ReorderInput": 1, "Conv": 3, "ReorderOutput": 2}
    wide = [conv("x", "z", 6, 16), node("Mul", ["z", "w"], "y", {"w": rng.standard_normal((2, 1, 1, 6)).astype("f")})]
    assert compared(wide)["plain Mul"] == 1


@needs_blocks
def test_pools():
    windows = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    for op_type, settings in (
        ("MaxPool", windows | {"dilations": [1, 1]}),
        ("MaxPool", windows | {"ceil_mode": 1}),
        ("AveragePool", windows),
        ("AveragePool", windows | {"count_include_pad": 1}),
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
    ):
        for outputs, there in ((16, 1), (20, 0)):
            parts = [conv("x", "a", outputs, 16), node(op_type, ["a"], "y", **settings)]
            found = compared(parts)
            assert (found[op_type], found[f"plain {op_type}"]) == (there, 1 - there)
    parts = [conv("x", "a", 16, 16), node("MaxPool", ["a"], ["y", "indices"], kernel_shape=[2, 2])]
    assert compared(parts, outputs=("y", "indices"))["plain MaxPool"] == 1
    for opset, more in ((19, {"dilations": [2, 2]}), (18, {"ceil_mode": 1, "count_include_pad": 1})):
        parts = [conv("x", "a", 16, 16), node("AveragePool", ["a"], "y", **windows | more)]
        assert compared(parts, opset=opset)["plain AveragePool"] == 1


@needs_blocks
def test_moving_elements():
    for other, leaves in ((16, 1), (20, 3)):
        parts = [conv("x", "a", 16, 16), conv("x", "b", other, 16), node("Concat", ["a", "b"], "c", axis=1)]
        assert compared([*parts, conv("c", "y", 8, 16 + other)])["ReorderOutput"] == leaves
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for settings, factors, there in (
        (floor, [1, 1, 2, 3], 1),
        (floor, [1, 1, 1.5, 2], 0),
        ({}, [1, 1, 2, 2], 0),
        (floor | {"mode": "linear"}, [1, 1, 2, 2], 0),
    ):
        parts = [conv("x", "a", 16, 16), node("Resize", ["a", "", "s"], "y", {"s": np.float32(factors)}, **settings)]
        assert compared(parts)["Upsample"] == there
    parts = [conv("x", "a", 16, 16), node("Resize", ["a", "", "s"], "y", {"s": np.float32([1, 1, 2.2, 2])}, **floor)]
    assert compared(parts, size=4)["Upsample"] == 0
    sizes = {"s": np.array([2, 16, 8, 12])}
    parts = [conv("x", "a", 16, 16), node("Resize", ["a", "", "", "s"], "y", sizes, **floor)]
    assert compared(parts, size=4)["Upsample"] == 1
    for outputs, leaves in ((16, 0), (20, 1)):
        parts = [conv("x", "a", outputs, 16), node("Shape", ["a"], "y")]
        assert compared(parts)["ReorderOutput"] == leaves


@needs_blocks
@pytest.mark.parametrize("outputs", [16, 20])
def test_batch_normalization(outputs):
    values = {name: rng.uniform(0.5, 2, outputs).astype(np.float32) for name in ("g", "b", "m", "v")}
    parts = [conv("x", "a", outputs, 16), node("BatchNormalization", ["a", *values], "n", values, epsilon=0.01)]
    found = compared([*parts, node("Relu", ["n"], "y")])
    assert found == {"ReorderInput": 1, "Conv": 1, "ReorderOutput": 1}
    found = compared([*parts, node("Relu", ["n"], "y")], outputs=("a", "y"))
    assert found == {"ReorderInput": 1, "Conv": 2, "ReorderOutput": 2}


@needs_blocks
def test_a_branch_reads_the_tensor_as_it_was():
    branches = {
        f"{kind}_branch": helper.make_graph(
            [helper.make_node(op_type, ["a"], [f"{kind}_y"])],
            kind,
            [],
            [helper.make_empty_tensor_value_info(f"{kind}_y")],
        )
        for kind, op_type in (("then", "Neg"), ("else", "Abs"))
    }
    parts = [conv("x", "a", 16, 16), node("If", ["condition"], "y", {"condition": np.bool_(True)}, **branches)]
    assert compared(parts)["ReorderOutput"] == 1


@needs_blocks
def test_any_batch():
    parts = [conv("x", "a", 16, 16), node("Softplus", ["a"], "s"), conv("s", "y", 16, 16)]
    assert compared(parts, runs=3, batch="n")["ReorderOutput"] == 1


@needs_blocks
def test_weights_that_are_laid_out_are_taken():
    """Unless something else reads them."""
    parts = [
        conv("x", "a", 16, 16, 3),
        conv("a", "b", 16, 16, 3),
        node("ReduceSum", ["b_w"], "s"),
        node("Mul", ["b", "s"], "y"),
    ]
    model, weights = built(parts)
    assert set(weights) == {"a_w", "b_w"}
    _, left, filters = in_blocks(model, weights, shapes_of(model), block_size())
    assert set(weights) == set(left) == {"b_w"}
    assert len(filters) == 2


@needs_blocks
def test_runs_at_once_and_after_an_error():
    """Each run has what it needs for itself; one that fails leaves nothing behind."""
    model, weights = built([conv("x", "a", 32, 16, 3), node("Exp", ["a"], "e"), conv("e", "y", 16, 32, 3)], batch="n")
    laid, left, filters = in_blocks(model, weights, shapes_of(model), block_size())
    session = Session(laid.SerializeToString(), Runtime(threads=1), left, filters=filters)
    feeds = [{"x": rng.standard_normal((1 + i % 3, 16, 6, 6)).astype(np.float32)} for i in range(24)]
    expected = [session.run(feed)["y"] for feed in feeds]
    with pytest.raises(FailureError, match="failed while running"):
        session.run({"x": np.zeros((1, 15, 6, 6), np.float32)})
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda feed: session.run(feed)["y"], feeds))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


@needs_blocks
def test_what_is_copied_for_a_run_stays_until_its_end(monkeypatch):
    """A binding holds the address of an array, not the array."""
    model, weights = built([conv("x", "z", 16, 16, 3), node("Mul", ["z", "k"], "y")])
    model.graph.input.append(helper.make_tensor_value_info("k", FLOAT, []))
    laid, left, filters = in_blocks(model, weights, shapes_of(model), block_size())
    session = Session(laid.SerializeToString(), Runtime(threads=1), left, filters=filters)
    k = np.array(2, np.float32)
    bound: list[weakref.ref] = []
    alive = []
    made, run = ort.OrtValue.ortvalue_from_numpy, ort.InferenceSession.run_with_iobinding
    monkeypatch.setattr(
        ort.OrtValue,
        "ortvalue_from_numpy",
        lambda value, *rest: (bound.append(weakref.ref(value)), made(value, *rest))[1],
    )
    monkeypatch.setattr(
        ort.InferenceSession,
        "run_with_iobinding",
        lambda *given: (alive.append(all(value() is not None for value in bound[-2:])), run(*given))[1],
    )
    for x in (np.broadcast_to(np.float32(0.5), (2, 16, 6, 6)), rng.random((6, 6, 16, 2), np.float32).T):
        expected = session.run({"x": x.copy(), "k": k})["y"]
        [found] = session.run_bound("cpu", {"x": x, "k": k}, ["y"])
        np.testing.assert_array_equal(found, expected)
    assert alive == [True] * 2


def rows(outputs, inputs, op_type="Gemm", bias=True, turned=True, **attributes):
    """The rows of x, flattened, times a matrix, and its constants."""
    matrix = rng.standard_normal((outputs, inputs) if turned else (inputs, outputs)).astype(np.float32)
    constants = {"y_w": matrix} | ({"y_b": rng.standard_normal(outputs).astype(np.float32)} if bias else {})
    if op_type == "Gemm":
        attributes["transB"] = int(turned)
    return [
        node("Flatten", ["x"], "flat"),
        (helper.make_node(op_type, ["flat", *constants], ["y"], **attributes), constants),
    ]


@needs_blocks
@pytest.mark.parametrize(
    ("settings", "blocked"),
    [
        ({}, True),
        ({"turned": False}, True),
        ({"op_type": "MatMul", "turned": False, "bias": False}, True),
        ({"outputs": 50}, True),
        ({"inputs": 6 * 6 * 15, "outputs": 52}, True),
        ({"alpha": 0.5}, False),
        ({"beta": 2.0}, False),
        ({"outputs": 40}, False),
        ({"inputs": 6 * 6, "outputs": 600}, False),
    ],
)
@pytest.mark.parametrize("batch", [1, 3, "n"])
def test_products_with_large_matrices(monkeypatch, settings, blocked, batch):
    """As convolutions, whatever the number of outputs; small ones stay, and what scales a product or its bias."""
    monkeypatch.setattr(matrices, "LARGE", 50 * 6 * 6 * 15)
    settings = {"outputs": 64, "inputs": 6 * 6 * 16, **settings}
    inputs = settings["inputs"]
    found = compared(rows(**settings), runs=3, batch=batch, channels=inputs // 36)
    assert found["Conv"] == blocked


@needs_blocks
def test_columns_stay_columns(monkeypatch):
    """A matrix that meets the columns of x, not its rows, is no filter."""
    monkeypatch.setattr(matrices, "LARGE", 36)
    w = rng.standard_normal((4, 12)).astype(np.float32)
    parts = [node("Flatten", ["x"], "flat"), node("Gemm", ["flat", "w"], "y", {"w": w}, transA=1)]
    assert compared(parts, batch=4, channels=16, size=2)["Conv"] == 0


@needs_blocks
def test_a_matrix_that_is_read_both_ways(monkeypatch):
    """Forward and back: two filters, and the matrix is taken."""
    monkeypatch.setattr(matrices, "LARGE", 64 * 64)
    square = rng.standard_normal((64, 64)).astype(np.float32)
    parts = [
        node("Flatten", ["x"], "flat"),
        node("Gemm", ["flat", "w"], "a", {"w": square}, transB=1),
        node("Relu", ["a"], "r"),
        node("MatMul", ["r", "w"], "y"),
    ]
    settings = {"channels": 16, "size": 2, "batch": "n"}
    assert compared(parts, runs=2, **settings)["Conv"] == 2
    model, weights = built(parts, **settings)
    _, left, filters = in_blocks(model, weights, shapes_of(model), block_size())
    assert len(filters) == 2
    assert not weights
    assert not left
