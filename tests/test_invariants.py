"""What must hold whatever the library: identities between rules, methods, batches and graphs, on drawn small nets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nets
import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import onnxplain

ENGINES = pytest.mark.parametrize("engine", ["host", "compiled"])
drawn = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Net:
    """A small picture classifier with its weights, as bytes."""

    data: bytes
    x: np.ndarray

    def load(self) -> onnxplain.Model:
        return onnxplain.load(self.data, threads=1)


def build(kind: str, seed: int, bias: bool, batch_norm: bool = False, channels: int = 2) -> Net:
    """Convolution, a middle that is plain, residual, concatenating or pooling, and a dense head on a global mean."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], {}

    def linear(op: str, source: str, name: str, shape: tuple[int, ...], **attributes: Any) -> str:
        weights[f"{name}.w"] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        operands = [source, f"{name}.w"]
        if bias:
            weights[f"{name}.b"] = 0.3 * rng.normal(size=shape[0])
            operands.append(f"{name}.b")
        nodes.append(nets.node(op, operands, name, **attributes))
        return name

    def then(op: str, *sources: str, **attributes: Any) -> str:
        nodes.append(nets.node(op, sources, f"{op.lower()}{len(nodes)}", **attributes))
        return nodes[-1].output[0]

    pads = {"pads": [1, 1, 1, 1]}
    h = linear("Conv", "x", "conv1", (4, channels, 3, 3), **pads)
    if batch_norm:
        values = (rng.uniform(0.5, 2, 4), rng.normal(size=4), rng.normal(size=4), rng.uniform(0.5, 2, 4))
        statistics = [f"bn.{i}" for i in range(4)]
        weights |= dict(zip(statistics, values, strict=True))
        h = then("BatchNormalization", h, *statistics)
    h = then("Relu", h)
    if kind == "pool":
        h = then("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2])
    branch = linear("Conv", h, "conv2", (4, 4, 3, 3), **pads)
    if kind == "residual":
        branch = then("Add", h, branch)
    branch = then("Relu", branch)
    width = 4
    if kind == "concat":
        branch, width = then("Concat", h, branch, axis=1), 8
    flat = then("Flatten", then("GlobalAveragePool", branch))
    linear("Gemm", flat, "y", (3, width), transB=1)
    x = rng.normal(size=(3, channels, 5, 4)).astype(np.float32)
    return Net(nets.model(nodes, {"x": ["N", channels, 5, 4]}, constants=weights), x)


KINDS = ("plain", "residual", "concat", "pool")
seeds = st.integers(0, 10**6)
any_net = st.builds(build, st.sampled_from(KINDS), seeds, st.booleans(), st.booleans())
biased = st.builds(build, st.sampled_from(KINDS), seeds, st.just(True))
unbiased = st.builds(build, st.sampled_from(KINDS), seeds, st.just(False))


def layers(use: str, **parameters: Any) -> str:
    """A book with one rule on every weighted layer."""
    lines = ["[[rule]]", 'kind = "linear"', f'use = "{use}"']
    lines += [
        f"{key} = {str(value).lower() if isinstance(value, bool) else value}" for key, value in parameters.items()
    ]
    return "\n".join(lines)


@pytest.fixture
def relevance(tmp_path: Any) -> Callable[..., np.ndarray]:
    """Relevance at the input by a book that is written here."""
    counter = itertools.count()

    def explain(net: Net, book: str, target: Any = None, **how: Any) -> np.ndarray:
        path = tmp_path / f"{next(counter)}.toml"
        path.write_text(book)
        return onnxplain.explain(net.load(), net.x, "lrp", target, rules=str(path), **how).relevance["x"]

    return explain


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """Relative to the largest entry."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * max(np.abs(wanted).max(), 1e-3))


@ENGINES
@drawn
@given(net=unbiased)
def test_lrp_0_is_input_x_gradient_without_biases(net: Net, engine: str) -> None:
    model = net.load()
    e = onnxplain.explain(model, net.x, rules="lrp-0", engine=engine)
    product = onnxplain.explain(model, net.x, "input-x-gradient", engine=engine)
    assert_close(e.relevance["x"], product.relevance["x"], 1e-3)
    np.testing.assert_allclose(e.conserved, 1, rtol=1e-3)
    exact = [
        onnxplain.explain(model, net.x, method, rules=book, dtype="float64").relevance["x"]
        for method, book in (("lrp", "lrp-0"), ("input-x-gradient", None))
    ]
    assert_close(*exact, 1e-8)
    np.testing.assert_allclose(exact[0].sum(axis=(1, 2, 3)), [c.value for c in e.target], rtol=1e-5, atol=1e-6)


@ENGINES
@drawn
@given(net=biased)
def test_z_plus_is_alpha_1_beta_0(net: Net, engine: str, relevance: Callable[..., np.ndarray]) -> None:
    z_plus = relevance(net, layers("z-plus"), engine=engine)
    assert_close(relevance(net, layers("alpha-beta", alpha=1.0, beta=0.0), engine=engine), z_plus, 1e-5)


@ENGINES
@drawn
@given(net=biased)
def test_gamma_0_is_epsilon(net: Net, engine: str, relevance: Callable[..., np.ndarray]) -> None:
    epsilon = relevance(net, layers("epsilon"), engine=engine)
    assert_close(relevance(net, layers("gamma", gamma=0.0), engine=engine), epsilon, 1e-3)
    exact = [relevance(net, book, dtype="float64") for book in (layers("epsilon"), layers("gamma", gamma=0.0))]
    assert_close(*exact, 1e-9)


@drawn
@given(net=biased)
def test_great_gamma_is_z_plus_where_the_output_is_positive(net: Net, relevance: Callable[..., np.ndarray]) -> None:
    def seed(z: np.ndarray) -> np.ndarray:
        return np.where(z > 0.01, z, 0)

    found = relevance(net, layers("gamma", gamma=1e7), seed, output="conv1", dtype="float64")
    assert_close(found, relevance(net, layers("z-plus"), seed, output="conv1", dtype="float64"), 1e-4)


@ENGINES
@pytest.mark.parametrize("rule", ["flat", "w-square"])
@drawn
@given(net=biased, seed=seeds)
def test_flat_and_w_square_do_not_look_at_the_input(
    net: Net, seed: int, rule: str, engine: str, relevance: Callable[..., np.ndarray]
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(3, 4, 5, 4)).astype(np.float32)
    other = Net(net.data, rng.normal(size=net.x.shape).astype(np.float32))
    maps = [relevance(each, layers(rule), lambda z: weights, output="conv1", engine=engine) for each in (net, other)]
    np.testing.assert_allclose(*maps, rtol=1e-5, atol=1e-6)


@ENGINES
@drawn
@given(
    net=any_net, power=st.integers(-6, 6), book=st.sampled_from(["epsilon-plus-flat", "epsilon-alpha2-beta1", "lrp-0"])
)
def test_relevance_is_homogeneous_in_the_seed(net: Net, power: int, book: str, engine: str) -> None:
    model, weights = net.load(), np.ones(3)
    whole, scaled = (
        onnxplain.explain(model, net.x, target=weights * scale, rules=book, engine=engine).relevance["x"]
        for scale in (1.0, 2.0**power)
    )
    np.testing.assert_allclose(scaled, whole * 2.0**power, rtol=1e-6, atol=1e-30)


@ENGINES
@pytest.mark.parametrize("book", ["epsilon-plus", "epsilon-gamma-box", "epsilon-alpha2-beta1-flat"])
@drawn
@given(seed=seeds, order=st.permutations(range(3)))
def test_channels_in_another_order_give_the_map_in_that_order(
    seed: int, order: list[int], book: str, engine: str
) -> None:
    plain, turned = build("plain", seed, True, channels=3), build("plain", seed, True, channels=3)
    bounds = {"low": -4.0, "high": 4.0} if "box" in book else {}
    e = onnxplain.explain(plain.load(), plain.x, rules=book, engine=engine, **bounds)
    data = with_permuted_channels(turned.data, order)
    permuted = onnxplain.explain(data, plain.x[:, order], rules=book, engine=engine, **bounds)
    assert_close(permuted.relevance["x"], e.relevance["x"][:, order], 1e-5)


def with_permuted_channels(data: bytes, order: list[int]) -> bytes:
    """The first convolution reading its input channels, and writing its outputs, in another order."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.load_from_string(data)
    inner = [1, 3, 0, 2]
    for tensor in proto.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if tensor.name == "conv1.w":
            value = value[inner][:, order]
        elif tensor.name == "conv1.b":
            value = value[inner]
        elif tensor.name == "conv2.w":
            value = value[:, inner]
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return proto.SerializeToString()


@ENGINES
@drawn
@given(net=biased)
def test_z_box_of_no_width_is_epsilon_without_bias(net: Net, engine: str, relevance: Callable[..., np.ndarray]) -> None:
    """Both divide by the sum without bias, which may be nearly 0: the seed makes little of such sums."""
    bias = net.load().graph.tensors["conv1.b"].value
    assert bias is not None

    def seed(z: np.ndarray) -> np.ndarray:
        return np.asarray((z - bias[:, None, None]) ** 2, z.dtype)

    box = relevance(net, layers("z-box", low=0.0, high=0.0), seed, output="conv1", engine=engine)
    assert_close(box, relevance(net, layers("epsilon", bias=False), seed, output="conv1", engine=engine), 1e-4)
    exact = [
        relevance(net, book, seed, output="conv1", dtype="float64")
        for book in (layers("z-box", low=0.0, high=0.0), layers("epsilon", bias=False))
    ]
    assert_close(*exact, 1e-8)


@ENGINES
@drawn
@given(seed=seeds)
def test_guided_backprop_is_deconvnet_where_the_relu_is_open(seed: int, engine: str) -> None:
    rng = np.random.default_rng(seed)
    data = nets.model([nets.node("Relu", ["x"], "y")], {"x": ["N", 6]})
    x, g = rng.normal(size=(2, 2, 6)).astype(np.float32)
    guided, deconv = (
        onnxplain.explain(data, x, method, lambda y: g, engine=engine).relevance["x"]
        for method in ("guided-backprop", "deconvnet")
    )
    np.testing.assert_array_equal(guided, deconv * (x > 0))
    np.testing.assert_array_equal(deconv, np.maximum(g, 0))


RECTIFIERS = {
    "Relu": (nets.node("Relu", ["x"], "y"), 18, [0, 0, 3, 0, 5], [1, 0, 3, 0, 5]),
    "ReLU6": (nets.node("Clip", ["x", "zero", "six"], "y"), 18, [0, 0, 3, 0, 0], [1, 0, 3, 0, 5]),
    "ReLU6 of opset 6": (nets.node("Clip", ["x"], "y", min=0.0, max=6.0), 9, [0, 0, 3, 0, 0], [1, 0, 3, 0, 5]),
    "no upper bound": (nets.node("Clip", ["x", "zero"], "y"), 18, [0, 0, 3, 0, 5], [1, 0, 3, 0, 5]),
    "hardtanh": (nets.node("Clip", ["x", "minus", "six"], "y"), 18, [1, -2, 3, -4, 0], [1, -2, 3, -4, 0]),
    "no lower bound": (nets.node("Clip", ["x", "", "six"], "y"), 18, [1, -2, 3, -4, 0], [1, -2, 3, -4, 0]),
    "HardSwish": (nets.node("HardSwish", ["x"], "y"), 18, [1 / 6, -1, 3.5, -16 / 3, 5], [1 / 6, -1, 3.5, -16 / 3, 5]),
}
"""A node, its opset, and by hand what guided backpropagation and the deconvnet make of G at X."""
X, G = [-1.0, 0.0, 2.0, 2.5, 7.0], [1.0, -2.0, 3.0, -4.0, 5.0]


@ENGINES
@pytest.mark.parametrize("name", RECTIFIERS)
def test_what_counts_as_a_rectifier(name: str, engine: str) -> None:
    node, opset, guided, deconv = RECTIFIERS[name]
    bounds = {"zero": np.array(0.0), "six": np.array(6.0), "minus": np.array(-1.5)}
    data = nets.model(
        [node], {"x": ["N", 5]}, constants={key: bounds[key] for key in node.input if key in bounds}, opset=opset
    )
    for method, expected in (("guided-backprop", guided), ("deconvnet", deconv)):
        e = onnxplain.explain(data, np.array([X], np.float32), method, np.array([G], np.float32), engine=engine)
        np.testing.assert_allclose(e.relevance["x"], [expected], rtol=1e-5)


@drawn
@given(net=st.builds(build, st.sampled_from(KINDS), seeds, st.booleans(), st.just(True)))
def test_canonized_and_instrumented_graphs_give_the_plain_outputs(net: Net) -> None:
    model = net.load()
    assert [change.applied for change in model.changes] == [True]
    session = onnxruntime.InferenceSession(net.data, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(["y"], {"x": net.x})
    np.testing.assert_array_equal(model.run(net.x)["y"], wanted)
    inner = [tensor.name for layer in model.graph.layers for tensor in layer.outputs]
    traced = model.run(net.x, taps=inner)
    np.testing.assert_allclose(traced["y"], wanted, rtol=1e-4, atol=1e-5)
    for engine in ("host", "compiled"):
        np.testing.assert_allclose(
            onnxplain.explain(model, net.x, engine=engine).prediction, wanted, rtol=1e-4, atol=1e-5
        )
    exact = onnxplain.explain(model, net.x, dtype="float64").prediction
    np.testing.assert_allclose(exact, wanted, rtol=1e-4, atol=1e-5)


@ENGINES
@pytest.mark.parametrize("method", ["lrp", "gradient", "guided-backprop", "smoothgrad", "integrated-gradients"])
@drawn
@given(net=any_net)
def test_a_batch_is_its_samples(net: Net, method: str, engine: str) -> None:
    model = net.load()
    e = onnxplain.explain(model, net.x, method, engine=engine)
    in_parts = onnxplain.explain(model, net.x, method, engine=engine, batch_size=2)
    for index, x in enumerate(net.x):
        single = onnxplain.explain(model, x[None], method, engine=engine)
        for several in (e, in_parts):
            assert_close(several.relevance["x"][index], single.relevance["x"][0], 1e-4)
            assert several.target[index].index == single.target[0].index
            np.testing.assert_allclose(several.prediction[index], single.prediction[0], rtol=1e-4, atol=1e-5)


@ENGINES
@pytest.mark.parametrize("book", ["epsilon-plus-flat", "epsilon-alpha2-beta1", "lrp-0", "epsilon"])
@drawn
@given(net=any_net)
def test_nothing_is_left_unexplained(net: Net, book: str, engine: str) -> None:
    model = net.load()
    inner = [out.name for layer in model.graph.layers for out in layer.outputs]
    e = onnxplain.explain(model, net.x, rules=book, engine=engine, ledger=True, at=inner)
    for step in e.plan:
        arriving = np.abs(e.at[step.layer.outputs[0].name]).reshape(3, -1).sum(axis=1)
        assert (np.abs(e.ledger.unexplained(step.layer.name)) <= 1e-5 * arriving + 1e-7).all(), step.layer.name


@ENGINES
@drawn
@given(net=any_net)
def test_smoothgrad_without_noise_is_the_gradient(net: Net, engine: str) -> None:
    model = net.load()
    gradient = onnxplain.explain(model, net.x, "gradient", engine=engine).relevance["x"]
    smooth = onnxplain.explain(model, net.x, "smoothgrad", engine=engine, noise=0.0, count=3).relevance["x"]
    assert_close(smooth, gradient, 1e-6)


def test_smoothgrad_depends_on_the_seed_only() -> None:
    net = build("plain", 3, True)
    model = net.load()

    def smooth(seed: int, **how: Any) -> np.ndarray:
        return onnxplain.explain(model, net.x, "smoothgrad", seed=seed, count=5, **how).relevance["x"]

    np.testing.assert_array_equal(smooth(1), smooth(1))
    np.testing.assert_allclose(smooth(1, batch_size=1), smooth(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(smooth(1, engine="compiled"), smooth(1, engine="host"), rtol=1e-4, atol=1e-6)
    assert np.abs(smooth(1) - smooth(2)).max() > 1e-3
    noisier = onnxplain.explain(model, net.x, "smoothgrad", count=5, noise=1.0).relevance["x"]
    assert np.abs(noisier - smooth(0)).max() > 1e-3


@ENGINES
@settings(drawn, max_examples=4)
@given(net=any_net)
def test_integrated_gradients_approach_completeness(net: Net, engine: str) -> None:
    model = net.load()
    e = onnxplain.explain(model, net.x, "integrated-gradients", engine=engine, steps=128)
    gap = e.extras["completeness_gap"]
    start = model.run(np.zeros_like(net.x))["y"]
    rise = [chosen.value - start[i, chosen.index] for i, chosen in enumerate(e.target)]
    np.testing.assert_allclose(e.relevance["x"].sum(axis=(1, 2, 3)) - rise, gap, atol=1e-5)
    np.testing.assert_allclose(gap, 0, atol=0.02)


def test_integrated_gradients_of_a_quadratic_are_exact_with_two_steps() -> None:
    """x * x has a linear gradient, which two points integrate exactly; from a baseline of 1 it adds up to x^2 - 1."""
    data = nets.model([nets.node("Mul", ["x", "x"], "y")], {"x": ["N", 3]})
    x = np.array([[2, -1, 3]], np.float32)
    e = onnxplain.explain(data, x, "integrated-gradients", np.ones(3), steps=2, baseline=1.0)
    np.testing.assert_allclose(e.relevance["x"], x**2 - 1, rtol=1e-5)
    np.testing.assert_allclose(e.extras["completeness_gap"], 0, atol=1e-5)


@ENGINES
@drawn
@given(seed=seeds, bias=st.booleans())
def test_a_linear_model_is_its_weights(
    seed: int, bias: bool, engine: str, relevance: Callable[..., np.ndarray]
) -> None:
    rng = np.random.default_rng(seed)
    constants = {"w": rng.normal(size=(4, 3))} | ({"b": rng.normal(size=3)} if bias else {})
    x = rng.normal(size=(2, 4)).astype(np.float32)
    data = nets.model([nets.node("Gemm", ["x", *constants], "y")], {"x": ["N", 4]}, constants=constants)
    net = Net(data, x)
    w = constants["w"][:, 1]
    expected = {
        "gradient": w,
        "smoothgrad": w,
        "guided-backprop": w,
        "deconvnet": w,
        "input-x-gradient": w * x,
        "integrated-gradients": w * x,
    }
    for method, wanted in expected.items():
        found = onnxplain.explain(net.load(), x, method, 1, engine=engine).relevance["x"]
        assert_close(found, np.broadcast_to(wanted, x.shape), 1e-5)
    assert_close(relevance(net, layers("epsilon", epsilon=0), 1, engine=engine), w * x, 1e-4)


@ENGINES
@drawn
@given(net=biased)
def test_other_inputs_and_other_targets_give_other_maps(net: Net, engine: str) -> None:
    model = net.load()
    for method in ("lrp", "gradient"):
        maps = onnxplain.explain(model, net.x, method, 0, engine=engine).relevance["x"]
        assume((np.abs(maps).max(axis=(1, 2, 3)) > 0).all())
        scale = np.abs(maps).max()
        assert np.abs(maps[0] - maps[1]).max() > 1e-3 * scale
        others = onnxplain.explain(model, net.x, method, 1, engine=engine).relevance["x"]
        assert np.abs(maps - others).max() > 1e-3 * scale
