"""The feature maps that a class activation map is made of, and the explanation that comes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxplain.engine.run import Result
from onnxplain.engine.stages import Stage, last_spatial
from onnxplain.errors import UnsupportedError, UsageError
from onnxplain.explanation import Explanation
from onnxplain.graph.layers import Tensor
from onnxplain.graph.layout import channel_axis
from onnxplain.methods.job import Job
from onnxplain.methods.upsampling import check_upsampling, upsample

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureMaps:
    """A layer of a job and how its map is to be shown.

    Attributes
    ----------
    job : Job
    stage : Stage
        The tensor of the feature maps.
    sizes : mapping of str to tuple of int
        Per input, its places.
    relu : bool
    upsampling : str
    """

    job: Job
    stage: Stage
    sizes: Mapping[str, Sequence[int]]
    relu: bool
    upsampling: str

    @classmethod
    def settled(cls, job: Job, layer: str | None, relu: bool, upsampling: str) -> FeatureMaps:
        """Find the layer and check the options.

        Raises
        ------
        UsageError
            An option that does not fit, or a tensor that holds no feature maps.
        UnsupportedError
            The model has none.
        """
        check_upsampling(upsampling)
        if not isinstance(relu, bool):
            raise UsageError(f"relu must be true or false, not {relu!r}")
        stage = last_spatial(job.model, job.target.tensor, job.feed, layer)
        return cls(job, stage, _sizes(job, stage), relu, upsampling)

    @property
    def tensor(self) -> Tensor:
        """The tensor of the feature maps."""
        return self.stage.tensor

    def channels_first(self, value: np.ndarray) -> Array:
        """Activations or gradients as N x K x places, in float64."""
        return np.moveaxis(value, self.stage.channel_axis, 1).astype(np.float64)

    def explanation(self, result: Result, weights: Array, cams: Array) -> Explanation:
        """The explanation of the maps ``cams``, N x places, that come of ``weights``."""
        job = self.job
        maps = np.maximum(cams, 0) if self.relu else cams
        extras = {"cam": cams.astype(np.float32)}
        if weights.size == weights.shape[0] * weights.shape[1]:
            extras["weights"] = weights.reshape(weights.shape[:2]).astype(np.float32)
        named = "" if self.stage.reason == "named" else f" ({self.stage.reason}); option layer names another"
        return Explanation(
            {},
            result.prediction,
            result.chosen,
            job.method,
            result.engine,
            timings=result.timings,
            notes=(
                *job.notes,
                *result.notes,
                f"feature maps of {self.tensor.name!r}{named}",
                *sorted(job.model.remarks),
            ),
            extras=extras,
            channels={name: channel_axis(job.model.tensor(name)) for name in self.sizes},
            maps={name: upsample(maps, size, self.upsampling) for name, size in self.sizes.items()},
            layers=(self.tensor.name,),
        )


def _sizes(job: Job, stage: Stage) -> dict[str, tuple[int, ...]]:
    """The places of every input that leads to the layer and has as many axes of them."""
    model = job.model
    recording = model.recording(job.feed, job.target.tensor, 1 if model.batched else model.fixed_batch)
    rank = len(recording.shape(stage.tensor))
    if rank not in (3, 4):
        raise UnsupportedError(
            f"{job.method} maps one or two axes of places; tensor {stage.tensor.name!r} has {rank - 2}"
        )
    sizes = {}
    for source in model.inputs:
        shape, axis = np.shape(job.feed[source.name]), channel_axis(source)
        if len(shape) == rank and axis is not None and model.graph.path(stage.tensor, [source]):
            sizes[source.name] = tuple(size for place, size in enumerate(shape) if place not in (0, axis))
    if not sizes:
        raise UnsupportedError(
            f"no input has the axes of {stage.tensor.name!r}, samples, channels and {rank - 2} of places, "
            f"so there is nothing that {job.method} could be laid over"
        )
    return sizes
