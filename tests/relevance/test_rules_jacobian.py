"""Every rule on weighted layers against a slow second form: a dense matrix, in float64, taken from onnxruntime."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest

import onnxplain

EPSILON = 1e-6
SAMPLES = 2

RULES: list[tuple[str, dict[str, Any]]] = [
    ("epsilon", {}),
    ("epsilon", {"epsilon": 0.25}),
    ("epsilon", {"bias": False}),
    ("epsilon", {"epsilon": 0.05, "unsigned": True}),
    ("norm", {}),
    ("norm", {"stabilizer": 0.05, "unsigned": True}),
    ("z-plus", {}),
    ("z-plus", {"bias": False}),
    ("alpha-beta", {}),
    ("alpha-beta", {"alpha": 1.0, "beta": 0.0}),
    ("alpha-beta", {"alpha": 3.0, "beta": 2.0, "bias": False}),
    ("alpha-beta", {"strict": True}),
    ("gamma", {}),
    ("gamma", {"gamma": 2.0, "bias": False}),
    ("z-box", {"low": -3.0, "high": 2.5}),
    ("z-box", {"low": "channels", "high": "channels"}),
    ("w-square", {}),
    ("w-square", {"bias": False}),
    ("flat", {}),
]


@dataclass(frozen=True)
class Layer:
    """One weighted node: its op, the shapes of the input (without batch), weight and bias, and its attributes."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    b: tuple[int, ...] | None
    attributes: dict[str, Any] = field(default_factory=dict)
    weight_first: bool = False


