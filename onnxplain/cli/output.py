"""What a verb shows: results on stdout, as text or as one JSON document; notes and progress on stderr."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from onnxplain.errors import FailureError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

UNLIMITED = 100_000
"""Width for a pipe or a file, where no line is to be broken."""


class Output:
    """Where one verb writes.

    Parameters
    ----------
    as_json : bool
        Results as one JSON document.
    quiet : bool
        No notes and no progress.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._results = sys.stdout
        self._bar: Progress | None = None

    def result(self, schema: str, document: Mapping[str, Any], lines: Callable[[], Iterable[RenderableType]]) -> None:
        """Print the result of the verb as a document or for a person.

        Parameters
        ----------
        schema, document
            As for :meth:`document`.
        lines : callable
            Gives what :meth:`show` takes; called only where it is shown.
        """
        self.document(schema, document)
        if not self.as_json:
            self.show(lines())

    def document(self, schema: str, document: Mapping[str, Any]) -> None:
        """Print the one JSON document of the verb; nothing where results are for a person.

        Parameters
        ----------
        schema : str
            Name and version, such as ``"onnxplain.plan/1"``.
        document : mapping
            Its content; numpy values, paths and dataclasses are converted.
        """
        if self.as_json:
            emit_json({"schema": schema, **document}, self._results)

    def show(self, lines: Iterable[RenderableType]) -> None:
        """Print strings and tables for a person; nothing where the result is a JSON document."""
        if self.as_json:
            return
        screen = console(self._results)
        with screen.capture() as captured:
            for line in lines:
                screen.print(printable(line) if isinstance(line, str) else line)
        with self._bar_away():
            _write(re.sub(r" +\n", "\n", captured.get()), self._results)

    def note(self, text: str) -> None:
        """Tell the user something on stderr that is no result."""
        if not self.quiet:
            with self._bar_away():
                console(sys.stderr).print(printable(text))

    def complain(self, text: str) -> None:
        """Tell the user what went wrong with a part of the work."""
        with self._bar_away():
            sys.stderr.write(f"onnxplain: {printable(text)}\n")

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Steps]:
        """Show a bar on stderr, if that is a terminal; whatever else is written appears above it.

        It appears with the first part of a step, or at once where there are several.

        Yields
        ------
        Steps
            To be called after each step.
        """
        if self.quiet or not sys.stderr.isatty():
            yield Steps(lambda done: None)
            return
        from rich.progress import Progress

        self._bar = bar = Progress(console=console(sys.stderr), transient=True)
        task = bar.add_task(what, total=total)

        def show(done: float) -> None:
            if done < total:
                bar.start()
            bar.update(task, completed=done)

        try:
            if total > 1:
                show(0)
            yield Steps(show)
        finally:
            self._bar = None
            bar.stop()

    @contextmanager
    def _bar_away(self) -> Iterator[None]:
        """Take the bar off the terminal while something else is written to it."""
        bar = self._bar if self._bar is not None and self._bar.live.is_started else None
        if bar is not None:
            bar.stop()
        yield
        if bar is not None:
            bar.start()


class Steps:
    """Counts steps.

    Parameters
    ----------
    show : callable
        Told how many steps are done.
    """

    def __init__(self, show: Callable[[float], None]) -> None:
        self._show = show
        self._done = 0
        self._shown = 0.0

    def __call__(self) -> None:
        """One more step is done."""
        self._done += 1
        self.part(0)

    def part(self, steps: float) -> None:
        """That much of the steps ahead is done."""
        self._shown = max(self._shown, self._done + steps)
        self._show(self._shown)


def console(stream: TextIO) -> Console:
    """Make a rich console that prints text as it is and honours NO_COLOR."""
    from rich.console import Console

    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    width = None if stream.isatty() else UNLIMITED
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """Lay rows out under bold headings; numbers are set flush right."""
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numbers = cells and all(isinstance(row[index], int | float) for row in cells)
        grid.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(Text(printable(str(cell))) for cell in row))
    return grid


def records(items: Sequence[Any]) -> RenderableType:
    """Lay dataclasses out as a table, a column per field."""
    names = [field.name for field in dataclasses.fields(items[0])]
    return table([name.replace("_", " ") for name in names], ([getattr(i, name) for name in names] for i in items))


def printable(text: str) -> str:
    """Escape control characters: names in a model file are not trusted with the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def emit_json(document: Mapping[str, Any], stream: TextIO) -> None:
    """Write one JSON document to stdout."""
    _write(json_text(document), stream)


def json_text(document: Mapping[str, Any]) -> str:
    """A JSON document; values without a JSON form (NaN, infinities) become null."""
    return json.dumps(jsonable(document), indent=2, allow_nan=False) + "\n"


def jsonable(value: Any) -> Any:
    """Turn dataclasses, mappings, sequences, paths and numpy values into what JSON knows."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, Iterable):
        return [jsonable(item) for item in value]
    return str(value)


def _write(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # The interpreter flushes stdout once more at exit and would complain a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError):
            raise FailureError("the reader of the output closed it before everything was written") from error
        raise FailureError(f"the output cannot be written: {error.strerror}") from error
