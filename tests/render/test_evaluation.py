from __future__ import annotations

import csv
import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from onnxplain.metrics.measures import MEASURES
from onnxplain.metrics.results import Evaluation, Row
from onnxplain.metrics.statistics import Measured
from onnxplain.render.evaluation import best, cell, counted, heading, to_csv, to_html


@pytest.fixture
def evaluation() -> Evaluation:
    measures = tuple(MEASURES[name] for name in ("ebpg", "deletion-zero", "sparseness"))

    def row(method: str, ebpg: float, deletion: float, **options: object) -> Row:
        values = {"ebpg": [ebpg, ebpg + 2], "deletion-zero": [deletion] * 2, "sparseness": [np.nan] * 2}
        return Row(method, options, {name: Measured.of(v) for name, v in values.items()}, Measured.of([0.5, 1.5]))

    rows = (row("a<b>", 40, 0.3, mu="<script>"), row("c", 50, 0.2), row("random", 90, 0.1))
    return Evaluation(rows, measures, ("x.png", "y.png"), (1, 2), {"seed": 0}, ("5 < 6",), {"z.png": "bad & gone"})


def test_best_leaves_the_trivial_maps_aside(evaluation: Evaluation) -> None:
    assert [best(evaluation, measure) for measure in evaluation.measures] == [{"c"}, {"c"}, set()]


def test_best_names_all_that_tie_and_none_where_all_do(evaluation: Evaluation) -> None:
    first, second, trivial = evaluation.rows
    tied = replace(evaluation, rows=(first, second, replace(second, method="d"), trivial))
    equal = replace(evaluation, rows=(second, replace(second, method="d"), trivial))
    assert best(tied, tied.measures[0]) == {"c", "d"}
    assert best(equal, equal.measures[0]) == set()


def test_pictures_are_counted_in_words(evaluation: Evaluation) -> None:
    assert [counted(replace(evaluation, samples=samples, skipped={})) for samples in (("x",), ("x", "y"))] == [
        "1 picture",
        "2 pictures",
    ]
    assert counted(replace(evaluation, samples=("x", "y"), skipped={"y": "none"})) == "1 picture, 1 more skipped"


def test_csv(evaluation: Evaluation) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(evaluation))))
    assert len(rows) == 3 * 4
    assert rows[0]["mean"] == "41.0"
    assert {name: rows[0][name] for name in ("method", "options", "trivial", "measure", "better", "n")} == {
        "method": "a<b>", "options": "mu=<script>", "trivial": "0", "measure": "ebpg", "better": "higher", "n": "2",
    }  # fmt: skip
    assert (rows[2]["mean"], rows[2]["n"]) == ("", "0")
    assert [row["trivial"] for row in rows] == ["0"] * 8 + ["1"] * 4


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.cells: list[list[str]] = []
        self.best: list[str] = []
        self.tags: set[str] = set()
        self._kind = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._kind = dict(attrs).get("class") or "" if tag == "td" else self._kind
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")
            if self._kind == "best" and tag == "td":
                self.best.append(self.cells[-1][0])

    def handle_data(self, data: str) -> None:
        if self.cells and self.cells[-1]:
            self.cells[-1][-1] += data.strip()


def test_html(evaluation: Evaluation) -> None:
    text = to_html(evaluation, "net <1>")
    page = _Page()
    page.feed(text)
    assert page.cells[0] == ["method", "ebpg % ↑", "deletion-zero ↓", "sparseness", "s / picture"]
    assert page.cells[1][0] == "a<b>mu=<script>"
    assert page.cells[2][1].startswith("51.0")
    assert page.cells[3][4].startswith("–")
    assert page.best == ["c", "c"]
    assert not page.tags & {"script", "b", "link", "img"}
    for shown in ("5 &lt; 6", "bad &amp; gone", "net &lt;1&gt;"):
        assert shown in text


def test_cells() -> None:
    assert cell(Measured.of([0.5, 0.5])) == ("0.5", "0.5 .. 0.5")
    assert cell(Measured.of([12.34]), percent=True) == ("12.3", "12.3 .. 12.3")
    assert cell(Measured.of([np.nan])) == ("–", "")
    assert heading(MEASURES["drop"]) == "drop % ↓"
