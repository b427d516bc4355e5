"""Whatever happens in a verb: the sentence, the exit status and a clean stdout."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import onnxplain
from onnxplain import errors
from onnxplain.cli import main
from onnxplain.version import __version__

VERBS = ["explain", "inspect", "plan", "export", "methods", "rules", "ops", "demo"]


@pytest.fixture
def failing(monkeypatch):
    """Let ``onnxplain methods`` raise."""

    def arrange(error):
        def methods():
            raise error

        monkeypatch.setattr(onnxplain, "available_methods", methods)

    return arrange


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"onnxplain {__version__}\n"


def test_no_verb_shows_the_help(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(f"\n  {verb} " in shown for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_has_an_example_and_the_shared_options(capsys, verb):
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"\n  onnxplain {verb}" in shown
    assert all(option in shown for option in ("--json", "--quiet", "--debug"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "No such command 'nothing'; see onnxplain --help"),
        (["plan"], "Missing argument 'MODEL'; see onnxplain plan --help"),
        (["plan", "m.onnx", "--colour"], "No such option: --colour; see onnxplain plan --help"),
        (["explain", "m.onnx", "x.png", "--batch-size", "two"], "--batch-size"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_usage_errors(capsys, words, sentence, as_json):
    assert main([*words, "--json"] if as_json else words) == 2
    streams = capsys.readouterr()
    assert streams.err.startswith("onnxplain: error: ")
    assert streams.err.count("\n") == 1
    assert sentence in streams.err
    if as_json:
        assert sentence in json.loads(streams.out)["error"]["message"]
    else:
        assert streams.out == ""


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "status", "kind", "sentence"),
    [
        (errors.FailureError("broken"), 1, "failure", "broken"),
        (errors.UsageError("no such target"), 2, "usage", "no such target"),
        (errors.UnsupportedError("op Foo"), 3, "unsupported", "op Foo"),
        (MemoryError("Unable to allocate 9 TiB"), 1, "failure", "memory does not suffice (Unable to allocate 9 TiB)"),
        (OSError(errno.ENOSPC, "No space left on device", "x.npz"), 1, "failure", "x.npz: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x.npz"), 1, "failure", "x.npz: Permission denied"),
        (ZeroDivisionError("oops"), 1, "failure", "a bug in onnxplain (ZeroDivisionError: oops)"),
        (KeyboardInterrupt(), 130, "interrupted", "interrupted"),
        (caused(ImportError("initialization failed"), KeyboardInterrupt()), 130, "interrupted", "interrupted"),
    ],
)
def test_errors(failing, capsys, error, status, kind, sentence):
    failing(error)
    assert main(["methods"]) == status
    streams = capsys.readouterr()
    assert streams.out == ""
    assert sentence in streams.err
    assert streams.err.count("\n") == 1

    assert main(["methods", "--json"]) == status
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "onnxplain.error/1"
    assert (document["error"]["status"], document["error"]["kind"]) == (status, kind)
    assert sentence in document["error"]["message"]


def test_debug_shows_where(failing, capsys):
    failing(errors.FailureError("broken"))
    assert main(["methods", "--debug"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "raise error" in shown


def test_control_characters_do_not_reach_the_terminal(failing, capsys):
    failing(errors.FailureError("layer 'a\x1b[2Jb'"))
    main(["methods"])
    assert "\x1b" not in capsys.readouterr().err


@dataclass
class Entry:
    name: str
    width: int
    share: float


def test_table_and_json_of_the_same_result(monkeypatch, capsys):
    monkeypatch.setattr(
        onnxplain, "available_rule_books", lambda: [Entry("a" * 300, 3, float("nan")), Entry("b\x1b[0m", 12, 0.5)]
    )
    assert main(["rules"]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "width", "share"]
    assert first.split() == ["a" * 300, "3", "nan"]
    assert second.split() == ["b\\x1b[0m", "12", "0.5"]

    assert main(["rules", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "onnxplain.rules/1",
        "rule_books": [{"name": "a" * 300, "width": 3, "share": None}, {"name": "b\x1b[0m", "width": 12, "share": 0.5}],
    }


def test_json_stays_pure_when_something_prints(monkeypatch, capsys):
    def chatty():
        print("chatter")
        return [Entry("a", 1, 1.0)]

    monkeypatch.setattr(onnxplain, "available_rule_books", chatty)
    assert main(["rules", "--json"]) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out)["rule_books"]
    assert "chatter" in streams.err


def python(*words, **options):
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_module_is_the_same_as_the_command():
    process = python("-m", "onnxplain", "plan", "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert json.loads(out)["error"]["kind"] == "usage"
    assert err.startswith("onnxplain: error: ")


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_startup_time(words):
    def cpu_seconds():
        before = os.times()
        subprocess.run([sys.executable, "-m", "onnxplain", *words], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(cpu_seconds() for _ in range(3)) < 0.5


INTERRUPTIBLE = """
import signal, sys, time, onnxplain
from onnxplain.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
def books():
    print("started", file=sys.stderr, flush=True)
    for _ in range(600):  # a signal just before a sleep ends the next one
        time.sleep(0.1)
onnxplain.available_rule_books = books
sys.exit(main(["rules"]))
"""


def test_ctrl_c():
    process = python("-c", INTERRUPTIBLE)
    assert process.stderr.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err) == ("", "onnxplain: interrupted\n")


WAITING = """
import sys, onnxplain
from dataclasses import make_dataclass
from onnxplain.cli import main
Entry = make_dataclass("Entry", ["name"])
onnxplain.available_rule_books = lambda: [Entry("x")]
sys.stdin.readline()
sys.exit(main(["rules", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_broken_pipe(options):
    process = python("-c", WAITING, *options, stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert err == "onnxplain: error: the reader of the output closed it before everything was written\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a file on a full disk")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_full_output(options):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "onnxplain", "rules", *options]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert process.returncode == 1
    assert re.fullmatch("onnxplain: error: (the output cannot be written: )?No space left on device\n", process.stderr)


@pytest.mark.parametrize(("variable", "coloured"), [("NO_COLOR", False), ("FORCE_COLOR", True)])
def test_colours(variable, coloured):
    process = python("-c", WAITING, stdin=subprocess.DEVNULL, env={**os.environ, variable: "1"})
    out, _ = process.communicate(timeout=60)
    assert ("\x1b[" in out) is coloured
