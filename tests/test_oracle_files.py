"""The oracle files are complete, finite, small and loadable, and belong to the models next to them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

FOLDER = Path(__file__).parent / "oracles"
NETS = [
    "plain", "residual", "residual_bn", "residual_bn_folded", "dense", "dense_bn", "inception", "mobilenet",
    "average_pool", "mean_head", "signal", "upsampling", "padded", "two_branch",
]  # fmt: skip
METHODS = [
    "gradient", "input-x-gradient", "guided-backprop", "deconvnet", "integrated-gradients", "lrp-0", "epsilon",
    "epsilon-plus", "epsilon-plus-flat", "epsilon-alpha2-beta1", "epsilon-alpha2-beta1-flat", "epsilon-gamma-box",
    "excitation-backprop",
]  # fmt: skip
CHAPTERS = {"6.1", "6.2", "6.3", "6.4", "6.5", "6.6", "6.7", "7"}


def test_nothing_is_missing_or_left_over() -> None:
    expected = {f"{net}{end}" for net in NETS for end in (".npz", "_opset13.onnx", "_opset18.onnx")}
    assert {path.name for path in FOLDER.iterdir()} == expected | {"README.md", "golden.json", "cam"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3e6


@pytest.mark.parametrize("net", NETS)
def test_figures_are_complete_and_finite(net: str) -> None:
    figures = np.load(FOLDER / f"{net}.npz")
    samples, outputs = figures["input"], figures["output"]
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(figures["target"], outputs.argmax(axis=1))
    bounds = (figures[key].reshape(-1, *[1] * (samples.ndim - 2)) for key in ("low", "high"))
    low, high = (bound.astype(np.float32) for bound in bounds)
    assert ((low <= samples) & (samples <= high)).all()
    for method in METHODS:
        exact, single = figures[f"{method}__f64"], figures[f"{method}__f32"]
        assert (exact.dtype, single.dtype) == (np.float64, np.float32)
        assert exact.shape == single.shape == samples.shape
        assert np.isfinite(exact).all()
        assert np.abs(exact).reshape(len(exact), -1).max(axis=1).min() > 0
        assert np.linalg.norm(single - exact) < 1e-5 * np.linalg.norm(exact)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("net", NETS)
def test_models_are_sound_and_give_the_stored_output(net: str, opset: int) -> None:
    path = FOLDER / f"{net}_opset{opset}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    figures = np.load(FOLDER / f"{net}.npz")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"input": figures["input"]})
    np.testing.assert_allclose(outputs, figures["output"], atol=1e-5)


@pytest.mark.parametrize(("net", "kept"), [("residual_bn", 6), ("residual_bn_folded", 0), ("dense_bn", 9)])
def test_batch_norms_are_kept_where_the_name_says_so(net: str, kept: int) -> None:
    for opset in (13, 18):
        nodes = onnx.load(FOLDER / f"{net}_opset{opset}.onnx").graph.node
        assert sum(node.op_type == "BatchNormalization" for node in nodes) == kept


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield value


def test_golden_vectors_are_readable() -> None:
    entries = json.loads((FOLDER / "golden.json").read_text())["vectors"]
    assert len({entry["name"] for entry in entries}) == len(entries)
    assert {entry["chapter"] for entry in entries} >= CHAPTERS
    for entry in entries:
        assert entry.keys() >= {"name", "chapter", "kind", "expected", "atol"}
        assert all(math.isfinite(number) for number in numbers(entry))
        if "sum" in entry:
            assert sum(numbers(entry["expected"])) == pytest.approx(entry["sum"], abs=1e-4)
