"""Explain and audit ONNX models from the file alone.

>>> import onnxplain
>>> model = onnxplain.load("model.onnx")
>>> e = onnxplain.explain(model, {"input": x})
>>> e.relevance["input"], e.map("input"), e.prediction
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from onnxplain.errors import FailureError, OnnxplainError, UnsupportedError, UsageError
from onnxplain.version import __version__

# The official builds of onnxruntime send telemetry, and keep an identifier in the home folder, unless this is set
# before they are loaded. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from onnxplain.catalogue import available_methods, available_ops, available_rule_books, inspect
    from onnxplain.explanation import Explanation
    from onnxplain.exporting import export
    from onnxplain.interpretation.ablate import Ablation, ablate
    from onnxplain.interpretation.interpret import interpret
    from onnxplain.interpretation.result import Interpretation
    from onnxplain.methods import explain, plan
    from onnxplain.methods.crops import fixate_picture
    from onnxplain.methods.saliency import context_aware_saliency
    from onnxplain.metrics.evaluation import evaluate
    from onnxplain.metrics.results import Evaluation
    from onnxplain.model import Model, load

_PLACES = {
    "Ablation": "onnxplain.interpretation.ablate",
    "ablate": "onnxplain.interpretation.ablate",
    "Evaluation": "onnxplain.metrics.results",
    "Explanation": "onnxplain.explanation",
    "Interpretation": "onnxplain.interpretation.result",
    "Model": "onnxplain.model",
    "available_methods": "onnxplain.catalogue",
    "available_ops": "onnxplain.catalogue",
    "available_rule_books": "onnxplain.catalogue",
    "context_aware_saliency": "onnxplain.methods.saliency",
    "evaluate": "onnxplain.metrics.evaluation",
    "explain": "onnxplain.methods",
    "fixate_picture": "onnxplain.methods.crops",
    "export": "onnxplain.exporting",
    "inspect": "onnxplain.catalogue",
    "interpret": "onnxplain.interpretation.interpret",
    "load": "onnxplain.model",
    "plan": "onnxplain.methods",
}
"""Where each public name lives; imported on first use, so that ``import onnxplain`` stays cheap."""

__all__ = [
    "Ablation",
    "Evaluation",
    "Explanation",
    "FailureError",
    "Interpretation",
    "Model",
    "OnnxplainError",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "ablate",
    "available_methods",
    "available_ops",
    "available_rule_books",
    "context_aware_saliency",
    "evaluate",
    "explain",
    "export",
    "fixate_picture",
    "inspect",
    "interpret",
    "load",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'onnxplain' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
