"""Normalizations and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Any

from onnxplain.engine.namespace import Array
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.ops.base import At, Gradients, Kind, Op, register


@register("BatchNormalization")
class BatchNormalization(Op):
    """(x - mean) / sqrt(var + epsilon) * scale + bias with the recorded statistics; relevance passes."""

    status = "approximate"
    fixed = (1, 2, 3, 4)

    def refusal(self, layer: Layer, wanted: Set[Tensor]) -> str | None:
        if layer.attributes.get("training_mode", 0):
            return "it is in training mode, its statistics are those of the batch"
        return super().refusal(layer, wanted)

    def forward(self, at: At, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
        return x * self._factor(at) + self.bias(at)

    def bias(self, at: At) -> Array:
        """What the recorded mean and the bias add, whatever the input."""
        return self._spread(at, at.x(2)) - self._spread(at, at.x(3)) * self._factor(at)

    def vjp(self, at: At, g: Array, *statistics: Array) -> Gradients:
        return (g * self._factor(at), None, None, None, None)

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The same element; right behind a convolution or product, contributions take the sign of the channel's scale.

        A negative scale turns their order around, as it would had it been folded into the weights.
        """
        source = at.layer.inputs[0]
        signed = source is not None and _is_linear(source) and at.get("spatial", 1)
        return (at.points.signed(points, at.out_shape(), at.x(1)) if signed else points,)

    def _factor(self, at: At) -> Array:
        return self._spread(at, at.x(1)) / at.xp.sqrt(self._spread(at, at.x(4)) + at["epsilon"])

    def _spread(self, at: At, parameter: Array) -> Array:
        """One number per channel, or per element of a sample where spatial = 0 (before opset 9)."""
        if not at.get("spatial", 1):
            return at.xp.reshape(parameter, (1, *at.shape()[1:]))
        return at.xp.reshape(parameter, (1, -1) + (1,) * (at.rank() - 2))


def _is_linear(tensor: Tensor) -> bool:
    """Whether a tensor is a product with weights, a constant added or not."""
    layer = tensor.producer
    if layer is None:
        return False
    operands = [operand for operand in layer.inputs if operand is not None and not operand.static]
    match layer.op_type:
        case "Conv" | "ConvTranspose" | "Gemm" | "MatMul":
            return len(operands) == 1
        case "Add":
            return len(operands) == 1 and _is_linear(operands[0])
    return False


class _AlongAxes(Op):
    kind = Kind.SUM
    status = "approximate"

    def axes(self, at: At) -> tuple[int, ...]:
        """One axis; all from it on before opset 13, where the input was flattened to two axes."""
        axis = at.axis(at["axis"])
        return (axis,) if at.layer.since_version >= 13 else tuple(range(axis, at.rank()))

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The same element."""
        return (points,)

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """Everything along the axes."""
        return (fields[0].whole(self.axes(at), at.shape()),)


@register("Softmax")
class Softmax(_AlongAxes):
    """exp(x) / sum exp(x)."""

    nonnegative = True

    def forward(self, at: At, x: Array) -> Array:
        e = at.xp.exp(x - at.xp.max(x, self.axes(at), True))
        return e / at.xp.sum(e, self.axes(at), True)

    def vjp(self, at: At, g: Array) -> Gradients:
        y = at.y()
        return (y * (g - at.xp.sum(g * y, self.axes(at), True)),)

    def bias(self, at: At) -> Array:
        """The Taylor expansion at x has the slope's share y * (x - sum x y); the rest of y is its constant."""
        x, y = at.x(), at.y()
        return y * (1.0 - x + at.xp.sum(x * y, self.axes(at), True))


@register("LogSoftmax")
class LogSoftmax(_AlongAxes):
    """x - log(sum exp(x))."""

    def forward(self, at: At, x: Array) -> Array:
        shifted = x - at.xp.max(x, self.axes(at), True)
        return shifted - at.xp.log(at.xp.sum(at.xp.exp(shifted), self.axes(at), True))

    def vjp(self, at: At, g: Array) -> Gradients:
        return (g - at.xp.exp(at.y()) * at.xp.sum(g, self.axes(at), True),)

    def bias(self, at: At) -> Array:
        """What the Taylor expansion at x, x - sum x exp(y), leaves of y."""
        x, y = at.x(), at.y()
        return y - x + at.xp.sum(x * at.xp.exp(y), self.axes(at), True)


