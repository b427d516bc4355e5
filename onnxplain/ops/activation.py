"""Activations and other functions of one input, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnxplain.engine.namespace import Array, Namespace
from onnxplain.graph.layers import Layer
from onnxplain.ops.base import At, Gradients, Op, add, register


@register("Relu")
class Relu(Op):
    """max(x, 0)."""

    nonnegative = True

    def rectifies(self, layer: Layer) -> bool:
        return True

    def forward(self, at: At, x: Array) -> Array:
        return at.xp.positive(x)

    def vjp(self, at: At, g: Array) -> Gradients:
        return (at.xp.mask(g, at.y()),)


@register("Clip")
class Clip(Op):
    """min(max(x, low), high); the gradient passes strictly inside the bounds, as torch's hardtanh and relu6 have it."""

    def forward(self, at: At, x: Array, *bounds: Array) -> Array:
        low, high = self._bounds(at)
        x = x if low is None else at.xp.maximum(x, low)
        return x if high is None else at.xp.minimum(x, high)

    def vjp(self, at: At, g: Array) -> Gradients:
        return (at.xp.mask(g, at.y(), *self._bounds(at)),)

    def nonnegative_at(self, layer: Layer) -> bool:
        return self._low(layer) >= 0

    def rectifies(self, layer: Layer) -> bool:
        return self._low(layer) == 0

    def _low(self, layer: Layer) -> float:
        """The lower bound that the file states."""
        if "min" in layer.attributes:
            return float(layer.attributes["min"])
        low = layer.inputs[1] if len(layer.inputs) > 1 else None
        return -math.inf if low is None or low.value is None else float(low.value)

    def _bounds(self, at: At) -> tuple[float | None, float | None]:
        values = at.parameter("min", 1), at.parameter("max", 2)
        low, high = (None if value is None or abs(value) > 1e38 else float(value) for value in values)
        return low, high


Function = Callable[[Namespace, At, Array], Array]
Slope = Callable[[Namespace, At, Array, Array], Array]


class Elementwise(Op):
    """y = f(x) with a known slope f'(x), given x and y."""

    def __init__(self, function: Function, slope: Slope, nonnegative: bool = False, exact: bool = True) -> None:
        self._function = function
        self._slope = slope
        self.nonnegative = nonnegative
        self.status = "exact" if exact else "approximate"

    def forward(self, at: At, x: Array) -> Array:
        return self._function(at.xp, at, x)

    def vjp(self, at: At, g: Array) -> Gradients:
        return (g * self._slope(at.xp, at, at.x(), at.y()),)


def _leaky(xp: Namespace, at: At, x: Array) -> Array:
    return xp.positive(x) + xp.negative(x) * at["alpha"]


def _above(xp: Namespace, x: Array, bound: float = 0.0) -> Array:
    return xp.cast(xp.greater(x, bound))


def _elu(xp: Namespace, at: At, x: Array) -> Array:
    return xp.positive(x) + (xp.exp(xp.negative(x)) - 1.0) * at["alpha"]


def _elu_slope(xp: Namespace, at: At, x: Array, y: Array) -> Array:
    return xp.where(xp.greater(x, 0.0), 1.0, xp.exp(xp.negative(x)) * at["alpha"])


def _hard_sigmoid(xp: Namespace, at: At, x: Array) -> Array:
    return xp.minimum(xp.positive(x * at["alpha"] + at["beta"]), 1.0)


def _hard_sigmoid_slope(xp: Namespace, at: At, x: Array, y: Array) -> Array:
    return xp.mask(xp.ones_like(y) * at["alpha"], y, 0.0, 1.0)


def _hard_swish(xp: Namespace, at: At, x: Array) -> Array:
    return x * xp.minimum(xp.positive(x * (1 / 6) + 0.5), 1.0)


def _hard_swish_slope(xp: Namespace, at: At, x: Array, y: Array) -> Array:
    gate = xp.minimum(xp.positive(x * (1 / 6) + 0.5), 1.0)
    return gate + xp.mask(x * (1 / 6), x, -3.0, 3.0)


_HALF_LOG = math.sqrt(2 / math.pi)


def _tanh_inside(x: Array) -> Array:
    return (x + x * x * x * 0.044715) * _HALF_LOG


def _gelu(xp: Namespace, at: At, x: Array) -> Array:
    inner = xp.tanh(_tanh_inside(x)) if at["approximate"] == "tanh" else xp.erf(x * math.sqrt(0.5))
    return x * (inner + 1.0) * 0.5


def _gelu_slope(xp: Namespace, at: At, x: Array, y: Array) -> Array:
    if at["approximate"] == "tanh":
        t = xp.tanh(_tanh_inside(x))
        return (t + 1.0) * 0.5 + x * (1.0 - t * t) * (1.0 + x * x * (3 * 0.044715)) * (0.5 * _HALF_LOG)
    bell = xp.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return (xp.erf(x * math.sqrt(0.5)) + 1.0) * 0.5 + x * bell


_TABLE = {
    "LeakyRelu": Elementwise(_leaky, lambda xp, at, x, y: _above(xp, x) * (1.0 - at["alpha"]) + at["alpha"]),
    "Elu": Elementwise(_elu, _elu_slope),
    "Sigmoid": Elementwise(lambda xp, at, x: xp.sigmoid(x), lambda xp, at, x, y: y * (1.0 - y), True, exact=False),
    "Tanh": Elementwise(lambda xp, at, x: xp.tanh(x), lambda xp, at, x, y: 1.0 - y * y),
    "HardSigmoid": Elementwise(_hard_sigmoid, _hard_sigmoid_slope, True, exact=False),
    "HardSwish": Elementwise(_hard_swish, _hard_swish_slope),
    "Gelu": Elementwise(_gelu, _gelu_slope),
    "Erf": Elementwise(
        lambda xp, at, x: xp.erf(x), lambda xp, at, x, y: xp.exp(-(x * x)) * (2 / math.sqrt(math.pi)), exact=False
    ),
    "Exp": Elementwise(lambda xp, at, x: xp.exp(x), lambda xp, at, x, y: y, True, exact=False),
    "Log": Elementwise(lambda xp, at, x: xp.log(x), lambda xp, at, x, y: 1.0 / x, exact=False),
    "Sqrt": Elementwise(lambda xp, at, x: xp.sqrt(x), lambda xp, at, x, y: 0.5 / y, True, exact=False),
    "Reciprocal": Elementwise(lambda xp, at, x: 1.0 / x, lambda xp, at, x, y: -(y * y), exact=False),
    "Abs": Elementwise(lambda xp, at, x: xp.abs(x), lambda xp, at, x, y: xp.sign(x), True, exact=False),
    "Neg": Elementwise(lambda xp, at, x: -x, lambda xp, at, x, y: xp.ones_like(x) * -1.0),
}

for _op_type, _op in _TABLE.items():
    add(_op_type, _op)
