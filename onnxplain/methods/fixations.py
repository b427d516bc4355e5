"""CNN-Fixations: the image points that a decision comes from, found by unravelling the forward pass.

Mopuri, Garg and Babu, IEEE Transactions on Image Processing 28(5), 2019 (arXiv 1708.06670).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxplain.checks import check_number, check_share
from onnxplain.engine.budget import samples_held
from onnxplain.engine.points import LOCATIONS, Points
from onnxplain.engine.unravel import Route, find_route, unravel
from onnxplain.errors import UnsupportedError, UsageError
from onnxplain.explanation import Explanation, PathStep
from onnxplain.graph.layers import Tensor
from onnxplain.graph.layout import channel_axis
from onnxplain.methods.density import bounding_boxes, density_map, without_outliers
from onnxplain.methods.job import Job
from onnxplain.targets import Chosen


def fixations(
    job: Job,
    conv_location: str = "center",
    crops: int = 1,
    outliers: bool = False,
    radius: float = 0.1,
    share: float = 0.05,
    sigma: float = 20.0,
) -> Explanation:
    """The points that carried the decision, followed back layer by layer without a gradient (Mopuri et al. 2019).

    Parameters
    ----------
    job : Job
    conv_location : {"center", "contribution", "activation"}
        Where in a convolution's window a point lands; "center" is the published rule.
    crops : int
        1: several crops need the picture, see :func:`onnxplain.fixate_picture`.
    outliers : bool
        Remove the points of pictures that have few others around them. Without, the points are exactly the unravelling
        of the input; the published protocol removes them on the picture itself, see :func:`onnxplain.fixate_picture`.
    radius : float
        Neighbourhood of a point, as a share of the diagonal.
    share : float
        A point stays when more than this share of all points lies in its neighbourhood.
    sigma : float
        Standard deviation of the density map's Gaussian, in pixels of the input; below 1, as a share of its smaller
        side.

    Returns
    -------
    Explanation
        ``points`` and ``point_weights`` per input; ``relevance`` holds the weights at the points, ``maps`` the density,
        ``boxes`` the bounding boxes, ``path`` the neurons at every layer.
    """
    if conv_location not in LOCATIONS:
        raise UsageError(f"conv_location must be one of {', '.join(LOCATIONS)}, not {conv_location!r}")
    look = Look(outliers, radius, share, sigma)
    if crops != 1:
        raise UsageError(
            f"crops={crops} needs the picture, not an array: use onnxplain.fixate_picture, or "
            "'onnxplain explain MODEL PICTURE --method fixations --option crops=5'"
        )
    found = unravelled(job, conv_location)
    e = Explanation(
        {}, found.prediction, found.chosen, job.method, "host", notes=job.notes, timings=found.timings,
        channels={t.name: channel_axis(t) for t in job.model.inputs}, path=found.path(),
    )  # fmt: skip
    for source in job.model.inputs:
        if source in found.points:
            enter(e, source.name, found.points[source], np.shape(job.feed[source.name]), look)
    for kept in job.work.keep:
        if kept not in found.shapes:
            raise UsageError(f"tensor {kept.name!r} does not lie between the input and {job.target.tensor.name!r}")
        e.at[kept.name] = _counts(found.points.get(kept, NOWHERE), found.shapes[kept])
    return e


@dataclass(frozen=True)
class Look:
    """How points become what people look at; the options of :func:`fixations`.

    Raises
    ------
    UsageError
        An option is out of range.
    """

    outliers: bool = True
    radius: float = 0.1
    share: float = 0.05
    sigma: float = 20.0

    def __post_init__(self) -> None:
        if not isinstance(self.outliers, bool):
            raise UsageError(f"outliers must be true or false, not {self.outliers!r}")
        check_number("radius", self.radius)
        check_share("share", self.share)
        check_number("sigma", self.sigma)


NOWHERE = Points(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Unravelled:
    """The points at every tensor between a target and the inputs, for all samples.

    Attributes
    ----------
    route : Route
    points : dict of Tensor to Points
    shapes : dict of Tensor to tuple of int
        Of the inputs and every layer's outputs on the way.
    prediction : numpy.ndarray
    chosen : list of Chosen
    timings : dict of str to float
    """

    route: Route
    points: dict[Tensor, Points]
    shapes: dict[Tensor, tuple[int, ...]]
    prediction: np.ndarray
    chosen: list[Chosen]
    timings: dict[str, float]

    def path(self) -> tuple[PathStep, ...]:
        """The neurons at every layer, from the target down."""
        return tuple(
            PathStep(
                layer.name, layer.op_type, out.name, self.shapes[out], self.points[out].index, self.points[out].weight
            )
            for layer in reversed(self.route.path)
            for out in layer.outputs
            if out in self.points
        )


def unravelled(job: Job, conv_location: str) -> Unravelled:
    """Carry the points of a job's target back, some samples at a time."""
    parts = [_part(part, route, conv_location) for part, route in _chunks(job)]
    whole = parts[0] if len(parts) == 1 else _joined(parts)
    if not any(source in whole.points for source in job.model.inputs):
        raise UnsupportedError(
            f"no point of {job.target.tensor.name!r} leads back to an input: the values there come from constants"
        )
    return whole


