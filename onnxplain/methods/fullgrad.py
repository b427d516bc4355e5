"""FullGrad: the gradient at the input and at every bias, which together give the whole output.

Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnxplain.engine.run import Result, joined
from onnxplain.errors import UnsupportedError, UsageError
from onnxplain.explanation import Explanation
from onnxplain.graph.layers import Tensor
from onnxplain.graph.layout import channel_axis
from onnxplain.methods.job import Job
from onnxplain.methods.upsampling import check_upsampling, upsample
from onnxplain.model import Feed
from onnxplain.relevance.plan import Plan
from onnxplain.wording import counted

EPSILON = 1e-6
"""Added to the range of a part before dividing by it, as in the authors' code."""

Parts = dict[Tensor, np.ndarray]
"""At the input, input times gradient; at the output of every layer with a constant, the constant times gradient."""


def fullgrad(job: Job, absolute: bool = True, rescale: bool = True, upsampling: str = "align-corners") -> Explanation:
    """Input times gradient plus bias times gradient of every layer (Srinivas and Fleuret 2019).

    f(x) = sum of x * df/dx + sum over the layers of b * df/db, where b is all that a layer adds whatever its input. The
    map sums, over channels and layers, the parts that have the axes of the input, each brought to its size. The
    defaults are the authors' post-processing; with both switched off the map keeps the shares and their signs.

    Parameters
    ----------
    job : Job
    absolute : bool
        Take the magnitude of each part.
    rescale : bool
        Min-max scale each part to [0, 1], over all channels and places of a sample.
    upsampling : {"bilinear", "cubic", "nearest", "align-corners"}
        See :func:`onnxplain.methods.upsampling.upsample`.

    Returns
    -------
    Explanation
        ``relevance`` is input times gradient, ``map`` N x H x W, ``layers`` the tensors with a constant; in ``extras``
        ``shares``, N x (1 + layers), what the input and each of these tensors contribute to the target, and
        ``completeness_gap``, N, the target's value minus their sum. ``at`` holds constant times gradient at the tensors
        asked for.

    Raises
    ------
    UsageError
        An option that does not fit, or ``at`` names a tensor to which no constant was added.
    UnsupportedError
        The model has several inputs, or one without channels and places.
    """
    plan = job.plan("full-gradient")
    look = _Look(_picture(job, plan), absolute, rescale, upsampling)
    results, maps, shares, kept = [], [], [], []
    for feed, result in job.parts(plan, ledger=True, elementwise=True, keep=()):
        parts = _parts(plan, look.source, feed, result)
        results.append(replace(result, relevance={look.source: parts[look.source]}, ledger=None))
        maps.append(look.map_of(parts))
        shares.append({tensor: _total(part) for tensor, part in parts.items()})
        kept.append({tensor: parts[tensor] for tensor in job.work.keep if tensor in parts})
    layers = [
        tensor for tensor in shares[0] if tensor is not look.source and any(each[tensor].any() for each in shares)
    ]
    for tensor in job.work.keep:
        if tensor not in layers:
            raise UsageError(f"nothing constant is added at tensor {tensor.name!r}, so it has no bias-gradient")
    table = np.stack([np.concatenate([each[t] for each in shares]) for t in (look.source, *layers)], axis=1)
    e = replace(job, work=replace(job.work, keep=())).explanation(plan, joined(results))
    return replace(
        e,
        notes=(*e.notes, f"gradients at the input and at what is added at {counted(len(layers), 'tensor')}"),
        maps={look.source.name: np.concatenate(maps)},
        layers=tuple(tensor.name for tensor in layers),
        at={tensor.name: np.concatenate([each[tensor] for each in kept]) for tensor in job.work.keep},
        channels={**e.channels, **{tensor.name: channel_axis(tensor) for tensor in job.work.keep}},
        extras={"shares": table, "completeness_gap": [c.value for c in e.target] - table.sum(axis=1)},
    )


@dataclass(frozen=True)
class _Look:
    """How parts become a map; the options of :func:`fullgrad`."""

    source: Tensor
    absolute: bool
    rescale: bool
    upsampling: str

    def __post_init__(self) -> None:
        check_upsampling(self.upsampling)
        for name in ("absolute", "rescale"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be true or false, not {getattr(self, name)!r}")

    def map_of(self, parts: Parts) -> np.ndarray:
        """The sum of the parts that have the axes of the input, N x places."""
        rank = parts[self.source].ndim
        axes = {tensor: channel_axis(tensor) for tensor, part in parts.items() if part.ndim == rank}
        shown = {t: np.moveaxis(parts[t], axis, 1) for t, axis in axes.items() if axis is not None}
        size = shown[self.source].shape[2:]
        placed = [self._processed(part) for part in shown.values() if part[0, 0].size > 1]
        return np.asarray(np.sum([upsample(part.sum(axis=1), size, self.upsampling) for part in placed], axis=0))

    def _processed(self, part: np.ndarray) -> np.ndarray:
        part = np.abs(part) if self.absolute else part
        if not self.rescale:
            return part
        axes = tuple(range(1, part.ndim))
        part = part - part.min(axes, keepdims=True)
        return np.asarray(part / (part.max(axes, keepdims=True) + EPSILON))


def _picture(job: Job, plan: Plan) -> Tensor:
    """The input, which must be the only one and have channels and places."""
    if len(plan.sources) != 1:
        names = ", ".join(source.name for source in plan.sources)
        raise UnsupportedError(f"fullgrad maps one input, and {names} all lead to {plan.target.name!r}")
    (source,) = plan.sources
    shape = np.shape(job.feed[source.name])
    if len(shape) not in (3, 4) or channel_axis(source) is None:
        raise UnsupportedError(
            f"fullgrad needs an input of samples, channels and one or two axes of places; {source.name!r} of shape "
            f"{'x'.join(map(str, shape))} is none, or the graph does not tell where its channels are"
        )
    return source


def _parts(plan: Plan, source: Tensor, feed: Feed, result: Result) -> Parts:
    """Input times gradient, and what the ledger holds of every layer."""
    assert result.ledger is not None
    own = feed[source.name] * result.relevance[source]
    parts = {source: own}
    for layer in plan.path:
        out = layer.outputs[0]
        if out is not None and "bias" in result.ledger[layer.name]:
            parts[out] = result.ledger[layer.name]["bias"]
            if len(parts[out]) != len(own):
                raise UnsupportedError(
                    f"fullgrad needs the samples along axis 0, and {out.name!r} holds them elsewhere"
                )
    return parts


def _total(part: np.ndarray) -> np.ndarray:
    return np.asarray(part.reshape(len(part), -1).sum(axis=1, dtype=np.float64))
