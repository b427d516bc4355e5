"""Files of class names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from onnxplain.errors import UsageError
from onnxplain.inputs.text import read_text

LABEL_BYTES = 16 << 20
_WNID = re.compile(r"n\d{8}\s+")


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names in the order of their indices.

    A text file has one name per line; WordNet ids in front of every name are left out. A JSON file holds a list of
    names, or an object: index to name, index to [id, name], or name to index.

    Raises
    ------
    UsageError
        Missing file, an empty line or name, indices that are not 0, 1, 2, ...
    FailureError
        Too large or not text.
    """
    text = read_text(path, LABEL_BYTES)
    if path.suffix.lower() != ".json":
        return _from_lines(path, text)
    try:
        return label_names(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a list of labels: {error}") from error


def label_names(content: Any) -> tuple[str, ...]:
    """Class names of a list or a mapping as JSON files and metadata hold them.

    Raises
    ------
    ValueError
        Anything else, or indices that are not 0, 1, 2, ...
    """
    if isinstance(content, dict):
        if content and all(isinstance(value, int) for value in content.values()):
            content = {index: name for name, index in content.items()}
        named = {int(index): name for index, name in content.items()}
        if sorted(named) != list(range(len(content))):
            raise ValueError(f"the indices of the {len(content)} names are not 0 to {len(content) - 1}")
        content = [named[index] for index in range(len(named))]
    if not isinstance(content, list | tuple) or not content:
        raise ValueError("neither a list of names nor an object of index to name")
    names = tuple(name[-1] if isinstance(name, list | tuple) and name else name for name in content)
    wrong = next((index for index, name in enumerate(names) if not isinstance(name, str) or not name.strip()), None)
    if wrong is not None:
        raise ValueError(f"the name of index {wrong} is {names[wrong]!r}")
    return names


def _from_lines(path: Path, text: str) -> tuple[str, ...]:
    names = [line.strip() for line in text.rstrip().splitlines()]
    if "" in names or not names:
        raise UsageError(f"{path}: line {names.index('') + 1 if names else 1} is empty; give one label per line")
    if all(_WNID.match(name) for name in names):
        names = [_WNID.sub("", name, count=1) for name in names]
    return tuple(names)
