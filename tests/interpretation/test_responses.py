"""Responses of filters against sums of squares written out."""

from __future__ import annotations

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.engine.responses import Filters, Responses, find_filters
from onnxplain.errors import UsageError
from onnxplain.targets import parse_target

RNG = np.random.default_rng(0)


def opened(data: bytes, feed: np.ndarray, layers: str = "all") -> tuple[onnxplain.Model, Responses]:
    model = onnxplain.load(data, threads=1)
    target = parse_target(model.graph, None).tensor
    filters = find_filters(model, target, model.check_feed(feed), layers)
    return model, Responses(model, target, filters)


def convolutional(opset: int = 18, batch: str | int = "N") -> bytes:
    return nets.model(
        [
            nets.node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]),
            nets.node("Relu", ["c"], "r"),
            nets.node("MaxPool", ["r"], "p", kernel_shape=[2, 2], strides=[2, 2]),
            nets.node("Flatten", ["p"], "f"),
            nets.node("Gemm", ["f", "w1"], "h"),
            nets.node("Relu", ["h"], "hr"),
            nets.node("MatMul", ["hr", "w2"], "z"),
            nets.node("Add", ["z", "b"], "logits"),
            nets.node("Softmax", ["logits"], "y", axis=-1),
        ],
        {"x": [batch, 2, 4, 4]},
        constants={
            "w": RNG.standard_normal((3, 2, 3, 3)),
            "w1": RNG.standard_normal((12, 5)),
            "w2": RNG.standard_normal((5, 4)),
            "b": np.zeros(4),
        },
        opset=opset,
    )


def expected(model: onnxplain.Model, feed: np.ndarray, filters: tuple[Filters, ...]) -> np.ndarray:
    values = model.run(feed, [each.tensor for each in filters])
    columns = []
    for each in filters:
        value = values[each.tensor].astype(np.float64)
        for sample in value:
            assert sample.shape[each.axis - 1] == each.count
        energy = np.array(
            [[(np.take(sample, c, each.axis - 1) ** 2).sum() for c in range(each.count)] for sample in value]
        )
        columns.append(energy / energy.sum(axis=1, keepdims=True))
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("opset", [13, 18])
def test_shares_of_squared_norms_per_tensor_up_to_the_last_weights(opset: int) -> None:
    feed = RNG.standard_normal((5, 2, 4, 4)).astype(np.float32)
    model, responses = opened(convolutional(opset), feed)
    assert [(f.tensor, f.family, f.count) for f in responses.filters] == [
        ("c", "conv", 3), ("r", "relu", 3), ("p", "pool", 3), ("h", "fc", 5), ("hr", "relu", 5),
    ]  # fmt: skip
    scores, found = responses.run(model.check_feed(feed))
    np.testing.assert_allclose(found, expected(model, feed, responses.filters), rtol=1e-5)
    np.testing.assert_allclose(scores.argmax(1), model.run(feed)["y"].argmax(1))


def test_one_at_a_time_is_the_same() -> None:
    feed = RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)
    model, responses = opened(convolutional(batch=1), feed)
    np.testing.assert_allclose(responses.run({"x": feed})[1], expected(model, feed, responses.filters), rtol=1e-5)


def test_a_layers_scale_leaves_the_responses_and_a_silent_layer_gives_zeros() -> None:
    def scaled(factor: float) -> bytes:
        return nets.model(
            [
                nets.node("Conv", ["x", "w"], "c"),
                nets.node("Mul", ["c", "k"], "s"),
                nets.node("Relu", ["s"], "r"),
                nets.node("GlobalAveragePool", ["r"], "g"),
                nets.node("Flatten", ["g"], "f"),
                nets.node("Gemm", ["f", "w2"], "y"),
            ],
            {"x": ["N", 1, 6]},
            constants={"w": np.array([[[1.0, 2]], [[2, -1]]]), "k": np.array(factor), "w2": np.eye(2)},
        )

    feed = np.abs(RNG.standard_normal((2, 1, 6))).astype(np.float32)
    rows = {}
    for factor in (1.0, 8.0, -1.0):
        model, responses = opened(scaled(factor), feed)
        rows[factor] = responses.run(model.check_feed(feed))[1]
    np.testing.assert_allclose(rows[8.0], rows[1.0], rtol=1e-6)
    assert (rows[-1.0][:, 2] == 0).all()
    assert np.isfinite(rows[-1.0]).all()


