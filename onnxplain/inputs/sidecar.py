"""Input contracts written by hand: MODEL.onnxplain.toml and the file of ``--preprocess``."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from onnxplain.errors import UsageError
from onnxplain.inputs.items import CHANNELS, FILL, RESIZE_MODES, Found, Item, Resize
from onnxplain.inputs.labels import label_names, read_labels
from onnxplain.inputs.text import read_text

_BYTES = 16 << 20
_SIDE = 1 << 16


def sidecar_path(model: Path) -> Path:
    """Where the contract of a model file stands: ``net.onnxplain.toml`` beside ``net.onnx``."""
    return model.with_suffix(".onnxplain.toml")


def read_sidecar(
    path: Path,
    origin: str,
    input_name: str,
    inputs: Collection[str],
    outputs: Collection[str],
    output: str | None,
) -> Found:
    """What a contract file says about an input and about the labels of an output.

    Parameters
    ----------
    path : Path
    origin : str
        What the items give as their origin.
    input_name : str
    inputs, outputs : collection of str
        The model's names; the file may speak of no others.
    output : str or None
        Whose labels are wanted; None takes the only ones there are.

    Raises
    ------
    UsageError
        Not TOML, an unknown key or name, or a value of the wrong kind.
    FailureError
        Too large or not text.
    """
    try:
        content = tomllib.loads(read_text(path, _BYTES))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    _known(path, "the file", content, ("input", "output"))
    tables = {kind: _tables(path, kind, content.get(kind, {}), names)
              for kind, names in (("input", inputs), ("output", outputs))}  # fmt: skip
    items = {name: _input_items(path, origin, name, table) for name, table in tables["input"].items()}
    labels = {name: _labels(path, origin, name, table) for name, table in tables["output"].items()}
    named = {name: item for name, item in labels.items() if item is not None and output in (None, name)}
    found = items.get(input_name, {})
    if len(named) > 1:
        found["labels"] = Item(None, f"{path.name} has labels for {', '.join(named)}: name the output")
    elif named:
        found["labels"] = next(iter(named.values()))
    return found


def _tables(path: Path, kind: str, tables: Any, names: Collection[str]) -> dict[str, Mapping[str, Any]]:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError(f"{path}: write [{kind}.NAME] with the name of an {kind}: {', '.join(names)}")
    for name in tables:
        if name not in names:
            raise UsageError(f"{path}: the model has no {kind} {name!r}; it has {', '.join(names)}")
    return tables


def _known(path: Path, where: str, table: Mapping[str, Any], keys: Collection[str]) -> None:
    for key in table:
        if key not in keys:
            raise UsageError(f"{path}: {where} has no key {key!r}; allowed are {', '.join(keys)}")


def _input_items(path: Path, origin: str, name: str, table: Mapping[str, Any]) -> Found:
    where = f"[input.{name}]"
    _known(path, where, table, tuple(_KEYS))
    values: dict[str, Any] = {}
    for key, value in table.items():
        expected, accept = _KEYS[key]
        values[key] = accept(value)
        if values[key] is None:
            raise UsageError(f"{path}: {key} of {where} takes {expected}, not {value!r}")
    _fitting_channels(path, where, values)
    resize = _resize(path, where, values)
    found = {key: Item(values[key], origin) for key in _PLAIN if key in values}
    return found | ({} if resize is None else {"resize": Item(resize, origin)})


def _fitting_channels(path: Path, where: str, values: Mapping[str, Any]) -> None:
    counts = {len(values[key]) for key in ("mean", "std") if key in values} - {1}
    if "colour" in values:
        counts.add(CHANNELS[values["colour"]])
    if len(counts) > 1:
        raise UsageError(f"{path}: mean and std of {where} take one number, or one per channel of its colour")


def _resize(path: Path, where: str, values: Mapping[str, Any]) -> Resize | None:
    mode = values.get("resize")
    for key, owner in (("short_side", "short-side"), ("crop", "short-side"), ("fill", "letterbox")):
        if key in values and mode != owner:
            raise UsageError(f'{path}: {key} of {where} goes with resize = "{owner}"')
    if mode == "short-side" and "short_side" not in values:
        raise UsageError(f'{path}: resize = "short-side" of {where} needs short_side, a length in pixels')
    return None if mode is None else Resize(mode, values.get("short_side"), values.get("fill", FILL))


def _labels(path: Path, origin: str, name: str, table: Mapping[str, Any]) -> Item[tuple[str, ...]] | None:
    where = f"[output.{name}]"
    _known(path, where, table, ("labels",))
    if "labels" not in table:
        return None
    labels = table["labels"]
    if not isinstance(labels, str):
        try:
            return Item(label_names(labels), origin)
        except ValueError as error:
            raise UsageError(f"{path}: labels of {where} takes a list of names or a file name: {error}") from error
    file = path.parent / labels
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise UsageError(f"{path}: labels of {where} names {labels!r}, which is outside the folder of {path.name}")
    return Item(read_labels(file), f"{labels}, named in {origin}")


def _choice(*names: str) -> tuple[str, Callable[[Any], str | None]]:
    expected = " or ".join(f'"{name}"' for name in names)
    return expected, lambda value: value if isinstance(value, str) and value in names else None


def _number(value: Any) -> float | None:
    sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if sound else None


def _numbers(value: Any) -> tuple[float, ...] | None:
    numbers = tuple(_number(one) for one in (value if isinstance(value, list) else [value]))
    return numbers if len(numbers) in (1, 3) and None not in numbers else None  # type: ignore[return-value]


def _positive(value: Any) -> tuple[float, ...] | None:
    numbers = _numbers(value)
    return numbers if numbers is not None and min(numbers) > 0 else None


def _length(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _SIDE else None


def _size(value: Any) -> tuple[int, int] | None:
    sides = [_length(side) for side in value] if isinstance(value, list) else []
    return (sides[0], sides[1]) if len(sides) == 2 and sides[0] and sides[1] else None


def _range(value: Any) -> tuple[float, float] | None:
    ends = [_number(end) for end in value] if isinstance(value, list) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] >= ends[1]:
        return None
    return ends[0], ends[1]


def _fill(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= 255 else None


_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "layout": _choice("NCHW", "NHWC", "tensor"),
    "colour": _choice(*CHANNELS),
    "size": ("[height, width] in pixels", _size),
    "resize": _choice(*RESIZE_MODES),
    "short_side": ("a length in pixels", _length),
    "crop": _choice("center"),
    "fill": ("a grey level from 0 to 255", _fill),
    "range": ("[lowest, highest]", _range),
    "mean": ("one number or three", _numbers),
    "std": ("one positive number or three", _positive),
}
_PLAIN = ("layout", "colour", "size", "range", "mean", "std")
