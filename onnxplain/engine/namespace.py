"""The array namespace that rules and gradients are written against.

Ops and rules see only :class:`Namespace` (conventionally named ``xp``) and its arrays. Two implementations exist:
:class:`onnxplain.engine.host.Host` computes at once on numpy arrays, :class:`onnxplain.engine.emitter.Emitter`
appends ONNX nodes. Arrays support ``+ - * /``, unary minus and ``.shape``; everything else is a primitive here,
at the grain at which both implementations are fast.

Axis 0 is the batch axis. No rule text reads its length: the emitter reports it as -1, and a shape with one -1 may be
handed back to :meth:`Namespace.reshape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = Any
"""A numpy array on the host, a recorded tensor in the compiled engine."""


class Window(NamedTuple):
    """How the output index of a spatial op maps to an input interval, one entry per spatial axis.

    Output index ``o`` along an axis reads input indices ``o * stride - begin + k * dilation`` for ``k < kernel``;
    indices outside the tensor are padding. ``end`` is the padding behind the last element, ceil mode included, so
    ``out = (size + begin + end - dilation * (kernel - 1) - 1) // stride + 1`` always holds.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]


class Namespace(Protocol):
    """The primitives; ``x``, ``g``, ``r`` are arrays of this namespace, shapes and axes are Python integers."""

    # creation
    def const(self, value: np.ndarray | Sequence[float] | Sequence[Sequence[float]]) -> Array:
        """Bring a constant in; floating values take the working precision."""

    def ones(self, shape: Sequence[int]) -> Array:
        """A constant of ones."""

    def ones_like(self, x: Array) -> Array: ...
    def zeros_like(self, x: Array) -> Array: ...

    # element by element, numpy broadcasting
    def maximum(self, a: Array, b: Array | float) -> Array: ...
    def minimum(self, a: Array, b: Array | float) -> Array: ...
    def power(self, a: Array, b: Array | float) -> Array: ...
    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array: ...
    def greater(self, a: Array, b: Array | float) -> Array: ...
    def less(self, a: Array, b: Array | float) -> Array: ...
    def equal(self, a: Array, b: Array | float) -> Array: ...
    def abs(self, x: Array) -> Array: ...
    def sign(self, x: Array) -> Array: ...
    def exp(self, x: Array) -> Array: ...
    def log(self, x: Array) -> Array: ...
    def sqrt(self, x: Array) -> Array: ...
    def tanh(self, x: Array) -> Array: ...
    def sigmoid(self, x: Array) -> Array: ...
    def erf(self, x: Array) -> Array: ...
    def round(self, x: Array) -> Array:
        """To the nearest integer, halves to even."""

    def positive(self, x: Array) -> Array:
        """max(x, 0)."""

    def negative(self, x: Array) -> Array:
        """min(x, 0)."""

    def cast(self, x: Array) -> Array:
        """A boolean or integer array in the working precision."""

    def mask(self, g: Array, y: Array, low: float | None = 0.0, high: float | None = None) -> Array:
        """g where low < y < high, else 0; None for no bound; shapes equal."""

    def ratio(self, r: Array, z: Array, epsilon: float, unsigned: bool = False) -> Array:
        """r / stab(z), stab(z) = z + epsilon * sgn(z) with sgn(0) = +1; z may broadcast.

        ``unsigned`` takes sgn(z) = +1 whatever z is: the same where z is not negative.
        """

    def shares(
        self, r: Array, z: Array, b: Array | None, epsilon: float, unsigned: bool = False
    ) -> tuple[Array, Array, Array, Array | None]:
        """s = r / stab(z) as :meth:`ratio` has it, and what r = s * stab(z) loses, as sums over each sample.

        These are s * epsilon * sgn(z) where z is not 0, r where it is, and s * b where there is a bias, which may
        broadcast.
        """

    # reductions
    def sum(self, x: Array, axes: Sequence[int], keepdims: bool = False) -> Array: ...
    def sum_samples(self, x: Array) -> Array:
        """Sum over all axes but the first, as a vector over the batch; in float64 where the engine can."""

    def max(self, x: Array, axes: Sequence[int], keepdims: bool = False) -> Array: ...
    def argmax(self, x: Array, axis: int) -> Array:
        """Index of the first maximum, the axis kept with length 1, int64."""

    # moving elements
    def reshape(self, x: Array, shape: Sequence[int]) -> Array: ...
    def transpose(self, x: Array, perm: Sequence[int]) -> Array: ...
    def expand(self, x: Array, shape: Sequence[int]) -> Array:
        """Broadcast to ``shape``; -1 keeps the axis as it is."""

    def concat(self, xs: Sequence[Array], axis: int) -> Array: ...
    def slice(self, x: Array, axis: int, start: int, stop: int, step: int = 1) -> Array:
        """``x[start:stop:step]`` along one axis with ``0 <= start <= stop <= size`` and ``step >= 1``."""

    def flip(self, x: Array, axis: int) -> Array: ...
    def pad(self, x: Array, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Array:
        """Constant padding, one non-negative entry per axis."""

    def gather(self, x: Array, indices: np.ndarray | Sequence[int], axis: int) -> Array:
        """numpy's ``take`` with constant integer indices of any rank, all in ``[0, size)``."""

    def scatter_add(self, g: Array, indices: np.ndarray | Sequence[int], axis: int, size: int) -> Array:
        """Adjoint of :meth:`gather`: zeros of length ``size`` along ``axis``, ``g`` added at ``indices``."""

    def one_hot(self, index: Array, axis: int, size: int) -> Array:
        """1 where the position along ``axis`` equals ``index`` (that axis has length 1), else 0."""

    def resize_matrix(
        self,
        attributes: Mapping[str, Any],
        size: int,
        out: int,
        scale: float | None,
        roi: tuple[float, float] | None,
        beside: tuple[int, int] = (1, 1),
    ) -> np.ndarray:
        """The out x size matrix of a Resize along one axis; see :mod:`onnxplain.engine.resampling`."""

    # products and windows; x is N x C x spatial, 1 to 3 spatial axes
    def matmul(self, a: Array, b: Array) -> Array:
        """numpy's matmul, batched and broadcast."""

    def conv(self, x: Array, w: Array, window: Window, group: int = 1, b: Array | None = None) -> Array:
        """Cross-correlation as in ONNX Conv, w M x C/group x kernel; b is added, one per channel or as the output."""

    def conv_input_grad(
        self, g: Array, w: Array, window: Window, group: int, spatial: Sequence[int], x: Array | None = None
    ) -> Array:
        """Adjoint of :meth:`conv` in its input, of spatial size ``spatial``; times x where that is given."""

    def sum_pool(self, x: Array, window: Window) -> Array:
        """Sum over each window, padding counted as 0."""

    def sum_unpool(self, g: Array, window: Window, spatial: Sequence[int]) -> Array:
        """Adjoint of :meth:`sum_pool`."""

    def max_pool(self, x: Array, window: Window) -> Array:
        """Maximum over each window, padding left out."""

    def max_unpool(self, g: Array, x: Array, window: Window) -> Array:
        """VJP of :meth:`max_pool`: g added at the first maximum of each window of x (row-major order)."""
