"""What is read, in every form a model comes in, and what is refused."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import model, node
from onnx import TensorProto, helper, numpy_helper

import onnxplain
from onnxplain.errors import FailureError, UnsupportedError, UsageError
from onnxplain.graph.reader import IR_VERSIONS, OPSETS, read

X = np.array([[1.0, -2.0, 3.0]], np.float32)
W = np.array([[1, 0], [2, -1], [0.5, 4]], np.float32)
Y = np.array([[-1.5, 14]], np.float32)
"""X times W, by hand."""


def product(opset: int = 18) -> onnx.ModelProto:
    """The product of ``x`` and the weight ``w``."""
    return onnx.load_from_string(model([node("MatMul", ["x", "w"], "y")], {"x": ["N", 3]}, ["y"], {"w": W}, opset))


def stored_outside(proto: onnx.ModelProto, location: str, **entries: int) -> onnx.ModelProto:
    """The model with its first weight declared as external data."""
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return proto


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    """The path of a model file."""
    path = folder / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def answer(source) -> np.ndarray:
    """What the model makes of X, and that it can be explained: the gradient of its first output."""
    loaded = onnxplain.load(source, threads=1)
    e = onnxplain.explain(loaded, X, "gradient", target=0)
    np.testing.assert_allclose(e.relevance[loaded.inputs[0].name], W[:, :1].T)
    [y] = loaded.run(X).values()
    return y


@pytest.mark.parametrize("form", ["path", "text", "bytes", "proto"])
def test_a_model_comes_as_path_bytes_or_proto(tmp_path, form):
    proto = product()
    path = saved(proto, tmp_path)
    before = proto.SerializeToString()
    source = {"path": path, "text": str(path), "bytes": before, "proto": proto}[form]
    np.testing.assert_array_equal(answer(source), Y)
    assert proto.SerializeToString() == before == path.read_bytes(), "what was given is not written to"


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset(opset):
    np.testing.assert_array_equal(answer(product(opset)), Y)


@pytest.mark.parametrize("ir_version", IR_VERSIONS)
def test_every_ir_version(ir_version):
    proto = product(8)
    proto.ir_version = ir_version
    np.testing.assert_array_equal(answer(proto), Y)


@pytest.mark.parametrize("opset", [6, 27, 99])
def test_opsets_beyond_the_runtime_are_refused(opset):
    proto = product()
    proto.opset_import[0].version = opset
    with pytest.raises(UnsupportedError, match=f"opset {opset}; supported are 7 to 26: export it again"):
        read(proto)


@pytest.mark.parametrize("ir_version", [2, 14])
def test_ir_versions_beyond_the_runtime_are_refused(ir_version):
    proto = product()
    proto.ir_version = ir_version
    with pytest.raises(UnsupportedError, match=f"IR version {ir_version}; supported are 3 to 13"):
        read(proto)


def test_initializers_that_are_also_inputs_are_weights():
    proto = product(7)
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, W.shape))
    loaded = onnxplain.load(proto, threads=1)
    assert [tensor.name for tensor in loaded.inputs] == ["x"]
    np.testing.assert_array_equal(answer(proto), Y)


def local_function(inner: str = "MatMul") -> onnx.ModelProto:
    """The product as a function of the model's own, called through another one."""
    proto = product()
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    nodes = [node(inner, ["a", "b"], "c")]
    proto.functions.append(helper.make_function("mine", "Product", ["a", "b"], ["c"], nodes, imports))
    outer = [helper.make_node("Product", ["a", "b"], ["c"], domain="mine")]
    proto.functions.append(helper.make_function("mine", "Outer", ["a", "b"], ["c"], outer, imports))
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "Outer", "mine"
    proto.opset_import.add(domain="mine", version=1)
    return proto


def test_functions_of_the_model_are_inlined():
    np.testing.assert_array_equal(answer(local_function()), Y)
    [layer] = onnxplain.load(local_function(), threads=1).graph.layers
    assert layer.op_type == "MatMul"


