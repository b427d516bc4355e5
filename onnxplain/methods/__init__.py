"""What users ask for by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxplain.engine.run import Work
from onnxplain.errors import UsageError
from onnxplain.explanation import Explanation
from onnxplain.methods import (
    ablation_cam,
    cam,
    fixations,
    fullgrad,
    gradients,
    lrp,
    perturbation,
    salient_relevance,
    score_cam,
    sise,
    vebi,
)
from onnxplain.methods.job import GRADIENT, Job, Progress
from onnxplain.model import Feed, Model, load
from onnxplain.origin import Origin
from onnxplain.relevance.plan import Plan
from onnxplain.targets import TargetSpec, parse_target

METHODS: dict[str, Callable[..., Explanation]] = {
    "lrp": lrp.lrp,
    "gradient": gradients.gradient,
    "input-x-gradient": gradients.input_x_gradient,
    "smoothgrad": gradients.smoothgrad,
    "integrated-gradients": gradients.integrated_gradients,
    "guided-backprop": gradients.guided_backprop,
    "deconvnet": gradients.deconvnet,
    "fixations": fixations.fixations,
    "salient-relevance": salient_relevance.salient_relevance,
    "vebi": vebi.vebi,
    "sise": sise.sise,
    "ada-sise": sise.ada_sise,
    "score-cam": score_cam.score_cam,
    "rise": perturbation.rise,
    "occlusion": perturbation.occlusion,
    "grad-cam": cam.grad_cam,
    "grad-cam++": cam.grad_cam_plus_plus,
    "hires-cam": cam.hires_cam,
    "layer-cam": cam.layer_cam,
    "xgrad-cam": cam.xgrad_cam,
    "ablation-cam": ablation_cam.ablation_cam,
    "guided-grad-cam": cam.guided_grad_cam,
    "fullgrad": fullgrad.fullgrad,
}
"""Name to the function that carries the method out; its keyword arguments are the method's options."""

RULE_BOOKS = {"lrp": "epsilon-plus-flat", "salient-relevance": "salient-relevance"}
"""The methods that take a rule book, and the book they take unless told otherwise."""


def explain(
    model: Model | Any,
    feed: Feed | np.ndarray,
    method: str = "lrp",
    target: TargetSpec = None,
    output: str | None = None,
    rules: str | None = None,
    engine: str = "auto",
    dtype: str = "float32",
    batch_size: int | None = None,
    seed: int = 0,
    *,
    at: Sequence[str] = (),
    labels: Sequence[str] | None = None,
    keep_softmax: bool = False,
    ledger: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Explanation:
    """Explain what a model decided.

    Parameters
    ----------
    model : Model or path
    feed : mapping of str to array, or array
        Model-ready inputs, samples along axis 0; a bare array for a model with one input.
    method : str
        A name from :func:`onnxplain.available_methods`.
    target : see :func:`onnxplain.targets.parse_target`
        The predicted class by default.
    output : str, optional
        The output to explain, or an internal tensor; the only output by default.
    rules : str, optional
        A rule book, for the methods that take one: a name from :func:`onnxplain.available_rule_books` or a TOML file.
        By default the method's own: ``epsilon-plus-flat`` for ``lrp``, ``salient-relevance`` for
        ``salient-relevance``.
    engine : {"auto", "host", "compiled"}
    dtype : {"float32", "float64"}
        float64 computes forward and backward pass on the host engine.
    batch_size : int, optional
        Samples computed at once; chosen from a memory budget by default.
    seed : int
        Of the methods that draw random numbers.
    at : sequence of str
        Internal tensors whose relevance is wanted too. A model of indices (words, bytes) has relevance there only, at
        the first floating tensor behind its input.
    labels : sequence of str, optional
        Class names, for targets by label and for reports.
    keep_softmax : bool
        Explain behind a closing Softmax, LogSoftmax or Sigmoid.
    ledger : bool
        Keep the ledger on the compiled engine too.
    progress : callable, optional
        Called with (done, total) by methods that take long after the backward pass.
    **options
        The method's own; an unknown one is an error.

    Returns
    -------
    Explanation

    Raises
    ------
    UsageError
        What was asked is wrong: method, option, target, input.
    UnsupportedError
        An op on the path has no rule.
    FailureError
        NaN or Inf, or an instrumented graph that disagrees with the file.
    """
    model = model if isinstance(model, Model) else load(model)
    function = _method(method)
    _check_options(method, function, options)
    feed = model.check_feed(feed)
    chosen = parse_target(model.graph, target, output, labels, keep_softmax)
    work = Work(engine, dtype, batch_size, tuple(model.tensor(name) for name in at), ledger)
    job = Job(model, feed, chosen, _rule_book(method, rules), work, seed, method, progress)
    asked = {
        "target": target,
        "output": output,
        "rules": job.rules if method in RULE_BOOKS else None,
        "engine": engine,
        "dtype": dtype,
        "batch_size": batch_size,
        "seed": seed,
        "at": list(at),
        "keep_softmax": keep_softmax,
        "ledger": ledger,
        "providers": list(model.runtime.providers),
        **options,
    }
    return replace(function(job, **options), origin=Origin(model.file.identity, asked))


def plan(
    model: Model | Any,
    method: str = "lrp",
    rules: str | None = None,
    target: TargetSpec = None,
    output: str | None = None,
    keep_softmax: bool = False,
    **options: Any,
) -> Plan:
    """The layers between input and target and the rule of each, without running anything."""
    model = model if isinstance(model, Model) else load(model)
    return job_for(model, {}, method, rules, output, keep_softmax, options, target)[1]


def job_for(
    model: Model,
    feed: Feed,
    method: str,
    rules: str | None,
    output: str | None,
    keep_softmax: bool,
    options: dict[str, Any],
    target: TargetSpec = None,
) -> tuple[Job, Plan]:
    """The job of a method and the plan it would carry out."""
    function = _method(method)
    _check_options(method, function, options)
    chosen = parse_target(model.graph, target, output, None, keep_softmax)
    job = Job(model, feed, chosen, _rule_book(method, rules), Work(), 0, method)
    match method:
        case "lrp":
            return job, job.plan(options=options)
        case "salient-relevance":
            return job, salient_relevance.relevance_plan(job, options)
        case "guided-backprop" | "deconvnet":
            return job, job.plan(gradients.signal_book(method, **options))
        case "vebi":
            own = {name: value for name, value in options.items() if name.startswith("stride")}
            return job, job.plan(gradients.signal_book(vebi.RULES, **own))
        case "rise" | "occlusion" | "score-cam":
            raise UsageError(f"method {method!r} only runs the model and takes no backward step, so it has no plan")
        case _:
            return job, job.plan(GRADIENT)


def check_method(name: str, options: dict[str, Any]) -> None:
    """Make sure that there is a method and that it has these options.

    Raises
    ------
    UsageError
        There is none, or it has not.
    """
    _check_options(name, _method(name), options)


def _rule_book(method: str, rules: str | None) -> str:
    return rules or RULE_BOOKS.get(method, RULE_BOOKS["lrp"])


def _method(name: str) -> Callable[..., Explanation]:
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def _check_options(name: str, function: Callable[..., Explanation], options: dict[str, Any]) -> None:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for option in options:
        if option not in known:
            offer = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"method {name!r} has no option {option!r}; {offer}")
