"""Where the bundled rule books and models lie: inside a wheel, or at the top of a clone or an editable install."""

from __future__ import annotations

from pathlib import Path

from onnxplain.errors import FailureError

_PACKAGE = Path(__file__).parent


def resource(relative: str) -> Path:
    """Find a bundled file or folder.

    Parameters
    ----------
    relative : str
        Path as in the repository, for example ``"rules"`` or ``"models/flowers.onnx"``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FailureError
        If the installation lacks it.
    """
    bundled = _PACKAGE / "bundled"
    root = bundled if bundled.is_dir() else _PACKAGE.parent
    path = root / relative
    if not path.exists():
        raise FailureError(
            f"{relative} is missing from this installation of onnxplain (looked in {root}): reinstall it"
        )
    return path
