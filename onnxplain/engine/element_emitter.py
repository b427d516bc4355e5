"""The recording namespace, first half: creation, element by element, reductions, moving elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from onnxplain.engine.namespace import Array
from onnxplain.engine.recorder import STEEP, Recorder, Sym, broadcast
from onnxplain.engine.resampling import resize_matrix

_NEAR = 64.0
"""Bounds up to this times ``STEEP`` stay finite."""


class ElementEmitter(Recorder):
    """The primitives that are no products and know no windows."""

    # creation

    def const(self, value: Any) -> Array:
        return self.host.const(value)

    def ones(self, shape: Sequence[int]) -> Array:
        return self.host.ones(shape)

    def ones_like(self, x: Array) -> Array:
        return self.host.ones_like(x) if not isinstance(x, Sym) else self.zeros_like(x) + 1.0

    def zeros_like(self, x: Array) -> Array:
        if not isinstance(x, Sym):
            return self.host.zeros_like(x)
        return self.emit("ConstantOfShape", [self._size(x)], x.shape, np.float32)

    def _size(self, x: Sym) -> Sym:
        return self.emit("Shape", [x], (len(x.shape),), np.int64)

    # element by element

    def maximum(self, a: Array, b: Array | float) -> Array:
        return self._two("maximum", "Max", a, b)

    def minimum(self, a: Array, b: Array | float) -> Array:
        return self._two("minimum", "Min", a, b)

    def power(self, a: Array, b: Array | float) -> Array:
        return self._two("power", "Pow", a, b)

    def greater(self, a: Array, b: Array | float) -> Array:
        return self._two("greater", "Greater", a, b, bool)

    def less(self, a: Array, b: Array | float) -> Array:
        return self._two("less", "Less", a, b, bool)

    def equal(self, a: Array, b: Array | float) -> Array:
        return self._two("equal", "Equal", a, b, bool)

    def _two(self, primitive: str, op_type: str, a: Any, b: Any, dtype: Any = None) -> Array:
        if not isinstance(a, Sym) and not isinstance(b, Sym):
            return getattr(self.host, primitive)(a, b)
        return self.binary(op_type, a, b, dtype)

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        if not any(isinstance(value, Sym) for value in (condition, a, b)):
            return self.host.where(condition, a, b)
        a, b = (value if isinstance(value, Sym) else np.asarray(value, np.float32) for value in (a, b))
        return self.emit("Where", [condition, a, b], broadcast(condition.shape, a.shape, b.shape))

    def _one(self, primitive: str, op_type: str, x: Array, **attributes: Any) -> Array:
        if not isinstance(x, Sym):
            return getattr(self.host, primitive)(x)
        return self.unary(op_type, x, **attributes)

    def abs(self, x: Array) -> Array:
        return self._one("abs", "Abs", x)

    def sign(self, x: Array) -> Array:
        return self._one("sign", "Sign", x)

    def exp(self, x: Array) -> Array:
        return self._one("exp", "Exp", x)

    def log(self, x: Array) -> Array:
        return self._one("log", "Log", x)

    def sqrt(self, x: Array) -> Array:
        return self._one("sqrt", "Sqrt", x)

    def tanh(self, x: Array) -> Array:
        return self._one("tanh", "Tanh", x)

    def sigmoid(self, x: Array) -> Array:
        return self._one("sigmoid", "Sigmoid", x)

    def erf(self, x: Array) -> Array:
        return self._one("erf", "Erf", x)

    def round(self, x: Array) -> Array:
        return self._one("round", "Round", x)

    def positive(self, x: Array) -> Array:
        return self._one("positive", "Relu", x) if isinstance(x, Sym) else self.maximum(x, 0.0)

    def negative(self, x: Array) -> Array:
        if isinstance(x, Sym) and self._blockable(x):
            return self._depthwise(self.positive(x), -1.0, 0.0) + x
        return self.minimum(x, 0.0)

    def cast(self, x: Array) -> Array:
        if not isinstance(x, Sym):
            return self.host.cast(x)
        return x if x.dtype == np.float32 else self.emit("Cast", [x], x.shape, to=onnx.TensorProto.FLOAT)

    def mask(self, g: Array, y: Array, low: float | None = 0.0, high: float | None = None) -> Array:
        for bound, slope, inside in ((low, STEEP, self.greater), (high, -STEEP, self.less)):
            if bound is None:
                continue
            if self.blocked and abs(bound) <= _NEAR:
                g = self._blocks(g) * self._step(y, slope, -bound * slope)
            else:
                g = self.where(inside(y, bound), g, 0.0)
        return g

    def ratio(self, r: Array, z: Array, epsilon: float, unsigned: bool = False) -> Array:
        if not isinstance(z, Sym):
            reciprocal = self.host.ratio(np.ones_like(z), z, epsilon, unsigned)
            return r * reciprocal
        rectified = self.rectified.get(z.name)
        if rectified is not None and epsilon and isinstance(r, Sym) and rectified.name in self._factors.get(r.name, ()):
            z, unsigned = rectified, True  # where z < 0 stands 0 / z
        if unsigned:
            return r / (z + epsilon)
        if not epsilon:
            return r / z
        if not self.blocked:
            return r / (z + self.where(self.less(z, 0.0), -epsilon, epsilon))
        return r / (z + self._signed(z, epsilon))

    # reductions

    def sum(self, x: Array, axes: Sequence[int], keepdims: bool = False) -> Array:
        if not isinstance(x, Sym):
            return self.host.sum(x, axes, keepdims)
        return self._reduce("ReduceSum", x, axes, keepdims)

    def max(self, x: Array, axes: Sequence[int], keepdims: bool = False) -> Array:
        if not isinstance(x, Sym):
            return self.host.max(x, axes, keepdims)
        return self._reduce("ReduceMax", x, axes, keepdims)

    def _reduce(self, op_type: str, x: Sym, axes: Sequence[int], keepdims: bool) -> Sym:
        if not axes:
            return x
        shape = [1 if i in axes else dim for i, dim in enumerate(x.shape) if keepdims or i not in axes]
        return self.emit(op_type, [x, np.array(axes, np.int64)], shape, x.dtype, keepdims=int(keepdims))

    def sum_samples(self, x: Array) -> Array:
        return self.sum(x, tuple(range(1, len(x.shape))))

    def shares(
        self, r: Array, z: Array, b: Array | None, epsilon: float, unsigned: bool = False
    ) -> tuple[Array, Array, Array, Array | None]:
        s = self.ratio(r, z, epsilon, unsigned)
        zero = self.where(self.equal(z, 0.0), r, 0.0)
        sign = self.sign(self.abs(z) if unsigned else z)
        bias = None if b is None else self.sum_samples(s * b)
        return s, self.sum_samples(s * sign) * epsilon, self.sum_samples(zero), bias

    def argmax(self, x: Array, axis: int) -> Array:
        if not isinstance(x, Sym):
            return self.host.argmax(x, axis)
        shape = [1 if i == axis else dim for i, dim in enumerate(x.shape)]
        return self.emit("ArgMax", [x], shape, np.int64, axis=axis, keepdims=1)

    # moving elements

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        if not isinstance(x, Sym):
            return self.host.reshape(x, shape)
        if tuple(shape) == x.shape:
            return x
        return self.emit("Reshape", [x, np.array(shape, np.int64)], shape, x.dtype)

    def transpose(self, x: Array, perm: Sequence[int]) -> Array:
        if not isinstance(x, Sym):
            return self.host.transpose(x, perm)
        return self.emit("Transpose", [x], [x.shape[i] for i in perm], x.dtype, perm=list(perm))

    def expand(self, x: Array, shape: Sequence[int]) -> Array:
        if not isinstance(x, Sym):
            return self.host.expand(x, shape)
        if tuple(shape) == x.shape:
            return x
        sizes = np.array([1 if dim == -1 else dim for dim in shape], np.int64)
        return self.emit("Expand", [x, sizes], broadcast(x.shape, shape), x.dtype)

    def concat(self, xs: Sequence[Array], axis: int) -> Array:
        if not any(isinstance(x, Sym) for x in xs):
            return self.host.concat(xs, axis)
        shape = list(xs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in xs)
        return self.emit("Concat", list(xs), shape, xs[0].dtype, axis=axis)

    def slice(self, x: Array, axis: int, start: int, stop: int, step: int = 1) -> Array:
        if not isinstance(x, Sym):
            return self.host.slice(x, axis, start, stop, step)
        if (start, stop, step) == (0, x.shape[axis], 1):
            return x
        shape = list(x.shape)
        shape[axis] = len(range(start, stop, step))
        settings = [np.array([value], np.int64) for value in (start, stop, axis, step)]
        return self.emit("Slice", [x, *settings], shape, x.dtype)

    def flip(self, x: Array, axis: int) -> Array:
        if not isinstance(x, Sym):
            return self.host.flip(x, axis)
        settings = [np.array([value], np.int64) for value in (-1, -(2**31), axis, -1)]
        return self.emit("Slice", [x, *settings], x.shape, x.dtype)

    def pad(self, x: Array, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Array:
        if not isinstance(x, Sym):
            return self.host.pad(x, begin, end, value)
        if not any((*begin, *end)):
            return x
        shape = [dim if dim == -1 else b + dim + e for b, dim, e in zip(begin, x.shape, end, strict=True)]
        return self.emit("Pad", [x, np.array([*begin, *end], np.int64), np.array(value, x.dtype)], shape, x.dtype)

    def gather(self, x: Array, indices: np.ndarray | Sequence[int], axis: int) -> Array:
        indices = np.asarray(indices, np.int64)
        if not isinstance(x, Sym):
            return self.host.gather(x, indices, axis)
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        return self.emit("Gather", [x, indices], shape, x.dtype, axis=axis)

    def scatter_add(self, g: Array, indices: np.ndarray | Sequence[int], axis: int, size: int) -> Array:
        """Gather the slices that land on each index and sum them: parallel, unlike ScatterElements."""
        indices = np.asarray(indices, np.int64)
        if not isinstance(g, Sym):
            return self.host.scatter_add(g, indices, axis, size)
        flat = indices.reshape(-1)
        g = self.reshape(g, (*g.shape[:axis], flat.size, *g.shape[axis + indices.ndim :]))
        hits = [np.flatnonzero(flat == position) for position in range(size)]
        most = max((len(hit) for hit in hits), default=0)
        pads = [0] * len(g.shape)
        padded = self.pad(g, pads, [int(i == axis) for i in range(len(g.shape))])
        table = np.full((size, max(most, 1)), flat.size, np.int64)
        for position, hit in enumerate(hits):
            table[position, : len(hit)] = hit
        gathered = self.gather(padded, table, axis)
        return self.sum(gathered, (axis + 1,))

    def one_hot(self, index: Array, axis: int, size: int) -> Array:
        shape = [1] * len(index.shape)
        shape[axis] = size
        positions = np.arange(size, dtype=np.int64).reshape(shape)
        return self.cast(self.equal(index, positions))

    resize_matrix = staticmethod(resize_matrix)
