"""Samples that leave the first axis: the same relevance as where they stay, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence

import nets
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxplain
from onnxplain.errors import UsageError

rng = np.random.default_rng(3)
W, B, V, C = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 5), (5,), (5, 3), (3,)))
COUNTS = pytest.mark.parametrize("count", [1, 3, 4])
ENGINES = pytest.mark.parametrize("engine", ["host", "compiled"])
BOOKS = ["epsilon", "epsilon-plus", "epsilon-plus-flat", "epsilon-alpha2-beta1-flat", "epsilon-gamma-box"]
node = nets.node


def dense(first: Sequence[onnx.NodeProto], **constants: np.ndarray) -> bytes:
    """``first`` from x to h, N x 4 to N x 5, with W and B, then a Relu and a Gemm."""
    last = [node("Relu", ["h"], "r"), node("Gemm", ["r", "V", "C"], "y")]
    known = {"W": W, "B": B, "V": V, "C": C} | constants
    used = {name for each in [*first, *last] for name in each.input}
    return nets.model([*first, *last], {"x": ["N", 4]}, constants={n: v for n, v in known.items() if n in used})


PLAIN = dense([node("Gemm", ["x", "W", "B"], "h")])
TURNED = {
    "transA": [node("Transpose", ["x"], "t", perm=[1, 0]), node("Gemm", ["t", "W", "B"], "h", transA=1)],
    "weights on the left": [
        node("Transpose", ["x"], "t"),
        node("Gemm", ["W", "t", "B2"], "u", transA=1),
        node("Transpose", ["u"], "h", perm=[1, 0]),
    ],
    "weights on the left, transB": [
        node("Gemm", ["W", "x", "B2"], "u", transA=1, transB=1),
        node("Transpose", ["u"], "h", perm=[1, 0]),
    ],
    "MatMul": [
        node("Transpose", ["x"], "t", perm=[1, 0]),
        node("MatMul", ["WT", "t"], "u"),
        node("Add", ["u", "B2"], "b"),
        node("Transpose", ["b"], "h", perm=[1, 0]),
    ],
}


@ENGINES
@COUNTS
@pytest.mark.parametrize("book", BOOKS)
@pytest.mark.parametrize("form", TURNED)
def test_a_product_of_columns_is_that_of_rows(form: str, book: str, count: int, engine: str) -> None:
    turned = dense(TURNED[form], B2=B[:, None], WT=W.T.copy())
    x = rng.normal(size=(count, 4)).astype(np.float32)
    bounds = {"low": -4.0, "high": 4.0} if "box" in book else {}
    plain = dense([node("MatMul", ["x", "W"], "u"), node("Add", ["u", "B"], "h")]) if form == "MatMul" else PLAIN
    wanted = onnxplain.explain(plain, x, rules=book, target=1, engine="host", **bounds)
    e = onnxplain.explain(turned, x, rules=book, target=1, engine=engine, ledger=True, **bounds)
    np.testing.assert_allclose(e.relevance["x"], wanted.relevance["x"], rtol=1e-4, atol=1e-5)
    largest = np.abs(wanted.ledger.layers["y"]["in"]).max()
    for layer in e.ledger.layers:
        assert len(e.ledger.layers[layer]["in"]) == count
        np.testing.assert_allclose(e.ledger.unexplained(layer), 0, atol=1e-5 * max(1, largest))


def sequence_first() -> bytes:
    """N x 3 x 4, turned to 3 x N x 4 for a product, averaged over the sequence."""
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        node("MatMul", ["t", "W"], "u"),
        node("Relu", ["u"], "r"),
        node("ReduceMean", ["r", "axes"], "m", keepdims=0),
        node("Gemm", ["m", "V", "C"], "y"),
    ]
    return nets.model(nodes, {"x": ["N", 3, 4]}, constants={"W": W, "V": V, "C": C, "axes": np.array([0])})


@ENGINES
@COUNTS
@pytest.mark.parametrize("book", ["epsilon", "epsilon-plus-flat"])
def test_a_sequence_first_net_gives_each_sample_its_own(book: str, count: int, engine: str) -> None:
    x = rng.normal(size=(count, 3, 4)).astype(np.float32)
    e = onnxplain.explain(sequence_first(), x, rules=book, target=1, engine=engine, ledger=True)
    for index in range(count):
        alone = onnxplain.explain(sequence_first(), x[index : index + 1], rules=book, target=1, engine="host")
        np.testing.assert_allclose(e.relevance["x"][index], alone.relevance["x"][0], rtol=1e-4, atol=1e-6)
        for layer, book_of in e.ledger.layers.items():
            np.testing.assert_allclose(book_of["in"][index], alone.ledger.layers[layer]["in"][0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(e.ledger.unexplained(layer)[index], 0, atol=1e-5)


def test_many_samples_are_left_to_the_engine() -> None:
    x = rng.normal(size=(20, 3, 4)).astype(np.float32)
    e = onnxplain.explain(sequence_first(), x)
    few = onnxplain.explain(sequence_first(), x[:2])
    np.testing.assert_allclose(e.relevance["x"][:2], few.relevance["x"], rtol=1e-4, atol=1e-6)


def test_an_exported_sequence_first_net_agrees(tmp_path) -> None:
    path = onnxplain.export(sequence_first(), tmp_path / "out.onnx")
    session = ort.InferenceSession(str(path or tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    x = rng.normal(size=(3, 3, 4)).astype(np.float32)
    outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x": x}), strict=True))
    [relevance] = [value for name, value in outputs.items() if value.shape == x.shape]
    np.testing.assert_allclose(relevance, onnxplain.explain(sequence_first(), x).relevance["x"], rtol=1e-4, atol=1e-6)


def test_what_lies_inside_is_handed_out_for_one_sample_at_a_time() -> None:
    x = rng.normal(size=(3, 3, 4)).astype(np.float32)
    with pytest.raises(UsageError, match="axis 0 of 't': ask for one sample at a time"):
        onnxplain.explain(sequence_first(), x, at=["t"])
    alone = onnxplain.explain(sequence_first(), x[:1], at=["t"])
    assert alone.at["t"].shape == (3, 1, 4)
    np.testing.assert_allclose(alone.at["t"].transpose(1, 0, 2), alone.relevance["x"], rtol=1e-6)


def test_a_number_inside_has_no_samples() -> None:
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0]),
        node("ReduceSum", ["t"], "s", keepdims=0),
        node("Mul", ["x", "s"], "y"),
    ]
    data = nets.model(nodes, {"x": ["N", 4]})
    x = rng.normal(size=(3, 4)).astype(np.float32)
    with pytest.raises(UsageError, match="axis 0 of 's': ask for one sample at a time"):
        onnxplain.explain(data, x, "gradient", target=0, at=["s"], engine="host")
