"""The curve of an ablation experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onnxplain.interpretation.ablate import Ablation


def ablation_figure(found: Ablation) -> Figure:
    """Mean class accuracy against filters removed: relevant ones, and random ones with the range of the draws."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = np.arange(found.relevant.shape[1])
    random = 100 * found.random.mean(axis=1)
    for row in found.relevant:
        axes.plot(steps, 100 * row, color="#b2182b", linewidth=0.5, alpha=max(0.05, 0.5 / len(found.relevant) ** 0.5))
    axes.fill_between(steps, random.min(axis=0), random.max(axis=0), color="#2166ac", alpha=0.2, linewidth=0)
    axes.plot(steps, random.mean(axis=0), "s-", color="#2166ac", label=f"random filters, {len(random)} draws")
    axes.plot(steps, 100 * found.relevant.mean(axis=0), "o-", color="#b2182b", label="relevant filters")
    axes.set_xticks(steps if len(steps) < 16 else steps[:: len(steps) // 8])
    axes.set_xlabel("filters removed per class, relevant ones as far as it has them")
    axes.set_ylabel("class accuracy, %")
    axes.set_ylim(-2, 102)
    axes.legend(loc="best")
    return figure
