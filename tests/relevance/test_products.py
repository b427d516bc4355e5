"""The rules on products of two activations, and pass and stop where they stand by a user's wish."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import pytest

import onnxplain

ENGINES = pytest.mark.parametrize("engine", ["host", "compiled"])
rng = np.random.default_rng(0)


def explain(
    data: bytes, feed: dict[str, np.ndarray], seed: np.ndarray, engine: str, book: str = "epsilon"
) -> onnxplain.Explanation:
    return onnxplain.explain(data, feed, target=lambda y: seed, rules=book, engine=engine, ledger=True)


def balanced(e: onnxplain.Explanation) -> None:
    for layer in e.ledger.layers:
        np.testing.assert_allclose(e.ledger.unexplained(layer), 0, atol=1e-5)


@ENGINES
def test_a_gate_gets_nothing_and_the_signal_takes_all(engine: str) -> None:
    """Squeeze and excite: the gate is N x C x 1 x 1, and everything goes through the signal's side."""
    data = nets.model(
        [
            nets.node("GlobalAveragePool", ["x"], "pooled"),
            nets.node("Sigmoid", ["pooled"], "gate"),
            nets.node("Mul", ["gate", "x"], "y"),
        ],
        {"x": ["N", 3, 2, 2]},
    )
    x, seed = rng.normal(size=(2, 2, 3, 2, 2)).astype(np.float32)
    e = explain(data, {"x": x}, seed, engine)
    np.testing.assert_allclose(e.relevance["x"], seed, rtol=1e-6)
    balanced(e)


