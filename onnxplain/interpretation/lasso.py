"""The mu-lasso: non-negative weights per class under a bound on their sum, on blocks of the responses' Gram matrix.

``min ||X^T w - l||^2  subject to  w >= 0, sum w <= mu`` for the indicator l of every class; no intercept, nothing
centred (Oramas et al. 2019, section 3.1). Where the bound is inactive this is non-negative least squares, and where it
binds, least squares on a simplex, which one more non-negative least squares problem solves exactly. The LARS path of
scikit-learn is not used: with non-negative weights it ends beside the solution on the very data of the planted test.

Every class is solved exactly on a working set of filters, for which alone a block of the Gram matrix is summed. The
optimality conditions over all filters take one more pass over the responses, for all classes at once; filters that
violate them join the working set of their class, until none does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import dgemm
from scipy.optimize import nnls

BLOCK_BYTES = 2**29
"""Memory for the moments, slopes and blocks of the Gram matrix of the classes that are solved together."""
CHUNK = 512
"""Samples that are read at once."""
_WORKING = 64
"""Filters that a class begins with, and that join it at most at once."""
_SLACK = 1e-8
"""How far a slope may lie above the multiplier, as a share of the largest moment."""

Chunks = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""A pass over the samples, ``CHUNK`` at a time: filters x samples, float64, and the samples' classes."""


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


def solve(x: np.ndarray, rows: np.ndarray, classes: np.ndarray, mu: float) -> Iterator[Solution]:
    """The weights of class 0, 1, ... up to the largest in ``classes``.

    Memory stays below ``BLOCK_BYTES`` plus twice ``CHUNK`` rows in float64, whatever the number of samples; as many
    classes are solved together as that holds.

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
    """
    kept = distinct(x, rows)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((x[rows[part]].T[kept].astype(np.float64, order="C"), classes[part]) for part in _parts(rows))

    together = max(1, BLOCK_BYTES // (8 * (2 * len(kept) + (2 * _WORKING) ** 2)))
    labels = range(int(classes.max()) + 1)
    for first in range(0, len(labels), together):
        for found in _solve_together(chunks, labels[first : first + together], len(kept), mu):
            yield Solution(kept[found.index], found.weight, found.bounded)


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


def _solve_together(chunks: Chunks, labels: range, filters: int, mu: float) -> list[Solution]:
    """The weights of the classes ``labels``, on a working set of filters for each.

    Each round lowers a class's residual, until no filter violates its optimality conditions or rounding leaves nothing
    to gain.
    """
    moments = np.zeros((len(labels), filters))
    for chunk, classes in chunks():
        for index in set(classes.tolist()).intersection(labels):
            moments[index - labels.start] += chunk[:, classes == index].sum(axis=1)
    found = [Solution(np.zeros(0, np.int64), np.zeros(0), False)] * len(labels)
    lowest = np.zeros(len(labels))
    working = {place: _largest(moment, 0) for place, moment in enumerate(moments) if moment.any()}
    while working:
        multipliers = []
        for (place, own), gram in zip(working.items(), _grams(chunks, list(working.values())), strict=True):
            weights, multiplier, bounded = _solve(gram, moments[place, own], mu)
            found[place] = Solution(own[weights > 0], weights[weights > 0], bounded)
            multipliers.append(multiplier)
        slopes = _slopes(chunks, {labels[place]: found[place] for place in working}, filters)
        joined = {}
        for (place, own), slope, multiplier in zip(working.items(), slopes, multipliers, strict=True):
            support, moment = found[place].index, moments[place]
            value = -found[place].weight @ (moment[support] + slope[support])
            slope[own] = -np.inf
            new = _largest(slope, multiplier + _SLACK * moment.max())
            if new.size and value <= lowest[place] - 1e-12 * abs(lowest[place]):
                joined[place] = np.union1d(support, new)
            lowest[place] = value
        working = joined
    return found


def _largest(values: np.ndarray, least: float) -> np.ndarray:
    """The filters with the largest values above ``least``, ascending."""
    above = np.flatnonzero(values > least)
    return np.sort(above[np.argsort(-values[above], kind="stable")[:_WORKING]])


def _grams(chunks: Chunks, working: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The block of the Gram matrix over each set of filters."""
    found = [np.zeros((len(own),) * 2) for own in working]
    for chunk, _ in chunks():
        for total, own in zip(found, working, strict=True):
            part = chunk[own]
            total += part @ part.T
    return found


def _slopes(chunks: Chunks, found: Mapping[int, Solution], filters: int) -> np.ndarray:
    """Classes x filters: ``X (l - X^T w)``, half the rate at which a filter's weight lowers the squared residual."""
    total = np.zeros((len(found), filters))
    for chunk, classes in chunks():
        residual = (classes == np.array(list(found))[:, np.newaxis]).astype(np.float64)
        for row, solution in zip(residual, found.values(), strict=True):
            row -= solution.weight @ chunk[solution.index]
        total = dgemm(1.0, chunk.T, residual.T, 1.0, total.T, trans_a=True, overwrite_c=True).T
    return total


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
