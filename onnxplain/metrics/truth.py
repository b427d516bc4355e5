"""Where the thing is that a map should show: boxes or masks of a data set, in the window that the model sees."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxplain.errors import OnnxplainError, UsageError
from onnxplain.inputs.datasets import Dataset
from onnxplain.inputs.loaders import Sample
from onnxplain.inputs.pictures import Geometry, picture_size, read_picture
from onnxplain.inputs.text import read_text
from onnxplain.metrics.box_files import read_truth
from onnxplain.metrics.boxes import Boxes, box_mask, image_key
from onnxplain.wording import counted

_MAP_BYTES = 16 << 20
_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp")
_HALF = 127
_MASK = "_mask"


@dataclass(frozen=True)
class Names:
    """Which of a model's classes the names in a data set or a file of boxes stand for.

    Attributes
    ----------
    table : mapping of str to set of int, or None
        A table of the user's.
    labels : sequence of str or None
        The model's own names by index.
    """

    table: Mapping[str, frozenset[int]] | None = None
    labels: Sequence[str] | None = None

    def indices(self, name: str) -> frozenset[int]:
        """The classes that a name stands for: by the table, else the label spelled like it, else the number it is."""
        if self.table is not None:
            return self.table.get(name, frozenset())
        if self.labels and name in self.labels:
            return frozenset({self.labels.index(name)})
        return frozenset({int(name)}) if name.isdecimal() else frozenset()

    def check(self, names: Collection[str], source: str) -> None:
        """Make sure that at least one name stands for something.

        Raises
        ------
        UsageError
            None does.
        """
        if names and not any(self.indices(name) for name in names):
            shown = ", ".join(sorted(names)[:3])
            raise UsageError(
                f"none of the classes of {source} ({shown}) is a class of the model; "
                "--class-map FILE says which classes they stand for, --labels FILE names the model's"
            )


def read_class_map(path: str | Path) -> dict[str, frozenset[int]]:
    """Read a table from class names to indices of the model's output.

    Parameters
    ----------
    path : str or Path
        A JSON object: name to index, to a list of indices, or to a list of ``[index, anything]``.

    Raises
    ------
    UsageError
        Missing file or another form.
    """
    path = Path(path)
    try:
        content = json.loads(read_text(path, _MAP_BYTES))
        return {str(name): frozenset(map(_index, _listed(entry))) for name, entry in content.items()}
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f'{path} is no class map, such as {{"cat": [281, 282], "dog": 151}}: {error}') from error


def _listed(entry: Any) -> list[Any]:
    return entry if isinstance(entry, list) else [entry]


def _index(entry: Any) -> int:
    index = entry[0] if isinstance(entry, list) else entry
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise ValueError(f"{index!r} is no index")
    return index


class Truth(Protocol):
    """What the maps of a data set should show."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides."""

    def check(self, dataset: Dataset) -> list[str]:
        """Hold the whole data set against it before any work; returns what is worth telling."""

    def names(self, identity: str) -> frozenset[str]:
        """Names of what is in a picture; empty where it does not say."""

    def mask(self, sample: Sample, shape: tuple[int, int], names: Names, index: int) -> NDArray[np.bool_] | None:
        """Where class ``index`` is in the window of a sample; None where nothing of it is seen or known."""


