"""The ledger: where relevance goes, layer by layer, each column from its own formula and nothing left over."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.ops import Kind, find

ORACLES = Path(__file__).parents[1] / "oracles"
NETS = sorted(path.stem for path in ORACLES.glob("*.npz"))
BOOKS = [
    "lrp-0", "epsilon", "epsilon-plus", "epsilon-plus-flat", "epsilon-alpha2-beta1", "epsilon-alpha2-beta1-flat",
    "epsilon-gamma-box", "excitation-backprop",
]  # fmt: skip
ENGINES = pytest.mark.parametrize("engine", ["host", "compiled"])


@functools.cache
def load(net: str) -> onnxplain.Model:
    return onnxplain.load(ORACLES / f"{net}_opset18.onnx", threads=1)


def sums(value: np.ndarray) -> np.ndarray:
    return value.reshape(len(value), -1).sum(axis=1, dtype=np.float64)


def conserving(step: Any) -> bool:
    """Whether relevance is only moved or shared out: a gradient at an activation or batch norm is neither."""
    return step.rule.name != "gradient" or find(step.layer).kind_of(step.layer) in (Kind.ROUTE, Kind.WINNER)


@ENGINES
@pytest.mark.parametrize("book", BOOKS)
@pytest.mark.parametrize("net", NETS)
def test_every_layer_is_accounted_for(net: str, book: str, engine: str) -> None:
    with np.load(ORACLES / f"{net}.npz") as truth:
        x = truth["input"]
        bounds = {key: truth[key].reshape(-1) for key in ("low", "high")} if book == "epsilon-gamma-box" else {}
    model = load(net)
    inner = [out.name for layer in model.graph.layers for out in layer.outputs]
    e = onnxplain.explain(model, x, rules=book, engine=engine, ledger=True, at=inner, **bounds)
    ledger = e.ledger
    assert list(ledger.layers) == [step.layer.name for step in reversed(e.plan.steps)]
    for step in e.plan:
        name, (output,) = step.layer.name, step.layer.outputs
        relevance = e.at[output.name]
        arriving = sums(np.abs(relevance))
        np.testing.assert_allclose(ledger.layers[name]["in"], sums(relevance), atol=1e-6 * arriving.max())
        if conserving(step):
            assert (np.abs(ledger.unexplained(name)) <= 1e-5 * arriving).all(), (name, step.rule.name)
    start = np.array([chosen.value for chosen in e.target]) if e.plan.seed is None else e.plan.seed
    lost = sum(ledger.totals.values()) + sum(ledger.unexplained(name) for name in ledger.layers)
    np.testing.assert_allclose(sums(e.relevance["input"]) + lost, start, rtol=1e-4)


def shares(r: np.ndarray, z: np.ndarray, epsilon: float = 1e-6) -> np.ndarray:
    return r / (z + np.where(z >= 0, epsilon, -epsilon))


def signed(s: np.ndarray, z: np.ndarray, epsilon: float = 1e-6) -> float:
    return float((s * np.sign(z) * epsilon).sum())


W = np.array([[1.0, -2.0, 0.5], [-0.75, 1.5, 2.0]])
B = np.array([0.5, -1.0, 0.25])
X = np.array([2.0, -1.5])
R = np.array([1.0, -2.0, 3.0])


def absorbed(rule: str, epsilon: float) -> dict[str, float]:
    """Bias, stabilizer and what stands at zero for a dense layer x W + b, from the rules' formulas."""
    z = X @ W + B
    parts = X[:, None] * W
    up, down = np.maximum(parts, 0).sum(axis=0), np.minimum(parts, 0).sum(axis=0)
    match rule:
        case "epsilon" | "norm":
            terms = [(R, z, B)]
        case "z-plus":
            terms = [(R, up + np.maximum(B, 0), np.maximum(B, 0))]
        case "alpha-beta":
            terms = [(2 * R, up + np.maximum(B, 0), np.maximum(B, 0)), (-R, down + np.minimum(B, 0), np.minimum(B, 0))]
        case "gamma":
            more, less = B + 0.25 * np.maximum(B, 0), B + 0.25 * np.minimum(B, 0)
            plain = parts.sum(axis=0)
            terms = [(R * (z > 0), plain + 0.25 * up + more, more), (R * (z < 0), plain + 0.25 * down + less, less)]
        case "w-square":
            terms = [(R, (W * W).sum(axis=0) + B * B, B * B)]
        case "flat":
            terms = [(R, np.full(3, 2.0), np.zeros(3))]
        case "z-box":
            terms = [(R, (parts - np.maximum(W, 0) * -3 - np.minimum(W, 0) * 3).sum(axis=0), np.zeros(3))]
    kept = [(shares(r, bottom, epsilon), bottom, b) for r, bottom, b in terms]
    return {
        "bias": sum(float((s * b).sum()) for s, _, b in kept),
        "stabilizer": sum(signed(s, bottom, epsilon) for s, bottom, _ in kept),
        "zero": sum(float(r[bottom == 0].sum()) for r, bottom, _ in terms),
    }


