"""Ops that move elements without computing."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Any

from onnxplain.engine.namespace import Array, Window
from onnxplain.errors import UnsupportedError
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.ops.base import At, Gradients, Kind, Op, register


class _Route(Op):
    kind = Kind.ROUTE
    keeps_sign = True

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """The same part, for copies."""
        return [
            fields[0].fitted(at.shape(i)) if at.wants(i) and fields[0] is not None else None
            for i in range(len(at.layer.inputs))
        ]


@register("Reshape", "Flatten", "Squeeze", "Unsqueeze")
class Reshape(_Route):
    """Every op that keeps the elements in order: the shapes of the run say everything."""

    def forward(self, at: At, x: Array, *settings: Array) -> Array:
        return at.xp.reshape(x, at.out_shape())

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The same element, whose flat index stays."""
        return (points,)

    def vjp(self, at: At, g: Array) -> Gradients:
        return (at.xp.reshape(g, at.shape()),)

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """Axes that lead or end both shapes alike stay, the others are taken whole."""
        return (fields[0].reshaped(at.out_shape(), at.shape()),)


@register("Identity")
class Identity(_Route):
    """A copy."""

    def forward(self, at: At, x: Array) -> Array:
        return x

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The same element."""
        return (points,)

    def vjp(self, at: At, g: Array) -> Gradients:
        return (g,)


@register("Dropout")
class Dropout(_Route):
    """A copy, as it is at inference, and a mask that keeps everything."""

    def refusal(self, layer: Layer, wanted: Set[Tensor]) -> str | None:
        training = layer.inputs[2] if len(layer.inputs) > 2 else None
        if training is not None and (training.value is None or training.value.any()):
            return "it is in training mode, its output is random"
        return super().refusal(layer, wanted)

    def forward(self, at: At, x: Array, *settings: Array) -> Array:
        return x, at.xp.equal(x, x)

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The same element."""
        return (points,)

    def vjp(self, at: At, g: Array | None, *mask: Array) -> Gradients:
        return (g,)


@register("Cast")
class Cast(_Route):
    """A change of type; nothing flows back through integers and booleans."""

    def forward(self, at: At, x: Array) -> Array:
        dtype = at.output().dtype
        if dtype is None or dtype.kind == "f":
            return at.xp.cast(x)
        if dtype.kind == "b":
            return at.xp.greater(at.xp.abs(at.xp.cast(x)), 0.0)
        raise UnsupportedError(
            f"Cast {at.layer.name!r} from data to {dtype} has no float64 forward; use dtype='float32'"
        )

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The same element."""
        return (points,)

    def vjp(self, at: At, g: Array) -> Gradients:
        dtype = at.output().dtype
        return (g if dtype is None or dtype.kind == "f" else None,)


@register("Transpose")
class Transpose(_Route):
    """A permutation of axes."""

    def forward(self, at: At, x: Array) -> Array:
        return at.xp.transpose(x, self._perm(at))

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The same element at its old place."""
        return (at.points.transposed(points, at.out_shape(), self._perm(at)),)

    def vjp(self, at: At, g: Array) -> Gradients:
        perm = self._perm(at)
        return (at.xp.transpose(g, tuple(perm.index(axis) for axis in range(len(perm)))),)

    def moves_samples(self, layer: Layer) -> bool:
        """Unless the first axis stays."""
        perm = layer.attributes.get("perm")
        return not perm or bool(perm[0] != 0)

    def _perm(self, at: At) -> tuple[int, ...]:
        return tuple(at.get("perm") or reversed(range(at.rank())))

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """The same part, its axes in the old order."""
        return (fields[0].permuted(self._perm(at)),)


