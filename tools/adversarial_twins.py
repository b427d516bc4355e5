"""Fixations of pictures and of their adversarial twins, which look alike and belong to another class for the model.

    python tools/adversarial_twins.py [--levels 8] [--picture docs/images/fixations-twin.png]

On the bundled flowers: a twin differs from its picture by at most LEVELS of 255 grey levels and is found by the
package's own gradient, 40 steps up the difference of the second and the first class. Noise of the same size and of
random sign shows what does not come from the change of class. Printed are, for every twin that the model takes for the
second class, the correlation of its density map with the picture's, that of the noisy picture's, and how far the centre
of the fixations moved in pixels; the first twin is drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from timing import table

import onnxplain
from onnxplain.inputs.contract import InputContract, discover
from onnxplain.inputs.pictures import prepare, read_picture
from onnxplain.render.figure import map_figure
from onnxplain.render.fixations import points_over
from onnxplain.render.heatmap import overlay
from onnxplain.resources import resource

STEPS = 40
STEP = 0.25
"""Length of a step, as a share of the distance that a twin may have."""

Floats = NDArray[np.float32]


class Twin(NamedTuple):
    """Two pictures as the model takes them, and the classes that it should take them for."""

    picture: Floats
    twin: Floats
    first: int
    second: int


def twin(model: onnxplain.Model, x: Floats, levels: float = 8) -> Twin:
    """A picture within ``levels`` of 255 of x (of range -1..1) that leads towards the model's second class."""
    distance = 2 * levels / 255
    first, second = (int(place) for place in np.argsort(-model.run({"input": x})["logits"][0])[:2])
    low, high = np.maximum(x - distance, -1), np.minimum(x + distance, 1)
    z = x
    for _ in range(STEPS):
        gradient = onnxplain.explain(model, z, "gradient", target=f"{second}-{first}").relevance["input"]
        z = np.clip(z + STEP * distance * np.sign(gradient), low, high).astype(np.float32)
    return Twin(x, z, first, second)


def noisy(x: Floats, levels: float = 8, seed: int = 0) -> Floats:
    """x with noise of random sign that is as large as a twin's difference."""
    signs = np.sign(np.random.default_rng(seed).standard_normal(x.shape))
    return np.clip(x + 2 * levels / 255 * signs, -1, 1).astype(np.float32)


def likeness(a: onnxplain.Explanation, b: onnxplain.Explanation) -> float:
    """The correlation of two density maps."""
    return float(np.corrcoef(a.map().ravel(), b.map().ravel())[0, 1])


def shift(a: onnxplain.Explanation, b: onnxplain.Explanation) -> float:
    """The distance of the centres of the fixations, in pixels."""
    centres = [np.average(e.points["input"][:, 2:], axis=0, weights=e.point_weights["input"]) for e in (a, b)]
    return float(np.linalg.norm(centres[0] - centres[1]))


def shown(e: onnxplain.Explanation, x: Floats, labels: list[str], title: str) -> Iterator[tuple[str, np.ndarray]]:
    """The picture with its points, and its density."""
    rgb = np.rint((x[0].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    large = np.repeat(np.repeat(rgb, 4, 0), 4, 1)
    y, x_, weight = e.points["input"][:, 2] * 4 + 2, e.points["input"][:, 3] * 4 + 2, e.point_weights["input"]
    [chosen] = e.target
    assert chosen.index is not None
    yield title, large
    yield f"fixations for {labels[chosen.index]}", points_over(large, y, x_, weight)
    yield "density", overlay(e.map()[0], rgb)


def main() -> None:
    """Print the table and draw one twin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", type=float, default=8, help="most difference of a pixel, of 255 grey levels")
    parser.add_argument("--picture", type=Path, help="PNG for the first twin")
    given = parser.parse_args()
    model = onnxplain.load(resource("models/flowers.onnx"))
    contract: InputContract = discover(model, "input")
    labels = list(contract.labels.value or ())
    rows: list[list[str]] = []
    panels: list[tuple[str, np.ndarray]] = []
    pictures = [path for path in sorted(resource("models/flowers").glob("*.png")) if "mask" not in path.stem]
    for path in pictures:
        found = twin(model, prepare(read_picture(path), contract)[0], given.levels)
        clean, attacked, noise = (
            onnxplain.explain(model, x, "fixations")
            for x in (found.picture, found.twin, noisy(found.picture, given.levels))
        )
        if attacked.target[0].index != found.second:
            continue
        names = f"{labels[found.first]} to {labels[found.second]}"
        rows.append([path.stem, names, f"{likeness(clean, attacked):.2f}", f"{likeness(clean, noise):.2f}",
                     f"{shift(clean, attacked):.0f}", f"{shift(clean, noise):.0f}"])  # fmt: skip
        if not panels:
            for e, x, title in ((clean, found.picture, "picture"), (attacked, found.twin, "adversarial twin")):
                panels += shown(e, x, labels, title)
    print(table(["picture", "class", "likeness of the twin", "of noise", "shift of the twin", "of noise"], rows))
    if given.picture and panels:
        map_figure(panels, 3).savefig(given.picture, dpi=80)


if __name__ == "__main__":
    main()
