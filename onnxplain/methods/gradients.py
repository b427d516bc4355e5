"""The gradient family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from onnxplain.checks import check_count, check_number
from onnxplain.engine.run import Result
from onnxplain.errors import UsageError
from onnxplain.explanation import Explanation
from onnxplain.methods.job import GRADIENT, Job
from onnxplain.model import Feed
from onnxplain.relevance.books import RuleBook, load_rule_book
from onnxplain.relevance.unweighted import Unstrided

POOLS = ("MaxPool", "AveragePool")


def gradient(job: Job) -> Explanation:
    """The gradient of the target in each input (Simonyan et al. 2014)."""
    plan = job.plan(GRADIENT)
    return _without_ledger(job.explanation(plan, job.run(plan)))


def input_x_gradient(job: Job) -> Explanation:
    """The gradient times the input."""
    e = gradient(job)
    e.relevance = {name: value * job.feed[name].astype(value.dtype) for name, value in e.relevance.items()}
    return e


def guided_backprop(job: Job, stride_artifacts: str = "plain", strided_pools: str = "plain") -> Explanation:
    """Gradients cut at every rectifier where the input or the signal is negative (Springenberg et al. 2015).

    Parameters
    ----------
    job : Job
    stride_artifacts, strided_pools : {"plain", "remedy"}
        See :func:`signal_book`.
    """
    plan = job.plan(signal_book("guided-backprop", stride_artifacts, strided_pools))
    return _without_ledger(job.explanation(plan, job.run(plan)))


def deconvnet(job: Job, stride_artifacts: str = "plain", strided_pools: str = "plain") -> Explanation:
    """Gradients cut at every rectifier where the signal is negative (Zeiler and Fergus 2014).

    Parameters
    ----------
    job : Job
    stride_artifacts, strided_pools : {"plain", "remedy"}
        See :func:`signal_book`.
    """
    plan = job.plan(signal_book("deconvnet", stride_artifacts, strided_pools))
    return _without_ledger(job.explanation(plan, job.run(plan)))


def signal_book(name: str, stride_artifacts: str = "plain", strided_pools: str = "plain") -> RuleBook:
    """A rule book with the remedy for the grid that strides draw (Oramas et al. 2019), or without it.

    Parameters
    ----------
    name : str
    stride_artifacts : {"plain", "remedy"}
        Whether convolutions hand the signal down by their gradient or by the rule ``unstrided``.
    strided_pools : {"plain", "remedy"}
        The same for pools.

    Raises
    ------
    UsageError
        Another value.
    """
    book = load_rule_book(name)
    options = {"stride_artifacts": (stride_artifacts, ["Conv"]), "strided_pools": (strided_pools, list(POOLS))}
    for option, (value, ops) in options.items():
        if value not in ("plain", "remedy"):
            raise UsageError(f"{option} must be plain or remedy, not {value!r}")
        if value == "remedy":
            book = book.with_rule(Unstrided(), op=ops)
    return book


def smoothgrad(job: Job, noise: float = 0.1, count: int = 20) -> Explanation:
    """The mean gradient over noisy copies of the input (Smilkov et al. 2017).

    Parameters
    ----------
    job : Job
    noise : float
        Standard deviation of the Gaussian noise as a share of each sample's range (max - min).
    count : int
        Number of copies. The noise depends on the seed only, not on the batch.
    """
    check_number("noise", noise, zero=True)
    check_count("count", count)
    sigma = {name: noise * _range(value) for name, value in job.feed.items()}

    def copies(index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([job.seed, index])
        return {
            name: (value + sigma[name] * rng.standard_normal(value.shape[1:])).astype(value.dtype)
            if value.dtype.kind == "f"
            else value
            for name, value in job.feed.items()
        }

    mean = _MeanGradient(job, count)
    mean.explanation.relevance = mean.over((copies(index), 1 / count) for index in range(count))
    return mean.explanation


def integrated_gradients(job: Job, baseline: float | np.ndarray = 0.0, steps: int = 32) -> Explanation:
    """The gradient integrated from a baseline to the input (Sundararajan et al. 2017), by Gauss-Legendre quadrature.

    Parameters
    ----------
    job : Job
    baseline : float or numpy.ndarray
        Where the path begins: one value for all elements, or an array that broadcasts against each floating input.
    steps : int
        Quadrature points. ``extras["completeness_gap"]`` holds, per sample, the sum of the attributions minus
        f(input) - f(baseline).
    """
    check_count("steps", steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    base = {n: _filled(v, baseline) if v.dtype.kind == "f" else v for n, v in job.feed.items()}

    def point(index: int) -> dict[str, np.ndarray]:
        alpha = (nodes[index] + 1) / 2
        return {
            n: (base[n] + alpha * (v - base[n])).astype(v.dtype) if v.dtype.kind == "f" else v
            for n, v in job.feed.items()
        }

    mean = _MeanGradient(job, steps + 1)
    means = mean.over((point(index), weights[index] / 2) for index in range(steps))
    e = mean.explanation
    e.relevance = {n: value * (job.feed[n] - base[n]).astype(value.dtype) for n, value in means.items()}
    start = mean.run(base)
    rise = np.array([a.value - b.value for a, b in zip(e.target, start.chosen, strict=True)])
    total = np.sum([v.reshape(len(v), -1).sum(axis=1, dtype=np.float64) for v in e.relevance.values()], axis=0)
    e.extras["completeness_gap"] = total - rise
    return e


def _filled(value: np.ndarray, baseline: float | np.ndarray) -> np.ndarray:
    """The baseline in the shape and type of an input."""
    try:
        base = np.broadcast_to(np.asarray(baseline, value.dtype), value.shape)
    except (TypeError, ValueError):
        base = None
    if base is None or not np.isfinite(base).all():
        shape = "x".join(map(str, value.shape))
        raise UsageError(f"baseline must be a number, or an array that broadcasts against {shape}, not {baseline!r}")
    return base


class _MeanGradient:
    """Gradients at many points for the target that the clean input has.

    Attributes
    ----------
    explanation : Explanation
        The gradient at the clean input.
    """

    def __init__(self, job: Job, points: int) -> None:
        self.job = job
        self.plan = job.plan(GRADIENT)
        self.points = points
        clean = job.run(self.plan, repeats=points)
        self.explanation = _without_ledger(job.explanation(self.plan, clean))
        self._target = replace(job.target, spec=clean.weights)

    def run(self, feed: Feed) -> Result:
        """The gradient at one point, for the clean input's target."""
        return self.job.run(self.plan, feed, self._target, repeats=self.points)

    def over(self, points: Iterable[tuple[Feed, float]]) -> dict[str, np.ndarray]:
        """The weighted sum of the gradients at ``points``, summed in float64."""
        sums = {name: np.zeros(value.shape, np.float64) for name, value in self.explanation.relevance.items()}
        for feed, weight in points:
            for tensor, value in self.run(feed).relevance.items():
                if tensor.name in sums:
                    sums[tensor.name] += weight * value
        return {name: value.astype(self.job.work.dtype) for name, value in sums.items()}


def _without_ledger(e: Explanation) -> Explanation:
    """Gradients are no share of the target: nothing is conserved and nothing is booked."""
    e.ledger = None
    return e


def _range(value: np.ndarray) -> np.ndarray:
    axes = tuple(range(1, value.ndim))
    return (value.max(axis=axes, keepdims=True) - value.min(axis=axes, keepdims=True)) if value.size else value
