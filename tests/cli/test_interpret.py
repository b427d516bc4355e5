"""``onnxplain interpret`` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import numpy as np
import pytest

from onnxplain.cli import main


def written(tmp_path: Path) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    (tmp_path / "net.onnx").write_bytes(
        nets.model(
            [
                nets.node("Conv", ["x", "w"], "c"),
                nets.node("Relu", ["c"], "r"),
                nets.node("GlobalMaxPool", ["r"], "g"),
                nets.node("Flatten", ["g"], "f"),
                nets.node("Gemm", ["f", "v"], "y"),
            ],
            {"x": ["N", 2, 4, 4]},
            constants={"w": np.eye(2)[..., None, None], "v": np.eye(2)},
        )
    )
    np.savez(tmp_path / "data.npz", x=rng.random((20, 2, 4, 4), np.float32), labels=np.arange(20) % 2)
    return str(tmp_path / "net.onnx"), str(tmp_path / "data.npz")


def test_interpret_says_what_each_class_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, data = written(tmp_path)
    assert main(["interpret", net, data, "--labels", "given", "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("6 filters in 3 tensors, 20 samples -> ")
    assert main(["interpret", net, data, "--layers", "conv", "-o", str(tmp_path / "conv")]) == 0
    assert capsys.readouterr().out.startswith("2 filters in 1 tensor, 20 samples -> ")
    assert "2 filters in 1 tensor, 20 samples; " in (tmp_path / "conv" / "index.html").read_text()
    assert main(["interpret", net, data, "-o", str(tmp_path / "out"), "--mu", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "onnxplain.interpret/1"
    assert set(document["features"]) == {"0", "1"}
    assert json.loads((tmp_path / "out" / "interpretation.json").read_text())["settings"]["mu"] == 2
    assert main(["interpret", net, data, "--layers", "stem", "-o", str(tmp_path / "new")]) == 2
    assert "no layer 'stem'" in capsys.readouterr().err
