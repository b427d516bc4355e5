"""Five errors of an earlier ONNX explainer, each on a net that is worked by hand or by onnxruntime."""

from __future__ import annotations

import itertools

import nets
import numpy as np
import onnx
import onnxruntime
import pytest

import onnxplain

ENGINES = pytest.mark.parametrize("engine", ["host", "compiled"])
SKIP_W = np.array([[1.0, -2.0], [3.0, 0.5]], np.float32)


def skip_net() -> bytes:
    """x + relu(x W), then halved."""
    nodes = [
        nets.node("MatMul", ["x", "w"], "h"),
        nets.node("Relu", ["h"], "a"),
        nets.node("Add", ["x", "a"], "s"),
        nets.node("Mul", ["s", "half"], "y"),
    ]
    return nets.model(nodes, {"x": ["N", 2]}, constants={"w": SKIP_W, "half": np.array([0.5])})


@ENGINES
@pytest.mark.parametrize("target", [0, 1])
def test_residual_toy_net(target: int, engine: str) -> None:
    """Conserved, by hand: nothing inverted, both operands of Add served, the fork at x summed, one output seeded."""
    x = np.array([[2.0, 1.0]], np.float32)
    h = x @ SKIP_W
    opened = (h[0] > 0).astype(np.float32)
    jacobian = 0.5 * (np.eye(2) + SKIP_W * opened)
    gradient = onnxplain.explain(skip_net(), x, "gradient", target, engine=engine)
    np.testing.assert_allclose(gradient.relevance["x"], [jacobian[:, target]], rtol=1e-6)
    e = onnxplain.explain(skip_net(), x, "lrp", target, rules="lrp-0", engine=engine, at=["a", "h"])
    np.testing.assert_allclose(e.relevance["x"], x * jacobian[:, target], rtol=1e-5)
    np.testing.assert_allclose(e.conserved, 1, rtol=1e-5)
    other = 1 - target
    assert e.at["a"][0, other] == 0
    np.testing.assert_allclose(e.at["a"][0, target], 0.5 * max(h[0, target], 0), rtol=1e-5)


@ENGINES
def test_a_multiplier_is_not_inverted(engine: str) -> None:
    data = nets.model([nets.node("Mul", ["x", "four"], "y")], {"x": ["N", 2]}, constants={"four": np.array([4.0])})
    e = onnxplain.explain(data, np.array([[1, 3]], np.float32), "input-x-gradient", 1, engine=engine)
    np.testing.assert_allclose(e.relevance["x"], [[0, 12]])


@ENGINES
def test_an_unknown_op_is_refused_by_name(engine: str) -> None:
    nodes = [nets.node("Relu", ["x"], "a"), nets.node("Hardmax", ["a"], "y", "odd one")]
    data = nets.model(nodes, {"x": ["N", 2]})
    for method in ("gradient", "lrp"):
        with pytest.raises(onnxplain.UnsupportedError, match="no rule for Hardmax 'odd one' on the way"):
            onnxplain.explain(data, np.ones((1, 2), np.float32), method, engine=engine)


def test_a_custom_op_is_named_with_its_domain_and_what_helps() -> None:
    data = nets.model([nets.node("Relu", ["x"], "a"), nets.node("Hardmax", ["a"], "y", "odd one")], {"x": ["N", 2]})
    proto = onnx.ModelProto.FromString(data)
    proto.graph.node[1].domain, proto.graph.node[1].op_type = "my.own", "Magic"
    proto.opset_import.append(onnx.helper.make_opsetid("my.own", 1))
    with pytest.raises(onnxplain.UnsupportedError, match=r"no rule for my\.own\.Magic 'odd one' .* from standard ones"):
        onnxplain.explain(proto, np.ones((1, 2), np.float32))


@ENGINES
def test_an_unknown_op_off_the_path_does_not_matter(engine: str) -> None:
    nodes = [nets.node("Hardmax", ["x"], "side"), nets.node("Relu", ["x"], "y")]
    data = nets.model(nodes, {"x": ["N", 2]}, ["y", "side"])
    e = onnxplain.explain(data, np.ones((1, 2), np.float32), "gradient", output="y", engine=engine)
    np.testing.assert_array_equal(e.relevance["x"], [[1, 0]])


@ENGINES
def test_every_way_through_a_fork_counts(engine: str) -> None:
    """x goes three ways and twice into one node: 2 + 3 + (1 + 1)."""
    nodes = [
        nets.node("Mul", ["x", "two"], "a"),
        nets.node("Mul", ["x", "three"], "b"),
        nets.node("Add", ["x", "x"], "c"),
        nets.node("Sum", ["a", "b", "c"], "y"),
    ]
    data = nets.model(nodes, {"x": ["N", 2]}, constants={"two": np.array([2.0]), "three": np.array([3.0])})
    x = np.array([[1, -2]], np.float32)
    e = onnxplain.explain(data, x, "gradient", np.ones(2), engine=engine)
    np.testing.assert_allclose(e.relevance["x"], [[7, 7]])
    e = onnxplain.explain(data, x, "lrp", np.ones(2), rules="lrp-0", engine=engine)
    np.testing.assert_allclose(e.relevance["x"], 7 * x, rtol=1e-5)


GRID = [
    dict(zip(("stride", "pad", "dilation", "kernel", "group"), values, strict=True))
    for values in itertools.product((1, 2, 3), (0, 1), (1, 2), (1, 3), (1, 2))
]


@ENGINES
@pytest.mark.parametrize("size", [7, 8])
def test_the_gradient_of_a_convolution_is_the_transposed_one(size: int, engine: str) -> None:
    """output_padding = size - ((out - 1) stride - 2 pad + dilation (kernel - 1) + 1) on each axis."""
    rng = np.random.default_rng(0)
    for how in GRID:
        stride, pad, dilation, kernel, group = how.values()
        w = rng.normal(size=(4, 4 // group, kernel, kernel)).astype(np.float32)
        shared = {"strides": [stride] * 2, "pads": [pad] * 4, "dilations": [dilation] * 2, "group": group}
        conv = nets.model(
            [nets.node("Conv", ["x", "w"], "y", **shared)], {"x": ["N", 4, size, size]}, constants={"w": w}
        )
        model = onnxplain.load(conv, threads=1)
        x = rng.normal(size=(2, 4, size, size)).astype(np.float32)
        g = rng.normal(size=model.run(x)["y"].shape).astype(np.float32)
        reach = (g.shape[2] - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1
        turned = nets.model(
            [nets.node("ConvTranspose", ["g", "w"], "dx", output_padding=[size - reach] * 2, **shared)],
            {"g": ["N", *g.shape[1:]]}, ["dx"], {"w": w},
        )  # fmt: skip
        session = onnxruntime.InferenceSession(turned, providers=["CPUExecutionProvider"])
        (wanted,) = session.run(None, {"g": g})
        found = onnxplain.explain(model, x, "gradient", g, engine=engine).relevance["x"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=str(how))
