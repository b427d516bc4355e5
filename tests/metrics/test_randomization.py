"""Random weights on nets small enough to redo by hand."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import pytest
from scipy.stats import rankdata

import onnxplain
from onnxplain.engine.redrawn import cascade
from onnxplain.errors import FailureError, UnsupportedError, UsageError
from onnxplain.metrics.baselines import edge_map
from onnxplain.metrics.randomization import linear_correlation, rank_correlation, weight_randomization
from onnxplain.metrics.statistics import Measured
from onnxplain.model import Feed, Model

ORACLES = Path(__file__).parents[1] / "oracles"
WEIGHTS = np.random.default_rng(1).standard_normal((2, 12)).astype(np.float32)
SAMPLES = np.random.default_rng(2).standard_normal((5, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def linear() -> Model:
    nodes = [nets.node("Gemm", ["x", "w", "b"], "y", transB=1)]
    data = nets.model(nodes, {"x": ["n", 12]}, constants={"w": WEIGHTS, "b": [1.0, 2.0]})
    return onnxplain.load(data, threads=1)


def gradient(model: Model, feed: Feed) -> np.ndarray:
    return onnxplain.explain(model, feed, "gradient", 1).relevance["x"][0]


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_a_linear_model_whose_weights_are_redrawn(linear: Model) -> None:
    """The gradient of class 1 is its row of weights, before and after, for every sample."""
    generator = np.random.default_rng([7, 0])
    drawn = np.abs(generator.normal(WEIGHTS.mean(), WEIGHTS.std(), WEIGHTS.shape)[1])
    own = np.abs(WEIGHTS[1])
    feeds = ({"x": sample[np.newaxis]} for sample in SAMPLES)
    [stage] = weight_randomization(linear, feeds, gradient, seed=7)
    assert stage.layers == ("y",)
    np.testing.assert_allclose(stage.pearson.values, [pearson(own, drawn)] * 5, rtol=1e-5)
    np.testing.assert_allclose(stage.spearman.values, [pearson(rankdata(own), rankdata(drawn))] * 5, rtol=1e-5)
    assert stage.spearman.estimate == Measured.of(stage.spearman.values).estimate
    np.testing.assert_array_equal(gradient(linear, {"x": SAMPLES[:1]}), WEIGHTS[1])


def test_the_redrawn_model_computes_what_its_weights_say(linear: Model) -> None:
    generator = np.random.default_rng([0, 0])
    w = generator.normal(WEIGHTS.mean(), WEIGHTS.std(), WEIGHTS.shape)
    b = generator.normal(1.5, 0.5, 2)
    [stage] = cascade(linear, linear.outputs[0], 3)
    np.testing.assert_allclose(stage.model.run({"x": SAMPLES})["y"], SAMPLES @ w.T + b, rtol=1e-5)
    np.testing.assert_allclose(linear.run({"x": SAMPLES})["y"], SAMPLES @ WEIGHTS.T + [1, 2], rtol=1e-5)


def test_an_edge_detector_does_not_ask_the_model(linear: Model) -> None:
    model = onnxplain.load(ORACLES / "residual_bn_opset18.onnx", threads=1)
    with np.load(ORACLES / "residual_bn.npz") as file:
        pictures = file["input"]
    feeds = ({"input": picture[np.newaxis]} for picture in pictures)
    stages = weight_randomization(model, feeds, lambda model, feed: edge_map(np.moveaxis(feed["input"][0], 0, -1)))
    assert len(stages) == 4
    for stage in stages:
        np.testing.assert_allclose([stage.spearman.values, stage.pearson.values], 1)


def test_layers_go_from_the_output_to_the_input_and_stay_random() -> None:
    model = onnxplain.load(ORACLES / "residual_bn_opset18.onnx", threads=1)
    before = {t.name: t.value.copy() for t in model.graph.constants if t.value is not None}
    linear = [layer for layer in model.graph.layers if layer.op_type in ("Conv", "Gemm")]
    stages = list(cascade(model, model.outputs[0], 3, seed=4))
    assert [name for stage in stages for name in stage.layers] == [layer.name for layer in reversed(linear)]
    assert max(len(stage.layers) for stage in stages) - min(len(stage.layers) for stage in stages) <= 1
    kept = {layer.name for layer in linear}
    values: dict[str, np.ndarray] = {}
    for stage in stages:
        kept -= set(stage.layers)
        for layer in linear:
            name = layer.inputs[1].name  # type: ignore[union-attr]
            value = stage.model.graph.tensors[name].value
            assert value is not None
            assert np.array_equal(value, before[name]) == (layer.name in kept)
            if layer.name not in kept:
                np.testing.assert_array_equal(values.setdefault(name, value), value)
    for name, value in before.items():
        np.testing.assert_array_equal(model.graph.tensors[name].value, value)


def test_the_number_of_stages_does_not_change_the_last_one(linear: Model) -> None:
    model = onnxplain.load(ORACLES / "residual_bn_opset18.onnx", threads=1)
    *_, few = cascade(model, model.outputs[0], 2, seed=4)
    *_, many = cascade(model, model.outputs[0], 99, seed=4)
    assert few.model.digest == many.model.digest != model.digest
    *_, other = cascade(model, model.outputs[0], 2, seed=5)
    assert other.model.digest != few.model.digest


def test_correlations_by_hand() -> None:
    assert rank_correlation([[1, -2], [3, 4]], [[10, 20], [-30, 99]]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(1 - 6 * 2 / (3 * 8))
    assert linear_correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert rank_correlation([1, 2], [5, 5]) == linear_correlation([1, 2], [0, 0]) == 0
    assert np.isnan(rank_correlation([5, -5], [1, 2]))


def test_errors(linear: Model) -> None:
    with pytest.raises(UsageError, match="at least one stage, not 0"):
        weight_randomization(linear, [], gradient, stages=0)
    with pytest.raises(UsageError, match=r"one shape, not \(2,\) and \(3,\)"):
        rank_correlation([1, 2], [1, 2, 3])
    with pytest.raises(FailureError, match="NaN"):
        rank_correlation([1, 2], [1, np.nan])
    bare = onnxplain.load(nets.model([nets.node("Relu", ["x"], "y")], {"x": ["n", 2]}), threads=1)
    with pytest.raises(UnsupportedError, match="no layer before 'y' has constant floating weights"):
        weight_randomization(bare, [], gradient)
