"""The rules on everything but weighted layers: sums, products of activations, activations, moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxplain.engine.namespace import Array
from onnxplain.errors import UsageError
from onnxplain.ops.base import At, Kind, Linear, Op
from onnxplain.relevance.base import EPSILON, Relevance, Rule, shares

ROUNDING = 1e-5
"""Below this share of the output, a difference from the output in float32 is taken as rounding."""


@dataclass(frozen=True)
class Norm(Rule):
    """R shared by contribution: R'_i = x_i * J_i^T (R / stab(y)). Not conserved: constants, stabilizer.

    ``unsigned`` as for epsilon.
    """

    name = "norm"
    stabilizer: float = EPSILON
    unsigned: bool = False

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        s = shares(at, r[0], at.y(), op.bias(at), self.stabilizer, self.unsigned)
        signals = op.adjoint(at, s)
        return [None if g is None else at.x(index) * g for index, g in enumerate(signals)]


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
        b = op.bias(at)
        s = shares(at, r, at.y() * operands, None if b is None else b * operands, self.stabilizer)
        return [None if g is None else at.x(index) * g for index, g in enumerate(op.vjp(at, s))]


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


@dataclass(frozen=True)
class Gradient(Rule):
    """The VJP of the op. Where elements move or one wins, relevance on constants, such as padding, counts as bias."""

    name = "gradient"

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        if at.absorbed is not None:
            for part in op.on_constants(at, *r):
                at.absorb("bias", part)
        return op.vjp(at, *r)


@dataclass(frozen=True)
class FullGradient(Rule):
    """The VJP of the op; as bias counts what the layer's linear approximation at its input leaves of its output.

    That is g * b with b = y - J x (Srinivas and Fleuret 2019, section 3): the constants of sums, products and
    normalizations (explicit), and of elementwise functions what their tangent has at 0 (implicit), unless it is
    rounding.
    """

    name = "full-gradient"

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        handed = op.vjp(at, *r)
        if at.absorbed is not None:
            self._absorb(at, op, r, handed)
        return handed

    def _absorb(self, at: At, op: Op, r: Sequence[Array], handed: Relevance) -> None:
        bias, kind = op.bias(at), op.kind_of(at.layer)
        if bias is not None:
            at.absorb("bias", r[0] * bias)
        elif kind is Kind.PASS and len(at.active()) == 1:
            source, share = at.active()[0], r[0] * at.xp.cast(at.y())
            rest = share - handed[source] * at.xp.cast(at.x(source))
            at.absorb("bias", at.xp.where(at.xp.less(at.xp.abs(rest), at.xp.abs(share) * ROUNDING), 0.0, rest))
        elif kind is Kind.PRODUCT and len(at.active()) == 2:
            at.absorb("bias", -(r[0] * at.y()))
        elif type(op).on_constants is not Op.on_constants:
            for part in op.on_constants(at, r[0] * at.y()):
                at.enter("bias", at.xp.sum_samples(part))


@dataclass(frozen=True)
class GuidedRelu(Rule):
    """g * [x > 0] * [g > 0] (guided backpropagation, Springenberg et al. 2015); 0 above an upper bound too."""

    name = "guided-relu"
    kinds = frozenset({Kind.PASS})

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        return op.vjp(at, at.xp.positive(r[0]))


@dataclass(frozen=True)
class Unstrided(Rule):
    """The VJP as if windows moved by one over the signal resampled by nearest neighbour (Oramas et al. 2019).

    Windows that move by more than one cover some inputs more often than others, which draws a grid. Not the gradient:
    the signal grows with the stride. Where several windows share a maximum, it takes the mean of their signals.
    """

    name = "unstrided"

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        return op.unstrided(at, *r)


@dataclass(frozen=True)
class DeconvRelu(Rule):
    """p(g), the forward mask left out (deconvnet, Zeiler and Fergus 2014)."""

    name = "deconv-relu"
    kinds = frozenset({Kind.PASS})

    def __call__(self, at: At, op: Op, *r: Array) -> Relevance:
        return [at.xp.positive(r[0])]


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
