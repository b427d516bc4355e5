from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxplain.errors import FailureError
from onnxplain.render.heatmap import DIVERGING, SEQUENTIAL, heatmap, overlay, scaled, write_png

WHITE = [255, 255, 255]


def test_signed_maps_are_centred_on_white() -> None:
    colours = heatmap(np.array([[-1.0, 0.0, 0.5, 1.0], [-4.0, 0.0, 2.0, 4.0]]))
    assert colours.dtype == np.uint8
    assert colours.shape == (2, 4, 3)
    assert colours[1].tolist() == [[5, 48, 97], WHITE, DIVERGING[190].tolist(), [103, 0, 31]]
    assert colours[0, 1].tolist() == WHITE
    assert colours[0, 0, 2] > colours[0, 0, 0]


def test_the_table_is_even_and_ends_where_it_should() -> None:
    assert DIVERGING[127].tolist() == WHITE
    assert len(DIVERGING) == 255
    assert SEQUENTIAL[0].tolist() == WHITE
    lightness = SEQUENTIAL @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) <= 0).all()
    red, blue = DIVERGING[128:] @ [1, 1, 1], DIVERGING[126::-1] @ [1, 1, 1]
    assert (np.diff(red) <= 0).all()
    assert (np.diff(blue) <= 0).all()


def test_positive_maps_use_the_other_table() -> None:
    colours = heatmap(np.array([[0.0, 1.0, 2.0]]))
    assert colours[0].tolist() == [WHITE, SEQUENTIAL[128].tolist(), SEQUENTIAL[255].tolist()]
    signed = heatmap(np.array([[0.0, 1.0, 2.0]]), signed=True)
    assert signed[0, 2].tolist() == DIVERGING[254].tolist()
    forced = heatmap(np.array([[-2.0, 1.0]]), signed=False)
    assert forced[0, 0].tolist() == WHITE


def test_a_map_without_zeros_begins_at_its_smallest_value() -> None:
    lifted = np.array([[3.0, 4.0, 5.0, np.nan]])
    assert (heatmap(lifted)[0, :3] == heatmap(lifted - 3)[0, :3]).all()
    assert heatmap(np.array([[1.0, 3.0]]), signed=True)[0, 0].tolist() != WHITE
    assert heatmap(np.full((1, 1), 2.0))[0, 0].tolist() == SEQUENTIAL[255].tolist()


@pytest.mark.parametrize("values", [np.zeros((2, 3)), np.zeros((2, 3), np.float16)])
def test_an_empty_map_is_white(values: np.ndarray) -> None:
    assert (heatmap(values) == 255).all()


def test_the_scale_ignores_what_was_not_seen() -> None:
    values = np.array([[np.nan, 2.0, 1.0]])
    assert scaled(values)[0, 1:].tolist() == [1, 0.5]
    assert heatmap(values)[0, 0].tolist() == [200, 200, 200]
    assert (heatmap(np.full((2, 2), np.nan)) == 200).all()


def test_percentile_cuts_outliers_on_request_only() -> None:
    values = np.arange(101, dtype=np.float64).reshape(1, -1)
    values[0, 100] = 1e6
    assert scaled(values)[0, 50] < 1e-3
    assert scaled(values, percentile=50)[0, 25] == 0.5
    assert scaled(values, percentile=50)[0, 60:].tolist() == [1] * 41
    sparse = np.zeros((1, 100))
    sparse[0, 0] = 3
    assert scaled(sparse, percentile=90)[0, :2].tolist() == [1, 0]


def test_tiny_and_huge_values_keep_their_scale() -> None:
    values = np.array([[-1.0, 0.5]])
    expected = heatmap(values)
    for factor in (1e-300, 1e-30, 1e300):
        assert (heatmap(values * factor) == expected).all()


def test_overlay_shows_the_picture_where_there_is_no_relevance() -> None:
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[:, :, 1] = 100
    values = np.array([[0.0, 1.0, np.nan], [0.0, -1.0, np.nan]])
    blended = overlay(values, picture)
    grey = 0.587 * 100
    assert blended[0, 0].tolist() == [round(grey + (255 - grey) * 0.4)] * 3
    assert blended[0, 2].tolist() == [round(grey * 0.7)] * 3
    paper = grey + (255 - grey) * 0.4
    np.testing.assert_allclose(blended[0, 1], paper + 0.9 * (DIVERGING[254] - paper), atol=0.51)
    np.testing.assert_allclose(blended[1, 1], paper + 0.9 * (DIVERGING[0] - paper), atol=0.51)


def test_overlay_is_graded() -> None:
    blended = overlay(np.linspace(0, 1, 11)[np.newaxis], np.full((1, 11, 3), 128, np.uint8)).astype(int)
    redness = blended[0, :, 0] - blended[0, :, 2]
    assert redness[0] == 0
    assert (np.diff(redness[:8]) > 0).all()


def test_png(tmp_path: Path) -> None:
    rgb = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    write_png(tmp_path / "m.png", rgb)
    assert (np.asarray(Image.open(tmp_path / "m.png")) == rgb).all()
    assert [file.name for file in tmp_path.iterdir()] == ["m.png"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(self: Path, data: bytes) -> None:
        with self.open("wb") as stream:
            stream.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(FailureError, match=r"m\.png cannot be written: No space left"):
        write_png(tmp_path / "m.png", np.zeros((4, 5, 3), np.uint8))
    assert not list(tmp_path.iterdir())
