"""FullGrad against the gradients of torch, and its completeness."""

from __future__ import annotations

import functools
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

import onnxplain
from onnxplain.errors import UnsupportedError, UsageError

FOLDER = Path(__file__).parents[1] / "oracles"
BIASED = ("Conv", "Gemm", "BatchNormalization")


@functools.cache
def load(net: str, opset: int) -> onnxplain.Model:
    return onnxplain.load(FOLDER / f"{net}_opset{opset}.onnx", threads=1)


def samples(net: str) -> np.ndarray:
    with np.load(FOLDER / f"{net}.npz") as file:
        return file["input"]


def explain(net: str, opset: int = 18, **how: Any) -> onnxplain.Explanation:
    return onnxplain.explain(load(net, opset), samples(net), "fullgrad", **how)


@functools.cache
def explain_once(net: str, opset: int) -> tuple[str, ...]:
    return explain(net, opset).layers


def error(found: np.ndarray, truth: np.ndarray) -> float:
    assert found.shape == truth.shape
    return float(np.abs(found - truth).max() / np.abs(truth).max())


@pytest.mark.parametrize("engine", ["host", "compiled"])
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("net", ["plain", "residual", "dense_bn", "mobilenet"])
def test_parts_and_map(net: str, opset: int, engine: str) -> None:
    with np.load(FOLDER / "cam" / f"{net}.npz") as file:
        truth = dict(file)
    nodes = onnx.load(FOLDER / f"{net}_opset{opset}.onnx").graph.node
    layers = [out for node in nodes if node.op_type in BIASED for out in node.output if out in explain_once(net, opset)]
    assert len(layers) == sum(key.startswith("fullgrad/") and key[9:].isdigit() for key in truth) - 1
    e = explain(net, opset, engine=engine, at=layers)
    assert error(e.relevance["input"], truth["fullgrad/0"]) < 1e-4
    for index, name in enumerate(layers, 1):
        assert error(e.at[name], truth[f"fullgrad/{index}"]) < 1e-4, name
    if "fullgrad/map" in truth:
        assert error(e.map(), truth["fullgrad/map"]) < 1e-4


@pytest.mark.parametrize(
    "net", ["plain", "residual_bn", "dense_bn", "inception", "mobilenet", "signal", "upsampling", "padded"]
)
def test_everything_sums_to_the_target(net: str) -> None:
    """ReLU6, LeakyReLU, ELU, Tanh and Sigmoid among them."""
    for engine in ("host", "compiled"):
        e = explain(net, engine=engine)
        value = np.array([chosen.value for chosen in e.target])
        shares = e.extras["shares"]
        assert shares.shape == (3, 1 + len(e.layers))
        np.testing.assert_allclose(shares[:, 0], e.relevance["input"].reshape(3, -1).sum(axis=1), rtol=1e-4)
        np.testing.assert_allclose(shares.sum(axis=1), value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(e.extras["completeness_gap"], value - shares.sum(axis=1), atol=1e-9)


def test_without_post_processing_the_map_is_the_sum_of_all_parts_with_places() -> None:
    """Each pixel gets the nearest value of every layer, whose centres lie at (i + 1/2) / n; the later one on a tie."""
    layers = explain("residual").layers
    e = explain("residual", absolute=False, rescale=False, upsampling="nearest", at=layers)
    height, width = samples("residual").shape[2:]
    expected = e.relevance["input"].sum(axis=1)
    placed = [e.at[name].sum(axis=1) for name in layers if e.at[name].ndim == 4]
    assert 0 < len(placed) < len(layers)
    for part in placed:
        rows, columns = (
            [floor(Fraction(2 * i + 1, 2 * n) * m) for i in range(n)]
            for n, m in zip((height, width), part.shape[1:], strict=True)
        )
        expected = expected + part[:, rows][:, :, columns]
    assert error(e.map(), expected) < 1e-5
    assert (expected < 0).any()


def test_worked_by_hand() -> None:
    """y = sum relu(2 x - 1) + 3: input times gradient 2 x, the bias -1 where relu passes, and 3 for the last."""
    nodes = [
        nets.node("Conv", ["x", "w", "b"], "z"),
        nets.node("Relu", ["z"], "a"),
        nets.node("GlobalAveragePool", ["a"], "p"),
        nets.node("Flatten", ["p"], "f"),
        nets.node("Gemm", ["f", "v", "c"], "y"),
    ]
    constants = {"w": np.full((1, 1, 1, 1), 2.0), "b": [-1.0], "v": [[4.0]], "c": [3.0]}
    data = nets.model(nodes, {"x": ["N", 1, 2, 2]}, constants=constants)
    x = np.array([[[[1.0, 0.25], [2.0, -1.0]]]], np.float32)
    e = onnxplain.explain(data, x, "fullgrad", target=0, absolute=False, rescale=False, at=["z"])
    np.testing.assert_allclose(e.relevance["x"], [[[[2, 0], [4, 0]]]])
    np.testing.assert_allclose(e.at["z"], [[[[-1, 0], [-1, 0]]]])
    np.testing.assert_allclose(e.map(), [[[1, 0], [3, 0]]])
    assert e.layers == ("z", "y")
    assert e.notes[-1] == "gradients at the input and at what is added at 2 tensors"
    np.testing.assert_allclose(e.extras["shares"], [[6, -2, 3]])
    np.testing.assert_allclose(e.extras["completeness_gap"], [0], atol=1e-6)
    scaled = onnxplain.explain(data, x, "fullgrad", target=0)
    np.testing.assert_allclose(scaled.map(), [[[0.5 + 1, 0], [1 + 1, 0]]], rtol=1e-5)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(UsageError, match="rescale must be true or false"):
        explain("plain", rescale="no")
    with pytest.raises(UsageError, match="nothing constant is added at tensor '/4/Relu_output_0'"):
        explain("plain", at=["/4/Relu_output_0"])
    with pytest.raises(UnsupportedError, match="is none"):
        explain("two_branch")


def test_the_ledger_of_the_rule_book_says_the_same() -> None:
    model, x = load("mobilenet", 18), samples("mobilenet")
    e = onnxplain.explain(model, x, "lrp", rules="full-gradient")
    value = [chosen.value for chosen in e.target]
    own = (e.relevance["input"] * x).reshape(3, -1).sum(axis=1)
    np.testing.assert_allclose(own + e.ledger.totals["bias"], value, rtol=1e-4)
