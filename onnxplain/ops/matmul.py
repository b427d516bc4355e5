"""Gemm and MatMul: a product with weights where one operand is constant, else of two activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxplain.engine.namespace import Array
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.ops.base import At, Gradients, Kind, Linear, find, register, unbroadcast


class _Product(Linear):
    def kind_of(self, layer: Layer) -> Kind:
        a, b = layer.inputs[:2]
        assert a is not None
        assert b is not None
        return Kind.LINEAR if a.static or b.static else Kind.PRODUCT

    def source(self, at: At) -> int:
        return 0 if at.layer.inputs[1].static else 1  # type: ignore[union-attr]

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """Rows times constant weights: all positive contributions of a vector, behind a spatial tensor the largest.

        Rows of more than two axes are places (tokens), which weights treat as a convolution of kernel 1 does: the
        largest contribution. A product of two activations follows the largest term of its sum, then the operand that
        is no softmax (attention leads to the values), else the one of larger magnitude. Where C of a Gemm is an
        activation, the larger of product and C comes first.
        """
        result: list[Any | None] = [None] * len(at.layer.inputs)
        if at.wants(2):
            added = at.x(2) * at["beta"]
            points, result[2] = at.points.largest(points, at.out_shape(), [at.y() - added, added])
        turns = [bool(at.get(name, 0)) for name in ("transA", "transB")]
        if at.layer.inputs[1].static and at.rank(1) <= 2 and not turns[0]:  # type: ignore[union-attr]
            w = at.xp.reshape(self.weight(at), (at.shape(0)[-1], -1))
            rows = at.xp.reshape(at.x(0), (-1, at.shape(0)[-1]))
            result[0] = at.points.dense(points, rows, w, at.rank(0) <= 2 and not behind_spatial(at))
            return result
        operands = [at.xp.transpose(at.x(i), (1, 0)) if turn else at.x(i) for i, turn in enumerate(turns)]
        active = [index for index in (0, 1) if at.wants(index)]
        values = [index for index in active if _maker(at, index) != "Softmax"]
        follow = active[0] if len(active) == 1 else values[0] if len(values) == 1 else None
        left = operands[0] if at.get("alpha", 1.0) == 1 else operands[0] * at["alpha"]
        routed = at.points.product(points, left, operands[1], at.out_shape(), follow)
        for index in active:
            turned = at.shape(index)[::-1]
            result[index] = at.points.transposed(routed[index], turned, (1, 0)) if turns[index] else routed[index]
        return result

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """Rows times weights: the same rows; else everything."""
        rows = self.kind_of(at.layer) is Kind.LINEAR and self.source(at) == 0 and not at.get("transA", 0)
        if not rows or at.rank() != len(at.out_shape()) or at.wants(2):
            return super().reach(at, *fields)
        return (fields[0].whole([at.rank() - 1], at.shape()), None, None)


@register("Gemm")
class Gemm(_Product):
    """alpha * A' B' + beta * C, A' and B' transposed where transA and transB say so."""

    def forward(self, at: At, a: Array, b: Array, c: Array | None = None) -> Array:
        y = at.xp.matmul(_turned(at, a, "transA"), _turned(at, b, "transB"))
        y = y if at["alpha"] == 1 else y * at["alpha"]
        return y if c is None else y + c * at["beta"]

    def vjp(self, at: At, g: Array) -> Gradients:
        xp = at.xp
        scaled = g if at["alpha"] == 1 else g * at["alpha"]
        grads: list[Array | None] = [None, None, None]
        if at.wants(0):
            b = _turned(at, at.x(1), "transB")
            grads[0] = _turned(at, xp.matmul(scaled, xp.transpose(b, (1, 0))), "transA")
        if at.wants(1):
            a = _turned(at, at.x(0), "transA")
            grads[1] = _turned(at, xp.matmul(xp.transpose(a, (1, 0)), scaled), "transB")
        if at.wants(2):
            grads[2] = at.fit(g if at["beta"] == 1 else g * at["beta"], 2)
        return grads[: len(at.layer.inputs)]

    def moves_samples(self, layer: Layer) -> bool:
        """Weights on the left meet columns, and so do those of a transposed operand."""
        left = layer.inputs[0]
        assert left is not None
        return left.static or bool(layer.attributes["transA"])

    def free_axis(self, at: At) -> int:
        """Rows on the left, columns on the right, the other one where the operand is transposed."""
        source = self.source(at)
        return source ^ bool(at["transB" if source else "transA"])

    def weight(self, at: At) -> Array:
        source = self.source(at)
        w = _turned(at, at.x(1 - source), "transA" if source else "transB")
        return w if at["alpha"] == 1 else w * at["alpha"]

    def bias(self, at: At) -> Array | None:
        if at.input(2) is None or at.wants(2):
            return None
        return at.x(2) if at["beta"] == 1 else at.x(2) * at["beta"]

    def apply(self, at: At, x: Array, w: Array) -> Array:
        if self.source(at):
            return at.xp.matmul(w, _turned(at, x, "transB"))
        return at.xp.matmul(_turned(at, x, "transA"), w)

    def transpose(self, at: At, s: Array, w: Array) -> Array:
        turned = at.xp.transpose(w, (1, 0))
        if self.source(at):
            return _turned(at, at.xp.matmul(turned, s), "transB")
        return _turned(at, at.xp.matmul(s, turned), "transA")


def _turned(at: At, x: Array, attribute: str) -> Array:
    return at.xp.transpose(x, (1, 0)) if at[attribute] else x


@register("MatMul")
class MatMul(_Product):
    """numpy's matmul: batched, broadcast, vectors allowed on either side."""

    def forward(self, at: At, a: Array, b: Array) -> Array:
        return at.xp.matmul(a, b)

    def vjp(self, at: At, g: Array) -> Gradients:
        return (
            self._toward(at, 0, g, at.x(1)) if at.wants(0) else None,
            self._toward(at, 1, g, at.x(0)) if at.wants(1) else None,
        )

    def moves_samples(self, layer: Layer) -> bool:
        """Weights on the left meet columns, unless they meet a stack of matrices."""
        left, right = layer.inputs[:2]
        assert left is not None
        assert right is not None
        stack = right.shape is not None and len(right.shape) > 2
        return left.static and not stack

    def free_axis(self, at: At) -> int | None:
        """The first of a stack of matrices, else rows on the left and columns on the right; none of a vector."""
        source = self.source(at)
        rank = at.rank(source)
        return None if rank == 1 else source if rank == 2 else 0

    def weight(self, at: At) -> Array:
        return at.x(1 - self.source(at))

    def apply(self, at: At, x: Array, w: Array) -> Array:
        return at.xp.matmul(w, x) if self.source(at) else at.xp.matmul(x, w)

    def transpose(self, at: At, s: Array, w: Array) -> Array:
        return self._toward(at, self.source(at), s, w)

    def _toward(self, at: At, index: int, g: Array, other: Array) -> Array:
        """The product of ``g`` with the transposed other operand, in the shape of operand ``index``."""
        xp = at.xp
        shape, other_shape, out = at.shape(index), at.shape(1 - index), at.out_shape()
        if len(shape) == 1 or len(other_shape) == 1:
            g, other, other_shape, out = self._as_matrices(at, index, g, other)
        turned = xp.transpose(other, (*range(len(other_shape) - 2), len(other_shape) - 1, len(other_shape) - 2))
        product = xp.matmul(turned, g) if index else xp.matmul(g, turned)
        matrix = shape if len(shape) > 1 else ((shape[0], 1) if index else (1, shape[0]))
        rank = max(len(other_shape), len(out))
        batch = [1] * (rank - len(out)) + list(out[:-2])
        product = unbroadcast(xp, product, matrix, (*batch, *matrix[-2:]))
        return product if len(shape) > 1 else xp.reshape(product, shape)

    def _as_matrices(
        self, at: At, index: int, g: Array, other: Array
    ) -> tuple[Array, Array, tuple[int, ...], tuple[int, ...]]:
        """View vector operands as matrices: 1 x K on the left, K x 1 on the right."""
        a, b, out = at.shape(0), at.shape(1), list(at.out_shape())
        if len(a) == 1:
            out.insert(len(out) if len(b) == 1 else len(out) - 1, 1)
        if len(b) == 1:
            out.append(1)
        other_shape = b if index == 0 else a
        if len(other_shape) == 1:
            other_shape = (1, *other_shape) if index else (*other_shape, 1)
            other = at.xp.reshape(other, other_shape)
        return at.xp.reshape(g, tuple(out)), other, other_shape, tuple(out)


