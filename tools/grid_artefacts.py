"""The grid that strides draw into maps, and what the remedy leaves of it.

    python tools/grid_artefacts.py MODEL.onnx PICTURE ... [--interpretation DIR] [--stride 2 4] [-o FIGURE.png]

For every method that has the option stride_artifacts: the share of the map's spectrum on the lines of each stride
(onnxplain.metrics.maps.stride_energy), plain and with the remedy, and the quartiles over the pictures. The figure shows
the first picture with the maps of each method, plain and with the remedy.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import spread, table

import onnxplain
from onnxplain.files import atomic_file
from onnxplain.inputs.contract import discover
from onnxplain.inputs.loaders import Sample, load_inputs
from onnxplain.metrics.maps import stride_energy
from onnxplain.render.figure import map_figure

METHODS = ("guided-backprop", "deconvnet", "vebi")
OPTIONS = ("plain", "remedy")


def maps_of(
    model: onnxplain.Model, sample: Sample, interpretation: str | None
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """The map of each method, without and with the remedy."""
    for method in METHODS:
        if method == "vebi" and interpretation is None:
            continue
        for option in OPTIONS:
            told: dict[str, Any] = {"stride_artifacts": option}
            if method == "vebi":
                told["interpretation"] = interpretation
            e = onnxplain.explain(model, sample.feed, method, **told)
            yield (method, option), e.map()[0]


def main() -> None:
    """Print the table, write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--interpretation", metavar="DIR", help="of vebi, which is left out without")
    parser.add_argument("--preprocess", help="how pictures are prepared, where the model does not say")
    parser.add_argument("--stride", nargs="+", type=int, default=[2, 4], help="periods (default: 2 4)")
    parser.add_argument("-o", "--output", type=Path, help="the figure to write")
    given = parser.parse_args()
    model = onnxplain.load(given.model)
    contract = discover(model, model.inputs[0].name, preprocess=given.preprocess)
    samples = [sample for sample in load_inputs(given.pictures, model, contract) if isinstance(sample, Sample)]
    found = [dict(maps_of(model, sample, given.interpretation)) for sample in samples]
    rows = [
        [
            *key,
            *(str(spread([100 * stride_energy(maps[key], stride) for maps in found])) for stride in given.stride),
        ]
        for key in found[0]
    ]
    print(f"{len(found)} pictures")
    print(table(["method", "strides", *(f"energy at {stride}, %" for stride in given.stride)], rows))
    if given.output is not None:
        shown = samples[0].feed[contract.input_name][0]
        picture = np.moveaxis(shown, 0, -1) - shown.min()
        panels: list[tuple[str, np.ndarray]] = []
        for option in OPTIONS:
            panels.append(("input", (255 * picture / picture.max()).astype(np.uint8)))
            panels += [(", ".join(key), np.abs(values)) for key, values in found[0].items() if key[1] == option]
        figure = map_figure(panels, len(panels) // 2)
        with atomic_file(given.output) as file:
            figure.savefig(file, dpi=80, format="png")


if __name__ == "__main__":
    main()