@register("Concat")
class Concat(_Route):
    """The inputs one behind the other along an axis."""

    def forward(self, at: At, *xs: Array) -> Array:
        return at.xp.concat(xs, at.axis(at["axis"]))

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The branch that the element was taken from."""
        axis = at.axis(at["axis"])
        lengths = [at.shape(index)[axis] for index in range(len(at.layer.inputs))]
        return list(at.points.parted(points, at.out_shape(), lengths, axis))

    def vjp(self, at: At, g: Array) -> Gradients:
        return [part if at.wants(index) else None for index, part in enumerate(self._parts(at, g))]

    def on_constants(self, at: At, *r: Array) -> list[Array]:
        return [part for index, part in enumerate(self._parts(at, r[0])) if not at.wants(index)]

    def _parts(self, at: At, g: Array) -> list[Array]:
        """``g`` cut where one input ends and the next begins."""
        axis, start, parts = at.axis(at["axis"]), 0, []
        for index in range(len(at.layer.inputs)):
            stop = start + at.shape(index)[axis]
            parts.append(at.xp.slice(g, axis, start, stop))
            start = stop
        return parts

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """What each input has of the part."""
        axis, start, parts = at.axis(at["axis"]), 0, []
        for index in range(len(at.layer.inputs)):
            parts.append(fields[0].shifted(axis, start, at.shape(index)) if at.wants(index) else None)
            start += at.shape(index)[axis]
        return parts


@register("Split")
class Split(_Route):
    """Parts along an axis; the shapes of the run say how long each is."""

    def forward(self, at: At, x: Array, *settings: Array) -> Array:
        axis, start = at.axis(at["axis"]), 0
        parts = []
        for index in range(len(at.layer.outputs)):
            stop = start + at.out_shape(index)[axis]
            parts.append(at.xp.slice(x, axis, start, stop))
            start = stop
        return tuple(parts)

    every_output = True

    def fixate(self, at: At, *points: Any) -> Sequence[Any | None]:
        """Each part's points moved by the length of the parts before it."""
        axis, start, merged = at.axis(at["axis"]), 0, None
        for index, part in enumerate(points):
            size = at.out_shape(index)[axis]
            if part is not None:
                places = {axis: range(start, start + size)}
                moved = at.points.along_axes(part, at.out_shape(index), at.shape(), places)
                merged = moved if merged is None else at.points.joined(merged, moved)
            start += size
        return (merged,)

    def vjp(self, at: At, *grads: Array) -> Gradients:
        axis, rank = at.axis(at["axis"]), at.rank()
        if all(g is not None for g in grads):
            return (at.xp.concat(grads, axis),)
        total, start, whole = None, 0, at.shape()[axis]
        for index, g in enumerate(grads):
            size = at.out_shape(index)[axis]
            if g is not None:
                begin, end = [0] * rank, [0] * rank
                begin[axis], end[axis] = start, whole - start - size
                placed = at.xp.pad(g, begin, end)
                total = placed if total is None else total + placed
            start += size
        return (total,)

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """Each part moved by the length of the parts before it."""
        axis, start, merged = at.axis(at["axis"]), 0, None
        for index, part in enumerate(fields):
            if part is not None:
                moved = part.shifted(axis, -start, at.shape())
                merged = moved if merged is None else merged.joined(moved)
            start += at.out_shape(index)[axis]
        return (merged,)


@register("Slice")
class Slice(_Route):
    """Ranges along axes, steps of either sign."""

    def forward(self, at: At, x: Array, *settings: Array) -> Array:
        for axis, picked in self._ranges(at).items():
            x = at.xp.gather(x, list(picked), axis)
        return x

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The element that was picked."""
        return (at.points.along_axes(points, at.out_shape(), at.shape(), self._ranges(at)),)

    def vjp(self, at: At, g: Array) -> Gradients:
        for axis, picked in self._ranges(at).items():
            size = at.length(axis)
            if picked.step == 1:
                begin, end = [0] * at.rank(), [0] * at.rank()
                begin[axis], end[axis] = picked.start, size - picked.stop
                g = at.xp.pad(g, begin, end)
            else:
                g = at.xp.scatter_add(g, list(picked), axis, size)
        return (g,)

    def _ranges(self, at: At) -> dict[int, range]:
        starts, ends = (list(at.parameter(name, i)) for name, i in (("starts", 1), ("ends", 2)))
        axes = at.parameter("axes", 3)
        axes = range(len(starts)) if axes is None else axes
        steps = at.constant(4) if len(at.layer.inputs) > 4 else None
        steps = [1] * len(starts) if steps is None else steps
        ranges = {}
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            place = at.axis(int(axis))
            if (int(start), int(step)) == (0, 1) and int(end) >= 2**31 - 1:
                continue
            size = at.length(place)
            first, last, stride = slice(int(start), int(end), int(step)).indices(size)
            picked = range(first, max(last, first) if stride > 0 else last, stride)
            if picked != range(size):
                ranges[place] = picked
        return ranges

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """What was picked."""
        part = fields[0]
        for axis, picked in self._ranges(at).items():
            part = part.picked(axis, picked, at.shape())
        return (part,)


@register("Gather")
class Gather(_Route):
    """Elements at constant indices along an axis."""

    reach = Op.reach

    def forward(self, at: At, x: Array, indices: Array) -> Array:
        return at.xp.gather(x, self._indices(at), at.axis(at["axis"]))

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The element that was picked; out of a constant table, the index that picked it."""
        axis, shape, picked = at.axis(at["axis"]), at.shape(), math.prod(at.shape(1))
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        if at.wants(0):
            places = {1: at.x(1)}
            return (at.points.along_axes(points, (outer, picked, inner), (outer, shape[axis], inner), places), None)
        return (None, at.points.fitted(points, (outer, picked, inner), (1, picked, 1)))

    def vjp(self, at: At, g: Array) -> Gradients:
        if not at.wants(0):
            return (None, None)
        axis = at.axis(at["axis"])
        return (at.xp.scatter_add(g, self._indices(at), axis, at.length(axis)), None)

    def _indices(self, at: At) -> Array:
        return at.constant(1) % at.length(at.axis(at["axis"]))


