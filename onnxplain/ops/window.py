"""The window of a spatial op, stated once for forward, VJP, fixations and receptive fields."""

from __future__ import annotations

from collections.abc import Sequence

from onnxplain.engine.namespace import Window
from onnxplain.ops.base import At


def spatial_window(at: At, kernel: Sequence[int]) -> Window:
    """Window of a Conv or pool of ``kernel`` size from the node's attributes and the shapes of the run.

    ``auto_pad``, explicit pads and ceil mode all come down to where the windows begin and how many there are; the
    end padding follows from the output size.
    """
    rank = len(kernel)
    size, out = at.shape(0)[2:], at.out_shape(0)[2:]
    strides = tuple(at.get("strides") or (1,) * rank)
    dilations = tuple(at.get("dilations") or (1,) * rank)
    begin, end = [], []
    for i in range(rank):
        reach = dilations[i] * (kernel[i] - 1) + 1
        needed = max((out[i] - 1) * strides[i] + reach - size[i], 0)
        match at.get("auto_pad", "NOTSET"):
            case "SAME_UPPER":
                first = needed // 2
            case "SAME_LOWER":
                first = needed - needed // 2
            case "VALID":
                first = 0
            case _:
                first = (at.get("pads") or (0,) * 2 * rank)[i]
        begin.append(first)
        end.append(max((out[i] - 1) * strides[i] + reach - size[i] - first, 0))
    return Window(tuple(kernel), strides, dilations, tuple(begin), tuple(end))
