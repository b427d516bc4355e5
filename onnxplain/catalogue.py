"""What there is: methods, rule books, op types; and what a model file holds."""

from __future__ import annotations

import inspect as reflection
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from onnxplain.errors import UsageError
from onnxplain.graph.layers import Layer
from onnxplain.graph.reader import OPSETS
from onnxplain.model import Model, load
from onnxplain.ops import Kind, find, table

if TYPE_CHECKING:
    from onnxplain.methods.table import Method


@dataclass(frozen=True)
class MethodEntry:
    """A method and its options with their defaults."""

    name: str
    options: str
    summary: str


@dataclass(frozen=True)
class RuleBookEntry:
    """A rule book and what it says of itself."""

    name: str
    description: str


@dataclass(frozen=True)
class OpEntry:
    """An op type: how exact its gradient and relevance are, and what relevance does there by default."""

    op_type: str
    status: str
    kind: str
    default_rule: str
    since_versions: str


def available_methods() -> list[MethodEntry]:
    """Every method of :func:`onnxplain.explain`."""
    from onnxplain.methods.table import METHODS

    return [MethodEntry(name, _options(method), _summary(method.explain)) for name, method in METHODS.items()]


def available_rule_books() -> list[RuleBookEntry]:
    """Every rule book that comes with onnxplain."""
    from onnxplain.relevance.books import load_rule_book, rule_book_names

    books = [load_rule_book(name) for name in rule_book_names()]
    return [RuleBookEntry(book.name, book.description) for book in books]


def available_ops() -> list[OpEntry]:
    """Every op type that can stand between an input and the target."""
    from onnxplain.relevance.books import DEFAULTS

    entries = []
    for (domain, op_type), op in sorted(table().items()):
        rule = "by the rule book" if op.kind is Kind.LINEAR else DEFAULTS[op.kind]
        versions = sorted(
            {
                onnx.defs.get_schema(op_type, v, domain).since_version
                for v in OPSETS
                if onnx.defs.has(op_type, v, domain)
            }
        )
        entries.append(OpEntry(op_type, op.status, op.kind.value, rule, ", ".join(map(str, versions))))
    return entries


def inspect(model: Model | str | os.PathLike[str] | bytes, preprocess: str | None = None) -> dict[str, Any]:
    """What a model file holds and how much of it can be explained.

    Parameters
    ----------
    model : Model, path or bytes
    preprocess : str, optional
        How pictures are prepared, as for :func:`onnxplain.inputs.contract.discover`.

    Returns
    -------
    dict
        identity, opsets, inputs, outputs, op table with the status of each op type, changes made for the analysis,
        and the input contract with the origin of each item.
    """
    model = model if isinstance(model, Model) else load(model)
    proto = model.file.proto
    counts = Counter((layer.domain, layer.op_type) for layer in model.original_graph.layers)
    statuses: dict[tuple[str, str], set[str]] = {key: set() for key in counts}
    for layer in model.original_graph.layers:
        statuses[layer.domain, layer.op_type].add(_status(layer))
    return {
        "identity": {
            **model.file.identity.to_json(),
            "bytes": None if model.path is None else model.path.stat().st_size,
            "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
            "ir_version": proto.ir_version,
            "opsets": dict(model.graph.opsets),
            "metadata": model.metadata,
        },
        "inputs": [_declared(tensor) for tensor in model.inputs],
        "outputs": [_declared(tensor) for tensor in model.outputs],
        "layers": len(model.original_graph.layers),
        "parameters": sum(int(t.value.size) for t in model.original_graph.constants if t.value is not None),
        "ops": [
            {"op_type": ":".join(filter(None, key)), "count": count, "status": max(statuses[key], key=_STATUSES.index)}
            for key, count in counts.most_common()
        ],
        "changes": [vars(change) for change in model.changes],
        "contract": _contracts(model, preprocess),
        "providers": {"names": list(model.runtime.providers), "chosen": model.runtime.chosen},
    }


def _contracts(model: Model, preprocess: str | None) -> dict[str, Any]:
    from onnxplain.inputs.contract import discover

    found: dict[str, Any] = {}
    for tensor in model.inputs:
        if tensor.shape is None or len(tensor.shape) not in (3, 4):
            continue
        try:
            found[tensor.name] = discover(model, tensor.name, preprocess=preprocess).to_json()
        except UsageError as error:
            found[tensor.name] = {"unsettled": str(error)}
    return found


_STATUSES = ("constant", "no relevance", "pass-through", "exact", "approximate", "unsupported")
"""An op type has the last of these that one of its layers has."""


def _status(layer: Layer) -> str:
    op = find(layer)
    if all(out is None or out.static for out in layer.outputs):
        return "constant"
    if op is None or op.refusal(layer, frozenset()) is not None:
        return "unsupported"
    return "pass-through" if op.status == "exact" and op.kind_of(layer) is Kind.ROUTE else op.status


def _declared(tensor: Any) -> dict[str, Any]:
    shape = None if tensor.shape is None else [dim if isinstance(dim, int) else str(dim or "?") for dim in tensor.shape]
    return {"name": tensor.name, "dtype": str(tensor.dtype), "shape": shape}


def _options(method: Method) -> str:
    shown = []
    for parameter in method.options:
        if parameter.kind is parameter.VAR_KEYWORD:
            shown.append("the settings of the book's rules")
        else:
            shown.append(f"{parameter.name}={parameter.default}")
    return ", ".join(shown)


def _summary(function: Any) -> str:
    return (reflection.getdoc(function) or "").partition("\n")[0]
