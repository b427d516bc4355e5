"""Measures of a method itself: does it account for the score, and does it hold still when the input hardly moves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from onnxplain.errors import FailureError, UsageError
from onnxplain.metrics.maps import finite

RADIUS = 0.02
DRAWS = 10


def completeness_gap(attributions: ArrayLike, value: float, baseline_value: float = 0.0) -> float:
    """How far attributions are from adding up: ``|sum R - (f(x) - f(x'))| / |f(x) - f(x')|``.

    Completeness is the axiom of integrated gradients (Sundararajan et al., 2017); relevance propagation calls it
    conservation, with f(x') = 0.

    Parameters
    ----------
    attributions : array_like, any shape
        One per element of the input, R.
    value, baseline_value : float
        The target's value at the input and at the baseline.

    Returns
    -------
    float
        0 for attributions that add up; NaN where the value does not change.

    Raises
    ------
    FailureError
        An attribution is NaN or infinite.
    """
    total = float(np.sum(np.asarray(attributions, dtype=np.float64)))
    if not np.isfinite(total):
        raise FailureError("the attributions hold NaN or infinity")
    rise = float(value) - float(baseline_value)
    return abs(total - rise) / abs(rise) if rise else float("nan")


def max_sensitivity(
    explain: Callable[[np.ndarray], ArrayLike],
    x: np.ndarray,
    *,
    radius: float = RADIUS,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """Largest relative change of a map under small noise (Yeh et al., 2019, divided by the norm of the map).

    ``max |map(x + d) - map(x)|_2 / |map(x)|_2`` over draws of d, uniform within the radius in every element.

    Parameters
    ----------
    explain : callable
        From an input to its map.
    x : array, any shape
        The input.
    radius : float
        Of the noise, as a share of the input's range (max - min).
    draws : int
        Number of draws.
    seed : int
        Of the noise.

    Returns
    -------
    float
        0 for a map that does not move; NaN for one that is zero everywhere.

    Raises
    ------
    UsageError
        `radius` or `draws` out of range.
    FailureError
        A map holds NaN or infinity.
    """
    if not radius > 0 or draws < 1:
        raise UsageError(f"max-sensitivity needs a radius above 0 and at least one draw, not {radius} and {draws}")
    generator = np.random.default_rng(seed)
    reach = radius * (float(x.max()) - float(x.min()))
    still = finite(explain(x))
    norm = float(np.linalg.norm(still))
    moves = [
        float(np.linalg.norm(finite(explain((x + generator.uniform(-reach, reach, x.shape)).astype(x.dtype))) - still))
        for _ in range(draws)
    ]
    return max(moves) / norm if norm else float("nan")
