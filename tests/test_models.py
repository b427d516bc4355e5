"""Real graphs on both engines: the nine of the onnx wheel (generated weights) and the trained ones of the material."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxplain

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
LIGHT_NAMES = [
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
    "zfnet512",
]  # fmt: skip
CLASSIFIERS = {
    "imagenet_squeezenet_fp32": 1,
    "imagenet_mobilenetv1_025_keras": 3,
    "imagenet_mobilenetv2_qdq": 2,
    "mnist_cntk": 1,
    "mnist01_pytorch": 3,
    "iris_mlp_pytorch": 5,
    "fastestdet_coco": 1,
    "ultraface_slim_bn": 1,
}
"""Name and number of samples; those with one sample fix it in the file. The last two are detectors."""
GRADIENTS = ("gradient", "input-x-gradient", "smoothgrad", "integrated-gradients")
FAMILIES = (GRADIENTS, ("lrp",), ("guided-backprop",), ("deconvnet",))
"""Methods that share a session."""
METHODS = tuple(method for family in FAMILIES for method in family)
OPTIONS = {"smoothgrad": {"count": 2}, "integrated-gradients": {"steps": 2}}


@pytest.fixture(autouse=True)
def _freed() -> Iterator[None]:
    """Models of half a gigabyte do not wait for the garbage collector."""
    yield
    gc.collect()


def feed_for(model: onnxplain.Model, samples: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.uniform(0, 1, [samples, *tensor.shape[1:]]).astype(tensor.dtype) for tensor in model.inputs
    }


def relevance(model: onnxplain.Model, feed: dict[str, np.ndarray], method: str, engine: str) -> np.ndarray:
    output = model.outputs[0].name
    e = onnxplain.explain(model, feed, method, target=0, output=output, engine=engine, **OPTIONS.get(method, {}))
    assert e.engine == engine
    value = e.relevance[model.inputs[0].name]
    assert np.isfinite(value).all()
    assert np.abs(value).max() > 0
    return value.astype(np.float64)


def assert_same(found: np.ndarray, wanted: np.ndarray, method: str) -> None:
    """Gradients of piecewise linear nets jump, so they are held in the mean; relevance everywhere."""
    if method == "lrp":
        assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()
        return
    found, wanted = found.reshape(-1), wanted.reshape(-1)
    assert np.linalg.norm(found - wanted) <= 5e-2 * np.linalg.norm(wanted)
    assert found @ wanted >= 0.999 * np.linalg.norm(found) * np.linalg.norm(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT_NAMES)
def test_light_graphs(name: str) -> None:
    for family in FAMILIES:  # a model for each: sessions of half a gigabyte do not add up
        model = onnxplain.load(LIGHT / f"light_{name}.onnx")
        feed = feed_for(model, 1)
        for method in family:
            assert_same(relevance(model, feed, method, "compiled"), relevance(model, feed, method, "host"), method)
        gc.collect()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_trained_models(name: str, material: Path) -> None:
    model = onnxplain.load(material / "models" / f"{name}.onnx")
    feed = feed_for(model, CLASSIFIERS[name])
    for method in METHODS:
        host, compiled = (relevance(model, feed, method, engine) for engine in ("host", "compiled"))
        assert_same(compiled, host, method)
        for index in range(CLASSIFIERS[name] if CLASSIFIERS[name] > 1 else 0):
            single = {key: value[index : index + 1] for key, value in feed.items()}
            for engine, several in (("host", host), ("compiled", compiled)):
                assert_same(several[index : index + 1], relevance(model, single, method, engine), method)


def test_half_precision(material: Path) -> None:
    """The engines round the forward pass to 16 bits at other places; each stays near the model in 32 bits."""
    maps = {}
    for precision in ("fp16", "fp32"):
        model = onnxplain.load(material / "models" / f"imagenet_squeezenet_{precision}.onnx")
        feed = feed_for(model, 1)
        maps |= {(precision, engine): relevance(model, feed, "lrp", engine) for engine in ("host", "compiled")}
    for engine in ("host", "compiled"):
        found, wanted = maps["fp16", engine].reshape(-1), maps["fp32", engine].reshape(-1)
        assert found @ wanted >= 0.99 * np.linalg.norm(found) * np.linalg.norm(wanted)


REFUSED = {
    "rul_lstm_keras": r"no rule for LSTM 'LSTM__51', LSTM 'LSTM__72' on the way from the input to 'output_0'",
    "iris_forest_sklearn": r"no rule for ai.onnx.ml.TreeEnsembleClassifier",
    "activity_svc_sklearn": r"no rule for ai.onnx.ml.SVMClassifier",
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_without_a_rule_are_refused_by_layer(name: str, material: Path) -> None:
    model = onnxplain.load(material / "models" / f"{name}.onnx")
    with pytest.raises(onnxplain.UnsupportedError, match=REFUSED[name]):
        onnxplain.explain(model, feed_for(model, 1), output=model.outputs[0].name)


def test_whole_numbers_at_the_input_are_told(material: Path) -> None:
    """Bytes are cast to floats behind the input: nothing flows into them, which is said."""
    model = onnxplain.load(material / "models" / "magika_v3_3.onnx")
    feed = {"bytes": np.random.default_rng(0).integers(0, 256, (1, 2048)).astype(np.int32)}
    with pytest.raises(onnxplain.UsageError, match="nothing reaches the inputs"):
        onnxplain.explain(model, feed, "gradient")