@ENGINES
@pytest.mark.parametrize("rule", ["epsilon", "norm", "z-plus", "alpha-beta", "gamma", "w-square", "flat", "z-box"])
def test_columns_come_from_their_own_formula(rule: str, engine: str, tmp_path: Path) -> None:
    """A stabilizer of 0.125 makes its share large enough to be seen next to rounding."""
    name = "epsilon" if rule == "epsilon" else "stabilizer"
    bounds = ["low = -3", "high = 3"] if rule == "z-box" else []
    e = dense(engine, tmp_path, X[None], W, B, R[None], [f'use = "{rule}"', f"{name} = 0.125", *bounds])
    book = e.ledger.layers["y"]
    np.testing.assert_allclose(book["in"], [R.sum()], rtol=1e-6)
    np.testing.assert_allclose(book["out"], sums(e.relevance["x"]), rtol=1e-5)
    for column, value in absorbed(rule, 0.125).items():
        np.testing.assert_allclose(book.get(column, [0.0]), [value], rtol=1e-4, atol=1e-6, err_msg=column)
    np.testing.assert_allclose(e.ledger.unexplained("y"), [0.0], atol=1e-5)


def dense(
    engine: str, folder: Path, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, r: np.ndarray, lines: list[str]
) -> onnxplain.Explanation:
    constants = {"w": w} if b is None else {"w": w, "b": b}
    data = nets.model([nets.node("Gemm", ["x", *constants], "y")], {"x": ["N", x.shape[1]]}, constants=constants)
    book = folder / "book.toml"
    book.write_text("\n".join(["[[rule]]", 'kind = "linear"', *lines]))
    x, r = x.astype(np.float32), r.astype(np.float32)
    return onnxplain.explain(data, x, target=lambda y: r, rules=str(book), engine=engine, ledger=True)


@ENGINES
def test_alpha_beta_without_a_part_counts_what_it_makes_up(engine: str, tmp_path: Path) -> None:
    """Two neurons: one has no negative part and hands down twice its relevance, one no positive part and hands down
    less than nothing. Strictly, the part that exists gets all."""
    x, w, r = np.array([[1.0, 2.0]]), np.array([[1.0, -1.0], [0.5, -2.0]]), np.array([[3.0, 5.0]])
    e = dense(engine, tmp_path, x, w, None, r, ['use = "alpha-beta"'])
    np.testing.assert_allclose(e.relevance["x"], [[2 * 1.5 - 1, 2 * 1.5 - 4]], rtol=1e-5)
    np.testing.assert_allclose(e.ledger.layers["y"]["zero"], [-3 + 2 * 5], rtol=1e-5)
    np.testing.assert_allclose(e.ledger.unexplained("y"), [0], atol=1e-5)
    e = dense(engine, tmp_path, x, w, None, r, ['use = "alpha-beta"', "strict = true"])
    np.testing.assert_allclose(e.relevance["x"], [[1.5 + 1, 1.5 + 4]], rtol=1e-5)
    np.testing.assert_allclose(e.ledger.layers["y"]["zero"], [0], atol=1e-6)
    np.testing.assert_allclose(e.ledger.unexplained("y"), [0], atol=1e-5)


