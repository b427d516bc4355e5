"""``onnxplain export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxplain.cli import options
from onnxplain.cli.output import Output
from onnxplain.files import check_writable


def export(
    out: Output,
    model: options.ModelFile,
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT.onnx", help="The file to write.")],
    method: options.Method = "lrp",
    rules: options.Rules = None,
    output_name: options.OutputName = None,
    keep_softmax: options.KeepSoftmax = False,
    option: options.MethodOption = None,
) -> None:
    """Write the model with its relevance as one more output.

    The file runs in plain onnxruntime, without onnxplain, and is checked against 'explain' before it is written.

    \b
    onnxplain export model.onnx -o explained.onnx
    onnxplain export model.onnx --method gradient -o gradient.onnx
    """
    import onnx

    import onnxplain

    check_writable(Path(output).parent)
    onnxplain.export(
        onnxplain.load(model),
        output,
        method=method,
        rules=rules,
        output=output_name,
        **options.method_options(option, keep_softmax),
    )
    names = [value.name for value in onnx.load(output).graph.output]
    document = {"model": model, "written": output, "outputs": names}
    out.result("onnxplain.export/1", document, lambda: [f"{output}: a model with the outputs {', '.join(names)}"])
