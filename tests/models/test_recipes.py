"""Recipes of AlexNet and VGG-16: forms, weights from every kind of file, what is refused."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxplain
from onnxplain import FailureError, UsageError

sys.path.insert(0, str(Path(__file__).parents[2] / "models"))

import recipes
from recipes import Conv, Net, Norm, Pool, build, fit, seeded
from weight_files import read_weights

FEATURES = (Conv("conv1", 4, 3, 1, stride=2), Norm(), Pool(3), Conv("conv2", 6, 3, 0, group=2))
SMALL = Net(16, FEATURES, ("fc6", "fc7", "fc8"), recipes.IMAGENET, hidden=8)


@pytest.fixture
def small(monkeypatch):
    """Nets that fit into a test, under the name alexnet."""
    torchvision = Net(16, (Conv("features.0", 4, 3, 1), Pool(2)), ("fc.1", "fc.4", "fc.6"), recipes.IMAGENET, hidden=8)
    monkeypatch.setitem(recipes.NETS, "alexnet", {"torchvision": lambda: torchvision, "caffe": lambda: SMALL})


@pytest.mark.parametrize(
    ("name", "form", "parameters", "first", "wide"),
    [
        ("alexnet", "torchvision", 61_100_840, "features.0", (4096, 9216)),
        ("alexnet", "caffe", 60_965_224, "conv1", (4096, 9216)),
        ("vgg16", "torchvision", 138_357_544, "features.0", (4096, 25088)),
        ("vgg16", "caffe", 138_357_544, "conv1_1", (4096, 25088)),
    ],
)
def test_forms_have_the_published_number_of_parameters(name, form, parameters, first, wide):
    shapes = recipes.NETS[name][form]().shapes()
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
    assert next(iter(shapes)) == f"{first}.weight"
    assert wide in shapes.values()


def test_names_of_torchvision():
    alexnet, vgg16 = (list(recipes.NETS[name]["torchvision"]().shapes()) for name in ("alexnet", "vgg16"))
    assert alexnet[::2] == [f"features.{n}.weight" for n in (0, 3, 6, 8, 10)] + [
        f"classifier.{n}.weight" for n in (1, 4, 6)
    ]
    assert vgg16[::2] == [f"features.{n}.weight" for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)] + [
        f"classifier.{n}.weight" for n in (0, 3, 6)
    ]


def conv(x, w, b, pad, stride, group):
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    size = w.shape[2]
    inside = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    parts = zip(np.split(inside, group), np.split(w, group), strict=True)
    return np.concatenate([np.einsum("chwij,ocij->ohw", one, kernel) for one, kernel in parts]) + b[:, None, None]


def test_graph_is_the_net_written_out():
    w = {name: value.astype(np.float64) for name, value in seeded(SMALL, 0, 5).items()}
    x = np.random.default_rng(0).normal(size=(3, 16, 16))
    value = np.maximum(conv(x, w["conv1.weight"], w["conv1.bias"], 1, 2, 1), 0)
    padded = np.pad(value**2, ((2, 2), (0, 0), (0, 0)))
    value = value / (1 + 1e-4 / 5 * sum(padded[n : n + 4] for n in range(5))) ** 0.75
    value = np.lib.stride_tricks.sliding_window_view(value, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))
    value = np.maximum(conv(value, w["conv2.weight"], w["conv2.bias"], 0, 1, 2), 0).reshape(-1)
    for name in ("fc6", "fc7"):
        value = np.maximum(w[f"{name}.weight"] @ value + w[f"{name}.bias"], 0)
    logits = w["fc8.weight"] @ value + w["fc8.bias"]
    proto = build(SMALL, seeded(SMALL, 0, 5))
    onnx.checker.check_model(proto, full_check=True)
    found = onnxplain.load(proto).run(x[None].astype(np.float32))["logits"]
    np.testing.assert_allclose(found[0], logits, rtol=1e-5, atol=1e-5)


def packed(number, content):
    """A length-delimited protobuf field, coded by hand."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value):
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def caffe(weights, old):
    """A .caffemodel by the field numbers of caffe.proto; the old form has four legacy dimensions."""
    content = packed(1, b"a net")
    for layer in dict.fromkeys(name.split(".")[0] for name in weights):
        blobs = b""
        for kind in ("weight", "bias"):
            value = weights[f"{layer}.{kind}"].astype("<f4")
            if old:
                sides = (1,) * (4 - value.ndim) + value.shape
                shape = b"".join(varint(n << 3) + varint(side) for n, side in enumerate(sides, 1))
            else:
                shape = packed(7, packed(1, b"".join(varint(side) for side in value.shape)))
            blobs += packed(6 if old else 7, packed(5, value.tobytes()) + shape)
        content += packed(2 if old else 100, packed(4 if old else 1, layer.encode()) + blobs)
    return content


