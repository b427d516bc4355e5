"""Pictures of fixations: the points over the picture, and the path through the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxplain.explanation import PathStep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINT = (213, 28, 41)
_EDGE = (255, 255, 255)
_BOX = (255, 196, 0)
_BAR = "#b2182b"
_GRIDS = 8
"""Layers whose places are drawn."""
_TALL = 6.0
"""Inches of bars beside which the places stand in two columns instead of four."""
_FINE = 40
"""Cells per side from which on places are dots: a cell would be too small to see."""


def points_over(
    picture: np.ndarray, y: np.ndarray, x: np.ndarray, weight: np.ndarray, box: Sequence[int] | None = None
) -> np.ndarray:
    """Draw points on a picture, larger where more ways end.

    Parameters
    ----------
    picture : numpy.ndarray
        uint8, H x W x 3, RGB.
    y, x, weight : numpy.ndarray
        Pixels, and how many ways end at each; points at one pixel are one.
    box : sequence of int, optional
        Left, top, right, bottom of a box to draw, the last pixels included.

    Returns
    -------
    numpy.ndarray
        uint8, H x W x 3, RGB.
    """
    import cv2

    drawn = np.array(picture, np.uint8, order="C")
    unit = max(1.0, min(drawn.shape[:2]) / 150)
    if box is not None:
        left, top, right, bottom = (int(edge) for edge in box)
        cv2.rectangle(drawn, (left, top), (right, bottom), _BOX, max(1, round(unit * 0.7)))
    pixels, place = np.unique(np.stack([y, x]), axis=1, return_inverse=True)
    total = np.bincount(place.reshape(-1), weight)
    radius = np.rint(unit * (1 + np.sqrt(total / max(total.max(initial=1), 1)))).astype(int)
    for row, column, size in zip(*pixels, radius, strict=True):
        centre = (int(column), int(row))
        cv2.circle(drawn, centre, int(size) + 1, _EDGE, -1, cv2.LINE_AA)
        cv2.circle(drawn, centre, int(size), _POINT, -1, cv2.LINE_AA)
    return drawn


def path_figure(path: Sequence[PathStep], sample: int = 0) -> Figure:
    """How many neurons the fixations lead through at each layer, and where these lie.

    Layers that hand every point on unchanged are left out. Of the layers with places, some from the target to the input
    are drawn: dark where many channels of one place are on the path.

    Parameters
    ----------
    path : sequence of PathStep
        Of an explanation.
    sample : int
        Which sample of the batch.

    Raises
    ------
    ValueError
        An empty path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = _moving([step.of_sample(sample) for step in path])
    if not steps:
        raise ValueError("a path needs at least one layer")
    grids = [step for step in steps if len(step.shape) == 4 and min(step.shape[2:]) > 1]
    grids = [grids[place] for place in np.unique(np.linspace(0, len(grids) - 1, _GRIDS).astype(int))] if grids else []
    tall = min(0.13 * len(steps) + 1, 14)
    columns = min(2 if tall > _TALL else 4, len(grids))
    rows = math.ceil(len(grids) / max(columns, 1))
    widths = [5.5, 2.2 * columns] if grids else [5.5]
    figure = Figure(figsize=(sum(widths), max(3.0, 2.5 * rows, tall)), layout="constrained")
    FigureCanvasAgg(figure)
    left, *right = figure.subfigures(1, len(widths), squeeze=False, width_ratios=widths)[0]
    _bars(left.subplots(), steps)
    if grids:
        axes = right[0].subplots(rows, columns, squeeze=False)
        for panel, step in zip(axes.flat, grids, strict=False):
            _grid(panel, step)
        for panel in axes.flat[len(grids) :]:
            panel.set_axis_off()
    return figure


def _moving(steps: Sequence[PathStep]) -> list[PathStep]:
    """The layers behind which other neurons stand than before."""
    kept: list[PathStep] = []
    for step in steps:
        if not len(step.index) or (kept and np.array_equal(kept[-1].index, step.index)):
            continue
        kept.append(step)
    return kept


def _bars(axes: Any, steps: Sequence[PathStep]) -> None:
    counts = [len(step.index) for step in steps]
    places = np.arange(len(steps))
    axes.barh(places, counts, color=_BAR, height=0.8)
    size = "xx-small" if len(steps) > 30 else "small"
    names = [step.layer if len(step.layer) < 34 else "..." + step.layer[-31:] for step in steps]
    axes.set_yticks(places, names, fontsize=size, parse_math=False)
    for place, count in zip(places, counts, strict=True):
        axes.annotate(str(count), (count, place), (2, 0), textcoords="offset points", va="center", fontsize=size)
    axes.set_ylim(len(steps) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.set_xlabel("neurons on the path")
    axes.set_title("from the target (top) to the input", fontsize="medium")


def _grid(axes: Any, step: PathStep) -> None:
    from onnxplain.render.heatmap import heatmap

    _, _, y, x = np.unravel_index(step.index, step.shape)
    counts = np.zeros(step.shape[2:])
    np.add.at(counts, (y, x), 1)
    if max(step.shape[2:]) < _FINE:
        axes.imshow(heatmap(np.sqrt(counts)), interpolation="nearest")
    else:
        axes.imshow(np.full((*counts.shape, 3), 255, np.uint8))
        axes.scatter(x, y, 6, color=_BAR, linewidths=0)
    name = step.layer if len(step.layer) < 26 else "..." + step.layer[-23:]
    axes.set_title(
        f"{name}\n{len(step.index)} of {'x'.join(map(str, step.shape[1:]))}", fontsize="x-small", parse_math=False
    )
    axes.set_xticks([])
    axes.set_yticks([])
