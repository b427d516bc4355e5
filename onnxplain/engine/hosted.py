"""The host engine: onnxruntime's forward pass, the backward walk on numpy arrays. The reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from onnxplain.engine.host import Host
from onnxplain.engine.recording import Recording
from onnxplain.engine.walk import walk
from onnxplain.errors import FailureError
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.ops import At, find
from onnxplain.relevance.base import Rule
from onnxplain.relevance.plan import Plan


@dataclass
class Trace:
    """The values of one forward pass, in the working precision.

    Attributes
    ----------
    values : dict of str to numpy.ndarray
        Computed tensors by name.
    """

    xp: Host
    recording: Recording
    values: dict[str, np.ndarray]
    nonnegative: Set[Tensor]
    _constants: dict[Tensor, np.ndarray] = field(default_factory=dict)

    def value(self, tensor: Tensor) -> np.ndarray:
        """The tensor, floating values in the working precision."""
        if tensor.static:
            if tensor not in self._constants:
                self._constants[tensor] = self.xp.const(self.constant(tensor))
            return self._constants[tensor]
        value: np.ndarray = self.xp.const(self.values[tensor.name])
        return value

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape in this run."""
        return self.recording.shape(tensor)

    def constant(self, tensor: Tensor) -> np.ndarray:
        """The value of a static tensor."""
        return self.recording.constant(tensor)


Ledger = dict[str, dict[str, np.ndarray]]
"""Layer name to columns: ``in``, ``out`` and what was absorbed, one number per sample."""


def walk_back(
    plan: Plan,
    trace: Trace,
    seed: np.ndarray,
    keep: Sequence[Tensor] = (),
    ledger: bool = True,
    elementwise: bool = False,
) -> tuple[dict[Tensor, np.ndarray], Ledger]:
    """Carry ``seed`` from the plan's target to its sources.

    Returns
    -------
    dict of Tensor to numpy.ndarray
        Relevance at the sources and at ``keep``.
    Ledger
        Empty unless ``ledger``; what was absorbed as sums, or ``elementwise``.

    Raises
    ------
    FailureError
        A step produced NaN or Inf; names the layer.
    """
    wanted = plan.wanted
    rules = {step.layer: step.rule for step in plan}
    books: Ledger = {}

    def step(layer: Layer, arrived: list[_Carried | None]) -> Sequence[_Carried | None]:
        op = find(layer)
        assert op is not None
        at = At(layer, trace, wanted, ledger, elementwise=elementwise)
        handed = rules[layer](at, op, *(None if each is None else each.value for each in arrived))
        passed = {id(each.value): each for each in arrived if each is not None}
        result = [
            None if value is None else passed.get(id(value)) or _Carried(value, _per_sample(trace.xp, value))
            for value in handed
        ]
        for each in result:
            if each is not None and not np.isfinite(each.total).all() and not np.isfinite(each.value).all():
                raise FailureError(
                    f"rule {rules[layer].name!r} gave NaN or Inf at {layer.op_type} {layer.name!r}"
                    f"{_cause(rules[layer], trace)}"
                )
        if ledger:
            given = [each.total for t, each in zip(layer.inputs, result, strict=False) if t in wanted and each]
            arriving = _together([each.total for each in arrived if each is not None])
            handing = _together(given) if given else np.zeros_like(arriving)
            books[layer.name] = {"in": arriving, "out": handing, **(at.absorbed or {})}
        return result

    start = {plan.target: _Carried(seed, _per_sample(trace.xp, seed))}
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # what is not finite ends the walk
        carried = walk(plan.path, start, step, _Carried.merged, keep)
    return {tensor: each.value for tensor, each in carried.items()}, books


def _cause(rule: Rule, trace: Trace) -> str:
    """What is at fault where a rule gave NaN or Inf, as far as the forward pass tells."""
    for name, value in trace.values.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return (
                f": the forward pass itself gives NaN or Inf at {name!r}; look at the weights before it and the input"
            )
    return "; a larger epsilon may settle it" if {"epsilon", "stabilizer"} & rule.parameters().keys() else ""


class _Carried(NamedTuple):
    """Relevance on its way, and its sum over each sample."""

    value: np.ndarray
    total: np.ndarray

    def merged(self, other: _Carried) -> _Carried:
        """Of two consumers of one tensor."""
        return _Carried(self.value + other.value, self.total + other.total)


def _per_sample(xp: Host, value: np.ndarray) -> np.ndarray:
    return np.atleast_1d(xp.sum_samples(value))


def _together(sums: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of each sample over all values; one number where their first axes differ and so are not the samples."""
    if len(sums) == 1:
        return sums[0]
    if len({len(each) for each in sums}) > 1:
        sums = [each.sum(keepdims=True) for each in sums]
    return np.asarray(np.sum(sums, axis=0))


def forward_float64(
    layers: Sequence[Layer], trace: Trace, feed: Mapping[str, np.ndarray], keep: Set[Tensor]
) -> dict[str, np.ndarray]:
    """Compute ``layers`` in the trace's precision with the ops' own forward, keeping the tensors of ``keep``."""
    values = trace.values
    for name, value in feed.items():
        values[name] = trace.xp.const(value)
    last_use = {tensor: layer for layer in layers for tensor in layer.inputs if tensor is not None}
    for layer in layers:
        op = find(layer)
        if all(out is None or out.static for out in layer.outputs):
            continue
        if op is None:
            raise FailureError(f"{layer.op_type} {layer.name!r} has no float64 forward; use dtype='float32'")
        at = At(layer, trace, set())
        inputs = [None if tensor is None else trace.value(tensor) for tensor in layer.inputs]
        results = op.forward(at, *inputs)
        for out, result in zip(layer.outputs, results if isinstance(results, tuple) else (results,), strict=False):
            if out is not None:
                values[out.name] = result
        for tensor in layer.inputs:
            if tensor is not None and last_use[tensor] is layer and tensor not in keep:
                values.pop(tensor.name, None)
    return values
