"""What every method is given, and the way from a rule book to an explanation that most of them take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxplain.engine.run import Result, Work, run_parts, run_plan
from onnxplain.errors import UsageError
from onnxplain.explanation import Explanation, Ledger
from onnxplain.graph.layers import Tensor
from onnxplain.graph.layout import channel_axis
from onnxplain.inputs.contract import discover
from onnxplain.model import Feed, Model
from onnxplain.relevance.books import RuleBook, load_rule_book
from onnxplain.relevance.plan import Plan, make_plan
from onnxplain.relevance.weighted import ZBox
from onnxplain.targets import Target

Progress = Callable[[int, int], None]
"""Called with how much of how much is done."""

GRADIENT = RuleBook("gradient", "The gradient of every layer", (), 1.0, True)


@dataclass(frozen=True)
class Job:
    """One call of :func:`onnxplain.explain`.

    Attributes
    ----------
    model : Model
    feed : dict of str to numpy.ndarray
        Checked inputs.
    target : Target
    rules : str or None
        Rule book of the methods that take one.
    work : Work
    seed : int
    method : str
    progress : callable, optional
        Told by methods that take long.
    """

    model: Model
    feed: Feed
    target: Target
    rules: str | None
    work: Work
    seed: int
    method: str
    progress: Progress | None = None

    @property
    def book(self) -> RuleBook:
        """The rule book of a method that takes one."""
        assert self.rules is not None
        return load_rule_book(self.rules)

    def plan(
        self,
        book: RuleBook | str | None = None,
        options: Mapping[str, Any] | None = None,
        sources: Sequence[Tensor] = (),
    ) -> Plan:
        """The plan of a rule book, the job's own by default, down to the inputs or to ``sources``."""
        if not isinstance(book, RuleBook):
            book = self.book if book is None else load_rule_book(book)
        if options:
            book = book.with_options(options)
        key = ("plan", book, self.target.tensor, self.notes, tuple(sources))
        return self.model.sessions.get(key, lambda: self._plan(book, sources))

    def _plan(self, book: RuleBook, sources: Sequence[Tensor]) -> Plan:
        book, notes = self._bounded(book)
        if sources:
            return make_plan(self.model.graph, self.target.tensor, sources, book, (*self.notes, *notes))
        sources = [tensor for tensor in self.model.inputs if tensor.dtype is not None]
        reached = self.model.graph.path(self.target.tensor, sources)
        feeding = {tensor for layer in reached for tensor in layer.inputs}
        sources = [tensor for tensor in sources if tensor in feeding] or sources
        return make_plan(self.model.graph, self.target.tensor, sources, book, (*self.notes, *notes))

    def _bounded(self, book: RuleBook) -> tuple[RuleBook, tuple[str, ...]]:
        """z-box bounds that nobody gave, from the input contract where it is settled."""
        open_ones = [
            line for line in book.lines if isinstance(line.rule, ZBox) and None in (line.rule.low, line.rule.high)
        ]
        if not open_ones or len(self.model.inputs) != 1:
            return book, ()
        contract = discover(self.model, self.model.inputs[0].name)
        if contract.missing:
            return book, ()
        bounds = {"low": contract.low.tolist(), "high": contract.high.tolist()}
        given = {name: value for name, value in bounds.items() if getattr(open_ones[0].rule, name) is None}
        note = f"z-box bounds {' and '.join(given)} from the input contract ({contract.range.origin})"
        return book.with_options(given), (note,)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed before any rule was chosen."""
        folded = sum(change.applied for change in self.model.changes)
        notes = [f"{folded} batch normalizations folded into the layer before them"] if folded else []
        return (*self.target.notes, *notes)

    def run(
        self,
        plan: Plan,
        feed: Feed | None = None,
        target: Target | None = None,
        repeats: int = 1,
        taps: tuple[Tensor, ...] = (),
    ) -> Result:
        """Carry a plan out on the job's feed, or on another one."""
        work = replace(self.work, repeats=repeats, taps=taps)
        return run_plan(self.model, plan, target or self.target, self.feed if feed is None else feed, work)

    def parts(self, plan: Plan, **settings: Any) -> Iterator[tuple[Feed, Result]]:
        """Carry a plan out part by part; ``settings`` replace attributes of the job's :class:`Work`."""
        return run_parts(self.model, plan, self.target, self.feed, replace(self.work, **settings))

    def explanation(self, plan: Plan, result: Result) -> Explanation:
        """The explanation of one run.

        Raises
        ------
        UsageError
            Nothing reaches the inputs nor a tensor that was asked for.
        """
        inputs = {tensor: result.relevance.get(tensor) for tensor in plan.sources}
        if all(value is None for value in inputs.values()):
            if not any(tensor in result.relevance for tensor in self.work.keep):
                raise UsageError(
                    f"nothing reaches the inputs from {plan.target.name!r} by the rules of {plan.book!r}{_remedy(plan)}"
                )
            inputs = {}
        shapes = {tensor: np.shape(self.feed[tensor.name]) for tensor in plan.sources}
        dtype = np.dtype(self.work.dtype)
        relevance = {
            tensor.name: np.zeros(shapes[tensor], dtype) if value is None else value for tensor, value in inputs.items()
        }
        at = {tensor.name: result.relevance[tensor] for tensor in self.work.keep if tensor in result.relevance}
        for tensor in self.work.keep:
            if tensor.name not in at:
                raise UsageError(f"tensor {tensor.name!r} does not lie between the input and {plan.target.name!r}")
        return Explanation(
            relevance,
            result.prediction,
            result.chosen,
            self.method,
            result.engine,
            plan,
            None if result.ledger is None else Ledger(result.ledger),
            at,
            result.timings,
            (*plan.notes, *result.notes, *sorted(self.model.remarks)),
            channels={tensor.name: channel_axis(tensor) for tensor in (*plan.sources, *self.work.keep)},
        )


def _remedy(plan: Plan) -> str:
    """Where relevance ends on the way to inputs that are indices."""
    if not plan.entries:
        return ""
    inputs = ", ".join(f"{tensor.name!r} is {tensor.dtype}" for tensor in plan.sources)
    names = ", ".join(repr(tensor.name) for tensor in plan.entries[:3])
    return f": {inputs}; ask for the relevance of the first floating tensor behind it, {names}, with at=[...] or --at"
