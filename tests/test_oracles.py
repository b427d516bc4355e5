"""Both engines against what zennit, captum and torch autograd computed in float64; see tests/oracles/README.md."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxplain
from onnxplain.methods.table import METHODS

FOLDER = Path(__file__).parent / "oracles"
NETS = sorted(path.stem for path in FOLDER.glob("*.npz"))
OPSETS = (13, 18)
NAMES = [
    "gradient", "input-x-gradient", "guided-backprop", "deconvnet", "integrated-gradients", "lrp-0", "epsilon",
    "epsilon-plus", "epsilon-plus-flat", "epsilon-alpha2-beta1", "epsilon-alpha2-beta1-flat", "epsilon-gamma-box",
    "excitation-backprop",
]  # fmt: skip


MERGED = {"residual_bn": 2e-6, "dense_bn": 1e-4}
"""Nets whose batch norms the figures merge in float64 and onnxplain in the file's float32, and how far that carries."""


@functools.cache
def load(net: str, opset: int) -> onnxplain.Model:
    return onnxplain.load(FOLDER / f"{net}_opset{opset}.onnx", threads=1)


@functools.cache
def figures(net: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{net}.npz") as file:
        return dict(file)


def explain(net: str, name: str, opset: int, **how: Any) -> onnxplain.Explanation:
    truth = figures(net)
    method, rules = (name, {}) if name in METHODS else ("lrp", {"rules": name})
    bounds = {key: truth[key].reshape(-1) for key in ("low", "high")} if name == "epsilon-gamma-box" else {}
    return onnxplain.explain(load(net, opset), truth["input"], method, **rules, **how, **bounds)


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest relative L2 error of a sample."""
    found, truth = (value.reshape(len(value), -1).astype(np.float64) for value in (found, truth))
    return float((np.linalg.norm(found - truth, axis=1) / np.linalg.norm(truth, axis=1)).max())


def test_all_nets_are_there() -> None:
    assert len(NETS) == 14


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("net", NETS)
def test_float32(net: str, name: str) -> None:
    truth = figures(net)
    maps = []
    for opset in OPSETS:
        for engine in ("host", "compiled"):
            e = explain(net, name, opset, engine=engine)
            assert e.engine == engine
            assert [chosen.index for chosen in e.target] == truth["target"].tolist()
            np.testing.assert_allclose(e.prediction, truth["output"], atol=1e-5)
            assert e.relevance["input"].dtype == np.float32
            assert error(e.relevance["input"], truth[f"{name}__f64"]) < 1e-4, (opset, engine)
            maps.append(e.relevance["input"])
    for other in maps[1:]:
        assert error(other, maps[0]) < 1e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("net", NETS)
def test_float64(net: str, name: str) -> None:
    e = explain(net, name, 18, dtype="float64")
    assert e.engine == "host"
    assert e.relevance["input"].dtype == e.prediction.dtype == np.float64
    np.testing.assert_allclose(e.prediction, figures(net)["output"], atol=1e-6 if net in MERGED else 1e-12)
    assert error(e.relevance["input"], figures(net)[f"{name}__f64"]) < MERGED.get(net, 1e-6)


def test_a_second_library_agrees_on_epsilon() -> None:
    truth = figures("plain")["captum-epsilon__f64"]
    assert error(explain("plain", "epsilon", 18, dtype="float64").relevance["input"], truth) < 1e-6
