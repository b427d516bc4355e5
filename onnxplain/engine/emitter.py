"""The array namespace that records: every call appends ordinary ONNX nodes; constants are computed at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxplain.engine.host import Host
from onnxplain.engine.namespace import Array, Window
from onnxplain.engine.resampling import resize_matrix

_STEP = 2.0**120
"""Slope that makes a clipped line a step: a power of two, so that slope * y and slope * bound are exact."""
_NEAR = 64.0
"""Bounds up to this times ``_STEP`` stay finite."""
_KEEPS_BLOCKS = ("Add", "Mul", "Clip")
"""Ops that take what convolutions computed in blocks of channels, and leave it so."""
_ALIGNED = 4
"""The CPU provider blocks channels that come in multiples of this."""
_LOWEST = float(np.finfo(np.float32).min)


class Sym:
    """A recorded tensor: its name and its shape, -1 for the axis that grows with the batch."""

    __array_ufunc__ = None

    def __init__(self, emitter: Emitter, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self.emitter = emitter
        self.name = name
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    def __add__(self, other: Any) -> Sym:
        return self.emitter.binary("Add", self, other)

    def __radd__(self, other: Any) -> Sym:
        return self.emitter.binary("Add", other, self)

    def __sub__(self, other: Any) -> Sym:
        return self.emitter.binary("Sub", self, other)

    def __rsub__(self, other: Any) -> Sym:
        return self.emitter.binary("Sub", other, self)

    def __mul__(self, other: Any) -> Sym:
        return self.emitter.binary("Mul", self, other)

    def __rmul__(self, other: Any) -> Sym:
        return self.emitter.binary("Mul", self, other)

    def __truediv__(self, other: Any) -> Sym:
        return self.emitter.binary("Div", self, other)

    def __rtruediv__(self, other: Any) -> Sym:
        return self.emitter.binary("Div", other, self)

    def __neg__(self) -> Sym:
        return self.emitter.unary("Neg", self)


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The numpy broadcast of shapes in which -1 stands for the batch."""
    result: list[int] = []
    for dims in itertools.zip_longest(*(reversed(tuple(shape)) for shape in shapes), fillvalue=1):
        sizes = {dim for dim in dims if dim != 1}
        if len(sizes) > 1:
            raise ValueError(f"shapes {shapes} do not broadcast")
        result.append(sizes.pop() if sizes else 1)
    return tuple(reversed(result))


