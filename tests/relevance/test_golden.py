"""Worked vectors of tests/oracles/golden.json, each run through the public entry point on both engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.engine.emitter import Emitter
from onnxplain.engine.host import Host
from onnxplain.graph.canonize import canonize
from onnxplain.methods.table import METHODS
from onnxplain.model import Model

GOLDEN = json.loads((Path(__file__).parents[1] / "oracles" / "golden.json").read_text())
ENGINES = ("host", "compiled")

RULE_NAMES = {"softmax-taylor": "norm", "layer-norm": "norm", "uniform-epsilon": "uniform"}
"""Our name for a rule where the file names it after another library; the others are spelled alike."""

NOT_OFFERED = {
    "stabilizer clip": "one stabilizer, added with the sign of z",
    "stabilizer norm_scale": "one stabilizer, added with the sign of z",
    "B beta-smooth": "no softplus surrogate for Relu",
    "F factor of SiLU": "relevance is walked, not gradient x input",
    "F factor of GELU, erf form": "relevance is walked, not gradient x input",
}


UNSIGNED = {"F layer normalization": 3e-5}
"""Vectors of a library that adds its stabilizer without a sign, and how far that carries."""


def vectors(*kinds: str) -> list[Any]:
    chosen = [v for v in GOLDEN["vectors"] if v["kind"] in kinds and v["name"] not in NOT_OFFERED]
    return [pytest.param(v, id=v["name"]) for v in chosen if v.get("comparable", True)]


def build(name: str, feed: dict[str, np.ndarray]) -> Model:
    """The model of an entry; free batch where every input holds as many samples, else fixed shapes."""
    spec = GOLDEN["models"][name]
    nodes, weights = [], {}
    for entry in spec["nodes"]:
        own = {f"{entry['name']}_{i}": np.array(v, np.float32) for i, v in enumerate(entry.get("constants", []))}
        nodes.append(
            nets.node(
                entry["op"], [*entry["inputs"], *own], entry["output"], entry["name"], **entry.get("attributes", {})
            )
        )
        weights |= own
    free = name != "attention" and len({len(value) for value in feed.values()}) == 1
    shapes = {key: ["N" if free else len(value), *value.shape[1:]] for key, value in feed.items()}
    return onnxplain.load(nets.model(nodes, shapes, [spec["output"]], weights))


def arrays(values: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float32) for name, value in values.items()}


def write_book(folder: Path, rules: dict[str, dict[str, Any]]) -> Path:
    """A rule book with one line per node name."""
    lines = []
    for name, entry in rules.items():
        lines += ["[[rule]]", f'name = "{name}"', f'use = "{RULE_NAMES.get(entry["rule"], entry["rule"])}"']
        lines += [f"{key} = {json.dumps(value)}" for key, value in entry["parameters"].items()]
    book = folder / "golden.toml"
    book.write_text("\n".join(lines))
    return book


def check(found: dict[str, np.ndarray], vector: dict[str, Any]) -> None:
    for name, expected in arrays(vector["expected"]).items():
        atol = max(vector["atol"], UNSIGNED.get(vector["name"], 0), 5e-7 * np.abs(expected).max())
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=atol, err_msg=name)


def test_every_vector_is_run_or_named() -> None:
    kinds = {"stabilizer", "rule", "rules", "method", "method-sum", "forward", "batch-norm-folding"}
    names = {v["name"] for v in GOLDEN["vectors"]}
    assert set(NOT_OFFERED) <= names
    assert {v["kind"] for v in GOLDEN["vectors"] if v["name"] not in NOT_OFFERED} == kinds


@pytest.mark.parametrize("vector", vectors("stabilizer"))
def test_stabilizer(vector: dict[str, Any]) -> None:
    z = np.array(vector["input"]["z"], np.float64)
    ratio = Host(np.float64).ratio(np.ones_like(z), z, vector["parameters"]["epsilon"])
    np.testing.assert_allclose(1 / ratio, vector["expected"]["z"], rtol=0, atol=vector["atol"])
    recorded = Emitter().ratio(np.ones(z.shape, np.float32), z.astype(np.float32), vector["parameters"]["epsilon"])
    np.testing.assert_allclose(1 / recorded, vector["expected"]["z"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("vector", vectors("rule", "rules"))
def test_rule(vector: dict[str, Any], engine: str, tmp_path: Path) -> None:
    feed = arrays(vector["input"])
    names = [entry["name"] for entry in GOLDEN["models"][vector["model"]]["nodes"]]
    rules = vector.get("rules") or {name: {k: vector[k] for k in ("rule", "parameters")} for name in names}
    relevance = np.array(vector["relevance"], np.float32)
    e = onnxplain.explain(
        build(vector["model"], feed),
        feed,
        target=lambda y: relevance,
        rules=str(write_book(tmp_path, rules)),
        engine=engine,
    )
    check(e.relevance, vector)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("vector", [p for p in vectors("method", "method-sum") if "mask" not in p.values[0]])
def test_method(vector: dict[str, Any], engine: str) -> None:
    feed = arrays(vector["input"])
    model = build(vector["model"], feed)
    method, parameters = vector["method"], dict(vector["parameters"])
    steps = parameters.pop("steps", 1)
    points = {name: np.concatenate([value * (k / steps) for k in range(1, steps + 1)]) for name, value in feed.items()}
    target = f"[{','.join(map(str, vector['target']))}]"
    at = list(vector.get("at", ()))
    if method == "integrated-gradients":
        assert parameters == {"quadrature": "right-riemann"}
        e = onnxplain.explain(model, points, "gradient", target, engine=engine)
        found = {name: value.mean(axis=0, keepdims=True) * feed[name] for name, value in e.relevance.items()}
    elif method in METHODS:
        found = onnxplain.explain(model, feed, method, target, engine=engine).relevance
    else:
        e = onnxplain.explain(model, feed, "lrp", target, rules=method, engine=engine, at=at, **parameters)
        seed = {"value": e.target[0].value}.get(vector["seed"], vector["seed"])
        own = e.target[0].value if e.plan.seed is None else e.plan.seed
        found = {name: value * (seed / own) for name, value in (e.relevance | e.at).items()}
    if vector["kind"] == "method-sum":
        found = {name: value.sum() for name, value in found.items()}
    check(found, vector)
    check(found, {**vector, "expected": vector.get("at", {})})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("vector", [p for p in vectors("method") if "mask" in p.values[0]])
def test_masked_channels(vector: dict[str, Any], engine: str) -> None:
    """Relevance of an inner tensor, masked, is the seed of a second walk from there."""
    feed = arrays(vector["input"])
    model = build(vector["model"], feed)
    inner = onnxplain.explain(model, feed, "lrp", 0, rules=vector["method"], engine=engine, at=list(vector["mask"])).at
    total: dict[str, np.ndarray] = {}
    for name, mask in arrays(vector["mask"]).items():
        seed = inner[name] * mask
        e = onnxplain.explain(
            model, feed, "lrp", lambda y, seed=seed: seed, output=name, rules=vector["method"], engine=engine
        )
        total = {key: total.get(key, 0) + value for key, value in e.relevance.items()}
    check(total, vector)


@pytest.mark.parametrize("vector", vectors("forward"))
def test_forward(vector: dict[str, Any]) -> None:
    feed = arrays(vector["input"])
    output = GOLDEN["models"][vector["model"]]["output"]
    found = build(vector["model"], feed).run(feed, taps=[name for name in vector["expected"] if name != output])
    check(found, vector)


@pytest.mark.parametrize("vector", vectors("batch-norm-folding"))
def test_batch_norm_folding(vector: dict[str, Any]) -> None:
    values = vector["input"]
    statistics = ("scale", "shift", "mean", "variance")
    data = nets.model(
        [
            nets.node("Conv", ["x", "weight", "bias"], "z"),
            nets.node("BatchNormalization", ["z", *statistics], "y", epsilon=vector["parameters"]["epsilon"]),
        ],
        {"x": ["N", 1, 3, 3]},
        constants={name: np.array(value, np.float64) for name, value in values.items()},
        dtype=np.float64,
    )
    graph, changes = canonize(onnxplain.load(data).original_graph)
    assert [change.applied for change in changes] == [True]
    (conv,) = graph.layers
    found = dict(zip(("weight", "bias"), (tensor.value for tensor in conv.inputs[1:]), strict=True))
    for name, expected in vector["expected"].items():
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=vector["atol"])
