"""What users ask for by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxplain.checks import check_count
from onnxplain.engine.run import Work
from onnxplain.errors import UsageError
from onnxplain.explanation import Explanation
from onnxplain.methods.job import Job, Progress
from onnxplain.methods.table import check_method, check_work
from onnxplain.model import Feed, Model, load
from onnxplain.origin import Origin
from onnxplain.relevance.plan import Plan
from onnxplain.targets import TargetSpec, parse_target


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
    at: str | Sequence[str] = (),
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
        Of the methods that draw random numbers; part of every call, so that calls are alike, and the others give the
        same whatever it is.
    at : str or sequence of str
        Internal tensors whose relevance is wanted too: of input-x-gradient the gradient times their value, of
        integrated-gradients their conductance. A model of indices (words, bytes) has relevance there only, at the
        first floating tensor behind its input.
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
        What was asked is wrong: method, option, target, input; or would have no effect on the method: a rule book, an
        engine, a dtype, ``at``, ``ledger``.
    UnsupportedError
        An op on the path has no rule.
    FailureError
        NaN or Inf, or an instrumented graph that disagrees with the file.
    """
    model = (model if isinstance(model, Model) else load(model)).apart()
    taken = check_method(method, options, rules)
    book = rules or taken.rules
    kept = tuple(model.tensor(name) for name in ([at] if isinstance(at, str) else at))
    work = Work(engine, dtype, batch_size, kept, ledger)
    check_work(method, work)
    check_count("seed", seed, least=0)
    feed = model.check_feed(feed)
    chosen = parse_target(model.graph, target, output, labels, keep_softmax)
    job = Job(model, feed, chosen, book, work, seed, method, progress)
    asked = {
        "target": target,
        "output": output,
        "rules": book,
        "engine": engine,
        "dtype": dtype,
        "batch_size": batch_size,
        "seed": seed,
        "at": [tensor.name for tensor in kept],
        "keep_softmax": keep_softmax,
        "ledger": ledger,
        "providers": list(model.runtime.providers),
        **options,
    }
    e = taken.explain(job, **options)
    runs = () if model.runtime.chosen == "named" else (f"runs on {model.runtime}",)
    return replace(e, notes=(*runs, *e.notes), origin=Origin(model.file.identity, asked))


def plan(
    model: Model | Any,
    method: str = "lrp",
    rules: str | None = None,
    target: TargetSpec = None,
    output: str | None = None,
    keep_softmax: bool = False,
    **options: Any,
) -> Plan:
    """The layers between input and target and the rule of each, without running anything.

    Parameters
    ----------
    model, method, rules, target, output, keep_softmax, **options
        As for :func:`explain`.

    Returns
    -------
    Plan
        What :func:`explain` carries out for the same call.

    Raises
    ------
    UsageError
        What was asked is wrong, or the method carries out no plan, or none that is known before an input is.
    UnsupportedError
        An op on the path has no rule.
    """
    model = model if isinstance(model, Model) else load(model)
    return job_for(model, {}, method, rules, output, keep_softmax, options, target)[1]


def job_for(
    model: Model,
    feed: Feed,
    method: str,
    rules: str | None,
    output: str | None,
    keep_softmax: bool,
    options: Mapping[str, Any],
    target: TargetSpec = None,
) -> tuple[Job, Plan]:
    """The job of a method and the plan it would carry out; raises as :func:`plan`."""
    taken = check_method(method, options, rules)
    if isinstance(taken.plan, str):
        raise UsageError(f"method {method!r} has no plan: {taken.plan}")
    chosen = parse_target(model.graph, target, output, None, keep_softmax)
    job = Job(model, feed, chosen, rules or taken.rules, Work(), 0, method)
    return job, taken.plan(job, options)
