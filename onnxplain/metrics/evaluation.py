"""Methods against measures, on a model and a data set of one's own."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from onnxplain.engine.scores import Kind
from onnxplain.errors import FailureError, UnsupportedError, UsageError
from onnxplain.inputs.datasets import Dataset, Record, read_dataset
from onnxplain.inputs.journal import Journal
from onnxplain.inputs.loaders import Skipped, contract_for, load_record, preparation
from onnxplain.methods.table import METHODS, check_method
from onnxplain.metrics.judging import TRIVIAL, Evidence, Judge, Scene, Settings
from onnxplain.metrics.measures import CURVES, MEASURES, PUBLISHED, Measure
from onnxplain.metrics.results import Evaluation, Row
from onnxplain.metrics.statistics import Measured
from onnxplain.metrics.truth import BoxTruth, MaskTruth, Names, Truth, read_class_map, without_masks
from onnxplain.model import Model, load
from onnxplain.targets import parse_target

JOURNAL = "journal.jsonl"
_OF_EXPLAIN = ("rules", "keep_softmax")

Progress = Callable[[float, int], None]
"""Called with how many of how many maps are measured."""


def evaluate(
    model: Model | Any,
    dataset: Dataset | str | Path,
    methods: Sequence[str],
    metrics: Sequence[str] | None = None,
    *,
    boxes: str | Path | None = None,
    masks: str | Path | None = None,
    target: int | str = "predicted",
    class_map: str | Path | None = None,
    labels: str | Path | None = None,
    preprocess: str | Path | None = None,
    output: str | None = None,
    rules: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    score: str = "probability",
    evidence: str = "positive",
    steps: int = 50,
    engine: str = "auto",
    batch_size: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure methods on the pictures of a data set, beside a random map, a centred Gaussian and an edge detector.

    Everything is measured in the window that the model sees, one picture after another.

    Parameters
    ----------
    model : Model or path
    dataset : Dataset or path
        See :func:`onnxplain.inputs.datasets.read_dataset`.
    methods : sequence of str
        Names from :func:`onnxplain.available_methods`.
    metrics : sequence of str, optional
        Names from :data:`onnxplain.metrics.measures.MEASURES`. By default those of the SISE paper, as far as boxes or
        masks are given, insertion, deletion and sparseness.
    boxes, masks : path, optional
        Ground truth: a file of boxes, of which those of the explained class count, or a folder of masks, which may be
        that of the pictures.
    target : int or str
        The class that is explained: "predicted"; "truth", of the classes that the boxes or else the labels of the data
        set name the one with the highest score; an index; a label.
    class_map : path, optional
        A JSON object from the names in boxes or data set to indices of the model's classes.
    labels, preprocess : path or str, optional
        As for :func:`onnxplain.inputs.contract.discover`.
    output : str, optional
        The output with the classes; the only one by default.
    rules : str, optional
        Rule book of the methods that take one; at least one must.
    options : mapping of str to mapping, optional
        Options by method.
    score : {"probability", "logit"}
        What the measures take for the model's answer.
    evidence : {"positive", "absolute", "signed"}
        What of each map is measured: its positive part, its magnitude, or the map as it stands.
    steps : int
        Parts in which insertion and deletion change a picture.
    engine, batch_size, seed
        As for :func:`onnxplain.explain`; methods that carry out no plan do without the engine.
    folder : path, optional
        Where the journal is kept; an interrupted evaluation of the same job is continued there.
    progress : callable, optional
        Called with (done, total), counted in maps.

    Returns
    -------
    Evaluation

    Raises
    ------
    UsageError
        What was asked is wrong: method, option, measure without its ground truth, box outside its picture, journal of
        another job.
    UnsupportedError
        A method does not work on this model.
    """
    model = model if isinstance(model, Model) else load(model)
    dataset = dataset if isinstance(dataset, Dataset) else read_dataset(dataset)
    asked = _methods(methods, options or {}, rules)
    truth = _truth(boxes, masks)
    if masks is not None:
        dataset = without_masks(dataset)
    measures = _measures(metrics, truth)
    settings = _settings(target, score, evidence, steps, seed, engine, batch_size)
    contract = contract_for(dataset, model, preprocess, labels, output) if model.inputs else None
    if contract is None:
        raise UnsupportedError(f"{model.label} takes {len(model.inputs)} inputs; an evaluation needs one, a picture")
    names = Names(None if class_map is None else read_class_map(class_map), contract.labels.value)
    chosen = parse_target(model.graph, None, output, keep_softmax=True).output
    if chosen not in model.outputs:
        raise UsageError(f"{chosen.name!r} is no output of the model, and an evaluation compares its answers")
    notes = [*preparation(dataset, contract), *([] if truth is None else truth.check(dataset))]
    judge = Judge(model, chosen, contract, measures, names, truth, settings)
    named = [_named(*record, dataset, truth) for record in zip(dataset.ids, dataset.labels, strict=True)]
    if settings.target == "truth" and not any(named):
        raise UsageError("target 'truth' needs classes: give --boxes FILE, or a data set with labels")
    if settings.target == "truth" or isinstance(truth, BoxTruth):
        names.check(frozenset().union(*named), str(boxes or dataset.source))
    with _journal(folder, _job(judge, dataset)) as journal:
        skipped = _carry_out(judge, dataset, named, asked, journal, progress)
        return _gathered(judge, dataset, asked, journal, notes, skipped)


