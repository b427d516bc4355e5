"""Ablation on nets where it is plain what is lost."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.cli import main
from onnxplain.engine.ablated import Ablated
from onnxplain.engine.responses import find_filters
from onnxplain.errors import FailureError, UsageError

CLASSES = 3


def net() -> bytes:
    """Six filters; class k looks at filter k, the others at nothing."""
    kernels = np.concatenate([np.eye(3), np.full((3, 3), 0.1)])[..., None, None]
    nodes = [
        nets.node("Conv", ["x", "w"], "c"),
        nets.node("Relu", ["c"], "r"),
        nets.node("GlobalAveragePool", ["r"], "g"),
        nets.node("Flatten", ["g"], "f"),
        nets.node("Gemm", ["f", "v"], "y"),
    ]
    constants = {"w": kernels, "v": np.eye(6)[:, :CLASSES]}
    return nets.model(nodes, {"x": ["N", CLASSES, 4, 4]}, constants=constants)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    x = rng.random((33, CLASSES, 4, 4), np.float32) * 0.2
    labels = np.arange(33) % CLASSES
    x[np.arange(33), labels] += 1
    path = tmp_path_factory.mktemp("ablate") / "data.npz"
    np.savez(path, x=x, labels=labels)
    return path


def test_silenced_channels_are_zero_for_each_sample_and_the_model_stays() -> None:
    model = onnxplain.load(net(), threads=1)
    x = np.random.default_rng(1).random((2, CLASSES, 4, 4), np.float32)
    before = model.run(x)["y"]
    target = model.tensor("y")
    filters = [f for f in find_filters(model, target, {"x": x}) if f.tensor in ("c", "g")]
    ablated = Ablated(model, target, filters)
    np.testing.assert_array_equal(ablated.run({"x": x}), before)
    kept = np.ones((2, 6))
    kept[0, 1] = 0
    kept[1, [0, 2]] = 0
    expected = before * kept[:, :3]
    np.testing.assert_allclose(ablated.run({"x": x}, {"g": kept}), expected, rtol=1e-6)
    np.testing.assert_allclose(ablated.run({"x": x}, {"c": kept}), expected, rtol=1e-6)
    np.testing.assert_array_equal(model.run(x)["y"], before)


def test_without_its_filters_a_class_is_lost_and_without_others_it_stays(data: Path) -> None:
    model = onnxplain.load(net(), threads=1)
    found = onnxplain.interpret(model, data, layers="conv", labels="given")
    assert [found.features[index][0].channel for index in range(CLASSES)] == [0, 1, 2]
    result = onnxplain.ablate(model, data, found, draws=2)
    assert result.classes == (0, 1, 2)
    assert result.samples.tolist() == [11] * 3
    assert (result.relevant[:, 0] == 1).all()
    assert (result.relevant[:, 1:] == 0).all()
    assert (result.random[:, :, -1] == 1).all()
    assert (result.relevant_score[:, 1] == 0).all()
    np.testing.assert_allclose(result.random_score[0, :, 1], result.relevant_score[:, 0], rtol=1e-6)
    again = onnxplain.ablate(model, data, found, draws=2)
    np.testing.assert_array_equal(again.random, result.random)
    more = onnxplain.ablate(model, data, found, draws=2, removals=5)
    assert more.random.shape == (2, 3, 6)
    np.testing.assert_array_equal(more.random[..., :2], result.random[..., :2])
    np.testing.assert_array_equal(more.relevant[:, 1:], 0)
    few = onnxplain.ablate(model, data, found, draws=1, samples=2)
    assert few.samples.tolist() == [2] * 3


def test_random_filters_are_others_of_the_same_tensors(data: Path) -> None:
    from onnxplain.interpretation.ablate import _Experiment

    model = onnxplain.load(net(), threads=1)
    found = onnxplain.interpret(model, data)
    rounds = _Experiment(model, found, None, 1, 0, None, removals=9)
    for index, drawn in rounds.random[0].items():
        own = rounds.orders[index]
        tensors = [found.named(int(place))[0] for place in own]
        others = {tensor: 6 - tensors.count(tensor) for tensor in tensors}
        wanted = [tensors[place % len(own)] for place in range(9)]
        for place, (filter_, tensor) in enumerate(zip(drawn, wanted, strict=True)):
            if wanted[:place].count(tensor) < others[tensor]:
                assert found.named(int(filter_))[0] == tensor
                assert filter_ not in [*own, *drawn[:place]]
            else:
                assert filter_ == -1
    experiment = _Experiment(model, found, None, 3, 0, None)
    for orders in experiment.random:
        for index, drawn in orders.items():
            own = experiment.orders[index]
            assert len(set(drawn.tolist())) == len(drawn) == len(own)
            assert not set(drawn.tolist()) & set(own.tolist())
            assert [found.named(int(a))[0] for a in drawn] == [found.named(int(a))[0] for a in own]


def test_wrong_requests_are_answered(data: Path, tmp_path: Path) -> None:
    model = onnxplain.load(net(), threads=1)
    found = onnxplain.interpret(model, data, layers="conv")
    with pytest.raises(UsageError, match="draws, samples and removals"):
        onnxplain.ablate(model, data, found, draws=0)
    with pytest.raises(UsageError, match="predicted or given"):
        onnxplain.ablate(model, data, found, labels="true")
    np.savez(tmp_path / "dark.npz", x=np.zeros((3, CLASSES, 4, 4), np.float32))
    dark = onnxplain.interpret(model, tmp_path / "dark.npz", layers="conv")
    with pytest.raises(FailureError, match="no class with relevant filters has a sample"):
        onnxplain.ablate(model, data, dark)
    np.savez(tmp_path / "other.npz", z=np.zeros((3, CLASSES, 4, 4), np.float32))
    with pytest.raises(FailureError, match=r"has a sample in .*; 3 skipped, 0: "):
        onnxplain.ablate(model, tmp_path / "other.npz", found)


def test_the_verb_writes_curve_and_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.onnx").write_bytes(net())
    onnxplain.interpret(net(), data, layers="conv", labels="given").save(tmp_path / "known")
    arguments = ["ablate", str(tmp_path / "net.onnx"), str(data), "-i", str(tmp_path / "known"), "--draws", "1"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 0
    assert "without random ones" in capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert document["schema"] == "onnxplain.ablation/1"
    assert document["mean"]["relevant"][:2] == [1, 0]
    assert (tmp_path / "out" / "ablation.png").read_bytes().startswith(b"\x89PNG")
