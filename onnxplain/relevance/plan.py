"""The plan: which rule stands at which layer, and why, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onnxplain.errors import UnsupportedError, UsageError
from onnxplain.graph.layers import Layer, LayerGraph, Tensor
from onnxplain.ops import Kind, Op, check_support, find, moves_samples
from onnxplain.relevance.base import Rule
from onnxplain.relevance.books import Place, RuleBook
from onnxplain.relevance.weighted import ZBox

_RUN = frozenset({"", "ai.onnx.ml", "com.microsoft"})
"""The domains of ops that onnxruntime has."""


@dataclass(frozen=True)
class Step:
    """One layer of a plan."""

    layer: Layer
    rule: Rule
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "layer": self.layer.name,
            "op_type": self.layer.op_type,
            "rule": self.rule.name,
            "parameters": self.rule.parameters(),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Plan:
    """The steps from the target back to the inputs, in forward order.

    Attributes
    ----------
    steps : tuple of Step
    target : Tensor
        Where the seed stands.
    sources : tuple of Tensor
        The inputs that are explained.
    seed : float or None
        The value at the target; None for the target's own value.
    notes : tuple of str
        Assumptions: softmax stripped, engine chosen, layers left alone.
    """

    steps: tuple[Step, ...]
    target: Tensor
    sources: tuple[Tensor, ...]
    seed: float | None
    book: str
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def path(self) -> tuple[Layer, ...]:
        """The layers of the plan."""
        return tuple(step.layer for step in self.steps)

    @cached_property
    def wanted(self) -> set[Tensor]:
        """Every tensor that relevance flows through."""
        produced = {out for step in self.steps for out in step.layer.outputs if out is not None}
        return produced | set(self.sources)

    @cached_property
    def entries(self) -> tuple[Tensor, ...]:
        """The first floating tensors behind sources that are not floating, such as what an embedding gives."""
        whole = {tensor for tensor in self.sources if tensor.dtype is not None and tensor.dtype.kind != "f"}
        entries: list[Tensor] = []
        for layer in self.path:
            if any(tensor in whole for tensor in layer.inputs):
                for out in layer.outputs:
                    if out is not None and out.dtype is not None:
                        (entries.append if out.dtype.kind == "f" else whole.add)(out)
        return tuple(entries)

    @cached_property
    def moves_samples(self) -> bool:
        """Whether samples may lie along another axis than the first one somewhere between inputs and target."""
        return moves_samples(self.path)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What makes two plans the same work."""
        return (self.target.name, self.seed, *((step.layer.name, step.rule) for step in self.steps))

    def __str__(self) -> str:
        width = max((len(step.layer.name) for step in self.steps), default=0)
        rows = [f"{s.layer.name:{width}}  {s.layer.op_type:20} {s.rule.name:12} {s.reason}" for s in self.steps]
        return "\n".join([*rows, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "rules": self.book,
            "target_tensor": self.target.name,
            "seed": "value" if self.seed is None else self.seed,
            "steps": [step.to_json() for step in self.steps],
            "notes": list(self.notes),
        }


def make_plan(
    graph: LayerGraph, target: Tensor, sources: Sequence[Tensor], book: RuleBook, notes: Sequence[str] = ()
) -> Plan:
    """Choose a rule for every layer between ``sources`` and ``target``.

    Raises
    ------
    UnsupportedError
        An op on the path has no rule, and every such layer is named, or is not supported at its layer.
    UsageError
        A layer that nothing in the book matches, a name in the book that no layer has, a rule that does not fit its
        layer, or z-box without bounds.
    """
    path = graph.path(target, sources)
    if not path and target not in sources:
        raise UsageError(f"target {target.name!r} does not depend on the explained input")
    unknown = [layer for layer in path if find(layer) is None]
    if unknown:
        named = ", ".join(f"{_full_type(layer)} {layer.name!r}" for layer in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UnsupportedError(
            f"no rule for {named}{more} on the way from the input to {target.name!r}; {_way_out(unknown)}, "
            "or explain a tensor before it with --output-name"
        )
    wanted = {*sources, *(out for layer in path for out in layer.outputs if out is not None)}
    for layer in path:
        check_support(layer, wanted)
    book.check_names([layer.name for layer in graph.layers])
    places = _places(path)
    steps = []
    for layer in path:
        chosen = book.choose(places[layer])
        if chosen is None:
            raise UsageError(
                f"{book.end}: the rules of {book.name!r} end without one for {layer.op_type} {layer.name!r}; "
                f'add [[rule]] with kind = "{places[layer].kind.value}" here'
            )
        rule, reason = chosen
        _check(rule, layer, places[layer].kind, reason)
        steps.append(Step(layer, rule, reason))
    return Plan(tuple(steps), target, tuple(sources), book.seed, book.name, tuple(notes))


def _check(rule: Rule, layer: Layer, kind: Kind, reason: str) -> None:
    if rule.kinds is not None and kind not in rule.kinds:
        fits = ", ".join(sorted(k.value for k in rule.kinds))
        raise UsageError(
            f"rule {rule.name!r} ({reason}) fits layers of kind {fits}, "
            f"not {layer.op_type} {layer.name!r} of kind {kind.value}"
        )
    if isinstance(rule, ZBox) and (rule.low is None or rule.high is None):
        raise UsageError(
            f"rule z-box at {layer.name!r} needs the bounds of the input: give low and high "
            "(--option low=... --option high=..., one number or one per channel)"
        )


def _full_type(layer: Layer) -> str:
    return f"{layer.domain}.{layer.op_type}" if layer.domain else layer.op_type


def _way_out(unknown: Sequence[Layer]) -> str:
    """What helps where layers have no rule: methods that only run the model, unless nothing runs it."""
    if any(layer.domain not in _RUN for layer in unknown):
        return "onnxruntime does not run custom ops either, so export the model again from standard ones"
    return "a black-box method needs no rules"


def _places(path: Sequence[Layer]) -> Mapping[Layer, Place]:
    ops = {layer: op for layer in path if (op := find(layer)) is not None}
    kinds = {layer: op.kind_of(layer) for layer, op in ops.items()}
    linear = [layer for layer in path if kinds[layer] is Kind.LINEAR]
    after = _linear_upstream(path, kinds, forward=True)
    before = _linear_upstream(path, kinds, forward=False)
    places = {}
    for layer in path:
        position = linear.index(layer) if layer in linear else None
        places[layer] = Place(
            layer.op_type,
            layer.name,
            kinds[layer],
            first=layer in linear and not after[layer],
            last=layer in linear and not before[layer],
            index=position,
            from_end=None if position is None else position - len(linear),
            spatial=type(ops[layer]).window is not Op.window,
            rectifier=ops[layer].rectifies(layer),
        )
    return places


def _linear_upstream(path: Sequence[Layer], kinds: Mapping[Layer, Kind], forward: bool) -> dict[Layer, bool]:
    """Whether a linear layer stands before (``forward``) or behind each layer of the path."""
    seen: set[Tensor | None] = set()
    result = {}
    for layer in path if forward else reversed(path):
        near, far = (layer.inputs, layer.outputs) if forward else (layer.outputs, layer.inputs)
        result[layer] = any(tensor in seen for tensor in near)
        if result[layer] or kinds[layer] is Kind.LINEAR:
            seen.update(tensor for tensor in far if tensor is not None)
    return result
