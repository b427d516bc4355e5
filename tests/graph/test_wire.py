"""Files read without their large weights hold what protobuf's own parser finds in the whole."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxplain.errors import FailureError, OnnxplainError
from onnxplain.graph import reader, wire
from onnxplain.graph.reader import ModelFile, read

RNG = np.random.default_rng(0)
LARGE = wire.LEAST_BYTES // 4 + 5


def built(nodes: list[onnx.NodeProto], size: int, weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", size])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", "M"])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def whole(size: int = LARGE) -> onnx.ModelProto:
    """Two large weights, one small between them, one large but not raw, one of four bits."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    w, packed = RNG.standard_normal((size, 2)).astype(np.float32), RNG.bytes(2 * wire.LEAST_BYTES)
    weights = [
        numpy_helper.from_array(w, "w"),
        numpy_helper.from_array(np.zeros(2, np.float32), "b"),
        helper.make_tensor("typed", onnx.TensorProto.FLOAT, [size], w[:, 0].tolist()),
        numpy_helper.from_array(np.arange(2 * size, dtype=np.int64), "numbers"),
        onnx.TensorProto(name="four", dims=[2 * len(packed)], data_type=onnx.TensorProto.UINT4, raw_data=packed),
    ]
    return built(nodes, size, weights)


def outcome(source: Path | bytes) -> ModelFile | tuple[type, str]:
    try:
        return read(source)
    except OnnxplainError as error:
        return type(error), str(error).replace(str(source), "the model")


def same(path: Path, data: bytes) -> bool:
    """Whether a file and its bytes are read alike."""
    path.write_bytes(data)
    found, expected = outcome(path), outcome(data)
    if isinstance(found, tuple) or isinstance(expected, tuple):
        return found == expected
    assert found.constants.keys() == expected.constants.keys()
    for name, value in expected.constants.items():
        np.testing.assert_array_equal(found.constants[name], value, err_msg=name)
        assert found.constants[name].dtype == value.dtype
        assert found.constants[name].flags.aligned
    return found.proto == expected.proto and found.metadata == expected.metadata


def test_what_stays_in_the_file() -> None:
    """The rest is a model that protobuf parses; each place holds its weight."""
    model = whole()
    data = model.SerializeToString()
    rest, places = wire.without_weights(io.BytesIO(data), len(data))
    assert set(places) == {0, 3, 4}
    assert len(rest) < len(data) - sum(place.length for place in places.values())
    found = onnx.ModelProto.FromString(rest)
    for position, place in places.items():
        assert not found.graph.initializer[position].HasField("raw_data")
        found.graph.initializer[position].raw_data = data[place.offset :][: place.length]
    assert found == model


def test_a_file_is_read_as_its_bytes_are(tmp_path: Path) -> None:
    assert same(tmp_path / "m.onnx", whole().SerializeToString())


def test_fields_in_an_order_that_no_writer_has(tmp_path: Path) -> None:
    """A weight twice in one tensor, where the last counts, and a graph in two pieces, which are merged."""
    model = whole()
    data = model.SerializeToString()
    wrong = np.zeros(2 * LARGE, np.float32).tobytes()
    first = model.graph.initializer[0]
    twice = onnx.TensorProto(raw_data=wrong).SerializeToString() + first.SerializeToString()
    number = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
    del model.graph.initializer[0]
    graph = wire._delimited(number, twice) + model.graph.SerializeToString()
    model.ClearField("graph")
    assert same(tmp_path / "m.onnx", model.SerializeToString() + wire._delimited(7, graph))
    assert same(
        tmp_path / "m.onnx", data + onnx.ModelProto(graph=onnx.GraphProto(doc_string="more")).SerializeToString()
    )


@pytest.mark.parametrize("dims", [[LARGE], [-1, 2], [2**40, 2**40], []])
def test_a_weight_of_another_size_than_its_shape(tmp_path: Path, dims: list[int]) -> None:
    model = whole()
    model.graph.initializer[0].dims[:] = dims
    assert same(tmp_path / "m.onnx", model.SerializeToString())
    assert isinstance(outcome(tmp_path / "m.onnx"), tuple)


@given(cut=st.floats(0, 1))
@settings(max_examples=60)
def test_truncated_files(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    data = whole().SerializeToString()
    path = tmp_path_factory.mktemp("cut") / "m.onnx"
    assert same(path, data[: max(1, int(cut * len(data)))])


@given(
    places=st.lists(st.tuples(st.integers(0, 4), st.integers(-60, 300), st.integers(0, 255)), min_size=1, max_size=4)
)
@settings(max_examples=200)
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int, int]]) -> None:
    """Where structure lies: at both ends, and around every weight."""
    data = bytearray(whole().SerializeToString())
    large = wire.without_weights(io.BytesIO(data), len(data))[1].values()
    anchors = [0, len(data) - 300, *(place.offset for place in large)]
    for anchor, place, byte in places:
        data[min(max(anchors[anchor] + place, 0), len(data) - 1)] = byte
    assert same(tmp_path_factory.mktemp("damaged") / "m.onnx", bytes(data))


def test_a_file_of_nothing_but_small_fields(tmp_path: Path) -> None:
    """Two bytes each, as many as would take gigabytes to keep apart: protobuf's parser reads them."""
    data = whole().SerializeToString() + bytes([1 << 3, 10]) * 2_000_000  # ir_version, again and again
    with pytest.raises(wire.WireError, match="a million fields"):
        wire.without_weights(io.BytesIO(data), len(data))
    assert same(tmp_path / "m.onnx", data)
    assert isinstance(outcome(tmp_path / "m.onnx"), ModelFile)


def test_a_file_that_goes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(whole().SerializeToString())
    split = wire.without_weights
    monkeypatch.setattr(reader, "without_weights", lambda *given: (split(*given), path.unlink())[0])
    with pytest.raises(FailureError, match=r"weight 'w' is corrupt"):
        read(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(whole().SerializeToString())
    fromfile = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *given, **more: fromfile(*given, **more)[:-8])
    with pytest.raises(FailureError, match=r"weight 'w' is corrupt"):
        read(path)


def test_weights_stand_in_memory_once(tmp_path: Path) -> None:
    """The peak of a process that reads 64 MiB of weights."""
    weights = [numpy_helper.from_array(np.ones(2**24, np.float32), "w")]
    model = built([helper.make_node("Identity", ["x"], ["y"])], 4, weights)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    code = (
        "import re, sys, onnxplain.graph.reader as reader\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "before = peak(); reader.read(sys.argv[1]); print(peak() - before)"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc")
    taken = float(subprocess.check_output([sys.executable, "-c", code, str(path)]))
    assert taken < 80
