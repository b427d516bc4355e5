"""Results on disk: a folder with one JSON document, named after its kind, and its arrays in arrays.npz."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np
from numpy.lib import format as npy

from onnxplain.errors import FailureError, UsageError
from onnxplain.files import atomic_folder

ARRAYS = "arrays.npz"


def save(
    folder: str | os.PathLike[str], kind: str, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write ``KIND.json`` and ``arrays.npz``, both or none."""
    with atomic_folder(folder) as made:
        write_arrays(made / ARRAYS, arrays)
        (made / f"{kind}.json").write_text(json.dumps(document, indent=2), encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed .npz file, closed also where the disk refuses; ``savez`` of numpy 2.0 leaves it open.

    Raises
    ------
    OSError
        The disk is full or gone.
    """
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, np.asanyarray(array), allow_pickle=False)


@contextmanager
def opened(
    folder: str | os.PathLike[str], kind: str, schema: str, remedy: str = ""
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Read what :func:`save` wrote; what the block misses there is a failure of the file.

    Parameters
    ----------
    folder : path
    kind : str
        Such as ``"explanation"``.
    schema : str
        Which the document must name.
    remedy : str
        Ends the sentence where nothing is there.

    Yields
    ------
    dict
        The document.
    dict of str to numpy.ndarray
        The arrays.

    Raises
    ------
    UsageError
        Nothing of the kind there.
    FailureError
        It is corrupt or of another schema.
    """
    place = Path(folder)
    try:
        content = json.loads((place / f"{kind}.json").read_text(encoding="utf-8"))
        with np.load(place / ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{place} holds no {kind}: {Path(error.filename).name} is missing{remedy}") from error
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise FailureError(f"the {kind} in {place} cannot be read: {error}") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise FailureError(f"{place}: schema {found!r} is not {schema!r}")
    try:
        yield content, arrays
    except (KeyError, TypeError, AttributeError) as error:
        raise FailureError(f"the {kind} in {place} cannot be read: it lacks or misplaces {error}") from error
