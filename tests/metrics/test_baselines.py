from __future__ import annotations

import numpy as np
import pytest

from onnxplain.errors import UsageError
from onnxplain.metrics.baselines import edge_map, gaussian_map, random_map


def test_random_map_is_seeded_and_uniform() -> None:
    values = random_map((200, 300), seed=4)
    assert values.shape == (200, 300)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, random_map((200, 300), seed=4))
    assert not np.array_equal(values, random_map((200, 300), seed=5))
    np.testing.assert_allclose(np.quantile(values, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.01)


def test_gaussian_is_centred_and_falls_off_with_the_side() -> None:
    values = gaussian_map((41, 81), sigma=0.25)
    assert values[20, 40] == values.max() == 1
    np.testing.assert_allclose(values, values[::-1, ::-1], rtol=1e-5)
    # pixel 0 of 41 lies 20 / 41 of the side from the centre
    assert values[0, 40] == pytest.approx(np.exp(-0.5 * (20 / 41 / 0.25) ** 2), rel=1e-5)
    assert values[20, 0] == pytest.approx(np.exp(-0.5 * (40 / 81 / 0.25) ** 2), rel=1e-5)


def test_edges_of_a_ramp_and_a_step() -> None:
    ramp = np.tile(np.arange(8) * 3.0, (6, 1))
    np.testing.assert_allclose(edge_map(ramp)[1:-1, 1:-1], 3)
    step = np.zeros((6, 8, 3), dtype=np.uint8)
    step[:, 4:, 1] = 200  # seen in one channel only
    edges = edge_map(step)
    assert edges.dtype == np.float32
    assert edges.shape == (6, 8)
    np.testing.assert_allclose(edges[2], [0, 0, 0, 100, 100, 0, 0, 0])


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="H x W"):
        edge_map(np.zeros(5))
    with pytest.raises(UsageError, match="sigma"):
        gaussian_map((4, 4), sigma=0)
