"""The benchmark's NumPy search gives what the kernels give, also where there are fewer patches than neighbours."""

import sys
from pathlib import Path

import numpy as np
import pytest

from onnxplain.methods.saliency_kernels import mean_distances

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench_saliency


@pytest.mark.parametrize("side", [2, 9, 40])
def test_both_searches_find_the_same_distances(side):
    planes = np.random.default_rng(0).random((2, side, side), np.float32)
    settings = {"patch": 7, "k": 64, "c": 3.0, "advance": lambda pairs: None}
    candidates = [planes, np.ascontiguousarray(planes[:, ::2, ::2])]
    slow = bench_saliency.numpy_mean_distances(planes, candidates, **settings)
    assert np.abs(slow - mean_distances(planes, candidates, **settings)).max() < 1e-5
