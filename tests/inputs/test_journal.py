from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.journal import Journal

JOB = {"model": "abc", "options": {"method": "lrp", "steps": [1, 2]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "journal.jsonl"


def _fill(path: Path, count: int = 3) -> bytes:
    with Journal(path, JOB) as journal:
        for number in range(count):
            journal.append(f"s{number}", {"value": number})
    return path.read_bytes()


def test_records_come_back_in_order(path: Path) -> None:
    _fill(path)
    with Journal(path, JOB) as journal:
        assert (len(journal), list(journal)) == (3, ["s0", "s1", "s2"])
        assert "s1" in journal
        assert "s3" not in journal
        journal.append("s3", {"value": 3})
        assert [journal[key]["value"] for key in journal] == [0, 1, 2, 3]


def test_arrays_and_numbers_keep_their_value(path: Path) -> None:
    record = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
        "names": np.array(["é", "b"]),
        "deep": [{"y": np.array(5, np.int8)}],
        "count": np.int64(4),
        "third": np.float64(1 / 3),
        "none": None,
        "odd": float("nan"),
    }
    with Journal(path, JOB) as journal:
        journal.append("kéy\n\udc80", record)
    with Journal(path, JOB) as journal:
        back = journal["kéy\n\udc80"]
    for given, read in ((record["x"], back["x"]), (record["names"], back["names"])):
        np.testing.assert_array_equal(given, read)
        assert given.dtype == read.dtype  # type: ignore[attr-defined]
    assert back["deep"][0]["y"] == 5
    assert (back["count"], back["third"], back["none"]) == (4, 1 / 3, None)
    assert np.isnan(back["odd"])


def test_a_key_is_appended_once(path: Path) -> None:
    with Journal(path, JOB) as journal:
        journal.append("a", {})
        with pytest.raises(ValueError, match="'a'"):
            journal.append("a", {})


def test_cut_anywhere_only_the_cut_record_is_gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    whole = _fill(path)
    ends = [k + 1 for k, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        left = sum(end <= length for end in ends[1:])
        with Journal(path, JOB) as journal:
            assert list(journal) == [f"s{number}" for number in range(left)], length
            journal.append("new", {"value": length})
            assert journal["new"] == {"value": length}
            assert all(journal[f"s{number}"] == {"value": number} for number in range(left))
        assert path.read_bytes().startswith(whole[: ends[left]])
        with Journal(path, JOB) as journal:
            assert len(journal) == left + 1


def test_a_last_line_of_rubbish_is_dropped_and_rubbish_before_it_is_not(path: Path) -> None:
    whole = _fill(path)
    path.write_bytes(whole + b"\0\0\0\n")
    with Journal(path, JOB) as journal:
        assert len(journal) == 3
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b'"s1"', b"\0\0\0\0"))
    with pytest.raises(FailureError, match="damaged at byte"):
        Journal(path, JOB)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({**JOB, "model": "abd"}, "model is 'abc' there and 'abd' here"),
        ({**JOB, "extra": 1}, "extra is None there and 1 here"),
        ({**JOB, "options": {"method": "lrp", "steps": 3}}, r"\(options steps is \[1, 2\] there and 3 here"),
        ({"model": "abc"}, "options is"),
    ],
)
def test_another_job_is_refused_and_its_records_stay(path: Path, job: dict[str, object], words: str) -> None:
    whole = _fill(path)
    with pytest.raises(UsageError, match=words):
        Journal(path, job)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", ["some notes", "notes\n", "{}\n", "[1]\n", '{"format": "onnxplain.journal/1"}\n'])
def test_another_file_is_refused_and_stays(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UsageError, match="is not a journal"):
        Journal(path, JOB)
    assert path.read_text() == content


def test_another_version_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps({"format": "onnxplain.journal/9", "job": JOB}) + "\n")
    with pytest.raises(UsageError, match="journal/9"):
        Journal(path, JOB)


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_two_at_once_are_refused(path: Path) -> None:
    with Journal(path, JOB), pytest.raises(UsageError, match="in use"):
        Journal(path, JOB)
    Journal(path, JOB).close()


def test_a_place_that_cannot_be_written_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(FailureError, match="cannot be used"):
        Journal(path, JOB)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_append_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    whole = _fill(path)

    def refuse(descriptor: int) -> None:
        raise error

    with Journal(path, JOB) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            with pytest.raises((FailureError, KeyboardInterrupt)):
                journal.append("s3", {"value": 3})
        assert path.read_bytes() == whole
        assert "s3" not in journal
        journal.append("s3", {"value": 33})
        assert journal["s3"] == {"value": 33}


def test_what_has_no_form_leaves_nothing(path: Path) -> None:
    with Journal(path, JOB) as journal:
        with pytest.raises(TypeError, match="Path"):
            journal.append("a", {"x": path})
        with pytest.raises(ValueError, match="Object arrays"):
            journal.append("a", {"x": np.array([None])})
        assert len(journal) == 0


WORKER = """
import sys
import numpy as np
from onnxplain.inputs.journal import Journal
with Journal(sys.argv[1], {"job": 1}) as journal:
    for number in range(100_000):
        if str(number) not in journal:
            journal.append(str(number), {"number": number, "values": np.full(number % 500, number)})
            print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is asked for")
def test_kill_9_loses_and_doubles_nothing(path: Path, worker: Callable[[], subprocess.Popen[str]]) -> None:
    acknowledged = -1
    for pause in (0.0, 0.011, 0.023, 0.04):
        process = worker()
        assert process.stdout is not None
        first = int(process.stdout.readline())
        assert first == acknowledged + 1
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        numbers = [first, *(int(line) for line in process.stdout if line.endswith("\n"))]
        assert process.wait() == -signal.SIGKILL
        assert numbers == list(range(first, numbers[-1] + 1))
        acknowledged = numbers[-1]
        with Journal(path, {"job": 1}) as journal:
            assert len(journal) in (acknowledged + 1, acknowledged + 2)  # the last may have had no time to be printed
            assert list(journal) == [str(number) for number in range(len(journal))]
            for number in range(len(journal)):
                record = journal[str(number)]
                assert record["number"] == number
                np.testing.assert_array_equal(record["values"], np.full(number % 500, number))
            acknowledged = len(journal) - 1


@pytest.fixture
def worker(path: Path) -> Callable[[], subprocess.Popen[str]]:
    def start() -> subprocess.Popen[str]:
        root = Path(__file__).resolve().parents[2]
        return subprocess.Popen([sys.executable, "-c", WORKER, str(path)], stdout=subprocess.PIPE, text=True, cwd=root)

    return start
