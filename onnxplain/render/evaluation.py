"""An evaluation as a table: cells for the terminal, CSV, and one HTML page that needs nothing else."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from html import escape

from onnxplain import wording
from onnxplain.metrics.measures import Measure
from onnxplain.metrics.results import Evaluation, Row
from onnxplain.metrics.statistics import Estimate, Measured

NONE = "–"

_TIE = 1e-6
"""Relative difference up to which two means are the same."""
_ARROWS = {"higher": "↑", "lower": "↓", None: ""}
_COLUMNS = ("method", "options", "trivial", "measure", "better", "mean", "low", "high", "n", "level")
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
td + td { white-space: nowrap; }
thead th { border-bottom: 2px solid #444; }
td small { display: block; color: #666; overflow-wrap: anywhere; }
td.best { font-weight: 600; background: #e8f2e8; }
tr.trivial td { color: #666; background: #f7f7f7; }
p, li { max-width: 60rem; }
"""


def heading(measure: Measure) -> str:
    """Name, unit and the direction in which it is better: ``drop % ↓``."""
    return " ".join(filter(None, (measure.name, "%" * measure.percent, _ARROWS[measure.better])))


def cell(found: Measured, percent: bool = False) -> tuple[str, str]:
    """Mean and interval, each as text; a dash and nothing where there is no value."""
    e = found.estimate
    if e is None:
        return NONE, ""
    return _number(e.mean, percent), f"{_number(e.low, percent)} .. {_number(e.high, percent)}"


def seconds(row: Row) -> str:
    """Mean seconds to explain a picture; a dash for the trivial maps."""
    return NONE if row.trivial or row.seconds.estimate is None else f"{row.seconds.estimate.mean:.3g}"


def counted(evaluation: Evaluation) -> str:
    """How many pictures were measured, and how many could not be used, in words."""
    skipped = len(evaluation.skipped)
    used = wording.counted(len(evaluation.samples) - skipped, "picture")
    return f"{used}, {skipped} more skipped" if skipped else used


def best(evaluation: Evaluation, measure: Measure) -> frozenset[str]:
    """The methods with the best mean, trivial maps aside; none where all methods have the same."""
    means = {
        row.method: found.mean
        for row in evaluation.rows
        if not row.trivial and (found := row.measured[measure.name].estimate) is not None
    }
    if measure.better is None or not means:
        return frozenset()
    wanted = (max if measure.better == "higher" else min)(means.values())
    first = frozenset(method for method, mean in means.items() if math.isclose(mean, wanted, rel_tol=_TIE))
    return frozenset() if len(first) == len(means) > 1 else first


def to_csv(evaluation: Evaluation) -> str:
    """One line per method and measure; seconds per picture are a measure of their own."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for row in evaluation.rows:
        options = " ".join(f"{name}={value}" for name, value in row.options.items())
        for measure in evaluation.measures:
            e = row.measured[measure.name].estimate
            table.writerow((row.method, options, int(row.trivial), measure.name, measure.better or "", *_numbers(e)))
        table.writerow((row.method, options, int(row.trivial), "seconds", "lower", *_numbers(row.seconds.estimate)))
    return text.getvalue()


def to_html(evaluation: Evaluation, title: str) -> str:
    """A page with the table, how it was made, and what was left out."""
    call = "".join(f"<li>{escape(name)}: {escape(str(value))}</li>" for name, value in evaluation.call.items())
    left = [f"{name}: {reason}" for name, reason in evaluation.skipped.items()]
    told = "".join(f"<li>{escape(note)}</li>" for note in (*evaluation.notes, *left))
    heads = "".join(
        f'<th title="{escape(measure.title)}">{escape(heading(measure))}</th>' for measure in evaluation.measures
    )
    winners = {measure.name: best(evaluation, measure) for measure in evaluation.measures}
    rows = "".join(_html_row(evaluation, row, winners) for row in evaluation.rows)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f"<p>{counted(evaluation)}. Below each mean is its 95 % bootstrap interval over the pictures. "
        "The best mean of a column is marked, unless all are equal; the grey rows explain nothing and show what a "
        "measure gives for free.</p>"
        f"\n<table><thead><tr><th>method</th>{heads}<th>s / picture</th></tr></thead>\n<tbody>{rows}</tbody></table>\n"
        + (f"<h2>Left out</h2><ul>{told}</ul>\n" if told else "")
        + f"<h2>How it was made</h2><ul>{call}</ul></body></html>\n"
    )


def _html_row(evaluation: Evaluation, row: Row, winners: dict[str, frozenset[str]]) -> str:
    options = "".join(f"<small>{escape(f'{name}={value}')}</small>" for name, value in row.options.items())
    cells = "".join(_html_cells(evaluation, row, winners))
    kind = ' class="trivial"' if row.trivial else ""
    return f"<tr{kind}><td>{escape(row.method)}{options}</td>{cells}<td>{seconds(row)}</td></tr>\n"


def _html_cells(evaluation: Evaluation, row: Row, winners: dict[str, frozenset[str]]) -> Iterator[str]:
    for measure in evaluation.measures:
        mean, interval = cell(row.measured[measure.name], measure.percent)
        kind = ' class="best"' if row.method in winners[measure.name] else ""
        yield f"<td{kind}>{escape(mean)}<small>{escape(interval)}</small></td>"


def _number(value: float, percent: bool) -> str:
    return f"{value:.1f}" if percent else f"{value:.3g}"


def _numbers(e: Estimate | None) -> tuple[object, ...]:
    return ("", "", "", 0, "") if e is None else (repr(e.mean), repr(e.low), repr(e.high), e.n, e.level)
