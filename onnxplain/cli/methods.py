"""``onnxplain methods``."""

from __future__ import annotations

from onnxplain.cli.output import Output, records


def methods(out: Output) -> None:
    """List the methods of explanation and the options each one takes.

    \b
    onnxplain methods
    onnxplain explain model.onnx photo.jpg --method integrated-gradients --option steps=64
    """
    import onnxplain

    known = onnxplain.available_methods()
    out.result("onnxplain.methods/1", {"methods": known}, lambda: [records(known)])
