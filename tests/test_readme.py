"""What the README says works: its commands run, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from onnxplain.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]
TOUR = [line for line in COMMANDS if line.startswith("onnxplain ")]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Work where the README's paths lead to the bundled models, and written files disappear."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)


def test_two_commands_which_ci_runs():
    first, second = [line for line in COMMANDS if line not in TOUR]
    assert first == "pip install . && onnxplain demo"
    assert second == 'pip install -e ".[test]" && pytest'
    assert 'grep -E "^pip install .*&& $1" README.md' in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", TOUR)
def test_tour(checkout, capsys, command):
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("code", blocks("python"))
def test_python(checkout, code):
    exec(code, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []
