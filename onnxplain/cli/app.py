"""The verbs and what all of them share."""

from __future__ import annotations

import functools
import inspect as introspection
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from onnxplain.cli import (
    ablate,
    compare,
    demo,
    evaluate,
    explain,
    export,
    inspect,
    interpret,
    localize,
    methods,
    ops,
    plan,
    rules,
)
from onnxplain.cli.output import Output
from onnxplain.version import __version__

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only: no notes, no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show the Python traceback as well.")]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 failure, 2 usage, 3 unsupported model, 130 interrupted. "
    "NO_COLOR switches colours off.",
)


@app.callback(invoke_without_command=True)
def onnxplain(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Explain what an ONNX model decided, from the model file alone.

    \b
    onnxplain demo                            a first look, with a model and pictures that come along
    onnxplain inspect model.onnx              what is in the file, and how much of it can be explained
    onnxplain explain model.onnx photo.jpg    which parts of the photo carried the decision
    """
    if version:
        typer.echo(f"onnxplain {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def _verb(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give a verb its Output in place of the options that every verb has; whatever else prints goes to stderr."""

    @functools.wraps(function)
    def run(*, json: bool, quiet: bool, debug: bool, **arguments: Any) -> int | None:
        out = Output(as_json=json, quiet=quiet)
        with redirect_stdout(sys.stderr):
            return function(out, **arguments)

    shared = [
        introspection.Parameter(name, introspection.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("json", Json), ("quiet", Quiet), ("debug", Debug))
    ]
    signature = introspection.signature(function, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "out"]
    run.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    return run


for _function in (
    explain.explain,
    compare.compare,
    evaluate.evaluate,
    inspect.inspect,
    interpret.interpret,
    ablate.ablate,
    plan.plan,
    export.export,
    localize.localize,
    methods.methods,
    rules.rules,
    ops.ops,
    demo.demo,
):
    app.command()(_verb(_function))
