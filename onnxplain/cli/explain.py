"""``onnxplain explain``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxplain.cli import options
from onnxplain.cli.output import Output
from onnxplain.errors import FailureError
from onnxplain.files import check_writable


def explain(
    out: Output,
    model: options.ModelFile,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Pictures, .npy or .npz (one array per input of the model), folders of them, or quoted globs.",
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Where the results go, a folder per input.")
    ] = "onnxplain-out",
    method: options.Method = "lrp",
    rules: options.Rules = None,
    target: options.Target = None,
    output_name: options.OutputName = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="TENSOR", help="Relevance of this tensor inside the model too; may be repeated."),
    ] = None,
    engine: options.Engine = "auto",
    dtype: options.Dtype = "float32",
    providers: options.Providers = None,
    batch_size: options.BatchSize = None,
    preprocess: options.Preprocess = None,
    labels: options.Labels = None,
    seed: options.Seed = 0,
    keep_softmax: options.KeepSoftmax = False,
    option: options.MethodOption = None,
) -> int:
    """Show which parts of an input carried the model's decision.

    Each input gets a folder with the heat map (red: for the decision, blue: against it), the heat map over the picture,
    the arrays, and explanation.json, which says how they were made. An input that cannot be used among many is
    reported and left out, and the exit status is 1 then.

    \b
    onnxplain explain model.onnx photo.jpg
    onnxplain explain model.onnx photos/ --preprocess imagenet --labels classes.txt -o maps
    onnxplain explain model.onnx photo.jpg --method integrated-gradients --option steps=64
    onnxplain explain model.onnx photo.jpg --target cat-dog
    onnxplain explain model.onnx input.npy --at conv1_out --engine host
    """
    from onnxplain.cli.stream import open_stream, skip, tell
    from onnxplain.inputs.loaders import Skipped, find_inputs

    call = {
        "method": method,
        "rules": rules,
        "target": target,
        "output": output_name,
        "at": at or (),
        "engine": engine,
        "dtype": dtype,
        "batch_size": batch_size,
        "seed": seed,
        **options.method_options(option, keep_softmax),
    }
    stream, samples = open_stream(check_writable(output), model, inputs, call, providers, preprocess, labels)
    count = len(find_inputs(inputs))

    results: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    told: set[str] = set()
    with out.progress("explaining", count) as step:
        for item in stream.run(samples, step.part):
            step()
            if isinstance(item, Skipped):
                skipped.append(skip(out, item, count))
                continue
            tell(out, told, stream.notes(item))
            out.show(item.lines())
            results.append(item.to_json() if out.as_json else {})
    out.show([stream.times()])
    document = {
        "model": model,
        "call": stream.call,
        "contract": stream.contract.to_json(),
        "notes": sorted(told),
        "results": results,
        "skipped": skipped,
        "seconds": stream.seconds,
    }
    out.document("onnxplain.explain/1", document)
    if skipped:
        out.complain(f"{len(skipped)} of {count} inputs were skipped")
    return FailureError.exit_status if skipped else 0
