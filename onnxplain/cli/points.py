"""Fixations on the picture that a person gave: their places, their box, their pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from onnxplain.cli.panels import mapped
from onnxplain.explanation import Explanation
from onnxplain.inputs.loaders import Sample


class Placed(NamedTuple):
    """Fixations of one sample, in pixels of the picture, or of the input where there is none."""

    y: np.ndarray
    x: np.ndarray
    weight: np.ndarray

    @property
    def box(self) -> list[int]:
        """Left, top, right, bottom, the last pixels included."""
        return [int(self.x.min()), int(self.y.min()), int(self.x.max()), int(self.y.max())]


def placed(e: Explanation, name: str, index: int, sample: Sample) -> Placed | None:
    """The fixations of one sample in a picture input; None for other inputs and where there are none."""
    if name not in e.boxes:
        return None
    here = e.points[name][:, 0] == index
    if not here.any():
        return None
    y, x = (e.points[name][here, axis] for axis in range(1, 4) if axis != e.channels[name])
    if sample.geometry is not None:
        y, x = sample.geometry.places(y, x)
    return Placed(y, x, e.point_weights[name][here])


def summary(e: Explanation, index: int, sample: Sample) -> dict[str, object]:
    """What the JSON document says of the fixations of one sample: per input their number and the box."""
    entries: dict[str, object] = {}
    for name, points in e.points.items():
        found = placed(e, name, index, sample)
        count = int((points[:, 0] == index).sum())
        entries[name] = {"points": count, "box": None if found is None else found.box}
    return entries


def pictures(e: Explanation, sample: Sample) -> Iterator[tuple[str, np.ndarray]]:
    """The points over the picture, per sample; the path through the layers, where the target gives a sample one."""
    from onnxplain.render.fixations import path_figure, points_over

    for name, index, tail in mapped(e):
        found = placed(e, name, index, sample)
        if found is not None and sample.picture is not None:
            yield f"points{tail}.png", points_over(sample.picture.rgb, *found, found.box)
    for index in range(len(e.target)):
        if not any(step.of_sample(index).index.size for step in e.path):
            continue
        canvas = path_figure(e.path, index).canvas
        canvas.draw()
        tail = f"-{index}" if len(e.target) > 1 else ""
        yield f"path{tail}.png", np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