@dataclass(frozen=True)
class BoxTruth:
    """Boxes; only those of the explained class count.

    Attributes
    ----------
    boxes : Boxes
    """

    boxes: Boxes

    @classmethod
    def read(cls, path: str | Path) -> BoxTruth:
        """From a file or folder that :func:`onnxplain.metrics.box_files.read_truth` reads."""
        return cls(read_truth(path))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the boxes, their images and classes."""
        found = hashlib.sha256(repr((self.boxes.images, self.boxes.label.tolist(), self.boxes.closed)).encode())
        found.update(self.boxes.image.tobytes() + self.boxes.xyxy.tobytes())
        return found.hexdigest()

    def check(self, dataset: Dataset) -> list[str]:
        """Find every picture in the file, and every box in its picture.

        Raises
        ------
        UsageError
            No picture of the data set is known, two are called the same, or a box lies outside its picture.
        """
        unknown = [name for name in dataset.ids if self._rows(name) is None]
        if len(unknown) == len(dataset):
            raise UsageError(
                f"{self.boxes.source} knows none of the {len(dataset)} pictures, such as {unknown[0]!r}; "
                f"its names look like {', '.join(map(repr, self.boxes.images[:2]))}"
            )
        places = Counter(self._place(name) for name in dataset.ids if self._rows(name) is not None)
        twice = next((place for place, count in places.items() if count > 1), None)
        if twice is not None:
            raise UsageError(f"{self.boxes.source}: {self.boxes.images[twice or 0]!r} stands for several pictures")
        cut = [record.id for record in dataset if record.path is not None and self._cut(record.id, record.path)]
        said = _named(cut, "with a box that reaches beyond it, which is cut")
        return _without_truth(unknown, "not in " + self.boxes.source) + said

    def names(self, identity: str) -> frozenset[str]:
        """Classes of the boxes of a picture."""
        rows = self._rows(identity)
        return frozenset() if rows is None else frozenset(self.boxes.label[rows].tolist())

    def mask(self, sample: Sample, shape: tuple[int, int], names: Names, index: int) -> NDArray[np.bool_] | None:
        """The pixels of the boxes of a class."""
        rows = self._rows(sample.name)
        if rows is None:
            return None
        own = [index in names.indices(label) for label in self.boxes.label[rows].tolist()]
        edges = self.boxes.edges()[rows][np.array(own, dtype=bool)]
        if sample.geometry is not None:
            edges = sample.geometry.boxes(edges)
        seen = edges[(edges[:, :2] < shape[::-1]).all(axis=1) & (edges[:, 2:] > 0).all(axis=1)]
        return box_mask(seen, shape) if len(seen) else None

    def _place(self, identity: str) -> int | None:
        """Position of a picture, by its whole name or by the last part of it."""
        key = image_key(identity)
        return self.boxes.index.get(key, self.boxes.index.get(key.rpartition("/")[2]))

    def _rows(self, identity: str) -> slice | None:
        place = self._place(identity)
        return None if place is None else slice(int(self.boxes.starts[place]), int(self.boxes.starts[place + 1]))

    def _cut(self, identity: str, path: Path) -> bool:
        """Whether a box reaches more than a pixel beyond its picture; one wholly outside is refused."""
        rows = self._rows(identity)
        if rows is None or rows.start == rows.stop:
            return False
        try:
            height, width = picture_size(path)
        except OnnxplainError:  # it will be reported when its turn comes
            return False
        edges = self.boxes.edges()[rows]
        out = (edges[:, 0] >= width) | (edges[:, 1] >= height) | (edges[:, 2:] <= 0).any(axis=1)
        if out.any():
            box = self.boxes.xyxy[rows][out][0].tolist()
            raise UsageError(
                f"{self.boxes.source}: box {box} of {identity!r} lies outside the picture of {width} x {height} "
                "pixels; correct the box or its scale"
            )
        return bool((edges[:, :2] < -1).any() or (edges[:, 2:] > (width + 1, height + 1)).any())


@dataclass(frozen=True)
class MaskTruth:
    """A folder of masks, one picture per picture of the data set: bright where the thing is, whatever its class.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    @cached_property
    def files(self) -> dict[str, Path]:
        """Masks by the picture's key; ``NAME_mask`` serves for ``NAME``."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
                found[image_key(path.relative_to(self.folder).as_posix()).removesuffix(_MASK)] = path
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the names and contents of the masks."""
        found = hashlib.sha256()
        for key, path in self.files.items():
            found.update(key.encode("utf-8", "surrogateescape") + path.read_bytes())
        return found.hexdigest()

    def check(self, dataset: Dataset) -> list[str]:
        """Find a mask for every picture.

        Raises
        ------
        UsageError
            No folder, no mask for any picture, or a mask of another size than its picture.
        """
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder} is no folder; --masks DIR names one with a mask for every picture")
        without = [name for name in dataset.ids if self._file(name) is None]
        if len(without) == len(dataset):
            raise UsageError(
                f"{self.folder} has no mask ({', '.join(_SUFFIXES)}) for any of the {len(dataset)} pictures, such as "
                f"{without[0]!r}; a mask is called as its picture, or with _mask behind the name"
            )
        empty = [name for name in dataset.ids if not self._holds_anything(name)]
        return _without_truth(without, f"without a mask in {self.folder}") + _without_truth(empty, "with an empty mask")

    def names(self, identity: str) -> frozenset[str]:
        """Masks name no class."""
        return frozenset()

    def mask(self, sample: Sample, shape: tuple[int, int], names: Names, index: int) -> NDArray[np.bool_] | None:
        """The bright pixels.

        Raises
        ------
        UsageError
            The mask has another size than the picture.
        """
        path = self._file(sample.name)
        if path is None:
            return None
        bright = _bright(path)
        geometry = sample.geometry or Geometry.whole(shape)
        if bright.shape != geometry.original:
            (height, width), (rows, columns) = geometry.original, bright.shape
            raise UsageError(f"{path} has {columns} x {rows} pixels, its picture {width} x {height}; make them alike")
        seen = np.asarray(geometry.to_window(Image.fromarray(bright.astype(np.float32)), 0.0)) > 0.5
        return seen if seen.any() else None

    def _file(self, identity: str) -> Path | None:
        key = image_key(identity)
        return self.files.get(key, self.files.get(key.rpartition("/")[2]))

    def _holds_anything(self, identity: str) -> bool:
        path = self._file(identity)
        return path is None or bool(_bright(path).any())


def without_masks(dataset: Dataset) -> Dataset:
    """The data set without its files ``NAME_mask`` that stand beside a ``NAME``."""
    keys = {image_key(identity) for identity in dataset.ids}
    kept = [
        (identity, label)
        for identity, label in zip(dataset.ids, dataset.labels, strict=True)
        if not (key := image_key(identity)).endswith(_MASK) or key.removesuffix(_MASK) not in keys
    ]
    ids, labels = zip(*kept, strict=True)
    return replace(dataset, ids=ids, labels=labels)


def _bright(path: Path) -> NDArray[np.bool_]:
    return np.asarray(read_picture(path).rgb.max(axis=2) > _HALF)


def _without_truth(names: Sequence[str], why: str) -> list[str]:
    return [f"no truth for {said}" for said in _named(names, why)]


def _named(names: Sequence[str], what: str) -> list[str]:
    """How many pictures, and the first of them, as a note; none for none."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return [f"{counted(len(names), 'picture')} {what}: {shown}"] if names else []
