from __future__ import annotations

import io
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.lib import format as npy
from onnx import TensorProto, helper
from PIL import Image

import onnxplain
from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.contract import discover
from onnxplain.inputs.loaders import Sample, Skipped, find_inputs, load_inputs, read_arrays


@pytest.fixture
def two_inputs():
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("a", "b")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
    )
    return onnxplain.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def _claim(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": descr})
    return stream.getvalue()


def test_pictures_and_arrays_in_order(build, tmp_path: Path) -> None:
    model = build()
    Image.new("RGB", (16, 12), (255, 0, 0)).save(tmp_path / "b.png")
    (tmp_path / "deep" / ".hidden").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "deep" / "c.JPG", "JPEG")
    Image.new("RGB", (8, 8)).save(tmp_path / "deep" / ".hidden" / "d.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "._e.png")
    np.save(tmp_path / "a.npy", np.full((1, 3, 8, 8), 0.5, np.float32))
    (tmp_path / "notes.txt").write_text("no input")
    samples = list(load_inputs([tmp_path], model, discover(model, "x", preprocess="unit")))
    assert all(isinstance(sample, Sample) for sample in samples)
    assert [sample.name for sample in samples] == ["a", "b", "c"]
    array, picture = samples[0], samples[1]
    assert (array.feed["x"] == 0.5).all()
    assert array.picture is None
    assert (picture.feed["x"][0, :, 0, 0] == (1, 0, 0)).all()
    assert picture.picture.size == (12, 16)
    assert picture.geometry.to_original(np.ones((8, 8))).shape == (12, 16)


def test_preprocessing_leaves_arrays_alone(build, tmp_path: Path) -> None:
    model = build()
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    for contract in (None, discover(model, "x", preprocess="imagenet")):
        for sample in load_inputs([tmp_path / "x.npy", tmp_path / "x.npz"], model, contract):
            assert np.array_equal(sample.feed["x"], x)


def test_globs_and_names(build, tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy", "[c].npy", "sub/a.npy", "sub/a-2.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.zeros((1, 3, 8, 8), np.float32))
    assert [file.name for file in find_inputs([tmp_path / "?.npy"])] == ["a.npy", "b.npy"]
    assert [file.name for file in find_inputs([str(tmp_path / "[c].npy")])] == ["[c].npy"]
    assert len(find_inputs([tmp_path / "**" / "a*.npy"])) == 3
    paths = [tmp_path / "a.npy", tmp_path / "sub" / "a.npy", tmp_path / "sub" / "a-2.npy", tmp_path / "a.npy"]
    names = [sample.name for sample in load_inputs(paths, build())]
    assert names == ["a", "a-3", "a-2", "a-4"]


def test_what_is_not_there(build, tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path / "*.png"):
        with pytest.raises(UsageError, match="no such file"):
            load_inputs([path], build())
    with pytest.raises(UsageError, match=r"holds no input \(\.png"):
        load_inputs([tmp_path], build())
    with pytest.raises(UsageError, match="no input was given"):
        load_inputs([], build())


def test_pictures_need_a_contract_and_a_single_input(build, two_inputs, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    model = build()
    with pytest.raises(UsageError, match="need an input contract"):
        load_inputs([tmp_path], model)
    with pytest.raises(UsageError, match="--preprocess"):
        load_inputs([tmp_path], model, discover(model, "x"))
    with pytest.raises(UsageError, match=r"inputs a, b; give an \.npz"):
        load_inputs([tmp_path], two_inputs)


def test_unreadable_ones_are_skipped(build, tmp_path: Path) -> None:
    model = build()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("text")
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY")
    Image.new("RGB", (8, 8)).save(tmp_path / "d.npy", "PNG")
    np.save(tmp_path / "e.npy", np.full((1, 3, 8, 8), np.nan, np.float32))
    found = list(load_inputs([tmp_path], model, discover(model, "x", preprocess="unit")))
    assert [type(one) for one in found] == [Sample] + [Skipped] * 4
    for one in found[1:]:
        assert isinstance(one.error, FailureError)
        assert str(tmp_path / one.path.name) in str(one.error)
        assert str(one.error).count(one.path.name) == 1


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((1, 3, 8, 8), np.int64), "input 'x' must have dtype float32, not int64"),
        (np.zeros((3, 8, 8), np.float32), "input 'x' must have shape Nx3x8x8, not 3x8x8"),
        (np.zeros((1, 3, 8, 9), np.float32), "not 1x3x8x9"),
        (np.array(["a", None], dtype=object), "holds Python objects"),
    ],
)
def test_wrong_arrays(build, tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UsageError, match=said):
        read_arrays(tmp_path / "x.npy", build())


