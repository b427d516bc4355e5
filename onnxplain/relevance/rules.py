"""The table of the rules by name."""

from __future__ import annotations

from onnxplain.relevance.base import Rule
from onnxplain.relevance.unweighted import (
    DeconvRelu,
    FullGradient,
    Gradient,
    GuidedRelu,
    Norm,
    Pass,
    Stop,
    Uniform,
    Unstrided,
)
from onnxplain.relevance.weighted import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus

RULES: dict[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        *(Epsilon, ZPlus, AlphaBeta, Gamma, ZBox, WSquare, Flat),
        *(Norm, Uniform, Pass, Gradient, FullGradient, Unstrided, GuidedRelu, DeconvRelu, Stop),
    )
}
