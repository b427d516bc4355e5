"""One picture of an evaluation: what is explained there, each method's map, and the measures of that map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxplain.engine.budget import MEMORY_BUDGET
from onnxplain.engine.redrawn import cascade
from onnxplain.engine.scores import ClassScores, Kind
from onnxplain.engine.sharing import Shared
from onnxplain.errors import FailureError, OnnxplainError, UsageError
from onnxplain.explanation import Explanation
from onnxplain.graph.layers import Tensor
from onnxplain.graph.layout import channel_axis
from onnxplain.inputs.contract import InputContract
from onnxplain.inputs.loaders import Sample
from onnxplain.methods import explain
from onnxplain.methods.defaults import contract_options
from onnxplain.methods.table import METHODS
from onnxplain.metrics import baselines
from onnxplain.metrics.measures import Case, Measure
from onnxplain.metrics.randomization import STAGES
from onnxplain.metrics.robustness import completeness_gap
from onnxplain.metrics.truth import Names, Truth
from onnxplain.model import Feed, Model

Evidence = Literal["positive", "absolute", "signed"]
Within = Callable[[float], None]
"""Told which part of one method's work on one picture is done."""

TRIVIAL = ("random", "gaussian", "edges")
"""The maps without any explanation that stand beside every method."""

ADDING_UP = ("lrp", "input-x-gradient")
"""Methods that promise attributions which add up; integrated gradients report their gap themselves."""


