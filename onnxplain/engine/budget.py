"""How many samples a pass takes at once: as many as memory holds, and as the processor's cache holds best."""

from __future__ import annotations

MEMORY_BUDGET = 2**29
"""Bytes of traced tensors that the chunks of a batch may hold that are worked on at once."""
CACHE_BUDGET = 10 * 2**20
"""Bytes of the largest tensor of a chunk: an op reads two and writes one, and last-level caches hold some 30 MiB."""
WORTH_A_THREAD = 2**20
"""Bytes of the tensors of a sample from which on a batch is cut so that every thread has a chunk."""
WEIGHTS_SHARE = 8
"""How often smaller the weights are to be than the tensors of a chunk, which reads them anew."""


def samples_held(sample: int) -> int:
    """The most samples whose tensors, of ``sample`` bytes each, fit into :data:`MEMORY_BUDGET`; at least one."""
    return max(MEMORY_BUDGET // max(sample, 1), 1)


def samples_at_once(total: int, largest: int, weights: int, on_gpu: bool = False, passes: int = 1) -> int:
    """The most samples that a pass should take.

    Parameters
    ----------
    total : int
        Bytes of all tensors of one sample that the forward pass keeps; what goes back is freed on the way.
    largest : int
        Bytes of the largest of them.
    weights : int
        Bytes of the weights.
    on_gpu : bool
        Whether a device with a memory of its own does the work; only memory counts there.
    passes : int
        How many passes go on at once.
    """
    held = samples_held(total * passes)
    if not on_gpu:
        held = min(held, max(CACHE_BUDGET // max(largest, 1), WEIGHTS_SHARE * weights // max(total, 1)))
    return max(held, 1)


def side_by_side(count: int, total: int, weights: int, threads: int) -> bool:
    """Whether a compiled graph is faster with samples on a thread each than with all threads on each sample.

    Threads within a pass wait for each other at every node. Weights that outweigh the tensors of a sample, ``total``
    bytes, are better read once for several; small tensors are not worth a thread, and batches that leave threads idle
    at their end gain nothing.
    """
    even = count % threads == 0 or count >= 4 * threads
    return threads > 1 and even and total >= max(weights, WORTH_A_THREAD)


def even_size(count: int, most: int, passes: int = 1) -> int:
    """The chunk size up to ``most`` that leaves the fewest places empty, the largest of these.

    Empty are places of the last chunk, or of the last ``passes`` chunks that go on at once; then a chunk may be small,
    else it is above half of ``most``.
    """
    most = min(most, count)
    least = most // 2 + 1 if passes == 1 else 1
    return max(range(least, most + 1), key=lambda size: (-(-count % (size * passes)), size))
