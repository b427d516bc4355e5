"""``onnxplain interpret``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onnxplain.cli import options
from onnxplain.cli.output import Output, table
from onnxplain.errors import FailureError, UsageError
from onnxplain.files import check_writable
from onnxplain.wording import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxplain.inputs.datasets import Dataset
    from onnxplain.interpretation.result import Interpretation
    from onnxplain.interpretation.visual import Visuals
    from onnxplain.model import Model

_SHOWN_CLASSES = 20
_SHOWN_FEATURES = 3

DatasetPath = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="A folder of class folders, a .csv of files and labels, or an .npz."),
]
ClassNames = Annotated[
    str | None, typer.Option("--class-names", metavar="FILE", help="Class names, one per line or as JSON.")
]


def interpret(
    out: Output,
    model: options.ModelFile,
    dataset: DatasetPath,
    output: options.OutputFolder = "onnxplain-interpretation",
    labels: Annotated[
        Literal["predicted", "given"],
        typer.Option("--labels", help="Whether a sample counts to the predicted class or to its label."),
    ] = "predicted",
    mu: Annotated[float, typer.Option("--mu", metavar="N", help="Bound on the sum of a class's weights.")] = 10.0,
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            metavar="L",
            help="all, conv, relu, norm, pool, fc, or a pattern over layers and tensors.",
        ),
    ] = "all",
    output_name: options.OutputName = None,
    providers: options.Providers = None,
    preprocess: options.Preprocess = None,
    class_names: ClassNames = None,
) -> int:
    """Find the features that each class of a model uses, over a data set and without annotations.

    DIR/responses keeps what the model said: an interrupted call goes on where it stopped, and one with another --mu
    or other --labels needs no new pass.

    \b
    onnxplain interpret model.onnx pictures/ -o features
    onnxplain interpret model.onnx samples.npz --labels given --mu 5 --layers relu -o features
    """
    import onnxplain
    from onnxplain.inputs.datasets import read_dataset
    from onnxplain.render.interpretation import write_pages

    folder = check_writable(output)
    samples = read_dataset(dataset)
    loaded = onnxplain.load(model, options.split_providers(providers))
    with out.progress("interpreting", len(samples)) as step:
        found = onnxplain.interpret(
            loaded, samples, mu, labels, layers, output=output_name, preprocess=preprocess, class_names=class_names,
            folder=folder / "responses", progress=lambda done, total: step.part(done),
        )  # fmt: skip
    found.save(folder)
    visuals = _drawn(out, found, loaded, samples, preprocess, folder)
    write_pages(found, visuals, folder, f"What the classes of {Path(model).name} use")
    for identity, reason in found.skipped:
        out.complain(f"{identity} skipped: {reason}")
    for note in found.notes:
        out.note(note)
    document = {"model_file": model, "folder": str(folder), **found.to_json()}
    document.pop("schema")
    out.result("onnxplain.interpret/1", document, lambda: _lines(found, str(folder)))
    return FailureError.exit_status if found.skipped else 0


def _drawn(
    out: Output, found: Interpretation, model: Model, samples: Dataset, preprocess: str | None, folder: Path
) -> Visuals | None:
    """The average visualisations; None for a model that takes no pictures, which is told."""
    from onnxplain.interpretation.visual import visualise

    try:
        with out.progress("drawing", len(samples)) as step:
            told = lambda done, total: step.part(done)  # noqa: E731
            visuals = visualise(model, found, samples, preprocess=preprocess, progress=told)
    except UsageError as error:
        out.note(str(error))
        return None
    visuals.save(folder)
    return visuals


def _lines(found: Interpretation, folder: str) -> Iterator[RenderableType]:
    yield f"{found.extent} -> {folder}/index.html"
    used = [entry for entry in found.classes if entry.samples]
    features = found.features
    rows = []
    for entry in used[:_SHOWN_CLASSES]:
        own = features[entry.index]
        named = ", ".join(f"{f.tensor}[{f.channel}] {f.weight:.3g}" for f in own[:_SHOWN_FEATURES])
        more = f", and {len(own) - _SHOWN_FEATURES} more" if len(own) > _SHOWN_FEATURES else ""
        rows.append((entry.index, entry.name or "", entry.samples, len(own), named + more))
    yield table(["class", "", "samples", "features", "the strongest"], rows)
    if len(used) > _SHOWN_CLASSES:
        yield f"and {counted(len(used) - _SHOWN_CLASSES, 'more class')} in {folder}/interpretation.json"