def test_channels_last_exports_and_token_features() -> None:
    nhwc = nets.model(
        [
            nets.node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]),
            nets.node("Conv", ["t", "w"], "c"),
            nets.node("Transpose", ["c"], "back", perm=[0, 2, 3, 1]),
            nets.node("Relu", ["back"], "r"),
            nets.node("ReduceMean", ["r", "axes"], "m", keepdims=0),
            nets.node("MatMul", ["m", "w2"], "y"),
        ],
        {"x": ["N", 4, 4, 2]},
        constants={"w": RNG.standard_normal((3, 2, 3, 3)), "w2": np.eye(3), "axes": np.array([1, 2])},
    )
    feed = RNG.standard_normal((2, 4, 4, 2)).astype(np.float32)
    model, responses = opened(nhwc, feed)
    assert [(f.tensor, f.axis, f.count) for f in responses.filters] == [("c", 1, 3), ("r", 3, 3)]
    np.testing.assert_allclose(
        responses.run(model.check_feed(feed))[1], expected(model, feed, responses.filters), rtol=1e-5
    )
    tokens = nets.model(
        [
            nets.node("MatMul", ["x", "w"], "q"),
            nets.node("Transpose", ["q"], "k", perm=[0, 2, 1]),
            nets.node("MatMul", ["q", "k"], "attention"),
            nets.node("MatMul", ["attention", "q"], "v"),
            nets.node("LayerNormalization", ["v", "s"], "n"),
            nets.node("Gelu", ["n"], "g"),
            nets.node("ReduceMean", ["g", "axes"], "m", keepdims=0),
            nets.node("MatMul", ["m", "w2"], "y"),
        ],
        {"x": ["N", 5, 4]},
        constants={"w": RNG.standard_normal((4, 6)), "s": np.ones(6), "w2": np.eye(6), "axes": np.array([1])},
        opset=20,
    )
    feed = RNG.standard_normal((3, 5, 4)).astype(np.float32)
    model, responses = opened(tokens, feed)
    assert [(f.tensor, f.axis, f.count) for f in responses.filters] == [("q", 2, 6), ("n", 2, 6), ("g", 2, 6)]
    np.testing.assert_allclose(
        responses.run(model.check_feed(feed))[1], expected(model, feed, responses.filters), rtol=1e-4
    )


def test_layers_are_chosen_by_family_or_pattern() -> None:
    feed = RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)
    assert [f.tensor for f in opened(convolutional(), feed, "relu")[1].filters] == ["r", "hr"]
    assert [f.tensor for f in opened(convolutional(), feed, "h*")[1].filters] == ["h", "hr"]
    with pytest.raises(UsageError, match=r"no layer 'stem' with channels; it has conv, relu, pool, fc: c, r, p, h, hr"):
        opened(convolutional(), feed, "stem")


def test_activations_are_filters_and_parts_of_formulas_are_not() -> None:
    """Between activation and scores stand 1 / sqrt(|p|), written out, and a single channel."""
    nodes = [
        nets.node("Conv", ["x", "w"], "c"),
        nets.node("PRelu", ["c", "slope"], "p"),
        nets.node("Abs", ["p"], "a"),
        nets.node("Sqrt", ["a"], "s"),
        nets.node("Reciprocal", ["s"], "i"),
        nets.node("Conv", ["i", "one"], "single"),
        nets.node("Flatten", ["single"], "f"),
        nets.node("Gemm", ["f", "v"], "y"),
    ]
    constants = {
        "w": RNG.standard_normal((3, 2, 3, 3)), "slope": np.full((3, 1, 1), 0.1), "one": np.ones((1, 3, 1, 1)),
        "v": RNG.standard_normal((4, 2)),
    }  # fmt: skip
    data = nets.model(nodes, {"x": ["N", 2, 4, 4]}, constants=constants)
    _, responses = opened(data, np.ones((1, 2, 4, 4), np.float32))
    assert [(f.tensor, f.family) for f in responses.filters] == [("c", "conv"), ("p", "relu")]
