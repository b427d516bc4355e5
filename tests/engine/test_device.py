"""Runs whose inputs and outputs lie in the memory of a device: the same results, on the CPU and where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxplain
from onnxplain.engine.sessions import Session
from onnxplain.errors import UsageError

ORACLES = Path(__file__).parents[1] / "oracles"
NETS = ["residual_bn", "inception", "mobilenet"]


def read(net: str) -> tuple[Path, np.ndarray]:
    with np.load(ORACLES / f"{net}.npz") as truth:
        return ORACLES / f"{net}_opset18.onnx", truth["input"]


@pytest.fixture
def on_gpu() -> None:
    try:
        onnxplain.load(ORACLES / "plain_opset18.onnx", providers="cuda")
    except UsageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("net", NETS)
def test_a_bound_run_equals_a_plain_one(net: str) -> None:
    path, x = read(net)
    session = onnxplain.load(path, providers="cpu", threads=1).plain
    names = [*session.outputs]
    turned = np.asfortranarray(x)
    expected = session.run({"input": x}, names)
    for feed in (x, turned):
        for name, found in zip(names, session.run_bound("cpu", {"input": feed}, names), strict=True):
            np.testing.assert_array_equal(found, expected[name])


@pytest.mark.parametrize("method", ["gradient", "lrp"])
def test_a_bound_explanation_equals_a_plain_one(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, x = read("residual_bn")
    expected = onnxplain.explain(onnxplain.load(path, threads=1), x, method, engine="compiled").relevance["input"]

    def bound(session: Session, feed: dict[str, np.ndarray], names: list[str] | None = None) -> dict[str, np.ndarray]:
        wanted = list(names or session.outputs)
        return dict(zip(wanted, session.run_bound("cpu", feed, wanted), strict=True))

    monkeypatch.setattr(Session, "run", bound)
    found = onnxplain.explain(onnxplain.load(path, threads=1), x, method, engine="compiled").relevance["input"]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.cuda
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("method", ["gradient", "lrp"])
@pytest.mark.parametrize("net", NETS)
def test_cuda_agrees_with_the_cpu(net: str, method: str) -> None:
    path, x = read(net)
    expected = onnxplain.explain(onnxplain.load(path, providers="cpu", threads=1), x, method, engine="compiled")
    found = onnxplain.explain(onnxplain.load(path, providers="cuda"), x, method, engine="compiled")
    scale = np.abs(expected.relevance["input"]).max()
    np.testing.assert_allclose(found.relevance["input"], expected.relevance["input"], atol=1e-3 * scale)


@pytest.mark.cuda
@pytest.mark.usefixtures("on_gpu")
def test_cuda_runs_on_the_device() -> None:
    model = onnxplain.load(ORACLES / "plain_opset18.onnx", providers="cuda")
    assert model.plain.providers[0] == "CUDAExecutionProvider"
