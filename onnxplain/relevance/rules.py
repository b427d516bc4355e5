"""The rules: the local maths of one backward step of relevance, independent of the op.

Notation: z = W x + b the forward output, R the relevance arriving, R' the relevance handed down,
stab(z) = z + epsilon * sgn(z) with sgn(0) = +1, p(a) = max(a, 0), n(a) = min(a, 0). The bias's share is absorbed,
never redistributed. Formulas after Bach et al. 2015 (epsilon, alpha-beta), Montavon et al. 2017 (z-plus, z-box,
w-square, flat), Montavon et al. 2019 (gamma).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from onnxplain.engine.namespace import Array
from onnxplain.errors import UnsupportedError, UsageError
from onnxplain.ops.base import At, Kind, Linear, Op

EPSILON = 1e-6

Relevance = Sequence[Array | None]


@dataclass(frozen=True)
class Rule:
    """Base of every rule: called with the place, the op and the relevance at each output; returns one per input."""

    name: ClassVar[str] = ""
    kinds: ClassVar[frozenset[Kind] | None] = None
    """The kinds it applies to, None for all."""

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        """Relevance at each input."""
        raise NotImplementedError  # pragma: no cover

    def check_operands(self, at: At, served: set[int]) -> None:
        """Raise UnsupportedError where the path leads to an operand that the rule hands nothing to."""
        if not served.issuperset(at.active()):
            raise UnsupportedError(
                f"rule {self.name!r} hands nothing to operand {max(at.active())} of {at.layer.op_type} "
                f"{at.layer.name!r}, which depends on the input; rule 'norm' shares relevance among all operands"
            )

    def parameters(self) -> dict[str, Any]:
        """The rule's settings by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


RULES: dict[str, type[Rule]] = {}


def _rule(cls: type[Rule]) -> type[Rule]:
    RULES[cls.name] = cls
    return cls


class _OnWeights(Rule):
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


def _absorb(at: At, r: Array, s: Array, z: Array, b: Array | None, epsilon: float, unsigned: bool = False) -> None:
    """Enter in the ledger what r = s * stab(z) loses: s * b, s * epsilon * sgn(z), and all of r where z is 0."""
    if at.absorbed is None:
        return
    xp = at.xp
    at.absorb("stabilizer", s * (xp.abs(xp.sign(z)) if unsigned else xp.sign(z)) * epsilon)
    at.absorb("zero", xp.where(xp.equal(z, 0.0), r, 0.0))
    if b is not None:
        at.absorb("bias", s * b)


def _shares(at: At, r: Array, z: Array, epsilon: float, unsigned: bool) -> Array:
    """s = r / stab(z), or r / (z + epsilon) where the stabilizer is ``unsigned``."""
    return r / (z + epsilon) if unsigned else at.xp.ratio(r, z, epsilon)


@_rule
@dataclass(frozen=True)
class Epsilon(_OnWeights):
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
        s = _shares(at, r, z, self.epsilon, self.unsigned)
        _absorb(at, r, s, z, b if self.bias else None, self.epsilon, self.unsigned)
        return x * op.transpose(at, s, w)


@_rule
@dataclass(frozen=True)
class ZPlus(_OnWeights):
    """z+ = p(W) p(x) + n(W) n(x) + p(b); R' = p(x) * p(W)^T s + n(x) * n(W)^T s. Not conserved: bias, stabilizer."""

    name = "z-plus"
    stabilizer: float = EPSILON
    bias: bool = True

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        xp = at.xp
        parts = [(x, xp.positive(w))]
        if not at.nonnegative(op.source(at)):
            parts = [(xp.positive(x), xp.positive(w)), (xp.negative(x), xp.negative(w))]
        z = _total(op.apply(at, part, weight) for part, weight in parts)
        b = xp.positive(b) if b is not None and self.bias else None
        z = z if b is None else z + b
        s = xp.ratio(r, z, self.stabilizer, nonnegative=True)
        _absorb(at, r, s, z, b, self.stabilizer)
        return _total(part * op.transpose(at, s, weight) for part, weight in parts)


