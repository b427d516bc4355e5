"""The score of one class for many altered copies of an input, in batches that fit the memory budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxplain.checks import check_count
from onnxplain.engine.budget import samples_held
from onnxplain.errors import UsageError
from onnxplain.graph.layers import Layer, Tensor
from onnxplain.model import Feed, Model

Kind = Literal["probability", "logit"]

MOST = 64
"""Largest batch: beyond it a CPU gains nothing."""

_MOVES = frozenset({"Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze",
                    "Transpose", "Unsqueeze"})  # fmt: skip
_CLOSING = ("Softmax", "LogSoftmax", "Sigmoid")


class ClassScores:
    """The scores that a model's output gives its classes.

    A probability is what a closing Softmax or Sigmoid returns, or the exponential of a closing LogSoftmax; where the
    graph ends in logits, their softmax, or the sigmoid of a single one.

    Parameters
    ----------
    model : Model
    output : Tensor
        The output, one value per class and sample.
    feed : mapping of str to numpy.ndarray
        A sample; altered copies replace one of its inputs.
    kind : {"probability", "logit"}
        "logit" takes the output as it is.
    batch_size : int, optional
        Copies computed at once, the attribute ``batch``; chosen from the memory budget by default.

    Raises
    ------
    UsageError
        Unknown kind, or a batch size below 1.
    """

    def __init__(
        self, model: Model, output: Tensor, feed: Feed, kind: Kind = "probability", batch_size: int | None = None
    ) -> None:
        if kind not in ("probability", "logit"):
            raise UsageError(f"score must be probability or logit, not {kind!r}")
        if batch_size is not None:
            check_count("batch_size", batch_size)
        self.model, self.output, self.feed, self.kind = model, output, feed, kind
        self._closing = closing(output)
        self.batch = (batch_size or self._fitting()) if model.batched else 1

    def of(self, feed: Feed) -> NDArray[np.float64]:
        """Scores of every class, shape (samples, classes).

        Raises
        ------
        UsageError
            The output has more than one axis of classes, so that no class has a probability.
        """
        y = self.model.trace([self.output], feed)[self.output.name].astype(np.float64)
        if self.kind == "probability" and max(y.shape[1:], default=1) != math.prod(y.shape[1:]):
            raise UsageError(
                f"output {self.output.name!r} of shape {y.shape} is no list of classes, so nothing there has a "
                "probability; score=logit takes the values as they are"
            )
        y = y.reshape(len(y), -1)
        if self.kind == "logit" or self._closing in ("Softmax", "Sigmoid"):
            return y
        return np.exp(y) if self._closing == "LogSoftmax" else self._probabilities(y)

    @property
    def note(self) -> str:
        """What the score is, for people."""
        if self.kind == "logit":
            return f"the score is the value of {self.output.name!r}"
        if self._closing:
            return f"the score is the probability that the closing {self._closing} gives"
        return f"the score is a probability: the graph ends in logits, its softmax is taken at {self.output.name!r}"

    @property
    def logits(self) -> Tensor:
        """Where the gradient of a score starts: before the closing Softmax, LogSoftmax or Sigmoid."""
        layer = None if self.kind == "logit" else _closing_layer(self.output)
        tensor = self.output if layer is None else layer.inputs[0]
        assert tensor is not None
        return tensor

    def gradient(self, z: np.ndarray, weights: np.ndarray) -> NDArray[np.float64]:
        """The gradient of a weighted sum of scores in the logits.

        Taken from the logits in float64: behind a softmax in float32 a class that is nearly certain has none left.

        Parameters
        ----------
        z : array
            The value of :attr:`logits`, samples along axis 0.
        weights : array
            One per class.

        Returns
        -------
        float64 array in the shape of ``z``
        """
        flat = z.astype(np.float64).reshape(len(z), -1)
        w = np.broadcast_to(weights.reshape(-1), flat.shape)
        if self.kind == "logit":
            return w.reshape(z.shape)
        p = self._probabilities(flat)
        if self._by_sigmoid(flat):
            return np.asarray(w * p * self._probabilities(-flat)).reshape(z.shape)
        return np.asarray(p * (w - (p * w).sum(axis=1, keepdims=True))).reshape(z.shape)

    def _by_sigmoid(self, z: NDArray[np.float64]) -> bool:
        return self._closing == "Sigmoid" or (self._closing is None and z.shape[1] == 1)

    def _probabilities(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._by_sigmoid(z):
            return np.asarray(np.exp(-np.logaddexp(0, -z)))
        raised = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    def over(self, name: str, index: int, copies: Iterable[np.ndarray]) -> NDArray[np.float64]:
        """The score of class ``index`` for copies of input ``name``, one float64 each.

        The copies come without the axis of the samples and are taken as a batch needs them.
        """
        found = [self.of(batch)[:, index] for batch in self._batches(name, copies)]
        return np.concatenate(found) if found else np.zeros(0)

    def _batches(self, name: str, copies: Iterable[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        waiting = iter(copies)
        while batch := list(islice(waiting, self.batch)):
            yield self.beside(name, np.stack(batch).astype(self.feed[name].dtype, copy=False))

    def beside(self, name: str, copies: np.ndarray) -> dict[str, np.ndarray]:
        """The feed of ``copies`` of input ``name``, every other input repeated."""
        others = {other: value for other, value in self.feed.items() if other != name}
        return {name: copies, **{other: np.repeat(value, len(copies), axis=0) for other, value in others.items()}}

    def _fitting(self) -> int:
        return min(MOST, samples_held(self.model.recording(self.feed, self.output, 1).size))


def closing(output: Tensor) -> str | None:
    """The op type of the Softmax, LogSoftmax or Sigmoid that ends at ``output``, moves of elements aside."""
    layer = _closing_layer(output)
    return None if layer is None else layer.op_type


def _closing_layer(output: Tensor) -> Layer | None:
    layer = output.producer
    while layer is not None and layer.op_type in _MOVES and layer.inputs[0] is not None:
        layer = layer.inputs[0].producer
    return layer if layer is not None and layer.op_type in _CLOSING else None
