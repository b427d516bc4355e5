"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True)
settings.load_profile("same")  # the same examples in every run; --hypothesis-profile=default draws new ones


@pytest.fixture(scope="session")
def material() -> Path:
    """Folder of real models and pictures; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "material"
    folder = Path(os.environ.get("ONNXPLAIN_MATERIAL", default))
    if not folder.is_dir():
        pytest.skip(f"no material in {folder}; ONNXPLAIN_MATERIAL names the folder")
    return folder
