"""SISE and Ada-SISE: feature maps of every resolution as masks, joined from coarse to fine.

Sattarzadeh et al., "Explaining convolutional neural networks through attribution-based input sampling and block-wise
feature aggregation", AAAI 2021 (arXiv 2010.00672); Sudhakar et al., "Ada-SISE", ICASSP 2021 (arXiv 2102.07799).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onnxplain.checks import check_number, check_share
from onnxplain.engine.run import run_plan
from onnxplain.engine.scores import Kind
from onnxplain.engine.stages import Stage, find_stages, named_stages
from onnxplain.errors import UsageError
from onnxplain.explanation import Explanation
from onnxplain.methods.job import GRADIENT, Job
from onnxplain.methods.masking import (
    Advance,
    Asked,
    Counter,
    Doubles,
    Floats,
    Upsampled,
    add_up,
    asked,
    feature_planes,
    masked_explanation,
    min_max,
    noted,
)
from onnxplain.relevance.plan import make_plan
from onnxplain.targets import Target

Fusion = Literal["hard", "soft"]
Select = Callable[[Doubles], np.ndarray]
"""From the average gradient of every feature map of a layer to whether it becomes a mask."""
Layers = str | Sequence[str] | None


@dataclass(frozen=True)
class _Found:
    """What SISE found of one sample; lists have an entry per layer, from the finest on.

    Attributes
    ----------
    asked : Asked
    blocks : list of float64 array, H x W
        The visualization maps.
    selected, skipped, used : list of int
        How many feature maps became masks, how many did not, and how many masks were used.
    engine : str
    """

    asked: Asked
    blocks: list[Doubles]
    selected: list[int]
    skipped: list[int]
    used: list[int]
    engine: str

    def fused(self, gate: Callable[[Doubles], Doubles]) -> Doubles:
        """The maps of the layers with masks as one."""
        counted = zip(self.blocks, self.selected, strict=True)
        return fuse([block for block, count in counted if count], gate, self.asked.size)


def sise(
    job: Job,
    mu: float = 0.0,
    layers: Layers = None,
    fusion: Fusion = "hard",
    score: Kind = "probability",
    temperature: float = 100.0,
    fill: float | list[float] = 0.0,
    tolerance: float = 0.0,
) -> Explanation:
    """Feature maps as masks, judged by the score under each and joined block by block (SISE; Sattarzadeh et al. 2021).

    Parameters
    ----------
    job : Job
        ``seed`` orders the masks where ``tolerance`` is given.
    mu : float
        A feature map becomes a mask when its average gradient is larger than ``mu`` times the largest of its layer.
    layers : str or sequence of str, optional
        Tensors to take the feature maps from; the last of every resolution by default.
    fusion : {"hard", "soft"}
        Multiply by the binary Otsu mask of the deeper map (published), or by a sigmoid around its threshold.
    score : {"probability", "logit"}
    temperature : float
        Steepness of that sigmoid.
    fill : float or list of float
        What masks show instead of the picture, in the units of the preprocessed input; one value, or one per channel.
    tolerance : float
        Leave the rest of a layer's masks once its map, min-max scaled, changed nowhere by more than this with the last
        64; 0: never.

    Returns
    -------
    Explanation
        ``map``, N x H x W: the fused map; ``extras["block/TENSOR"]``, N x H x W, float32: the visualization map of each
        layer in [0, 1]; ``layers``; ``masks``: how many feature maps of each were selected as masks and skipped.
    """
    check_share("mu", mu, zero=True)
    return _explained(job, lambda a: above_share(a, mu), layers, fusion, score, temperature, fill, tolerance)


def ada_sise(
    job: Job,
    layers: Layers = None,
    fusion: Fusion = "hard",
    score: Kind = "probability",
    temperature: float = 100.0,
    fill: float | list[float] = 0.0,
    tolerance: float = 0.0,
) -> Explanation:
    """SISE whose feature maps are chosen by Otsu's threshold on the gradients of each layer (Sudhakar et al. 2021).

    Parameters and result as of SISE; there is no ``mu``.
    """
    return _explained(job, above_otsu, layers, fusion, score, temperature, fill, tolerance)


def _explained(
    job: Job, select: Select, layers: Layers, fusion: Fusion, score: Kind, temperature: float,
    fill: float | list[float], tolerance: float,
) -> Explanation:  # fmt: skip
    check_share("tolerance", tolerance, zero=True)
    if fusion not in ("hard", "soft"):
        raise UsageError(f"fusion must be hard or soft, not {fusion!r}")
    check_number("temperature", temperature)
    gate = hard_gate if fusion == "hard" else lambda values: soft_gate(values, temperature)
    started = time.perf_counter()
    found: list[_Found] = []
    stages: Sequence[Stage] = ()
    for index, one in enumerate(asked(job, score, fill)):
        stages = stages or _stages(job, one, layers)
        found.append(_sampled(job, index, one, stages, select, tolerance))
    e = masked_explanation(job, [each.asked for each in found], [each.fused(gate) for each in found], started)
    e.engine = found[-1].engine
    for place, stage in enumerate(stages):
        e.extras[f"block/{stage.tensor.name}"] = np.stack([each.blocks[place] for each in found]).astype(np.float32)
    if not all(any(each.selected) for each in found):
        e.notes += ("no feature map of any layer speaks for the target: there the map is zero",)
    counts = np.array([(each.selected, each.skipped, each.used) for each in found])
    return noted(e, stages, *counts.transpose(1, 2, 0).tolist())


def _sampled(job: Job, index: int, one: Asked, stages: Sequence[Stage], select: Select, tolerance: float) -> _Found:
    features, gradients, engine = _features(job, one, stages)
    picked = [np.flatnonzero(select(gradient)) for gradient in gradients]
    advance = Counter(job, index, sum(map(len, picked)))
    order = np.random.default_rng(job.seed).permutation if tolerance else np.asarray
    shown = [
        visualization(one, planes, order(picks), advance, tolerance)
        for planes, picks in zip(features, picked, strict=True)
    ]
    return _Found(
        one,
        blocks=[block for block, _ in shown],
        selected=[len(picks) for picks in picked],
        skipped=[len(planes) - len(picks) for planes, picks in zip(features, picked, strict=True)],
        used=[count for _, count in shown],
        engine=engine,
    )


def _stages(job: Job, one: Asked, layers: Layers) -> Sequence[Stage]:
    if layers is None:
        return find_stages(job.model, one.scores.logits, one.feed)
    return named_stages(job.model, one.scores.logits, one.feed, named_layers(layers))


def named_layers(layers: str | Sequence[str]) -> list[str]:
    """The names of tensors, which may stand in one string with commas between."""
    return [name.strip() for name in layers.split(",")] if isinstance(layers, str) else np.ravel(layers).tolist()


def _features(job: Job, one: Asked, stages: Sequence[Stage]) -> tuple[list[Floats], list[Doubles], str]:
    """Per layer the feature maps, C x h x w, the average gradient of the score in each, up to a factor; the engine."""
    logits = one.scores.logits
    tensors = tuple(stage.tensor for stage in stages)
    values = job.model.trace([logits, *tensors], one.feed)
    seed = one.scores.gradient(values[logits.name], one.weights)
    seed = seed / (np.abs(seed).max() or 1)
    plan = job.model.sessions.get(
        ("features", logits.name, tensors), lambda: make_plan(job.model.graph, logits, tensors, GRADIENT)
    )
    work = replace(job.work, keep=tensors, ledger=False, repeats=len(job.feed[one.picture.name]))
    result = run_plan(job.model, plan, Target(logits, job.target.output, seed), one.feed, work)
    features, gradients = [], []
    for stage in stages:
        planes = feature_planes(values[stage.tensor.name], stage)
        gradient = result.relevance.get(stage.tensor)
        features.append(planes)
        gradients.append(
            np.zeros(len(planes))
            if gradient is None
            else feature_planes(gradient, stage).mean(axis=(1, 2), dtype=np.float64)
        )
    return features, gradients, result.engine


def above_share(gradients: Doubles, mu: float) -> np.ndarray:
    """Which average gradients are larger than ``mu`` times the largest; none where that is not positive."""
    largest = gradients.max()
    return np.asarray((gradients > mu * largest) & (largest > 0))


def above_otsu(gradients: Doubles) -> np.ndarray:
    """Which average gradients lie above Otsu's threshold of the positive ones; all of these where it parts none."""
    positive = gradients > 0
    if positive.sum() < 2:
        return positive
    shares = gradients / gradients.max()
    above = np.asarray(shares > otsu(shares[positive]))
    return above if above.any() else positive


