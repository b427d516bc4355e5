"""Pad in every mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxplain.engine.namespace import Array
from onnxplain.ops.base import At, Gradients, Kind, Op, register


@register("Pad")
class Pad(Op):
    """Cells added (or, where negative, cut) at both ends of each axis: constant, reflect, edge or wrap."""

    kind = Kind.ROUTE

    def forward(self, at: At, x: Array, *settings: Array) -> Array:
        for axis, cells in self._cells(at).items():
            kept = [cell for cell in cells if cell is not None]
            x = at.xp.gather(x, kept, axis)
            before = next((i for i, cell in enumerate(cells) if cell is not None), len(cells))
            begin, end = [0] * at.rank(), [0] * at.rank()
            begin[axis], end[axis] = before, len(cells) - before - len(kept)
            if begin[axis] or end[axis]:
                x = at.xp.pad(x, begin, end, self._value(at))
        return x

    def vjp(self, at: At, g: Array) -> Gradients:
        for axis, cells in self._cells(at).items():
            places = [i for i, cell in enumerate(cells) if cell is not None]
            kept = [cell for cell in cells if cell is not None]
            if places:
                g = at.xp.slice(g, axis, places[0], places[-1] + 1)
            size = at.shape()[axis]
            if kept == list(range(kept[0], kept[-1] + 1)):
                begin, end = [0] * at.rank(), [0] * at.rank()
                begin[axis], end[axis] = kept[0], size - 1 - kept[-1]
                g = at.xp.pad(g, begin, end)
            else:
                g = at.xp.scatter_add(g, kept, axis, size)
        return (g, *[None] * (len(at.layer.inputs) - 1))

    def on_constants(self, at: At, *r: Array) -> list[Array]:
        copied = at.xp.ones((1,) * at.rank())
        for axis, cells in self._cells(at).items():
            shape = [len(cells) if i == axis else 1 for i in range(at.rank())]
            copied = copied * at.xp.reshape(at.xp.const([float(cell is not None) for cell in cells]), shape)
        return [r[0] * (1.0 - copied)]

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The cell that was copied; for a constant cell the nearest one inside."""
        places = {}
        for axis, cells in self._cells(at).items():
            inside = [i for i, cell in enumerate(cells) if cell is not None]
            nearest = [min(max(i, inside[0]), inside[-1]) for i in range(len(cells))]
            places[axis] = [cells[i] for i in nearest]
        return (at.points.along_axes(points, at.out_shape(), at.shape(), places),)

    def _value(self, at: At) -> float:
        value = at["value"] if "value" in at.layer.attributes else at.constant(2) if at.input(2) is not None else None
        return 0.0 if value is None or not getattr(value, "size", 1) else float(value)

    def _cells(self, at: At) -> dict[int, list[int | None]]:
        """Per padded axis, the input index that each output cell copies; None for a constant cell."""
        pads = [int(pad) for pad in at.parameter("pads", 1)]
        axes = at.constant(3) if len(at.layer.inputs) > 3 else None
        places = range(at.rank()) if axes is None else [at.axis(int(axis)) for axis in axes]
        half = len(pads) // 2
        return {
            axis: [
                _source(i, at.shape()[axis], at.get("mode", "constant"))
                for i in range(-before, at.shape()[axis] + after)
            ]
            for axis, before, after in zip(places, pads[:half], pads[half:], strict=True)
            if before or after
        }

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """The part without the padding; everything that is copied there, where the padding is no constant."""
        part = fields[0]
        for axis, cells in self._cells(at).items():
            kept = [cell for cell in cells if cell is not None]
            if kept == list(range(at.shape()[axis])):
                part = part.shifted(axis, cells.index(0), at.shape(), clip=part.clipped)
            else:
                part = part.picked(axis, [0 if cell is None else cell for cell in cells], at.shape())
        return (part,)


def _source(index: int, size: int, mode: str) -> int | None:
    if 0 <= index < size:
        return index
    match mode:
        case "edge":
            return min(max(index, 0), size - 1)
        case "wrap":
            return index % size
        case "reflect":
            period = max(2 * (size - 1), 1)
            folded = index % period
            return min(folded, period - folded) if size > 1 else 0
    return None
