"""``onnxplain compare``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxplain.cli import options
from onnxplain.cli.output import Output, Steps, table
from onnxplain.errors import FailureError
from onnxplain.files import check_writable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxplain.cli.results import Result
    from onnxplain.targets import Chosen

SHOWN = 3
"""Classes of each model on the terminal."""


def compare(
    out: Output,
    first: Annotated[str, typer.Argument(metavar="A", help="The first ONNX file.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The second ONNX file.")],
    inputs: Annotated[list[str], typer.Argument(metavar="PICTURE", help="Pictures, folders of them, or quoted globs.")],
    output: options.OutputFolder = "onnxplain-compare",
    method: options.Method = "lrp",
    rules: options.Rules = None,
    target: options.Target = None,
    output_name: options.OutputName = None,
    engine: options.Engine = "auto",
    dtype: options.Dtype = "float32",
    providers: options.Providers = None,
    batch_size: options.BatchSize = None,
    preprocess: options.Preprocess = None,
    preprocess_a: Annotated[
        str | None, typer.Option("--preprocess-a", metavar="P", help="For A instead of --preprocess.")
    ] = None,
    preprocess_b: Annotated[
        str | None, typer.Option("--preprocess-b", metavar="P", help="For B instead of --preprocess.")
    ] = None,
    labels: options.Labels = None,
    labels_a: Annotated[
        str | None, typer.Option("--labels-a", metavar="FILE", help="For A instead of --labels.")
    ] = None,
    labels_b: Annotated[
        str | None, typer.Option("--labels-b", metavar="FILE", help="For B instead of --labels.")
    ] = None,
    seed: options.Seed = 0,
    keep_softmax: options.KeepSoftmax = False,
    option: options.MethodOption = None,
) -> int:
    """Show what two models decide about the same pictures, and what carried each decision.

    Each picture gets PICTURE.png with both predictions and both maps side by side. The folders a/ and b/ hold what
    'explain' writes for each model.

    \b
    onnxplain compare alexnet.onnx vgg16.onnx photo.jpg --method salient-relevance --labels classes.txt
    onnxplain compare old.onnx new.onnx photos/ --preprocess-a caffe --preprocess-b imagenet
    """
    from onnxplain.cli.stream import open_stream, skip, tell
    from onnxplain.inputs.loaders import Skipped, find_inputs

    folder = check_writable(output)
    call = {
        "method": method,
        "rules": rules,
        "target": target,
        "output": output_name,
        "engine": engine,
        "dtype": dtype,
        "batch_size": batch_size,
        "seed": seed,
        **options.method_options(option, keep_softmax),
    }
    sides = [
        open_stream(folder / side, model, inputs, call, providers, own_preprocess or preprocess, own_labels or labels)
        for side, model, own_preprocess, own_labels in (
            ("a", first, preprocess_a, labels_a),
            ("b", second, preprocess_b, labels_b),
        )
    ]
    count = len(find_inputs(inputs))
    results: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    told: set[str] = set()
    with out.progress("comparing", count) as step:
        halves = _halves(step)
        explained = [stream.run(samples, half) for (stream, samples), half in zip(sides, halves, strict=True)]
        for pair in zip(*explained, strict=True):
            step()
            failed = next((one for one in pair if isinstance(one, Skipped)), None)
            if failed is not None:
                skipped.append(skip(out, failed, count))
                continue
            a, b = (one for one in pair if not isinstance(one, Skipped))
            for side, (stream, _), one in zip("AB", sides, (a, b), strict=True):
                tell(out, told, [f"{side}: {note}" for note in stream.notes(one)])
            compared = Compared(first, second, a, b, tuple(_figures(folder, first, second, a, b)))
            out.show(compared.lines())
            results.append(compared.to_json())
    out.show(f"{side} {stream.times()}" for side, (stream, _) in zip("AB", sides, strict=True))
    models = {
        side: {"model": model, "call": stream.call, "contract": stream.contract.to_json(), "seconds": stream.seconds}
        for side, model, (stream, _) in zip("ab", (first, second), sides, strict=True)
    }
    document = {"models": models, "notes": sorted(told), "results": results, "skipped": skipped}
    out.document("onnxplain.compare/1", document)
    if skipped:
        out.complain(f"{len(skipped)} of {count} inputs were skipped")
    return FailureError.exit_status if skipped else 0


@dataclass(frozen=True)
class Compared:
    """One input, explained with both models.

    Attributes
    ----------
    first, second : str
        The model files.
    a, b : Result
        What each of them gave.
    figures : tuple of Path
        The pictures with both.
    """

    first: str
    second: str
    a: Result
    b: Result
    figures: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """Its entry in the document of 'compare'."""
        return {
            "input": str(self.a.sample.path),
            "figures": self.figures,
            "agree": [_same(*targets) for targets in self._targets()],
            "a": self.a.to_json(),
            "b": self.b.to_json(),
        }

    def lines(self) -> Iterator[RenderableType]:
        """What a person reads on the terminal."""
        yield f"{self.a.sample.path} -> {', '.join(map(str, self.figures)) or 'no map to draw'}"
        rows = [
            (side, Path(model).name, *decision)
            for side, model, one in (("A", self.first, self.a), ("B", self.second, self.b))
            for decision in _decisions(one)
        ]
        yield table(["", "model", "explained", "", "predicted"], rows)
        yield "  the same class" if all(_same(*targets) for targets in self._targets()) else "  different classes"
        yield ""

    def _targets(self) -> Iterator[tuple[Chosen, Chosen]]:
        return zip(self.a.explanation.target, self.b.explanation.target, strict=False)


def _same(a: Chosen, b: Chosen) -> bool:
    """Whether two models explain the same class, by label where both have labels."""
    return a.label == b.label if a.label is not None and b.label is not None else a.index == b.index


def _decisions(one: Result) -> Iterator[tuple[str, str, str]]:
    """Per sample: the target, its value, and the classes that the model ranks first."""
    from onnxplain.cli.results import ranking

    for target, row in zip(one.explanation.target, one.explanation.prediction, strict=True):
        best = [f"{rank['label'] or rank['index']} {rank['value']:.3g}" for rank in ranking(row, one.labels)[:SHOWN]]
        yield _name(target), f"{target.value:.4g}", ", ".join(best)


def _name(target: Chosen) -> str:
    return target.label or (target.description if target.index is None else str(target.index))


def _figures(folder: Path, first: str, second: str, a: Result, b: Result) -> Iterator[Path]:
    """Write the panels of B below those of A, for every map that both have."""
    from onnxplain.cli.panels import drawn, mapped, panels
    from onnxplain.render.heatmap import write_png

    for of_a, of_b in zip(mapped(a.explanation), mapped(b.explanation), strict=False):
        if any(one.explanation.map(name)[index].ndim != 2 for one, (name, index, _) in ((a, of_a), (b, of_b))):
            continue
        rows = []
        for side, model, one, (name, index, _) in (("A", first, a, of_a), ("B", second, b, of_b)):
            title = f"{side} {Path(model).stem}: {_name(one.explanation.target[index])}"
            rows.append(panels(one.explanation, name, index, one.sample, title))
        path = folder / f"{a.sample.name}{of_a[2]}.png"
        write_png(path, drawn([*rows[0], *rows[1]], columns=len(rows[0])))
        yield path


def _halves(step: Steps) -> tuple[Callable[[float], None], Callable[[float], None]]:
    """What each model reports to: A's inputs are half done when B's begin."""
    done_by_a = 0.0

    def first(done: float) -> None:
        nonlocal done_by_a
        done_by_a = done
        step.part(done / 2)

    def second(done: float) -> None:
        step.part((done_by_a + done) / 2)

    return first, second