def _carry_out(
    judge: Judge,
    dataset: Dataset,
    named: Sequence[frozenset[str]],
    asked: Mapping[str, Mapping[str, Any]],
    journal: Journal,
    progress: Progress | None,
) -> dict[str, str]:
    """Judge what the journal does not hold yet; returns the records that cannot be used, with the reason."""
    skipped: dict[str, str] = {}
    total, done = len(dataset) * len(asked), 0

    def tell(part: float = 0.0) -> None:
        if progress is not None:
            progress(done + part, total)

    for place, record in enumerate(dataset):
        keys = {method: _key(record.id, method, options) for method, options in asked.items()}
        waiting = [method for method, key in keys.items() if key not in journal]
        done += len(keys) - len(waiting)
        scene = _scene(judge, record, place, named[place]) if waiting else None
        if isinstance(scene, FailureError):
            skipped[record.id] = str(scene)
            done += len(waiting)
            scene = None
        tell()
        for method in waiting if scene else ():
            assert scene is not None
            journal.append(keys[method], judge.judged(scene, method, asked[method], tell))
            done += 1
            tell()
    return skipped


def _scene(judge: Judge, record: Record, place: int, named: frozenset[str]) -> Scene | FailureError:
    sample = load_record(record, judge.model, judge.contract)
    if isinstance(sample, Skipped):
        return FailureError(str(sample.error))
    try:
        return judge.scene(sample, place, named)
    except FailureError as error:
        return error


def _gathered(
    judge: Judge,
    dataset: Dataset,
    asked: Mapping[str, Mapping[str, Any]],
    journal: Journal,
    notes: Sequence[str],
    skipped: dict[str, str],
) -> Evaluation:
    nothing: dict[str, Any] = {"values": {}, "seconds": np.nan, "target": None}
    rows, said = [], list(notes)
    targets: list[int | None] = [None] * len(dataset)
    for method, options in asked.items():
        keys = [_key(identity, method, options) for identity in dataset.ids]
        records = [nothing | journal[key] if key in journal else nothing for key in keys]
        failed = [record["failed"] for record in records if "failed" in record]
        if failed:
            said.append(f"{method} failed on {len(failed)} of {len(records)} pictures: {failed[0]}")
        measured = {
            measure.name: Measured.of([record["values"].get(measure.name, np.nan) for record in records])
            for measure in judge.measures
        }
        rows.append(Row(method, options, measured, Measured.of([record["seconds"] for record in records])))
        targets = [old if old is not None else record["target"] for old, record in zip(targets, records, strict=True)]
    located = [measure.name for measure in judge.measures if measure.needs == "truth"]
    if located:
        used = sum(target is not None for target in targets)
        without = used - max(int(np.isfinite(row.measured[located[0]].values).sum()) for row in rows)
        if without:
            said.append(
                f"{without} of {used} pictures show nothing of the explained class by the ground truth and do not "
                f"count in {', '.join(located)}"
            )
    call = {"data": str(dataset.source), "output": judge.output.name, **asdict(judge.settings)}
    return Evaluation(tuple(rows), judge.measures, dataset.ids, tuple(targets), call, tuple(said), skipped)


