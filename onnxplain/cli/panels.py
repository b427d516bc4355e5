"""Explanations side by side, in one picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onnxplain.explanation import Explanation
from onnxplain.inputs.loaders import Sample
from onnxplain.render.figure import map_figure
from onnxplain.render.heatmap import heatmap, overlay
from onnxplain.wording import counted

PERCENTILE = 99.5
"""Where the colours of the relevance of single pixels end; a few strong ones would leave all others white."""

Panel = tuple[str, np.ndarray]


def mapped(e: Explanation) -> Iterator[tuple[str, int, str]]:
    """Every map as the input's name, the sample's index, and what tells its files from others."""
    for name in e.mapped:
        of_input = "-" + re.sub(r"[^\w.-]+", "_", name) if len(e.inputs) > 1 else ""
        for index in range(len(e.map(name))):
            yield name, index, of_input + (f"-{index}" if len(e.target) > 1 else "")


def panels(e: Explanation, name: str, index: int, sample: Sample, title: str = "input") -> list[Panel]:
    """The picture under ``title``, for salient relevance the LRP map, the map, and the map over the picture."""
    values = _placed(e.map(name)[index], sample)
    axis = e.channels.get(name)
    shown = [(e.method, heatmap(values))]
    if e.method == "salient-relevance" and axis is not None:
        relevance = _placed(e.relevance[name][index].sum(axis=axis - 1), sample)
        book = "" if e.plan is None else f" ({e.plan.book})"
        shown = [(f"LRP{book}", heatmap(relevance, percentile=PERCENTILE)), ("SR map", heatmap(values))]
    if sample.picture is not None:
        rgb = sample.picture.rgb
        shown = [(title, rgb), *shown, ("overlay", overlay(values, rgb))]
    return shown


def feature_panels(e: Explanation, name: str, index: int, sample: Sample) -> list[Panel]:
    """The figure of VEBI: the picture and the merged map, then every feature's map beside what it responds to."""
    chosen = e.target[index]
    label = str(chosen.label or chosen.index)
    shown = [(label, sample.picture.rgb)] if sample.picture is not None else []
    shown.append(("merged", _over(e.map(name)[index], sample)))
    averages = e.extras.get("average")
    for rank, feature in enumerate(e.extras["feature_names"][index]):
        if feature:
            score = e.extras["feature_scores"][index][rank]
            shown.append((f"{feature}, {score:.2g}", _over(e.extras[f"features/{name}"][index][rank], sample)))
            if averages is not None:
                shown.append(("responds to", averages[index][rank]))
    return shown


def _over(values: np.ndarray, sample: Sample) -> np.ndarray:
    """A map over the picture, alone where there is none."""
    if sample.picture is None or sample.geometry is None:
        return heatmap(values, percentile=PERCENTILE)
    return overlay(sample.geometry.to_original(values, outside=np.nan), sample.picture.rgb, percentile=PERCENTILE)


def block_panels(e: Explanation, name: str, index: int, sample: Sample) -> list[Panel]:
    """The picture, the visualization map of every layer of SISE, the fused map, and it over the picture."""
    shown = panels(e, name, index, sample)
    place = 0 if sample.picture is None else 1
    blocks = [
        (
            f"{count.tensor}: {counted(count.used[index], 'mask')}",
            heatmap(_placed(e.extras[f"block/{count.tensor}"][index], sample)),
        )
        for count in e.masks
    ]
    return [*shown[:place], *blocks, *shown[place:]]


def _placed(values: np.ndarray, sample: Sample) -> np.ndarray:
    """A map on the pixels of the picture; as it is where there is none."""
    return values if sample.geometry is None else sample.geometry.to_original(values, outside=np.nan)


def drawn(shown: Sequence[Panel], columns: int | None = None) -> np.ndarray:
    """Panels as one picture, uint8, H x W x 3."""
    canvas: Any = map_figure(shown, columns).canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
