from __future__ import annotations

from pathlib import Path

import pytest

from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.labels import read_labels


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "cat\nhot dog\n"),
        ("l.txt", "\ufeffcat\r\nhot dog\r\n\r\n"),
        ("l.txt", "n01440764 cat\nn01443537 hot dog\n"),
        ("l.json", '["cat", "hot dog"]'),
        ("l.json", '{"1": "hot dog", "0": "cat"}'),
        ("l.json", '{"0": ["n01440764", "cat"], "1": ["n01443537", "hot dog"]}'),
        ("l.json", '{"hot dog": 1, "cat": 0}'),
    ],
)
def test_forms(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_labels(tmp_path / name) == ("cat", "hot dog")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.txt", "", "line 1 is empty"),
        ("l.txt", "cat\n\ndog", "line 2 is empty"),
        ("l.json", "{", "not a list of labels"),
        ("l.json", "[" * 100_000, "not a list of labels"),
        ("l.json", "[]", "neither a list"),
        ("l.json", "3", "neither a list"),
        ("l.json", '["cat", ""]', "index 1 is ''"),
        ("l.json", '["cat", 3]', "index 1 is 3"),
        ("l.json", '{"0": "cat", "2": "dog"}', "indices of the 2 names are not 0 to 1"),
        ("l.json", '{"a": "cat", "b": "dog"}', "not a list of labels"),
    ],
)
def test_wrong_files(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        read_labels(tmp_path / name)


def test_not_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a file"):
        read_labels(tmp_path / "none.txt")
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FailureError, match="UTF-8"):
        read_labels(tmp_path / "l.txt")
