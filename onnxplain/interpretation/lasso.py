"""The mu-lasso: non-negative weights per class under a bound on their sum, on the Gram matrix of the responses.

``min ||X^T w - l||^2  subject to  w >= 0, sum w <= mu`` for the indicator l of every class; no intercept, nothing
centred (Oramas et al. 2019, section 3.1). Where the bound is inactive this is non-negative least squares, and where it
binds, least squares on a simplex, which one more non-negative least squares problem solves exactly. The LARS path of
scikit-learn is not used: with non-negative weights it ends beside the solution on the very data of the planted test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from onnxplain.files import reserve, written

BLOCK_BYTES = 2**28
"""Memory for the block of the Gram matrix that is being summed."""
CHUNK = 512
"""Samples that are read at once."""
_WORKING = 256
"""Filters that a class begins with, and that join it at most at once."""
_SLACK = 1e-8
"""How far a slope may lie above the multiplier, as a share of the largest moment."""


@dataclass(frozen=True)
class Solution:
    """The weights of one class.

    Attributes
    ----------
    index : numpy.ndarray
        Filters with a positive weight, ascending.
    weight : numpy.ndarray
        float64, their weights.
    bounded : bool
        Whether the bound is active; otherwise the weights are those of non-negative least squares.
    """

    index: np.ndarray
    weight: np.ndarray
    bounded: bool


def solve(x: np.ndarray, rows: np.ndarray, classes: np.ndarray, mu: float, folder: Path) -> Iterator[Solution]:
    """The weights of class 0, 1, ... up to the largest in ``classes``.

    Memory stays below ``BLOCK_BYTES`` plus twice ``CHUNK`` rows in float64, whatever the number of samples; the Gram
    matrix of the m distinct filters takes 8 m^2 bytes on disk.

    Parameters
    ----------
    x : numpy.ndarray
        Samples x filters, float32; may be mapped from a file.
    rows : numpy.ndarray
        The samples to use.
    classes : numpy.ndarray
        Their classes, from 0.
    mu : float
        The bound; infinity for none.
    folder : Path
        Where the Gram matrix may stand meanwhile.

    Raises
    ------
    FailureError
        The disk has no room for it.
    """
    kept = distinct(x, rows)
    moments = np.zeros((int(classes.max()) + 1, len(kept)))
    for part in _parts(rows):
        np.add.at(moments, classes[part], x[rows[part]][:, kept])
    file = folder / "gram.f64"
    gram = np.zeros((0, 0))
    try:
        if len(kept):
            with written(file), open(file, "w+b") as sized:
                reserve(sized, 8 * len(kept) ** 2)
                gram = np.memmap(sized, np.float64, "r+", shape=(len(kept),) * 2)
        _fill(gram, x, rows, kept)
        for moment in moments:
            weights, bounded = bounded_nnls(gram, moment, mu)
            support = np.flatnonzero(weights)
            yield Solution(kept[support], weights[support], bounded)
    finally:
        del gram
        file.unlink(missing_ok=True)


def distinct(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The filters that respond somewhere and not everywhere exactly as an earlier one, ascending."""
    code = np.zeros(x.shape[1], np.uint64)
    alive = np.zeros(x.shape[1], bool)
    for part in _parts(rows):
        chunk = np.ascontiguousarray(x[rows[part]], np.float32)
        alive |= chunk.any(axis=0)
        for row in chunk.view(np.uint32):
            code = code * np.uint64(0x9E3779B97F4A7C15) + row + np.uint64(1)
    first = np.unique(code, return_index=True)[1]
    return np.sort(first[alive[first]])


def _parts(rows: np.ndarray) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, len(rows), CHUNK))


def _fill(gram: np.ndarray, x: np.ndarray, rows: np.ndarray, kept: np.ndarray) -> None:
    """Sum the matrix block by block, the half on and above the diagonal."""
    size = len(kept)
    width = max(1, BLOCK_BYTES // (8 * max(size, 1)))
    for start in range(0, size, width):
        stop = min(start + width, size)
        block = np.zeros((stop - start, size - start))
        for part in _parts(rows):
            chunk = x[rows[part]][:, kept[start:]].astype(np.float64)
            block += chunk[:, : stop - start].T @ chunk
        gram[start:stop, start:] = block
        gram[start:, start:stop] = block.T


def bounded_nnls(gram: np.ndarray, moment: np.ndarray, mu: float) -> tuple[np.ndarray, bool]:
    """The weights of one class and whether the bound is active.

    Solved exactly on a working set: the filters in use, and those that violate the optimality conditions over all.
    Each round lowers the residual, until none violates them or rounding leaves nothing to gain.

    Parameters
    ----------
    gram : numpy.ndarray
        m x m.
    moment : numpy.ndarray
        m: sum of the responses over the samples of the class.
    mu : float
    """
    weights = np.zeros(len(moment))
    order = np.argsort(-moment, kind="stable")
    working = np.sort(order[:_WORKING][moment[order[:_WORKING]] > 0])
    slack, bounded, lowest = _SLACK * moment.max(initial=0), False, np.inf
    while working.size:
        found, multiplier, bounded = _solve(np.asarray(gram[np.ix_(working, working)]), moment[working], mu)
        support, found = working[found > 0], found[found > 0]
        slope = moment - found @ np.asarray(gram[support])
        value = -found @ (moment[support] + slope[support])
        weights = np.zeros(len(moment))
        weights[support] = found
        slope[working] = -np.inf
        new = np.flatnonzero(slope > multiplier + slack)
        if not new.size or value > lowest - 1e-12 * abs(lowest):
            break
        lowest = value
        working = np.union1d(support, new[np.argsort(-slope[new], kind="stable")[:_WORKING]])
    return weights, bounded


def _solve(gram: np.ndarray, moment: np.ndarray, mu: float) -> tuple[np.ndarray, float, bool]:
    """Weights, the bound's multiplier, and whether it is active, on a small Gram matrix."""
    values, vectors = np.linalg.eigh(gram)
    held = values > values[-1] * 1e-13
    root = (vectors[:, held] * np.sqrt(values[held])).T
    aim = (moment @ vectors[:, held]) / np.sqrt(values[held])
    found = _nnls(root, aim)
    if found.sum() <= mu:
        return found, 0.0, False
    # With w = mu v and sum v = 1 the residual is E v. Minimizing |E v|^2 + (sum v - 1)^2 over v >= 0 gives a multiple
    # of the v that minimizes |E v| on the simplex: for v = s u the best s leaves |E u|^2 / (1 + |E u|^2).
    residual = (mu * root - aim[:, np.newaxis]) / np.linalg.norm(aim)
    share = _nnls(np.vstack([residual, np.ones(len(moment))]), np.append(np.zeros(len(aim)), 1.0))
    found = mu * share / share.sum()
    return found, float((moment - gram @ found)[found > 0].max()), True


def _nnls(matrix: np.ndarray, aim: np.ndarray) -> np.ndarray:
    found: np.ndarray = nnls(matrix, aim, maxiter=30 * matrix.shape[1])[0]
    return np.where(found > found.max(initial=0) * 1e-12, found, 0)
