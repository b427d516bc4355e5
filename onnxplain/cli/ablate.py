"""``onnxplain ablate``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onnxplain.cli import options
from onnxplain.cli.interpret import DatasetPath
from onnxplain.cli.output import Output, json_text, table
from onnxplain.errors import FailureError
from onnxplain.files import atomic_folder, check_writable
from onnxplain.wording import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxplain.interpretation.ablate import Ablation

_SHOWN = 20


def ablate(
    out: Output,
    model: options.ModelFile,
    dataset: DatasetPath,
    interpretation: Annotated[
        str, typer.Option("--interpretation", "-i", metavar="DIR", help="What 'onnxplain interpret' wrote.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Where ablation.png and ablation.json go.")
    ] = "onnxplain-ablation",
    labels: Annotated[
        Literal["predicted", "given"] | None,
        typer.Option("--labels", help="What a sample's class is. [default: as in the interpretation]"),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", metavar="N", min=1, help="Random choices of filters.")] = 5,
    seed: options.Seed = 0,
    samples: Annotated[
        int | None, typer.Option("--samples", metavar="N", min=1, help="Samples per class at most. [default: all]")
    ] = None,
    removals: Annotated[
        int | None,
        typer.Option("--removals", metavar="N", min=1, help="Filters removed. [default: as many as are relevant]"),
    ] = None,
    providers: options.Providers = None,
    preprocess: options.Preprocess = None,
) -> int:
    """Measure what each class loses without its relevant filters, and without as many random ones.

    Filters are set to 0 in a copy of the graph, the strongest first; random ones are of the same tensors.

    \b
    onnxplain ablate model.onnx held-out/ --interpretation features --labels given
    """
    import onnxplain
    from onnxplain.inputs.datasets import read_dataset
    from onnxplain.interpretation.ablate import ablate as carry_out
    from onnxplain.interpretation.result import Interpretation
    from onnxplain.render.ablation import ablation_figure

    folder = check_writable(output)
    data = read_dataset(dataset)
    loaded = onnxplain.load(model, options.split_providers(providers))
    known = Interpretation.load(interpretation, loaded)
    with out.progress("ablating", len(data)) as step:
        found = carry_out(
            loaded, data, known, labels=labels, draws=draws, seed=seed, samples=samples, removals=removals,
            preprocess=preprocess, progress=lambda done, total: step.part(done),
        )  # fmt: skip
    document = {"model": model, "interpretation": interpretation, **found.to_json()}
    with atomic_folder(folder) as made:
        ablation_figure(found).savefig(made / "ablation.png", dpi=120)
        text = json_text({"schema": "onnxplain.ablation/1", **document})
        (made / "ablation.json").write_text(text, encoding="utf-8")
    for identity, reason in found.skipped:
        out.complain(f"{identity} skipped: {reason}")
    for note in found.notes:
        out.note(note)
    out.result("onnxplain.ablate/1", document, lambda: _lines(found, str(folder)))
    return FailureError.exit_status if found.skipped else 0


def _lines(found: Ablation, folder: str) -> Iterator[RenderableType]:
    from onnxplain.interpretation.ablate import curve

    classes, samples = counted(len(found.classes), "class"), counted(int(found.samples.sum()), "sample")
    yield f"{classes}, {samples} -> {folder}/ablation.png"
    relevant, others = found.relevant_score.mean(axis=0), found.random_score.mean(axis=(0, 1))
    rows = [
        (step, f"{a:.1%}", f"{b:.1%}", f"{c:.1%}", f"{relevant[step]:.4g}", f"{others[step]:.4g}")
        for step, a, b, c in curve(found)
    ]
    yield table(["removed", "relevant", "random", "deviation over draws", "mean score", "random"], rows)
    yield ""
    random = found.random.mean(axis=0)
    each = [
        (index, name or "", int(found.samples[i]), int(found.filters[i]), f"{found.relevant[i, 0]:.1%}",
         f"{found.relevant[i, -1]:.1%}", f"{random[i, -1]:.1%}")
        for i, (index, name) in enumerate(zip(found.classes, found.names, strict=True))
    ]  # fmt: skip
    yield table(["class", "", "samples", "filters", "intact", "without them", "without random ones"], each[:_SHOWN])
    if len(each) > _SHOWN:
        yield f"and {counted(len(each) - _SHOWN, 'more class')} in {folder}/ablation.json"
