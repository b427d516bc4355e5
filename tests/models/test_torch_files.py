"""Files that torch wrote (tools/make_pth_samples.py), and files that would do harm."""

import contextlib
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from onnxplain import FailureError, UsageError

sys.path.insert(0, str(Path(__file__).parents[2] / "models"))

from torch_files import read_pth

HERE = Path(__file__).parent


@pytest.mark.parametrize("form", ["zipped", "sequence"])
def test_tensors_are_those_that_torch_saved(form):
    found = read_pth(HERE / f"{form}.pth")
    with np.load(HERE / "pth_values.npz") as expected:
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)


def test_a_whole_module_is_refused_unread():
    with pytest.raises(UsageError, match=r"module\.pth: the file asks for torch\.nn\.modules\S+, .*state_dict"):
        read_pth(HERE / "module.pth")


class Harmful:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zipped", "sequence"])
def test_nothing_in_a_file_is_called(tmp_path, form):
    content = pickle.dumps({"w": Harmful(tmp_path / "made")})
    path = tmp_path / "w.pth"
    if form == "zipped":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"asks for .*mkdir"):
        read_pth(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("form", ["zipped", "sequence"])
def test_damage_anywhere_is_a_sentence(tmp_path, form):
    whole = (HERE / f"{form}.pth").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "w.pth"
    for _ in range(200):
        content = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.5 else whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        with contextlib.suppress(UsageError, FailureError):
            read_pth(path)


@pytest.mark.parametrize("content", [b"", b"rubbish", pickle.dumps([1, 2]), pickle.dumps(7)])
def test_other_files(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(FailureError, match="not a sound"):
        read_pth(tmp_path / "w.pth")
