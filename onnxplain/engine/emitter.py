"""The array namespace that records: every call appends ordinary ONNX nodes; constants are computed at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxplain.engine.element_emitter import ElementEmitter
from onnxplain.engine.namespace import Array, Window
from onnxplain.engine.recorder import Sym, broadcast

_POINT = Window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
_BLOCK = 16
"""The most channels that the CPU provider takes together."""
_FULL = 0.8
"""The least part of products that are not with zeros."""
_LOWEST = float(np.finfo(np.float32).min)


class Emitter(ElementEmitter):
    """The whole namespace: products and windows stand here."""

    def __init__(self, blocked: bool = True, known: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__(blocked, known)
        self._unpooled: dict[str, tuple[Sym, Sym, Window]] = {}

    def mask(self, g: Array, y: Array, low: float | None = 0.0, high: float | None = None) -> Array:
        """Where ``g`` comes out of a max pool over ``y``, the winners' values are the pooled ones: fewer to look at."""
        if g.name not in self._unpooled or self._unpooled[g.name][1].name != y.name:
            return super().mask(g, y, low, high)
        pooled, x, window = self._unpooled[g.name]
        return self.max_unpool(super().mask(pooled, self.max_pool(x, window), low, high), x, window)

    def matmul(self, a: Array, b: Array) -> Array:
        if not isinstance(a, Sym) and not isinstance(b, Sym):
            return self.host.matmul(a, b)
        left, right = (1, *a.shape) if len(a.shape) == 1 else a.shape, (*b.shape, 1) if len(b.shape) == 1 else b.shape
        shape = [*broadcast(left[:-2], right[:-2])]
        shape += [left[-2]] if len(a.shape) > 1 else []
        shape += [right[-1]] if len(b.shape) > 1 else []
        if len(a.shape) == 2 and isinstance(b, np.ndarray) and b.ndim == 2 and b.T.flags.c_contiguous:
            return self.emit("Gemm", [a, b.T], shape, transB=1)
        return self.emit("MatMul", [a, b], shape)

    def conv(self, x: Array, w: Array, window: Window, group: int = 1, b: Array | None = None) -> Array:
        if b is not None:
            return self.conv(x, w, window, group) + b
        spatial = _out_sizes(x.shape[2:], window)
        attributes = {"group": group, **_window_attributes(window)}
        return self._convolve([x, w], (x.shape[0], w.shape[0], *spatial), attributes)

    def conv_input_grad(
        self, g: Array, w: Array, window: Window, group: int, spatial: Sequence[int], x: Array | None = None
    ) -> Array:
        if x is not None:
            return x * self.conv_input_grad(g, w, window, group, spatial)
        if not isinstance(g, Sym):
            return self.host.conv_input_grad(g, w, window, group, spatial)
        if isinstance(w, np.ndarray) and group == 1 and w.size > w[0, 0].size and (w == w[:1, :1]).all():
            dx = self.conv_input_grad(self._sum_channels(g), w[:1, :1], window, 1, spatial)
            return self.expand(dx, (dx.shape[0], w.shape[1], *spatial))
        if max(window.strides) > 1 and self._blockable(g):
            if group == w.shape[0] and w.shape[1] == 1:
                g, window = self._spread(g, window.strides), window._replace(strides=(1, 1))
            elif isinstance(w, np.ndarray) and _picks(window, g.shape[2:], spatial):
                return self._spread(self.conv(g, self._turned_kernel(w, group), _POINT, group), window.strides)
            phased = _phase_window(w, window, g.shape[2:], spatial) if group == 1 else None
            if phased is not None:
                return self._in_phases(g, w, window, phased, spatial)
        flipped = _turned_window(g.shape[2:], window, spatial)
        if flipped is not None and isinstance(w, np.ndarray):
            return self.conv(g, self._turned_kernel(w, group), flipped, group)
        return self._conv_transpose(g, w, window, group, spatial)

    def _sum_channels(self, g: Sym) -> Array:
        """The sum over channels; what all of them are divided by divides the sum instead."""
        r, z = self._quotients.get(g.name, (g, g))
        one = self._first_filter(z) if r is not g else None
        if one is not None:
            return self._sum_channels(r) / one
        if self._blockable(g):
            return self.conv(g, np.ones((1, g.shape[1], 1, 1), np.float32), _POINT)
        return self.sum(g, (1,), keepdims=True)

    def _spread(self, g: Sym, strides: Sequence[int]) -> Sym:
        """``g`` with zeros between its elements: what a strided Conv hands back, but for its kernel.

        Before the stride-1 Conv of a depthwise kernel, or behind that of a 1 x 1 kernel, it is faster than a
        ConvTranspose.
        """
        sizes = [size * stride for size, stride in zip(g.shape[2:], strides, strict=True)]
        repeated = self.emit(
            "Resize", [g, "", np.array([1, 1, *strides], np.float32)], (*g.shape[:2], *sizes),
            mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
        first = np.zeros((1, 1, *sizes), np.float32)
        first[:, :, :: strides[0], :: strides[1]] = 1
        return repeated * first

    def _in_phases(self, g: Sym, w: np.ndarray, window: Window, phased: Window, spatial: Sequence[int]) -> Array:
        """What a strided Conv hands back, by a stride-1 Conv with a channel for each place within a stride."""
        stride = window.strides[0]
        phases = self.conv(g, _phase_kernel(w, stride), phased)
        shape = (g.shape[0], w.shape[1], *(size * stride for size in phases.shape[2:]))
        dx = self.emit("DepthToSpace", [phases], shape, blocksize=stride, mode="CRD")
        cut = [b % stride for b in window.begin]
        beyond = [have - c - size for have, c, size in zip(shape[2:], cut, spatial, strict=True)]
        return self.pad(dx, [0, 0, *(-c for c in cut)], [0, 0, *(-size for size in beyond)])

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
            dx = self.emit("MaxUnpool", [g, indices, self._size(x)], x.shape, **attributes)
        else:
            flat, flat_indices, flat_g = (self.reshape(each, (-1,)) for each in (self.zeros_like(x), indices, g))
            spread = self.emit("ScatterElements", [flat, flat_indices, flat_g], (-1,), axis=0, reduction="add")
            dx = self.reshape(spread, x.shape)
        self._unpooled[dx.name] = g, x, window
        return dx

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


def _picks(window: Window, out: Sequence[int], spatial: Sequence[int]) -> bool:
    """Whether a window reads every stride-th element, from the first on, and nothing else."""
    reached = [size * stride for size, stride in zip(out, window.strides, strict=True)]
    return set(window.kernel) == {1} and not any(window.begin) and reached == list(spatial)


def _phase_window(w: Array, window: Window, out: Sequence[int], spatial: Sequence[int]) -> Window | None:
    """The window of the convolution of :meth:`Emitter._in_phases`; None where a ConvTranspose is better.

    The grid of strides starts where a kernel does, so that the taps of all phases fall on the same elements.
    """
    stride, taps = window.strides[0], tuple(-(-k // window.strides[0]) for k in window.kernel)
    if set(window.strides) != {stride} or set(window.dilations) != {1} or not _fills_phases(w, window.kernel, stride):
        return None
    sizes = [-(-(size + b % stride) // stride) for size, b in zip(spatial, window.begin, strict=True)]
    begin = tuple(n - 1 - b // stride for n, b in zip(taps, window.begin, strict=True))
    end = tuple(size + b // stride - o for size, b, o in zip(sizes, window.begin, out, strict=True))
    return Window(taps, (1, 1), (1, 1), begin, end) if min(*begin, *end) >= 0 else None


def _fills_phases(w: Array, kernel: Sequence[int], stride: int) -> bool:
    """Whether windows overlap so far that ConvTranspose adds each element four times, and phases are nearly full.

    They multiply by the zeros that fill up kernels to whole strides, and channels to whole blocks.
    """
    channels = -(-w.shape[1] * stride**2 // _BLOCK) * _BLOCK
    products = channels * math.prod(-(-k // stride) for k in kernel)
    full = w.shape[1] * math.prod(kernel) >= _FULL * products
    return isinstance(w, np.ndarray) and full and all(k >= 2 * stride for k in kernel)


def _phase_kernel(w: np.ndarray, stride: int) -> np.ndarray:
    """Filters for channels x places within a stride, their taps from the last to the first."""
    padded = np.pad(w, [(0, 0), (0, 0), *((0, -k % stride) for k in w.shape[2:])])
    rows, columns = (k // stride for k in padded.shape[2:])
    phases = padded.reshape(*w.shape[:2], rows, stride, columns, stride).transpose(1, 3, 5, 0, 2, 4)
    return np.ascontiguousarray(phases[..., ::-1, ::-1]).reshape(-1, w.shape[0], rows, columns)


def _turned_window(out: Sequence[int], window: Window, spatial: Sequence[int]) -> Window | None:
    """The window of the stride-1 convolution that is the input gradient of ``window``; None where there is none."""
    if any(stride != 1 for stride in window.strides):
        return None
    begin = [d * (k - 1) - b for k, d, b in zip(window.kernel, window.dilations, window.begin, strict=True)]
    end = [size - o + b for size, o, b in zip(spatial, out, window.begin, strict=True)]
    if min(begin) < 0 or min(end) < 0:
        return None
    return window._replace(begin=tuple(begin), end=tuple(end))
