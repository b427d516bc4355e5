"""Boxes of a set of images in one form, their overlap, and the mask they cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxplain.errors import UsageError

Pixels = Literal["inclusive", "exclusive"]

_LAST_PIXEL = np.array([0.0, 0.0, 1.0, 1.0])
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


class Row(NamedTuple):
    """One box as a source gives it: image name, corners (left, top, right, bottom), class, score."""

    image: str
    box: Sequence[float]
    label: str
    score: float | None = None


@dataclass(frozen=True)
class CocoNames:
    """What the numbers of a COCO file stand for: image ids to file names, category ids to names."""

    images: Mapping[int, str]
    categories: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Ground-truth or predicted boxes of a set of images.

    Attributes
    ----------
    source : str
        Where they were read, for messages.
    images : tuple of str
        Image names as the source gives them; an image may have no box.
    image : int64 array, shape (B,)
        Index into `images` of every box, ascending. Boxes of one image keep the source's order or, where it gives
        scores, the best comes first: a predicted box's place is its rank.
    xyxy : float64 array, shape (B, 4)
        Left, top, right, bottom in pixels, the first pixel being 0.
    label : str array, shape (B,)
        Class name, or the number that stands for it in the source.
    closed : bool
        Whether right and bottom name the last pixel *inside* the box (Pascal VOC, ILSVRC) or the edge behind it (COCO).
    coco : CocoNames or None
        Ids of a COCO ground-truth file, which COCO result files refer to.
    net : str or None
        Whose boxes they are, where the source names it.
    """

    source: str
    images: tuple[str, ...]
    image: NDArray[np.int64]
    xyxy: NDArray[np.float64]
    label: NDArray[np.str_]
    closed: bool
    coco: CocoNames | None = None
    net: str | None = None

    def edges(self, pixels: Pixels = "inclusive") -> NDArray[np.float64]:
        """Corners with right and bottom as the edge behind the last pixel.

        Parameters
        ----------
        pixels : {"inclusive", "exclusive"}
            "inclusive" counts the last pixel that a closed source names (+1 on right and bottom); "exclusive" takes
            every corner as an edge as it stands. Sources with edges (COCO) are the same either way.

        Returns
        -------
        float64 array, shape (B, 4)
        """
        return self.xyxy + _LAST_PIXEL if self.closed and pixels == "inclusive" else self.xyxy

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Boxes of image k are rows ``starts[k]:starts[k + 1]``; shape (images + 1,)."""
        return np.searchsorted(self.image, np.arange(len(self.images) + 1)).astype(np.int64)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position in `images` by `image_key`.

        Raises
        ------
        UsageError
            Two images differ in their suffix only.
        """
        positions: dict[str, int] = {}
        for position, name in enumerate(self.images):
            first = positions.setdefault(image_key(name), position)
            if first != position:
                raise UsageError(f"{self.source}: images {self.images[first]!r} and {name!r} cannot be told apart")
        return positions

    def of(self, name: str) -> slice:
        """Rows of the image called `name` (with or without the picture suffix); empty where it has no box.

        Raises
        ------
        UsageError
            The source does not know the image.
        """
        position = self.index.get(image_key(name))
        if position is None:
            raise UsageError(f"{self.source} has no image {name!r}; its names look like {self.images[:2]}")
        return slice(int(self.starts[position]), int(self.starts[position + 1]))


def image_key(name: str) -> str:
    """Name under which an image is found in every source: forward slashes, no picture suffix."""
    path = name.replace("\\", "/").removeprefix("./")
    return path[: path.rindex(".")] if path.lower().endswith(_PICTURE_SUFFIXES) else path


