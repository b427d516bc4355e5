"""Readers of ground-truth and predicted boxes: Pascal VOC XML, COCO JSON, boxes.json, CSV, npz."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.npz import Member, members
from onnxplain.inputs.text import csv_rows, read_text
from onnxplain.metrics.boxes import Boxes, CocoNames, Row, collect

_XML_BYTES = 4 << 20
_COLUMNS = ("file", "label", "x1", "y1", "x2", "y2")
_SPELLINGS = {
    "image": "file",
    "filename": "file",
    "class": "label",
    "xmin": "x1",
    "ymin": "y1",
    "xmax": "x2",
    "ymax": "y2",
}


def read_boxes(path: str | Path, *, net: str | None = None, truth: Boxes | None = None) -> Boxes:
    """Read boxes, the form being told from the file.

    - folder or ``.xml``: Pascal VOC annotations (corners from 1, last pixel inside), predicted ones with ``score``;
    - ``.json``: COCO instances, COCO results (a list with ``image_id``), or a list of ``{"file", "box_xyxy", "label"}``
      or ``{"file", "objects": [{"name", "box_xyxy"}]}``; corners from 0, right and bottom edges;
    - ``.csv``: columns ``file,label,x1,y1,x2,y2`` and optionally ``score``; corners from 0, last pixel inside;
    - ``.npz``: arrays ``NET_class`` (N or N x k) and ``NET_box`` (N x 4 or N x k x 4), corners from 0, last pixel
      inside; images are called by their number.

    Parameters
    ----------
    path : str or Path
        File, or folder of Pascal VOC files.
    net : str, optional
        Whose boxes to take from an npz that holds several nets.
    truth : Boxes, optional
        Ground truth that COCO results refer to by image and category id.

    Raises
    ------
    UsageError
        Missing file, unknown form, missing column or key, impossible box, unknown or unnamed net.
    FailureError
        The file cannot be read or parsed, declares entities, or is beyond the size limit.
    """
    path = _existing(path)
    suffix = path.suffix.lower()
    if net is not None and suffix != ".npz":
        raise UsageError(f"{path}: only an .npz file holds several nets; leave out net {net!r}")
    if path.is_dir() or suffix == ".xml":
        return _read_voc(path)
    if suffix == ".json":
        return _read_json(path, truth)
    if suffix == ".csv":
        return _read_csv(path)
    if suffix == ".npz":
        return _read_npz_net(path, net)
    raise UsageError(f"{path}: boxes are read from .xml, .json, .csv, .npz or a folder of .xml files, not {suffix!r}")


def read_truth(path: str | Path) -> Boxes:
    """Read ground-truth boxes: as `read_boxes`, and from an npz ``truth_image``, ``truth_box`` and ``truth_class``.

    ``truth_class`` has one class per image, ``truth_image`` the image of every box.

    Raises
    ------
    UsageError, FailureError
        As `read_boxes`.
    """
    path = _existing(path)
    return _read_npz_truth(path) if path.suffix.lower() == ".npz" else read_boxes(path)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist; give a file of boxes or a folder of Pascal VOC .xml files")
    return path


def _read_voc(path: Path) -> Boxes:
    files = sorted(path.glob("*.xml")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path} holds no .xml file; give a folder of Pascal VOC annotations")
    images: list[str] = []
    rows: list[Row] = []
    for file in files:
        root = _parse_xml(file)
        images.append(root.findtext("filename") or file.stem)
        rows += [_voc_row(file, images[-1], element) for element in root.iterfind("object")]
    return collect(str(path), rows, closed=True, images=images)


def _parse_xml(file: Path) -> ElementTree.Element:
    text = read_text(file, _XML_BYTES)
    if "<!DOCTYPE" in text:  # entities, and with them their expansion, can only be declared there
        raise FailureError(f"{file} declares a document type, which is not read; remove its <!DOCTYPE ...>")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise FailureError(f"{file} is not well-formed XML: {error}") from error
    if root.tag != "annotation":
        raise UsageError(f"{file} is not a Pascal VOC annotation: its root is <{root.tag}>, not <annotation>")
    return root


def _voc_row(file: Path, image: str, element: ElementTree.Element) -> Row:
    label = element.findtext("name")
    if not label:
        raise UsageError(f"{file}: an <object> has no <name>; add its class")
    where = f"{file}, object {label!r}"
    corners = [_number(element.findtext(f"bndbox/{side}"), where) for side in ("xmin", "ymin", "xmax", "ymax")]
    return Row(image, [corner - 1 for corner in corners], label, _score(element.findtext("score"), where))


def _read_json(path: Path, truth: Boxes | None) -> Boxes:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise FailureError(f"{path} is not valid JSON: {error}") from error
    if isinstance(content, dict) and "annotations" in content:
        return _coco_instances(path, content)
    if isinstance(content, list) and all(isinstance(entry, dict) for entry in content):
        is_coco = any("image_id" in entry for entry in content)
        return _coco_results(path, content, truth) if is_coco else _read_list(path, content)
    raise UsageError(f"{path} is neither COCO (with 'annotations' or a list with 'image_id') nor a list with 'file'")


def _coco_instances(path: Path, content: Mapping[str, Any]) -> Boxes:
    names = CocoNames(_named(path, content, "images", "file_name"), _named(path, content, "categories", "name"))
    return _coco_boxes(path, _entries(path, content, "annotations"), names)


def _coco_results(path: Path, entries: Sequence[Mapping[str, Any]], truth: Boxes | None) -> Boxes:
    if truth is None or truth.coco is None:
        raise UsageError(f"{path} holds COCO results, whose ids mean nothing alone; give their COCO ground-truth file")
    return _coco_boxes(path, entries, truth.coco)


def _coco_boxes(path: Path, entries: Sequence[Mapping[str, Any]], names: CocoNames) -> Boxes:
    rows = []
    for entry in entries:
        image_id, category_id = _id(path, entry, "image_id"), _id(path, entry, "category_id")
        if image_id not in names.images or category_id not in names.categories:
            raise UsageError(f"{path}: image_id {image_id!r} or category_id {category_id!r} of a box is not listed")
        where = f"{path}, image_id {image_id!r}"
        left, top, width, height = _four(_take(path, entry, "bbox"), where)
        box = [left, top, left + width, top + height]
        rows.append(Row(names.images[image_id], box, names.categories[category_id], _score(entry.get("score"), where)))
    return collect(str(path), rows, closed=False, images=list(names.images.values()), coco=names)


def _named(path: Path, content: Mapping[str, Any], table: str, name: str) -> dict[int, str]:
    return {_id(path, entry, "id"): str(_take(path, entry, name)) for entry in _entries(path, content, table)}


def _read_list(path: Path, entries: Sequence[Mapping[str, Any]]) -> Boxes:
    images = [str(_take(path, entry, "file")) for entry in entries]
    rows = []
    for image, entry in zip(images, entries, strict=True):
        where = f"{path}, image {image!r}"
        for item in _entries(path, entry, "objects") if "objects" in entry else [entry]:
            label = next((str(item[key]) for key in ("label", "name", "voc_class") if key in item), None)
            if label is None:
                raise UsageError(f"{where}: a box has no 'label'; add its class")
            box = _four(_take(path, item, "box_xyxy"), where)
            rows.append(Row(image, box, label, _score(item.get("score"), where)))
    return collect(str(path), rows, closed=False, images=images)


def _read_csv(path: Path) -> Boxes:
    rows = []
    for where, cells in csv_rows(path, _SPELLINGS, _COLUMNS):
        box = [_number(cells[side], where) for side in _COLUMNS[2:]]
        rows.append(Row(cells["file"], box, cells["label"], _score(cells.get("score"), where)))
    return collect(str(path), rows, closed=True)


def _read_npz_net(path: Path, net: str | None) -> Boxes:
    arrays = members(path)
    nets = [name.removesuffix("_box") for name in arrays if name.endswith("_box") and name != "truth_box"]
    if net is None and len(nets) == 1:
        net = nets[0]
    if net not in nets:
        asked = "several nets" if net is None else f"no net {net!r}"
        raise UsageError(f"{path} holds {asked}; name one with --net: {', '.join(nets) or 'none has NET_box'}")
    classes, boxes = _member(path, arrays, f"{net}_class"), _member(path, arrays, f"{net}_box")
    images = len(classes)
    ranks = classes.shape[1] if classes.ndim == 2 else 1
    if boxes.shape not in ((images, 4), (images, ranks, 4)):
        raise UsageError(f"{path}: {net}_class {classes.shape} and {net}_box {boxes.shape} do not belong together")
    boxes = np.broadcast_to(boxes.reshape(images, -1, 4), (images, ranks, 4)).reshape(-1, 4)
    numbered = _numbered(path, np.repeat(np.arange(images), ranks), boxes, classes.reshape(-1), images)
    return dataclasses.replace(numbered, net=net)


def _read_npz_truth(path: Path) -> Boxes:
    arrays = members(path)
    image, boxes, classes = (_member(path, arrays, f"truth_{part}") for part in ("image", "box", "class"))
    if classes.ndim != 1 or image.ndim != 1 or boxes.shape != (len(image), 4):
        shapes = f"{image.shape}, {boxes.shape}, {classes.shape}"
        raise UsageError(f"{path}: truth_image, truth_box, truth_class have shapes {shapes}, not (B,), (B, 4), (N,)")
    if image.dtype.kind not in "iu" or (len(image) and not 0 <= image.min() <= image.max() < len(classes)):
        raise UsageError(f"{path}: truth_image does not number the {len(classes)} images of truth_class from 0")
    return _numbered(path, image, boxes, classes[image], len(classes))


def _numbered(path: Path, image: NDArray[Any], boxes: NDArray[Any], classes: NDArray[Any], images: int) -> Boxes:
    parts = zip(image.tolist(), boxes.tolist(), classes.tolist(), strict=True)
    rows = [Row(str(number), box, str(label)) for number, box, label in parts]
    return collect(str(path), rows, closed=True, images=[str(number) for number in range(images)])


def _member(path: Path, arrays: Mapping[str, Member], name: str) -> NDArray[Any]:
    if name not in arrays:
        raise UsageError(f"{path} has no array {name!r}; it has {', '.join(arrays)}")
    return arrays[name].read()


def _take(path: Path, entry: Mapping[str, Any], key: str) -> Any:
    if key not in entry:
        raise UsageError(f"{path}: an entry with {', '.join(entry) or 'no keys'} has no {key!r}; add it")
    return entry[key]


def _id(path: Path, entry: Mapping[str, Any], key: str) -> int:
    value = _take(path, entry, key)
    if not isinstance(value, int):
        raise UsageError(f"{path}: {key!r} is {value!r}, not a whole number")
    return value


def _entries(path: Path, content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    entries = _take(path, content, key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: {key!r} is not a list of objects")
    return entries


def _four(box: Any, where: str) -> list[float]:
    if not isinstance(box, list) or len(box) != 4:
        raise UsageError(f"{where}: {box!r} is not a box of four numbers")
    return [_number(corner, where) for corner in box]


def _score(value: Any, where: str) -> float | None:
    return None if value is None else _number(value, where)


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{where}: {value!r} is not a number") from None
