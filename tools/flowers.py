"""Pictures of drawn flowers where the colour of one part decides the class, each with the mask of that part.

A picture shows a potted flower indoors or outdoors among coloured clutter, under varied light, from a slightly varied
viewpoint. Everything but the class-deciding part is drawn independently of the class, in the same colours among others.

    python tools/flowers.py --variant single-6c --per-class 1000 --size 96 --seed 0 -o DIR
    python tools/flowers.py --layout npz --count 600 -o DIR
    python tools/flowers.py --layout numbered --count 8 --size 192 --seed 4 -o DIR
    python tools/flowers.py --layout an8flower --variant double-12c --per-class 1000 -o DIR

Picture number n of a seed has class n modulo the number of classes, and is the same however many others are drawn.

In the layout of an8Flower (Oramas et al. 2019) 40 plants per class are seen from 25 viewpoints each, five places and
five turns of the camera: the files class{c}_img{n}_p{1..5}_r{1..5}.jpg, 1000 per class, and masks as PNG. Of fewer
pictures per class, every plant has as many; from where it is seen, the seed says.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from flower_scene import COLOURS, NEUTRAL, PARTS, STRAIGHT, draw_scene, mixed, part_colours
from numpy.typing import NDArray

PLANTS = 40
"""Per class, in the layout of an8Flower."""


class View(NamedTuple):
    """From where a plant is seen: the number of the camera's place and of its turn, 3 of 5 being straight ahead."""

    place: int
    turn: int

    @property
    def camera(self) -> tuple[float, float]:
        """Shift in edges of the picture, turn in radians."""
        return (self.place - 3) * 0.04, (self.turn - 3) * 0.05


VIEWS = tuple(View(place, turn) for place, turn in product(range(1, 6), repeat=2))


@dataclass(frozen=True)
class Variant:
    """A data set: its classes are the colours of one part, or of each of several parts that may decide.

    Where several parts may decide, the one that does not has a neutral colour.
    """

    name: str
    parts: tuple[str, ...]

    @property
    def decisions(self) -> tuple[tuple[str, str], ...]:
        """Deciding part and its colour, by class."""
        return tuple(product(self.parts, COLOURS))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in alphabetical order as in a folder of class folders."""
        return tuple(colour if len(self.parts) == 1 else f"{part}-{colour}" for part, colour in self.decisions)


VARIANTS = {
    variant.name: variant for variant in (Variant("single-6c", ("petals",)), Variant("double-12c", ("petals", "pot")))
}


@dataclass(frozen=True)
class Picture:
    """A picture (height x width x RGB, uint8), its class, and where the class-deciding part is visible."""

    number: int
    label: int
    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    view: View | None = None


def draw(
    variant: Variant, size: int, seed: int, number: int, label: int | None = None, turn: int | None = None
) -> Picture:
    """Draw one picture; another label than the number's own changes nothing but the parts that may decide.

    ``turn`` says which of the plant's viewpoints it is seen from, in an order of its own; without, straight ahead.
    """
    scene_rng, class_rng, view_rng = np.random.default_rng((seed, number)).spawn(3)
    view = None if turn is None else VIEWS[view_rng.permutation(len(VIEWS))[turn]]
    label = number % len(variant.classes) if label is None else label
    deciding, colour = variant.decisions[label]
    colours = part_colours(scene_rng)
    for part, rng in zip(variant.parts, class_rng.spawn(len(variant.parts)), strict=True):
        colours[part] = mixed(rng, {colour: COLOURS[colour]} if part == deciding else NEUTRAL)
    pixels, canvas = draw_scene(scene_rng, colours, size, STRAIGHT if view is None else view.camera)
    return Picture(number, label, pixels, canvas.visible(PARTS.index(deciding)), view)


def pictures(variant: Variant, count: int, size: int, seed: int, workers: int | None = None) -> Iterator[Picture]:
    """Draw pictures 0 to count - 1 in order, in parallel; the workers change nothing in them."""
    yield from _drawn(partial(draw, variant, size, seed), range(count), [None] * count, workers)


def viewed(variant: Variant, per_class: int, size: int, seed: int, workers: int | None = None) -> Iterator[Picture]:
    """Draw the plants of an8Flower, each from as many viewpoints as ``per_class`` asks for; all plants once, again, ...

    Raises
    ------
    ValueError
        There are not so many viewpoints.
    """
    plants = PLANTS * len(variant.classes)
    if not 0 < per_class <= PLANTS * len(VIEWS):
        raise ValueError(f"{PLANTS} plants from {len(VIEWS)} viewpoints are at most {PLANTS * len(VIEWS)} per class")
    numbers = range(per_class * len(variant.classes))
    turns = [number // plants for number in numbers]
    yield from _drawn(partial(draw, variant, size, seed), [number % plants for number in numbers], turns, workers)


def _drawn(
    one: Callable[..., Picture], numbers: Sequence[int], turns: Sequence[int | None], workers: int | None
) -> Iterator[Picture]:
    # Not forked: a copy of a process in which OpenCV runs threads waits for them forever.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count(), fresh, cv2.setNumThreads, (1,)) as pool:
        yield from pool.map(one, numbers, [None] * len(numbers), turns, chunksize=16)


def model_ready(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """N x height x width x RGB in 0..255 to N x RGB x height x width in -1..1: mean 0.5 and deviation 0.5 of 0..1."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1))


