"""What an input contract settles of a method's options, so that nobody has to repeat it."""

from __future__ import annotations

from typing import Any

from onnxplain.inputs.contract import InputContract
from onnxplain.methods.table import find_method
from onnxplain.relevance.books import load_rule_book


def contract_options(method: str, rules: str | None, contract: InputContract) -> dict[str, Any]:
    """The order of colours for salient-relevance; ``low`` and ``high`` of a rule book with z-box.

    Parameters
    ----------
    method : str
    rules : str or None
        Rule book, the method's own by default.
    contract : InputContract
    """
    found: dict[str, Any] = {}
    book = find_method(method).rules
    if book is None:
        return found
    if method == "salient-relevance" and contract.colour.value in ("RGB", "BGR"):
        found["colour"] = contract.colour.value
    if any(item.value is None for item in (contract.range, contract.mean, contract.std)):
        return found
    lines = load_rule_book(rules or book).lines
    open_ends = {end for line in lines for end, value in line.rule.parameters().items() if value is None}
    bounds = {"low": contract.low.tolist(), "high": contract.high.tolist()}
    return found | {
        end: values[0] if len(values) == 1 else tuple(values) for end, values in bounds.items() if end in open_ends
    }
