"""CNN-Fixations on a picture: several crops, points on the pixels of the picture itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from onnxplain.engine.points import Points, gathered
from onnxplain.errors import UsageError
from onnxplain.explanation import Explanation
from onnxplain.inputs.contract import InputContract, discover
from onnxplain.inputs.pictures import Geometry, Picture, prepare, read_picture
from onnxplain.methods import explain
from onnxplain.methods.fixations import Look, enter
from onnxplain.model import Model, load
from onnxplain.targets import Target, TargetSpec, is_element, parse_target

SHORT_SIDE = 256 / 224
"""The short side of the picture that crops are cut from, in short sides of the model's input."""


def fixate_picture(
    model: Model | str | os.PathLike[str],
    picture: Picture | str | os.PathLike[str],
    crops: int = 5,
    target: TargetSpec = None,
    output: str | None = None,
    *,
    contract: InputContract | None = None,
    preprocess: str | None = None,
    labels: Sequence[str] | None = None,
    keep_softmax: bool = False,
    outliers: bool = True,
    radius: float = 0.1,
    share: float = 0.05,
    sigma: float = 20.0,
    **call: Any,
) -> Explanation:
    """Fixations of a picture, in pixels of the picture.

    The published protocol: the short side is brought to 256 for an input of 224 (in proportion for others); the four
    corners and the middle are cut out; these five and their mirror images vote on the class by the mean of their
    softmax; of the five, those whose own top class it is give their points. Where none agrees, the middle's class and
    points count. A target that is named needs no vote, and all five give points.

    Parameters
    ----------
    model : Model or path
    picture : Picture or path
    crops : {5, 10, 1}
        5 and 10 both name the protocol: ten vote, five give points. 1: the one window of the input contract.
    target, output, keep_softmax
        See :func:`onnxplain.explain`; to an element of the output the picture is a batch of one, whatever its windows.
    contract : InputContract, optional
        How pictures are prepared; found by :func:`onnxplain.inputs.contract.discover` with ``preprocess`` by default.
    labels : sequence of str, optional
        Class names; those of the contract by default.
    outliers, radius, share
        See :func:`onnxplain.methods.fixations.fixations`.
    sigma : float
        Standard deviation of the density map's Gaussian, in pixels of the picture; below 1, as a share of its smaller
        side.
    **call
        What else :func:`onnxplain.explain` takes, ``conv_location`` among it.

    Returns
    -------
    Explanation
        Of one sample. ``points``, ``relevance``, ``maps`` and ``boxes`` are those of the whole picture, as though it
        were the input; a point that several crops lead to counts as often. ``prediction`` is the mean softmax.

    Raises
    ------
    UsageError
        A number of crops other than 1, 5 or 10, a model without a class to vote on, or a contract that leaves something
        open.
    """
    model = model if isinstance(model, Model) else load(model)
    if crops not in (1, 5, 10):
        raise UsageError(f"crops must be 1, 5 or 10, not {crops!r}")
    look = Look(outliers, radius, share, sigma)
    contract = contract or discover(model, model.inputs[0].name, preprocess=preprocess, output_name=output)
    contract.check()
    picture = picture if isinstance(picture, Picture) else read_picture(Path(picture))
    labels = labels if labels is not None else contract.labels.value
    array, geometry = prepare(picture, contract)
    windows, prediction = [geometry], None
    asked = {"target": target, "crops": crops}
    notes: list[str] = []
    if crops > 1:
        windows = geometry.crops(round(min(geometry.window) * SHORT_SIDE))
        array = np.concatenate([prepare(picture, contract, window)[0] for window in windows])
        chosen = parse_target(model.graph, target, output, labels, keep_softmax)
        scores = _scores(model, chosen.tensor.name, array, contract)
        votes = _votes(scores)
        prediction = votes.mean(axis=0, keepdims=True)
        giving = _agreeing(votes[: len(windows)], int(prediction.argmax())) if target is None else range(len(windows))
        if is_element(target, labels):
            target = _of_each(chosen, scores)
        windows, array = [windows[place] for place in giving], array[list(giving)]
        notes.append(f"{len(windows)} of 5 crops give points")
    call = {"method": "fixations", **call, "outliers": False}
    feed = {contract.input_name: array}
    e = explain(model, feed, target=target, output=output, labels=labels, keep_softmax=keep_softmax, **call)
    assert e.origin is not None
    options = {**e.origin.options, **vars(look), **asked}
    return replace(
        _on_picture(e, contract, windows, look, prediction, notes), origin=replace(e.origin, options=options)
    )


