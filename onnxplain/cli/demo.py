"""``onnxplain demo``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxplain.cli import options
from onnxplain.cli.output import Output, table
from onnxplain.files import atomic_folder, check_writable
from onnxplain.resources import resource

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxplain.cli.results import Result

OVERVIEW = "overview.png"
SHOWN = 6
"""Pictures in the overview."""


def demo(
    out: Output,
    output: options.OutputFolder = "onnxplain-demo",
) -> None:
    """Explain a small model that comes along, on pictures whose answer is known.

    The pictures are drawn flowers, and the colour of the petals alone decides the class. A mask says where the petals
    are, so the demo can tell how much of the relevance lies on what truly decides.

    \b
    onnxplain demo
    onnxplain demo -o elsewhere
    """
    import onnxplain
    from onnxplain.cli.stream import Stream
    from onnxplain.inputs.contract import discover
    from onnxplain.inputs.loaders import Skipped, load_inputs

    folder = check_writable(output)
    model = onnxplain.load(resource("models/flowers.onnx"))
    contract = discover(model, model.inputs[0].name)
    files = [file for file in sorted(resource("models/flowers").glob("*.png")) if not file.stem.endswith("_mask")]
    stream = Stream(folder, model, {"batch_size": None}, contract)
    seen = []
    with out.progress("explaining", len(files)) as step:
        for item in stream.run(load_inputs(files, model, contract)):
            if isinstance(item, Skipped):
                raise item.error
            seen.append((item, _row(item)))
            step()
    with atomic_folder(folder) as made:
        _overview(seen).savefig(made / OVERVIEW)
    rows = [row for _, row in seen]
    document = {"folder": folder, "overview": folder / OVERVIEW, "pictures": rows, "seconds": stream.seconds}
    out.result("onnxplain.demo/1", document, lambda: _lines(folder, rows))


def _row(result: Result) -> dict[str, Any]:
    """What the demo says of one picture: the decision, and how much of the relevance lies on the petals."""
    from onnxplain.inputs.pictures import read_picture
    from onnxplain.metrics.maps import energy_in_box

    path = result.sample.path
    mask = read_picture(path.with_stem(f"{path.stem}_mask")).rgb[..., 0] > 127
    [target] = result.explanation.target
    return {
        "picture": path.name,
        "folder": result.folder,
        "decision": target.label,
        "relevance_on_petals": energy_in_box(_placed(result), mask),
        "petals_of_picture": float(mask.mean()),
    }


def _placed(result: Result) -> np.ndarray:
    """The map on the pixels of the picture."""
    geometry = result.sample.geometry
    assert geometry is not None
    [values] = result.explanation.map()
    return geometry.to_original(values)


def _overview(seen: Sequence[tuple[Result, dict[str, Any]]]) -> Any:
    from onnxplain.render.figure import map_figure
    from onnxplain.render.heatmap import overlay

    pictures, overlays = [], []
    for result, row in seen[:SHOWN]:
        assert result.sample.picture is not None
        rgb = result.sample.picture.rgb
        pictures.append((row["decision"], rgb))
        overlays.append((f"{row['relevance_on_petals']:.0%} on the petals", overlay(_placed(result), rgb)))
    return map_figure([*pictures, *overlays], columns=len(pictures))


def _lines(folder: Path, rows: Sequence[dict[str, Any]]) -> Iterator[RenderableType]:
    shown = [
        (row["picture"], row["decision"], f"{row['relevance_on_petals']:.0%}", f"{row['petals_of_picture']:.0%}")
        for row in rows
    ]
    yield table(["picture", "decided as", "relevance on the petals", "petals' share of the picture"], shown)
    yield ""
    yield "The petals' colour alone decides; their place is known. The relevance comes from the model file."
    yield ""
    yield f"{folder / OVERVIEW}: pictures and maps side by side"
    yield f"{folder / rows[0]['folder'].name}/ and so on, one folder per picture:"
    yield "  heatmap.png       the relevance: red for the decision, blue against it"
    yield "  overlay.png       the same over the picture"
    yield "  arrays.npz        relevance and prediction as numbers"
    yield "  explanation.json  target, rule of each layer, conservation, times"
