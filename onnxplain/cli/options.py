"""Arguments and options that several verbs take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from onnxplain.errors import UsageError

ModelFile = Annotated[str, typer.Argument(metavar="MODEL", help="The ONNX file.")]
Method = Annotated[
    str, typer.Option("--method", "-m", metavar="NAME", help="How to explain; 'onnxplain methods' lists them.")
]
Rules = Annotated[
    str | None,
    typer.Option(
        "--rules",
        "-r",
        metavar="BOOK",
        help="Rule book of lrp and salient-relevance: a name from 'onnxplain rules' or a TOML file. "
        "[default: the method's own]",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="TARGET",
        help="What to explain: an index, a label, top2, cat-dog, boxes[0,4:,17] (the first index counts the "
        "samples of one input, so 0 or : for a picture). [default: the predicted class]",
    ),
]
OutputName = Annotated[
    str | None, typer.Option("--output-name", metavar="NAME", help="The output to explain. [default: the only one]")
]
OutputFolder = Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Where the results go.")]
Providers = Annotated[
    str | None,
    typer.Option(
        "--providers",
        metavar="LIST",
        help="Where to run, such as cpu or cuda,cpu. [default: cuda if it works, else cpu]",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        "-p",
        metavar="P",
        help="How pictures are prepared: imagenet, caffe, tf, unit, raw, or a TOML file. "
        "[default: what MODEL.onnxplain.toml or the model itself says]",
    ),
]
Labels = Annotated[
    str | None, typer.Option("--labels", "-l", metavar="FILE", help="Class names, one per line or as JSON.")
]
Engine = Annotated[
    Literal["auto", "host", "compiled"],
    typer.Option("--engine", "-e", help="host starts at once, compiled is faster for many inputs or on a GPU."),
]
Dtype = Annotated[
    Literal["float32", "float64"], typer.Option("--dtype", help="float64 is exact and slow, on the host engine.")
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", min=1, help="Samples computed at once. [default: by memory]"),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", help="Of methods that draw random numbers; no other depends on it.")
]
KeepSoftmax = Annotated[
    bool, typer.Option("--keep-softmax", help="Explain a closing softmax or sigmoid at its output, not at its input.")
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="An option of the method, such as steps=64, lab=false, long_side=null or 'patch=[7,5,3,3]'; "
        "may be given several times.",
    ),
]


_PYTHON = {"True": True, "False": False, "None": None}


def split_providers(providers: str | None) -> list[str] | None:
    """Read ``cuda,cpu``; None stays None."""
    return None if providers is None else [name.strip() for name in providers.split(",")]


def method_options(pairs: Sequence[str] | None, keep_softmax: bool = False) -> dict[str, Any]:
    """Read ``key=value`` pairs.

    Parameters
    ----------
    pairs : sequence of str or None
        A value is read as JSON (``0.5``, ``true``, ``null``, ``[0, 1]``) or as Python's ``True``, ``False`` or
        ``None``, and as text where it is none of these.
    keep_softmax : bool
        Adds the option of that name.

    Returns
    -------
    dict

    Raises
    ------
    UsageError
        For a pair without ``=`` or a key given twice.
    """
    options: dict[str, Any] = {"keep_softmax": True} if keep_softmax else {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not (equals and key):
            raise UsageError(f"--option {pair}: write KEY=VALUE, for example --option steps=64")
        if key in options:
            raise UsageError(f"--option {pair}: {key} is given twice")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = _PYTHON.get(text, text)
    return options