@register("Expand")
class Expand(_Route):
    """Broadcast to a shape."""

    def forward(self, at: At, x: Array, shape: Array) -> Array:
        return at.xp.expand(at.xp.reshape(x, (1,) * (len(at.out_shape()) - at.rank()) + at.shape()), at.out_shape())

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The element that was repeated."""
        return (at.points.fitted(points, at.out_shape(), at.shape()), None)

    def vjp(self, at: At, g: Array) -> Gradients:
        return (at.fit(g, 0), None)


@register("Tile")
class Tile(_Route):
    """The whole tensor repeated along axes."""

    reach = Op.reach

    def forward(self, at: At, x: Array, *repeats: Array) -> Array:
        for axis, times in enumerate(self._repeats(at)):
            x = at.xp.concat([x] * times, axis) if times != 1 else x
        return x

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The element that was repeated."""
        places = {axis: range(at.out_shape()[axis]) for axis in range(at.rank())}
        return (at.points.along_axes(points, at.out_shape(), at.shape(), places), None)

    def vjp(self, at: At, g: Array) -> Gradients:
        shape = at.shape()
        interleaved = [part for times, size in zip(self._repeats(at), shape, strict=True) for part in (times, size)]
        summed = at.xp.sum(at.xp.reshape(g, interleaved), tuple(range(0, 2 * len(shape), 2)))
        return (summed, None)

    def _repeats(self, at: At) -> list[int]:
        return [int(times) for times in at.constant(1)]


@register("DepthToSpace")
class DepthToSpace(_Route):
    """Blocks of channels become blocks of pixels."""

    def forward(self, at: At, x: Array) -> Array:
        n, c, h, w = at.shape()
        b = at["blocksize"]
        if at.get("mode", "DCR") == "DCR":
            split, perm = (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
        else:
            split, perm = (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)
        return at.xp.reshape(at.xp.transpose(at.xp.reshape(x, split), perm), (n, c // b**2, h * b, w * b))

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The same element at its old place."""
        n, c, h, w = at.shape()
        b = at["blocksize"]
        perm = (0, 3, 4, 1, 5, 2) if at.get("mode", "DCR") == "DCR" else (0, 1, 4, 2, 5, 3)
        return (at.points.transposed(points, (n, c // b**2, h, b, w, b), perm),)

    def vjp(self, at: At, g: Array) -> Gradients:
        n, c, h, w = at.shape()
        b = at["blocksize"]
        perm = (0, 3, 5, 1, 2, 4) if at.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
        return (at.xp.reshape(at.xp.transpose(at.xp.reshape(g, (n, c // b**2, h, b, w, b)), perm), at.shape()),)

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """The pixels that hold the part in some of their channels."""
        part, b = fields[0], at["blocksize"]
        for axis in (2, 3):
            part = part.picked(axis, [place // b for place in range(at.out_shape()[axis])], at.shape())
        return (part.whole([1], at.shape()),)


@register("SpaceToDepth")
class SpaceToDepth(_Route):
    """Blocks of pixels become blocks of channels."""

    def forward(self, at: At, x: Array) -> Array:
        n, c, h, w = at.shape()
        b = at["blocksize"]
        split = at.xp.reshape(x, (n, c, h // b, b, w // b, b))
        return at.xp.reshape(at.xp.transpose(split, (0, 3, 5, 1, 2, 4)), at.out_shape())

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """The same element at its old place."""
        n, c, h, w = at.shape()
        b = at["blocksize"]
        return (at.points.transposed(points, (n, b, b, c, h // b, w // b), (0, 3, 5, 1, 2, 4)),)

    def vjp(self, at: At, g: Array) -> Gradients:
        n, c, h, w = at.shape()
        b = at["blocksize"]
        split = at.xp.reshape(g, (n, b, b, c, h // b, w // b))
        return (at.xp.reshape(at.xp.transpose(split, (0, 3, 4, 1, 5, 2)), at.shape()),)

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """The blocks that the part stands for."""
        block, zeros = (at["blocksize"],) * 2, (0, 0)
        window = Window(block, block, (1, 1), zeros, zeros)
        return (fields[0].windowed(window, at.shape()).whole([1], at.shape()),)
