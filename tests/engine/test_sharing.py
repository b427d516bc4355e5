"""Passes that methods share over one sample: the same results, fewer runs, and the time of each as if it were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxplain
from onnxplain.engine import sharing
from onnxplain.engine.sessions import Session
from onnxplain.engine.sharing import Shared

NET = Path(__file__).parents[1] / "oracles" / "residual_bn_opset13.onnx"
CAMS = ("grad-cam", "grad-cam++", "hires-cam", "layer-cam", "xgrad-cam")
LEFT_OUT = ("vebi", "salient-relevance")  # the one needs a data set, the other takes its seconds behind its relevance
METHODS = [entry.name for entry in onnxplain.available_methods() if entry.name not in LEFT_OUT]
OPTIONS: dict[str, dict[str, Any]] = {
    "rise": {"masks": 20},
    "smoothgrad": {"count": 3},
    "integrated-gradients": {"steps": 3},
    "occlusion": {"window": 5},
}
ROOM = 2**24


@pytest.fixture(scope="module")
def model() -> onnxplain.Model:
    return onnxplain.load(NET, threads=1)


@pytest.fixture(scope="module")
def feed(model: onnxplain.Model) -> dict[str, np.ndarray]:
    [source] = model.inputs
    shape = [1, *(size if isinstance(size, int) else 16 for size in (source.shape or ())[1:])]
    return {source.name: np.random.default_rng(3).normal(size=shape).astype(np.float32)}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each run of onnxruntime was given."""
    counted: list[int] = []
    run = Session.run

    def counting(self: Session, feed: Any, names: Any = None) -> Any:
        counted.append(len(next(iter(feed.values()))))
        return run(self, feed, names)

    monkeypatch.setattr(Session, "run", counting)
    return counted


def explained(
    model: onnxplain.Model, feed: dict[str, np.ndarray], method: str, **settings: Any
) -> onnxplain.Explanation:
    return onnxplain.explain(model, feed, method, 1, **settings, **OPTIONS.get(method, {}))


def arrays(e: onnxplain.Explanation) -> dict[str, np.ndarray]:
    """All that an explanation says in numbers."""
    parts = {"relevance": e.relevance, "maps": e.maps, "extras": e.extras}
    found = {f"{kind}/{name}": np.asarray(value) for kind, part in parts.items() for name, value in part.items()}
    return {**found, "prediction": e.prediction, "value": np.array([chosen.value for chosen in e.target])}


@pytest.mark.parametrize("engine", ["host", "compiled"])
def test_every_bit_is_what_it_is_alone(model: onnxplain.Model, feed: dict[str, np.ndarray], engine: str) -> None:
    together = model.sharing(Shared(feed, ROOM))
    for method in (*METHODS, *METHODS[::-1]):
        backward = onnxplain.methods.table.METHODS[method].backward
        settings = {"engine": engine} if backward else {}
        alone = arrays(explained(model, feed, method, **settings))
        shared = arrays(explained(together, feed, method, **settings))
        assert alone.keys() == shared.keys()
        for name, value in alone.items():
            assert np.array_equal(value, shared[name]), (method, name)


@pytest.mark.parametrize(
    ("methods", "alone", "together"),
    [
        (CAMS, 5, 1),  # activations and gradients of the same layer
        (("gradient", "input-x-gradient"), 2, 1),  # the same backward pass
        (("gradient", "guided-backprop"), 2, 1),  # the same forward pass
        (("guided-grad-cam", "guided-backprop", "grad-cam"), 4, 2),
        (("lrp", "gradient"), 2, 2),  # they read other tensors of the forward pass
    ],
)
def test_runs_of_the_model(
    model: onnxplain.Model, feed: dict[str, np.ndarray], runs: list[int],
    methods: tuple[str, ...], alone: int, together: int,
) -> None:  # fmt: skip
    for method in methods:  # sessions are built, and their first run compared with the plain one
        explained(model, feed, method, engine="host")
    for through, expected in ((model, alone), (model.sharing(Shared(feed, ROOM)), together)):
        runs.clear()
        for method in methods:
            explained(through, feed, method, engine="host")
        assert len(runs) == expected


def test_sise_and_ada_sise_share_all_but_their_masks(
    model: onnxplain.Model, feed: dict[str, np.ndarray], runs: list[int]
) -> None:
    counts = []
    for through in (model, model.sharing(Shared(feed, ROOM))):
        explained(model, feed, "sise", batch_size=7), explained(model, feed, "ada-sise", batch_size=7)
        explained(through, feed, "sise", batch_size=7)
        runs.clear()
        e = explained(through, feed, "ada-sise", batch_size=7)
        masked = sum(-(-sum(layer.used) // 7) for layer in e.masks)
        counts.append(len(runs) - masked)
    assert counts[0] > 3
    assert counts[1] == 0


def test_another_input_is_computed_as_ever(
    model: onnxplain.Model, feed: dict[str, np.ndarray], runs: list[int]
) -> None:
    [name] = feed
    shared = model.sharing(Shared(feed, ROOM))
    explained(shared, feed, "grad-cam")
    other = {name: feed[name] + np.float32(0.5)}
    expected = arrays(explained(model, other, "grad-cam"))
    runs.clear()
    for _ in range(2):
        found = arrays(explained(shared, other, "grad-cam"))
        assert all(np.array_equal(found[name], value) for name, value in expected.items())
    assert len(runs) == 2


def test_other_targets_and_options_are_other_passes(model: onnxplain.Model, feed: dict[str, np.ndarray]) -> None:
    shared = model.sharing(Shared(feed, ROOM))
    weights = np.array([[0.5, -1, 0.25, 2, 0, 3]], np.float32)
    for target in (0, 1, 2, "predicted", weights, 2 * weights, "contrast:1"):
        for rules in ("epsilon-plus-flat", "excitation-backprop"):
            alone, together = (arrays(onnxplain.explain(m, feed, "lrp", target, rules=rules)) for m in (model, shared))
            assert all(np.array_equal(together[name], value) for name, value in alone.items())


class Clock:
    """A clock that moves when told."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def spend(self, seconds: float) -> dict[str, np.ndarray]:
        self.now += seconds
        return {"found": np.zeros(4, np.float32)}


X = {"x": np.arange(3.0)}


def test_what_is_shared_costs_everyone_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(sharing, "time", clock)
    shared, stated = Shared(X, ROOM), []

    def backward() -> dict[str, np.ndarray]:
        shared.get("forward", X, lambda: clock.spend(2))
        return clock.spend(3)

    for work in ("forward", "gradient", "gradient", "guided", "guided"):
        started = shared.clock()
        shared.get(work, {"x": X["x"].copy()}, backward if work != "forward" else lambda: clock.spend(2))
        stated.append(shared.clock() - started)
    assert stated == [2, 5, 5, 5, 5]
    assert clock.now == 2 + 3 + 3


def test_what_does_not_fit_is_not_kept() -> None:
    shared, built = Shared(X, room=20), []

    def build() -> dict[str, Any]:
        built.append(1)
        return {"inside": {"found": np.zeros(4, np.float32)}}

    for key in ("first", "first", "second", "second"):
        shared.get(key, X, build)
    assert len(built) == 3