def visualization(
    one: Asked, planes: Floats, picks: np.ndarray, advance: Advance, tolerance: float
) -> tuple[Doubles, int]:
    """The visualization map of a layer, H x W in [0, 1], masks weighted by score over area; how many were used."""
    upsampled = Upsampled(planes, one.size)

    def draw(start: int, masks: Floats, areas: Doubles) -> None:
        upsampled.draw(picks[start : start + len(masks)], masks, areas)

    def weigh(scores: Doubles, areas: Doubles) -> Doubles:
        return np.divide(scores, areas, out=np.zeros_like(scores), where=areas > 0)

    total, used = add_up(one, len(picks), draw, weigh, advance, tolerance)
    return min_max(total), used


def fuse(blocks: Sequence[Doubles], gate: Callable[[Doubles], np.ndarray], size: tuple[int, int]) -> Doubles:
    """From the finest map on: add the next one and keep what its gate leaves; zeros without any map."""
    if not blocks:
        return np.zeros(size)
    fused = blocks[0]
    for block in blocks[1:]:
        fused = (fused + block) * gate(block)
    return fused


def hard_gate(values: Doubles) -> np.ndarray:
    """1 above Otsu's threshold, else 0."""
    return np.asarray(values > otsu(values))


LIFT, FEWEST = 1.5, 0.1
"""In the laboratory's later code a threshold is lifted by this factor where fewer pixels than this share reach it."""


def soft_gate(values: Doubles, temperature: float) -> np.ndarray:
    """A sigmoid around Otsu's threshold, which is lifted where few pixels lie far above it."""
    threshold = otsu(values)
    if (values >= LIFT * threshold).mean() < FEWEST:
        threshold *= LIFT
    return np.asarray(np.exp(-np.logaddexp(0, -temperature * (values - threshold))))


def otsu(values: np.ndarray) -> float:
    """Otsu's threshold of values in [0, 1], on a histogram of 256 levels."""
    import cv2

    levels = np.rint(255 * values).astype(np.uint8).reshape(-1, 1)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return float(threshold) / 255
