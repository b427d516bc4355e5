"""explain() from several Python threads, and in a forked worker whose parent has used sessions and kernels before."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import onnxplain

ORACLES = Path(__file__).parent / "oracles"
METHODS = ("lrp", "gradient", "guided-backprop")
ENGINES = ("host", "compiled")

IN_A_FORK = """
import os, sys
import numpy as np
import onnxplain

model = onnxplain.load(sys.argv[1])
x = np.load(sys.argv[2])["input"]

def maps():
    return {
        f"{engine}_{method}": onnxplain.explain(model, x, method, engine=engine).relevance["input"]
        for engine in ("host", "compiled") for method in ("lrp", "gradient")
    }

parent = maps()
child = os.fork()
if not child:
    np.savez(sys.argv[3], **maps())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
found = np.load(sys.argv[3])
for name, value in parent.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
again = maps()
for name, value in parent.items():
    np.testing.assert_array_equal(again[name], value, err_msg=name)
"""


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    with np.load(ORACLES / "residual.npz") as file:
        return np.tile(file["input"], (8, 1, 1, 1))


def test_four_threads_share_a_model(x: np.ndarray) -> None:
    """Nothing is warm: the threads meet while sessions are built and kernels are loaded."""
    model = onnxplain.load(ORACLES / "residual_opset18.onnx")
    work = [(method, engine) for engine in ENGINES for method in METHODS] * 2

    def explain(method: str, engine: str) -> np.ndarray:
        return onnxplain.explain(model, x, method, engine=engine).relevance["input"]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: explain(*job), work))
    for job, value in zip(work, found, strict=True):
        np.testing.assert_allclose(value, explain(*job), rtol=1e-5, atol=1e-6, err_msg=str(job))


def test_four_threads_with_a_model_each(x: np.ndarray) -> None:
    names = ["residual", "average_pool", "mean_head", "inception"]

    def explain(name: str) -> list[np.ndarray]:
        model = onnxplain.load(ORACLES / f"{name}_opset18.onnx")
        return [onnxplain.explain(model, x, engine=engine).relevance["input"] for engine in ENGINES]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(explain, names))
    for name, maps in zip(names, found, strict=True):
        for value, alone in zip(maps, explain(name), strict=True):
            np.testing.assert_allclose(value, alone, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_forked_worker(tmp_path: Path) -> None:
    arguments = [str(ORACLES / "residual_opset18.onnx"), str(ORACLES / "residual.npz"), str(tmp_path / "child.npz")]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FORK, *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
