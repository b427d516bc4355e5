"""What numbers among the options must be."""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np

from onnxplain.errors import UsageError


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite real number."""
    return (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def is_count(value: object, least: int = 1) -> TypeGuard[int]:
    """Whether a value is a whole number from ``least``."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise UsageError for what is no whole number from ``least``."""
    if not is_count(value, least):
        raise UsageError(f"{name} must be a whole number from {least}, not {value!r}")


def check_number(name: str, value: object, zero: bool = False) -> None:
    """Raise UsageError for what is no number above 0 (or from 0 with ``zero``)."""
    if not is_number(value) or not (value > 0 or (zero and value == 0)):
        raise UsageError(f"{name} must be a number {'from' if zero else 'above'} 0, not {value!r}")


def check_share(name: str, value: object, zero: bool = False) -> None:
    """Raise UsageError for what does not lie above 0 (or from 0 with ``zero``) and below 1."""
    if not is_number(value) or not (0 < value < 1 or (zero and value == 0)):
        raise UsageError(f"{name} must lie {'from' if zero else 'above'} 0 and below 1, not {value!r}")
