from __future__ import annotations

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.engine.scores import ClassScores, closing
from onnxplain.errors import UsageError

W = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(1, 3, 2, 2)).astype(np.float32)
COPIES = [X[0] * scale for scale in np.linspace(0, 1, 11, dtype=np.float32)]
LOGITS = np.stack([copy.reshape(-1) for copy in COPIES]).astype(np.float64) @ W
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
EXPECTED = {None: SOFTMAX, "Softmax": SOFTMAX, "LogSoftmax": SOFTMAX, "Sigmoid": 1 / (1 + np.exp(-LOGITS))}


def scores(last: str | None, batch: int | str = "n", kind: str = "probability", size: int | None = None) -> ClassScores:
    """A dense layer and what closes it, with a Reshape behind."""
    nodes = [nets.node("Flatten", ["x"], "f"), nets.node("Gemm", ["f", "w"], "z")]
    if last:
        nodes += [nets.node(last, ["z"], "p"), nets.node("Reshape", ["p", "shape"], "y")]
    constants = {"w": W, "shape": np.array([0, 5, 1], np.int64)}
    net = nets.model(nodes, {"x": [batch, 3, 2, 2]}, ["y" if last else "z"], constants)
    model = onnxplain.load(net, threads=1)
    return ClassScores(model, model.outputs[0], {"x": X}, kind, size)  # type: ignore[arg-type]


@pytest.mark.parametrize("last", list(EXPECTED))
@pytest.mark.parametrize("batch", ["n", 1])
def test_probability(last: str | None, batch: int | str) -> None:
    found = scores(last, batch)
    assert closing(found.output) == last
    for index in (0, 3):
        np.testing.assert_allclose(found.over("x", index, iter(COPIES)), EXPECTED[last][:, index], rtol=1e-5)


def test_logit_is_the_output_as_it_is() -> None:
    np.testing.assert_allclose(scores(None, kind="logit").over("x", 2, COPIES), LOGITS[:, 2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 11, 100])
def test_any_batch_size(size: int) -> None:
    whole = scores(None).over("x", 1, COPIES)
    np.testing.assert_allclose(scores(None, size=size).over("x", 1, COPIES), whole, atol=1e-6)


def test_copies_are_taken_as_batches_need_them() -> None:
    taken: list[int] = []
    ran: list[int] = []
    found = scores(None, size=4)
    run = found.of
    found.of = lambda feed: (ran.append(len(taken)), run(feed))[1]  # type: ignore[method-assign]
    found.over("x", 0, (taken.append(0) or copy for copy in COPIES))  # type: ignore[func-returns-value]
    assert ran == [4, 8, 11]
    assert found.over("x", 0, []).shape == (0,)


def test_single_logit_is_a_sigmoid() -> None:
    nodes = [nets.node("Flatten", ["x"], "f"), nets.node("Gemm", ["f", "w"], "y")]
    model = onnxplain.load(nets.model(nodes, {"x": ["n", 3, 2, 2]}, constants={"w": W[:, :1]}), threads=1)
    found = ClassScores(model, model.outputs[0], {"x": X}).over("x", 0, COPIES)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-LOGITS[:, 0])), rtol=1e-5)


def test_a_map_of_outputs_has_no_probability() -> None:
    model = onnxplain.load(nets.model([nets.node("Relu", ["x"], "y")], {"x": ["n", 3, 2, 2]}), threads=1)
    with pytest.raises(UsageError, match="score=logit"):
        ClassScores(model, model.outputs[0], {"x": X}).of({"x": X})
    assert ClassScores(model, model.outputs[0], {"x": X}, "logit").of({"x": X}).shape == (1, 12)


def test_what_is_asked_wrongly() -> None:
    with pytest.raises(UsageError, match="probability or logit"):
        scores(None, kind="odds")
    with pytest.raises(UsageError, match="batch_size must be a whole number from 1"):
        scores(None, size=0)


@pytest.mark.parametrize("last", list(EXPECTED))
def test_the_gradient_is_the_slope_of_the_score(last: str | None) -> None:
    found, w = scores(last), np.array([0.0, 1.0, 0.0, -0.5, 0.0])
    z = LOGITS[1:3]

    def score(z: np.ndarray) -> np.ndarray:
        if last == "Sigmoid":
            return 1 / (1 + np.exp(-z)) @ w
        return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) @ w

    slopes = [(score(z + step) - score(z - step)) / 2e-6 for step in 1e-6 * np.eye(5)]
    assert found.logits.name == "z"
    np.testing.assert_allclose(found.gradient(z, w), np.transpose(slopes), atol=1e-8)


def test_a_certain_class_keeps_its_gradient() -> None:
    z = np.array([[40.0, 0.0, 0.0, 0.0, 0.0]])
    gradient = scores("Softmax").gradient(z, np.eye(5)[1])
    np.testing.assert_allclose(gradient[0, :2], [-np.exp(-40.0), np.exp(-40.0)], rtol=1e-6)
    np.testing.assert_allclose(scores("Sigmoid").gradient(z, np.eye(5)[0])[0, 0], np.exp(-40.0), rtol=1e-6)