@_rule
@dataclass(frozen=True)
class AlphaBeta(_OnWeights):
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
        if b is not None:
            z_plus, z_minus = z_plus + xp.positive(b), z_minus + xp.negative(b)
        s_plus = xp.ratio(r_plus, z_plus, self.stabilizer)
        s_minus = xp.ratio(r_minus, z_minus, self.stabilizer)
        _absorb(at, r_plus, s_plus, z_plus, None if b is None else xp.positive(b), self.stabilizer)
        _absorb(at, r_minus, s_minus, z_minus, None if b is None else xp.negative(b), self.stabilizer)
        return _total(
            part * (op.transpose(at, s_plus, same) + op.transpose(at, s_minus, other))
            for part, (same, other) in zip(parts, signs, strict=True)
        )


@_rule
@dataclass(frozen=True)
class Gamma(_OnWeights):
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
            z_side = _total(op.apply(at, part, pair[side]) for part, pair in zip(parts, weights, strict=True))
            b_side = None
            if b is not None:
                b_side = b + (xp.positive(b) if above else xp.negative(b)) * self.gamma
                z_side = z_side + b_side
            here = xp.greater(z, 0.0) if above else xp.less(z, 0.0)
            if above and self.strict:
                here = xp.greater(xp.cast(here) + xp.cast(xp.equal(z, 0.0)), 0.0)
            r_side = xp.where(here, r, 0.0)
            s = xp.ratio(r_side, z_side, self.stabilizer)
            _absorb(at, r_side, s, z_side, b_side, self.stabilizer)
            handed += [part * op.transpose(at, s, pair[side]) for part, pair in zip(parts, weights, strict=True)]
        if at.absorbed is not None and not self.strict:
            at.absorb("zero", xp.where(xp.equal(z, 0.0), r, 0.0))
        return _total(handed)


@_rule
@dataclass(frozen=True)
class ZBox(_OnWeights):
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
        s = xp.ratio(r, z, self.stabilizer)
        _absorb(at, r, s, z, None, self.stabilizer)
        handed = x * op.transpose(at, s, w)
        return handed - low * op.transpose(at, s, w_plus) - high * op.transpose(at, s, w_minus)

    def _bound(self, at: At, op: Linear, bound: float | tuple[float, ...] | None) -> Array:
        source = op.source(at)
        shape = (1, *at.shape(source)[1:])
        if isinstance(bound, tuple):
            if len(bound) != shape[1]:
                raise UsageError(
                    f"rule z-box at {at.layer.name!r}: low and high hold one number or {shape[1]}, not {len(bound)}"
                )
            values = at.xp.reshape(at.xp.const(bound), (1, len(bound)) + (1,) * (len(shape) - 2))
            return at.xp.ones(shape) * values
        assert bound is not None, "the plan fills the bounds in"
        return at.xp.ones(shape) * bound


@_rule
@dataclass(frozen=True)
class WSquare(_OnWeights):
    """R' = (W * W)^T (R / stab(sum W * W + b * b)), whatever x is. Not conserved: bias, stabilizer."""

    name = "w-square"
    stabilizer: float = EPSILON
    bias: bool = True

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        return _by_weights(at, op, w * w, b * b if b is not None and self.bias else None, r, self.stabilizer)


@_rule
@dataclass(frozen=True)
class Flat(_OnWeights):
    """R spread evenly over the inputs of each window, whatever x and W are. Not conserved: stabilizer."""

    name = "flat"
    stabilizer: float = EPSILON

    def hand_down(self, at: At, op: Linear, x: Array, w: Array, b: Array | None, r: Array) -> Array:
        return _by_weights(at, op, at.xp.ones_like(w), None, r, self.stabilizer)


def _by_weights(at: At, op: Linear, w: Array, b: Array | None, r: Array, epsilon: float) -> Array:
    z = op.apply(at, at.xp.ones((1, *at.shape(op.source(at))[1:])), w)
    z = z if b is None else z + b
    s = at.xp.ratio(r, z, epsilon, nonnegative=True)
    _absorb(at, r, s, z, b, epsilon)
    return op.transpose(at, s, w)


