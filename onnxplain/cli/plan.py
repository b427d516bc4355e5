"""``onnxplain plan``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnxplain.cli import options
from onnxplain.cli.output import Output, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxplain.relevance.plan import Plan


def plan(
    out: Output,
    model: options.ModelFile,
    method: options.Method = "lrp",
    rules: options.Rules = None,
    target: options.Target = None,
    output_name: options.OutputName = None,
    keep_softmax: options.KeepSoftmax = False,
    option: options.MethodOption = None,
) -> None:
    """Show which rule each layer gets, and why.

    Nothing is explained and no input is needed.

    \b
    onnxplain plan model.onnx
    onnxplain plan model.onnx --rules my-rules.toml
    """
    import onnxplain

    made = onnxplain.plan(
        onnxplain.load(model),
        method=method,
        rules=rules,
        target=target,
        output=output_name,
        **options.method_options(option, keep_softmax),
    )
    out.result("onnxplain.plan/1", {"model": model, "method": method, **made.to_json()}, lambda: _lines(made))


def _lines(made: Plan) -> Iterator[RenderableType]:
    steps = [(step.layer.name, step.layer.op_type, step.rule.name, step.reason) for step in made]
    yield table(["layer", "op", "rule", "reason"], steps)
    yield from made.notes
