"""Where the time of a compiled graph goes, by kind of node, as onnxruntime's own profiler tells it."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from timing import table

import onnxplain
from onnxplain.engine.compiled import PREDICTED, TARGET
from onnxplain.engine.run import Work, compiled_graph
from onnxplain.engine.sessions import Session
from onnxplain.methods import job_for

LEAST = 0.01
"""Kinds of nodes below this share of the time are summed up."""


def profile(model: onnxplain.Model, x: np.ndarray, method: str, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a run by kind of node: of the compiled graph, and of the plain forward pass."""
    feed = {model.inputs[0].name: x}
    job, plan = job_for(model, feed, method, None, None, False, {})
    graph = compiled_graph(model, plan, Work(), job.target, feed)
    seed = np.zeros(model.recording(feed, plan.target).shape(plan.target), np.float32)
    target = {TARGET: seed, PREDICTED: np.array(1, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        runtime = replace(model.runtime, profile=f"{folder}/profile")
        explained = _times(graph.session(runtime, model.label, len(x)), feed | target, rounds, folder)
        plain = _times(Session(str(model.path), runtime), feed, rounds, folder)
    return {"compiled": explained, "plain": plain}


def profile_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: milliseconds of a run by kind of node, the longest first."""
    explained, plain = found["compiled"], found["plain"]
    total = sum(explained.values())
    shown = [kind for kind in sorted(explained, key=lambda kind: -explained[kind]) if explained[kind] >= LEAST * total]
    rows = [[kind, f"{explained[kind]:.2f}", f"{plain.get(kind, 0):.2f}"] for kind in shown]
    rest = [sum(ms for kind, ms in times.items() if kind not in shown) for times in (explained, plain)]
    sums = [total, sum(plain.values())]
    rows += [[name, *(f"{ms:.2f}" for ms in each)] for name, each in (("the others", rest), ("together", sums))]
    return table(["kind of node", "compiled, ms", "plain, ms"], rows)


def _times(session: Session, feed: Mapping[str, np.ndarray], rounds: int, folder: str) -> dict[str, float]:
    for _ in range(rounds):
        session.run(feed)
    del session  # its end writes the file
    [file] = Path(folder).iterdir()
    spent: Counter[str] = Counter()
    for event in json.loads(file.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[_kind(event["args"])] += event["dur"]
    file.unlink()
    return {kind: microseconds / 1e3 / rounds for kind, microseconds in spent.items()}


def _kind(node: Mapping[str, Any]) -> str:
    """The op type; convolutions by their kernel, since those of one weight per channel mask and add signs."""
    operands = [next(iter(operand.values())) for operand in node["input_type_shape"]]
    if node["op_name"] not in ("Conv", "FusedConv", "ConvTranspose") or len(operands) < 2 or len(operands[1]) < 3:
        return str(node["op_name"])
    channels, (_, per_group, *kernel) = operands[0][1], operands[1]
    size = "x".join(map(str, kernel))
    if node["op_name"] == "ConvTranspose" or per_group == channels:
        return f"{node['op_name']} {size}"
    elementwise = per_group == 1 and set(kernel) == {1}
    return "Conv 1x1 on single channels (sign, layout)" if elementwise else f"{node['op_name']} {size}, in groups"
