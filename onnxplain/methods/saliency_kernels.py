"""Numba kernels of context-aware saliency: the k nearest patches of every pixel.

Neighbouring patches share their rows, so no distance is taken patch by patch. The squared differences of one pixel row
against one candidate row are summed over the width of a patch, and a distance is the sum of such row sums, as many as a
patch has rows. Going down the diagonal, from pixel row y and candidate row v to y + step and v + step, all but ``step``
of them are kept in a ring. For patches of 7 every 3 pixels that takes half the multiplications of the products
|p|² + |q|² - 2 p·q of whole patches, and differences do not cancel: equal patches have distance 0 in float32.

The picture is worked through in BLOCKS blocks of ROWS x LANES pixels against COLUMNS candidates of a row at a time;
beside the padded picture, memory depends on these and on k alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from onnxplain.engine.jit import Kernel
from onnxplain.engine.team import Turn, items

Floats = NDArray[np.float32]
F = TypeVar("F", bound=Callable[..., Any])

ROWS = 32
"""Pixel rows of a block: the longer the diagonals, the fewer row sums are taken twice."""
LANES = 64
"""Pixels of a row handled together; a constant, so that every inner loop becomes whole vector registers."""
COLUMNS = 96
"""Candidates of a row handled together; the ring of row sums stays in the second-level cache."""
BLOCKS = 16
"""Blocks that a call shares among the threads, and after which progress is told."""


def mean_distances(
    planes: Floats, candidates: Sequence[Floats], *, patch: int, k: int, c: float, advance: Callable[[int], None]
) -> Floats:
    """Mean over the k most similar patches of d_color / (1 + c d_pos), for every pixel.

    d_color is the Euclidean distance between the ``patch`` x ``patch`` neighbourhoods over all planes, reflected about
    the outermost pixels at the border; d_pos the distance between the centres divided by the larger side of ``planes``.

    Parameters
    ----------
    planes : ndarray of float32, C x H x W
        The picture whose pixels are asked about.
    candidates : sequence of ndarray of float32, C x h x w
        Pictures of the same scene; patches are taken every :func:`step` pixels from 0. A centre (v, u) lies at
        ((v + 1/2) H / h - 1/2, (u + 1/2) W / w - 1/2) among the pixels. In a picture of the size of ``planes``, the
        patch at the pixel's own place is left out.
    patch : int
        Side of a patch, odd.
    k : int
        How many patches count; all of them where there are fewer.
    c : float
        Weight of the position.
    advance : callable
        Called with the number of pixel-candidate pairs compared since the last call.

    Returns
    -------
    ndarray of float32, H x W
        0 where a pixel has no candidate at all.
    """
    _, height, width = planes.shape
    margin, stride = patch // 2, step(patch)
    ground = _padded(planes, margin, -width % LANES)
    # From few to many: the coarse pictures set the limit that most patches of the fine ones fail.
    others = [(_padded(other, margin), candidate_count(other, patch)) for other in sorted(candidates, key=np.size)]
    k = min(k, sum(count for _, count in others))
    corners = [(y, x) for y in range(0, height, ROWS) for x in range(0, width, LANES)]
    means = np.empty((height, width), np.float32)
    for some in (corners[i : i + BLOCKS] for i in range(0, len(corners), BLOCKS)):
        nearest = np.full((len(some), ROWS, LANES, k), np.inf, np.float32)
        pixels = sum(min(ROWS, height - y) * min(LANES, width - x) for y, x in some)
        for other, count in others:
            work = (ground, other, (0,) * patch, stride, np.array(some), height, width, c, nearest)
            _search(len(some), pixels * count, *work)
            advance(pixels * count)
        for (y, x), block in zip(some, nearest, strict=True):
            means[y : y + ROWS, x : x + LANES] = _mean_root(block[: height - y, : width - x])
    return means


def step(patch: int) -> int:
    """Distance between neighbouring candidates: half a patch, 3 for patches of 7."""
    return max(1, patch // 2)


def candidate_count(candidates: Floats, patch: int) -> int:
    """How many patches are taken from a picture C x h x w."""
    return int(np.prod([-(-side // step(patch)) for side in candidates.shape[1:]]))


def _padded(planes: Floats, margin: int, right: int = 0) -> Floats:
    """Reflect-101 padding on all sides, then ``right`` columns whose content is never used."""
    mirrored = np.pad(planes, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    return np.ascontiguousarray(np.pad(mirrored, ((0, 0), (0, 0), (0, right))))


def _mean_root(squares: Floats) -> Floats:
    """Mean of the square roots over the last axis, places never filled (infinite) left out."""
    filled = np.isfinite(squares)
    total = np.sqrt(squares, where=filled, out=np.zeros_like(squares)).sum(axis=-1)
    return np.asarray(total / np.maximum(filled.sum(axis=-1), 1), np.float32)


def _inner(function: F) -> F:
    """A function that only the kernel calls, its sums of products fused and freely ordered."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}}
    return cast(F, numba.njit(**options)(function))


