"""The input contract: how a picture becomes what the model was trained on, each item with its origin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxplain.errors import FailureError, UsageError
from onnxplain.graph.layers import LayerGraph, Tensor
from onnxplain.inputs.head import graph_items, shape_text
from onnxplain.inputs.items import CHANNELS, Colour, Found, Item, Layout, Resize
from onnxplain.inputs.labels import read_labels
from onnxplain.inputs.metadata import metadata_items
from onnxplain.inputs.presets import PRESETS, preset
from onnxplain.inputs.sidecar import read_sidecar, sidecar_path

MAX_PIXELS = 100_000_000
"""The largest picture that is decoded, and that is made for a model."""


class ModelView(Protocol):
    """What input contracts and loaders need to know of a model."""

    @property
    def path(self) -> Path | None: ...  # noqa: D102
    @property
    def metadata(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def graph(self) -> LayerGraph: ...  # noqa: D102
    @property
    def inputs(self) -> Sequence[Tensor]: ...  # noqa: D102
    @property
    def outputs(self) -> Sequence[Tensor]: ...  # noqa: D102
    def check_feed(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...  # noqa: D102


@dataclass(frozen=True)
class InputContract:
    """What one input of a model takes.

    A grey level p (0..255) of a channel is fed as ``(low + p / 255 * (high - low) - mean) / std`` with ``low, high``
    the ``range``; mean and std hold one number, or one per channel in the order in which the model takes them.

    Attributes
    ----------
    input_name : str
    dtype : numpy.dtype
    layout : Item of {"NCHW", "NHWC", "tensor"}
        "tensor" takes no pictures.
    colour : Item of {"RGB", "BGR", "GRAY"}
    size : Item of (int, int)
        Height and width in pixels.
    resize : Item of Resize
    range : Item of (float, float)
    mean, std : Item of tuple of float
    labels : Item of tuple of str
        Class names of the output; not needed to prepare a picture.
    """

    input_name: str
    dtype: np.dtype[Any]
    layout: Item[Layout]
    colour: Item[Colour]
    size: Item[tuple[int, int]]
    resize: Item[Resize]
    range: Item[tuple[float, float]]
    mean: Item[tuple[float, ...]]
    std: Item[tuple[float, ...]]
    labels: Item[tuple[str, ...]]

    @property
    def items(self) -> dict[str, Item[Any]]:
        """The items by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)[2:]}

    @property
    def missing(self) -> tuple[str, ...]:
        """What no source settles and a picture needs."""
        return tuple(name for name, item in self.items.items() if item.value is None and name != "labels")

    def check(self) -> None:
        """Make sure that pictures can be prepared.

        Raises
        ------
        UsageError
            An item is missing, or the input takes no pictures.
        FailureError
            Its pictures would have more than ``MAX_PIXELS``.
        """
        if self.layout.value == "tensor":
            raise UsageError(
                f"input {self.input_name!r} takes no pictures ({self.layout.origin}); "
                "give a model-ready .npy or .npz file"
            )
        self._require(self.missing)
        height, width = self.size.settled
        if height * width > MAX_PIXELS:
            raise FailureError(
                f"input {self.input_name!r} takes pictures of {height} x {width} pixels ({self.size.origin}); the "
                f"limit is {MAX_PIXELS / 1e6:g} megapixels: state a smaller size or export the model for one"
            )
        low, high = self.low, self.high
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            if min(low) < limits.min or max(high) > limits.max or max(high - low) < 2:
                raise UsageError(
                    f"input {self.input_name!r} is {self.dtype}, which cannot hold pixels from {min(low):.4g} to "
                    f"{max(high):.4g} (range: {self.range.origin}); --preprocess raw gives 0 to 255"
                )

    @property
    def low(self) -> np.ndarray:
        """The smallest value each channel can take, after normalisation; float64, one number or one per channel.

        Raises
        ------
        UsageError
            Range, mean or std is not known.
        """
        return self._normalised(0)

    @property
    def high(self) -> np.ndarray:
        """The largest value, like :attr:`low`."""
        return self._normalised(1)

    def _normalised(self, end: int) -> np.ndarray:
        self._require([name for name in ("range", "mean", "std") if self.items[name].value is None])
        return self.normalise(np.full(1, self.range.settled[end]))

    def normalise(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(pixels - mean) / std``, channels along the last axis."""
        mean, std = np.array(self.mean.settled, np.float64), np.array(self.std.settled, np.float64)
        return (pixels - mean) / std

    def _require(self, names: Iterable[str]) -> None:
        missing = [f"{name} ({self.items[name].origin})" for name in names]
        if missing:
            raise UsageError(
                f"input {self.input_name!r}: not known how pictures are to be prepared: {', '.join(missing)}; settle "
                f"it with --preprocess {'|'.join(PRESETS)}, or with --preprocess FILE.toml or a sidecar "
                f"MODEL.onnxplain.toml whose [input.{self.input_name}] gives what is missing"
            )

    def describe(self) -> list[tuple[str, str, str]]:
        """Rows of item, value and origin, for printing."""
        return [(name, _text(item.value), item.origin) for name, item in self.items.items()]

    @property
    def preparation(self) -> str:
        """How pictures are prepared, in one sentence, with the origin of every item."""
        stated: dict[str, list[str]] = {}
        for name, value, origin in self.describe():
            if name != "labels":
                stated.setdefault(origin, []).append(f"{name} {value}")
        return "pictures: " + "; ".join(f"{', '.join(items)} ({origin})" for origin, items in stated.items())

    def to_json(self) -> dict[str, Any]:
        """Plain values: per item its value and its origin."""
        values = {name: _plain(item.value) for name, item in self.items.items()}
        items = {name: {"value": values[name], "origin": item.origin} for name, item in self.items.items()}
        return {"input": self.input_name, "dtype": str(self.dtype), **items}


def discover(
    model: ModelView,
    input_name: str,
    *,
    preprocess: str | Path | None = None,
    labels: str | Path | None = None,
    output_name: str | None = None,
) -> InputContract:
    """Collect what is known about an input; nothing is guessed.

    The first source that states an item settles it: ``preprocess`` and ``labels``; the sidecar
    ``MODEL.onnxplain.toml``; metadata in the file; the input's dtype, shape and constants at the head of the graph.
    What none of them states stays None, and :meth:`InputContract.check` refuses pictures then.

    Parameters
    ----------
    model : Model
    input_name : str
    preprocess : str or Path, optional
        The name of a preset ("imagenet", "caffe", "tf", "unit", "raw") or a TOML file in the form of a sidecar.
    labels : str or Path, optional
        A file of class names, see :func:`onnxplain.inputs.labels.read_labels`.
    output_name : str, optional
        The output whose labels are wanted; the only one that has any by default.

    Raises
    ------
    UsageError
        Unknown preset, missing or malformed file, or items that contradict the input's shape.
    FailureError
        A file that is not text.
    """
    tensor = next((one for one in model.inputs if one.name == input_name), None)
    if tensor is None:
        raise UsageError(f"the model has no input {input_name!r}; it has {', '.join(one.name for one in model.inputs)}")
    graph = graph_items(tensor)
    sources = [_flag_items(model, tensor, graph, preprocess, labels, output_name)]
    if model.path is not None and sidecar_path(model.path).is_file():
        sources.append(_file_items(model, tensor, sidecar_path(model.path), "sidecar ", output_name))
    outputs = [out for out in model.outputs if output_name in (None, out.name)]
    for source in sources:
        if "labels" in source and (wrong := _wrong_labels(source["labels"], outputs)):
            raise UsageError(wrong)
    metadata = metadata_items(model.metadata)
    if "labels" in metadata and (wrong := _wrong_labels(metadata["labels"], outputs)):
        metadata["labels"] = Item(None, wrong)
    contract = _merge(tensor, [*sources, metadata, graph])
    contract = replace(contract, **_normalised_twice(contract, graph))
    _check_shape(contract, tensor)
    return contract


def _flag_items(
    model: ModelView,
    tensor: Tensor,
    graph: Found,
    preprocess: str | Path | None,
    labels: str | Path | None,
    output_name: str | None,
) -> Found:
    found: Found = {}
    if preprocess is not None and str(preprocess).lower().endswith(".toml"):
        found = _file_items(model, tensor, Path(preprocess), "--preprocess ", output_name)
    elif preprocess is not None:
        grey = graph.get("colour", Item(None, "")).value == "GRAY"
        found = preset(str(preprocess), 1 if grey else None)
    if labels is not None:
        found["labels"] = Item(read_labels(Path(labels)), f"file {labels}")
    return found


def _file_items(model: ModelView, tensor: Tensor, path: Path, kind: str, output_name: str | None) -> Found:
    inputs = [one.name for one in model.inputs]
    outputs = [one.name for one in model.outputs]
    return read_sidecar(path, f"{kind}{path.name}", tensor.name, inputs, outputs, output_name)


def _merge(tensor: Tensor, sources: Sequence[Found]) -> InputContract:
    items: Found = {}
    for field in fields(InputContract)[2:]:
        stated = [source[field.name] for source in sources if field.name in source]
        known = [item for item in stated if item.value is not None]
        items[field.name] = next(iter([*known, *stated]), Item(None, "nothing states it"))
    resize, size = items["resize"].value, items["size"].value
    if resize is not None and resize.mode == "short-side" and resize.short_side is None:
        side = None if size is None else round(min(size) * 256 / 224)
        items["resize"] = Item(replace(resize, short_side=side), items["resize"].origin)
    return InputContract(tensor.name, np.dtype(np.float32) if tensor.dtype is None else tensor.dtype, **items)


def _normalised_twice(contract: InputContract, graph: Found) -> dict[str, Any]:
    """What is stated to be subtracted and divided by although the graph does so itself; the origin tells of both."""
    told = {}
    for name in ("mean", "std"):
        stated, seen = getattr(contract, name), graph.get(name)
        if seen is not None and stated.value not in (None, seen.value):
            told[name] = Item(stated.value, f"{stated.origin}, on top of {seen.origin}")
    return told


def _check_shape(contract: InputContract, tensor: Tensor) -> None:
    """Hold what was stated against the shape that the file declares."""
    layout, size = contract.layout, contract.size
    if layout.value in (None, "tensor") or tensor.shape is None:
        return
    if len(tensor.shape) != 4:
        raise UsageError(f"layout {layout.value} ({layout.origin}) does not fit input {tensor.name!r}, which has shape "
                         f"{shape_text(tensor)}")  # fmt: skip
    axis = 1 if layout.value == "NCHW" else 3
    expected: list[tuple[str, Item[Any], int | None, int]] = []
    if contract.colour.value is not None:
        expected.append(("colour", contract.colour, CHANNELS[contract.colour.value], axis))
    for name, item in (("mean", contract.mean), ("std", contract.std)):
        if item.value is not None and len(item.value) > 1:
            expected.append((name, item, len(item.value), axis))
    if size.value is not None:
        sides = [place for place in (1, 2, 3) if place != axis]
        expected += [("size", size, side, place) for side, place in zip(size.value, sides, strict=True)]
    for name, item, wanted, place in expected:
        declared = tensor.shape[place]
        if isinstance(declared, int) and declared != wanted:
            raise UsageError(
                f"{name} {_text(item.value)} ({item.origin}) does not fit axis {place} of input {tensor.name!r}, which "
                f"has shape {shape_text(tensor)} in layout {layout.value} ({layout.origin})"
            )
    resize = contract.resize.value
    if resize is None or resize.short_side is None or size.value is None:
        return
    if resize.short_side < min(size.value):
        raise UsageError(
            f"short_side {resize.short_side} ({contract.resize.origin}) is smaller than the size {_text(size.value)} "
            f"({size.origin}) to be cropped from it"
        )


def _wrong_labels(item: Item[tuple[str, ...]], outputs: Sequence[Tensor]) -> str | None:
    """Why labels do not belong to a classifier's output; outputs of other kinds are not judged."""
    if item.value is None or len(outputs) != 1 or outputs[0].shape is None:
        return None
    classes = [dim for dim in outputs[0].shape[1:] if dim != 1]
    if len(classes) != 1 or not isinstance(classes[0], int) or classes[0] == len(item.value):
        return None
    return f"{len(item.value)} labels ({item.origin}) for the {classes[0]} classes of output {outputs[0].name!r}"


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return f"{len(value)}: {', '.join(value[:3])}{', ...' if len(value) > 3 else ''}"
    if isinstance(value, tuple):
        return ", ".join(f"{number:g}" for number in value)
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Resize):
        return {"mode": value.mode, "short_side": value.short_side, "fill": value.fill}
    return list(value) if isinstance(value, tuple) else value
