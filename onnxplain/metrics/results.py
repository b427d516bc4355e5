"""What an evaluation found: methods against measures, with the values of every sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxplain.metrics.judging import TRIVIAL
from onnxplain.metrics.measures import Measure
from onnxplain.metrics.statistics import Estimate, Measured, paired_difference


@dataclass(frozen=True, eq=False)
class Row:
    """One method of an evaluation.

    Attributes
    ----------
    method : str
    options : mapping
    measured : mapping of str to Measured
        By measure; NaN for a picture without a value.
    seconds : Measured
        To explain one picture.
    """

    method: str
    options: Mapping[str, Any]
    measured: Mapping[str, Measured]
    seconds: Measured

    @property
    def trivial(self) -> bool:
        """Whether it explains nothing."""
        return self.method in TRIVIAL


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`onnxplain.evaluate` returns.

    Attributes
    ----------
    rows : tuple of Row
        The methods in the order asked for, then the trivial maps.
    measures : tuple of Measure
    samples : tuple of str
        Ids of the data set's records; per-sample values are in this order.
    targets : tuple of int or None
        The explained class of each.
    call : dict
        What was asked.
    notes : tuple of str
        What was assumed or left out.
    skipped : dict of str to str
        Records that could not be used, with the reason.
    """

    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]
    samples: tuple[str, ...]
    targets: tuple[int | None, ...]
    call: dict[str, Any]
    notes: tuple[str, ...]
    skipped: dict[str, str]

    def __getitem__(self, method: str) -> Row:
        return next(row for row in self.rows if row.method == method)

    def difference(self, first: str, second: str, measure: str) -> Estimate | None:
        """Mean of ``first - second`` over the pictures that both have, with its interval; None without any."""
        pairs = np.stack([self[method].measured[measure].values for method in (first, second)])
        pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
        return paired_difference(*pairs) if pairs.size else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, per sample too."""
        return {
            "call": self.call,
            "measures": [
                {"name": m.name, "title": m.title, "better": m.better, "percent": m.percent} for m in self.measures
            ],
            "samples": self.samples,
            "targets": self.targets,
            "methods": [
                {
                    "method": row.method,
                    "options": dict(row.options),
                    "trivial": row.trivial,
                    "measures": {name: _plain(found) for name, found in row.measured.items()},
                    "seconds": _plain(row.seconds),
                }
                for row in self.rows
            ],
            "notes": self.notes,
            "skipped": self.skipped,
        }


def _plain(found: Measured) -> dict[str, Any]:
    e = found.estimate
    summary = {"mean": None, "low": None, "high": None, "n": 0} if e is None else {
        "mean": e.mean, "low": e.low, "high": e.high, "n": e.n
    }  # fmt: skip
    return {**summary, "values": [value if np.isfinite(value) else None for value in found.values.tolist()]}
