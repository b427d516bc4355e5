"""Salient relevance: the areas of attention that a relevance map holds.

Li, Tian, Mueller and Chen, "Beyond saliency", Image and Vision Computing 83, 2019 (arXiv 1712.08268).
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxplain.errors import FailureError, UsageError
from onnxplain.explanation import Explanation
from onnxplain.graph.layout import channel_axis
from onnxplain.methods.job import Job, Progress
from onnxplain.methods.saliency_options import SaliencyOptions
from onnxplain.relevance.plan import Plan

CONSTANTS = {field.name: field for field in dataclasses.fields(SaliencyOptions)}
"""The options that context-aware saliency takes."""


FORMS = ("rgb_abs", "gray_abs_sum", "signed")


def salient_relevance(
    job: Job, cas_input: str = "rgb_abs", colour: str = "RGB", eight_bit: bool = False, **options: Any
) -> Explanation:
    """Relevance propagation, then context-aware saliency of the relevance (Li et al. 2019).

    Parameters
    ----------
    job : Job
    cas_input : {"rgb_abs", "gray_abs_sum", "signed"}
        What the saliency sees: the magnitude of the relevance of each channel, three channels as a colour picture
        (published); the magnitudes summed over the channels; the relevance summed over the channels. Each is min-max
        scaled over all pixels and channels of a sample together.
    colour : {"RGB", "BGR"}
        The order of the model's three channels; colours are compared in CIE Lab.
    eight_bit : bool
        Cut what the saliency sees to 256 levels, as in the files of the authors (their JPEG coding is not repeated).
    **options
        The attributes of :class:`~onnxplain.methods.saliency_options.SaliencyOptions`, and settings of the rules of
        the book.

    Returns
    -------
    Explanation
        ``relevance`` of every input; of every picture NAME ``map`` in [0, 1], N x H x W, and in ``extras``
        ``saliency/NAME``, N x scales x H x W, and ``foci/NAME``, N x H x W.

    Raises
    ------
    UsageError
        No input is a picture, an unknown option, a value that does not fit.
    FailureError
        The relevance holds NaN or Inf.
    """
    _check(cas_input, colour, eight_bit)
    constants = SaliencyOptions(**{name: value for name, value in options.items() if name in CONSTANTS})
    plan = relevance_plan(job, options)
    axes = _pictures(job, plan)
    e = job.explanation(plan, job.run(plan))
    started = time.perf_counter()
    for name, axis in axes.items():
        samples = np.moveaxis(e.relevance[name], axis, 3)
        _attend(e, name, [_picture(name, r, cas_input, colour, eight_bit) for r in samples], constants, job.progress)
    e.timings["saliency"] = time.perf_counter() - started
    if cas_input == "rgb_abs" and any(e.relevance[name].shape[axis] == 3 for name, axis in axes.items()):
        e.notes = (*e.notes, f"saliency of the relevance's magnitude, its channels read as {colour}")
    return e


def _list_options() -> inspect.Signature:
    """The signature with the options of the saliency spelled out, for listings."""
    own = inspect.signature(salient_relevance)
    *named, settings = own.parameters.values()
    constants = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for name, field in CONSTANTS.items()
    ]
    return own.replace(parameters=[*named, *constants, settings])


salient_relevance.__signature__ = _list_options()  # type: ignore[attr-defined]


def relevance_plan(job: Job, options: Mapping[str, Any]) -> Plan:
    """The plan of the relevance, from what of ``options`` belongs to the rules.

    Raises
    ------
    UsageError
        An option that neither the saliency nor the rule book has.
    """
    settings = {name: value for name, value in options.items() if name not in CONSTANTS}
    book = job.book
    for name in settings:
        if name not in book.settings:
            own = [*list(inspect.signature(salient_relevance).parameters)[1:-1], *sorted(book.settings)]
            raise UsageError(
                f"method {job.method!r} with rule book {book.name!r} has no option {name!r}; it has {', '.join(own)}"
            )
    return job.plan(book, settings)


def _check(cas_input: str, colour: str, eight_bit: bool) -> None:
    for name, value, allowed in (
        ("cas_input", cas_input, FORMS),
        ("colour", colour, ("RGB", "BGR")),
        ("eight_bit", eight_bit, (False, True)),
    ):
        if value not in allowed:
            offer = ", ".join(map(str, allowed))
            raise UsageError(f"option {name}={value!r} of salient-relevance must be one of {offer}")


def _pictures(job: Job, plan: Plan) -> dict[str, int]:
    """The axis of the channels of each input that is a picture."""
    shapes = {tensor: np.shape(job.feed[tensor.name]) for tensor in plan.sources}
    axes = {tensor.name: channel_axis(tensor) for tensor, shape in shapes.items() if len(shape) == 4}
    known = {name: axis for name, axis in axes.items() if axis is not None}
    if known:
        return known
    said = ", ".join(f"{tensor.name!r} has shape {'x'.join(map(str, shape))}" for tensor, shape in shapes.items())
    reason = "the graph does not tell which axis holds the channels" if axes else "none of the inputs is one"
    raise UsageError(
        f"salient-relevance explains pictures, samples of channels x height x width, and {reason} ({said}); "
        "method lrp gives the relevance alone"
    )


def _picture(name: str, relevance: np.ndarray, form: str, colour: str, eight_bit: bool) -> np.ndarray:
    """What the saliency sees of one sample's relevance H x W x C: channels in [0, 1], or bytes."""
    if not np.isfinite(relevance).all():
        raise FailureError(
            f"the relevance of input {name!r} holds NaN or Inf; engine='host' names the layer where it arises"
        )
    picture = relevance.astype(np.float64) if form == "signed" else np.abs(relevance, dtype=np.float64)
    if form != "rgb_abs":
        picture = picture.sum(axis=2, keepdims=True)
    low, high = picture.min(), picture.max()
    picture = (picture - low) / (high - low) if high > low else np.zeros_like(picture)
    if colour == "BGR" and picture.shape[2] == 3:
        picture = picture[..., ::-1]
    return (picture * 255).astype(np.uint8) if eight_bit else picture.astype(np.float32)


def _attend(
    e: Explanation, name: str, pictures: list[np.ndarray], constants: SaliencyOptions, progress: Progress | None
) -> None:
    """Enter the saliency of every sample: the map, the maps of the scales, the foci."""
    from onnxplain.methods.saliency import Saliency, saliency

    found: list[Saliency] = []
    for picture in pictures:
        before = len(found)

        def advance(done: int, total: int, before: int = before) -> None:
            if progress:
                progress(before * total + done, len(pictures) * total)

        found.append(saliency(picture, constants, advance))
    e.maps[name] = np.stack([one.map for one in found])
    e.extras[f"saliency/{name}"] = np.stack([one.scales for one in found])
    e.extras[f"foci/{name}"] = np.stack([one.foci for one in found])
