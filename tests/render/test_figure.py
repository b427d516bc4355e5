from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxplain.render.figure import map_figure
from onnxplain.render.heatmap import heatmap


def test_panels(tmp_path: Path) -> None:
    picture = np.zeros((6, 8, 3), np.uint8)
    values = np.linspace(-1, 1, 48).reshape(6, 8)
    panels = [
        ("picture", picture),
        ("map $a_$", values),
        ("series", np.array([1.0, -2.0])),
        ("d", values),
        ("e", values),
    ]
    figure = map_figure(panels)
    shown = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == [title for title, _ in panels]
    assert (shown[0].images[0].get_array() == picture).all()
    assert (shown[1].images[0].get_array() == heatmap(values)).all()
    assert [bar.get_height() for bar in shown[2].patches] == [1, -2]
    assert len(figure.axes) == 8
    figure.savefig(tmp_path / "f.png")
    assert len(map_figure(panels, columns=1).axes) == 5


def test_wrong_panels() -> None:
    with pytest.raises(ValueError, match="at least one"):
        map_figure([])
    with pytest.raises(ValueError, match=r"shape \(2, 2, 4\)"):
        map_figure([("a", np.zeros((2, 2, 4)))])


def test_matplotlib_is_imported_on_use_only() -> None:
    code = (
        "import sys, numpy as np, onnxplain.render.figure as f, onnxplain.render.heatmap, onnxplain.inputs.loaders\n"
        "assert not {'matplotlib', 'cv2', 'numba', 'sklearn'} & set(sys.modules), sys.modules.keys()\n"
        "f.map_figure([('a', np.zeros((2, 2)))])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