def _key(identity: str, method: str, options: Mapping[str, Any]) -> str:
    return json.dumps([identity, method, options], sort_keys=True, default=str)


def _methods(
    methods: Sequence[str], options: Mapping[str, Mapping[str, Any]], rules: str | None
) -> dict[str, Mapping[str, Any]]:
    """The options of every method, the trivial maps at the end."""
    if not methods:
        raise UsageError(f"no method was named; there are {', '.join(METHODS)}")
    asked: dict[str, Mapping[str, Any]] = {}
    for method in methods:
        if method in asked:
            raise UsageError(f"method {method!r} is named twice")
        own = dict(options.get(method, {}))
        if method not in TRIVIAL:
            plain = {name: value for name, value in own.items() if name not in _OF_EXPLAIN}
            if check_method(method, plain, own.get("rules")).rules and rules is not None:
                own.setdefault("rules", rules)
        elif own:
            raise UsageError(f"the map {method!r} explains nothing and has no options")
        asked[method] = own
    if rules is not None and not any("rules" in own for own in asked.values()):
        raise UsageError(f"none of the methods {', '.join(methods)} takes a rule book; leave out rules (--rules)")
    for method in options:
        if method not in asked:
            raise UsageError(f"an option is given for {method!r}, which is not among the methods {', '.join(methods)}")
    return {**{m: o for m, o in asked.items() if m not in TRIVIAL}, **{method: {} for method in TRIVIAL}}


def _measures(metrics: Sequence[str] | None, truth: Truth | None) -> tuple[Measure, ...]:
    if metrics is None:
        known = [*PUBLISHED, *CURVES, "sparseness"]
        return tuple(MEASURES[name] for name in known if truth is not None or MEASURES[name].needs != "truth")
    for name in metrics:
        if name not in MEASURES:
            raise UsageError(f"unknown measure {name!r}; there are {', '.join(MEASURES)}")
        if truth is None and MEASURES[name].needs == "truth":
            raise UsageError(f"measure {name!r} needs to know where things are: give --boxes FILE or --masks DIR")
    if not metrics:
        raise UsageError(f"no measure was named; there are {', '.join(MEASURES)}")
    return tuple(MEASURES[name] for name in dict.fromkeys(metrics))


def _truth(boxes: str | Path | None, masks: str | Path | None) -> Truth | None:
    if boxes is not None and masks is not None:
        raise UsageError("give either boxes (--boxes) or masks (--masks), not both")
    if boxes is not None:
        return BoxTruth.read(Path(boxes))
    return None if masks is None else MaskTruth(Path(masks))


def _settings(
    target: int | str, score: str, evidence: str, steps: int, seed: int, engine: str, batch_size: int | None
) -> Settings:
    if score not in get_args(Kind):
        raise UsageError(f"score must be {' or '.join(get_args(Kind))}, not {score!r}")
    if evidence not in get_args(Evidence):
        raise UsageError(f"evidence must be {', '.join(get_args(Evidence))}, not {evidence!r}")
    if steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    if isinstance(target, str) and re.fullmatch(r"-?\d+", target):
        target = int(target)
    return Settings(target, cast(Kind, score), cast(Evidence, evidence), steps, seed, engine, batch_size)


def _named(identity: str, label: int | None, dataset: Dataset, truth: Truth | None) -> frozenset[str]:
    """Names of what a picture shows, by the ground truth or else by the data set."""
    said = frozenset() if truth is None else truth.names(identity)
    return said or (frozenset() if label is None else frozenset({dataset.class_names[label]}))


def _job(judge: Judge, dataset: Dataset) -> dict[str, Any]:
    """Everything but the method that a record depends on."""
    table = judge.names.table
    return {
        "model": judge.model.digest,
        "data": dataset.fingerprint,
        "truth": judge.truth and judge.truth.fingerprint,
        "classes": table and {name: sorted(indices) for name, indices in table.items()},
        "contract": judge.contract.to_json(),
        "output": judge.output.name,
        "measures": [measure.name for measure in judge.measures],
        **asdict(judge.settings),
    }


@contextmanager
def _journal(folder: str | Path | None, job: Mapping[str, Any]) -> Iterator[Journal]:
    with ExitStack() as opened:
        place = opened.enter_context(tempfile.TemporaryDirectory()) if folder is None else folder
        yield opened.enter_context(Journal(Path(place) / JOURNAL, job))
