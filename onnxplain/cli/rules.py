"""``onnxplain rules``."""

from __future__ import annotations

from onnxplain.cli.output import Output, records


def rules(out: Output) -> None:
    """List the rule books that come along.

    A rule book is a TOML file that says which relevance rule goes to which layers; a copy, changed, works as well.

    \b
    onnxplain rules
    onnxplain explain model.onnx photo.jpg --rules epsilon-gamma-box --option low=0 --option high=1
    onnxplain explain model.onnx photo.jpg --rules my-rules.toml
    """
    import onnxplain

    books = onnxplain.available_rule_books()
    out.result("onnxplain.rules/1", {"rule_books": books}, lambda: [records(books)])
