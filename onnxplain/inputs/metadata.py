"""What the metadata in a model file say about its input: the ONNX image keys and those of the Ultralytics exporter."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from onnxplain.inputs.items import Found, Item, Resize
from onnxplain.inputs.labels import label_names

_LITERAL_CHARACTERS = 1 << 20
_PIXEL_FORMATS = {"gray8": "GRAY", "rgb8": "RGB", "bgr8": "BGR"}
_RANGES = {
    "nominalrange_0_255": (0.0, 255.0),
    "normalized_0_1": (0.0, 1.0),
    "normalized_1_1": (-1.0, 1.0),
    "nominalrange_16_235": (16.0, 235.0),
}


def metadata_items(metadata: Mapping[str, str]) -> Found:
    """The items that a file's metadata_props settle.

    Parameters
    ----------
    metadata : mapping of str to str
        Keys are read without regard to case, as the ONNX standard has it.
    """
    properties = {key.lower(): value.strip() for key, value in metadata.items()}
    return _exporter_items(properties) | _image_items(properties)


def _image_items(properties: Mapping[str, str]) -> Found:
    """https://onnx.ai/onnx/repo-docs/MetadataProps.html; values without regard to case, too."""
    found: Found = {}
    pixel_format = properties.get("image.bitmappixelformat")
    if pixel_format is not None:
        reason = f"metadata Image.BitmapPixelFormat={pixel_format}"
        colour = _PIXEL_FORMATS.get(pixel_format.lower())
        found["colour"] = Item(colour, reason if colour else f"{reason} is a format that pictures are not brought to")
    nominal = properties.get("image.nominalpixelrange")
    if nominal is not None:
        reason = f"metadata Image.NominalPixelRange={nominal}"
        limits = _RANGES.get(nominal.lower())
        found["range"] = Item(limits, reason if limits else f"{reason} is not a range of the standard")
        if limits is not None:
            found |= {"mean": Item((0.0,), reason), "std": Item((1.0,), reason)}
    if properties.get("image.colorspacegamma", "srgb").lower() == "linear":
        found["range"] = Item(None, "metadata Image.ColorSpaceGamma=Linear, a scale that pictures are not brought to")
    return found


def _exporter_items(properties: Mapping[str, str]) -> Found:
    found: Found = {}
    if "imgsz" in properties:
        found["size"] = _literal(properties, "imgsz", _size)
    if "names" in properties:
        found["labels"] = _literal(properties, "names", label_names)
    if properties.get("author", "").lower() != "ultralytics":
        return found
    origin = f"metadata author={properties['author']}, whose exporter is documented so"
    values: dict[str, Any] = {"colour": "RGB", "range": (0.0, 1.0), "mean": (0.0,), "std": (1.0,)}
    if properties.get("task") != "classify":
        values["resize"] = Resize("letterbox")
    elif (size := found.get("size")) is not None and size.value is not None:
        values["resize"] = Resize("short-side", min(size.value))
    return found | {key: Item(value, origin) for key, value in values.items()}


def _literal(properties: Mapping[str, str], key: str, accept: Any) -> Item[Any]:
    """A Python literal, as the exporter writes them; nothing in it is executed."""
    text = properties[key]
    if len(text) > _LITERAL_CHARACTERS:
        return Item(None, f"metadata {key} is longer than {_LITERAL_CHARACTERS} characters")
    try:
        return Item(accept(ast.literal_eval(text)), f"metadata {key}")
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return Item(None, f"metadata {key} cannot be read")


def _size(value: Any) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise ValueError(value)
    return height, width
