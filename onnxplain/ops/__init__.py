"""What happens at each op type, one file per family."""

from onnxplain.ops import (
    activation,
    convolution,
    elementwise,
    matmul,
    normalization,
    padding,
    plumbing,
    pooling,
    quantized,
    reduction,
    resizing,
    shape,
)
from onnxplain.ops.base import At, Kind, Linear, Op, check_support, find, moves_samples, table

__all__ = ["At", "Kind", "Linear", "Op", "check_support", "find", "moves_samples", "table"]

FAMILIES = (
    activation,
    convolution,
    elementwise,
    matmul,
    normalization,
    padding,
    plumbing,
    pooling,
    quantized,
    reduction,
    resizing,
    shape,
)
"""The modules that fill the table."""
