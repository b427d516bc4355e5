"""Words for people."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number with its noun in the right form: ``1 tensor``, ``0 classes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"
