"""VEBI on a net whose signals can be written down: filter k is the positive part of channel k."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.errors import UsageError
from onnxplain.methods.vebi import feature_map

CLASSES = 3


def net() -> bytes:
    nodes = [
        nets.node("Conv", ["x", "w"], "c"),
        nets.node("Relu", ["c"], "r"),
        nets.node("ReduceMean", ["r", "axes"], "m", keepdims=0),
        nets.node("Gemm", ["m", "v"], "logits"),
        nets.node("Softmax", ["logits"], "y"),
    ]
    constants = {"w": np.eye(CLASSES)[..., None, None], "v": np.eye(CLASSES), "axes": np.array([2, 3])}
    return nets.model(nodes, {"x": ["N", CLASSES, 5, 6]}, ["y"], constants)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, CLASSES, 5, 6)).astype(np.float32)
    x[np.arange(30), np.arange(30) % CLASSES] += 1.5
    return x


@pytest.fixture(scope="module")
def found(pictures: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> onnxplain.Interpretation:
    path = tmp_path_factory.mktemp("vebi") / "data.npz"
    np.savez(path, x=pictures)
    return onnxplain.interpret(net(), path, layers="relu")


def test_each_feature_is_carried_back_from_its_whole_map(pictures: np.ndarray, found: onnxplain.Interpretation) -> None:
    x = pictures[:4]
    e = onnxplain.explain(net(), x, method="vebi", interpretation=found, top=2)
    energies = (np.maximum(x, 0).astype(np.float64) ** 2).sum(axis=(2, 3))
    shares = energies / energies.sum(axis=1, keepdims=True)
    for sample in range(4):
        index = e.target[sample].index
        assert index == np.maximum(x[sample], 0).mean(axis=(1, 2)).argmax()
        features = found.features[index]
        weights = {feature.channel: feature.weight for feature in features}
        length = np.linalg.norm(shares[sample])
        scores = {c: shares[sample, c] / length * w / sum(weights.values()) for c, w in weights.items()}
        best = sorted(scores, key=lambda c: -scores[c])[:2]
        names = [name for name in e.extras["feature_names"][sample] if name]
        assert names == [f"r[{channel}]" for channel in best]
        np.testing.assert_allclose(
            e.extras["feature_scores"][sample][: len(best)], [scores[c] for c in best], rtol=1e-5
        )
        signal = np.zeros_like(x[sample])
        maps = []
        for channel in best:
            signal[channel] += np.maximum(x[sample, channel], 0)
            plane = np.maximum(x[sample, channel], 0)
            maps.append((plane - plane.min()) / np.ptp(plane))
        np.testing.assert_allclose(e.relevance["x"][sample], signal, rtol=1e-5)
        np.testing.assert_allclose(e.extras["features/x"][sample][: len(best)], maps, atol=1e-6)
        np.testing.assert_allclose(e.map()[sample], np.max(maps, axis=0), atol=1e-6)


def test_a_class_or_a_folder_may_be_named(
    pictures: np.ndarray, found: onnxplain.Interpretation, tmp_path: Path
) -> None:
    found.save(tmp_path)
    named = onnxplain.explain(net(), pictures[:1], method="vebi", target=2, interpretation=str(tmp_path))
    assert named.target[0].index == 2
    assert named.extras["feature_names"][0][0] == f"r[{found.features[2][0].channel}]"
    e = onnxplain.Explanation
    named.save(tmp_path / "explained")
    np.testing.assert_array_equal(e.load(tmp_path / "explained").map(), named.map())


def test_a_silent_picture_has_no_features_and_an_empty_map(found: onnxplain.Interpretation) -> None:
    e = onnxplain.explain(net(), -np.ones((1, CLASSES, 5, 6), np.float32), method="vebi", interpretation=found)
    assert not e.map().any()
    assert not e.relevance["x"].any()
    assert any("nothing to show for class 0" in note for note in e.notes)


def test_the_map_of_a_signal() -> None:
    signal = np.array([[[3.0, -1, 2, 0]], [[4.0, -1, -2, 0]]])
    np.testing.assert_allclose(feature_map(signal, 0), [[1, 0, 0, 0]])  # the third sums to exactly 0
    assert not feature_map(-np.ones((2, 3, 3)), 0).any()
    assert not feature_map(np.ones((2, 3, 3)), 0).any()


def test_wrong_requests_are_answered(pictures: np.ndarray, found: onnxplain.Interpretation, tmp_path: Path) -> None:
    other = nets.model([nets.node("Relu", ["x"], "y")], {"x": ["N", CLASSES, 5, 6]})
    for model, options, said in (
        (net(), {}, "vebi needs what 'onnxplain interpret' found"),
        (net(), {"interpretation": tmp_path / "nowhere"}, "holds no interpretation"),
        (net(), {"interpretation": 3}, "interpretation must be an Interpretation or its folder, not 3"),
        (net(), {"interpretation": found, "top": 0}, "top must be a whole number from 1"),
        (net(), {"interpretation": found, "at": ["r"]}, "explains at the input only"),
        (net(), {"interpretation": found, "target": "top1-top2"}, "vebi explains one class"),
        (net(), {"interpretation": found, "keep_softmax": True}, "the interpretation is of 'logits'"),
        (other, {"interpretation": found}, "belongs to another model"),
    ):
        with pytest.raises(UsageError, match=said):
            onnxplain.explain(model, pictures[:1], method="vebi", **options)  # type: ignore[arg-type]
