"""Arithmetic of several operands, element by element, broadcast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnxplain.engine.namespace import Array
from onnxplain.errors import UnsupportedError
from onnxplain.graph.layers import Layer
from onnxplain.ops.base import At, Gradients, Kind, Op, register

_GATES = ("Sigmoid", "HardSigmoid", "Softmax")
"""Ops whose output lies between 0 and 1 and lets a signal through."""


def _to_largest(
    at: At, points: Any, operands: Sequence[int], measures: Sequence[Callable[[Array], Array]] | None = None
) -> list[Any | None]:
    """Each point to the largest of ``operands`` by ``measures``; a single one is not looked at."""
    if len(operands) == 1:
        routed = [at.points.fitted(points, at.out_shape(), at.shape(operands[0]))]
    else:
        routed = at.points.largest(points, at.out_shape(), [at.x(index) for index in operands], measures)
    by_operand = dict(zip(operands, routed, strict=True))
    return [by_operand.get(index) for index in range(len(at.layer.inputs))]


class _Broadcast(Op):
    """Gradients come as the partial derivative per operand, the sum down to its shape is done here."""

    def vjp(self, at: At, g: Array) -> Gradients:
        return [
            at.fit(self.toward(at, index, g), index) if at.wants(index) else None
            for index in range(len(at.layer.inputs))
        ]

    def toward(self, at: At, index: int, g: Array) -> Array:
        """The gradient at one operand before it is summed down."""
        raise NotImplementedError  # pragma: no cover

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """The same part of every operand."""
        return [fields[0].fitted(at.shape(i)) if at.wants(i) else None for i in range(len(at.layer.inputs))]


@register("Add", "Sum")
class Add(_Broadcast):
    """The sum of the operands."""

    kind = Kind.SUM
    keeps_sign = True

    def forward(self, at: At, *xs: Array) -> Array:
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total

    def toward(self, at: At, index: int, g: Array) -> Array:
        return g

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The larger addend; constants are left out."""
        return _to_largest(at, points, at.active())

    def bias(self, at: At) -> Array | None:
        others = [at.x(index) for index in range(len(at.layer.inputs)) if not at.wants(index)]
        return self.forward(at, *others) if others else None


@register("Sub")
class Sub(_Broadcast):
    """a - b."""

    kind = Kind.SUM

    def forward(self, at: At, a: Array, b: Array) -> Array:
        return a - b

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The larger of the addends a and -b; constants are left out."""
        return _to_largest(at, points, at.active(), [lambda a: a, lambda b: -b])

    def toward(self, at: At, index: int, g: Array) -> Array:
        return -g if index else g

    def bias(self, at: At) -> Array | None:
        if not at.wants(0):
            return at.x(0)
        return None if at.wants(1) else -at.x(1)


@register("Mul")
class Mul(_Broadcast):
    """a * b: a scaling where one operand is constant, else a product of two activations."""

    keeps_sign = True

    def kind_of(self, layer: Layer) -> Kind:
        return Kind.PASS if any(tensor is None or tensor.static for tensor in layer.inputs) else Kind.PRODUCT

    def forward(self, at: At, a: Array, b: Array) -> Array:
        return a * b

    def toward(self, at: At, index: int, g: Array) -> Array:
        return g * at.x(1 - index)

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The signal, not the gate: the operand that is not broadcast, else the one that no sigmoid or softmax made.

        Where that leaves several, the larger magnitude; constants are left out.
        """
        signals = [index for index in at.active() if at.shape(index) == at.out_shape()] or at.active()
        signals = [index for index in signals if at.made_by(index) not in _GATES] or signals
        return _to_largest(at, points, signals, [at.xp.abs] * len(signals))


@register("Div")
class Div(_Broadcast):
    """a / b; relevance goes to the numerator, or to the denominator of a constant."""

    keeps_sign = True
    status = "approximate"

    def forward(self, at: At, a: Array, b: Array) -> Array:
        dtype = at.output().dtype
        if dtype is not None and dtype.kind in "iu":
            raise UnsupportedError(f"Div {at.layer.name!r} of integers has no float64 forward; use dtype='float32'")
        return a / b

    def toward(self, at: At, index: int, g: Array) -> Array:
        return -(g * at.y() / at.x(1)) if index else g / at.x(1)


@register("Pow")
class Pow(_Broadcast):
    """a to the power b."""

    status = "approximate"

    def forward(self, at: At, a: Array, b: Array) -> Array:
        return at.xp.power(a, b)

    def toward(self, at: At, index: int, g: Array) -> Array:
        a, b = at.x(0), at.xp.cast(at.x(1))
        return g * at.y() * at.xp.log(a) if index else g * b * at.xp.power(a, b - 1.0)


@register("PRelu")
class PRelu(_Broadcast):
    """x above 0, slope * x below."""

    def forward(self, at: At, x: Array, slope: Array) -> Array:
        return at.xp.positive(x) + at.xp.negative(x) * slope

    def toward(self, at: At, index: int, g: Array) -> Array:
        xp, x = at.xp, at.x(0)
        return g * xp.negative(x) if index else xp.where(xp.greater(x, 0.0), g, g * at.x(1))


class _Extreme(_Broadcast):
    """The first operand that holds the extreme value takes all."""

    kind = Kind.WINNER

    def toward(self, at: At, index: int, g: Array) -> Array:
        xp = at.xp
        won = xp.where(xp.equal(at.x(index), at.y()), g, 0.0)
        for earlier in range(index):
            won = xp.where(xp.equal(at.x(earlier), at.y()), 0.0, won)
        return won

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The operand that won; constants are left out."""
        return _to_largest(at, points, at.active(), [self.measure] * len(at.active()))

    def measure(self, values: Array) -> Array:
        """What is largest at the operand that won."""
        return values

    def on_constants(self, at: At, *r: Array) -> list[Array]:
        return [self.toward(at, index, r[0]) for index in range(len(at.layer.inputs)) if not at.wants(index)]


@register("Max")
class Max(_Extreme):
    """The largest operand."""

    keeps_sign = True

    def forward(self, at: At, *xs: Array) -> Array:
        best = xs[0]
        for x in xs[1:]:
            best = at.xp.maximum(best, x)
        return best


@register("Min")
class Min(_Extreme):
    """The smallest operand."""

    keeps_sign = True

    def forward(self, at: At, *xs: Array) -> Array:
        best = xs[0]
        for x in xs[1:]:
            best = at.xp.minimum(best, x)
        return best

    def measure(self, values: Array) -> Array:
        return -values


@register("Where")
class Where(_Broadcast):
    """x where the condition holds, else y."""

    kind = Kind.ROUTE

    def forward(self, at: At, condition: Array, x: Array, y: Array) -> Array:
        return at.xp.where(condition, x, y)

    def vjp(self, at: At, g: Array) -> Gradients:
        return [None, *super().vjp(at, g)[1:]]

    def on_constants(self, at: At, *r: Array) -> list[Array]:
        return [self.toward(at, index, r[0]) for index in (1, 2) if not at.wants(index)]

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The branch that was taken; a point that a constant branch supplied ends there."""
        return [None, *at.points.chosen(points, at.out_shape(), at.x(0), [at.shape(1), at.shape(2)])]

    def toward(self, at: At, index: int, g: Array) -> Array:
        condition = at.x(0)
        return at.xp.where(condition, g, 0.0) if index == 1 else at.xp.where(condition, 0.0, g)
