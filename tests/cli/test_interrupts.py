"""Ctrl-C at the places where it would do harm."""

import signal
import subprocess
import sys
import threading

import pytest

from onnxplain.cli import main
from onnxplain.cli.interrupts import interrupts_at_safe_places

BOOKS = """
import signal, sys, threading, time, onnxplain
from onnxplain.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
def wait(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:  # a signal just before a sleep ends the next one
        time.sleep(0.05)
def books():
{books}
    wait(60)
onnxplain.available_rule_books = books
sys.exit(main(["rules"]))
"""

MODULE = """
import sys
from __main__ import wait
try:
    print("started", file=sys.stderr, flush=True)
    wait(1)
except BaseException:
    print("broken", file=sys.stderr)
    raise
{end}
"""


def started(books, folder):
    command = [sys.executable, "-c", BOOKS.format(books=books)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("end", ["", "import none_such", "import json"], ids=["whole", "failing", "nested"])
def test_an_import_comes_to_its_end(tmp_path, end):
    (tmp_path / "outer.py").write_text("import inner")
    (tmp_path / "inner.py").write_text(MODULE.format(end=end))
    process = started("    import outer", tmp_path)
    assert process.stderr.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "onnxplain: interrupted\n")
    assert process.returncode == 130


THREAD = """
    from concurrent.futures import ThreadPoolExecutor
    start = threading.Thread.start
    def interrupted(thread):
        start(thread)
        signal.raise_signal(signal.SIGINT)
    threading.Thread.start = interrupted
    global pool
    pool = ThreadPoolExecutor(1)
    pool.submit(time.sleep, 0)
"""


def test_the_threads_of_a_pool_end(tmp_path):
    """A pool that is left before it has noted its new thread waits for it for ever when Python ends."""
    process = started(THREAD, tmp_path)
    try:
        assert process.communicate(timeout=30) == ("", "onnxplain: interrupted\n")
    finally:
        process.kill()
    assert process.returncode == 130


def test_an_import_around_the_command_does_not_hold_it_up(tmp_path):
    (tmp_path / "script.py").write_text(BOOKS.format(books='    print("started", file=sys.stderr, flush=True)'))
    process = subprocess.Popen([sys.executable, "-c", "import script"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "onnxplain: interrupted\n"
    assert process.returncode == 130


def test_the_handler_is_there_for_the_command_only(monkeypatch):
    monkeypatch.setattr("onnxplain.available_rule_books", lambda: seen.append(signal.getsignal(signal.SIGINT)) or [])
    former = signal.getsignal(signal.SIGINT)
    try:
        for mine in (signal.default_int_handler, signal.SIG_IGN):
            seen = []
            signal.signal(signal.SIGINT, mine)
            main(["rules"])
            assert signal.getsignal(signal.SIGINT) is mine
            assert (seen[0] is mine) is (mine is signal.SIG_IGN), "who ignores Ctrl-C goes on ignoring it"
    finally:
        signal.signal(signal.SIGINT, former)


def test_other_threads_are_left_alone():
    seen = []

    def elsewhere():
        with interrupts_at_safe_places():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
