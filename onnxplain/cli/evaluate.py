"""``onnxplain evaluate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onnxplain.cli import options
from onnxplain.cli.output import Output, json_text, table
from onnxplain.errors import FailureError, UsageError
from onnxplain.files import atomic_folder, check_writable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxplain.metrics.results import Evaluation

SCHEMA = "onnxplain.evaluate/1"


def evaluate(
    out: Output,
    model: options.ModelFile,
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A folder of pictures or of class folders, a .csv with file and label, or an .npz of arrays.",
        ),
    ],
    methods: Annotated[
        str, typer.Option("--methods", metavar="LIST", help="Methods, such as sise,rise; 'onnxplain methods' has all.")
    ],
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="LIST", help="Measures. [default: those of the SISE paper, and curves]"),
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(
            "--boxes",
            metavar="FILE",
            help="Ground truth: Pascal VOC .xml or a folder of them, COCO .json, boxes.json, .csv, .npz.",
        ),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option("--masks", metavar="DIR", help="Ground truth: a mask per picture, bright where the thing is."),
    ] = None,
    class_map: Annotated[
        str | None,
        typer.Option("--class-map", metavar="FILE", help="JSON: which indices a class of the boxes stands for."),
    ] = None,
    output: options.OutputFolder = "onnxplain-evaluation",
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            metavar="TARGET",
            help="The class explained: predicted, an index, a label, or truth: the likeliest class that boxes name.",
        ),
    ] = "predicted",
    output_name: options.OutputName = None,
    rules: options.Rules = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="METHOD.KEY=VALUE", help="An option of a method, such as sise.mu=0; may be repeated."
        ),
    ] = None,
    score: Annotated[
        Literal["probability", "logit"], typer.Option("--score", help="The model's answer, for the measures.")
    ] = "probability",
    evidence: Annotated[
        Literal["positive", "absolute", "signed"],
        typer.Option("--evidence", help="What of a map is measured: its positive part, its magnitude, all of it."),
    ] = "positive",
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Of insertion and deletion.")] = 50,
    engine: options.Engine = "auto",
    providers: options.Providers = None,
    batch_size: options.BatchSize = None,
    preprocess: options.Preprocess = None,
    labels: options.Labels = None,
    seed: options.Seed = 0,
) -> int:
    """Measure methods on a data set.

    Writes evaluation.html, evaluation.csv and evaluation.json, the latter with the values of every picture. Beside the
    methods stand a random map, a centred Gaussian and an edge detector: what explains nothing. Stopped and started
    again with the same options, it goes on where it was; methods may be added later.

    Measures: ebpg, miou, bbox, iou-auc, pointing (these need --boxes or --masks); drop, increase, insertion-blur,
    insertion-zero, deletion-blur, deletion-zero, pixel-flipping; sparseness, completeness-gap, max-sensitivity,
    randomization.

    \b
    onnxplain evaluate model.onnx photos/ --methods lrp,integrated-gradients
    onnxplain evaluate model.onnx photos/ --methods sise,rise,grad-cam --boxes annotations/ --target truth
    onnxplain evaluate model.onnx photos/ --methods sise --metrics ebpg,drop --masks masks/ --option sise.mu=0.3
    """
    import onnxplain
    from onnxplain.metrics.evaluation import JOURNAL
    from onnxplain.render.evaluation import to_csv, to_html

    folder = check_writable(output)
    loaded = onnxplain.load(model, options.split_providers(providers))
    with out.progress("evaluating", 1) as step:
        found = onnxplain.evaluate(
            loaded,
            dataset,
            _listed(methods),
            None if metrics is None else _listed(metrics),
            boxes=boxes,
            masks=masks,
            target=target,
            class_map=class_map,
            labels=labels,
            preprocess=preprocess,
            output=output_name,
            rules=rules,
            options=_by_method(option),
            score=score,
            evidence=evidence,
            steps=steps,
            engine=engine,
            batch_size=batch_size,
            seed=seed,
            folder=folder,
            progress=lambda done, total: step.part(done / total),
        )
    document = {"model": model, **found.to_json()}
    with atomic_folder(folder) as made:
        (made / "evaluation.csv").write_text(to_csv(found), encoding="utf-8")
        (made / "evaluation.html").write_text(
            to_html(found, f"{Path(model).name} on {Path(dataset).name}"), encoding="utf-8"
        )
        (made / "evaluation.json").write_text(json_text({"schema": SCHEMA, **document}), encoding="utf-8")
    for note in found.notes:
        out.note(note)
    for name, reason in found.skipped.items():
        out.complain(f"{name} skipped: {reason}")
    out.result(SCHEMA, document, lambda: _lines(folder, found, JOURNAL))
    return FailureError.exit_status if found.skipped else 0


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _by_method(pairs: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Read ``method.key=value`` pairs."""
    by_method: dict[str, list[str]] = {}
    for pair in pairs or ():
        method, dot, rest = pair.partition(".")
        if not dot or "=" in method:
            raise UsageError(f"--option {pair}: write METHOD.KEY=VALUE, for example --option sise.mu=0")
        by_method.setdefault(method, []).append(rest)
    return {method: options.method_options(own) for method, own in by_method.items()}


def _lines(folder: Path, found: Evaluation, journal: str) -> Iterator[RenderableType]:
    from onnxplain.render.evaluation import cell, counted, heading, seconds

    rows = []
    for row in found.rows:
        cells = ("\n".join(cell(row.measured[measure.name], measure.percent)) for measure in found.measures)
        rows.append((row.method, *cells, seconds(row)))
    yield table(["method", *(heading(measure) for measure in found.measures), "s/picture"], rows)
    yield f"{counted(found)}; below each mean its 95 % bootstrap interval over them"
    yield f"{folder}: evaluation.html, evaluation.csv, evaluation.json, and {journal} to go on from"
