"""The samples of a batch side by side: each on a thread of its own, of a compiled graph."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.engine import run, workers
from onnxplain.engine.budget import WORTH_A_THREAD, side_by_side

CHANNELS = 128


def classifier() -> bytes:
    """Two products over a map that outweighs their weights, and both signs in front of the second."""
    rng = np.random.default_rng(0)
    nodes = [
        nets.node("Conv", ["x", "v"], "a"),
        nets.node("Conv", ["a", "w"], "z"),
        nets.node("Relu", ["z"], "r"),
        nets.node("GlobalAveragePool", ["r"], "p"),
        nets.node("Flatten", ["p"], "y"),
    ]
    weights = {"v": rng.normal(size=(CHANNELS, 3, 1, 1)), "w": rng.normal(size=(CHANNELS, CHANNELS, 1, 1))}
    return nets.model(nodes, {"x": ["N", 3, 48, 48]}, constants=weights)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "THREADS", 2)


@pytest.mark.parametrize(
    ("count", "total", "weights", "threads", "expected"),
    [
        (8, 2 * WORTH_A_THREAD, WORTH_A_THREAD, 2, True),
        (8, 2 * WORTH_A_THREAD, 3 * WORTH_A_THREAD, 2, False),
        (8, WORTH_A_THREAD // 2, 0, 2, False),
        (8, 2 * WORTH_A_THREAD, 0, 1, False),
        (3, 2 * WORTH_A_THREAD, 0, 2, False),
        (9, 2 * WORTH_A_THREAD, 0, 2, True),
        (4, 2 * WORTH_A_THREAD, 0, 16, False),
    ],
)
def test_when_samples_go_side_by_side(count: int, total: int, weights: int, threads: int, expected: bool) -> None:
    assert side_by_side(count, total, weights, threads) is expected


@pytest.mark.parametrize("method", ["lrp", "gradient"])
@pytest.mark.parametrize("count", [4, 9])
def test_they_get_what_they_get_alone(
    two_threads: None, monkeypatch: pytest.MonkeyPatch, method: str, count: int
) -> None:
    model = onnxplain.load(classifier(), threads=2)
    x = np.random.default_rng(1).normal(size=(count, 3, 48, 48)).astype(np.float32)
    parts: list[tuple[int, bool]] = []
    carried_out = run._run_compiled

    def watched(*given: object, alone: bool) -> run.Result:
        parts.append((len(given[3]["x"]), alone))  # type: ignore[index]
        return carried_out(*given, alone=alone)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "_run_compiled", watched)
    together = onnxplain.explain(model, x, method, engine="compiled")
    assert sorted(parts) == [({4: 2, 9: 1}[count], True)] * {4: 2, 9: 9}[count]
    parts.clear()
    for i in range(count):
        alone = onnxplain.explain(model, x[i : i + 1], method, engine="compiled")
        np.testing.assert_allclose(together.relevance["x"][i], alone.relevance["x"][0], rtol=1e-4, atol=1e-6)
        assert together.target[i].index == alone.target[0].index
    assert not any(alone for _, alone in parts)


def test_both_threads_are_at_work(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnxplain.load(classifier(), threads=2)
    x = np.random.default_rng(1).normal(size=(4, 3, 48, 48)).astype(np.float32)
    workers.pool.cache_clear()
    meeting, carried_out = threading.Barrier(2, timeout=60), run._run_compiled

    def meet(*given: object, alone: bool) -> run.Result:
        meeting.wait()
        return carried_out(*given, alone=alone)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "_run_compiled", meet)
    onnxplain.explain(model, x, engine="compiled")


def test_a_size_that_was_asked_for_is_kept(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnxplain.load(classifier(), threads=2)
    x = np.random.default_rng(1).normal(size=(4, 3, 48, 48)).astype(np.float32)
    sizes: list[int] = []
    carried_out = run._run_compiled

    def watched(*given: object, alone: bool) -> run.Result:
        assert not alone
        sizes.append(len(given[3]["x"]))  # type: ignore[index]
        return carried_out(*given, alone=alone)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "_run_compiled", watched)
    onnxplain.explain(model, x, engine="compiled", batch_size=3)
    assert sizes == [3, 1]


@pytest.mark.parametrize(("engine", "threads", "most"), [("compiled", 2, 2), ("compiled", 1, 1), ("host", 2, 4)])
def test_no_more_at_once_than_there_are_threads(
    monkeypatch: pytest.MonkeyPatch, engine: str, threads: int, most: int
) -> None:
    """The compiled engine keeps to the model's threads; timings of parts that overlap add up to no more than passed."""
    monkeypatch.setattr(workers, "THREADS", 4)
    workers.pool.cache_clear()
    model = onnxplain.load(classifier(), threads=threads)
    x = np.random.default_rng(1).normal(size=(16, 3, 48, 48)).astype(np.float32)
    name = "_run_compiled" if engine == "compiled" else "_run_host"
    here, seen, lock, carried_out = [0], [], threading.Lock(), getattr(run, name)

    def counted(*given: object, **options: object) -> run.Result:
        with lock:
            here[0] += 1
            seen.append(here[0])
        time.sleep(0.02)
        try:
            return carried_out(*given, **options)  # type: ignore[no-any-return]
        finally:
            with lock:
                here[0] -= 1

    monkeypatch.setattr(run, name, counted)
    started = time.perf_counter()
    e = onnxplain.explain(model, x, engine=engine, batch_size=1 if engine == "host" else None)
    assert max(seen) <= most
    assert sum(e.timings.values()) <= time.perf_counter() - started
    workers.pool().shutdown()
    workers.pool.cache_clear()


def test_a_compiled_explanation_never_loads_numba(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(classifier())
    script = f"""
import sys, numpy as np, onnxplain
model = onnxplain.load({str(tmp_path / "net.onnx")!r}, threads=2)
for count in (1, 8):
    onnxplain.explain(model, np.ones((count, 3, 48, 48), np.float32), engine="compiled")
assert "numba" not in sys.modules
"""
    root = str(Path(onnxplain.__file__).parents[1])
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