@ENGINES
def test_gamma_at_zero_is_counted_and_strict_closes_it(engine: str, tmp_path: Path) -> None:
    x, w, r = np.array([[1.0, 1.0]]), np.array([[1.0], [-1.0]]), np.array([[4.0]])
    e = dense(engine, tmp_path, x, w, None, r, ['use = "gamma"'])
    np.testing.assert_allclose(e.relevance["x"], [[0, 0]])
    np.testing.assert_allclose(e.ledger.layers["y"]["zero"], [4])
    np.testing.assert_allclose(e.ledger.unexplained("y"), [0])
    e = dense(engine, tmp_path, x, w, None, r, ['use = "gamma"', "strict = true"])
    np.testing.assert_allclose(e.relevance["x"], [[20, -16]], rtol=1e-4)
    np.testing.assert_allclose(e.ledger.layers["y"]["zero"], [0])
    np.testing.assert_allclose(e.ledger.unexplained("y"), [0], atol=1e-4)


@ENGINES
def test_epsilon_at_zero_is_counted(engine: str, tmp_path: Path) -> None:
    """What stands at an output of exactly 0 is handed down in shares that cancel: the sum is lost."""
    x, w, r = np.array([[1.0, 1.0]]), np.array([[1.0], [-1.0]]), np.array([[4.0]])
    e = dense(engine, tmp_path, x, w, None, r, ['use = "epsilon"', "epsilon = 0.5"])
    np.testing.assert_allclose(e.relevance["x"], [[8, -8]])
    np.testing.assert_allclose(e.ledger.layers["y"]["zero"], [4])
    np.testing.assert_allclose(e.ledger.unexplained("y"), [0])


@ENGINES
def test_strict_closes_a_whole_net(engine: str) -> None:
    """Chapter 6.4 of the oracles: two outputs of the convolution get nothing negative from the inputs, which makes 34.7
    of 17.75 unless strict; a third shares its negative part with the bias."""
    conv = {"w": np.array([[[[1, -1], [0.5, 2.0]]]]), "b": np.array([-0.5])}
    fc = {"v": np.array([[1, -1, 0.5, 2], [-0.5, 1, 1, -1]]), "c": np.array([0.25, -0.25])}
    nodes = [
        nets.node("Conv", ["x", "w", "b"], "z"),
        nets.node("Relu", ["z"], "a"),
        nets.node("Flatten", ["a"], "f"),
        nets.node("Gemm", ["f", "v", "c"], "y", transB=1),
    ]
    data = nets.model(nodes, {"x": ["N", 1, 3, 3]}, constants=conv | fc)
    x = np.array([[[[1, -1, 2], [0.5, 1.5, -2], [-1, 2, 1]]]], np.float32)
    loose, strict = (
        onnxplain.explain(data, x, target=0, rules="epsilon-alpha2-beta1", engine=engine, ledger=True, strict=flag)
        for flag in (False, True)
    )
    np.testing.assert_allclose(loose.relevance["x"].sum(), 34.7, atol=1e-4)
    np.testing.assert_allclose(loose.ledger.layers["z"]["bias"], 17.75 - 34.7, atol=1e-4)
    np.testing.assert_allclose(strict.ledger.layers["z"]["bias"], -0.2, atol=1e-4)
    np.testing.assert_allclose(strict.relevance["x"].sum(), 17.75 + 0.2, atol=1e-4)