def test_wrong_names_in_an_npz(build, two_inputs, tmp_path: Path) -> None:
    x = np.zeros((1, 2), np.float32)
    np.savez(tmp_path / "x.npz", a=x, b=x + 1)
    assert set(read_arrays(tmp_path / "x.npz", two_inputs)) == {"a", "b"}
    np.savez(tmp_path / "x.npz", a=x)
    with pytest.raises(UsageError, match="needs input b"):
        read_arrays(tmp_path / "x.npz", two_inputs)
    np.savez(tmp_path / "x.npz", a=x, b=x, c=x)
    with pytest.raises(UsageError, match="no input 'c'"):
        read_arrays(tmp_path / "x.npz", two_inputs)
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UsageError, match=r"inputs a, b; give an \.npz"):
        read_arrays(tmp_path / "x.npy", two_inputs)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"PK\x03\x04",
        _claim((1, 3, 8, 8)) + bytes(100),
        _claim((-3, -8)) + bytes(96),
        _claim((1,), "<f0"),
        b"\x93NUMPY\x01\x00\x28\x23" + b"-" * 9000,
        b"\x93NUMPY\x01\x00\x28\x23" + b"[" * 9000,
        b"\x93NUMPY\x09\x00" + bytes(100),
    ],
)
def test_damaged_npy(build, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    start = time.process_time()
    with pytest.raises(FailureError, match=r"x\.npy is not a sound \.npy file"):
        read_arrays(tmp_path / "x.npy", build())
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("shape", [(1 << 40, 3, 8, 8), (1 << 62, 1 << 62)])
def test_gigantic_claims(build, tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "x.npy").write_bytes(_claim(shape))
    with pytest.raises(UsageError, match="GiB, more than 4"):
        read_arrays(tmp_path / "x.npy", build())


def test_sizes_are_known_before_memory_is_taken(build, tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as stream:
        stream.write(_claim((1 << 31, 3)))
        stream.truncate(stream.tell() + (1 << 31) * 12)
    with pytest.raises(UsageError, match="takes 24 GiB, more than 4"):
        read_arrays(tmp_path / "x.npy", build())
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _claim((1 << 20, 3)) + bytes(12 << 20))
    with pytest.raises(UsageError, match="x takes"):
        read_arrays(tmp_path / "x.npz", build(), max_bytes=1 << 20)


class _Harm:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


def test_nothing_is_unpickled(build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.npy").write_bytes(pickle.dumps(_Harm()))
    np.save(tmp_path / "o.npy", np.array([_Harm()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=np.array([_Harm()], dtype=object))
    results = list(load_inputs(["p.npy", "o.npy", "o.npz"], build()))
    assert all(isinstance(one, Skipped) for one in results)
    assert not (tmp_path / "harmed").exists()


def test_byte_order_and_half_precision(build, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((1, 3, 8, 8))
    np.save(tmp_path / "x.npy", np.asfortranarray(x.astype(">f4")))
    found = read_arrays(tmp_path / "x.npy", build())["x"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x, rtol=1e-6)
    half = build(dtype=onnx.TensorProto.FLOAT16, head=[("Cast", [], {"to": onnx.TensorProto.FLOAT})])
    Image.new("RGB", (8, 8), "white").save(tmp_path / "p.png")
    (sample,) = load_inputs([tmp_path / "p.png"], half, discover(half, "x", preprocess="unit"))
    assert sample.feed["x"].dtype == np.float16


def test_accuracy_on_real_pictures(material: Path) -> None:
    """0.61 is what the material states for 1000 pictures; other preprocessing costs five points and more."""
    model = onnxplain.load(material / "models" / "imagenet_squeezenet_fp32.onnx")
    contract = discover(model, "data_0", preprocess="caffe", labels=material / "imagenet_labels.txt")
    ids = [line.split()[0] for line in (material / "imagenet_labels.txt").read_text().splitlines()]
    samples = list(load_inputs([material / "images" / "imagenet"], model, contract))
    right = sum(
        ids[int(model.plain.run(sample.feed)["softmaxout_1"].argmax())] == sample.name.split("_")[0]
        for sample in samples
    )
    assert right / len(samples) >= 0.6