def safetensors(weights, dtype="F32"):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in weights.items():
        part = value.astype({"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "F8_E4M3": "u1"}[dtype]).tobytes()
        entry = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(part)]}
        header[name], data = entry, data + part
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("kind", ["npz", "safetensors", "F64", "F16", "caffemodel", "old caffemodel"])
def test_every_kind_of_file(tmp_path, kind):
    weights = seeded(SMALL, 1, 7)
    path = tmp_path / f"weights.{'safetensors' if kind in ('F64', 'F16') else kind.split()[-1]}"
    if kind == "npz":
        np.savez(path, **weights)
    else:
        coded = kind if kind in ("F64", "F16") else "F32"
        is_caffe = kind.endswith("caffemodel")
        path.write_bytes(caffe(weights, kind.startswith("old")) if is_caffe else safetensors(weights, coded))
    found = fit(SMALL, read_weights(path))
    assert list(found) == list(weights)
    for name, value in weights.items():
        np.testing.assert_allclose(found[name], value, atol=2e-3 if kind == "F16" else 0)
        assert found[name].dtype == np.float32


def test_bfloat16(tmp_path):
    values = np.array([1.0, -2.5, 3.140625], "<f4")
    half = (values.view("<u4") >> 16).astype("<u2").tobytes()
    header = json.dumps({"w": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + half)
    np.testing.assert_array_equal(read_weights(path)["w"], values)


def test_whole_way_with_caffe_weights(small, tmp_path, capsys):
    (tmp_path / "own.caffemodel").write_bytes(caffe(seeded(SMALL, 1, 7), old=False))
    out = tmp_path / "made" / "net.onnx"
    assert recipes.main(["alexnet", "--weights", str(tmp_path / "own.caffemodel"), "-o", str(out)]) == 0
    assert "net.onnx" in capsys.readouterr().out
    model = onnxplain.load(out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["net.onnx", "net.onnxplain.toml"]
    x = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    e = onnxplain.explain(model, x, "salient-relevance", long_side=20)
    assert e.prediction.shape == (2, 7)
    assert e.map("input").shape == (2, 16, 16)


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
@pytest.mark.parametrize("form", recipes.FORMS)
def test_sidecar_settles_the_input_contract(tmp_path, name, form):
    from onnxplain.inputs.contract import discover

    net = recipes.NETS[name][form]()
    narrow = Net(net.size, (Conv("c", 1, net.size, 0),), net.dense, net.contract, hidden=8)
    (tmp_path / "net.onnxplain.toml").write_text(recipes.sidecar(net))
    onnx.save(build(narrow, seeded(narrow, 0, 3)), tmp_path / "net.onnx")
    contract = discover(onnxplain.load(tmp_path / "net.onnx"), "input")
    contract.check()
    assert contract.colour.value == {"torchvision": "RGB", "caffe": "BGR"}[form]
    assert contract.size.value == ((227, 227) if (name, form) == ("alexnet", "caffe") else (224, 224))
    assert contract.resize.value.short_side == 256


def test_form_of_seeded_weights(small, tmp_path, capsys):
    assert recipes.main(["alexnet", "--form", "caffe", "-o", str(tmp_path / "net.onnx")]) == 0
    names = [weight.name for weight in onnx.load(tmp_path / "net.onnx").graph.initializer]
    assert names == list(SMALL.shapes())


def test_seeds_differ_and_repeat():
    first, again, other = (seeded(SMALL, seed)["fc6.weight"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def changed(**replaced):
    weights = {**seeded(SMALL, 0, 5), **replaced}
    return {name: value for name, value in weights.items() if value is not None}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (changed(**{"conv2.bias": None}), "without conv2.bias"),
        (changed(extra=np.ones(3, np.float32)), "with extra"),
        (changed(**{"conv2.weight": np.ones((6, 4, 3, 3), np.float32)}), "conv2.weight must be 6x2x3x3 floats, not"),
        (changed(**{"fc6.bias": np.ones(8, np.int64)}), "fc6.bias must be 8 floats"),
        (changed(**{"fc8.weight": np.ones((4, 8), np.float32)}), "fc8.weight must be 5x8 floats"),
    ],
)
def test_weights_that_do_not_fit(weights, said):
    with pytest.raises(UsageError, match=said):
        fit(SMALL, weights)


@pytest.mark.parametrize(
    ("name", "content", "status", "said"),
    [
        ("w.pth", b"\x80\x02", 1, "not a sound .pth"),
        ("w.h5", b"", 2, "read from .npz, .safetensors, .pth and .caffemodel, not '.h5'"),
        ("w.npz", b"rubbish", 1, "cannot be read as an .npz"),
        ("w.safetensors", b"", 1, "not a sound"),
        ("w.safetensors", struct.pack("<Q", 1 << 60), 1, "header claims"),
        ("w.safetensors", struct.pack("<Q", 2) + b"[]", 1, "not a sound"),
        ("w.safetensors", safetensors({"w": np.ones(8)})[:-4], 1, "does not fit the file"),
        ("w.safetensors", safetensors({"w": np.array([np.nan])}), 1, "'w' holds NaN"),
        ("w.safetensors", safetensors({"w": np.ones(3)}), 2, "they hold w, not features.0.weight"),
        ("w.safetensors", safetensors({"w": np.ones(3)}, "F8_E4M3"), 1, "'F8_E4M3' are not read"),
        ("w.safetensors", safetensors(seeded(SMALL, 0, 5), "I64"), 2, "4x3x3x3 floats, not .* of int64"),
        ("w.caffemodel", b"\x07rubbish", 1, "not a sound .caffemodel"),
        ("w.caffemodel", b"", 1, "holds no layer with weights"),
        ("w.caffemodel", caffe({"c.weight": np.ones(3), "c.bias": np.ones(3)}, False)[:-3], 1, "not a sound|values"),
        ("missing.npz", None, 2, "is not a file"),
    ],
)  # fmt: skip
def test_files_that_are_refused(small, tmp_path, capsys, name, content, status, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert recipes.main(["alexnet", "-w", str(tmp_path / name), "-o", str(tmp_path / "out.onnx")]) == status
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    with pytest.raises((UsageError, FailureError), match=said):
        raise (UsageError if status == 2 else FailureError)(error)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", recipes.FORMS)
def test_salient_relevance_of_the_real_alexnet(form):
    net = recipes.NETS["alexnet"][form]()
    model = onnxplain.load(build(net, seeded(net, 0)))
    x = np.random.default_rng(0).normal(size=(1, 3, net.size, net.size)).astype(np.float32)
    e = onnxplain.explain(model, x, "salient-relevance", at=["flat"], long_side=40)
    np.testing.assert_allclose(e.at["flat"].sum(), e.target[0].value, rtol=1e-4)
    assert e.map("input").max() == 1