class Emitter:
    """Appends nodes to ``nodes``; constants become entries of ``weights``.

    Parameters
    ----------
    blocked : bool
        Whether the CPU provider runs the graph, whose convolutions work on blocks of channels.
    """

    def __init__(self, blocked: bool = True) -> None:
        self.blocked = blocked
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.host = Host(np.float32)
        self._names = itertools.count()
        self._kernels: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        self._convolutions: dict[str, tuple[list[Any], dict[str, Any]]] = {}
        self._memo: dict[Any, tuple[Sym, ...]] = {}
        self._constants: dict[int, tuple[np.ndarray, str]] = {}
        self._in_blocks: set[str] = set()
        self._terms: dict[str, tuple[Sym, Sym]] = {}

    # recording

    def emit(
        self,
        op_type: str,
        inputs: Sequence[Any],
        shape: Sequence[int],
        dtype: Any = np.float32,
        **attributes: Any,
    ) -> Sym:
        """Append one node with one output; the same node twice is recorded once."""
        return self.emit_many(op_type, inputs, [(shape, dtype)], **attributes)[0]

    def emit_many(
        self, op_type: str, inputs: Sequence[Any], outputs: Sequence[tuple[Sequence[int], Any]], **attributes: Any
    ) -> tuple[Sym, ...]:
        """Append one node."""
        names = [self._name(value) for value in inputs]
        key = (op_type, tuple(names), repr(sorted(attributes.items())))
        if key not in self._memo:
            symbols = tuple(
                Sym(self, f"onnxplain_{next(self._names)}", shape, np.dtype(dtype)) for shape, dtype in outputs
            )
            self.nodes.append(helper.make_node(op_type, names, [symbol.name for symbol in symbols], **attributes))
            self._memo[key] = symbols
            if op_type == "Conv" or (
                op_type in _KEEPS_BLOCKS and all(v.name in self._in_blocks for v in inputs if isinstance(v, Sym))
            ):
                self._in_blocks.update(symbol.name for symbol in symbols)
        return self._memo[key]

    def output(self, value: Array, name: str) -> str:
        """Give a value the name of a graph output."""
        self.nodes.append(helper.make_node("Identity", [self._name(value)], [name]))
        return name

    def _name(self, value: Any) -> str:
        if isinstance(value, Sym):
            return value.name
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key: Any = (array.dtype.str, array.shape, array.tobytes()) if array.nbytes <= 64 else id(value)
        if key not in self._constants:
            name = f"onnxplain_const_{len(self._constants)}"
            self.weights[name] = array
            self._constants[key] = (value, name)
        return self._constants[key][1]

    def binary(self, op_type: str, a: Any, b: Any, dtype: Any = None) -> Sym:
        """An elementwise op of two operands, at least one of them recorded."""
        first = a if isinstance(a, Sym) else b
        constant = b if first is a else a
        if op_type == "Add" and not isinstance(constant, Sym):
            if first.name in self._convolutions:
                return self._biased(first, np.asarray(constant, np.float32))
            if first.name in self._terms and self._terms[first.name][0].name in self._convolutions:
                convolution, other = self._terms[first.name]
                return self.binary("Add", convolution, constant) + other
        a, b = (v if isinstance(v, Sym) else np.asarray(v, first.dtype) for v in (a, b))
        if op_type in ("Mul", "Div") and not isinstance(b, Sym) and b.size == 1 and b.ndim == 0 and b == 1:
            return first
        result = self.emit(op_type, [a, b], broadcast(a.shape, b.shape), dtype or first.dtype)
        if op_type == "Add" and isinstance(a, Sym) and isinstance(b, Sym):
            self._terms[result.name] = a, b
        return result

    def _biased(self, convolution: Sym, constant: np.ndarray) -> Sym:
        """A constant per channel added to a convolution becomes its bias."""
        inputs, attributes = self._convolutions[convolution.name]
        channels = convolution.shape[1]
        per_channel = constant.size == 1 or constant.shape == (1, channels) + (1,) * (len(convolution.shape) - 2)
        if not per_channel:
            return self.emit("Add", [convolution, constant], broadcast(convolution.shape, constant.shape))
        bias = np.broadcast_to(constant.reshape(-1), (channels,)) + (inputs[2] if len(inputs) > 2 else 0)
        return self._convolve([*inputs[:2], bias.astype(np.float32)], convolution.shape, attributes)

    def _convolve(self, inputs: list[Any], shape: Sequence[int], attributes: dict[str, Any]) -> Sym:
        y = self.emit("Conv", inputs, shape, **attributes)
        self._convolutions[y.name] = (inputs, attributes)
        return y

    def unary(self, op_type: str, x: Any, *settings: Any, **attributes: Any) -> Sym:
        """An elementwise op of one operand."""
        return self.emit(op_type, [x, *settings], x.shape, x.dtype, **attributes)

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
        return self._one("positive", "Relu", x)

    def negative(self, x: Array) -> Array:
        if isinstance(x, Sym) and self._blockable(x):
            return self._depthwise(self.positive(x), -1.0, 0.0) + x
        return self.minimum(x, 0.0)

    def cast(self, x: Array) -> Array:
        if not isinstance(x, Sym):
            return self.host.cast(x)
        return x if x.dtype == np.float32 else self.emit("Cast", [x], x.shape, to=onnx.TensorProto.FLOAT)

    def mask(self, g: Array, y: Array, low: float | None = 0.0, high: float | None = None) -> Array:
        for bound, slope, inside in ((low, _STEP, self.greater), (high, -_STEP, self.less)):
            if bound is None:
                continue
            if self.blocked and abs(bound) <= _NEAR:
                g = self._blocks(g) * self._step(y, slope, -bound * slope, 0.0, 1.0)
            else:
                g = self.where(inside(y, bound), g, 0.0)
        return g

    def _blocks(self, x: Sym) -> Sym:
        """``x`` as convolutions lay it out: what they compute, multiplied by it, keeps their layout."""
        if x.name in self._in_blocks or not self._blockable(x):
            return x
        if x.name in self._terms:
            a, b = map(self._blocks, self._terms[x.name])
            return a + b
        return self._depthwise(x, 1.0, 0.0)

    def _blockable(self, x: Sym) -> bool:
        return self.blocked and len(x.shape) == 4 and x.shape[1] % _ALIGNED == 0

    def _step(self, y: Sym, slope: float, offset: float, low: float, high: float) -> Sym:
        """slope * y + offset between ``low`` and ``high``.

        On pictures the scaling is a 1 x 1 depthwise Conv: the runtime fuses the clipping into it and keeps the blocked
        layout of the convolutions around it, where any other op would force two reorderings.
        """
        scaled = self._depthwise(y, slope, offset) if self._blockable(y) else y * slope + offset
        return self.unary("Clip", scaled, np.array(low, np.float32), np.array(high, np.float32))

    def _depthwise(self, x: Sym, slope: float, offset: float) -> Sym:
        channels = x.shape[1]
        key = (channels, slope, offset)
        if key not in self._kernels:
            kernel = np.full((channels, 1, 1, 1), slope, np.float32)
            self._kernels[key] = (kernel, np.full(channels, offset, np.float32))
        return self.emit("Conv", [x, *self._kernels[key]], x.shape, group=channels, kernel_shape=[1, 1])

    def ratio(self, r: Array, z: Array, epsilon: float, nonnegative: bool = False) -> Array:
        if not isinstance(z, Sym):
            reciprocal = self.host.ratio(np.ones_like(z), z, epsilon, nonnegative)
            return r * reciprocal
        if nonnegative:
            return r / (z + epsilon)
        if not epsilon:
            return r / z
        if not self.blocked:
            return r / (z + self.where(self.less(z, 0.0), -epsilon, epsilon))
        return r / (z + self._step(z, _STEP, epsilon, -epsilon, epsilon))

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

    def resize_matrix(
        self,
        attributes: Mapping[str, Any],
        size: int,
        out: int,
        scale: float | None,
        roi: tuple[float, float] | None,
        beside: tuple[int, int] = (1, 1),
    ) -> np.ndarray:
        return resize_matrix(attributes, size, out, scale, roi, beside)

    # products and windows

    def matmul(self, a: Array, b: Array) -> Array:
        if not isinstance(a, Sym) and not isinstance(b, Sym):
            return self.host.matmul(a, b)
        left, right = (1, *a.shape) if len(a.shape) == 1 else a.shape, (*b.shape, 1) if len(b.shape) == 1 else b.shape
        shape = [*broadcast(left[:-2], right[:-2])]
        shape += [left[-2]] if len(a.shape) > 1 else []
        shape += [right[-1]] if len(b.shape) > 1 else []
        return self.emit("MatMul", [a, b], shape)

    def conv(self, x: Array, w: Array, window: Window, group: int = 1) -> Array:
        if not isinstance(x, Sym):
            return self.host.conv(x, w, window, group)
        spatial = _out_sizes(x.shape[2:], window)
        attributes = {"group": group, **_window_attributes(window)}
        return self._convolve([x, w], (x.shape[0], w.shape[0], *spatial), attributes)

    def conv_input_grad(self, g: Array, w: Array, window: Window, group: int, spatial: Sequence[int]) -> Array:
        if not isinstance(g, Sym):
            return self.host.conv_input_grad(g, w, window, group, spatial)
        if isinstance(w, np.ndarray) and group == 1 and w.size > w[0, 0].size and (w == w[:1, :1]).all():
            total = self.sum(g, (1,), keepdims=True)
            dx = self.conv_input_grad(total, w[:1, :1], window, 1, spatial)
            return self.expand(dx, (dx.shape[0], w.shape[1], *spatial))
        if max(window.strides) > 1 and group == w.shape[0] and w.shape[1] == 1 and self._blockable(g):
            g, window = self._spread(g, window.strides), window._replace(strides=(1, 1))
        flipped = _turned_window(g.shape[2:], window, spatial)
        if flipped is not None and isinstance(w, np.ndarray):
            return self.conv(g, self._turned_kernel(w, group), flipped, group)
        return self._conv_transpose(g, w, window, group, spatial)

    def _spread(self, g: Sym, strides: Sequence[int]) -> Sym:
        """``g`` with zeros between its elements: what a strided depthwise Conv hands back, but for its kernel.

        With the stride-1 Conv that follows it takes a third of the time of a depthwise ConvTranspose.
        """
        sizes = [size * stride for size, stride in zip(g.shape[2:], strides, strict=True)]
        repeated = self.emit(
            "Resize", [g, "", np.array([1, 1, *strides], np.float32)], (*g.shape[:2], *sizes),
            mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
        first = np.zeros((1, 1, *sizes), np.float32)
        first[:, :, :: strides[0], :: strides[1]] = 1
        return repeated * first

    def _turned_kernel(self, w: np.ndarray, group: int) -> np.ndarray:
        """The kernel flipped in space, input and output channels exchanged within each group."""
        spatial = w.shape[2:]
        per_group = w.reshape(group, w.shape[0] // group, w.shape[1], *spatial).swapaxes(1, 2)
        turned = per_group.reshape(-1, w.shape[0] // group, *spatial)
        return np.ascontiguousarray(np.flip(turned, tuple(range(2, turned.ndim))))

    def _conv_transpose(self, g: Sym, w: Array, window: Window, group: int, spatial: Sequence[int]) -> Array:
        begin, end, beyond, extra = [], [], [], []
        for size, out, k, s, d, b in zip(spatial, g.shape[2:], *window[:3], window.begin, strict=True):
            reach = s * (out - 1) + d * (k - 1) + 1 - b
            begin.append(b)
            end.append(max(reach - size, 0))
            beyond.append(min(max(size - reach, 0), s - 1))
            extra.append(max(size - reach - beyond[-1], 0))
        covered = [size - more for size, more in zip(spatial, extra, strict=True)]
        shape = (g.shape[0], w.shape[1] * group, *covered)
        dx = self.emit(
            "ConvTranspose", [g, w], shape, group=group, kernel_shape=list(window.kernel), strides=list(window.strides),
            dilations=list(window.dilations), pads=[*begin, *end], output_padding=beyond,
        )  # fmt: skip
        return self.pad(dx, [0] * len(shape), [0, 0, *extra])

    def sum_pool(self, x: Array, window: Window) -> Array:
        if not isinstance(x, Sym):
            return self.host.sum_pool(x, window)
        if window.kernel == x.shape[2:]:
            return self.sum(x, tuple(range(2, len(x.shape))), keepdims=True)
        return self.conv(x, np.ones((x.shape[1], 1, *window.kernel), np.float32), window, x.shape[1])

    def sum_unpool(self, g: Array, window: Window, spatial: Sequence[int]) -> Array:
        if not isinstance(g, Sym):
            return self.host.sum_unpool(g, window, spatial)
        if window.kernel == tuple(spatial) and not any((*window.begin, *window.end)):
            return self.expand(g, (*g.shape[:2], *spatial))
        ones = np.ones((g.shape[1], 1, *window.kernel), np.float32)
        return self.conv_input_grad(g, ones, window, g.shape[1], spatial)

    def max_pool(self, x: Array, window: Window) -> Array:
        if not isinstance(x, Sym):
            return self.host.max_pool(x, window)
        return self._max_pool(x, window)[0]

    def max_unpool(self, g: Array, x: Array, window: Window) -> Array:
        if window.kernel == x.shape[2:] and not any((*window.begin, *window.end)):
            return self._max_unpool_global(g, x)
        if any(end >= k for end, k in zip(window.end, window.kernel, strict=True)):
            return self._max_unpool_beyond(g, x, window)
        indices = self._max_pool(x, window)[1]
        if self.blocked and all(s > d * (k - 1) for k, s, d in zip(*window[:3], strict=True)):
            attributes = {name: value for name, value in _window_attributes(window).items() if name != "dilations"}
            return self.emit("MaxUnpool", [g, indices, self._size(x)], x.shape, **attributes)
        flat, flat_indices, flat_g = (self.reshape(each, (-1,)) for each in (self.zeros_like(x), indices, g))
        spread = self.emit("ScatterElements", [flat, flat_indices, flat_g], (-1,), axis=0, reduction="add")
        return self.reshape(spread, x.shape)

    def _max_unpool_beyond(self, g: Sym, x: Sym, window: Window) -> Array:
        """With the end padding written out: onnxruntime's pool takes less than a kernel of it, dilations apart."""
        zeros = (0,) * len(x.shape)
        dx = self.max_unpool(
            g, self.pad(x, zeros, (0, 0, *window.end), _LOWEST), window._replace(end=(0,) * len(window.end))
        )
        for axis, size in enumerate(x.shape[2:], 2):
            dx = self.slice(dx, axis, 0, size)
        return dx

    def _max_unpool_global(self, g: Sym, x: Sym) -> Array:
        flat = self.reshape(x, (*x.shape[:2], math.prod(x.shape[2:])))
        chosen = self.one_hot(self.argmax(flat, 2), 2, flat.shape[2])
        return self.reshape(chosen * self.reshape(g, (*g.shape[:2], 1)), x.shape)

    def _max_pool(self, x: Sym, window: Window) -> tuple[Sym, Sym]:
        attributes = _window_attributes(window)
        shape = (*x.shape[:2], *_out_sizes(x.shape[2:], window))
        y, indices = self.emit_many("MaxPool", [x], [(shape, np.float32), (shape, np.int64)], **attributes)
        return y, indices


def _window_attributes(window: Window) -> dict[str, list[int]]:
    return {
        "kernel_shape": list(window.kernel),
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "pads": [*window.begin, *window.end],
    }


def _out_sizes(spatial: Sequence[int], window: Window) -> list[int]:
    return [
        (size + b + e - d * (k - 1) - 1) // s + 1 for size, k, s, d, b, e in zip(spatial, *window, strict=True)
    ]  # fmt: skip


def _turned_window(out: Sequence[int], window: Window, spatial: Sequence[int]) -> Window | None:
    """The window of the stride-1 convolution that is the input gradient of ``window``; None where there is none."""
    if any(stride != 1 for stride in window.strides):
        return None
    begin = [d * (k - 1) - b for k, d, b in zip(window.kernel, window.dilations, window.begin, strict=True)]
    end = [size - o + b for size, o, b in zip(spatial, out, window.begin, strict=True)]
    if min(begin) < 0 or min(end) < 0:
        return None
    return window._replace(begin=tuple(begin), end=tuple(end))
