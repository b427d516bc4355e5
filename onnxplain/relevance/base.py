"""What a rule is: the local maths of one backward step of relevance, independent of the op.

Notation: z = W x + b the forward output, R the relevance arriving, R' the relevance handed down,
stab(z) = z + epsilon * sgn(z) with sgn(0) = +1, p(a) = max(a, 0), n(a) = min(a, 0). The bias's share is absorbed,
never redistributed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from onnxplain.engine.namespace import Array
from onnxplain.errors import UnsupportedError
from onnxplain.ops.base import At, Kind, Op

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


def shares(at: At, r: Array, z: Array, b: Array | None, epsilon: float, unsigned: bool = False) -> Array:
    """s = r / stab(z), or r / (z + epsilon) where the stabilizer is ``unsigned``, the same where z is not negative.

    What r = s * stab(z) loses goes into the ledger: s * b, s * epsilon * sgn(z), and all of r where z is 0.
    """
    if at.absorbed is None:
        return at.xp.ratio(r, z, epsilon, unsigned)
    s, stabilizer, zero, bias = at.xp.shares(r, z, b, epsilon, unsigned)
    at.enter("stabilizer", stabilizer)
    at.enter("zero", zero)
    if bias is not None:
        at.enter("bias", bias)
    return s
