"""Class activation maps: the feature maps of one layer, weighted by what they do for the target.

The gradient is that of the target as :mod:`onnxplain.targets` settles it, of the logit before a closing softmax by
default. A stands for the feature maps (N x K x places), G for the gradient there. Every method is a formula for the
weights w; the map is sum_k w_k A_k, then ReLU, then upsampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onnxplain.engine.run import joined
from onnxplain.explanation import Explanation
from onnxplain.methods.feature_maps import Array, FeatureMaps
from onnxplain.methods.gradients import guided_backprop
from onnxplain.methods.job import GRADIENT, Job

Weights = Callable[[Array, Array], Array]
"""From A and G to the weights, broadcastable to A."""


def grad_cam(job: Job, layer: str | None = None, relu: bool = True, upsampling: str = "bilinear") -> Explanation:
    """Feature maps weighted by their mean gradient (Selvaraju et al. 2017).

    Parameters
    ----------
    job : Job
    layer : str, optional
        The tensor of the feature maps; by default the last one that still has places, named in the notes.
    relu : bool
        Leave out what speaks against the target.
    upsampling : {"bilinear", "cubic", "nearest", "align-corners"}
        How the map is brought to the size of the input; see :func:`onnxplain.methods.upsampling.upsample`.

    Returns
    -------
    Explanation
        ``map`` N x H x W for every input that leads to the layer, ``layers`` the tensor; in ``extras`` ``cam``, the map
        at the size of the layer with both signs, and, where there is one per feature map, ``weights``, N x K.

    Raises
    ------
    UsageError
        An option that does not fit, or a layer without feature maps.
    UnsupportedError
        A model without feature maps.
    """
    return _weighted(job, layer, relu, upsampling, lambda a, g: g.mean(_places(a), keepdims=True))


def grad_cam_plus_plus(
    job: Job, layer: str | None = None, relu: bool = True, upsampling: str = "bilinear"
) -> Explanation:
    """Feature maps weighted by their positive gradients, each by its share (Chattopadhay et al. 2018).

    Equations 11 and 19 with Y = exp(S); the factor exp(S), the same for all maps of a sample, is left out. Parameters
    and result as of :func:`grad_cam`.
    """
    return _weighted(job, layer, relu, upsampling, _plus_plus)


def hires_cam(job: Job, layer: str | None = None, relu: bool = True, upsampling: str = "bilinear") -> Explanation:
    """Feature maps times their gradient, place by place (Draelos and Carin 2020).

    Parameters and result as of :func:`grad_cam`; ``extras["cam"]`` sums to the target but for the biases behind the
    layer where all that follows is linear in steps.
    """
    return _weighted(job, layer, relu, upsampling, lambda a, g: g)


def layer_cam(job: Job, layer: str | None = None, relu: bool = True, upsampling: str = "bilinear") -> Explanation:
    """Feature maps times the positive part of their gradient, place by place (Jiang et al. 2021).

    Parameters and result as of :func:`grad_cam`.
    """
    return _weighted(job, layer, relu, upsampling, lambda a, g: np.maximum(g, 0))


def xgrad_cam(job: Job, layer: str | None = None, relu: bool = True, upsampling: str = "bilinear") -> Explanation:
    """Feature maps weighted by their gradient, averaged with the activations as weights (Fu et al. 2020).

    Parameters and result as of :func:`grad_cam`. A feature map that sums to 0 gets weight 0.
    """
    return _weighted(job, layer, relu, upsampling, lambda a, g: _ratio(_total(g * a), _total(a)))


def guided_grad_cam(job: Job, layer: str | None = None, upsampling: str = "bilinear") -> Explanation:
    """Guided backpropagation to the input times the Grad-CAM map (Selvaraju et al. 2017, section 3.2).

    ``layer`` and ``upsampling`` as of :func:`grad_cam`.

    Returns
    -------
    Explanation
        ``relevance`` in the shape of each input that leads to the layer, its map the sum over the channels;
        ``extras`` as of :func:`grad_cam`.
    """
    cam = grad_cam(job, layer, upsampling=upsampling)
    guided = guided_backprop(job)
    relevance = {}
    for name, found in cam.maps.items():
        axis = cam.channels[name]
        assert axis is not None
        relevance[name] = guided.relevance[name] * np.expand_dims(found, axis)
    timings = {phase: cam.timings.get(phase, 0) + spent for phase, spent in guided.timings.items()}
    return replace(cam, relevance=relevance, maps={}, plan=guided.plan, timings=timings)


def _weighted(job: Job, layer: str | None, relu: bool, upsampling: str, weigh: Weights) -> Explanation:
    """The explanation whose weights come from activations and gradients."""
    features = FeatureMaps.settled(job, layer, relu, upsampling)
    plan = job.plan(GRADIENT, sources=(features.tensor,))
    results, weights, cams = [], [], []
    for _, result in job.parts(plan, taps=(features.tensor,)):
        a = features.channels_first(result.values[features.tensor])
        w = weigh(a, features.channels_first(result.relevance[features.tensor]))
        weights.append(w)
        cams.append((w * a).sum(axis=1))
        results.append(replace(result, relevance={}, values={}, ledger=None))
    e = features.explanation(joined(results), np.concatenate(weights), np.concatenate(cams))
    return replace(e, plan=plan)


def _plus_plus(a: Array, g: Array) -> Array:
    """sum alpha * p(G) with alpha = G² / (2 G² + G³ sum A), which is 1 / (2 + G sum A) wherever p(G) is not 0."""
    return _total(_ratio(np.maximum(g, 0), 2 + g * _total(a)))


def _places(a: Array) -> tuple[int, ...]:
    return tuple(range(2, a.ndim))


def _total(a: Array) -> Array:
    """The sum over the places, their axes kept."""
    return np.asarray(a.sum(_places(a), keepdims=True))


def _ratio(a: Array, b: Array) -> Array:
    """a / b, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)
