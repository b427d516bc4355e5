"""What relevant features respond to: the parts of pictures around their largest responses, cropped and averaged."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from onnxplain.engine.fields import receptive_fields
from onnxplain.errors import FailureError, UsageError
from onnxplain.files import atomic_file, reserve, written
from onnxplain.graph.layers import Tensor
from onnxplain.inputs.contract import InputContract
from onnxplain.inputs.datasets import Dataset, read_dataset
from onnxplain.inputs.loaders import Sample, contract_for, load_record
from onnxplain.inputs.npz import BROKEN
from onnxplain.interpretation.result import Interpretation
from onnxplain.model import Model
from onnxplain.saved import write_arrays

SIDE = 64
"""Pixels of the side of a crop or average."""
CROPS = 8
"""Crops kept per feature."""
FILE = "visuals.npz"
_UNSEEN = 200

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Visuals:
    """The average visualisation of every relevant filter and the crops with the largest responses.

    Attributes
    ----------
    filters : numpy.ndarray
        The relevant filters, ascending.
    averages : numpy.ndarray
        uint8, filters x SIDE x SIDE x 3: the mean of all crops; grey where none has a pixel.
    crops : numpy.ndarray
        uint8, filters x CROPS x SIDE x SIDE x 3.
    crop_samples : numpy.ndarray
        filters x CROPS: row of the data set, -1 where there are fewer.
    field : numpy.ndarray
        filters x 2: height and width of the crops in pixels of the model's input.
    """

    filters: np.ndarray
    averages: np.ndarray
    crops: np.ndarray
    crop_samples: np.ndarray
    field: np.ndarray

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write visuals.npz."""
        with atomic_file(Path(folder) / FILE) as file:
            write_arrays(file, vars(self))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Visuals | None:
        """What :meth:`save` wrote; None where nothing was drawn.

        Raises
        ------
        FailureError
            The file is corrupt.
        """
        found = _read(folder, [field.name for field in fields(cls)])
        return None if found is None else cls(**found)


def read_averages(folder: str | os.PathLike[str]) -> dict[int, np.ndarray] | None:
    """The average visualisation of every relevant filter, without the crops; None where nothing was drawn.

    Raises
    ------
    FailureError
        The file is corrupt.
    """
    found = _read(folder, ["filters", "averages"])
    return None if found is None else dict(zip(found["filters"].tolist(), found["averages"], strict=True))


def _read(folder: str | os.PathLike[str], names: Sequence[str]) -> dict[str, np.ndarray] | None:
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except BROKEN as error:
        raise FailureError(f"{path} cannot be read: {error}") from error


def visualise(
    model: Model,
    found: Interpretation,
    dataset: Dataset | str | os.PathLike[str],
    *,
    preprocess: str | None = None,
    progress: Progress | None = None,
) -> Visuals:
    """Draw what each relevant feature responds to (Oramas, Wang and Tuytelaars 2019, section 3.2).

    Every sample among a filter's top responses is cropped to the receptive field around the filter's largest
    activation. Crops are aligned by the middle of the field; where the field is larger than the picture, the whole
    picture is taken. Crops and averages are resampled to ``SIDE`` pixels, the mean is taken over the pixels that lie
    inside the pictures.

    Raises
    ------
    UsageError
        The data set is another one, or the model takes no pictures.
    FailureError
        The disk of temporary files is full.
    """
    dataset = dataset if isinstance(dataset, Dataset) else read_dataset(Path(dataset))
    if dataset.ids != found.samples:
        raise UsageError(f"{dataset.source} is not the data set of the interpretation, {found.settings.get('dataset')}")
    found.check_model(model)
    contract = contract_for(dataset, model, preprocess)
    if len(model.inputs) != 1 or contract is None or not _takes_pictures(model.inputs[0], contract):
        raise UsageError(f"{model.label} takes no pictures: there is nothing to draw, the features stand all the same")
    rows, width = found.top_samples.ravel(), found.top_samples.shape[1]
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], np.arange(len(dataset) + 1))
    drawing = _Drawing(model, found, contract)
    for done, record in enumerate(dataset):
        wanted = [divmod(spot, width) for spot in order[bounds[done] : bounds[done + 1]].tolist()]
        if wanted:
            sample = load_record(record, model, contract)
            if isinstance(sample, Sample):
                drawing.add(done, sample.feed, wanted)
        if progress is not None:
            progress(done + 1, len(dataset))
    return drawing.finished()


def _takes_pictures(tensor: Tensor, contract: InputContract) -> bool:
    axis = {"NCHW": 1, "NHWC": 3}.get(contract.layout.value or "")
    return axis is not None and tensor.shape is not None and tensor.shape[axis] in (1, 3)