def _chunks(job: Job) -> Iterator[tuple[Job, Route]]:
    first = next(iter(job.feed.values()))
    declared = job.model.inputs[0].shape
    count = len(first) if first.ndim else 1
    one = {name: value[:1] for name, value in job.feed.items()} if job.model.batched else job.feed
    size = count
    if job.model.batched:
        route = find_route(job.model, job.target.tensor, one)
        sample = 4 * sum(math.prod(route.recording.shape(tensor)) for tensor in route.read)
        size = job.work.batch_size or samples_held(sample)
    elif declared and isinstance(declared[0], int) and 0 < declared[0] < count:
        size = declared[0]
    for start in range(0, count, size) if count > size else [0]:
        part = job
        if count > size:
            feed = {name: value[start : start + size] for name, value in job.feed.items()}
            part = replace(job, feed=feed, target=replace(job.target, first=start, total=count))
        yield part, find_route(job.model, job.target.tensor, part.feed)


def _part(job: Job, route: Route, conv_location: str) -> Unravelled:
    started = time.perf_counter()
    output, tensor = job.target.output, job.target.tensor
    values = job.model.trace([output, tensor, *route.read], job.feed)
    traced = time.perf_counter()
    y = values[tensor.name]
    weights = job.target.weights(y)
    if not (weights > 0).any():
        raise UsageError("the target has no positive weight, and fixations start from these")
    points = unravel(job.model, route, values, weights, conv_location)
    timings = {"forward": traced - started, "backward": time.perf_counter() - traced}
    tensors = [*job.model.inputs, *(out for layer in route.path for out in layer.outputs if out is not None)]
    shapes = {tensor: route.recording.shape(tensor) for tensor in tensors}
    return Unravelled(route, points, shapes, values[output.name], job.target.describe(y, weights), timings)


def _joined(parts: Sequence[Unravelled]) -> Unravelled:
    """Samples stand along the outermost axis of every tensor."""
    whole = parts[0]
    for part in parts[1:]:
        points, shapes, count = dict(whole.points), dict(whole.shapes), len(whole.prediction)
        for tensor, shape in part.shapes.items():
            shapes[tensor] = (shapes[tensor][0] + shape[0], *shape[1:])
        for tensor, more in part.points.items():
            before = points.get(tensor, NOWHERE)
            first = count * (math.prod(shapes[tensor]) // (count + len(part.prediction)))
            points[tensor] = Points(
                np.concatenate([before.index, more.index + first]), np.concatenate([before.weight, more.weight])
            )
        whole = Unravelled(
            whole.route,
            points,
            shapes,
            np.concatenate([whole.prediction, part.prediction]),
            [*whole.chosen, *part.chosen],
            {name: spent + part.timings[name] for name, spent in whole.timings.items()},
        )
    return whole


def enter(e: Explanation, name: str, points: Points, shape: Sequence[int], look: Look) -> None:
    """Write the points of one input into an explanation, for pictures with density map and box."""
    axis = e.channels[name]
    if axis is None or len(shape) != 4:
        axis = None
    elif look.outliers:
        points = without_outliers(points, shape, axis, look.radius, look.share)
    e.points[name] = np.stack(np.unravel_index(points.index, tuple(shape)), axis=1).astype(np.int64)
    e.point_weights[name] = points.weight
    e.relevance[name] = _counts(points, shape)
    if axis is not None:
        e.maps[name] = density_map(points, shape, axis, look.sigma)
        e.boxes[name] = bounding_boxes(points, shape, axis)
    else:
        e.notes += (f"input {name!r} is no picture: its points are index tuples, without a density map",)


def _counts(points: Points, shape: Sequence[int]) -> np.ndarray:
    counts = np.zeros(math.prod(shape), np.float32)
    counts[points.index] = points.weight
    return counts.reshape(shape)
