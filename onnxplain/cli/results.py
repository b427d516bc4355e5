"""What the explanation of one input leaves: a folder, lines for a person, an entry of the JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxplain.cli.output import table
from onnxplain.cli.points import pictures, placed, summary
from onnxplain.explanation import Explanation, Ledger
from onnxplain.files import atomic_folder
from onnxplain.inputs.loaders import Sample

if TYPE_CHECKING:
    from rich.console import RenderableType

TOP = 5
ROUNDING = 1.0005
"""What is shown as 100.0%."""


@dataclass(frozen=True)
class Result:
    """One input, explained and written.

    Attributes
    ----------
    sample : Sample
    explanation : Explanation
        Of the samples in this input: one for a picture, any number for an array.
    labels : sequence of str or None
    folder : Path
        Where its files are.
    files : tuple of str
        Their names.
    """

    sample: Sample
    explanation: Explanation
    labels: Sequence[str] | None
    folder: Path
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Its entry in the document of 'explain'."""
        e = self.explanation
        samples = [
            {"target": target.to_json(), "top": ranking(row, self.labels)}
            for target, row in zip(e.target, e.prediction, strict=True)
        ]
        for entry, share in zip(samples, e.conserved.tolist(), strict=True):
            if np.isfinite(share):
                entry["conserved"] = share
        if e.method == "fixations":
            for index, entry in enumerate(samples):
                entry["fixations"] = summary(e, index, self.sample)
        return {
            "input": str(self.sample.path),
            "folder": str(self.folder),
            "files": self.files,
            "engine": e.engine,
            "samples": samples,
        }

    def lines(self) -> Iterator[RenderableType]:
        """What a person reads on the terminal."""
        e = self.explanation
        yield f"{self.sample.path} -> {self.folder}"
        for index, (target, row) in enumerate(zip(e.target, e.prediction, strict=True)):
            best = ranking(row, self.labels)
            if best:
                shown = [("", f"{one['value']:.4g}", one["index"], one["label"] or "") for one in best]
                yield table([" ", target.output, "class", ""], shown)
            label = "" if target.label is None else f" {target.label}"
            name = target.description if target.index is None else f"{target.index}{label}, {target.description}"
            yield f"  target  {name}, {target.value:.4g} at {target.tensor}"
            yield f"  method  {e.method} on the {e.engine} engine{_kept(float(e.conserved[index]))}"
            for count in e.masks:
                chosen, rest, used = count.selected[index], count.skipped[index], count.used[index]
                stopped = "" if used == chosen else f", {used} of them used"
                yield f"  layer   {count.tensor}: {chosen} of {chosen + rest} maps as masks{stopped} ({count.reason})"
            for name in e.boxes:
                points = placed(e, name, index, self.sample)
                if points is not None:
                    left, top, right, bottom = points.box
                    yield f"  points  {len(points.y)}, from {left}, {top} to {right}, {bottom}"
        yield ""


def ranking(prediction: np.ndarray, labels: Sequence[str] | None) -> list[dict[str, Any]]:
    """The largest elements of a class vector; nothing for outputs of other forms."""
    if max(prediction.shape, default=0) != prediction.size or prediction.size < 2:
        return []
    flat = prediction.reshape(-1)
    best = np.argsort(-flat, kind="stable")[:TOP].tolist()
    names = labels if labels is not None and len(labels) == flat.size else [None] * flat.size
    return [{"index": index, "label": names[index], "value": float(flat[index])} for index in best]


def write(e: Explanation, sample: Sample, labels: Sequence[str] | None, folder: Path) -> Result:
    """Write arrays, JSON and pictures of one input into ``folder``, all or nothing."""
    from onnxplain.render.heatmap import write_png

    with atomic_folder(folder) as made:
        e.save(made)
        for name, picture in _pictures(e, sample):
            write_png(made / name, picture)
        files = tuple(sorted(file.name for file in made.iterdir()))
    return Result(sample, e, labels, folder, files)


def of_sample(e: Explanation, index: int) -> Explanation:
    """The part of a batch's explanation that belongs to one of its samples; a ledger of the whole batch is left out."""
    count = len(e.target)

    def part(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value[index : index + 1] if len(value) == count else value for name, value in arrays.items()}

    points = {name: value[value[:, 0] == index] for name, value in e.points.items()}
    ledger = e.ledger
    if ledger is not None:
        columns = [column for book in ledger.layers.values() for column in book.values()]
        per_sample = all(len(column) == count for column in columns)
        ledger = Ledger({name: part(book) for name, book in ledger.layers.items()}) if per_sample else None
    return replace(
        e,
        relevance=part(e.relevance),
        prediction=e.prediction[index : index + 1],
        target=e.target[index : index + 1],
        ledger=ledger,
        at=part(e.at),
        extras=part(e.extras),
        maps=part(e.maps),
        boxes=part(e.boxes),
        points={name: value * np.array([0, *[1] * (value.shape[1] - 1)]) for name, value in points.items()},
        point_weights={name: value[e.points[name][:, 0] == index] for name, value in e.point_weights.items()},
        path=tuple(step.of_sample(index) for step in e.path),
        masks=tuple(count.of_sample(index) for count in e.masks),
    )


def _kept(share: float) -> str:
    """How much relevance arrived, where the method promises to conserve it."""
    if not np.isfinite(share):
        return ""
    above = " (above 100%: biases against it add to it)" if share > ROUNDING else ""
    return f"; relevance at the input is {share:.1%} of the target{above}"


def _pictures(e: Explanation, sample: Sample) -> Iterator[tuple[str, np.ndarray]]:
    """Heat map and overlay of every input that has a map of one or two axes."""
    from onnxplain.cli.panels import block_panels, drawn, feature_panels, mapped, panels
    from onnxplain.render.heatmap import heatmap, overlay

    for name, index, tail in mapped(e):
        values = e.map(name)[index]
        if values.ndim == 1:
            yield f"heatmap{tail}.png", drawn([(name, values)])
        elif values.ndim == 2:
            yield f"heatmap{tail}.png", heatmap(values)
            if sample.picture is not None and sample.geometry is not None:
                placed = sample.geometry.to_original(values, outside=np.nan)
                yield f"overlay{tail}.png", overlay(placed, sample.picture.rgb)
            if e.method == "salient-relevance":
                yield f"panels{tail}.png", drawn(panels(e, name, index, sample))
            if e.method in ("sise", "ada-sise"):
                yield f"blocks{tail}.png", drawn(block_panels(e, name, index, sample))
            if e.method == "vebi":
                yield f"features{tail}.png", drawn(feature_panels(e, name, index, sample), columns=2)
    if e.path:
        yield from pictures(e, sample)
