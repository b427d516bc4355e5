"""The demo: right about the bundled pictures, and about what decides them."""

import json
from pathlib import Path

from onnxplain.cli import main


def test_demo(place, capsys):
    assert main(["demo"]) == 0
    shown = capsys.readouterr().out
    folders = sorted(path.name for path in Path("onnxplain-demo").iterdir() if path.is_dir())
    assert len(folders) >= 6
    for folder in folders:
        assert f"{folder}.png" in shown
        files = {path.name for path in Path("onnxplain-demo", folder).iterdir()}
        assert files == {"heatmap.png", "overlay.png", "arrays.npz", "explanation.json"}
        assert all(name in shown for name in files)
    assert "onnxplain-demo/overview.png" in shown
    assert Path("onnxplain-demo/overview.png").stat().st_size > 100_000


def test_demo_as_json(place, capsys):
    assert main(["demo", "-o", "here", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "onnxplain.demo/1"
    for row in document["pictures"]:
        assert row["picture"].endswith(f"_{row['decision']}.png"), "the file's name says the class"
        assert row["relevance_on_petals"] > 4 * row["petals_of_picture"]


def test_folder_that_cannot_be_written(place, capsys):
    Path("onnxplain-demo").touch()
    assert main(["demo"]) == 1
    assert "onnxplain-demo is a file" in capsys.readouterr().err
