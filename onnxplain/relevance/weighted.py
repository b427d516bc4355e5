"""The rules on products with constant weights; notation in :mod:`onnxplain.relevance.base`.

Formulas after Bach et al. 2015 (epsilon, alpha-beta), Montavon et al. 2017 (z-plus, z-box, w-square, flat), Montavon et
al. 2019 (gamma).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxplain.engine.namespace import Array
from onnxplain.errors import UsageError
from onnxplain.ops.base import At, Kind, Linear, Op
from onnxplain.relevance.base import EPSILON, Relevance, Rule, shares


class OnWeights(Rule):
    """A rule on products with constant weights."""

    kinds = frozenset({Kind.LINEAR})

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        assert isinstance(op, Linear)
        source = op.source(at)
        self.check_operands(at, {source})
        result: list[Array | None] = [None] * len(at.layer.inputs)
        result[source] = self.hand_down(at, op, at.x(source), op.weight(at), op.bias(at), r[0])
        return result

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        """R' for the activation x."""
        raise NotImplementedError  # pragma: no cover


@dataclass(frozen=True)
class Epsilon(OnWeights):
    """R' = x * W^T (R / stab(z)); ``epsilon = 0`` is LRP-0. Not conserved: bias, stabilizer.

    ``unsigned`` divides by z + epsilon whatever the sign of z, as some published code does: a z just above -epsilon
    then turns the sign of its relevance and multiplies it without bound. Harmless only where relevance meets z > 0,
    in front of a Relu.
    """

    name = "epsilon"
    epsilon: float = EPSILON
    bias: bool = True
    unsigned: bool = False

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        z = at.y() if self.bias else op.apply(at, x, w)
        s = shares(at, r, z, b if self.bias else None, self.epsilon, self.unsigned)
        return op.contributions(at, s, w, x)


@dataclass(frozen=True)
class ZPlus(OnWeights):
    """z+ = p(W) p(x) + n(W) n(x) + p(b); R' = p(x) * p(W)^T s + n(x) * n(W)^T s. Not conserved: bias, stabilizer."""

    name = "z-plus"
    stabilizer: float = EPSILON
    bias: bool = True

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        xp = at.xp
        parts = [(x, xp.positive(w))]
        if not at.nonnegative(op.source(at)):
            parts = [(xp.positive(x), xp.positive(w)), (xp.negative(x), xp.negative(w))]
        b = xp.positive(b) if b is not None and self.bias else None
        s = shares(at, r, _affine(at, op, parts, b), b, self.stabilizer, unsigned=True)
        return _contributions(at, op, s, parts)


@dataclass(frozen=True)
class AlphaBeta(OnWeights):
    """R' = alpha * (positive contributions of R) - beta * (negative ones), alpha - beta = 1.

    Not conserved: bias, stabilizer, and neurons to which the inputs contribute nothing positive or nothing negative,
    unless ``strict`` gives all of R to the part that they have.
    """

    name = "alpha-beta"
    alpha: float = 2.0
    beta: float = 1.0
    stabilizer: float = EPSILON
    bias: bool = True
    strict: bool = False

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise ValueError("alpha and beta must not be negative and alpha - beta must be 1")

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        xp = at.xp
        b = b if self.bias else None
        signs = [(xp.positive(w), xp.negative(w))]
        parts = [x]
        if not at.nonnegative(op.source(at)):
            parts, signs = [xp.positive(x), xp.negative(x)], [*signs, signs[0][::-1]]
        z_plus = _total(op.apply(at, part, same) for part, (same, _) in zip(parts, signs, strict=True))
        z_minus = _total(op.apply(at, part, other) for part, (_, other) in zip(parts, signs, strict=True))
        r_plus, r_minus = r * self.alpha, r * -self.beta
        if self.strict:
            no_minus, no_plus = xp.equal(z_minus, 0.0), xp.equal(z_plus, 0.0)
            r_plus = xp.where(no_minus, r, r_plus)
            r_minus = xp.where(no_minus, 0.0, xp.where(no_plus, r, r_minus))
            r_plus = xp.where(no_plus, xp.where(no_minus, r, 0.0), r_plus)
        b_plus = b_minus = None
        if b is not None:
            b_plus, b_minus = xp.positive(b), xp.negative(b)
            z_plus, z_minus = z_plus + b_plus, z_minus + b_minus
        s_plus = shares(at, r_plus, z_plus, b_plus, self.stabilizer)
        s_minus = shares(at, r_minus, z_minus, b_minus, self.stabilizer)
        return _total(
            part * (op.transpose(at, s_plus, same) + op.transpose(at, s_minus, other))
            for part, (same, other) in zip(parts, signs, strict=True)
        )


