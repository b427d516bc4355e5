"""The window of a spatial op, stated once for forward, VJP, fixations and receptive fields."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from onnxplain.engine.namespace import Array, Window
from onnxplain.ops.base import At

Axes = tuple[int, ...]


def spatial_window(at: At, kernel: Sequence[int]) -> Window:
    """Window of a Conv or pool of ``kernel`` size from the node's attributes and the shapes of the run.

    ``auto_pad``, explicit pads and ceil mode all come down to where the windows begin and how many there are; the
    end padding follows from the output size.
    """
    settings = (tuple(at.get(name) or ()) for name in ("strides", "dilations", "pads"))
    return _window(tuple(kernel), at.shape(0)[2:], at.out_shape(0)[2:], *settings, at.get("auto_pad", "NOTSET"))


@functools.lru_cache
def _window(kernel: Axes, size: Axes, out: Axes, strides: Axes, dilations: Axes, pads: Axes, auto_pad: str) -> Window:
    rank = len(kernel)
    strides, dilations, pads = strides or (1,) * rank, dilations or (1,) * rank, pads or (0,) * 2 * rank
    begin, end = [], []
    for i in range(rank):
        reach = dilations[i] * (kernel[i] - 1) + 1
        needed = max((out[i] - 1) * strides[i] + reach - size[i], 0)
        match auto_pad:
            case "SAME_UPPER":
                first = needed // 2
            case "SAME_LOWER":
                first = needed - needed // 2
            case "VALID":
                first = 0
            case _:
                first = pads[i]
        begin.append(first)
        end.append(max((out[i] - 1) * strides[i] + reach - size[i] - first, 0))
    return Window(kernel, strides, dilations, tuple(begin), tuple(end))


def end_pads(at: At, window: Window) -> tuple[int, ...]:
    """The padding that the node asks for behind the last element; in ceil mode a last window may read beyond it."""
    match at.get("auto_pad", "NOTSET"):
        case "SAME_UPPER" | "SAME_LOWER":
            return window.end
        case "VALID":
            return (0,) * len(window.end)
    pads: tuple[int, ...] = tuple(at.get("pads") or (0,) * 2 * len(window.end))
    return pads[len(window.end) :]


def unstrided(at: At, g: Array, window: Window) -> tuple[Array, Window]:
    """The window moved by one, and the signal at its outputs resampled to as many of these (Oramas et al. 2019).

    Along an axis of ``size`` these are ``size + pads - reach + 1``; each takes the value of the nearest output, pixel
    centres on pixel centres, the later one where two are as near.
    """
    ends = tuple(max(read, asked) for read, asked in zip(window.end, end_pads(at, window), strict=True))
    for i, (kernel, dilation, begin, end) in enumerate(
        zip(window.kernel, window.dilations, window.begin, ends, strict=True)
    ):
        out = at.out_shape()[2 + i]
        count = at.shape(0)[2 + i] + begin + end - dilation * (kernel - 1)
        if count != out:
            g = at.xp.gather(g, [(2 * place + 1) * out // (2 * count) for place in range(count)], 2 + i)
    return g, window._replace(strides=(1,) * len(ends), end=ends)
