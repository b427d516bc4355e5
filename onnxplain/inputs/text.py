"""Text files that a user names: size limit, encoding and the columns of a CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from onnxplain.errors import FailureError, UsageError

FILE_BYTES = 2 << 30


def read_text(path: Path, limit: int = FILE_BYTES) -> str:
    """Text of a UTF-8 file, without a byte order mark.

    Parameters
    ----------
    path : Path
        The file.
    limit : int
        Largest size in bytes.

    Raises
    ------
    UsageError
        Not a file.
    FailureError
        Larger than `limit`, unreadable, or not UTF-8.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    try:
        if path.stat().st_size > limit:
            raise FailureError(f"{path} is larger than the {limit >> 20} MiB a file of this kind may have; split it")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FailureError(f"{path} is not UTF-8 text ({error.reason}, byte {error.start}); convert it") from error
    except OSError as error:
        raise FailureError(f"{path} cannot be read: {error.strerror}") from error


def csv_rows(
    path: Path, spellings: Mapping[str, str], required: Collection[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV whose first line names the columns; empty lines are passed over.

    Parameters
    ----------
    path : Path
        The file.
    spellings : mapping
        Column name by each of its accepted spellings, in lower case; other columns keep their own name.
    required : collection of str
        Columns that have to be there.

    Yields
    ------
    (str, dict)
        Where the row stands, for messages, and its values by column.

    Raises
    ------
    UsageError
        Missing file or column, a column named twice, or a row of another length than the first line.
    FailureError
        Not a text file, or not CSV.
    """
    table = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = [name.strip().lower() for name in next(table, [])]
        columns = [spellings.get(name, name) for name in header]
        wrong = [name for name in dict.fromkeys([*required, *columns]) if columns.count(name) != 1]
        if wrong:
            count = columns.count(wrong[0]) or "no"
            raise UsageError(
                f"{path}: {count} column {wrong[0]!r}; its first line names {', '.join(required)}, each once"
            )
        for cells in table:
            where = f"{path}, line {table.line_num}"
            if cells and len(cells) != len(columns):
                raise UsageError(f"{where}: {len(cells)} values for the {len(columns)} columns of the first line")
            if cells:
                yield where, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise FailureError(f"{path}, line {table.line_num}: not CSV: {error}") from error