def collect(
    source: str,
    rows: Sequence[Row],
    *,
    closed: bool,
    images: Sequence[str] | None = None,
    coco: CocoNames | None = None,
) -> Boxes:
    """Check rows and bring them into the form of `Boxes`.

    Parameters
    ----------
    source : str
        Where the rows come from.
    rows : sequence of Row
        The boxes; scores rank the boxes of an image where every row has one.
    closed : bool
        See `Boxes`.
    images : sequence of str, optional
        All images in order, also those without a box; by default the rows' images in order of first appearance.
    coco : CocoNames, optional
        See `Boxes`.

    Raises
    ------
    UsageError
        A corner is not finite, a box has its corners reversed, or only some rows have a score.
    """
    names = tuple(dict.fromkeys(row.image for row in rows)) if images is None else tuple(dict.fromkeys(images))
    position = {name: k for k, name in enumerate(names)}
    image = np.array([position[row.image] for row in rows], dtype=np.int64)
    xyxy = np.array([row.box for row in rows], dtype=np.float64).reshape(-1, 4)
    bad = np.flatnonzero(~np.isfinite(xyxy).all(axis=1) | (xyxy[:, 2:] < xyxy[:, :2]).any(axis=1))
    if bad.size:
        image_name, box = rows[bad[0]].image, list(rows[bad[0]].box)
        raise UsageError(f"{source}: box {box} of {image_name!r} is not left, top, right, bottom; correct it")
    order = np.lexsort((_ranks(source, rows), image))
    label = np.array([row.label for row in rows], dtype=np.str_)
    return Boxes(source, names, image[order], xyxy[order], label[order], closed, coco)


def _ranks(source: str, rows: Sequence[Row]) -> NDArray[np.float64]:
    scores = [row.score for row in rows if row.score is not None]
    if not scores:
        return np.zeros(len(rows))
    if len(scores) < len(rows):
        raise UsageError(f"{source}: {len(scores)} of {len(rows)} boxes have a score; give every box one or none")
    return -np.array(scores, dtype=np.float64)


def iou(first: ArrayLike, second: ArrayLike, pixels: Pixels = "exclusive") -> NDArray[np.float64]:
    """Intersection over union of boxes, 0 where both are empty.

    Parameters
    ----------
    first, second : array_like, shape (..., 4)
        Left, top, right, bottom; leading axes broadcast.
    pixels : {"inclusive", "exclusive"}
        Whether right and bottom are the last pixel inside (+1 in every length) or the edge behind it.

    Returns
    -------
    float64 array, shape (...)
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    one = 1.0 if pixels == "inclusive" else 0.0
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + one
    shared = np.maximum(sides, 0).prod(axis=-1)
    union = _area(a, one) + _area(b, one) - shared
    overlap: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
    return overlap


def _area(box: NDArray[np.float64], one: float) -> NDArray[np.float64]:
    area: NDArray[np.float64] = (box[..., 2:] - box[..., :2] + one).prod(axis=-1)
    return area


def box_mask(edges: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels covered by any of the boxes.

    A pixel belongs to a box that holds its centre; a box thinner than that keeps one pixel. What lies outside the
    picture is cut off.

    Parameters
    ----------
    edges : array_like, shape (k, 4) or (4,)
        Left, top, right, bottom in pixels of the mask, right and bottom as the edge behind the last pixel.
    shape : (int, int)
        Height and width.

    Returns
    -------
    bool array, shape (height, width)

    Raises
    ------
    UsageError
        No box, or a box wholly outside the picture.
    """
    height, width = shape
    boxes = np.asarray(edges, dtype=np.float64).reshape(-1, 4)
    if not len(boxes):
        raise UsageError("there is no box to compare the map with; leave this image out")
    mask = np.zeros(shape, dtype=np.bool_)
    for left, top, right, bottom in boxes:
        if not (left < width and top < height and right > 0 and bottom > 0):
            box = [float(edge) for edge in (left, top, right, bottom)]
            raise UsageError(f"box {box} lies outside the picture of {width} x {height} pixels; correct box or scale")
        mask[_covered(top, bottom, height), _covered(left, right, width)] = True
    return mask


def _covered(low: float, high: float, size: int) -> slice:
    low, high = max(low, 0.0), min(high, float(size))
    first, last = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    return slice(first, last) if first < last else slice(int((low + high) / 2), int((low + high) / 2) + 1)
