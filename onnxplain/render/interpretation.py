"""An interpretation for people: one page that opens without a network, and a picture per class."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxplain.files import atomic_folder
from onnxplain.render.heatmap import write_png

if TYPE_CHECKING:
    from onnxplain.interpretation.result import Interpretation
    from onnxplain.interpretation.visual import Visuals

_QUALITY = 82


def write_pages(found: Interpretation, visuals: Visuals | None, folder: Path, title: str) -> None:
    """Write index.html and, where there are visuals, ``pictures/`` with one picture per class: a row per feature.

    A row holds the average visualisation and the crops with the largest responses.
    """
    if visuals is not None:
        with atomic_folder(folder / "pictures") as made:
            for name, picture in class_pictures(found, visuals):
                write_png(made / name, picture)
    with atomic_folder(folder) as made:
        (made / "index.html").write_text(page(found, visuals, title), encoding="utf-8")


def class_pictures(found: Interpretation, visuals: Visuals) -> Iterator[tuple[str, np.ndarray]]:
    """File name and picture of every class that has features."""
    for entry in found.classes:
        filters, _ = found.weights_of(entry.index)
        if filters.size:
            places = np.searchsorted(visuals.filters, filters)
            name = re.sub(r"[^\w.-]+", "_", entry.name or "")[:60]
            yield f"{entry.index:04}{name and '-'}{name}.png", np.concatenate([_strip(visuals, row) for row in places])


def page(found: Interpretation, visuals: Visuals | None, title: str) -> str:
    """The page; everything it shows stands in it as data, and none of it as markup."""
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    document = {
        "title": title,
        "about": f"{found.extent}; {settings}; model {found.digest[:16]}",
        "notes": list(found.notes),
        "classes": [
            {
                **vars(entry),
                "features": [[int(f), float(w)] for f, w in zip(*found.weights_of(entry.index), strict=True)],
            }
            for entry in found.classes
        ],
        "features": {int(place): _feature(found, visuals, row) for row, place in enumerate(found.relevant)},
    }
    text = json.dumps(document, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    template = (files("onnxplain.render") / "interpretation.html").read_text(encoding="utf-8")
    return template.replace("@DATA@", text)


def _feature(found: Interpretation, visuals: Visuals | None, row: int) -> dict[str, Any]:
    filters, channel = found.located(int(found.relevant[row]))
    feature: dict[str, Any] = {
        "id": int(found.relevant[row]), "tensor": filters.tensor, "channel": channel,
        "op": f"{filters.op_type} {filters.layer}",
    }  # fmt: skip
    if visuals is not None:
        rows = [int(sample) for sample in visuals.crop_samples[row] if sample >= 0]
        strip = _strip(visuals, row)
        feature |= {
            "strip": _jpeg(strip),
            "tiles": strip.shape[1] // strip.shape[0],
            "samples": int((found.top_samples[row] >= 0).sum()),
            "field": visuals.field[row].tolist(),
            "crops": [[found.samples[sample], int(found.sample_class[sample])] for sample in rows],
        }
    return feature


def _strip(visuals: Visuals, row: int) -> np.ndarray:
    """side x (1 + crops) side x 3: the average and the crops of a filter side by side."""
    return np.concatenate([visuals.averages[row], *visuals.crops[row]], axis=1)


def _jpeg(rgb: np.ndarray) -> str:
    import cv2

    _, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return base64.b64encode(data.tobytes()).decode()