class _Drawing:
    """Sums crops, sample by sample; what grows with the number of filters stands in temporary files, mapped."""

    def __init__(self, model: Model, found: Interpretation, contract: InputContract) -> None:
        self.model = model
        self.found = found
        self.contract = contract
        count = len(found.relevant)
        self.total = _mapped((count, SIDE, SIDE, 3), np.float32)
        self.seen = _mapped((count, SIDE, SIDE, 1), np.float32)
        self.crops = _mapped((count, CROPS, SIDE, SIDE, 3), np.uint8)
        self.crop_samples = np.full((count, CROPS), -1, np.int64)
        self.field = np.zeros((count, 2), np.int64)
        located = [found.located(int(place)) for place in found.relevant]
        self.tensors = [model.tensor(filters.tensor) for filters in found.filters]  # in the graph of the responses
        self.units = [(model.tensor(filters.tensor), filters.axis, channel) for filters, channel in located]

    def add(self, row: int, feed: Mapping[str, np.ndarray], wanted: list[tuple[int, int]]) -> None:
        """Cut what one sample shows to the features that it is among the top of."""
        values = self.model.trace(self.tensors, feed)
        picture = self._rgb(feed[self.model.inputs[0].name])
        for tensor in self.tensors:
            here = [(place, rank) for place, rank in wanted if self.units[place][0] is tensor]
            if not here:
                continue
            value = values[tensor.name]
            index = np.array([self._largest(value, *self.units[place][1:]) for place, _ in here])
            for (place, rank), box in zip(here, self._boxes(tensor, feed, index, picture.shape), strict=True):
                self._enter(place, rank, row, *_cut(picture, box))

    def finished(self) -> Visuals:
        """The averages of everything that was added."""
        averages = _mapped(self.total.shape, np.uint8)
        for average, total, seen in zip(averages, self.total, self.seen, strict=True):
            average[:] = _mean(total, seen)
        for crops, samples in zip(self.crops, self.crop_samples, strict=True):
            crops[samples < 0] = _UNSEEN
        return Visuals(self.found.relevant, averages, self.crops, self.crop_samples, self.field)

    def _enter(self, place: int, rank: int, row: int, crop: np.ndarray, inside: np.ndarray, size: np.ndarray) -> None:
        self.total[place] += crop
        self.seen[place] += inside
        self.field[place] = np.maximum(self.field[place], size)
        if rank < CROPS:
            self.crops[place, rank] = _mean(crop, inside)
            self.crop_samples[place, rank] = row

    def _largest(self, value: np.ndarray, axis: int, channel: int) -> tuple[int, ...]:
        """The place of the largest activation of one channel, the first on ties."""
        own = np.abs(value.take([channel], axis))
        index = [int(each) for each in np.unravel_index(int(own.argmax()), own.shape)]
        index[axis] = channel
        return tuple(index)

    def _boxes(
        self, tensor: Tensor, feed: Mapping[str, np.ndarray], index: np.ndarray, shape: tuple[int, ...]
    ) -> Iterator[np.ndarray]:
        """Per unit top, left, bottom, right of its field; in the padding where it is at the border."""
        fields = receptive_fields(self.model, tensor, feed, index, clipped=False)
        found = fields[self.model.inputs[0]]
        axes = [2, 3] if self.contract.layout.value == "NCHW" else [1, 2]
        for low, high in zip(found.low[:, axes], found.high[:, axes], strict=True):
            size = np.array(shape[:2])
            whole = high - low >= size
            yield np.concatenate([np.where(whole, 0, low), np.where(whole, size, high)])

    def _rgb(self, array: np.ndarray) -> np.ndarray:
        """The picture that the model saw, float32 in 0..255, H x W x 3."""
        value = array[0].astype(np.float64)
        value = np.moveaxis(value, 0, -1) if self.contract.layout.value == "NCHW" else value
        known = not any(item.value is None for item in (self.contract.range, self.contract.mean, self.contract.std))
        low, high = (self.contract.low, self.contract.high) if known else (value.min(), value.max())
        value = np.clip((value - low) / np.maximum(high - low, 1e-12), 0, 1) * 255
        value = value[..., ::-1] if self.contract.colour.value == "BGR" else value
        return np.ascontiguousarray(np.broadcast_to(value, (*value.shape[:2], 3)), np.float32)


def _mapped(shape: tuple[int, ...], kind: type[np.number[Any]]) -> np.ndarray:
    """Zeros in a temporary file without a name, whose pages the system takes from memory where it needs that."""
    if not shape[0]:
        return np.zeros(shape, kind)
    with written(tempfile.gettempdir()), tempfile.TemporaryFile() as file:
        reserve(file, math.prod(shape) * np.dtype(kind).itemsize)
        return np.memmap(file, kind, "r+", shape=shape)


def _mean(total: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Colours summed over how much was seen, as uint8; grey where less than half a pixel was."""
    mean = np.divide(total, seen, out=np.full_like(total, _UNSEEN), where=seen >= 0.5)
    return np.asarray(np.rint(mean), np.uint8)


def _cut(picture: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A box of a picture at SIDE pixels, 0 outside the picture; how much of each pixel lies inside; the box's size."""
    import cv2

    top, left, bottom, right = (int(edge) for edge in box)
    height, width = bottom - top, right - left
    crop, inside = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    rows, columns = slice(max(top, 0), min(bottom, len(picture))), slice(max(left, 0), min(right, picture.shape[1]))
    here = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    crop[here], inside[here] = picture[rows, columns], 1
    method = cv2.INTER_AREA if max(height, width) > SIDE else cv2.INTER_NEAREST
    scaled, share = (np.asarray(cv2.resize(each, (SIDE, SIDE), interpolation=method)) for each in (crop, inside))
    return scaled, share[..., np.newaxis], np.array([height, width])
