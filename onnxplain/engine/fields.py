"""Receptive fields: which part of every input a unit depends on, as intervals carried back through the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxplain.engine.host import Host
from onnxplain.engine.hosted import Trace
from onnxplain.engine.namespace import Window
from onnxplain.engine.walk import walk
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.model import Feed, Model
from onnxplain.ops import At, find

_NOWHERE = 2**40

Shape = Sequence[int]


@dataclass(frozen=True)
class Fields:
    """One box per unit in the index space of a tensor; ops see it in :meth:`onnxplain.ops.base.Op.reach`.

    Attributes
    ----------
    low, high : numpy.ndarray
        int64, units x axes: where the box begins, and the index behind its end. A box that is empty along one axis is
        empty.
    clipped : bool
        Whether boxes end at the border of the tensor; otherwise they go on into the padding, which says where the
        middle of a field at the border would be.
    """

    low: np.ndarray
    high: np.ndarray
    clipped: bool = True

    def joined(self, other: Fields) -> Fields:
        """The smallest boxes around both."""
        return replace(self, low=np.minimum(self.low, other.low), high=np.maximum(self.high, other.high))

    def fitted(self, shape: Shape) -> Fields:
        """The boxes in an operand that was broadcast."""
        extra = self.low.shape[1] - len(shape)
        found = replace(self, low=self.low[:, extra:].copy(), high=self.high[:, extra:].copy())
        return found.whole([axis for axis, size in enumerate(shape) if size == 1], shape)

    def whole(self, axes: Iterable[int], shape: Shape) -> Fields:
        """The boxes, everything along some axes."""

        def all_of(size: int) -> Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]:
            return lambda low, high: (np.zeros_like(low), np.full_like(high, size))

        return self._along({axis: all_of(shape[axis]) for axis in axes}, shape)

    def everything(self, shape: Shape) -> Fields:
        """The whole tensor, for boxes that are not empty."""
        low = np.zeros((len(self.low), len(shape)), np.int64)
        return replace(self, low=low, high=low + np.array(shape, np.int64)).unless(self._empty())

    def windowed(self, window: Window, shape: Shape) -> Fields:
        """What the windows of a convolution or pool read: axes from 2 on; all channels along axis 1."""

        def along(stride: int, begin: int, reach: int) -> Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]:
            return lambda low, high: (low * stride - begin, (high - 1) * stride - begin + reach)

        reaches = [d * (k - 1) + 1 for d, k in zip(window.dilations, window.kernel, strict=True)]
        each = zip(window.strides, window.begin, reaches, strict=True)
        return self._along({2 + axis: along(*settings) for axis, settings in enumerate(each)}, shape)

    def spread(self, window: Window, shape: Shape) -> Fields:
        """What the adjoint of windows reads: every place whose window covers the box."""

        def along(stride: int, begin: int, reach: int) -> Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]:
            return lambda low, high: (-((reach - 1 - low - begin) // stride), (high - 1 + begin) // stride + 1)

        reaches = [d * (k - 1) + 1 for d, k in zip(window.dilations, window.kernel, strict=True)]
        each = zip(window.strides, window.begin, reaches, strict=True)
        return self._along({2 + axis: along(*settings) for axis, settings in enumerate(each)}, shape)

    def permuted(self, perm: Sequence[int]) -> Fields:
        """The boxes before a transposition by ``perm``."""
        back = np.argsort(perm)
        return replace(self, low=self.low[:, back], high=self.high[:, back])

    def reshaped(self, out_shape: Shape, shape: Shape) -> Fields:
        """The boxes before a reshape: axes that lead or end both shapes alike stay, the others are taken whole."""
        lead = _alike(out_shape, shape)
        tail = _alike(out_shape[lead:][::-1], shape[lead:][::-1])
        middle = len(shape) - lead - tail
        low = np.zeros((len(self.low), middle), np.int64)
        high = low + np.array(shape[lead : lead + middle], np.int64)
        end = self.low.shape[1] - tail
        return replace(
            self,
            low=np.concatenate([self.low[:, :lead], low, self.low[:, end:]], axis=1),
            high=np.concatenate([self.high[:, :lead], high, self.high[:, end:]], axis=1),
        ).unless(self._empty())

    def shifted(self, axis: int, offset: int, shape: Shape, clip: bool = True) -> Fields:
        """The boxes before ``offset`` elements were put in front along an axis, cut to ``shape``."""
        return self._along({axis: lambda low, high: (low - offset, high - offset)}, shape, clip)

    def picked(self, axis: int, places: Sequence[int], shape: Shape) -> Fields:
        """The boxes before the elements at ``places`` along an axis were picked."""
        table, ranges = np.asarray(places, np.int64), self._ranges(axis, len(places))
        lowest = np.array([table[a:b].min(initial=_NOWHERE) for a, b in ranges])
        highest = np.array([table[a:b].max(initial=-_NOWHERE) for a, b in ranges])
        return self._along({axis: lambda low, high: (lowest, highest + 1)}, shape)

    def through(self, axis: int, matrix: np.ndarray, shape: Shape) -> Fields:
        """The boxes before a product with ``matrix`` (outputs x inputs) along an axis."""
        used = matrix != 0
        first = np.where(used.any(1), used.argmax(1), _NOWHERE)
        last = np.where(used.any(1), used.shape[1] - used[:, ::-1].argmax(1), -_NOWHERE)
        ranges = self._ranges(axis, len(matrix))
        lowest = np.array([first[a:b].min(initial=_NOWHERE) for a, b in ranges])
        highest = np.array([last[a:b].max(initial=-_NOWHERE) for a, b in ranges])
        return self._along({axis: lambda low, high: (lowest, highest)}, shape)

    def unless(self, gone: np.ndarray) -> Fields:
        """The boxes, those of ``gone`` empty."""
        low, high = self.low.copy(), self.high.copy()
        low[gone], high[gone] = _NOWHERE, -_NOWHERE
        return replace(self, low=low, high=high)

    def _ranges(self, axis: int, size: int) -> list[tuple[int, int]]:
        low, high = np.clip(self.low[:, axis], 0, size), np.clip(self.high[:, axis], 0, size)
        return list(zip(low.tolist(), high.tolist(), strict=True))

    def _empty(self) -> np.ndarray:
        return np.asarray((self.low >= self.high).any(axis=1))

    def _along(
        self,
        steps: dict[int, Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]],
        shape: Shape,
        clip: bool = False,
    ) -> Fields:
        gone = self._empty()
        low, high = np.where(gone[:, None], 0, self.low), np.where(gone[:, None], 0, self.high)
        for axis, step in steps.items():
            low[:, axis], high[:, axis] = step(low[:, axis], high[:, axis])
            if self.clipped or clip:
                low[:, axis] = np.maximum(low[:, axis], 0)
                high[:, axis] = np.minimum(high[:, axis], shape[axis])
        found = replace(self, low=low, high=high)
        return found.unless(gone | found._empty())


def _alike(a: Shape, b: Shape) -> int:
    """How many sizes two shapes begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def receptive_fields(
    model: Model, tensor: Tensor, feed: Feed, index: np.ndarray, clipped: bool = True
) -> dict[Tensor, Fields]:
    """The parts of the inputs that units depend on.

    Exact for networks of convolutions, pools and what works element by element, also over branches, of which the
    smallest box around all is given; where the dilation is above 1, a box at the border may be some pixels too large.
    What mixes places otherwise (attention, products over flattened pixels) depends on everything.

    Parameters
    ----------
    model : Model
    tensor : Tensor
    feed : dict of str to numpy.ndarray
        Any input of one sample, for the shapes.
    index : numpy.ndarray
        Units x axes of ``tensor``.
    clipped : bool
        See :class:`Fields`.

    Returns
    -------
    dict of Tensor to Fields
        By input of the model that something depends on.
    """
    recording = model.recording(feed, tensor)
    trace = Trace(Host(np.dtype(np.float32)), recording, {}, frozenset())
    path = model.graph.path(tensor, model.inputs)
    wanted = {out for layer in path for out in layer.outputs if out is not None} | set(model.inputs)

    def step(layer: Layer, arrived: list[Fields | None]) -> Sequence[Fields | None]:
        op = find(layer)
        if op is not None:
            return op.reach(At(layer, trace, wanted), *arrived)
        fields = next(each for each in arrived if each is not None)
        return [None if t is None else fields.everything(recording.shape(t)) for t in layer.inputs]

    low = np.asarray(index, np.int64)
    return walk(path, {tensor: Fields(low, low + 1, clipped)}, step, Fields.joined)