def _scores(model: Model, tensor: str, array: np.ndarray, contract: InputContract) -> np.ndarray:
    """What the classes get from the crops and then from their mirror images."""
    across = 3 if contract.layout.value == "NCHW" else 2
    every = np.concatenate([array, np.flip(array, across)])
    declared = model.inputs[0].shape
    size = len(every) if model.batched or not declared or not isinstance(declared[0], int) else declared[0]
    rows = []
    for start in range(0, len(every), size):
        found = model.trace([model.tensor(tensor)], {contract.input_name: every[start : start + size]})[tensor]
        if max(found.shape[1:], default=0) * size != found.size:
            raise UsageError(
                f"crops vote on a class, and {tensor!r} of shape {found.shape} is no class vector; use crops=1"
            )
        rows.append(found)
    return np.concatenate(rows)


def _votes(scores: np.ndarray) -> NDArray[np.float64]:
    """Class probabilities."""
    rows = scores.reshape(len(scores), -1).astype(np.float64)
    if (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-3):
        return rows
    probabilities: NDArray[np.float64] = softmax(rows, axis=1)
    return probabilities


def _of_each(element: Target, scores: np.ndarray) -> str:
    """An element of the picture, a batch of one, as that of every window."""
    element.weights(scores[:1])  # refuses what a batch of one does not have
    indices = str(element.spec)[1:-1].split(",")[1 - scores.ndim :]
    return f"{element.output.name}[{','.join(indices)}]"


def _agreeing(votes: NDArray[np.float64], label: int) -> Sequence[int]:
    """The crops that have ``label`` for top class; where none has, those that agree with the last, the middle."""
    own = votes.argmax(axis=1)
    places: list[int] = np.flatnonzero(own == (label if label in own else own[-1])).tolist()
    return places


def _on_picture(
    e: Explanation,
    contract: InputContract,
    windows: Sequence[Geometry],
    look: Look,
    prediction: np.ndarray | None,
    notes: Sequence[str],
) -> Explanation:
    """The points of every crop on the pixels of the picture, as one sample."""
    name, first = contract.input_name, contract.layout.value == "NCHW"
    height, width = windows[0].original
    channels = e.relevance[name].shape[1 if first else 3]
    shape = (1, channels, height, width) if first else (1, height, width, channels)
    points = e.points[name]
    parts = []
    for index, window in enumerate(windows):
        own = points[points[:, 0] == index]
        channel, y, x = (own[:, 1], own[:, 2], own[:, 3]) if first else (own[:, 3], own[:, 1], own[:, 2])
        y, x = window.places(y, x)
        place = (channel, y, x) if first else (y, x, channel)
        parts.append(np.ravel_multi_index(place, shape[1:]))
    merged: Points = gathered(np.concatenate(parts), e.point_weights[name])
    one = replace(e.target[0], value=float(np.mean([chosen.value for chosen in e.target])))
    said = (*notes, f"points are pixels of the picture, {height} x {width}")
    whole = Explanation(
        {}, e.prediction if prediction is None else prediction, [one], e.method, e.engine, timings=e.timings,
        notes=(*e.notes, *said), at=e.at, channels={name: 1 if first else 3}, path=e.path,
    )  # fmt: skip
    enter(whole, name, merged, shape, look)
    return whole