def doubling(count: int, inner: onnx.NodeProto) -> onnx.ModelProto:
    """A model whose functions each call the one before twice."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    proto = onnx.load_from_string(model([node("Relu", ["x"], "y")], {"x": [1]}))
    proto.functions.append(
        helper.make_function("mine", "F0", ["a"], ["b"], [inner, node("Add", ["a", "k"], "b")], imports)
    )
    for index in range(count):
        calls = [helper.make_node(f"F{index}", [i], [o], domain="mine") for i, o in ("ab", "bc")]
        proto.functions.append(helper.make_function("mine", f"F{index + 1}", ["a"], ["c"], calls, imports))
    proto.graph.node[0].op_type, proto.graph.node[0].domain = f"F{count}", "mine"
    proto.opset_import.add(domain="mine", version=1)
    return proto


@pytest.mark.parametrize(
    ("count", "numbers", "said"),
    [(30, 1, r"come to 2\.15e\+09 nodes; the limit is 100,000"), (15, 2**14, r"come to 2 GiB, more than a protobuf")],
)
def test_functions_that_multiply_are_refused_before_they_are_inlined(count, numbers, said):
    weight = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(numbers, np.float32)))
    started = time.perf_counter()
    with pytest.raises(FailureError, match=said):
        onnxplain.load(doubling(count, weight))
    assert time.perf_counter() - started < 1
    assert len(onnxplain.load(doubling(3, weight)).graph.layers) == 8


def test_imports_that_nothing_uses_are_tolerated():
    proto = product()
    for domain in ("com.microsoft", "ai.onnx.ml", "a.domain.nobody.knows"):
        proto.opset_import.add(domain=domain, version=1)
    np.testing.assert_array_equal(answer(proto), Y)


def test_the_standard_domain_under_its_long_name():
    proto = product()
    proto.opset_import[0].domain = "ai.onnx"
    np.testing.assert_array_equal(answer(proto), Y)


def test_optional_inputs_left_out():
    nodes = [node("Clip", ["x", "", "six"], "c"), node("MatMul", ["c", "w"], "y")]
    constants = {"w": W, "six": np.float32(6)}
    np.testing.assert_array_equal(answer(model(nodes, {"x": ["N", 3]}, ["y"], constants)), Y)


@pytest.mark.parametrize("shape", [["N", 3], [None, 3], [None, None], ["rows", "columns"], [1, 3]])
def test_dimensions_fixed_symbolic_and_unknown(shape):
    proto = product()
    declared = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    proto.graph.input[0].CopyFrom(declared)
    np.testing.assert_array_equal(answer(proto), Y)


def test_float16_runs_as_it_is_and_is_explained_in_float32():
    nodes = [node("MatMul", ["x", "w"], "y")]
    loaded = onnxplain.load(model(nodes, {"x": ["N", 3]}, ["y"], {"w": W}, dtype=np.float16), threads=1)
    assert loaded.run(X)["y"].dtype == np.float16
    e = onnxplain.explain(loaded, X, target=1, rules="lrp-0")
    assert e.relevance["x"].dtype == np.float32
    np.testing.assert_allclose(e.relevance["x"], X * W[:, 1], rtol=1e-5)


def test_constant_nodes_of_every_kind():
    values = [{"value_float": 2.0}, {"value_floats": [2.0]}, {"value": numpy_helper.from_array(np.float32([2]))}]
    for value in values:
        nodes = [node("Constant", [], "two", **value), node("Mul", ["x", "two"], "y")]
        loaded = onnxplain.load(model(nodes, {"x": ["N", 3]}), threads=1)
        np.testing.assert_array_equal(loaded.run(X)["y"], 2 * X)


def test_sparse_weights():
    proto = product()
    del proto.graph.initializer[:]
    places = np.argwhere(W != 0)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(W[W != 0], "w"), numpy_helper.from_array(places, "places"), W.shape
    )
    proto.graph.sparse_initializer.append(sparse)
    np.testing.assert_array_equal(read(proto).constants["w"], W)


@pytest.mark.parametrize("places", [[[9, 0]], [[-1, 0]], [[0, 0, 0]]])
def test_sparse_weights_outside_their_shape(places):
    proto = product()
    del proto.graph.initializer[:]
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.array(places), "places")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, W.shape))
    with pytest.raises(FailureError, match="sparse weight 'w'"):
        read(proto)


# external data


def test_external_data_beside_the_model(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "all.bin").write_bytes(b"\0" * 64 + W.tobytes())
    path = saved(stored_outside(product(), "weights/all.bin", offset=64, length=W.nbytes), tmp_path)
    np.testing.assert_array_equal(answer(path), Y)
    assert read(path).identity.external == (tmp_path / "weights" / "all.bin",)


def test_external_data_needs_a_path():
    with pytest.raises(UsageError, match="weight 'w' is stored outside the model: load the model by its path"):
        read(stored_outside(product(), "w.bin").SerializeToString())


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", ""])
def test_external_data_outside_the_folder_is_not_read(tmp_path, location):
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    path = saved(stored_outside(product(), location), folder)
    with pytest.raises(FailureError, match="outside the model's folder; such files are not read"):
        read(path)


def test_external_data_under_no_name_of_a_file(tmp_path):
    path = saved(stored_outside(product(), "w\0.bin"), tmp_path)
    with pytest.raises(FailureError, match=r"external data 'w\\x00.bin', a name that no file can have"):
        read(path)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_external_data_behind_a_link_is_not_read(tmp_path, link):
    secret = tmp_path / "secret"
    secret.write_bytes(W.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    link(secret, folder / "w.bin")
    with pytest.raises(FailureError, match=r"'w.bin'.* such files are not read"):
        read(saved(stored_outside(product(), "w.bin"), folder))


def test_external_data_missing(tmp_path):
    with pytest.raises(FailureError, match=r"weight 'w' points to external data 'w.bin', which is missing from"):
        read(saved(stored_outside(product(), "w.bin"), tmp_path))


@pytest.mark.parametrize(
    "entries", [{"offset": 8}, {"length": 4}, {"offset": -4}, {"offset": "here"}, {"length": 2**62}]
)
def test_external_data_that_do_not_fit(tmp_path, entries):
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    with pytest.raises(FailureError, match="weight 'w'"):
        read(saved(stored_outside(product(), "w.bin", **entries), tmp_path))


WITHIN_A_GIGABYTE = """
import resource, sys
from onnxplain.graph.reader import read
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
constants = read(sys.argv[1]).constants
print(constants["large"].shape, constants["w"].tolist())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_external_data_beyond_two_gigabytes_take_no_memory(tmp_path):
    """A sparse file of 2.2 GB, all of it one weight, its end another."""
    rows = 2**31 // 4 + 2**25
    if shutil.disk_usage(tmp_path).free < 2**32:
        pytest.skip("too little room on the disk")
    with (tmp_path / "w.bin").open("wb") as file:
        file.seek(rows * 4 - W.nbytes)
        file.write(W.tobytes())
    proto = stored_outside(product(), "w.bin", offset=rows * 4 - W.nbytes, length=W.nbytes)
    large = TensorProto(name="large", data_type=TensorProto.FLOAT, dims=[rows], data_location=TensorProto.EXTERNAL)
    large.external_data.add(key="location", value="w.bin")
    proto.graph.initializer.append(large)
    path = saved(proto, tmp_path)
    done = subprocess.run([sys.executable, "-c", WITHIN_A_GIGABYTE, path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"({rows},) {W.tolist()}\n"


# rubbish


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"hello, this is a text\n" * 20, "is not an ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "is not an ONNX file"),
        (b"\x08\x08", "is not an ONNX file: it holds no graph"),
    ],
)
def test_files_that_are_no_models(tmp_path, content, sentence):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(FailureError, match=f"net.onnx {sentence}"):
        read(path)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(UsageError, match=r"nothing.onnx: no such file"):
        read(tmp_path / "nothing.onnx")
    with pytest.raises(UsageError, match="is a folder, not an ONNX file"):
        read(tmp_path)


