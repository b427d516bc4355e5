"""Context-aware saliency: time and peak memory against a straightforward NumPy version of the same result.

    python tools/bench_saliency.py [--side 250] [--channels 3] [--long-side 0] [--repeat 3] [--without-numpy]

Every line runs in a process of its own, compiled code warm; memory is what it adds to that process. The picture is
noise at two scales, in [0, 1].
The NumPy version differs in the search alone: |p|² + |q|² - 2 p·q of whole patches by matrix product, a partition for
the k smallest, some pixels at a time.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray
from timing import MIB, peak_memory

from onnxplain.methods import saliency
from onnxplain.methods.saliency_kernels import step
from onnxplain.methods.saliency_options import SaliencyOptions

Floats = NDArray[np.float32]
PIXELS_AT_ONCE = 512


def picture(side: int, channels: int) -> Floats:
    """Noise at two scales, side x side x channels in [0, 1]."""
    noise = np.random.default_rng(0).random((side, side, channels), dtype=np.float32)
    blobs = cv2.GaussianBlur(noise, (0, 0), side / 40).reshape(noise.shape)
    blobs = (blobs - blobs.min()) / np.ptp(blobs)
    return np.asarray(0.8 * blobs + 0.2 * noise, np.float32)


def patches(planes: Floats, patch: int) -> Floats:
    """Every patch of the planes as a row of a view, H x W x C x patch x patch."""
    half = patch // 2
    padded = np.pad(planes, ((0, 0), (half, half), (half, half)), mode="reflect") - np.float32(0.5)
    return np.lib.stride_tricks.sliding_window_view(padded, (patch, patch), axis=(1, 2)).transpose(1, 2, 0, 3, 4)


def numpy_mean_distances(
    planes: Floats, candidates: Sequence[Floats], *, patch: int, k: int, c: float, advance: Callable[[int], None]
) -> Floats:
    """What :func:`onnxplain.methods.saliency_kernels.mean_distances` computes, the straightforward way."""
    _, height, width = planes.shape
    vectors, centres, own = [], [], []
    for other in candidates:
        lattice = np.s_[:: step(patch), :: step(patch)]
        taken = patches(other, patch)[lattice]
        place = np.indices(other.shape[1:])[(slice(None), *lattice)].reshape(2, -1).T
        vectors.append(taken.reshape(-1, taken[0, 0].size))
        centres.append((place + 0.5) * (np.array([height, width]) / other.shape[1:]) - 0.5)
        own.append(place @ [width, 1] if other.shape == planes.shape else np.full(len(place), -1))
    q, centre, own_pixel = np.concatenate(vectors), np.concatenate(centres).astype(np.float32), np.concatenate(own)
    q_squared = (q * q).sum(axis=1)
    means = np.empty(height * width, np.float32)
    every = patches(planes, patch)
    for first in range(0, height * width, PIXELS_AT_ONCE):
        pixels = np.arange(first, min(first + PIXELS_AT_ONCE, height * width))
        y, x = np.divmod(pixels, width)
        p = every[y, x].reshape(len(pixels), -1)
        squares = (p * p).sum(axis=1)[:, None] + q_squared - 2 * (p @ q.T)
        d_pos = np.hypot(y[:, None] - centre[:, 0], x[:, None] - centre[:, 1], dtype=np.float32) / max(height, width)
        d = np.sqrt(np.maximum(squares, 0)) / (1 + c * d_pos)
        d[pixels[:, None] == own_pixel] = np.inf
        nearest = np.partition(d, min(k, d.shape[1]) - 1, axis=1)[:, :k]
        found = np.isfinite(nearest)
        means[pixels] = nearest.sum(axis=1, where=found) / np.maximum(found.sum(axis=1), 1)
        advance(d.size)
    return means.reshape(height, width)


def measure(side: int, channels: int, long_side: int, repeat: int, version: str) -> tuple[float, float, float, Floats]:
    """Best seconds, its CPU seconds, peak memory above the warm process in MiB, and the saliency of each scale."""
    run = functools.partial(saliency.saliency, options=SaliencyOptions(long_side=long_side or None))
    run(picture(40, channels))
    if version == "numpy":
        mock.patch.object(saliency, "mean_distances", numpy_mean_distances).start()
    array, seconds = picture(side, channels), []
    before = peak_memory()
    for _ in range(repeat):
        start, start_cpu = time.perf_counter(), time.process_time()
        scales = run(array).scales
        seconds.append((time.perf_counter() - start, time.process_time() - start_cpu))
    peak = peak_memory() - before
    return *min(seconds), peak / MIB, scales


def main() -> None:
    """Print one line per version and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=250, help="side of the picture in pixels")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--long-side", type=int, default=0, help="working size in pixels; 0: the picture's own")
    parser.add_argument("--repeat", type=int, default=3, help="the best run counts")
    parser.add_argument("--without-numpy", action="store_true", help="leave the NumPy version out")
    given = parser.parse_args()
    if given.side < 2 or given.channels < 1:
        parser.error("a picture without structure says nothing; --side from 2, --channels from 1")
    found = {}
    for version in ["numba"] if given.without_numpy else ["numba", "numpy"]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            arguments = (given.side, given.channels, given.long_side, given.repeat, version)
            found[version] = pool.apply(measure, arguments)
        seconds, cpu, peak, _ = found[version]
        print(f"{version}: {seconds:.2f} s ({cpu:.2f} s of CPU on {os.cpu_count()} cores), {peak:.0f} MiB")
    if "numpy" in found:
        difference = np.abs(found["numpy"][3] - found["numba"][3]).max()
        print(
            f"NumPy / numba: {found['numpy'][0] / found['numba'][0]:.1f} in time; S differs by {difference:.1e} at most"
        )


if __name__ == "__main__":
    main()