def _total(terms: Any) -> Array:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


@_rule
@dataclass(frozen=True)
class Norm(Rule):
    """R shared by contribution: R'_i = x_i * J_i^T (R / stab(y)). Not conserved: constants, stabilizer.

    ``unsigned`` as for epsilon.
    """

    name = "norm"
    stabilizer: float = EPSILON
    unsigned: bool = False

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        s = _shares(at, r[0], at.y(), self.stabilizer, self.unsigned)
        _absorb(at, r[0], s, at.y(), op.bias(at), self.stabilizer, self.unsigned)
        signals = op.adjoint(at, s)
        return [None if g is None else at.x(index) * g for index, g in enumerate(signals)]


@_rule
@dataclass(frozen=True)
class Uniform(Rule):
    """A product of two activations gives each of them half of R (Achtibat et al. 2024, AttnLRP).

    Element by element each operand gets R / 2. An operand that is broadcast against one of the output's own shape is a
    gate and gets nothing, the signal takes all; so does an operand whose partner is not on the path.
    Matrix products: R_A = A * J_A^T (R / stab(2 O)), all of R where the partner is not on the path.
    Not conserved in matrix products: bias, stabilizer.
    """

    name = "uniform"
    kinds = frozenset({Kind.PRODUCT})
    stabilizer: float = EPSILON

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        if isinstance(op, Linear):
            return self._matrices(at, op, r[0])
        signals = [index for index in at.active() if at.shape(index) == at.out_shape()] or at.active()
        share = r[0] / len(signals)
        return [at.fit(share, index) if index in signals else None for index in range(len(at.layer.inputs))]

    def _matrices(self, at: At, op: Linear, r: Array) -> Relevance:
        self.check_operands(at, {0, 1})
        operands = len(at.active())
        z = at.y() * operands
        s = at.xp.ratio(r, z, self.stabilizer)
        b = op.bias(at)
        _absorb(at, r, s, z, None if b is None else b * operands, self.stabilizer)
        return [None if g is None else at.x(index) * g for index, g in enumerate(op.vjp(at, s))]


@_rule
@dataclass(frozen=True)
class Pass(Rule):
    """R' = R at the first input on the path, whatever the layer computes."""

    name = "pass"

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        first = at.active()[0]
        shape, out = at.shape(first), at.out_shape()
        if len(shape) > len(out) or any(a not in (1, b) for a, b in zip(shape[::-1], out[::-1], strict=False)):
            raise UsageError(
                f"rule 'pass' does not fit {at.layer.op_type} {at.layer.name!r}: input and output differ in shape"
            )
        return [at.fit(r[0], index) if index == first else None for index in range(len(at.layer.inputs))]


@_rule
@dataclass(frozen=True)
class Gradient(Rule):
    """The VJP of the op. Where elements move or one wins, relevance on constants, such as padding, counts as bias."""

    name = "gradient"

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        if at.absorbed is not None:
            for part in op.on_constants(at, *r):
                at.absorb("bias", part)
        return op.vjp(at, *r)


@_rule
@dataclass(frozen=True)
class GuidedRelu(Rule):
    """g * [x > 0] * [g > 0] (guided backpropagation, Springenberg et al. 2015)."""

    name = "guided-relu"
    kinds = frozenset({Kind.PASS})

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        return op.vjp(at, at.xp.positive(r[0]))


@_rule
@dataclass(frozen=True)
class DeconvRelu(Rule):
    """p(g), the forward mask left out (deconvnet, Zeiler and Fergus 2014)."""

    name = "deconv-relu"
    kinds = frozenset({Kind.PASS})

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        return [at.xp.positive(r[0])]


@_rule
@dataclass(frozen=True)
class Stop(Rule):
    """Nothing is handed down."""

    name = "stop"

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        if at.absorbed is not None:
            for value in r:
                if value is not None:
                    at.absorb("stopped", value)
        return [None] * len(at.layer.inputs)