@ENGINES
def test_padding_and_constants_take_what_falls_on_them(engine: str) -> None:
    """Pad, Concat with a constant, Where and Max against a constant: what no input supplies counts as bias."""
    constants = {
        "pads": np.array([0, 1, 0, 2]),
        "ones": np.ones((1, 2)),
        "mask": np.array([[True, False, True, True, True, True]]),
        "level": np.array([[0.5]]),
    }
    nodes = [
        nets.node("Max", ["x", "level"], "max"),
        nets.node("Pad", ["max", "pads"], "padded"),
        nets.node("Where", ["mask", "padded", "level"], "picked"),
        nets.node("Concat", ["picked", "ones"], "y", axis=1),
    ]
    data = nets.model(nodes, {"x": [1, 3]}, constants=constants)
    x = np.array([[1.0, 0.25, 2.0]], np.float32)
    seed = np.array([[1, 2, 3, 4, 5, 6, 7, 8]], np.float32)
    e = onnxplain.explain(data, x, target=lambda y: seed, rules="epsilon", engine=engine, ledger=True)
    np.testing.assert_allclose(e.relevance["x"], [[0, 0, 4]])
    found = {name: float(book["bias"].sum()) for name, book in e.ledger.layers.items()}
    assert found == {"y": 7 + 8, "picked": 2, "padded": 1 + 5 + 6, "max": 3}
    assert e.ledger.totals["bias"].sum() == sum(found.values()) == seed.sum() - 4


@ENGINES
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "LayerNormalization"])
def test_the_rest_of_a_taylor_expansion_counts_as_bias(op: str, engine: str) -> None:
    constants = (
        {"scale": np.array([1.0, 2.0, -1.0]), "shift": np.array([0.1, 0.0, 0.2])} if op.startswith("Layer") else {}
    )
    nodes = [nets.node(op, ["x", *constants], "y"), nets.node("Identity", ["y"], "out")]
    data = nets.model(nodes, {"x": ["N", 3]}, ["out"], constants)
    x = np.array([[1, 2, 0.5], [-1, 0.25, 4]], np.float32)
    seed = np.array([[0.2, 0.5, -0.1], [1, 2, 3]], np.float32)
    e = onnxplain.explain(data, x, target=lambda y: seed, rules="epsilon", engine=engine, ledger=True)
    assert (np.abs(e.ledger.layers["y"]["bias"]) > 0.01).all()
    np.testing.assert_allclose(e.ledger.unexplained("y"), 0, atol=1e-5 * np.abs(seed).sum(axis=1).max())


@ENGINES
def test_a_layer_without_samples_along_axis_0_gives_one_number(engine: str) -> None:
    nodes = [
        nets.node("Transpose", ["b"], "turned", perm=[1, 0]),
        nets.node("MatMul", ["a", "turned"], "y"),
    ]
    data = nets.model(nodes, {"a": [2, 3], "b": [4, 3]})
    rng = np.random.default_rng(0)
    feed = {"a": rng.uniform(1, 2, (2, 3)).astype(np.float32), "b": rng.uniform(1, 2, (4, 3)).astype(np.float32)}
    e = onnxplain.explain(data, feed, target=lambda y: y, rules="epsilon", engine=engine, ledger=True)
    assert [len(book["in"]) for book in e.ledger.layers.values()] == [1, 1]
    total = sum(value.sum() for value in e.relevance.values())
    np.testing.assert_allclose(total, e.ledger.layers["y"]["in"], rtol=1e-5)
    np.testing.assert_allclose(e.ledger.totals["stabilizer"], [0], atol=1e-4)


def test_the_compiled_engine_keeps_none_unless_asked() -> None:
    model, x = load("plain"), np.load(ORACLES / "plain.npz")["input"]
    e = onnxplain.explain(model, x, engine="compiled")
    assert e.ledger is None
    host = onnxplain.explain(model, x, engine="host")
    np.testing.assert_allclose(e.conserved, host.conserved, rtol=1e-4)
    asked = onnxplain.explain(model, x, engine="compiled", ledger=True)
    for name, book in host.ledger.layers.items():
        for column, value in book.items():
            np.testing.assert_allclose(asked.ledger.layers[name][column], value, atol=1e-5 * np.abs(value).max() + 1e-5)


@ENGINES
@pytest.mark.parametrize("method", ["gradient", "input-x-gradient", "smoothgrad", "guided-backprop", "deconvnet"])
def test_gradients_have_no_ledger(method: str, engine: str) -> None:
    model, x = load("plain"), np.load(ORACLES / "plain.npz")["input"]
    assert onnxplain.explain(model, x, method, engine=engine).ledger is None
