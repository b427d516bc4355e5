"""Whether maps depend on what a model has learnt: they should not survive when its weights become random."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, spearmanr

from onnxplain.engine.redrawn import cascade
from onnxplain.errors import UsageError
from onnxplain.metrics.maps import finite
from onnxplain.metrics.statistics import Measured
from onnxplain.model import Feed, Model
from onnxplain.targets import parse_target

STAGES = 4


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation of the magnitudes of two maps.

    Parameters
    ----------
    first, second : array_like, of one shape
        The map of the model and that of a model with random weights.

    Returns
    -------
    float
        1 for the same order of the pixels; 0 where the second map is constant, NaN where the first is.

    Raises
    ------
    UsageError
        The maps differ in shape.
    FailureError
        A map holds NaN or infinity.
    """
    return _correlation(spearmanr, first, second)


def linear_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Pearson's correlation of the magnitudes of two maps; parameters and errors as of :func:`rank_correlation`."""
    return _correlation(pearsonr, first, second)


@dataclass(frozen=True, eq=False)
class Randomized:
    """How alike maps are once some layers have lost their weights.

    Attributes
    ----------
    layers : tuple of str
        The layers that lost their weights at this stage; those of the stages before have lost theirs too.
    spearman, pearson : Measured
        Of every sample, with mean and interval.
    """

    layers: tuple[str, ...]
    spearman: Measured
    pearson: Measured


def weight_randomization(
    model: Model,
    samples: Iterable[Feed],
    explain: Callable[[Model, Feed], ArrayLike],
    *,
    output: str | None = None,
    stages: int = STAGES,
    seed: int = 0,
) -> tuple[Randomized, ...]:
    """Cascading randomisation of weights (Adebayo et al., "Sanity checks for saliency maps", 2018).

    Layer by layer from the output towards the input, weights become random, and the map of each stage is compared with
    that of the model. ``model`` itself never changes. Explain a fixed class, or the maps differ because the
    prediction does.

    >>> weight_randomization(model, feeds, lambda m, feed: onnxplain.explain(m, feed, "gradient", 3).map()[0])

    Parameters
    ----------
    model : Model
    samples : iterable of feeds
        Taken one by one; nothing but the numbers is kept.
    explain : callable
        From a model and a sample to one map.
    output : str, optional
        The output whose layers are redrawn; the only one by default.
    stages : int
        How many models with random weights there are, each with the same number of layers more than the one before.
        All of them stay in memory while samples arrive.
    seed : int
        Of the weights; see :func:`onnxplain.engine.redrawn.cascade`.

    Returns
    -------
    tuple of Randomized
        From the output to the input.

    Raises
    ------
    UsageError
        Fewer than one stage, or maps that differ in shape.
    UnsupportedError
        No layer has weights.
    FailureError
        A map holds NaN or infinity.
    """
    redrawn = list(cascade(model, parse_target(model.graph, None, output).tensor, stages, seed))
    found: list[list[tuple[float, float]]] = [[] for _ in redrawn]
    for feed in samples:
        own = explain(model, feed)
        for stage, values in zip(redrawn, found, strict=True):
            other = explain(stage.model, feed)
            values.append((rank_correlation(own, other), linear_correlation(own, other)))
    return tuple(
        Randomized(stage.layers, *(Measured.of(column) for column in np.reshape(values, (-1, 2)).T))
        for stage, values in zip(redrawn, found, strict=True)
    )


def _correlation(correlation: Callable[..., Any], first: ArrayLike, second: ArrayLike) -> float:
    a, b = (np.abs(finite(values)) for values in (first, second))
    if a.shape != b.shape:
        raise UsageError(f"maps that are compared have one shape, not {a.shape} and {b.shape}")
    if a.max() == a.min():
        return float("nan")
    return 0.0 if b.max() == b.min() else float(correlation(a.reshape(-1), b.reshape(-1)).statistic)
