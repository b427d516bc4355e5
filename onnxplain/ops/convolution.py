"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxplain.engine.namespace import Array, Window
from onnxplain.ops.base import At, Gradients, Linear, register
from onnxplain.ops.window import spatial_window, unstrided


@register("Conv")
class Conv(Linear):
    """N x C x spatial to N x M x spatial; the kernel is the constant weight."""

    fixed = (1, 2)

    def window(self, at: At) -> Window:
        """Kernel size from the weight; strides, dilations and pads from the node."""
        return spatial_window(at, at.shape(1)[2:])

    def forward(self, at: At, x: Array, w: Array, b: Array | None = None) -> Array:
        return self.affine(at, x, w, None if b is None else self._spread(at, b))

    def vjp(self, at: At, g: Array) -> Gradients:
        return (self.transpose(at, g, self.weight(at)),)

    def unstrided(self, at: At, g: Array) -> Gradients:
        """The gradient of the convolution moved by one."""
        g, window = unstrided(at, g, self.window(at))
        return (at.xp.conv_input_grad(g, self.weight(at), window, at["group"], at.shape(0)[2:]),)

    def bias(self, at: At) -> Array | None:
        return self._spread(at, at.x(2)) if at.input(2) is not None else None

    def apply(self, at: At, x: Array, w: Array) -> Array:
        return self.affine(at, x, w, None)

    def affine(self, at: At, x: Array, w: Array, b: Array | None) -> Array:
        return at.xp.conv(x, w, self.window(at), at["group"], b)

    def transpose(self, at: At, s: Array, w: Array) -> Array:
        return at.xp.conv_input_grad(s, w, self.window(at), at["group"], at.shape(0)[2:])

    def contributions(self, at: At, s: Array, w: Array, x: Array) -> Array:
        return at.xp.conv_input_grad(s, w, self.window(at), at["group"], at.shape(0)[2:], x)

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """The window, all channels of it."""
        return (fields[0].windowed(self.window(at), at.shape()).whole([1], at.shape()), None, None)

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The channel with the largest summed contribution; the place by ``conv_location``.

        A kernel of 1 over a single place is a fully connected layer and treated as one behind a vector.
        """
        if set((*at.shape(0)[2:], *at.shape(1)[2:])) == {1} and at["group"] == 1:
            weights = at.xp.transpose(at.xp.reshape(at.x(1), at.shape(1)[:2]), (1, 0))
            return [at.points.dense(points, at.xp.reshape(at.x(0), at.shape(0)[:2]), weights, True), None, None]
        return [at.points.conv(points, at.x(0), at.x(1), at.out_shape(), self.window(at)), None, None]

    def _spread(self, at: At, b: Array) -> Array:
        return at.xp.reshape(b, (1, at.shape(1)[0]) + (1,) * (at.rank(0) - 2))


@register("ConvTranspose")
class ConvTranspose(Linear):
    """The adjoint of a Conv whose kernel is C x M/group x kernel."""

    fixed = (1, 2)

    def window(self, at: At) -> Window:
        """The window of the Conv that this op is the adjoint of."""
        kernel, size, out = at.shape(1)[2:], at.shape(0)[2:], at.out_shape()[2:]
        rank = len(kernel)
        strides = tuple(at.get("strides") or (1,) * rank)
        dilations = tuple(at.get("dilations") or (1,) * rank)
        extra = tuple(at.get("output_padding") or (0,) * rank)
        begin, end = [], []
        for i in range(rank):
            reach = dilations[i] * (kernel[i] - 1) + 1
            total = max((size[i] - 1) * strides[i] + extra[i] + reach - out[i], 0)
            if at.get("output_shape") or at.get("auto_pad", "NOTSET").startswith("SAME"):
                first = total // 2 if at.get("auto_pad") == "SAME_UPPER" else total - total // 2
            else:
                first = (at.get("pads") or (0,) * 2 * rank)[i]
            begin.append(first)
            end.append(max((size[i] - 1) * strides[i] + reach - out[i] - first, 0))
        return Window(tuple(kernel), strides, dilations, tuple(begin), tuple(end))

    def forward(self, at: At, x: Array, w: Array, b: Array | None = None) -> Array:
        y = self.apply(at, x, w)
        return y if b is None else y + self.bias(at)

    def vjp(self, at: At, g: Array) -> Gradients:
        return (self.transpose(at, g, self.weight(at)),)

    def bias(self, at: At) -> Array | None:
        if at.input(2) is None:
            return None
        return at.xp.reshape(at.x(2), (1, at.shape(2)[0]) + (1,) * (at.rank(0) - 2))

    def apply(self, at: At, x: Array, w: Array) -> Array:
        return at.xp.conv_input_grad(x, w, self.window(at), at["group"], at.out_shape()[2:])

    def transpose(self, at: At, s: Array, w: Array) -> Array:
        return at.xp.conv(s, w, self.window(at), at["group"])

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """Every place whose window covers the part, all channels of it."""
        return (fields[0].spread(self.window(at), at.shape()).whole([1], at.shape()), None, None)

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """As for Conv, over the inputs that reach the point."""
        return [at.points.conv_transpose(points, at.x(0), at.x(1), at.out_shape(), self.window(at)), None, None]