def test_truncated_protobuf():
    data = product().SerializeToString()
    with pytest.raises(FailureError, match="is not an ONNX file, or it is truncated or corrupt"):
        read(data[: len(data) // 2])


def test_what_fails_onnxs_checker():
    proto = product()
    proto.graph.node[0].input[1] = "nowhere"
    with pytest.raises(FailureError, match=r"is not a valid ONNX model: .*'nowhere' of node: .* is not output of any"):
        read(proto)


def test_an_op_that_onnx_does_not_know():
    proto = product()
    proto.graph.node[0].op_type, proto.graph.node[0].name = "Multiply", "odd one"
    with pytest.raises(
        UnsupportedError,
        match=r"cannot be run: No Op registered for Multiply .*Name: odd one .*again from standard ops",
    ):
        read(proto)


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_weights_that_are_not_finite(value, said):
    proto = product()
    broken = W.copy()
    broken[1, 1] = value
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(broken, "w"))
    with pytest.raises(FailureError, match=f"weight 'w' contains {said}"):
        read(proto)


def test_finite_weights_whose_sum_overflows():
    proto = product()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((3, 2), 3e38, np.float32), "w"))
    assert np.isfinite(read(proto).constants["w"]).all()


def test_weights_shorter_than_their_shape():
    proto = product()
    proto.graph.initializer[0].dims[0] = 2**40
    with pytest.raises(FailureError, match="weight 'w' holds 24 bytes where its shape"):
        read(proto)


def test_weights_of_an_unknown_type():
    proto = product()
    proto.graph.initializer[0].data_type = 99
    with pytest.raises(FailureError, match="weight 'w'"):
        read(proto)


def unknown(types: onnx.TypeProto) -> None:
    types.tensor_type.elem_type = 119


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda graph: unknown(graph.input[0].type), "tensor 'x'"),
        (lambda graph: unknown(graph.output[0].type), "tensor 'y'"),
        (lambda graph: unknown(graph.value_info.add(name="v").type.sequence_type.elem_type), "tensor 'v'"),
        (
            lambda graph: graph.node[0].attribute.add(name="a").t.MergeFrom(onnx.TensorProto(data_type=119)),
            "weight 'a'",
        ),
    ],
    ids=["input", "output", "sequence", "attribute"],
)
def test_types_that_onnx_does_not_define(damage, said):
    proto = product()
    damage(proto.graph)
    with pytest.raises(FailureError, match=f"the model: {said} is of the unknown type 119; export the model again"):
        read(proto)


@pytest.mark.parametrize("domain", ["", "acme"])
def test_ops_that_nobody_knows(domain):
    proto = product()
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "Mystery", domain
    if domain:
        proto.opset_import.add(domain=domain, version=1)
    with pytest.raises(UnsupportedError, match="Mystery"):
        onnxplain.load(proto, threads=1).run(X)
