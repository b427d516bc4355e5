"""The measures that 'evaluate' knows by name, each computed from one explained picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxplain.metrics import faithfulness, maps, randomization, robustness

Needs = Literal["map", "truth", "score", "method"]


@dataclass(frozen=True, eq=False)
class Case:
    """One map and everything that a measure may ask about it.

    Attributes
    ----------
    values : array, shape (height, width)
        The map.
    x : array, shape (channels, height, width) or (height, width, channels)
        What the model was given.
    axis : int
        The axis of `x` that holds the channels.
    score : callable
        From altered inputs to the score of the explained class.
    again : callable
        From another input to its map, for the same class.
    gap : callable
        The completeness gap; NaN for methods that promise none.
    redrawn : callable
        The maps that models with more and more random weights give, for the same class.
    truth : bool array, shape (height, width), or None
        Where the thing is.
    seed, steps : int
        Of the order of pixels that tie and of noise; points of a curve, less one.
    """

    values: NDArray[np.float64]
    x: np.ndarray
    axis: int
    score: faithfulness.Score
    again: Callable[[np.ndarray], NDArray[np.float64]]
    gap: Callable[[], float]
    redrawn: Callable[[], Iterable[NDArray[np.float64]]]
    truth: NDArray[np.bool_] | None = None
    seed: int = 0
    steps: int = faithfulness.STEPS

    @cached_property
    def kept(self) -> tuple[float, float]:
        """What drop and increase share: the score of the whole input and of its top pixels."""
        return faithfulness.kept_score(self.score, self.x, self.values, axis=self.axis, seed=self.seed)


@dataclass(frozen=True)
class Measure:
    """A measure by name.

    Attributes
    ----------
    name, title : str
        On the command line, and in words.
    needs : {"map", "truth", "score", "method"}
        What it asks besides the map: boxes or masks, the model's score, or the method again.
    better : {"higher", "lower"} or None
    of : callable
        Its value for one case; NaN where it has no meaning.
    percent : bool
        Whether values are in percent.
    """

    name: str
    title: str
    needs: Needs
    better: Literal["higher", "lower"] | None
    of: Callable[[Case], float]
    percent: bool = False


def _located(measure: Callable[..., float], case: Case) -> float:
    return float("nan") if case.truth is None else 100 * measure(case.values, case.truth)


def _curve(measure: Callable[..., float], baseline: faithfulness.Baseline, case: Case) -> float:
    return measure(case.score, case.x, case.values, baseline=baseline, steps=case.steps, axis=case.axis, seed=case.seed)


def _dropped(case: Case) -> float:
    """NaN where the class has no probability at all to lose."""
    return faithfulness.drop(*case.kept) if case.kept[0] else float("nan")


def _flipped(case: Case) -> float:
    return faithfulness.pixel_flipping(case.score, case.x, case.values, axis=case.axis, seed=case.seed)


def _sensitivity(case: Case) -> float:
    return robustness.max_sensitivity(case.again, case.x, seed=case.seed)


def _survived(case: Case) -> float:
    return float(np.mean([randomization.rank_correlation(case.values, other) for other in case.redrawn()]))


_ALL = (
    Measure("ebpg", "energy-based pointing game", "truth", "higher", partial(_located, maps.energy_in_box), True),
    Measure("miou", "IoU of the top 20 %", "truth", "higher", partial(_located, maps.top_iou), True),
    Measure("bbox", "bounding-box score", "truth", "higher", partial(_located, maps.box_score), True),
    Measure("iou-auc", "area under the IoU curve", "truth", "higher", partial(_located, maps.area_under_iou), True),
    Measure("pointing", "pointing game", "truth", "higher", partial(_located, maps.pointing_game), True),
    Measure("drop", "drop of the score, top 15 % kept", "score", "lower", _dropped, True),
    Measure(
        "increase", "increase of the score, top 15 % kept", "score", "higher",
        lambda c: faithfulness.increase(*c.kept), True,
    ),
    Measure("insertion-blur", "insertion into the blurred picture", "score", "higher",
            partial(_curve, faithfulness.insertion, "blur")),
    Measure("insertion-zero", "insertion into zeros", "score", "higher",
            partial(_curve, faithfulness.insertion, "zero")),
    Measure("deletion-blur", "deletion by blur", "score", "lower", partial(_curve, faithfulness.deletion, "blur")),
    Measure("deletion-zero", "deletion by zeros", "score", "lower", partial(_curve, faithfulness.deletion, "zero")),
    Measure("pixel-flipping", "area over the perturbation curve", "score", "higher", _flipped),
    Measure("sparseness", "Gini index", "map", None, lambda case: maps.sparseness(case.values)),
    Measure("completeness-gap", "completeness gap", "method", "lower", lambda case: case.gap()),
    Measure("max-sensitivity", "largest change under small noise", "method", "lower", _sensitivity),
    Measure("randomization", "rank correlation with the maps of random weights", "method", "lower", _survived),
)  # fmt: skip

MEASURES = {measure.name: measure for measure in _ALL}
"""Every measure by its name."""

PUBLISHED = ("ebpg", "miou", "bbox", "drop", "increase")
"""The measures of the SISE paper."""

CURVES = ("insertion-blur", "deletion-zero")
"""The curves of the RISE paper."""
