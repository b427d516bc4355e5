"""Every verb that writes, on a disk that is truly full: a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnxplain.cli import main

ROOM = [0, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256]
"""KiB left on the disk, until they suffice; a tmpfs takes pages of 4."""
ROOM_OF_DEMO = [64, 1024, 4096]

WRITERS = {
    "explain": ["explain", "net.onnx", "pictures", "-o", "disk/out"],
    "compare": ["compare", "net.onnx", "net.onnx", "pictures", "-o", "disk/out"],
    "evaluate": ["evaluate", "net.onnx", "pictures", "--methods=gradient", "--metrics=sparseness", "-o", "disk/out"],
    "interpret": ["interpret", "net.onnx", "pictures", "-o", "disk/out"],
    "ablate": ["ablate", "net.onnx", "pictures", "-i", "known", "-o", "disk/out"],
    "export": ["export", "net.onnx", "-o", "disk/out/explained.onnx"],
    "demo": ["demo", "-o", "disk/out"],
}

CHILD = """
import contextlib, io, json, os, shutil, sys
from pathlib import Path
from onnxplain.cli import main
from onnxplain.explanation import Explanation

disk, filler = Path("disk"), Path("disk/filler")
def fill(room):
    filler.unlink(missing_ok=True)
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - 1024 * room)))
tries = []
for room in json.loads(sys.argv[1]):
    fill(room)
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        status = main([*sys.argv[2:], "--quiet"])
    left = sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if path != filler and path.is_file())
    for path in disk.rglob("explanation.json"):
        Explanation.load(path.parent)
    tries.append({"room": room, "status": status, "said": said.getvalue(), "left": left})
    if status == 0:
        break
print(json.dumps(tries))
"""


def mounted(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command with 8 MiB of disk in ``disk/``, which nobody else sees."""
    mount = 'mount -t tmpfs -o size=8m tmpfs disk && exec "$@"'
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *command]
    return subprocess.run(words, capture_output=True, text=True, **options)


@pytest.fixture
def disk(place: Path) -> Path:
    (place / "disk").mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("a disk of a few KiB takes unshare(1)")
    tried = mounted(["true"])
    if tried.returncode:
        pytest.skip(f"no mount namespace is allowed here: {tried.stderr.strip()}")
    return place / "disk"


@pytest.mark.parametrize("verb", WRITERS)
def test_full_disk(verb: str, disk: Path, classifier: str, pictures: str) -> None:
    """One sentence, nothing by halves, nothing hidden; with more room the same call succeeds."""
    if verb == "ablate":
        assert main(["interpret", classifier, pictures, "-o", "known"]) == 0
    (disk.parent / "tmp").mkdir()
    child = mounted(
        [sys.executable, "-c", CHILD, json.dumps(ROOM_OF_DEMO if verb == "demo" else ROOM), *WRITERS[verb]],
        env={**os.environ, "TMPDIR": str(disk.parent / "tmp")},
    )
    assert child.returncode == 0, child.stderr
    *failed, done = json.loads(child.stdout)
    assert failed
    for one in failed:
        assert one["status"] == 1, one
        assert one["said"].count("\n") == 1, one
        assert one["said"].startswith("onnxplain: error: disk/out"), one
        assert one["said"].endswith(": No space left on device\n"), one
        assert set(one["left"]) <= set(done["left"]), "nothing hidden, nothing that is removed in the end"
    assert done["status"] == 0, done
    assert {Path(name).name for name in failed[0]["left"]} <= {"journal.jsonl"}
    assert not list((disk.parent / "tmp").iterdir())
