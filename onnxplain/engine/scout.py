"""A dry walk that finds which forward tensors a plan reads, so that only those are traced."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from onnxplain.engine.recording import Recording
from onnxplain.engine.walk import walk
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.ops import At, find
from onnxplain.relevance.plan import Plan


class _Token:
    """Stands for any array; arithmetic gives a token again."""

    __array_ufunc__ = None

    def _token(self, *others: Any) -> _Token:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = _token


_TOKEN = _Token()


class _Namespace:
    def shares(self, *_: Any) -> tuple[_Token, _Token, _Token, _Token]:
        return _TOKEN, _TOKEN, _TOKEN, _TOKEN

    def __getattr__(self, primitive: str) -> Any:
        return lambda *args, **settings: _TOKEN


class _Scout:
    def __init__(self, recording: Recording, nonnegative: Set[Tensor]) -> None:
        self.xp: Any = _Namespace()
        self.nonnegative = nonnegative
        self.read: set[Tensor] = set()
        self._recording = recording

    def value(self, tensor: Tensor) -> _Token:
        if not tensor.static:
            self.read.add(tensor)
        return _TOKEN

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        return self._recording.shape(tensor)

    def constant(self, tensor: Tensor) -> np.ndarray:
        return self._recording.constant(tensor)


def tensors_read(plan: Plan, recording: Recording, nonnegative: Set[Tensor], ledger: bool) -> set[Tensor]:
    """The computed tensors that the rules of ``plan`` ask for, and the target."""
    scout = _Scout(recording, nonnegative)
    wanted = plan.wanted
    rules = {step.layer: step.rule for step in plan}

    def step(layer: Layer, arrived: list[_Token | None]) -> Sequence[Any]:
        op = find(layer)
        assert op is not None
        return rules[layer](At(layer, scout, wanted, ledger), op, *arrived)

    walk(plan.path, {plan.target: _TOKEN}, step, lambda a, b: a)
    return scout.read | {plan.target}