@register("LayerNormalization")
class LayerNormalization(Op):
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the last axes; relevance takes the deviation as constant."""

    kind = Kind.SUM
    status = "approximate"

    def forward(self, at: At, x: Array, scale: Array, bias: Array | None = None) -> Array:
        mean, deviation = self._statistics(at, x)
        y = (x - mean) / deviation * scale
        y = y if bias is None else y + bias
        return (y, mean, 1.0 / deviation)[: len(at.layer.outputs)] if len(at.layer.outputs) > 1 else y

    def vjp(self, at: At, g: Array | None, g_mean: Array | None = None, g_inverse: Array | None = None) -> Gradients:
        mean, deviation = self._statistics(at, at.x())
        normal = (at.x() - mean) / deviation
        grads: list[Array] = []
        if g is not None:
            scaled = g * at.x(1)
            grads.append((scaled - self._mean(at, scaled) - normal * self._mean(at, scaled * normal)) / deviation)
        if g_mean is not None:
            grads.append((at.xp.zeros_like(normal) + g_mean) * (1.0 / self._count(at)))
        if g_inverse is not None:
            grads.append(g_inverse * normal / (deviation * deviation) * (-1.0 / self._count(at)))
        scale = at.fit(g * normal, 1) if g is not None and at.wants(1) else None
        bias = at.fit(g, 2) if g is not None and at.wants(2) else None
        return (sum(grads[1:], grads[0]), scale, bias)

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The same element."""
        return (points, None, None)

    def adjoint(self, at: At, s: Array, *statistics: Array) -> Gradients:
        scaled = s * at.x(1) / self._statistics(at, at.x())[1]
        return (scaled - self._mean(at, scaled), None, None)

    def bias(self, at: At) -> Array | None:
        return at.x(2) if at.input(2) is not None else None

    def _statistics(self, at: At, x: Array) -> tuple[Array, Array]:
        mean = self._mean(at, x)
        centred = x - mean
        return mean, at.xp.sqrt(self._mean(at, centred * centred) + at["epsilon"])

    def _mean(self, at: At, x: Array) -> Array:
        return at.xp.sum(x, self._axes(at), True) * (1.0 / self._count(at))

    def _axes(self, at: At) -> tuple[int, ...]:
        return tuple(range(at.axis(at["axis"]), at.rank()))

    def _count(self, at: At) -> int:
        return math.prod(at.length(axis) for axis in self._axes(at))

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """Everything along the axes."""
        part = next(each for each in fields if each is not None)
        return (part.whole(self._axes(at), at.shape()), None, None)


@register("LRN")
class LRN(Op):
    """x / (bias + alpha / size * sum of x^2 over neighbouring channels)^beta; relevance passes."""

    status = "approximate"
    keeps_sign = True

    def forward(self, at: At, x: Array) -> Array:
        return x * at.xp.power(self._base(at, x), -at["beta"])

    def vjp(self, at: At, g: Array) -> Gradients:
        x = at.x()
        base = self._base(at, x)
        direct = g * at.xp.power(base, -at["beta"])
        through = self._neighbours(at, direct * x / base, turned=True)
        return (direct - x * through * (2 * at["alpha"] * at["beta"] / at["size"]),)

    def _base(self, at: At, x: Array) -> Array:
        return self._neighbours(at, x * x) * (at["alpha"] / at["size"]) + at["bias"]

    def _neighbours(self, at: At, x: Array, turned: bool = False) -> Array:
        """Sums over the window of ``size`` channels around each one, or the adjoint."""
        channels, size = at.shape()[1], at["size"]
        before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
        band = [[float(-before <= j - i <= after) for j in range(channels)] for i in range(channels)]
        matrix = at.xp.transpose(at.xp.const(band), (1, 0)) if turned else at.xp.const(band)
        shape = at.shape()
        rows = at.xp.reshape(x, (shape[0], channels, math.prod(shape[2:])))
        return at.xp.reshape(at.xp.matmul(matrix, rows), shape)

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """All channels of the part."""
        return (fields[0].whole([1], at.shape()),)