LAYERS = {
    "gemm": Layer("Gemm", (5,), (5, 4), (4,)),
    "gemm-transposed": Layer("Gemm", (5,), (4, 5), (1, 4), {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "matmul": Layer("MatMul", (3, 5), (5, 4), None),
    "matmul-left": Layer("MatMul", (5, 3), (4, 5), None, weight_first=True),
    "conv1d": Layer("Conv", (3, 9), (4, 3, 3), (4,), {"strides": [2], "pads": [1, 0]}),
    "conv2d": Layer("Conv", (3, 5, 4), (2, 3, 3, 2), (2,), {"pads": [1, 0, 2, 1]}),
    "conv2d-no-bias": Layer("Conv", (2, 5, 5), (3, 2, 3, 3), None, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "conv2d-dilated": Layer("Conv", (2, 6, 6), (3, 2, 2, 2), (3,), {"dilations": [2, 3], "strides": [1, 2]}),
    "conv2d-pointwise": Layer("Conv", (4, 3, 3), (5, 4, 1, 1), (5,)),
    "conv3d": Layer("Conv", (2, 3, 3, 4), (2, 2, 2, 2, 2), (2,), {"pads": [0, 1, 0, 1, 0, 0]}),
    "conv2d-grouped": Layer("Conv", (4, 4, 4), (6, 2, 3, 3), (6,), {"group": 2, "pads": [1, 1, 1, 1]}),
    "conv2d-depthwise": Layer("Conv", (3, 5, 5), (6, 1, 3, 3), (6,), {"group": 3, "pads": [1] * 4, "strides": [2, 2]}),
    "transposed1d": Layer("ConvTranspose", (2, 4), (2, 3, 3), (3,), {"strides": [2], "output_padding": [1]}),
    "transposed2d": Layer("ConvTranspose", (3, 3, 3), (3, 2, 3, 3), (2,), {"strides": [2, 1], "pads": [1, 0, 0, 1]}),
    "transposed2d-grouped": Layer("ConvTranspose", (4, 3, 3), (4, 2, 2, 2), (4,), {"group": 2, "dilations": [1, 2]}),
}


@dataclass(frozen=True)
class Case:
    """A layer with its data, and the same layer as a matrix."""

    model: onnxplain.Model
    x: np.ndarray
    matrix: np.ndarray
    bias: np.ndarray
    channels: int


def make_case(layer: Layer, rectified: bool) -> Case:
    rng = np.random.default_rng(7)
    w = rng.uniform(0.2, 1.0, layer.w) * rng.choice([-1.0, 1.0], layer.w)
    constants = {"w": w}
    operands = ["w", "h"] if layer.weight_first else ["h", "w"]
    if layer.b is not None:
        constants["b"] = rng.normal(size=layer.b)
        operands.append("b")

    def build(names: list[str]) -> onnxplain.Model:
        before = nets.node("Relu" if rectified else "Identity", ["x"], "h")
        used = {name: value for name, value in constants.items() if name in names}
        nodes = [before, nets.node(layer.op, names, "y", **layer.attributes)]
        return onnxplain.load(nets.model(nodes, {"x": ["N", *layer.x]}, constants=used), threads=1)

    model = build(operands)
    size = int(np.prod(layer.x))
    unit = np.eye(size, dtype=np.float32).reshape(size, *layer.x)
    rows = build(operands[:2]).run(unit)["y"].reshape(size, -1)
    bias = model.run(np.zeros((1, *layer.x), np.float32))["y"].reshape(-1)
    x = rng.normal(size=(SAMPLES, *layer.x)).astype(np.float32)
    return Case(model, x, rows.T.astype(np.float64), bias.astype(np.float64), layer.x[0])


def positive(a: np.ndarray) -> np.ndarray:
    return np.maximum(a, 0)


def negative(a: np.ndarray) -> np.ndarray:
    return np.minimum(a, 0)


def shares(r: np.ndarray, z: np.ndarray, epsilon: float = EPSILON, unsigned: bool = False) -> np.ndarray:
    return r / (z + np.where((z >= 0) | unsigned, epsilon, -epsilon))


def bound(case: Case, value: Any, sign: float) -> np.ndarray:
    """The bounds of every input element: one number, or one per channel."""
    shape = case.x.shape[1:]
    if value == "channels":
        per_channel = np.array(channel_bounds(case, sign))
        return np.broadcast_to(per_channel.reshape(-1, *[1] * (len(shape) - 1)), shape).reshape(-1)
    return np.full(shape, value).reshape(-1)


def channel_bounds(case: Case, sign: float) -> list[float]:
    return [sign * (2 + 0.5 * c) for c in range(case.channels)]


def expected(case: Case, rule: str, parameters: dict[str, Any], x: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The rule on one sample, written over the matrix W (outputs x inputs)."""
    w, b = case.matrix, case.bias if parameters.get("bias", True) else np.zeros_like(case.bias)
    z = w @ x + b
    match rule:
        case "epsilon" | "norm":
            epsilon = parameters.get("epsilon", parameters.get("stabilizer", EPSILON))
            return x * (w.T @ shares(r, z, epsilon, parameters.get("unsigned", False)))
        case "z-plus" | "alpha-beta":
            alpha, beta = (1, 0) if rule == "z-plus" else (parameters.get("alpha", 2), parameters.get("beta", 1))
            parts = w * x
            up, down = positive(parts), negative(parts)
            r_up, r_down = alpha * r, -beta * r
            if parameters.get("strict"):
                one_sided = (up == 0).all(axis=1) ^ (down == 0).all(axis=1)
                r_up, r_down = np.where(one_sided, r, r_up), np.where(one_sided, r, r_down)
            s_up = shares(r_up, up.sum(axis=1) + positive(b))
            s_down = shares(r_down, down.sum(axis=1) + negative(b))
            return up.T @ s_up + down.T @ s_down
        case "gamma":
            gamma = parameters.get("gamma", 0.25)
            parts = w * x
            above, below = parts + gamma * positive(parts), parts + gamma * negative(parts)
            s_above = shares(np.where(z > 0, r, 0), above.sum(axis=1) + b + gamma * positive(b))
            s_below = shares(np.where(z < 0, r, 0), below.sum(axis=1) + b + gamma * negative(b))
            return above.T @ s_above + below.T @ s_below
        case "z-box":
            low, high = (bound(case, parameters[key], sign) for key, sign in (("low", -1.0), ("high", 1.0)))
            parts = w * x - positive(w) * low - negative(w) * high
            return parts.T @ shares(r, parts.sum(axis=1))
        case "w-square":
            return (w * w).T @ shares(r, (w * w).sum(axis=1) + b * b)
        case "flat":
            ones = (w != 0).astype(float)
            return ones.T @ shares(r, ones.sum(axis=1))
    raise AssertionError(rule)


def explain(
    case: Case, rule: str, parameters: dict[str, Any], seed: np.ndarray, folder: Path, **how: str
) -> np.ndarray:
    settings = dict(parameters)
    for key, sign in (("low", -1.0), ("high", 1.0)):
        if settings.get(key) == "channels":
            settings[key] = channel_bounds(case, sign)
    lines = ["[[rule]]", 'kind = "linear"', f'use = "{rule}"', *(f"{k} = {json.dumps(v)}" for k, v in settings.items())]
    book = folder / "one.toml"
    book.write_text("\n".join(lines))
    e = onnxplain.explain(case.model, case.x, target=lambda y: seed.reshape(y.shape), rules=str(book), **how)
    return e.relevance["x"].reshape(SAMPLES, -1)


@pytest.mark.parametrize("rectified", [False, True], ids=["signed", "rectified"])
@pytest.mark.parametrize("name", LAYERS)
def test_rules_equal_their_matrix_form(name: str, rectified: bool, tmp_path: Path) -> None:
    case = make_case(LAYERS[name], rectified)
    x = case.x.reshape(SAMPLES, -1).astype(np.float64)
    x = positive(x) if rectified else x
    rng = np.random.default_rng(1)
    seed = rng.normal(size=(SAMPLES, len(case.bias)))
    linear = x @ case.matrix.T
    far_from_zero = np.minimum(np.abs(linear), np.abs(linear + case.bias)) > 0.2
    calm = np.where(far_from_zero, seed, 0).astype(np.float32)
    for rule, parameters in RULES:
        for how, relevance, tolerance in (
            ({"engine": "host", "dtype": "float64"}, seed, 1e-9),
            ({"engine": "host"}, calm, 5e-6),
            ({"engine": "compiled"}, calm, 5e-6),
        ):
            wanted = np.stack([expected(case, rule, parameters, *pair) for pair in zip(x, relevance, strict=True)])
            found = explain(case, rule, parameters, relevance, tmp_path, **how)
            scale = max(1.0, np.abs(wanted).max())
            np.testing.assert_allclose(
                found, wanted, rtol=0, atol=tolerance * scale, err_msg=f"{rule} {parameters} {how}"
            )


def test_the_signs_of_the_data_cover_every_branch() -> None:
    case = make_case(LAYERS["conv2d"], rectified=False)
    assert (case.x > 0).any()
    assert (case.x < 0).any()
    assert (case.matrix > 0).any()
    assert (case.matrix < 0).any()
    assert (case.bias > 0).any()
    assert (case.bias < 0).any()
