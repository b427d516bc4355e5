"""Reader of an8Flower (Oramas et al. 2019): a folder of class{c}_img{n}_p{place}_r{turn}.jpg and one of masks.

The data set itself is its authors'; tools/flowers.py draws one of the same form and names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxplain.errors import UsageError
from onnxplain.inputs.datasets import Dataset

_NAME = re.compile(r"class(\d+)_img(\d+)_p(\d+)_r(\d+)\.(jpe?g|png|bmp)", re.IGNORECASE)


@dataclass(frozen=True)
class An8Flower:
    """Pictures in the order of class, plant, place and turn.

    Attributes
    ----------
    data : Dataset
        Files and labels; the classes are numbered in their order from 0, whatever number they begin with.
    plants : array of int, shape (pictures,)
        The plant (``img``) of each, within its class.
    """

    data: Dataset
    plants: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> Dataset:
        """The pictures at which ``chosen`` is true."""
        kept = np.flatnonzero(chosen).tolist()
        ids, labels = self.data.ids, self.data.labels
        return replace(self.data, ids=tuple(ids[i] for i in kept), labels=tuple(labels[i] for i in kept))


def read_an8flower(folder: Path) -> An8Flower:
    """Read the names of a folder, also below it.

    Raises
    ------
    UsageError
        No such folder, or no file of such a name in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give the one that holds class1_img1_p1_r1.jpg and so on")
    found = []
    for path in folder.rglob("*"):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            numbers = tuple(int(number) for number in match.groups()[:4])
            found.append((numbers, path.relative_to(folder).as_posix()))
    if not found:
        raise UsageError(f"{folder} holds no file called as class1_img1_p1_r1.jpg")
    found.sort()
    classes = sorted({numbers[0] for numbers, _ in found})
    return An8Flower(
        Dataset(
            folder,
            tuple(name for _, name in found),
            tuple(classes.index(numbers[0]) for numbers, _ in found),
            tuple(str(index) for index in range(len(classes))),
        ),
        np.array([numbers[1] for numbers, _ in found]),
    )


def masks_as_png(masks: Path, made: Path) -> Path:
    """The folder of masks, or a copy with JPEG files as PNG, bright above the middle: JPEG blurs the edges.

    Raises
    ------
    UsageError
        A mask cannot be read.
    """
    blurred = [path for path in masks.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")]
    if not blurred:
        return masks
    for path in blurred:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if grey is None:
            raise UsageError(f"{path} cannot be read as a picture")
        target = made / path.relative_to(masks).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), np.where(grey > 127, 255, 0).astype(np.uint8))
    return made
