"""What the recording namespace is made of: recorded tensors, and the list of nodes that grows."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxplain.engine.host import Host
from onnxplain.engine.namespace import Array
from onnxplain.errors import UnsupportedError

STEEP = 2.0**120
"""Slope that makes a clipped line a step: a power of two, so that slope * y and slope * bound are exact."""
_KEEPS_BLOCKS = ("Add", "Mul", "Clip")
"""Ops that take what convolutions computed in blocks of channels, and leave it so."""
_SMALL_BYTES = 64
_ALIGNED = 4
"""The CPU provider blocks channels that come in multiples of this."""


class Sym:
    """A recorded tensor: its name and its shape, -1 for the axis that grows with the batch."""

    __array_ufunc__ = None

    def __init__(self, emitter: Recorder, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self.emitter: Recorder = weakref.proxy(emitter)  # which holds what it recorded, and the weights
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
    """The numpy broadcast of shapes in which -1 stands for the batch.

    Raises
    ------
    UnsupportedError
        A size that is not 1 meets the batch or another size.
    """
    result: list[int] = []
    for dims in itertools.zip_longest(*(reversed(tuple(shape)) for shape in shapes), fillvalue=1):
        sizes = {dim for dim in dims if dim != 1}
        if len(sizes) > 1:
            raise UnsupportedError(
                f"shapes {' and '.join(str(list(shape)) for shape in shapes)} meet in one operation, -1 the batch: "
                "the file fixes a batch size that its input leaves open; engine='host' explains it at that size"
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(reversed(result))


def _content(array: np.ndarray) -> tuple[Any, ...]:
    """What tells constants apart: the values of a small one, the memory of a large one."""
    if array.nbytes > _SMALL_BYTES:
        return array.dtype.str, array.shape, array.strides, array.ctypes.data
    array = array.astype(np.float32) if array.dtype == np.float64 else array
    return array.dtype.str, array.shape, array.tobytes()


class Recorder:
    """Appends nodes to ``nodes``; constants become entries of ``weights``.

    Parameters
    ----------
    blocked : bool
        Whether the CPU provider runs the graph, whose convolutions work on blocks of channels.
    known : mapping of str to numpy.ndarray, optional
        Constants that the graph has under these names.

    Attributes
    ----------
    rectified : dict of str to Sym
        The Relu of a tensor, where the graph takes one.
    shapes : dict of str to tuple of int
        Of the recorded float32 tensors.
    """

    def __init__(self, blocked: bool = True, known: Mapping[str, np.ndarray] | None = None) -> None:
        self.blocked = blocked
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.host = Host(np.float32)
        self._names = itertools.count()
        self._kernels: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        self._convolutions: dict[str, tuple[list[Any], dict[str, Any]]] = {}
        self._memo: dict[Any, tuple[Sym, ...]] = {}
        constants = [(name, value) for name, value in (known or {}).items() if value.dtype != np.float64]
        self._constants = {_content(value): (value, name) for name, value in constants}
        self._in_blocks: set[str] = set()
        self._terms: dict[str, tuple[Sym, Sym]] = {}
        self._quotients: dict[str, tuple[Sym, Sym]] = {}
        self._factors: dict[str, set[str]] = {}
        self.rectified: dict[str, Sym] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

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
            self.shapes.update((symbol.name, symbol.shape) for symbol in symbols if symbol.dtype == np.float32)
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
        key = _content(array)
        if key not in self._constants:
            name = f"onnxplain_const_{len(self._constants)}"
            self.weights[name] = array.astype(np.float32) if array.dtype == np.float64 else array
            self._constants[key] = (array, name)
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
        if op_type == "Div" and isinstance(a, Sym) and isinstance(b, Sym):
            self._quotients[result.name] = a, b
        self._factors[result.name] = self._common_factors(op_type, a, b)
        return result

    def _common_factors(self, op_type: str, a: Any, b: Any) -> set[str]:
        """The tensors of which ``a op b`` is a multiple: where one of them is 0, so is the result."""
        first, second = ({v.name, *self._factors.get(v.name, ())} if isinstance(v, Sym) else set() for v in (a, b))
        if op_type == "Mul":
            return first | second
        return first if op_type == "Div" else first & second if op_type in ("Add", "Sub") else set()

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

    def _first_filter(self, y: Sym) -> Sym | None:
        """One channel of a convolution whose filters are all the same; None for anything else."""
        (x, *filters), attributes = self._convolutions.get(y.name, ([None], {}))
        if not filters or not all(isinstance(part, np.ndarray) and (part == part[:1]).all() for part in filters):
            return None
        return self._convolve([x, *(part[:1] for part in filters)], (y.shape[0], 1, *y.shape[2:]), attributes)

    def unary(self, op_type: str, x: Any, *settings: Any, **attributes: Any) -> Sym:
        """An elementwise op of one operand."""
        return self.emit(op_type, [x, *settings], x.shape, x.dtype, **attributes)

    # the CPU provider's layout

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

    def _step(self, y: Sym, slope: float, offset: float) -> Sym:
        """slope * y + offset between 0 and 1; in blocks, where what a Relu cuts comes from."""
        step = self.unary("HardSigmoid", y, alpha=slope, beta=offset)
        if self._blockable(y):
            self._in_blocks.add(step.name)
        return step

    def _signed(self, z: Sym, magnitude: float) -> Sym:
        """``magnitude`` with the sign of ``z``, positive where that is 0.

        On pictures the scaling is a 1 x 1 depthwise Conv: the runtime fuses the clipping into it and keeps the blocked
        layout of the convolutions around it, where other ops would force two reorderings.
        """
        scaled = self._depthwise(z, STEEP, magnitude) if self._blockable(z) else z * STEEP + magnitude
        return self.unary("Clip", scaled, np.array(-magnitude, np.float32), np.array(magnitude, np.float32))

    def _depthwise(self, x: Sym, slope: float, offset: float) -> Sym:
        channels = x.shape[1]
        key = (channels, slope, offset)
        if key not in self._kernels:
            kernel = np.full((channels, 1, 1, 1), slope, np.float32)
            self._kernels[key] = (kernel, np.full(channels, offset, np.float32))
        return self.emit("Conv", [x, *self._kernels[key]], x.shape, group=channels, kernel_shape=[1, 1])
