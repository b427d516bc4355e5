"""A model damaged at random places is refused with a sentence or explained, and nothing else happens."""

import random
from collections import Counter

import numpy as np
import pytest
from nets import model, node

import onnxplain


@pytest.fixture(scope="module")
def sound() -> bytes:
    """A classifier with convolution, batch normalization, pooling and shape arithmetic; half of it is structure."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["x", "w", "b"], "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "b", "b", "b", "var"], "n"),
        node("Relu", ["n"], "r"),
        node("MaxPool", ["r"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", ["p"], "shape"),
        node("Gather", ["shape", "zero"], "batch"),
        node("Concat", ["batch", "rest"], "to", axis=0),
        node("Reshape", ["p", "to"], "f"),
        node("Gemm", ["f", "dense"], "z", transB=1),
        node("Softmax", ["z"], "y"),
    ]
    constants = {"w": rng.normal(size=(3, 2, 3, 3)), "b": rng.normal(size=3), "var": np.ones(3)}
    constants |= {"zero": np.array([0]), "rest": np.array([-1]), "dense": rng.normal(size=(4, 12))}
    return model(nodes, {"x": ["N", 2, 4, 4]}, constants=constants)


def outcome(data: bytes) -> str:
    """What becomes of a damaged model; anything but an OnnxplainError ends the test."""
    try:
        net = onnxplain.load(data, threads=1)
        feed = {
            tensor.name: np.ones([size if isinstance(size, int) else 1 for size in tensor.shape], tensor.dtype)
            for tensor in net.inputs
            if tensor.shape is not None
        }
        onnxplain.explain(net, feed)
    except onnxplain.OnnxplainError as error:
        return type(error).__name__
    return "explained"


def test_the_sound_model_is_explained(sound):
    assert outcome(sound) == "explained"


def test_truncated_anywhere(sound):
    rng = random.Random(0)
    outcomes = Counter(outcome(sound[: rng.randrange(len(sound))]) for _ in range(60))
    assert outcomes == {"FailureError": 60}


@pytest.mark.parametrize("seed", range(8))
def test_bytes_changed_anywhere(sound, seed):
    rng = random.Random(seed)
    outcomes = Counter()
    for _ in range(15):
        damaged = bytearray(sound)
        for _ in range(rng.choice([1, 1, 2, 5])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        outcomes[outcome(bytes(damaged))] += 1
    assert outcomes.total() == 15
    assert outcomes["FailureError"] > 0