_FULL_COLOUR = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_COMPRESSION = {
    ".png": (cv2.IMWRITE_PNG_COMPRESSION, 9),
    ".jpg": (cv2.IMWRITE_JPEG_QUALITY, 95, *_FULL_COLOUR),
}


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    if not cv2.imwrite(os.fspath(path), channels, _COMPRESSION[path.suffix]):
        raise OSError(f"cannot write {path}")


def _paths(picture: Picture, variant: Variant, layout: str, folder: Path) -> tuple[Path, Path]:
    """Where a picture and its mask go."""
    name = variant.classes[picture.label]
    match layout:
        case "folders":
            file = f"{name}/{picture.number:05d}.png"
            return folder / "pictures" / file, folder / "masks" / file
        case "numbered":
            file = f"{picture.number:02d}_{name}"
            return folder / f"{file}.png", folder / f"{file}_mask.png"
    assert picture.view is not None
    plant, (place, turn) = picture.number // len(variant.classes) + 1, picture.view
    file, data = f"class{picture.label + 1}_img{plant}_p{place}_r{turn}", f"an8Flower_{variant.name.replace('-', '_')}"
    return folder / data / f"{file}.jpg", folder / f"{data}_MASK" / f"{file}.png"


def write(drawn: Iterator[Picture], variant: Variant, layout: str, folder: Path) -> None:
    """Write pictures and masks as class folders, as numbered files, as an8Flower, or as arrays.

    Folders are ``pictures/CLASS/NNNNN.png`` and ``masks/CLASS/NNNNN.png``, numbered files ``NN_CLASS.png`` and
    ``NN_CLASS_mask.png``. As an8Flower they stand in ``an8Flower_VARIANT`` and ``an8Flower_VARIANT_MASK``. Of the
    arrays, ``flowers.npz`` holds ``input``, ready for the model, and ``labels``; ``masks.npz`` holds ``masks`` in the
    same order.
    """
    if layout == "npz":
        folder.mkdir(parents=True, exist_ok=True)
        every = list(drawn)
        tensor = model_ready(np.stack([picture.pixels for picture in every]))
        labels = np.array([variant.classes[picture.label] for picture in every])
        np.savez_compressed(folder / "flowers.npz", input=tensor, labels=labels)
        np.savez_compressed(folder / "masks.npz", masks=np.stack([picture.mask for picture in every]))
        return
    for picture in drawn:
        paths = _paths(picture, variant, layout, folder)
        for path, pixels in zip(paths, (picture.pixels, picture.mask.astype(np.uint8) * 255), strict=True):
            _write(path, pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--variant", choices=VARIANTS, default="single-6c")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--per-class", type=int, default=1000, help="pictures per class (default: %(default)s)")
    amount.add_argument("--count", type=int, help="pictures in all, the classes in turn")
    parser.add_argument("--size", type=int, default=96, help="edge in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument(
        "--layout",
        choices=("folders", "numbered", "an8flower", "npz"),
        default="folders",
        help="class folders (the default), numbered files, files named as in an8Flower, or arrays",
    )
    arguments = parser.parse_args()
    variant = VARIANTS[arguments.variant]
    if arguments.layout == "an8flower":
        if arguments.count is not None:
            parser.error("an8flower takes --per-class, not --count")
        plants = viewed(variant, arguments.per_class, arguments.size, arguments.seed, arguments.workers)
        write(plants, variant, arguments.layout, arguments.output)
        return
    count = arguments.per_class * len(variant.classes) if arguments.count is None else arguments.count
    drawn = pictures(variant, count, arguments.size, arguments.seed, arguments.workers)
    write(drawn, variant, arguments.layout, arguments.output)


if __name__ == "__main__":
    main()
