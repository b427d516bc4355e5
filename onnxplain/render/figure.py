"""Figures of several panels, by matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxplain.render.heatmap import heatmap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL_INCHES = 3.0
_LINE_INCHES = 0.17
_GAP_INCHES = 0.12
_TITLE_WIDTH = 34
_FRAME = "0.8"


def map_figure(panels: Sequence[tuple[str, np.ndarray]], columns: int | None = None) -> Figure:
    """Draw titled panels side by side.

    Parameters
    ----------
    panels : sequence of (str, numpy.ndarray)
        An RGB picture (uint8, H x W x 3), a map of two dimensions, which is coloured, or of one, drawn as bars.
    columns : int, optional
        Panels per row; at most four by default.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: it opens no window and is freed with its last reference.

    Raises
    ------
    ValueError
        No panel, or one that is neither picture nor map.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("a figure needs at least one panel")
    columns = columns or min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    titles = [textwrap.fill(title, _TITLE_WIDTH) for title, _ in panels]
    lines = max(title.count("\n") for title in titles) + 1
    height = _PANEL_INCHES * _tallest(panels) + _LINE_INCHES * lines + _GAP_INCHES
    figure = Figure(figsize=(_PANEL_INCHES * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, title, (_, values) in zip(grid.flat, titles, panels, strict=False):
        axes.set_title(title, fontsize="medium", parse_math=False)
        _draw(axes, values)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    return figure


def _tallest(panels: Sequence[tuple[str, np.ndarray]]) -> float:
    """The largest height over width, within what still looks like a figure; bars are square."""
    sides = [values.shape[:2] if values.ndim > 1 else (1, 1) for _, values in panels]
    return float(np.clip(max(height / max(width, 1) for height, width in sides), 0.4, 2.5))


def _draw(axes: Any, values: np.ndarray) -> None:
    if values.ndim == 1:
        colours = np.where(values < 0, "#2166ac", "#b2182b")
        axes.bar(np.arange(len(values)), values, width=0.9, color=colours)
        axes.axhline(0, color="black", linewidth=0.5)
        return
    is_picture = values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8
    if not is_picture and values.ndim != 2:
        raise ValueError(f"a panel takes an RGB picture or a map of one or two dimensions, not shape {values.shape}")
    axes.imshow(values if is_picture else heatmap(values), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=_FRAME, linewidth=0.8)