@dataclass(frozen=True)
class Settings:
    """What is the same for every picture and method.

    Attributes
    ----------
    target : int or str
        "predicted", "truth" (of the classes that the truth names, the one with the highest score), an index or label.
    score : {"probability", "logit"}
        What measures take for the model's answer.
    evidence : {"positive", "absolute", "signed"}
        What of a map is measured.
    steps : int
        Points of an insertion or deletion curve, less one.
    seed : int
    engine : str
    batch_size : int or None
    """

    target: int | str = "predicted"
    score: Kind = "probability"
    evidence: Evidence = "positive"
    steps: int = 50
    seed: int = 0
    engine: str = "auto"
    batch_size: int | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture whose class is settled.

    Attributes
    ----------
    sample : Sample
    model : Model
        Through which its methods share passes.
    shared : Shared
    index : int
        The explained class.
    scores : ClassScores
    truth : bool array, shape (height, width), or None
    seed : int
        Of the picture.
    """

    sample: Sample
    model: Model
    shared: Shared
    index: int
    scores: ClassScores
    truth: NDArray[np.bool_] | None
    seed: int


@dataclass(frozen=True, eq=False)
class Judge:
    """Explains and measures pictures.

    Attributes
    ----------
    model : Model
    output : Tensor
    contract : InputContract
    measures : sequence of Measure
    names : Names
    truth : Truth or None
    settings : Settings
    """

    model: Model
    output: Tensor
    contract: InputContract
    measures: tuple[Measure, ...]
    names: Names
    truth: Truth | None
    settings: Settings

    def scene(self, sample: Sample, place: int, named: frozenset[str]) -> Scene:
        """Settle the class that is explained, by one pass of the model, and where it is.

        Parameters
        ----------
        sample : Sample
        place : int
            Position in the data set, for the seed.
        named : set of str
            Classes that the truth or the data set names.

        Raises
        ------
        UsageError
            The input is no single picture, or the target does not exist.
        FailureError
            The target is the named class, and none of the names is a class of the model.
        """
        x = sample.feed[self.contract.input_name]
        if x.ndim != 4 or len(x) != 1:
            raise UsageError(f"{sample.path}: an evaluation takes one picture at a time, not an array {x.shape}")
        kind, size = self.settings.score, self.settings.batch_size
        shared = Shared(sample.feed, MEMORY_BUDGET)
        model = self.model.sharing(shared)
        scores = ClassScores(model, self.output, sample.feed, kind, size)
        index = self._index(scores.of(sample.feed)[0], named)
        window = self._window(x)
        truth = None if self.truth is None else self.truth.mask(sample, window, self.names, index)
        seed = int(np.random.SeedSequence([self.settings.seed, place]).generate_state(1)[0])
        return Scene(sample, model, shared, index, scores, truth, seed)

    def judged(
        self, scene: Scene, method: str, options: Mapping[str, Any], within: Within | None = None
    ) -> dict[str, Any]:
        """The measures of one method's map as a record: ``values`` by measure, ``seconds``, ``target``.

        A method that fails on this picture gives ``failed`` with the reason instead of values.
        """
        started = scene.shared.clock()
        name = self.contract.input_name
        try:
            values, e = self._map(scene, method, options, scene.sample.feed, within)
            seconds = scene.shared.clock() - started
            x = scene.sample.feed[name][0]
            case = Case(
                values,
                x,
                self._axis,
                partial(scene.scores.over, name, scene.index),
                lambda again: self._map(scene, method, options, {**scene.sample.feed, name: again[np.newaxis]})[0],
                lambda: float("nan") if e is None else self._gap(e),
                lambda: (
                    self._map(replace(scene, model=model), method, options, scene.sample.feed)[0]
                    for model in self._redrawn
                ),
                scene.truth,
                scene.seed,
                self.settings.steps,
            )
            found = {measure.name: measure.of(case) for measure in self.measures}
        except FailureError as error:
            return {"failed": str(error), "target": scene.index}
        except OnnxplainError as error:
            raise type(error)(f"{method}: {error}") from error
        return {"values": found, "seconds": seconds, "target": scene.index}

    @cached_property
    def _redrawn(self) -> tuple[Model, ...]:
        """The model with more and more random weights."""
        return tuple(stage.model for stage in cascade(self.model, self.output, STAGES, self.settings.seed))

    def _map(
        self,
        scene: Scene,
        method: str,
        options: Mapping[str, Any],
        feed: Feed,
        within: Within | None = None,
    ) -> tuple[NDArray[np.float64], Explanation | None]:
        name = self.contract.input_name
        window = self._window(feed[name])
        if method in TRIVIAL:
            return self._trivial(method, window, feed[name][0], scene.seed), None
        e = explain(
            scene.model,
            feed,
            method,
            scene.index,
            self.output.name,
            engine=self.settings.engine if METHODS[method].backward else "auto",
            batch_size=self.settings.batch_size,
            seed=scene.seed,
            labels=self.names.labels,
            progress=within and (lambda done, total: within(done / total)),
            **{**contract_options(method, options.get("rules"), self.contract), **options},
        )
        values = np.asarray(e.map(name)[0], np.float64)
        if values.shape != window:
            raise FailureError(f"its map has shape {values.shape}, the picture {window}")
        match self.settings.evidence:
            case "positive":
                values = np.maximum(values, 0)
            case "absolute":
                values = np.abs(values)
        return values, e

    def _trivial(self, name: str, window: tuple[int, int], x: np.ndarray, seed: int) -> NDArray[np.float64]:
        match name:
            case "random":
                values = baselines.random_map(window, seed=seed)
            case "gaussian":
                values = baselines.gaussian_map(window)
            case _:
                values = baselines.edge_map(np.moveaxis(x, self._axis, -1))
        return values.astype(np.float64)

    def _gap(self, e: Explanation) -> float:
        total = sum(float(np.sum(value, dtype=np.float64)) for value in e.relevance.values())
        if "completeness_gap" in e.extras:
            return completeness_gap(total, total - float(e.extras["completeness_gap"][0]))
        if e.method not in ADDING_UP:
            return float("nan")
        [chosen] = e.target
        if e.method == "lrp":
            return completeness_gap(total, chosen.value)
        nothing = {name: np.zeros_like(value) for name, value in e.relevance.items()}
        at_nothing = self.model.trace([self.model.tensor(chosen.tensor)], self.model.check_feed(nothing))
        return completeness_gap(total, chosen.value, float(at_nothing[chosen.tensor].reshape(-1)[chosen.index or 0]))

    def _index(self, scores: NDArray[np.float64], named: frozenset[str]) -> int:
        target = self.settings.target
        if target == "predicted":
            return int(scores.argmax())
        asked = frozenset({target}) if isinstance(target, int) else self.names.indices(target)
        if target == "truth":
            asked = frozenset().union(*(self.names.indices(name) for name in named))
            if not asked:
                said = f"none of its classes ({', '.join(sorted(named))}) is the model's"
                raise FailureError(said if named else "neither boxes nor data set say which class it shows")
        wrong = next((index for index in sorted(asked) if not 0 <= index < scores.size), None)
        if wrong is not None or not asked:
            raise UsageError(
                f"target {target!r}{'' if wrong is None else f' stands for {wrong}, which'} is no class of output "
                f"{self.output.name!r}, which has 0 to {scores.size - 1}"
            )
        return max(sorted(asked), key=lambda index: scores[index])

    @property
    def _axis(self) -> int:
        """The axis of the channels in a sample."""
        if self.contract.layout.value in ("NCHW", "NHWC"):
            return 0 if self.contract.layout.value == "NCHW" else 2
        axis = channel_axis(self.model.tensor(self.contract.input_name))
        if axis is None:
            raise UsageError(
                f"the graph does not tell which axis of {self.contract.input_name!r} holds the channels; a sidecar or "
                '--preprocess FILE.toml with layout = "NCHW" does'
            )
        return axis - 1

    def _window(self, x: np.ndarray) -> tuple[int, int]:
        height, width = (side for axis, side in enumerate(x.shape[1:]) if axis != self._axis)
        return height, width
