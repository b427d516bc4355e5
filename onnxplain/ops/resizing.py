"""Resize: one matrix per resized axis, whatever the mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from onnxplain.engine.namespace import Array
from onnxplain.ops.base import At, Gradients, Kind, Op, register


class _Axis(NamedTuple):
    """What a node says about one axis: its scale, or the size asked for, and the part of it that is read."""

    axis: int
    scale: float | None
    asked: int
    roi: tuple[float, float] | None


@register("Resize")
class Resize(Op):
    """Nearest, linear or cubic resampling; linear in its input, so relevance goes back by the adjoint."""

    kind = Kind.SUM

    def forward(self, at: At, x: Array, *settings: Array) -> Array:
        for axis, matrix in self._matrices(at).items():
            x = _along(at, matrix, x, axis)
        outside = self.bias(at)
        return x if outside is None else x + outside

    def vjp(self, at: At, g: Array) -> Gradients:
        for axis, matrix in reversed(self._matrices(at).items()):
            g = _along(at, at.xp.transpose(matrix, (1, 0)), g, axis)
        return (g, *[None] * (len(at.layer.inputs) - 1))

    def bias(self, at: At) -> Array | None:
        """The extrapolation value where the output lies outside the input: there the rows of a matrix are zero."""
        if not self._crops(at) or not at["extrapolation_value"]:
            return None
        inside = at.xp.ones((1,) * at.rank())
        for axis, matrix in self._matrices(at).items():
            rows = at.xp.sum(matrix, (1,))
            inside = inside * at.xp.reshape(rows, tuple(-1 if i == axis else 1 for i in range(at.rank())))
        return (1.0 - inside) * at["extrapolation_value"]

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The input cell that counts most, the first on ties."""
        places = {axis: at.xp.argmax(matrix, 1) for axis, matrix in self._matrices(at).items()}
        return (at.points.along_axes(points, at.out_shape(), at.shape(), places),)

    def _matrices(self, at: At) -> dict[int, Array]:
        """Per axis that changes, the matrix from input to output positions; none where no length changes."""
        if at.shape() == at.out_shape():
            return {}
        axes, matrices = self._axes(at), {}
        beside = _held(at, axes)
        for axis, scale, asked, roi in axes:
            size, out = at.shape()[axis], at.out_shape()[axis]
            keeps = size == out and scale in (None, 1.0) and (asked == size or size == -1)
            if not keeps or (self._crops(at) and roi not in (None, (0.0, 1.0))):
                matrix = at.xp.resize_matrix(_settings(at, scale), size, asked, scale, roi, beside)
                matrices[axis] = at.xp.const(matrix)
        return matrices

    def _axes(self, at: At) -> list[_Axis]:
        old = at.layer.since_version < 11
        roi, scales = (None, at.constant(1)) if old else (at.constant(1), at.constant(2))
        sizes = at.constant(3) if at.get("keep_aspect_ratio_policy", "stretch") != "stretch" else None
        axes = [at.axis(axis) for axis in at.get("axes") or range(at.rank())]
        return [
            _Axis(
                axis,
                float(scales[place]) if scales is not None and len(scales) else None,
                int(sizes[place]) if sizes is not None and len(sizes) else at.out_shape()[axis],
                (float(roi[place]), float(roi[place + len(axes)])) if roi is not None and len(roi) else None,
            )
            for place, axis in enumerate(axes)
        ]

    def _crops(self, at: At) -> bool:
        return bool(at.get("coordinate_transformation_mode") == "tf_crop_and_resize")

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """The input cells that count."""
        part = fields[0]
        for axis, matrix in self._matrices(at).items():
            part = part.through(axis, matrix, at.shape())
        return (part,)


def _settings(at: At, scale: float | None) -> Mapping[str, Any]:
    """The node's attributes; before opset 11 coordinates were not centred and rounded up along an axis that shrinks."""
    if at.layer.since_version >= 11:
        return at.layer.attributes
    rounding = "ceil" if scale is not None and scale < 1 else "floor"
    return {"mode": at["mode"], "coordinate_transformation_mode": "asymmetric", "nearest_mode": rounding}


def _held(at: At, axes: list[_Axis]) -> tuple[int, int]:
    """Length and asked size, in lowest terms, of the axis whose scale a policy of equal aspect ratio gives all."""
    policy = at.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch" or any(axis.scale is not None for axis in axes):
        return (1, 1)
    pairs = sorted(((at.length(axis), asked) for axis, _, asked, _ in axes), key=lambda pair: pair[1] / pair[0])
    size, asked = pairs[0 if policy == "not_larger" else -1]
    common = math.gcd(size, asked)
    return size // common, asked // common


def _along(at: At, matrix: Array, x: Array, axis: int) -> Array:
    rank = at.rank()
    if axis == rank - 1:
        return at.xp.matmul(x, at.xp.transpose(matrix, (1, 0)))
    if axis == rank - 2:
        return at.xp.matmul(matrix, x)
    perm = (*(i for i in range(rank) if i != axis), axis)
    back = tuple(perm.index(i) for i in range(rank))
    return at.xp.transpose(at.xp.matmul(at.xp.transpose(x, perm), at.xp.transpose(matrix, (1, 0))), back)
