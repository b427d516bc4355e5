"""Salient relevance: the rules of its authors layer by layer, the identity behind them, what the map is made of."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain import FailureError, UsageError, context_aware_saliency

METHOD = "salient-relevance"
SMALL = {"long_side": 24, "k": 16}
"""Constants that keep the saliency quick where it is not what is tested."""
ENGINES = [("host", "float32", 1e-5), ("compiled", "float32", 1e-5), ("host", "float64", 1e-9)]
HEIGHT, WIDTH, CLASSES = 12, 10, 4


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    shapes = {"w1": (6, 3, 3, 3), "w2": (8, 6, 3, 3), "w3": (8 * 3 * 2, 10), "w4": (10, CLASSES)}
    inputs = {"w1": 27, "w2": 54, "w3": 48, "w4": 2.5}
    values = {name: rng.normal(size=shape) / np.sqrt(inputs[name]) for name, shape in shapes.items()}
    biases = {"b1": 6, "b2": 8, "b3": 10, "b4": CLASSES}
    return values | {name: 0.2 * rng.normal(size=size) for name, size in biases.items()}


def layers(first: str = "x") -> list[Any]:
    return [
        nets.node("Conv", [first, "w1", "b1"], "conv1", pads=[1, 1, 1, 1]),
        nets.node("Relu", ["conv1"], "relu1"),
        nets.node("MaxPool", ["relu1"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        nets.node("Conv", ["pool1", "w2", "b2"], "conv2", pads=[1, 1, 1, 1]),
        nets.node("Relu", ["conv2"], "relu2"),
        nets.node("MaxPool", ["relu2"], "pool2", kernel_shape=[2, 2], strides=[2, 2]),
        nets.node("Flatten", ["pool2"], "h"),
        nets.node("Gemm", ["h", "w3", "b3"], "dense"),
        nets.node("Relu", ["dense"], "relu3"),
        nets.node("Gemm", ["relu3", "w4", "b4"], "logits"),
    ]


@pytest.fixture(scope="module")
def model() -> onnxplain.Model:
    """AlexNet in small: two convolutions with ReLU and max pool, two dense layers; not square."""
    return onnxplain.load(nets.model(layers(), {"x": ["N", 3, HEIGHT, WIDTH]}, ["logits"], weights()))


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return (3 * np.random.default_rng(1).normal(size=(3, 3, HEIGHT, WIDTH))).astype(np.float32)


def windows(x: np.ndarray, size: int, stride: int) -> Any:
    """Of every window of a picture C x H x W: its place in the output and its slices."""
    for row in range((x.shape[1] - size) // stride + 1):
        for column in range((x.shape[2] - size) // stride + 1):
            here = np.s_[:, row * stride : row * stride + size, column * stride : column * stride + size]
            yield row, column, here


def authors(picture: np.ndarray) -> np.ndarray:
    """The relevance of one picture C x H x W by the authors' loop over the layers, backward in float64."""
    w = {name: value.astype(np.float32).astype(np.float64) for name, value in weights().items()}
    held: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def conv(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        y = np.empty((len(kernel), *x.shape[1:]))
        for row, column, here in windows(padded, 3, 1):
            y[:, row, column] = (kernel * padded[here]).sum(axis=(1, 2, 3)) + bias
        return y

    def pool(x: np.ndarray) -> np.ndarray:
        y = np.empty((len(x), x.shape[1] // 2, x.shape[2] // 2))
        for row, column, here in windows(x, 2, 2):
            y[:, row, column] = x[here].max(axis=(1, 2))
        return y

    value = picture.astype(np.float64)
    for n in (1, 2):
        held[f"conv{n}"] = value, conv(value, w[f"w{n}"], w[f"b{n}"])
        rectified = np.maximum(held[f"conv{n}"][1], 0)
        held[f"pool{n}"] = rectified, pool(rectified)
        value = held[f"pool{n}"][1]
    h = value.reshape(-1)
    dense = np.maximum(h @ w["w3"] + w["b3"], 0)
    logits = dense @ w["w4"] + w["b4"]

    relevance = logits * (np.arange(CLASSES) == logits.argmax())
    for activation, kernel in ((dense, w["w4"]), (h, w["w3"])):
        positive = np.maximum(kernel, 0)
        relevance = activation * (positive @ (relevance / (activation @ positive + 1e-9)))
    relevance = relevance.reshape(value.shape)
    for n in (2, 1):
        inside, y = held[f"pool{n}"]
        share, back = relevance / (y + 1e-9), np.zeros_like(inside)
        for row, column, here in windows(inside, 2, 2):
            flat = inside[here].reshape(len(inside), 4)
            winner = np.arange(4) == flat.argmax(axis=1)[:, None]
            back[here] += (winner * share[:, row, column, None]).reshape(-1, 2, 2)
        relevance = inside * back
        inside, y = held[f"conv{n}"]
        share, back = relevance / (y + 1e-9), np.zeros((len(inside), inside.shape[1] + 2, inside.shape[2] + 2))
        for row, column, here in windows(back, 3, 1):
            back[here] += np.tensordot(share[:, row, column], w[f"w{n}"], 1)
        relevance = inside * back[:, 1:-1, 1:-1]
    return relevance


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(("engine", "dtype", "tolerance"), ENGINES)
def test_relevance_is_what_the_authors_compute(
    model: onnxplain.Model, x: np.ndarray, engine: str, dtype: str, tolerance: float
) -> None:
    e = onnxplain.explain(model, x, METHOD, engine=engine, dtype=dtype, **SMALL)
    expected = np.stack([authors(picture) for picture in x])
    assert len({chosen.index for chosen in e.target}) > 1, "the pictures are of several classes"
    close(e.relevance["x"], expected, tolerance)
    assert e.map("x").shape == (3, HEIGHT, WIDTH)
    assert e.map("x").dtype == np.float32


@pytest.mark.parametrize(("engine", "dtype"), [("host", "float32"), ("compiled", "float32"), ("host", "float64")])
def test_convolutional_part_is_one_input_times_gradient_pass(
    model: onnxplain.Model, x: np.ndarray, engine: str, dtype: str
) -> None:
    """R_x = x * VJP from h (R_h / (h + 1e-9)), with h what the dense layers read and R_h what they hand down.

    It holds up to 1e-9 over the activations.
    """
    how = {"engine": engine, "dtype": dtype}
    e = onnxplain.explain(model, x, METHOD, at=["h"], **how, **SMALL)
    of_h = e.at["h"]
    collapsed = onnxplain.explain(
        model, x, "input-x-gradient", output="h", target=lambda h: (of_h / (h + 1e-9)).astype(h.dtype), **how
    )
    assert np.count_nonzero(of_h) > 10
    close(e.relevance["x"], collapsed.relevance["x"], 1e-5)


@pytest.mark.parametrize(("engine", "dtype", "tolerance"), ENGINES)
def test_dense_part_conserves(model: onnxplain.Model, x: np.ndarray, engine: str, dtype: str, tolerance: float) -> None:
    e = onnxplain.explain(model, x, METHOD, at=["h"], ledger=True, engine=engine, dtype=dtype, **SMALL)
    close(e.at["h"].sum(axis=1), np.array([chosen.value for chosen in e.target]), 10 * tolerance)
    assert "bias" not in e.ledger.layers["logits"]
    assert np.abs(e.ledger.layers["conv2"]["bias"]).max() > 0.001, "the convolutions do not"
    for name in e.ledger.layers:
        np.testing.assert_allclose(e.ledger.unexplained(name), 0, atol=1e-5)


def test_relevance_stands_at_the_winners_of_a_pool(model: onnxplain.Model, x: np.ndarray) -> None:
    of_relu = onnxplain.explain(model, x, METHOD, at=["relu1"], **SMALL).at["relu1"]
    values = model.run(x, ["relu1"])["relu1"]
    blocks = values.reshape(3, 6, HEIGHT // 2, 2, WIDTH // 2, 2)
    winners = (blocks == blocks.max(axis=(3, 5), keepdims=True)).reshape(values.shape)
    assert np.count_nonzero(of_relu) > 20
    assert not of_relu[~winners].any()


def scaled(picture: np.ndarray) -> np.ndarray:
    return (picture - picture.min()) / (picture.max() - picture.min())


SEEN = {
    "rgb_abs": lambda r: scaled(np.abs(r).transpose(1, 2, 0)),
    "gray_abs_sum": lambda r: scaled(np.abs(r).sum(axis=0)),
    "signed": lambda r: scaled(r.sum(axis=0)),
}


@pytest.mark.parametrize("form", SEEN)
def test_map_is_the_saliency_of_the_relevance(model: onnxplain.Model, x: np.ndarray, form: str) -> None:
    e = onnxplain.explain(model, x, METHOD, cas_input=form, long_side=None)
    for relevance, found in zip(e.relevance["x"].astype(np.float64), e.map("x"), strict=True):
        expected = context_aware_saliency(SEEN[form](relevance).astype(np.float32), long_side=None)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert (found.min(), found.max()) == (0, 1)
    assert e.extras["saliency/x"].shape == (3, 4, HEIGHT, WIDTH)
    assert e.extras["foci/x"].shape == (3, HEIGHT, WIDTH)
    assert e.extras["foci/x"].any(axis=(1, 2)).all()


def test_eight_bits_and_the_order_of_colours(model: onnxplain.Model, x: np.ndarray) -> None:
    relevance = onnxplain.explain(model, x[:1], "lrp", rules=METHOD).relevance["x"][0].astype(np.float64)
    cut = (255 * SEEN["rgb_abs"](relevance)).astype(np.uint8)
    e = onnxplain.explain(model, x[:1], METHOD, eight_bit=True, long_side=None)
    np.testing.assert_allclose(e.map("x")[0], context_aware_saliency(cut, long_side=None), atol=1e-6)
    turned = onnxplain.explain(model, x[:1], METHOD, eight_bit=True, long_side=None, colour="BGR")
    np.testing.assert_allclose(turned.map("x")[0], context_aware_saliency(cut[..., ::-1], long_side=None), atol=1e-6)
    assert np.abs(turned.map("x") - e.map("x")).max() > 0.01


def test_options_of_the_saliency_and_of_the_rules_reach_both(model: onnxplain.Model, x: np.ndarray) -> None:
    settings = {"low": -4.0, "high": 4.0}
    options = {"variant": "port", "foci_form": "per-scale", "scales": [1.0, 0.5], **SMALL}
    e = onnxplain.explain(model, x[:1], METHOD, rules="epsilon-gamma-box", **settings, **options)
    relevance = onnxplain.explain(model, x[:1], "lrp", rules="epsilon-gamma-box", **settings).relevance["x"]
    np.testing.assert_array_equal(e.relevance["x"], relevance)
    picture = SEEN["rgb_abs"](relevance[0].astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(e.map("x")[0], context_aware_saliency(picture, **options), atol=1e-6)
    assert e.extras["saliency/x"].shape[1] == 2


def test_each_method_has_its_own_rule_book(model: onnxplain.Model, x: np.ndarray) -> None:
    assert onnxplain.plan(model).book == onnxplain.explain(model, x).plan.book == "epsilon-plus-flat"
    e = onnxplain.explain(model, x[:1], METHOD, **SMALL)
    assert onnxplain.plan(model, METHOD, k=3).book == e.plan.book == METHOD
    rules = {step.layer.name: step.rule.parameters() | {"rule": step.rule.name} for step in e.plan}
    assert rules["dense"] == rules["logits"] == {"rule": "z-plus", "stabilizer": 1e-9, "bias": False}
    assert rules["conv1"] == {"rule": "epsilon", "epsilon": 1e-9, "bias": True, "unsigned": True}
    assert rules["pool1"] == {"rule": "norm", "stabilizer": 1e-9, "unsigned": True}
    explicit = onnxplain.explain(model, x[:1], METHOD, rules="epsilon-plus-flat", **SMALL)
    plain = onnxplain.explain(model, x[:1], rules="epsilon-plus-flat")
    np.testing.assert_array_equal(explicit.relevance["x"], plain.relevance["x"])


def test_channels_last(model: onnxplain.Model, x: np.ndarray) -> None:
    first = nets.node("Transpose", ["nhwc"], "x", perm=[0, 3, 1, 2])
    turned = onnxplain.load(nets.model([first, *layers()], {"nhwc": ["N", HEIGHT, WIDTH, 3]}, ["logits"], weights()))
    e = onnxplain.explain(turned, x.transpose(0, 2, 3, 1), METHOD, **SMALL)
    expected = onnxplain.explain(model, x, METHOD, **SMALL)
    close(e.relevance["nhwc"].transpose(0, 3, 1, 2), expected.relevance["x"], 1e-5)
    np.testing.assert_allclose(e.map("nhwc"), expected.map("x"), atol=1e-3)


def test_a_batch_is_its_samples_and_survives_saving(model: onnxplain.Model, x: np.ndarray, tmp_path: Path) -> None:
    e = onnxplain.explain(model, x, METHOD, **SMALL)
    for index in range(len(x)):
        alone = onnxplain.explain(model, x[index : index + 1], METHOD, **SMALL)
        np.testing.assert_allclose(e.map("x")[index], alone.map("x")[0], atol=1e-4)
    e.save(tmp_path / "e")
    loaded = onnxplain.Explanation.load(tmp_path / "e")
    np.testing.assert_array_equal(loaded.map("x"), e.map("x"))
    np.testing.assert_array_equal(loaded.extras["foci/x"], e.extras["foci/x"])
    assert loaded.timings["saliency"] > 0


def test_progress_is_told_to_the_end(model: onnxplain.Model, x: np.ndarray) -> None:
    told: list[float] = []
    onnxplain.explain(model, x, METHOD, progress=lambda done, total: told.append(done / total), **SMALL)
    assert told == sorted(told)
    assert len(told) > len(x)
    assert told[-1] == 1


def one_layer(weight: list[float], bias: float, spatial: tuple[Any, Any] = ("H", "W")) -> onnxplain.Model:
    """A 1 x 1 convolution to one channel and its mean."""
    kernel = np.array(weight, np.float64).reshape(1, -1, 1, 1)
    nodes = [nets.node("Conv", ["x", "w", "b"], "conv"), nets.node("GlobalAveragePool", ["conv"], "mean")]
    return onnxplain.load(
        nets.model(nodes, {"x": ["N", len(weight), *spatial]}, ["mean"], {"w": kernel, "b": np.array([bias])})
    )


@pytest.mark.parametrize("engine", ["host", "compiled"])
@pytest.mark.parametrize(("rule", "epsilon"), [("epsilon", "epsilon"), ("norm", "stabilizer")])
def test_ledger_of_an_unsigned_stabilizer(engine: str, rule: str, epsilon: str, tmp_path: Path) -> None:
    """By hand: x = (1, 2), w = (-1, -1), b = 1 gives z = -2; R = -2 over z + 1/2 is 4/3."""
    book = tmp_path / "unsigned.toml"
    book.write_text(f'[[rule]]\nkind = "linear"\nuse = "{rule}"\n{epsilon} = 0.5\nunsigned = true\n')
    model = one_layer([-1, -1], 1.0)
    e = onnxplain.explain(
        model,
        np.array([1, 2], np.float32).reshape(1, 2, 1, 1),
        rules=str(book),
        ledger=True,
        engine=engine,
        output="conv",
    )
    np.testing.assert_allclose(e.relevance["x"].ravel(), [-4 / 3, -8 / 3], rtol=1e-6)
    book_of_conv = e.ledger.layers["conv"]
    np.testing.assert_allclose(book_of_conv["bias"], 4 / 3, rtol=1e-6)
    np.testing.assert_allclose(book_of_conv["stabilizer"], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(e.ledger.unexplained("conv"), 0, atol=1e-6)


@pytest.mark.parametrize("engine", ["host", "compiled"])
def test_danger_of_the_unsigned_stabilizer_is_an_error(engine: str) -> None:
    model = one_layer([-1e-9], 0.0)
    with pytest.raises(FailureError, match="NaN or Inf"):
        onnxplain.explain(model, np.ones((1, 1, 8, 8), np.float32), METHOD, engine=engine, **SMALL)


@pytest.mark.parametrize("shape", [(4, 4), (1, 1), (1, 30), (30, 1), (3, 200)])
def test_pictures_smaller_than_a_patch(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).random((1, 3, *shape), np.float32)
    found = onnxplain.explain(one_layer([1, 2, -1], 0.5), picture, METHOD, **SMALL).map("x")
    assert found.shape == (1, *shape)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() in (0, 1)


@pytest.mark.parametrize("form", SEEN)
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_constant_relevance_has_no_salient_place(form: str, value: float) -> None:
    picture = np.full((1, 3, 20, 16), value, np.float32)
    e = onnxplain.explain(one_layer([1, 1, 1], 0.5), picture, METHOD, cas_input=form, **SMALL)
    assert not e.map("x").any()
    assert not e.extras["foci/x"].any()


def test_memory_of_a_huge_picture_is_that_of_the_picture() -> None:
    picture = np.random.default_rng(0).random((1, 3, 1000, 1500), np.float32)
    model = one_layer([1, 2, -1], 0.5)
    onnxplain.explain(model, picture[:, :, :20, :20], METHOD, **SMALL)
    tracemalloc.start()
    try:
        e = onnxplain.explain(model, picture, METHOD, **SMALL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert e.map("x").shape == (1, 1000, 1500)
    assert peak < 12 * picture.nbytes


def table_model(shape: list[Any], *before: Any) -> onnxplain.Model:
    size = int(np.prod([side for side in shape if isinstance(side, int)]))
    nodes = [*before, nets.node("Flatten", ["x"], "flat"), nets.node("Gemm", ["flat", "w"], "y")]
    return onnxplain.load(nets.model(nodes, {"x": shape}, ["y"], {"w": np.ones((size, 2))}))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 6), r"none of the inputs is one \('x' has shape 1x6\)"),
        ((1, 3, 4), r"none of the inputs is one \('x' has shape 1x3x4\)"),
        ((1, 3, 4, 4), r"does not tell which axis holds the channels \('x' has shape 1x3x4x4\)"),
    ],
)
def test_what_is_no_picture(shape: tuple[int, ...], said: str) -> None:
    model = table_model(["N", *shape[1:]])
    with pytest.raises(UsageError, match=said):
        onnxplain.explain(model, np.ones(shape, np.float32), METHOD)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 3}, "no option 'steps'; it has cas_input, colour, eight_bit, variant, .*lab, bias, epsilon"),
        ({"cas_input": "grey"}, "cas_input='grey' of salient-relevance must be one of rgb_abs, gray_abs_sum, signed"),
        ({"colour": "LAB"}, "must be one of RGB, BGR"),
        ({"eight_bit": "yes"}, "must be one of False, True"),
        ({"k": 0}, "k=0 of context-aware saliency must be"),
        ({"c": "far"}, "c='far' of context-aware saliency must be"),
        ({"scales": "big"}, "scales='big' of context-aware saliency must be"),
        ({"lab": True, "cas_input": "signed"}, "Lab needs RGB"),
        ({"epsilon": -1}, "epsilon must be a number that is not negative"),
        ({"rules": "magic"}, "no rule book 'magic'"),
    ],
)
def test_options_that_do_not_fit(model: onnxplain.Model, x: np.ndarray, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        onnxplain.explain(model, x, METHOD, **options)


def test_listing_names_every_option() -> None:
    [entry] = [entry for entry in onnxplain.available_methods() if entry.name == METHOD]
    for name in ("cas_input=rgb_abs", "variant=published", "long_side=250", "settings of the book's rules"):
        assert name in entry.options
