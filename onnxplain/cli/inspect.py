"""``onnxplain inspect``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxplain.cli import options
from onnxplain.cli.output import Output, table
from onnxplain.inputs.items import Resize

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxplain.graph.layers import Layer


def inspect(
    out: Output,
    model: options.ModelFile,
    preprocess: options.Preprocess = None,
    layers: Annotated[bool, typer.Option("--layers", help="List every layer with the tensors it makes.")] = False,
) -> None:
    """Show what is in a model file, and how much of it can be explained.

    The op table says how each op type is explained: exact, approximate, pass-through (it moves values and changes
    none), constant (it does not depend on the input), or unsupported. The input contract says how pictures are
    prepared and where each item is stated.

    \b
    onnxplain inspect model.onnx
    onnxplain inspect model.onnx --layers
    onnxplain inspect model.onnx --json
    """
    import onnxplain

    loaded = onnxplain.load(model)
    document = onnxplain.inspect(loaded, preprocess=preprocess)
    if layers:
        document["layer_list"] = [_layer(layer) for layer in loaded.graph.layers]
    out.result("onnxplain.inspect/1", document, lambda: _lines(document))


def _layer(layer: Layer) -> dict[str, Any]:
    outputs = [tensor.name for tensor in layer.outputs if tensor is not None]
    return {"layer": layer.name, "op_type": layer.op_type, "outputs": outputs}


def _lines(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    identity = document["identity"]
    yield table(["file", ""], _identity(document))
    for kind in ("inputs", "outputs"):
        yield ""
        declared = document[kind]
        yield table([kind, "dtype", "shape"], [(one["name"], one["dtype"], _shape(one["shape"])) for one in declared])
    yield ""
    yield table(
        ["op type", "count", "explained"], [(op["op_type"], op["count"], op["status"]) for op in document["ops"]]
    )
    if identity["metadata"]:
        yield ""
        yield table(["metadata", ""], identity["metadata"].items())
    if document["changes"]:
        yield ""
        rows = [(change["layer"], change["canonizer"], change["reason"]) for change in document["changes"]]
        yield table(["changed for the analysis", "by", "what, or why not"], rows)
    for name, contract in document["contract"].items():
        yield ""
        yield table([f"input contract of {name}", "value", "stated by"], _contract(contract))
    if "layer_list" in document:
        yield ""
        rows = [(one["layer"], one["op_type"], ", ".join(one["outputs"])) for one in document["layer_list"]]
        yield table(["layer", "op type", "tensors"], rows)


def _identity(document: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    identity = document["identity"]
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in identity["opsets"].items())
    yield "path", identity["path"]
    yield "bytes", identity["bytes"]
    yield "sha256", identity["sha256"]
    yield from ((f"weights in {name}", digest) for name, digest in identity["external_data"].items())
    yield "made by", identity["producer"] or "not stated"
    yield "versions", f"IR {identity['ir_version']}, {opsets}"
    yield "layers", document["layers"]
    yield "parameters", document["parameters"]
    yield "runs on", f"{', '.join(document['providers']['names'])} ({document['providers']['chosen']})"


def _shape(dims: list[int | str] | None) -> str:
    return "not stated" if dims is None else "x".join(map(str, dims))


def _contract(contract: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    if "unsettled" in contract:
        yield "unsettled", "", contract["unsettled"]
        return
    for name, item in contract.items():
        if isinstance(item, Mapping):
            yield name, _value(item["value"]), item["origin"]


def _value(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, Mapping):
        return str(Resize(**value))
    if isinstance(value, list):
        return ", ".join(map(_value, value[:3])) + (f", ... ({len(value)})" if len(value) > 3 else "")
    return f"{value:g}" if isinstance(value, float) else str(value)