@ENGINES
@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 1), (1, 4))], ids=["alike", "outer"])
def test_two_operands_of_one_standing_get_half_each(engine: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    data = nets.model([nets.node("Mul", ["a", "b"], "y")], {"a": ["N", *shapes[0]], "b": ["N", *shapes[1]]})
    feed = {name: rng.normal(size=(2, *shape)).astype(np.float32) for name, shape in zip("ab", shapes, strict=True)}
    seed = rng.normal(size=(2, 3, 4)).astype(np.float32)
    e = explain(data, feed, seed, engine)
    for name, value in feed.items():
        axes = tuple(axis for axis, size in enumerate(value.shape) if size == 1)
        np.testing.assert_allclose(e.relevance[name], seed.sum(axis=axes, keepdims=True) / 2, rtol=1e-5, atol=1e-6)
    balanced(e)


@ENGINES
def test_a_square_keeps_its_relevance(engine: str) -> None:
    data = nets.model([nets.node("Mul", ["x", "x"], "y")], {"x": ["N", 3]})
    seed = np.array([[1, -2, 3]], np.float32)
    e = explain(data, {"x": np.array([[2, 1, -1]], np.float32)}, seed, engine)
    np.testing.assert_allclose(e.relevance["x"], seed)


@ENGINES
def test_batched_matrix_products(engine: str) -> None:
    """Heads x queries x keys times heads x keys x depth, spelled out by einsum."""
    data = nets.model([nets.node("MatMul", ["a", "b"], "y")], {"a": ["N", 2, 3, 4], "b": ["N", 2, 4, 5]})
    a, b = rng.normal(size=(2, 2, 3, 4)), rng.normal(size=(2, 2, 4, 5))
    product = a @ b
    seed = np.where(np.abs(product) > 0.1, rng.normal(size=product.shape), 0)
    doubled = 2 * product
    s = seed / (doubled + np.copysign(1e-6, doubled))
    e = explain(data, {"a": a.astype(np.float32), "b": b.astype(np.float32)}, seed.astype(np.float32), engine)
    np.testing.assert_allclose(e.relevance["a"], np.einsum("nhqd,nhkd,nhqk->nhqk", s, b, a), rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(e.relevance["b"], np.einsum("nhqd,nhqk,nhkd->nhkd", s, a, b), rtol=2e-4, atol=2e-5)
    balanced(e)


@ENGINES
def test_gemm_of_two_activations_absorbs_its_constant(engine: str) -> None:
    data = nets.model(
        [nets.node("Gemm", ["a", "b", "c"], "y", alpha=2.0, beta=0.5)],
        {"a": [3, 2], "b": [2, 4]},
        constants={"c": np.array([1.0, -2.0, 3.0, 4.0])},
    )
    a, b = rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=(2, 4)).astype(np.float32)
    y = 2 * a @ b + 0.5 * np.array([1, -2, 3, 4])
    seed = np.where(np.abs(y) > 0.1, y, 0).astype(np.float32)
    e = explain(data, {"a": a, "b": b}, seed, engine)
    s = np.where(seed != 0, 0.5, 0)
    np.testing.assert_allclose(e.relevance["a"], a * (2 * s @ b.T), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(e.relevance["b"], b * (2 * a.T @ s), rtol=1e-4, atol=1e-5)
    absorbed = (np.array([1, -2, 3, 4]) * 0.5 * (seed != 0)).sum()
    np.testing.assert_allclose(e.ledger.totals["bias"].sum(), absorbed, rtol=1e-4)
    for layer in e.ledger.layers:
        np.testing.assert_allclose(e.ledger.unexplained(layer), 0, atol=1e-4)


@ENGINES
def test_a_lone_operand_takes_all(engine: str) -> None:
    """Noise drawn inside the model is no constant, but nothing of the input flows through it."""
    noise = nets.node("RandomUniform", [], "noise", shape=[1, 3], low=2.0, high=2.0)
    data = nets.model([noise, nets.node("Mul", ["noise", "x"], "y")], {"x": ["N", 3]})
    seed = np.array([[1, -2, 3]], np.float32)
    e = explain(data, {"x": np.ones((1, 3), np.float32)}, seed, engine)
    np.testing.assert_allclose(e.relevance["x"], seed)


@ENGINES
def test_what_reaches_a_comparison_is_stopped(engine: str) -> None:
    nodes = [nets.node("Greater", ["m", "x"], "above"), nets.node("Cast", ["above"], "mask", to=1)]
    data = nets.model([*nodes, nets.node("Mul", ["x", "mask"], "y")], {"x": ["N", 3], "m": ["N", 3]})
    x, seed = np.array([[1, 2, 3]], np.float32), np.array([[1, -2, 4]], np.float32)
    e = explain(data, {"x": x, "m": x + 1}, seed, engine)
    np.testing.assert_allclose(e.relevance["x"], seed / 2)
    np.testing.assert_allclose(e.relevance["m"], 0)
    np.testing.assert_allclose(e.ledger.totals["stopped"], [1.5])
    balanced(e)


@ENGINES
def test_pass_refuses_a_layer_that_changes_the_shape(engine: str, tmp_path: Path) -> None:
    data = nets.model([nets.node("Gemm", ["x", "w"], "dense")], {"x": ["N", 3]}, ["dense"], {"w": np.ones((3, 1))})
    book = tmp_path / "book.toml"
    book.write_text('[[rule]]\nkind = "linear"\nuse = "pass"')
    with pytest.raises(onnxplain.UsageError, match=r"'pass'.*Gemm 'dense'.*shape"):
        explain(data, {"x": np.ones((1, 3), np.float32)}, np.ones((1, 1), np.float32), engine, str(book))


@ENGINES
def test_stop_is_counted(engine: str, tmp_path: Path) -> None:
    """A user cuts one of two branches: its relevance stands in the ledger and nowhere else."""
    data = nets.model(
        [
            nets.node("Relu", ["x"], "kept"),
            nets.node("Neg", ["x"], "cut"),
            nets.node("Concat", ["kept", "cut"], "y", axis=1),
        ],
        {"x": ["N", 2]},
    )
    book = tmp_path / "book.toml"
    book.write_text('[[rule]]\nname = "cut"\nuse = "stop"')
    seed = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    e = explain(data, {"x": np.ones((2, 2), np.float32)}, seed, engine, str(book))
    np.testing.assert_allclose(e.relevance["x"], seed[:, :2])
    np.testing.assert_allclose(e.ledger.layers["cut"]["stopped"], [7, 15])
    np.testing.assert_allclose(e.ledger.totals["stopped"], [7, 15])
    balanced(e)


@ENGINES
@pytest.mark.parametrize(("operands", "book"), [("xwc", "epsilon"), ("xwc", "epsilon-plus-flat"), ("xvc", "epsilon")])
def test_an_addend_of_gemm_that_depends_on_the_input(engine: str, operands: str, book: str, tmp_path: Path) -> None:
    """Rules for one operand would lose its share: refused, and the rule that shares is named."""
    shapes = {"x": [2, 3], "v": [3, 2], "c": [2, 2]}
    inputs = {name: shapes[name] for name in operands if name in shapes}
    w = rng.normal(size=(3, 2))
    data = nets.model(
        [nets.node("Gemm", list(operands), "y", beta=0.5)], inputs, constants={"w": w} if "w" in operands else {}
    )
    feed = {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in inputs.items()}
    seed = np.ones((2, 2), np.float32)
    with pytest.raises(onnxplain.UnsupportedError, match=r"nothing to operand 2 of Gemm 'y'.*rule 'norm'"):
        explain(data, feed, seed, engine, book)
    if operands == "xwc":
        own = tmp_path / "own.toml"
        own.write_text('[[rule]]\nop = "Gemm"\nuse = "norm"')
        y = feed["x"] @ w + 0.5 * feed["c"]
        e = explain(data, feed, y.astype(np.float32), engine, str(own))
        np.testing.assert_allclose(e.relevance["c"], 0.5 * feed["c"], rtol=1e-4)
        np.testing.assert_allclose(e.relevance["x"], feed["x"] * w.sum(axis=1), rtol=1e-4, atol=1e-5)
        balanced(e)


@ENGINES
@pytest.mark.parametrize("shape", [(1, 6), (1, 2, 3)])
def test_clips_with_wide_bounds(engine: str, shape: tuple[int, ...]) -> None:
    bounds = {"low": np.array(-500.0), "high": np.array(1000.0)}
    data = nets.model([nets.node("Clip", ["x", *bounds], "y")], {"x": ["N", *shape]}, constants=bounds)
    x = np.array([-1e30, -500, -499.9, 999.9, 1000, 1e30], np.float32).reshape(1, *shape)
    e = onnxplain.explain(data, x, "gradient", np.ones(shape), engine=engine)
    np.testing.assert_array_equal(e.relevance["x"].reshape(-1), [0, 0, 1, 1, 0, 0])
