"""Inputs explained one after another, each into a folder of its own."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import onnxplain
from onnxplain.cli.options import split_providers
from onnxplain.cli.output import Output
from onnxplain.cli.results import Result, of_sample, write
from onnxplain.errors import FailureError, UnsupportedError
from onnxplain.explanation import Explanation
from onnxplain.inputs.contract import InputContract, discover
from onnxplain.inputs.loaders import Sample, Skipped, load_inputs
from onnxplain.inputs.pictures import Geometry
from onnxplain.methods.defaults import contract_options
from onnxplain.methods.table import find_method
from onnxplain.model import Model
from onnxplain.ops import moves_samples
from onnxplain.targets import is_element

GROUP = 16
"""Inputs that are explained at once unless the user says otherwise; enough for the compiled engine to pay."""


@dataclass
class Stream:
    """What is the same for all inputs of a call, and the time that went into them.

    Attributes
    ----------
    folder : Path
        Where each input gets its folder.
    model : Model
    call : mapping
        Keyword arguments of :func:`onnxplain.explain`.
    contract : InputContract
    seconds : dict of str to float
        By phase: read, forward, backward, render.
    """

    folder: Path
    model: Model
    call: Mapping[str, Any]
    contract: InputContract
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def _by_crops(self) -> bool:
        """Whether several windows of each picture are explained."""
        return bool(self.call.get("method") == "fixations" and self.call.get("crops", 1) != 1)

    @property
    def _at_once(self) -> int:
        """How many inputs are explained at once; each alone where the target may index the axis that groups share.

        So is each where that axis may not be the first one of a tensor inside.
        """
        apart = is_element(self.call.get("target"), self.labels) or moves_samples(self.model.graph.layers)
        together = self.model.batched and not self._by_crops and not apart
        return (self.call["batch_size"] or GROUP) if together else 1

    @property
    def labels(self) -> Sequence[str] | None:
        """Class names of the output."""
        return self.contract.labels.value

    def run(
        self, inputs: Iterable[Sample | Skipped], part: Callable[[float], None] | None = None
    ) -> Iterator[Result | Skipped]:
        """Explain and write; what cannot be read or explained is handed on as Skipped.

        ``part`` is told how many of the inputs that are explained at the moment are done.
        """
        for group in self._groups(inputs):
            if isinstance(group, Skipped):
                yield group
            else:
                yield from self._explained(group, part)

    def notes(self, result: Result) -> list[str]:
        """What was assumed for a result: how a picture was prepared, and what the explanation notes."""
        contract = self.contract.describe() if result.sample.picture is not None else []
        return [*(f"{name}: {value} ({origin})" for name, value, origin in contract), *result.explanation.notes]

    def times(self) -> str:
        """The time spent so far, for a person."""
        return "time    " + ", ".join(f"{phase} {value:.2f} s" for phase, value in self.seconds.items())

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time of the block to ``phase``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    def _groups(self, inputs: Iterable[Sample | Skipped]) -> Iterator[list[Sample] | Skipped]:
        """Neighbours of one shape together, where the model takes several samples at once."""
        most = self._at_once
        group: list[Sample] = []
        waiting = iter(inputs)
        while True:
            with self.timed("read"):
                item = next(waiting, None)
            if group and (len(group) == most or not isinstance(item, Sample) or _form(item) != _form(group[0])):
                yield group
                group = []
            if item is None:
                return
            if isinstance(item, Skipped):
                yield item
            else:
                group.append(item)

    def _explained(self, group: Sequence[Sample], part: Callable[[float], None] | None) -> Iterator[Result | Skipped]:
        def advance(done: int, total: int) -> None:
            if part:
                part(len(group) * done / total)

        feed = group[0].feed
        if len(group) > 1:
            feed = {name: np.concatenate([sample.feed[name] for sample in group]) for name in feed}
        try:
            if self._by_crops and group[0].picture is not None:
                e = onnxplain.fixate_picture(
                    self.model, group[0].picture, contract=self.contract, labels=self.labels, **self.call
                )
                group = [replace(group[0], geometry=Geometry.whole(group[0].picture.size))]
            else:
                e = onnxplain.explain(self.model, feed, **self.call, labels=self.labels, progress=advance)
        except FailureError as error:
            if len(group) == 1:
                yield Skipped(group[0].name, group[0].path, error)
                return
            for sample in group:
                yield from self._explained([sample], part)
            return
        for phase, spent in e.timings.items():
            self.seconds[phase] += spent
        for index, sample in enumerate(group):
            with self.timed("render"):
                own = self._named(of_sample(e, index) if len(group) > 1 else e, sample)
                result = write(own, sample, self.labels, self.folder / sample.name)
            yield result

    def _named(self, e: Explanation, sample: Sample) -> Explanation:
        """With the input's file, and the way of a picture from it to the model."""
        assert e.origin is not None
        contract = None if sample.picture is None else self.contract.to_json()
        return replace(e, origin=replace(e.origin, input=str(sample.path), contract=contract))


def open_stream(
    folder: Path,
    model: str,
    inputs: Sequence[str],
    call: Mapping[str, Any],
    providers: str | None = None,
    preprocess: str | None = None,
    labels: str | None = None,
) -> tuple[Stream, Iterator[Sample | Skipped]]:
    """Load a model, settle its input contract and find its inputs.

    Parameters
    ----------
    folder : Path
        Where each input gets its folder.
    model : str
        The ONNX file.
    inputs : sequence of str
        What the user named.
    call : mapping
        Keyword arguments of :func:`onnxplain.explain`; what the contract settles of the method is filled in.
    providers, preprocess, labels : str or None
        As on the command line.

    Returns
    -------
    Stream
    iterator of Sample or Skipped
        To be run through it.
    """
    started = time.perf_counter()
    loaded = onnxplain.load(model, split_providers(providers))
    if not loaded.inputs:
        raise UnsupportedError(f"{model} has no input, so there is nothing to explain")
    contract = discover(loaded, loaded.inputs[0].name, preprocess=preprocess, labels=labels, output_name=call["output"])
    samples = load_inputs(inputs, loaded, contract)
    call = {**call, "rules": call["rules"] or find_method(call["method"]).rules}
    stream = Stream(folder, loaded, {**contract_options(call["method"], call["rules"], contract), **call}, contract)
    stream.seconds["read"] += time.perf_counter() - started
    return stream, samples


def skip(out: Output, item: Skipped, count: int) -> dict[str, str]:
    """Report an input that cannot be used and return its entry in the document; the only one is an error."""
    if count == 1:
        raise item.error
    out.complain(f"{item.path} skipped: {item.error}")
    return {"input": str(item.path), "error": str(item.error)}


def tell(out: Output, told: set[str], notes: Iterable[str]) -> None:
    """Tell the user each note once."""
    for note in notes:
        if note not in told:
            told.add(note)
            out.note(note)


def _form(sample: Sample) -> object:
    """What must be equal for two samples to be stacked; an input of several samples stays alone."""
    shapes = {name: value.shape for name, value in sample.feed.items()}
    alone = any(not shape or shape[0] != 1 for shape in shapes.values())
    return id(sample) if alone else shapes
