"""Carry a plan out: split the batch, choose the engine, resolve the target, gather the parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onnxplain.checks import check_count
from onnxplain.engine.budget import WORTH_A_THREAD, even_size, samples_at_once, side_by_side
from onnxplain.engine.recording import Recording
from onnxplain.engine.sessions import Session, give_memory_back
from onnxplain.errors import FailureError, UnsupportedError, UsageError
from onnxplain.graph.layers import Tensor
from onnxplain.model import Feed, Model
from onnxplain.ops.signs import nonnegative_tensors
from onnxplain.relevance.plan import Plan
from onnxplain.targets import Chosen, Target
from onnxplain.wording import counted

if TYPE_CHECKING:
    from onnxplain.engine.compiled import CompiledGraph

ENGINES = ("auto", "host", "compiled")


@dataclass(frozen=True)
class Work:
    """How a plan is to be carried out.

    Attributes
    ----------
    engine : {"auto", "host", "compiled"}
    dtype : {"float32", "float64"}
    batch_size : int or None
        None chooses, see :mod:`onnxplain.engine.budget`.
    keep : tuple of Tensor
        Internal tensors whose relevance is asked for.
    ledger : bool
        Whether the compiled engine adds the ledger's sums; the host engine always keeps it.
    repeats : int
        How often the caller will run the plan; weighs in the choice of the engine.
    taps : tuple of Tensor
        Internal tensors whose values are asked for.
    elementwise : bool
        Whether the ledger holds what layers absorb element by element instead of its sums.
    """

    engine: str = "auto"
    dtype: str = "float32"
    batch_size: int | None = None
    keep: tuple[Tensor, ...] = ()
    ledger: bool = False
    repeats: int = 1
    taps: tuple[Tensor, ...] = ()
    elementwise: bool = False


@dataclass
class Result:
    """What a plan gave for a batch."""

    relevance: dict[Tensor, np.ndarray]
    prediction: np.ndarray
    weights: np.ndarray
    chosen: list[Chosen]
    ledger: dict[str, dict[str, np.ndarray]] | None
    engine: str
    values: dict[Tensor, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)


def run_plan(model: Model, plan: Plan, target: Target, feed: Feed, work: Work) -> Result:
    """Carry ``plan`` out on every sample of ``feed``; see :func:`run_parts`."""
    return joined([result for _, result in run_parts(model, plan, target, feed, work)])


def run_parts(model: Model, plan: Plan, target: Target, feed: Feed, work: Work) -> Iterator[tuple[Feed, Result]]:
    """Carry ``plan`` out on ``feed`` part by part, as many samples at a time as the memory budget allows.

    Yields
    ------
    dict of str to numpy.ndarray
        The part of ``feed``.
    Result
        What it gave.

    Raises
    ------
    UsageError
        Unknown engine or precision, or float64 asked of the compiled engine.
    UnsupportedError
        The compiled engine was named and a layer has no graph form.
    """
    if work.engine not in ENGINES:
        raise UsageError(f"unknown engine {work.engine!r}; there are {', '.join(ENGINES)}")
    if work.dtype not in ("float32", "float64"):
        raise UsageError(f"dtype must be float32 or float64, not {work.dtype!r}")
    if work.dtype == "float64" and work.engine == "compiled":
        raise UsageError("float64 runs on the host engine only; leave engine at auto or host")
    if work.batch_size is not None:
        check_count("batch_size", work.batch_size)
    count = _samples(model, feed)
    started = time.perf_counter()
    engine, notes = _choose(model, plan, work, count, target, feed)
    choosing = time.perf_counter() - started
    size, passes = _cut(model, plan, work, count, target, feed, engine)
    alone = passes > 1 and count > size
    run = partial(_run_compiled if engine == "compiled" else _run_host, alone=alone)

    def part(start: int) -> tuple[Feed, Result]:
        chunk = {name: value[start : start + size] for name, value in feed.items()} if count > size else dict(feed)
        here = replace(target, first=start, total=count) if count > size else target
        key = (engine, plan.key, plan.sources, here.key, replace(work, repeats=1), size)
        result = model.once(key, chunk, partial(run, model, plan, here, chunk, work, size))
        if plan.moves_samples and count > size:
            _check_kept(result, size)
        if result.ledger is not None and (plan.moves_samples or size == 1) and not work.elementwise:
            result = replace(result, ledger=_of_the_whole(result.ledger))
        timings = result.timings
        if engine == "compiled" and not start:  # an automatic choice has built the session
            timings = {**timings, "build": timings["build"] + choosing}
        return chunk, replace(result, notes=notes, timings=timings)

    ahead = size * passes * (1 if passes == 1 or work.keep or work.taps else ROUNDS)
    for start in range(0, count, ahead):
        yield from _at_once(part, range(start, min(start + ahead, count), size), passes)


def _at_once(
    part: Callable[[int], tuple[Feed, Result]], starts: Sequence[int], passes: int
) -> list[tuple[Feed, Result]]:
    """All parts, ``passes`` at a time, a thread each: threads that share one would wait for each other."""
    if len(starts) == 1:
        return [part(starts[0])]
    from onnxplain.engine.workers import share

    found: dict[int, tuple[Feed, Result]] = {}

    def work(start: int) -> None:
        chunk, result = part(start)
        timings = {name: seconds / min(passes, len(starts)) for name, seconds in result.timings.items()}
        found[start] = chunk, replace(result, timings=timings)

    share(work, [(start,) for start in starts], passes)
    return [found[start] for start in starts]


def _samples(model: Model, feed: Feed) -> int:
    if model.batched or model.fixed_batch:
        return len(next(iter(feed.values())))
    return 1


def _choose(
    model: Model, plan: Plan, work: Work, count: int, target: Target, feed: Feed
) -> tuple[str, tuple[str, ...]]:
    """The engine and, where it was chosen automatically, why."""
    if work.engine != "auto":
        return work.engine, ()
    if work.dtype == "float64":
        return "host", ("engine host: float64",)
    if model.runtime.on_gpu or count * work.repeats >= COMPILE_FROM:
        size, passes = _cut(model, plan, work, count, target, feed, "compiled")
        try:
            batch = _session_batch(model, work, min(count, size), size)
            alone = passes > 1 and count > size
            part = {name: value[:size] for name, value in feed.items()} if count > size else feed
            _compiled(model, plan, work, target, part, _key(model, plan, work, target, part, batch, alone))
        except UnsupportedError as error:
            return "host", (f"engine host: {error}",)
        return "compiled", (
            f"engine compiled: {'a GPU' if model.runtime.on_gpu else f'{count * work.repeats} passes'}",
        )
    return "host", (f"engine host: {counted(count, 'sample')}",)


COMPILE_FROM = 16
"""From how many samples on building a session of its own pays."""


ROUNDS = 4
"""How many parts a thread works on before all wait for the last; one where results hold more than inputs do."""


def _cut(model: Model, plan: Plan, work: Work, count: int, target: Target, feed: Feed, engine: str) -> tuple[int, int]:
    """How many samples a pass takes, and how many passes go on at once.

    A pass takes one sample where samples may leave the first axis: what belongs to which cannot be told there.
    """
    threads = 1 if model.runtime.on_gpu or callable(target.spec) else _threads(model, engine)
    given = model.fixed_batch or (1 if plan.moves_samples and model.batched else work.batch_size)
    if given is not None or not model.batched or count <= 1:
        return given or max(count, 1), threads if engine == "host" else 1
    recording = model.recording(feed, plan.target, 1)
    item = 8 if work.dtype == "float64" else 4
    tensors = {t for layer in plan.path for t in (*layer.inputs, *layer.outputs) if t is not None and not t.static}
    sizes = [int(np.prod(recording.shape(tensor))) * item for tensor in tensors]
    weights = sum(t.value.nbytes for layer in plan.path for t in layer.inputs if t is not None and t.value is not None)
    passes = threads if engine == "host" or side_by_side(count, sum(sizes), weights, threads) else 1
    most = samples_at_once(sum(sizes), max(sizes, default=0), weights, model.runtime.on_gpu, passes)
    if engine == "compiled":
        return even_size(count, max(1, most // passes), passes), passes
    worth_threads = sum(sizes) >= WORTH_A_THREAD
    return even_size(count, min(most, -(-count // passes)) if worth_threads else most), passes


def _threads(model: Model, engine: str) -> int:
    from onnxplain.engine.workers import THREADS

    return THREADS if engine == "host" else min(model.runtime.threads or THREADS, THREADS)


def _run_host(model: Model, plan: Plan, target: Target, feed: Feed, work: Work, size: int, alone: bool) -> Result:
    from onnxplain.engine.host import Host
    from onnxplain.engine.hosted import Trace, forward_float64, walk_back
    from onnxplain.engine.scout import tensors_read

    started = time.perf_counter()
    recording = model.recording(feed, plan.target)
    nonnegative = model.sessions.get("nonnegative", lambda: nonnegative_tensors(model.graph))
    key = ("read", plan.key, tuple(sorted((n, v.shape) for n, v in feed.items())))
    read = model.sessions.get(key, lambda: tensors_read(plan, recording, nonnegative, True))
    wanted = {*read, target.output, *work.taps}
    trace = Trace(Host(np.dtype(work.dtype)), recording, {}, nonnegative)
    if work.dtype == "float64":
        layers = model.graph.path(target.output, model.graph.inputs)
        forward_float64(layers, trace, feed, wanted)
        prediction = trace.values[target.output.name]
    else:
        trace.values = model.trace([*wanted], feed, alone)
        prediction = trace.values[target.output.name]
    y = trace.value(plan.target)
    ran = time.perf_counter()
    weights = target.weights(y)
    relevance, ledger = walk_back(plan, trace, _seed(plan, target, y, weights), work.keep, elementwise=work.elementwise)
    values = {tensor: trace.value(tensor) for tensor in work.taps}
    timings = {"forward": ran - started, "backward": time.perf_counter() - ran}
    return Result(relevance, prediction, weights, target.describe(y, weights), ledger, "host", values, timings=timings)


def _seed(plan: Plan, target: Target, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if target.direct:
        return weights
    chosen = weights != 0  # others may be infinite, such as classes that a mask rules out
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite ends the walk
        return np.where(chosen, weights * (y if plan.seed is None else plan.seed), 0).astype(y.dtype)


def compiled_graph(model: Model, plan: Plan, work: Work, target: Target, feed: Feed) -> CompiledGraph:
    """The compiled graph for samples of this shape."""
    from onnxplain.engine.compiled import compile_plan

    return compile_plan(
        model.graph,
        replace(plan, seed=1.0) if target.direct else plan,
        _recordings(model, plan, feed),
        tuple(dict.fromkeys([target.output, plan.target, *work.taps])),
        work.keep,
        work.ledger,
        not model.runtime.on_gpu,
        work.elementwise,
    )


def _session_batch(model: Model, work: Work, count: int, size: int) -> int | None:
    """The batch size that a session is built for; None where the file fixes it.

    Inner tensors need not hold the samples along axis 0, so what was padded could not be cut off them.
    """
    if not model.batched:
        return None
    return count if work.ledger or work.keep or work.taps else size


class _Key(NamedTuple):
    """What a session is built for: samples of this shape in batches of this size, on a single thread if ``alone``."""

    rest: tuple[Any, ...]
    batch: int | None
    alone: bool


def _key(model: Model, plan: Plan, work: Work, target: Target, feed: Feed, batch: int | None, alone: bool) -> _Key:
    shapes = tuple(sorted((name, value.shape[1 if model.batched else 0 :]) for name, value in feed.items()))
    kept = work.taps, work.keep, work.ledger, work.elementwise
    return _Key(("compiled", plan.key, target.direct, target.output, plan.target, *kept, shapes), batch, alone)


def _compiled(
    model: Model, plan: Plan, work: Work, target: Target, feed: Feed, key: _Key
) -> tuple[Session, CompiledGraph]:
    """The session and its graph, less the weights, which the session holds."""

    def build() -> tuple[Session, CompiledGraph]:
        graph = compiled_graph(model, plan, work, target, feed)
        runtime = replace(model.runtime, threads=1) if key.alone else model.runtime
        session, graph = graph.session(runtime, model.label, key.batch), graph.without_weights()
        give_memory_back()
        return session, graph

    return model.sessions.get(key, build)


def _recordings(model: Model, plan: Plan, feed: Feed) -> tuple[Recording, Recording]:
    if not model.batched:
        recording = model.recording(feed, plan.target)
        return recording, recording
    try:
        return model.recording(feed, plan.target, 2), model.recording(feed, plan.target, 3)
    except FailureError as error:
        raise UnsupportedError(
            f"{model.label} does not run on two samples at once, and a compiled graph leaves open how many there are; "
            f"engine='host' with a batch size of 1 explains one at a time ({error})"
        ) from error


def _run_compiled(model: Model, plan: Plan, target: Target, feed: Feed, work: Work, size: int, alone: bool) -> Result:
    from onnxplain.engine.compiled import PREDICTED, TARGET

    started = time.perf_counter()
    count = _samples(model, feed) if model.batched else 1
    batch = _session_batch(model, work, count, size)
    key = _key(model, plan, work, target, feed, batch, alone)
    expected = model.expected(key, feed)  # before the session is there, since both hold all weights
    session, graph = _compiled(model, plan, work, target, feed, key)
    built = time.perf_counter()
    shape = tuple(count if dim == -1 else dim for dim in graph.target_shape)
    y = model.trace([plan.target], feed, alone)[plan.target.name] if target.needs_value else np.zeros(shape, np.float32)
    weights = np.zeros(shape, np.float32) if target.predicted else target.weights(y)
    inputs = {**feed, TARGET: weights.astype(np.float32), PREDICTED: np.array(float(target.predicted), np.float32)}
    if batch is not None and count < batch:
        inputs = {
            n: v if v.ndim == 0 else np.concatenate([v, np.repeat(v[-1:], batch - count, 0)]) for n, v in inputs.items()
        }
    found = session.run(inputs)
    if batch is not None and count < batch:
        found = {name: value[:count] for name, value in found.items()}
    if not all(np.isfinite(found[name]).all() for name in graph.relevance.values()):
        raise FailureError(
            f"the rules of {plan.book!r} gave NaN or Inf; engine='host' says where; "
            "a larger epsilon settles divisions by 0"
        )
    model.check(key, feed, lambda: {target.output.name: found[target.output.name]}, expected)
    y = found[plan.target.name].astype(np.float32)
    if target.predicted:
        weights = target.weights(y)
    ledger = {
        layer: {
            column: found[name].astype(np.float32 if work.elementwise else np.float64)
            for column, name in columns.items()
        }
        for layer, columns in graph.ledger.items()
    }
    return Result(
        {tensor: found[name] for tensor, name in graph.relevance.items()},
        found[target.output.name],
        weights,
        target.describe(y, weights),
        ledger if work.ledger else None,
        "compiled",
        {tensor: found[tensor.name].astype(np.float32) for tensor in work.taps},
        timings={"build": built - started, "forward+backward": time.perf_counter() - built},
    )


def _check_kept(result: Result, size: int) -> None:
    for tensor, value in (*result.relevance.items(), *result.values.items()):
        if np.shape(value)[:1] != (size,):
            raise UsageError(f"the samples do not lie along axis 0 of {tensor.name!r}: ask for one sample at a time")


def _of_the_whole(ledger: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """One number for all samples, wherever they lie."""

    def whole(total: np.ndarray) -> np.ndarray:
        return total if total.shape == (1,) else np.atleast_1d(np.sum(total))

    return {name: {column: whole(total) for column, total in book.items()} for name, book in ledger.items()}


def joined(parts: Sequence[Result]) -> Result:
    """The results of the parts of a batch as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    ledger = None
    if first.ledger is not None:
        ledger = {
            name: {column: np.concatenate([p.ledger[name][column] for p in parts if p.ledger]) for column in columns}
            for name, columns in first.ledger.items()
        }
    return Result(
        {t: np.concatenate([p.relevance[t] for p in parts]) for t in first.relevance},
        np.concatenate([p.prediction for p in parts]),
        np.concatenate([p.weights for p in parts]),
        [chosen for p in parts for chosen in p.chosen],
        ledger,
        first.engine,
        {t: np.concatenate([p.values[t] for p in parts]) for t in first.values},
        first.notes,
        timings={name: sum(p.timings[name] for p in parts) for name in first.timings},
    )
