"""Pictures of drawn flowers where the colour of one part decides the class, each with the mask of that part.

A picture shows a potted flower indoors or outdoors among coloured clutter, under varied light, from a slightly varied
viewpoint. Everything but the class-deciding part is drawn independently of the class, in the same colours among others.

    python tools/flowers.py --variant single-6c --per-class 1000 --size 96 --seed 0 -o DIR
    python tools/flowers.py --layout npz --count 600 -o DIR
    python tools/flowers.py --layout numbered --count 8 --size 192 --seed 4 -o DIR

Picture number n of a seed has class n modulo the number of classes, and is the same however many others are drawn.
"""

import argparse
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from flower_scene import COLOURS, NEUTRAL, PARTS, draw_scene, mixed, part_colours
from numpy.typing import NDArray


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


def draw(variant: Variant, size: int, seed: int, number: int, label: int | None = None) -> Picture:
    """Draw one picture; another label than the number's own changes nothing but the parts that may decide."""
    scene_rng, class_rng = np.random.default_rng((seed, number)).spawn(2)
    label = number % len(variant.classes) if label is None else label
    deciding, colour = variant.decisions[label]
    colours = part_colours(scene_rng)
    for part, rng in zip(variant.parts, class_rng.spawn(len(variant.parts)), strict=True):
        colours[part] = mixed(rng, {colour: COLOURS[colour]} if part == deciding else NEUTRAL)
    pixels, canvas = draw_scene(scene_rng, colours, size)
    return Picture(number, label, pixels, canvas.visible(PARTS.index(deciding)))


def pictures(variant: Variant, count: int, size: int, seed: int, workers: int | None = None) -> Iterator[Picture]:
    """Draw pictures 0 to count - 1 in order, in parallel; the workers change nothing in them."""
    # Not forked: a copy of a process in which OpenCV runs threads waits for them forever.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count(), fresh, cv2.setNumThreads, (1,)) as pool:
        yield from pool.map(partial(draw, variant, size, seed), range(count), chunksize=16)


def model_ready(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """N x height x width x RGB in 0..255 to N x RGB x height x width in -1..1: mean 0.5 and deviation 0.5 of 0..1."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1))


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    if not cv2.imwrite(os.fspath(path), channels, (cv2.IMWRITE_PNG_COMPRESSION, 9)):
        raise OSError(f"cannot write {path}")


def write(drawn: Iterator[Picture], variant: Variant, layout: str, folder: Path) -> None:
    """Write pictures and masks as class folders, as numbered files, or as arrays.

    Folders are ``pictures/CLASS/NNNNN.png`` and ``masks/CLASS/NNNNN.png``, numbered files ``NN_CLASS.png`` and
    ``NN_CLASS_mask.png``. Of the arrays, ``flowers.npz`` holds ``input``, ready for the model, and ``labels``;
    ``masks.npz`` holds ``masks`` in the same order.
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
        name = variant.classes[picture.label]
        if layout == "folders":
            paths = (folder / kind / name / f"{picture.number:05d}.png" for kind in ("pictures", "masks"))
        else:
            paths = (folder / f"{picture.number:02d}_{name}{suffix}.png" for suffix in ("", "_mask"))
        for path, pixels in zip(paths, (picture.pixels, picture.mask.astype(np.uint8) * 255), strict=True):
            _write_png(path, pixels)


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
        choices=("folders", "numbered", "npz"),
        default="folders",
        help="class folders (the default), numbered files, or arrays",
    )
    arguments = parser.parse_args()
    variant = VARIANTS[arguments.variant]
    count = arguments.per_class * len(variant.classes) if arguments.count is None else arguments.count
    drawn = pictures(variant, count, arguments.size, arguments.seed, arguments.workers)
    write(drawn, variant, arguments.layout, arguments.output)


if __name__ == "__main__":
    main()
