"""``onnxplain methods``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from onnxplain.cli.output import Output

if TYPE_CHECKING:
    from onnxplain.catalogue import MethodEntry

WIDTH = 80


def methods(out: Output) -> None:
    """List the methods of explanation and the options each one takes.

    \b
    onnxplain methods
    onnxplain explain model.onnx photo.jpg --method integrated-gradients --option steps=64
    """
    import onnxplain

    known = onnxplain.available_methods()
    out.result("onnxplain.methods/1", {"methods": known}, lambda: _lines(known))


def _lines(known: Sequence[MethodEntry]) -> Iterator[str]:
    for entry in known:
        yield entry.name
        yield _indented(entry.summary, "    ")
        if entry.options:
            yield _indented(entry.options, "      ")


def _indented(text: str, indent: str) -> str:
    """Broken between words alone, so that an option can be copied."""
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
