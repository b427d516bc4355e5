"""What a method does not take is refused, and what it plans is what it carries out."""

from __future__ import annotations

import re
from typing import Any

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.errors import UsageError
from onnxplain.methods.table import METHODS

PICTURE = np.random.default_rng(3).standard_normal((1, 2, 8, 8)).astype(np.float32)

FORWARD = {"fixations", "score-cam", "rise", "occlusion", "ablation-cam"}
"""What carries no signal back by rules."""
LAYERED = {"sise", "ada-sise", "grad-cam", "grad-cam++", "hires-cam", "layer-cam", "xgrad-cam"}
"""What goes back to layers that the input settles."""
INNER = {
    "lrp", "gradient", "input-x-gradient", "smoothgrad", "integrated-gradients", "guided-backprop", "deconvnet",
    "fixations", "salient-relevance", "fullgrad",
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> onnxplain.Model:
    rng = np.random.default_rng(0)
    nodes = [
        nets.node("Conv", ["x", "v"], "a", pads=[1] * 4),
        nets.node("Relu", ["a"], "b"),
        nets.node("MaxPool", ["b"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        nets.node("Conv", ["p", "w"], "c", pads=[1] * 4),
        nets.node("Relu", ["c"], "d"),
        nets.node("GlobalAveragePool", ["d"], "q"),
        nets.node("Flatten", ["q"], "f"),
        nets.node("Gemm", ["f", "m"], "y"),
    ]
    constants = {
        "v": rng.standard_normal((3, 2, 3, 3)),
        "w": rng.standard_normal((4, 3, 3, 3)),
        "m": rng.standard_normal((4, 3)),
    }
    return onnxplain.load(nets.model(nodes, {"x": ["N", 2, 8, 8]}, constants=constants), threads=1)


def settings(method: str) -> dict[str, Any]:
    """What keeps a method small."""
    return {
        "salient-relevance": {"long_side": 8, "k": 4},
        "rise": {"masks": 4},
        "occlusion": {"window": 4, "stride": 2},
    }.get(method, {})


@pytest.mark.parametrize("method", sorted(METHODS.keys() - FORWARD - LAYERED - {"vebi"}))
def test_the_plan_is_what_is_carried_out(model: onnxplain.Model, method: str) -> None:
    plan = onnxplain.plan(model, method, target=1)
    e = onnxplain.explain(model, PICTURE, method, target=1, **settings(method))
    assert e.plan is not None
    assert (plan.to_json(), len(plan)) == (e.plan.to_json(), 8)


@pytest.mark.parametrize("method", sorted(LAYERED))
def test_a_plan_down_to_named_layers(model: onnxplain.Model, method: str) -> None:
    option = "layers" if "sise" in method else "layer"
    with pytest.raises(UsageError, match=f"finds its layers when an input is given.*option {option}$"):
        onnxplain.plan(model, method)
    plan = onnxplain.plan(model, method, **{option: "d"})
    assert [step.layer.op_type for step in plan] == ["GlobalAveragePool", "Flatten", "Gemm"]
    assert {step.rule.name for step in plan} == {"gradient"}


@pytest.mark.parametrize("method", sorted(FORWARD))
def test_what_carries_no_plan_out(model: onnxplain.Model, method: str) -> None:
    with pytest.raises(UsageError, match=f"method '{method}' has no plan: it "):
        onnxplain.plan(model, method)
    for work in ({"engine": "compiled"}, {"dtype": "float64"}):
        with pytest.raises(UsageError, match="leave engine and dtype at their defaults"):
            onnxplain.explain(model, PICTURE, method, **work, **settings(method))
    assert onnxplain.explain(model, PICTURE, method, engine="host", **settings(method)).engine == "host"


@pytest.mark.parametrize("method", METHODS)
def test_a_rule_book_is_used_or_refused(model: onnxplain.Model, method: str) -> None:
    if method in ("lrp", "salient-relevance"):
        assert onnxplain.plan(model, method, rules="lrp-0").book == "lrp-0"
        return
    for call in (lambda: onnxplain.plan(model, method, "lrp-0"), lambda: explained(model, method, rules="lrp-0")):
        with pytest.raises(
            UsageError, match=rf"'{re.escape(method)}' takes no rule book, lrp and salient-relevance do"
        ):
            call()


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"vebi"}))
def test_tensors_inside_are_given_or_refused(model: onnxplain.Model, method: str) -> None:
    if method in INNER - {"fullgrad"}:
        assert explained(model, method, at=["d"]).at["d"].shape == (1, 4, 4, 4)
    elif method not in INNER:
        with pytest.raises(UsageError, match=r"explains at the input only; at .* is for lrp, gradient,"):
            explained(model, method, at=["d"])


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"vebi", "lrp", "salient-relevance"}))
def test_no_ledger_where_nothing_is_conserved(model: onnxplain.Model, method: str) -> None:
    with pytest.raises(UsageError, match="keeps no ledger"):
        explained(model, method, ledger=True)


def explained(model: onnxplain.Model, method: str, **call: Any) -> onnxplain.Explanation:
    return onnxplain.explain(model, PICTURE, method, target=1, **call, **settings(method))
