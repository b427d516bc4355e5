import pytest

from onnxplain import resources
from onnxplain.errors import FailureError


def test_clone():
    assert (resources.resource("rules") / "epsilon-plus-flat.toml").is_file()


def test_wheel(tmp_path, monkeypatch):
    book = tmp_path / "onnxplain" / "bundled" / "rules" / "own.toml"
    book.parent.mkdir(parents=True)
    book.touch()
    (tmp_path / "rules").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "onnxplain")
    assert resources.resource("rules/own.toml") == book


def test_missing():
    with pytest.raises(FailureError, match=r"rules/nothing\.toml is missing"):
        resources.resource("rules/nothing.toml")