@dataclass(frozen=True)
class Gamma(OnWeights):
    """Positive contributions weigh 1 + gamma where z > 0, negative ones where z < 0.

    Not conserved: bias, stabilizer, and R where z is exactly 0, unless ``strict`` treats z = 0 as positive.
    """

    name = "gamma"
    gamma: float = 0.25
    stabilizer: float = EPSILON
    bias: bool = True
    strict: bool = False

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        xp = at.xp
        b = b if self.bias else None
        p_w, n_w = w + xp.positive(w) * self.gamma, w + xp.negative(w) * self.gamma
        parts, weights = [x], [(p_w, n_w)]
        if not at.nonnegative(op.source(at)):
            parts, weights = [xp.positive(x), xp.negative(x)], [(p_w, n_w), (n_w, p_w)]
        z = at.y() if self.bias else op.apply(at, x, w)
        handed: list[Array] = []
        for side, above in ((0, True), (1, False)):
            b_side = None if b is None else b + (xp.positive(b) if above else xp.negative(b)) * self.gamma
            sides = [(part, pair[side]) for part, pair in zip(parts, weights, strict=True)]
            z_side = _affine(at, op, sides, b_side)
            here = xp.greater(z, 0.0) if above else xp.less(z, 0.0)
            if above and self.strict:
                here = xp.greater(xp.cast(here) + xp.cast(xp.equal(z, 0.0)), 0.0)
            r_side = xp.where(here, r, 0.0)
            s = shares(at, r_side, z_side, b_side, self.stabilizer)
            handed.append(_contributions(at, op, s, sides))
        if at.absorbed is not None and not self.strict:
            at.absorb("zero", xp.where(xp.equal(z, 0.0), r, 0.0))
        return _total(handed)


@dataclass(frozen=True)
class ZBox(OnWeights):
    """Inputs bounded by low and high: z = W x - p(W) low - n(W) high, the bias cancels. Not conserved: stabilizer.

    ``low`` and ``high`` are numbers, or one number per channel (axis 1).
    """

    name = "z-box"
    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None
    stabilizer: float = EPSILON

    def __post_init__(self) -> None:
        if self.low is None or self.high is None:
            return
        low, high = (bound if isinstance(bound, tuple) else (bound,) for bound in (self.low, self.high))
        length = max(len(low), len(high))
        if not {len(low), len(high)} <= {1, length}:
            raise ValueError("low and high must hold as many numbers as each other")
        low, high = (bound * length if len(bound) == 1 else bound for bound in (low, high))
        if any(a > b for a, b in zip(low, high, strict=True)):
            raise ValueError("low must not lie above high")

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        xp = at.xp
        low, high = (self._bound(at, op, bound) for bound in (self.low, self.high))
        w_plus, w_minus = xp.positive(w), xp.negative(w)
        z = at.y() - op.apply(at, low, w_plus) - op.apply(at, high, w_minus)
        z = z if b is None else z - b
        s = shares(at, r, z, None, self.stabilizer)
        handed = op.contributions(at, s, w, x)
        return handed - op.contributions(at, s, w_plus, low) - op.contributions(at, s, w_minus, high)

    def _bound(self, at: At, op: Linear, bound: float | tuple[float, ...] | None) -> Array:
        assert bound is not None, "the plan fills the bounds in"
        if not isinstance(bound, tuple):
            return op.everywhere(at, bound)
        shape = at.shape(op.source(at))
        if len(bound) != shape[1]:
            raise UsageError(
                f"rule z-box at {at.layer.name!r}: low and high hold one number or {shape[1]}, not {len(bound)}"
            )
        return op.everywhere(at) * at.xp.reshape(at.xp.const(bound), (1, len(bound)) + (1,) * (len(shape) - 2))


@dataclass(frozen=True)
class WSquare(OnWeights):
    """R' = (W * W)^T (R / stab(sum W * W + b * b)), whatever x is. Not conserved: bias, stabilizer."""

    name = "w-square"
    stabilizer: float = EPSILON
    bias: bool = True

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        return _by_weights(at, op, w * w, b * b if b is not None and self.bias else None, r, self.stabilizer)


@dataclass(frozen=True)
class Flat(OnWeights):
    """R spread evenly over the inputs of each window, whatever x and W are. Not conserved: stabilizer."""

    name = "flat"
    stabilizer: float = EPSILON

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        return _by_weights(at, op, at.xp.ones_like(w), None, r, self.stabilizer)


def _by_weights(at: At, op: Linear, w: Array, b: Array | None, r: Array, epsilon: float) -> Array:
    z = op.affine(at, op.everywhere(at), w, b)
    return op.transpose(at, shares(at, r, z, b, epsilon, unsigned=True), w)


Parts = Sequence[tuple[Array, Array]]
"""Parts of the activation, each with the weights it meets."""


def _affine(at: At, op: Linear, parts: Parts, b: Array | None) -> Array:
    """The products of all parts with their weights, plus b."""
    z = b
    for part, weight in parts:
        z = op.affine(at, part, weight, z)
    return z


def _contributions(at: At, op: Linear, s: Array, parts: Parts) -> Array:
    return _total(op.contributions(at, s, weight, part) for part, weight in parts)


def _total(terms: Iterable[Array]) -> Array:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first
