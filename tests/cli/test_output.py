"""The progress bar shares a terminal with results, notes and complaints."""

import io
import re
import sys

import pytest

from onnxplain.cli import main
from onnxplain.cli.output import Output

ERASE = "\x1b[2K"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True

    def lines(self):
        """What stays on the screen, line by line, for text that only goes up by whole lines."""
        kept = [""]
        for part in re.split(r"(\n|\r|\x1b\[[?\d;]*[A-Za-z])", self.getvalue()):
            match part:
                case "\n":
                    kept.append("")
                case "\x1b[1A":
                    kept.pop()
                case "\x1b[2K":
                    kept[-1] = ""
                case _ if not part.startswith(("\r", "\x1b")):
                    kept[-1] += part
        return kept


def terminal_of(monkeypatch):
    """stdout and stderr on one terminal, as for a person at work; no fixture, pytest resets both between phases."""
    one = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", one)
    monkeypatch.setattr(sys, "stderr", one)
    monkeypatch.setenv("COLUMNS", "100")
    return one


def test_bar_gives_way_to_everything_else(monkeypatch):
    terminal = terminal_of(monkeypatch)
    out = Output()
    with out.progress("explaining", 3) as step:
        assert "  0%" in terminal.getvalue()
        step()
        out.show(["first", "its line"])
        step.part(0.5)
        out.note("a note")
        step()
        assert " 50%" in terminal.getvalue()
        out.complain("second skipped")
        step()
        out.show(["third"])
    assert terminal.lines() == ["first", "its line", "a note", "onnxplain: second skipped", "third", ""]


def test_one_step_without_parts_shows_no_bar(monkeypatch):
    terminal = terminal_of(monkeypatch)
    out = Output()
    with out.progress("explaining", 1) as step:
        step()
        out.show(["only"])
    assert terminal.getvalue().replace(ERASE, "") == "only\n"


@pytest.mark.parametrize("flag", ["--quiet", "-q"])
def test_quiet_shows_no_bar(monkeypatch, classifier, pictures, flag):
    terminal = terminal_of(monkeypatch)
    assert main(["explain", classifier, pictures, flag]) == 0
    assert "explaining" not in terminal.getvalue()


def test_saliency_advances_the_bar_of_a_single_picture(monkeypatch, classifier, pictures):
    terminal = terminal_of(monkeypatch)
    words = ["explain", classifier, f"{pictures}/a.png", "--method", "salient-relevance", "--option", "long_side=40"]
    assert main(words) == 0
    shares = {int(share) for share in re.findall(r"(\d+)%\x1b", terminal.getvalue())}
    assert len(shares) > 1
    assert any("target" in line for line in terminal.lines())
    assert not any("explaining" in line for line in terminal.lines())