@_inner
def _row_sums(
    ground: Floats, other: Floats, y: int, v: int, left: int, first: int, count: int, stride: int,
    taps: tuple[int, ...], ring: Floats, slot: int,
) -> None:  # fmt: skip
    """Squared differences of row y of the picture and row v of the candidates, summed over planes and patch width."""
    for u in range(count):
        sums = ring[slot, u]
        start = (first + u) * stride
        for x in range(LANES):
            sums[x] = 0
        for plane in range(ground.shape[0]):
            pixels = ground[plane, y, left : left + LANES + len(taps) - 1]
            patch = other[plane, v, start : start + len(taps)]
            for x in range(LANES):
                total = sums[x]
                for i in range(len(taps)):
                    difference = pixels[x + i] - patch[i]
                    total += difference * difference
                sums[x] = total


@_inner
def _offer(
    ring: Floats, u: int, taps: tuple[int, ...], dy2: np.float32, columns: Floats, centre: np.float32,
    weight: np.float32, own: int, limit: Floats, heaps: Floats, squares: Floats,
) -> None:  # fmt: skip
    """Offer one candidate to a row of pixels: each keeps it if it beats the worst of the k it has."""
    hits = np.float32(0)
    for x in range(LANES):
        total = np.float32(0)
        for i in range(len(taps)):
            total += ring[i, u, x]
        dx = columns[x] - centre
        spread = np.float32(1) + weight * np.sqrt(dy2 + dx * dx)
        total /= spread * spread
        squares[x] = total
        hits += np.float32(1) if total < limit[x] else np.float32(0)
    if hits > 0:
        for x in range(LANES):
            if squares[x] < limit[x] and x != own:
                _replace_root(heaps[x], squares[x])
                limit[x] = heaps[x, 0]


@_inner
def _replace_root(heap: Floats, value: np.float32) -> None:
    """Put ``value`` in the place of the largest element of a max-heap."""
    place = 0
    child = 1
    while child < len(heap):
        if child + 1 < len(heap) and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= value:
            break
        heap[place] = heap[child]
        place = child
        child = 2 * place + 1
    heap[place] = value


@Kernel
def _search(
    turn: Turn, ground: Floats, other: Floats, taps: tuple[int, ...], stride: int, corners: NDArray[np.int64],
    height: int, width: int, c: float, nearest: Floats,
) -> None:  # fmt: skip
    """Offer every candidate of ``other`` to every pixel of the blocks; ``nearest`` holds a max-heap per pixel.

    ``taps`` stands for the patch by its length: a tuple's length is known to the compiler, which unrolls over it.
    """
    for b in items(turn):
        top, left = corners[b]
        rows = min(ROWS, height - top)
        limits = nearest[b, :, :, 0].copy()
        limits[:, width - left :] = -1  # lanes beyond the picture take nothing
        ring = np.empty((len(taps), COLUMNS, LANES), np.float32)
        squares = np.empty(LANES, np.float32)
        columns = np.arange(left, left + LANES).astype(np.float32)
        candidate_rows = (other.shape[1] - len(taps)) // stride + 1
        candidate_columns = (other.shape[2] - len(taps)) // stride + 1
        scale_y = np.float32(height / (other.shape[1] - len(taps) + 1))
        scale_x = np.float32(width / (other.shape[2] - len(taps) + 1))
        weight = np.float32(c / max(height, width))
        same = scale_y == 1 and scale_x == 1
        half = np.float32(0.5)
        for first in range(0, candidate_columns, COLUMNS):
            count = min(COLUMNS, candidate_columns - first)
            for start in range(candidate_rows):
                # A diagonal begins at the first candidate row or within the first ``stride`` pixel rows.
                for offset in range(rows if start == 0 else min(stride, rows)):
                    length = min((rows - offset - 1) // stride + 1, candidate_rows - start)
                    for link in range(length):
                        y = offset + link * stride
                        v = (start + link) * stride
                        for i in range(0 if link == 0 else max(0, len(taps) - stride), len(taps)):
                            slot = (link * stride + i) % len(taps)
                            _row_sums(ground, other, top + y + i, v + i, left, first, count, stride, taps, ring, slot)
                        dy = np.float32(top + y) - ((np.float32(v) + half) * scale_y - half)
                        for u in range(count):
                            x = np.float32((first + u) * stride)
                            own = (first + u) * stride - left if same and v == top + y else -1
                            _offer(
                                ring, u, taps, dy * dy, columns, (x + half) * scale_x - half, weight, own,
                                limits[y], nearest[b, y], squares,
                            )  # fmt: skip
