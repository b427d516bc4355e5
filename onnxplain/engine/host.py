"""The array namespace that computes at once on numpy arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np

from onnxplain.engine.namespace import Array, Window
from onnxplain.engine.resampling import resize_matrix

Axes = tuple[int, int, int]

_COLUMNS = 512
"""Positions of the output in a tile of a convolution: what they read stays in the cache, see the kernels."""
_WIDE = 64
"""Columns from which on a product is faster over matrices as they lie than over tiles laid out anew."""
_NARROW = 48
"""The same for a single sample, of which a tile holds no more columns."""
_FEW = 4
"""Rows up to which a product is as fast as its other factor is read."""
_MANY = 1 << 14
"""Elements from which on a kernel is faster than numpy."""
_BLOCK = 256
"""Rows of weights that go over a tile at a time: their sums stay in the cache."""


class Host:
    """Implements :class:`onnxplain.engine.namespace.Namespace`.

    Parameters
    ----------
    dtype : dtype
        The working precision, float32 or float64. Integer and boolean arrays keep their type.
    """

    def __init__(self, dtype: Any = np.float32) -> None:
        self.dtype = np.dtype(dtype)

    # creation

    def const(self, value: np.ndarray | Sequence[float] | Sequence[Sequence[float]]) -> Array:
        array = np.asarray(value)
        return array.astype(self.dtype, copy=False) if array.dtype.kind == "f" else array

    def ones(self, shape: Sequence[int]) -> Array:
        return np.ones(shape, self.dtype)

    def ones_like(self, x: Array) -> Array:
        return np.ones_like(x)

    def zeros_like(self, x: Array) -> Array:
        return np.zeros_like(x)

    # element by element

    def maximum(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def minimum(self, a: Array, b: Array) -> Array:
        return np.minimum(a, b)

    def power(self, a: Array, b: Array) -> Array:
        return np.power(a, b)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        return np.where(condition, self._operand(a), self._operand(b))

    def greater(self, a: Array, b: Array) -> Array:
        return np.greater(a, b)

    def less(self, a: Array, b: Array) -> Array:
        return np.less(a, b)

    def equal(self, a: Array, b: Array) -> Array:
        return np.equal(a, b)

    def abs(self, x: Array) -> Array:
        return np.abs(x)

    def sign(self, x: Array) -> Array:
        return np.sign(x)

    def exp(self, x: Array) -> Array:
        return np.exp(x)

    def log(self, x: Array) -> Array:
        return np.log(x)

    def sqrt(self, x: Array) -> Array:
        return np.sqrt(x)

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)

    def sigmoid(self, x: Array) -> Array:
        from scipy.special import expit

        return expit(x)

    def erf(self, x: Array) -> Array:
        from scipy.special import erf

        return erf(x)

    def round(self, x: Array) -> Array:
        return np.rint(x)

    def positive(self, x: Array) -> Array:
        return self._clip(x, 0.0, math.inf) if x.size >= _MANY else np.maximum(x, 0)

    def negative(self, x: Array) -> Array:
        return self._clip(x, -math.inf, 0.0) if x.size >= _MANY else np.minimum(x, 0)

    def _clip(self, x: Array, low: float, high: float) -> Array:
        x = self._dense(x)
        out = np.empty(x.shape, self.dtype)
        bounds = map(self.dtype.type, (low, high))
        _kernels().elements.clip(x.size, x.size / 8, x.reshape(-1), out.reshape(-1), *bounds)
        return out

    def cast(self, x: Array) -> Array:
        return x.astype(self.dtype, copy=False)

    def mask(self, g: Array, y: Array, low: float | None = 0.0, high: float | None = None) -> Array:
        g, y = self._dense(g), self._dense(y)
        out = np.empty(g.shape, self.dtype)
        bounds = [self.dtype.type(bound or 0) for bound in (low, high)]
        _kernels().elements.mask(
            g.size,
            g.size / 8,
            g.reshape(-1),
            y.reshape(-1),
            out.reshape(-1),
            *bounds,
            low is not None,
            high is not None,
        )
        return out

    def ratio(self, r: Array, z: Array, epsilon: float, unsigned: bool = False) -> Array:
        return self.shares(r, z, None, epsilon, unsigned)[0]

    def shares(
        self, r: Array, z: Array, b: Array | None, epsilon: float, unsigned: bool = False
    ) -> tuple[Array, Array, Array, Array | None]:
        r, z = (self._dense(array) for array in ((r, z) if r.shape == z.shape else np.broadcast_arrays(r, z)))
        rows = r.shape[:2] if r.ndim > 2 else r.shape[:1]
        s, sums = np.empty(r.shape, self.dtype), np.empty((math.prod(rows), 3))
        arrays = (array.reshape(len(sums), math.prod(r.shape[len(rows) :])) for array in (r, z, s))
        _kernels().elements.shares(len(sums), r.size / 2, *arrays, sums, self.dtype.type(epsilon), unsigned)
        sums = sums.reshape(*rows, 3)
        bias = None
        if b is not None:
            per_channel = s.ndim > 2 and b.shape == (1, s.shape[1]) + (1,) * (s.ndim - 2)
            bias = sums[..., 0] @ b.reshape(-1) if per_channel else self.sum_samples(s * b)
        totals = sums.sum(axis=tuple(range(1, len(rows))))
        return s, totals[..., 1] * epsilon, totals[..., 2], bias

    # reductions

    def sum(self, x: Array, axes: Sequence[int], keepdims: bool = False) -> Array:
        return np.asarray(np.sum(x, axis=tuple(axes), keepdims=keepdims))

    def sum_samples(self, x: Array) -> Array:
        if not np.issubdtype(x.dtype, np.floating) or not x.ndim or not x.size:
            return np.asarray(np.sum(x, axis=tuple(range(1, x.ndim)), dtype=np.float64))
        rows = x.shape[:2] if x.ndim > 2 else x.shape[:1]
        out = np.empty(math.prod(rows))
        _kernels().elements.sums(len(out), x.size / 8, self._dense(x).reshape(len(out), -1), out)
        return out.reshape(len(x), -1).sum(axis=1)

    def max(self, x: Array, axes: Sequence[int], keepdims: bool = False) -> Array:
        return np.asarray(np.max(x, axis=tuple(axes), keepdims=keepdims))

    def argmax(self, x: Array, axis: int) -> Array:
        return np.argmax(x, axis=axis, keepdims=True).astype(np.int64, copy=False)

    # moving elements

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return np.reshape(x, tuple(shape))

    def transpose(self, x: Array, perm: Sequence[int]) -> Array:
        return np.transpose(x, perm)

    def expand(self, x: Array, shape: Sequence[int]) -> Array:
        sizes = (1,) * (len(shape) - x.ndim) + x.shape
        return np.broadcast_to(x, [own if size == -1 else size for own, size in zip(sizes, shape, strict=True)])

    def concat(self, xs: Sequence[Array], axis: int) -> Array:
        return np.concatenate(xs, axis)

    def slice(self, x: Array, axis: int, start: int, stop: int, step: int = 1) -> Array:
        return x[(slice(None),) * axis + (slice(start, stop, step),)]

    def flip(self, x: Array, axis: int) -> Array:
        return np.flip(x, axis)

    def pad(self, x: Array, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Array:
        return np.pad(x, list(zip(begin, end, strict=True)), constant_values=value)

    def gather(self, x: Array, indices: np.ndarray | Sequence[int], axis: int) -> Array:
        return np.take(x, indices, axis)

    def scatter_add(self, g: Array, indices: np.ndarray | Sequence[int], axis: int, size: int) -> Array:
        indices = np.asarray(indices)
        flat = g.reshape(*g.shape[:axis], -1, *g.shape[axis + indices.ndim :])
        x = np.zeros((*flat.shape[:axis], size, *flat.shape[axis + 1 :]), g.dtype)
        order = np.argsort(indices, axis=None, kind="stable")
        targets, starts = np.unique(indices.reshape(-1)[order], return_index=True)
        if len(targets):
            x[(slice(None),) * axis + (targets,)] = np.add.reduceat(np.take(flat, order, axis), starts, axis)
        return x

    def one_hot(self, index: Array, axis: int, size: int) -> Array:
        positions = np.arange(size).reshape([size if i == axis else 1 for i in range(index.ndim)])
        return (index == positions).astype(self.dtype)

    resize_matrix = staticmethod(resize_matrix)

    # products and windows

    def matmul(self, a: Array, b: Array) -> Array:
        if a.dtype.kind != "f" or min(a.ndim, b.ndim) < 2 or not a.size or not b.size:
            return np.matmul(a, b)
        if b.mT.flags.c_contiguous:  # a weight that is used transposed is not copied
            return self._product(b.mT, a.mT).mT
        if a.ndim == b.ndim == 2 and len(a) <= _FEW:
            y = np.empty((len(a), b.shape[1]), self.dtype)
            count = -(-y.shape[1] // _kernels().products.COLUMNS)
            _kernels().products.few_rows(count, b.size, self._dense(a), self._dense(b), y)
            return y
        return self._product(a, b)

    def _product(self, a: Array, b: Array) -> Array:
        """The product of stacks of matrices, as a convolution over the columns of b."""
        stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (np.broadcast_to(each, (*stack, *each.shape[-2:])) for each in (a, b))
        group, (m, k), n = math.prod(stack), a.shape[-2:], b.shape[-1]
        pointwise = Window((1,), (1,), (1,), (0,), (0,))
        y = self.conv(b.reshape(1, group * k, n), a.reshape(group * m, k, 1), pointwise, group)
        return y.reshape(*stack, m, n)

    def conv(self, x: Array, w: Array, window: Window, group: int = 1, b: Array | None = None) -> Array:
        grid = _grid(window, tuple(x.shape[2:]))
        samples, channels, outputs = len(x), w.shape[1], len(w) // group
        y = np.empty((samples, group, outputs, *grid.out), self.dtype)
        x = self._dense(x).reshape(samples, group, channels, *grid.size)
        w = self._dense(w).reshape(group, outputs, channels, *grid.kernel)
        if b is None:
            b = np.zeros((1, len(w) * outputs, 1), self.dtype)
        b = self._dense(b).reshape(len(b), group, outputs, -1)
        if channels == 1 and group > 1:
            self._depthwise(x, w, b, self._nothing(6), y, grid.strides, grid.dilations, grid.begin, (1, 1, 1))
        elif grid.is_product(samples):
            self._matrices(x, w, (channels, 1), b, self._nothing(6), y)
        else:
            tile = _tile(samples, grid.out)
            tiles = group * math.prod(_pieces((samples, *grid.out), tile))
            work = y.size * w[0, 0].size / 24
            block = _block(outputs, _BLOCK, self._shares(work) / max(1, tiles), _kernels().products.STEP)
            count = tiles * _pieces((outputs,), (block,))[0]
            _kernels().products.conv(count, work, x, w, b, y, *grid[:4], (block, *tile))
        return y.reshape(samples, group * outputs, *_out_sizes(window, x.shape[-len(window.kernel) :]))

    def conv_input_grad(
        self, g: Array, w: Array, window: Window, group: int, spatial: Sequence[int], x: Array | None = None
    ) -> Array:
        grid = _grid(window, tuple(spatial))
        samples, channels, outputs = len(g), w.shape[1], len(w) // group
        dx = np.empty((samples, group, channels, *grid.size), self.dtype)
        g = self._dense(g).reshape(samples, group, outputs, *grid.out)
        w = self._dense(w).reshape(group, outputs, channels, *grid.kernel)
        shape = (samples, group * channels, *spatial)
        if x is not None and x.shape != shape:
            x = np.broadcast_to(x, shape)
        by = self._nothing(6) if x is None else self._dense(x).reshape(dx.shape)
        b = self._dense(np.zeros((1, group, channels, 1), self.dtype))
        if channels == 1 and group > 1:
            turned = self._dense(np.flip(w.swapaxes(1, 2), (3, 4, 5)))
            self._depthwise(g, turned, b, by, dx, (1, 1, 1), grid.dilations, grid.turned_begin, grid.strides)
        elif grid.is_product(samples):
            self._matrices(g, w, (1, channels), b, by, dx)
        else:
            tile = _tile(samples, grid.out)
            pieces = group * _pieces((samples,), tile)[0]
            taps = math.prod(grid.kernel)
            work = g.size * w[0, 0].size / 24
            block = _block(channels, max(1, _BLOCK // taps), self._shares(work) / max(1, pieces), 1)
            count = pieces * _pieces((channels,), (block,))[0]
            _kernels().products.conv_input_grad(count, work, g, w, by, dx, *grid[:4], (block, *tile))
        return dx.reshape(shape)

    def _matrices(self, x: Array, w: Array, steps: tuple[int, int], b: Array, by: Array, y: Array) -> None:
        """The products of :func:`onnxplain.engine.product_kernels.matrices` for a convolution that knows no places."""
        samples, group, rows = y.shape[:3]
        columns = math.prod(y.shape[3:])
        tiles = samples * group * _pieces((columns,), (_COLUMNS,))[0]
        work = y.size * x.shape[2] / 32
        block = _block(rows, _BLOCK, self._shares(work) / max(1, tiles), _kernels().products.STEP)
        count = tiles * _pieces((rows,), (block,))[0]
        x, by, y = (array.reshape(*array.shape[:3], -1) if array.size else self._nothing(4) for array in (x, by, y))
        _kernels().products.matrices(count, work, x, w.reshape(group, -1), *steps, b, by, y, block, _COLUMNS)

    def _shares(self, work: float) -> int:
        """How many items keep all threads busy that will take part."""
        from onnxplain.engine import jit

        return _kernels().products.SHARES if work >= jit.SERIAL_BELOW else 1

    def _depthwise(self, x: Array, w: Array, b: Array, by: Array, y: Array, *steps: Axes) -> None:
        count = math.prod(x.shape[:2])
        _kernels().depthwise.depthwise(count, y.size * w[0, 0].size / 8, x, w, b, by, y, *steps)

    def _nothing(self, axes: int) -> Array:
        """No elements, read-only as kernels take what they read."""
        return self._dense(np.empty((0,) * axes, self.dtype))

    def sum_pool(self, x: Array, window: Window) -> Array:
        if _is_global(window, x.shape[2:]):
            return np.asarray(np.sum(x, axis=tuple(range(2, x.ndim)), keepdims=True), self.dtype)
        return self.conv(x, np.ones((x.shape[1], 1, *window.kernel), self.dtype), window, x.shape[1])

    def sum_unpool(self, g: Array, window: Window, spatial: Sequence[int]) -> Array:
        if _is_global(window, spatial):
            return np.broadcast_to(self._dense(g), (*g.shape[:2], *spatial))
        return self.conv_input_grad(
            g, np.ones((g.shape[1], 1, *window.kernel), self.dtype), window, g.shape[1], spatial
        )

    def max_pool(self, x: Array, window: Window) -> Array:
        grid = _grid(window, tuple(x.shape[2:]))
        x = self._dense(x)
        y = np.empty((math.prod(x.shape[:2]), *grid.out), self.dtype)
        _kernels().pools.max_pool(len(y), x.size, x.reshape(len(y), *grid.size), y, *grid[:4])
        return y.reshape(*x.shape[:2], *_out_sizes(window, x.shape[2:]))

    def max_unpool(self, g: Array, x: Array, window: Window) -> Array:
        grid = _grid(window, tuple(x.shape[2:]))
        g, x = self._dense(g), self._dense(x)
        dx = np.empty(x.shape, self.dtype)
        planes = math.prod(x.shape[:2])
        arrays = (g.reshape(planes, *grid.out), x.reshape(planes, *grid.size), dx.reshape(planes, *grid.size))
        _kernels().pools.max_unpool(planes, x.size, *arrays, *grid[:4])
        return dx

    def _operand(self, value: Array) -> Array:
        return np.asarray(value, self.dtype if isinstance(value, int | float) else None)

    def _dense(self, x: Array) -> Array:
        """In the one form that kernels are compiled for: contiguous, aligned, read-only, in the working precision."""
        if x.dtype != self.dtype or not (x.flags.c_contiguous and x.flags.aligned):
            x = np.require(x, self.dtype, ["C", "A"])
        view = x.view()
        view.flags.writeable = False
        return view


class _Kernels(NamedTuple):
    products: ModuleType
    depthwise: ModuleType
    pools: ModuleType
    elements: ModuleType


@functools.cache
def _kernels() -> _Kernels:
    """All at once: a process that another thread forks while it imports one could never import that."""
    from onnxplain.engine import depthwise_kernels, element_kernels, pool_kernels, product_kernels  # and numba, slowly

    return _Kernels(product_kernels, depthwise_kernels, pool_kernels, element_kernels)


class _Grid(NamedTuple):
    """A window over an input of a known size, with three spatial axes: missing ones stand in front, of length 1."""

    kernel: Axes
    strides: Axes
    dilations: Axes
    begin: Axes
    size: Axes
    out: Axes

    def is_product(self, samples: int) -> bool:
        """Whether positions read themselves alone, and are many enough to be columns of a product as they lie."""
        still = self.size == self.out and {*self.kernel, *self.strides} == {1} and not any(self.begin)
        return still and math.prod(self.size) >= (_WIDE if samples > 1 else _NARROW)

    @property
    def turned_begin(self) -> Axes:
        """``begin`` of the adjoint, which is a window with the kernel flipped."""
        return cast(
            Axes, tuple(d * (k - 1) - b for k, d, b in zip(self.kernel, self.dilations, self.begin, strict=True))
        )


@functools.lru_cache
def _grid(window: Window, spatial: tuple[int, ...]) -> _Grid:
    missing = 3 - len(spatial)
    out = _out_sizes(window, spatial)
    entries = (window.kernel, window.strides, window.dilations, window.begin, spatial, out)
    return _Grid(
        *(
            cast(Axes, (fill,) * missing + tuple(map(int, entry)))
            for fill, entry in zip((1, 1, 1, 0, 1, 1), entries, strict=True)
        )
    )


def _out_sizes(window: Window, spatial: Sequence[int]) -> tuple[int, ...]:
    return tuple(
        (size + b + e - d * (k - 1) - 1) // s + 1 for size, k, s, d, b, e in zip(spatial, *window, strict=True)
    )


def _tile(samples: int, out: Axes) -> tuple[int, ...]:
    """Lengths of a tile of the output along samples and spatial axes: whole inner axes, outer ones cut first."""
    lengths = (samples, *out)
    inner = [math.prod(lengths[i + 1 :]) for i in range(4)]
    return tuple(max(1, min(length, _COLUMNS // max(1, size))) for length, size in zip(lengths, inner, strict=True))


def _pieces(lengths: Sequence[int], steps: Sequence[int]) -> list[int]:
    return [-(-length // step) for length, step in zip(lengths, steps, strict=False)]


def _block(length: int, most: int, pieces: float, multiple: int) -> int:
    """The length of equal pieces, ``most`` at most, a ``multiple``, and if possible as many as are asked for."""
    pieces = max(math.ceil(pieces), -(-length // most))
    return -(-length // (pieces * multiple)) * multiple


def _is_global(window: Window, spatial: Sequence[int]) -> bool:
    """Whether the one window is the whole input."""
    return window.kernel == tuple(spatial) and not any((*window.begin, *window.end))