def behind_spatial(at: At) -> bool:
    """Whether the rows of the first operand are a flattened tensor with more than one place per channel."""
    tensor = at.layer.inputs[0]
    assert tensor is not None
    return _has_places(at, tensor)


def _has_places(at: At, tensor: Tensor) -> bool:
    """Whether a tensor, elements only moved or mapped one by one since, had several places per channel.

    Channels stand at axis 1 wherever a layer computes them; a transposition behind it is followed back.
    """
    places = False
    while (layer := tensor.producer) is not None:
        moved = [source for source in layer.inputs if source is not None and not source.static]
        if layer.op_type == "Concat":
            return any(_has_places(at, part) for part in moved)
        op = find(layer)
        kept = op is not None and op.kind_of(layer) in (Kind.PASS, Kind.ROUTE) and len(moved) == 1
        if not kept or math.prod(at.values.shape(moved[0])) != math.prod(at.values.shape(tensor)):
            break
        tensor = moved[0]
        places = any(size > 1 for size in at.values.shape(tensor)[2:])
    return places


def _maker(at: At, index: int) -> str:
    """The op type that computed an operand, elements only moved since."""
    tensor = at.layer.inputs[index]
    while tensor is not None and (layer := tensor.producer) is not None:
        op = find(layer)
        if op is None or op.kind_of(layer) is not Kind.ROUTE:
            return layer.op_type
        tensor = layer.inputs[0]
    return ""
