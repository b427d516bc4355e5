"""``onnxplain ops``."""

from __future__ import annotations

from onnxplain.cli.output import Output, records


def ops(out: Output) -> None:
    """List the op types that can be explained, and how.

    \b
    onnxplain ops
    onnxplain ops --json
    """
    import onnxplain

    known = onnxplain.available_ops()
    out.result("onnxplain.ops/1", {"ops": known}, lambda: [records(known)])
