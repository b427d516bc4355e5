"""The gradient family."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from onnxplain.checks import check_count, check_number
from onnxplain.engine.run import Result
from onnxplain.errors import FailureError, UsageError
from onnxplain.explanation import Explanation
from onnxplain.graph.layers import Tensor
from onnxplain.methods.job import GRADIENT, Job
from onnxplain.model import Feed
from onnxplain.relevance.books import RuleBook, load_rule_book
from onnxplain.relevance.plan import Plan
from onnxplain.relevance.unweighted import Unstrided

POOLS = ("MaxPool", "AveragePool")


def gradient(job: Job) -> Explanation:
    """The gradient of the target in each input (Simonyan et al. 2014)."""
    plan = job.plan(GRADIENT)
    return _without_ledger(job.explanation(plan, job.run(plan)))


def input_x_gradient(job: Job) -> Explanation:
    """The gradient times the input, of a tensor inside the model times its value."""
    plan = job.plan(GRADIENT)
    result = job.run(plan, taps=_inner(job, plan))
    e = _without_ledger(job.explanation(plan, result))
    values = _values(job.feed, result)
    e.relevance, e.at = (
        {name: _product(name, value, values[name].astype(value.dtype)) for name, value in found.items()}
        for found in (e.relevance, e.at)
    )
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
    _check_floating(job)
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
    return mean.explained(mean.over((copies(index), 1 / count) for index in range(count)))


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

    Notes
    -----
    Tensors inside the model get their conductance (Dhamdhere et al. 2019): the gradient integrated over the values
    that the tensor takes on the way, by trapezoids.
    """
    check_count("steps", steps)
    _check_floating(job)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    base = {n: _filled(v, baseline) if v.dtype.kind == "f" else v for n, v in job.feed.items()}

    def point(index: int) -> dict[str, np.ndarray]:
        alpha = (nodes[index] + 1) / 2
        return {
            n: (base[n] + alpha * (v - base[n])).astype(v.dtype) if v.dtype.kind == "f" else v
            for n, v in job.feed.items()
        }

    mean = _MeanGradient(job, steps + 1, inner=True)
    start = mean.run(base)
    conductance = _Conductance(base, start)
    means = mean.over(((point(index), weights[index] / 2) for index in range(steps)), conductance.move)
    conductance.move(job.feed, mean.clean)
    moved = {n: value * (job.feed[n] - base[n]).astype(value.dtype) for n, value in means.items() if n in job.feed}
    e = mean.explained({n: value.astype(job.work.dtype) for n, value in conductance.total.items()} | moved)
    rise = np.array([a.value - b.value for a, b in zip(e.target, start.chosen, strict=True)])
    total = np.sum([v.reshape(len(v), -1).sum(axis=1, dtype=np.float64) for v in e.relevance.values()], axis=0)
    e.extras["completeness_gap"] = total - rise
    return e


def _check_floating(job: Job) -> None:
    sources = job.plan(GRADIENT).sources
    if not any(job.feed[tensor.name].dtype.kind == "f" for tensor in sources):
        types = ", ".join(f"{tensor.name!r} is {tensor.dtype}" for tensor in sources)
        raise UsageError(f"method {job.method!r} moves floating inputs, and here {types}; method 'gradient' moves none")


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
    """Gradients at many points for the target that the clean input has; of ``inner`` tensors the values, too.

    Attributes
    ----------
    clean : Result
        The gradient at the clean input.
    """

    def __init__(self, job: Job, points: int, inner: bool = False) -> None:
        self.job = job
        self.plan = job.plan(GRADIENT)
        self.points = points
        self._taps = _inner(job, self.plan) if inner else ()
        self.clean = job.run(self.plan, repeats=points, taps=self._taps)
        self._explanation = _without_ledger(job.explanation(self.plan, self.clean))
        self._target = replace(job.target, spec=self.clean.weights)
        self._timings = collections.Counter(self.clean.timings)

    def run(self, feed: Feed) -> Result:
        """The gradient at one point, for the clean input's target."""
        result = self.job.run(self.plan, feed, self._target, repeats=self.points, taps=self._taps)
        self._timings.update(result.timings)
        return result

    def over(
        self, points: Iterable[tuple[Feed, float]], seen: Callable[[Feed, Result], None] = lambda feed, result: None
    ) -> dict[str, np.ndarray]:
        """The weighted sum of the gradients at ``points``, summed in float64; ``seen`` is given each of them."""
        e = self._explanation
        sums = {name: np.zeros(value.shape, np.float64) for name, value in (e.relevance | e.at).items()}
        for feed, weight in points:
            result = self.run(feed)
            seen(feed, result)
            for tensor, value in result.relevance.items():
                sums[tensor.name] += weight * value
        return {name: value.astype(self.job.work.dtype) for name, value in sums.items()}

    def explained(self, found: Feed) -> Explanation:
        """The explanation of the clean input with what was ``found`` for inputs and inner tensors."""
        e = self._explanation
        e.relevance, e.at = ({name: found[name] for name in names} for names in (e.relevance, e.at))
        e.timings = dict(self._timings)
        return e


class _Conductance:
    """The gradient of inner tensors times the change of their values, from one point of a way to the next.

    Attributes
    ----------
    total : dict of str to numpy.ndarray
        By trapezoids, in float64.
    """

    def __init__(self, feed: Feed, result: Result) -> None:
        self._last = self._place(feed, result)
        self.total = {name: np.zeros(gradient.shape) for name, (gradient, _) in self._last.items()}

    def move(self, feed: Feed, result: Result) -> None:
        """To the next point."""
        here = self._place(feed, result)
        for name, (gradient, value) in here.items():
            before, start = self._last[name]
            with np.errstate(invalid="ignore"):  # between infinite values
                change = np.where(value == start, 0.0, value - start)
            self.total[name] += _product(name, (before + gradient) / 2, change)
        self._last = here

    @staticmethod
    def _place(feed: Feed, result: Result) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        values = _values(feed, result)
        return {
            tensor.name: (gradient.astype(np.float64), values[tensor.name].astype(np.float64))
            for tensor, gradient in result.relevance.items()
            if tensor in result.values
        }


def _product(name: str, gradient: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Gradient times value, 0 where the gradient is: values may be infinite there, such as scores behind a mask."""
    product: np.ndarray = np.multiply(gradient, value, out=np.zeros_like(gradient), where=gradient != 0)
    if not np.isfinite(product).all():
        raise FailureError(
            f"tensor {name!r} holds infinite values that the target depends on, so their shares are not finite; "
            "method 'gradient' explains it"
        )
    return product


def _inner(job: Job, plan: Plan) -> tuple[Tensor, ...]:
    """The tensors inside the model that the job asks for and that ``plan`` reaches."""
    reached = {plan.target, *(tensor for layer in plan.path for tensor in layer.inputs)}
    return tuple(tensor for tensor in job.work.keep if tensor in reached and tensor.name not in job.feed)


def _values(feed: Feed, result: Result) -> Feed:
    return {**feed, **{tensor.name: value for tensor, value in result.values.items()}}


def _without_ledger(e: Explanation) -> Explanation:
    """Gradients are no share of the target: nothing is conserved and nothing is booked."""
    e.ledger = None
    return e


def _range(value: np.ndarray) -> np.ndarray:
    axes = tuple(range(1, value.ndim))
    return (value.max(axis=axes, keepdims=True) - value.min(axis=axes, keepdims=True)) if value.size else value
