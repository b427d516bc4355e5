"""Explanations against the plain forward pass, in pairs, and against the torch libraries: time and memory.

    python tools/export_bench_models.py -o build/bench              # once, in an environment with torch
    python tools/bench.py [--peer-python TORCH/bin/python] [--json FILE]

Of every model, batch size and method, each round takes a fresh input and times every contestant twice, between three
plain passes of onnxruntime over the same input in the same process; what counts is the ratio of the faster one to the
fastest pass. Printed are the median over the rounds and in brackets the quartiles. Building models, graphs and sessions
is not counted. The peers, torch autograd and captum for the gradient and zennit for epsilon-plus-flat, run in a process
of their own that is asked in the same rounds. Peak memory is that of processes that do nothing else. The last table
times fresh processes.

Under `chrt -f 50` other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_profile import profile, profile_table
from timing import MIB, beside, peak_memory, spread, table, timed

import onnxplain

HERE = Path(__file__).resolve().parent
MODELS = ("resnet50", "vgg16", "alexnet", "mobilenet_v2")
SMALL = "squeezenet1_1"
"""A classifier of 5 MB, for what a fresh process takes."""
METHODS = {"gradient": "gradient", "epsilon-plus-flat": "lrp"}
PEERS = {"gradient": ("torch", "captum"), "epsilon-plus-flat": ("zennit",)}
PARTS = ("speed", "memory", "fresh")
Row = dict[str, Any]


def inputs(batch: int) -> Iterator[np.ndarray]:
    """A fresh batch of noise each time."""
    generator = np.random.default_rng(0)
    while True:
        yield generator.standard_normal((batch, 3, 224, 224), np.float32)


@contextlib.contextmanager
def peer(given: argparse.Namespace, model: str, batch: int, method: str) -> Iterator[Callable[[], dict[str, float]]]:
    """A torch library in its own process: every call is one repetition, its seconds and its peak memory."""
    command = [given.peer_python, HERE / "bench_peers.py", "--model", model, "--method", method]
    command += ["--batch", batch, "--threads", given.threads, "--device", given.providers or "cpu"]
    with subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        asking, answers = process.stdin, process.stdout
        assert asking is not None
        assert answers is not None

        def ask() -> dict[str, float]:
            print(file=asking, flush=True)
            answer = answers.readline()
            if not answer:
                raise SystemExit(f"{' '.join(map(str, command))} failed")
            found: dict[str, float] = json.loads(answer)
            return found

        ask()  # ready before anything else starts
        yield ask
        asking.close()


def load(given: argparse.Namespace, name: str) -> onnxplain.Model:
    return onnxplain.load(given.folder / f"{name}.onnx", given.providers, threads=given.threads)


def speed(given: argparse.Namespace, name: str) -> Iterator[Row]:
    """The rounds of a model, a row per batch size and method."""
    model = load(given, name)
    for batch in given.batches:
        for method in given.methods:
            with contextlib.ExitStack() as stack:
                peers = PEERS[method] if given.peer_python else ()
                asked = {kind: stack.enter_context(peer(given, name, batch, kind)) for kind in peers}
                yield {"model": name, "batch": batch, "method": method} | rounds(given, model, batch, method, asked)


def rounds(
    given: argparse.Namespace,
    model: onnxplain.Model,
    batch: int,
    method: str,
    peers: dict[str, Callable[[], dict[str, float]]],
) -> Row:
    """Seconds of the plain pass and, of each contestant, the quartiles of its ratio to the passes around it."""
    plain: list[float] = []
    ratios: dict[str, list[float]] = {contestant: [] for contestant in (*given.engines, *peers)}
    peaks: dict[str, float] = {}
    for done, x in zip(range(given.rounds + 1), inputs(batch), strict=False):
        for contestant, found in ratios.items():

            def measured(contestant: str = contestant, x: np.ndarray = x) -> float:
                if contestant not in peers:
                    return timed(lambda: onnxplain.explain(model, x, METHODS[method], engine=contestant))
                answer = peers[contestant]()
                peaks[contestant] = answer["peak_bytes"]
                return answer["seconds"]

            seconds, pair = beside(lambda: model.plain.run({model.inputs[0].name: x}), measured)  # noqa: B023
            if done:
                plain.append(pair)
                found.append(seconds / pair)
    row: Row = {"plain": spread(plain), "ratios": {name: spread(found) for name, found in ratios.items()}}
    if {"host", "compiled"} <= ratios.keys():
        row["host / compiled"] = spread(np.divide(ratios["host"], ratios["compiled"]))
    return row | {"peer_peaks": peaks}


def memory(given: argparse.Namespace, name: str, batch: int, method: str, engine: str) -> int:
    """The peak of a process that explains two batches, in bytes."""
    model = load(given, name)
    for x, _ in zip(inputs(batch), range(2), strict=False):
        onnxplain.explain(model, x, METHODS[method], engine=engine)
    return peak_memory()


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peaks(given: argparse.Namespace, name: str) -> Iterator[Row]:
    """Peak memory of a model, a row per batch size and method."""
    for batch in given.batches:
        for method in given.methods:
            row = {engine: alone(memory, given, name, batch, method, engine) for engine in given.engines}
            for kind in PEERS[method] if given.peer_python else ():
                with peer(given, name, batch, kind) as ask:
                    ask()
                    row[kind] = ask()["peak_bytes"]
            yield {"model": name, "batch": batch, "method": method, "peaks": row}


def fresh(given: argparse.Namespace) -> Row:
    """Seconds of importing the package, and of the command on a picture with no kernels cached and with all."""
    code = "import time; s = time.perf_counter(); import onnxplain; print(time.perf_counter() - s)"
    imports = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(given.rounds)]
    picture = HERE.parent / "models" / "flowers" / "03_red.png"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "onnxplain", "explain", str(given.folder / f"{SMALL}.onnx"), str(picture)]
        command += ["--preprocess", "imagenet", "--quiet", "-o", f"{folder}/maps"]
        environment = os.environ | {"NUMBA_CACHE_DIR": f"{folder}/kernels"}
        run = lambda: subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: E731
        first, *warm = [timed(run) for _ in range(given.rounds + 1)]
    return {"import": spread(imports), "first": first, "warm": spread(warm)}


def machine() -> Row:
    """What the numbers depend on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    packages = ("onnxplain", "onnxruntime-gpu", "numpy", "numba")
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    } | {package: importlib.metadata.version(package) for package in packages}


def speed_table(rows: Sequence[Row], engines: Sequence[str]) -> str:
    """The rounds as Markdown."""
    header = ["model", "batch", "method", "plain, ms", *engines, "host / compiled", "torch libraries"]
    lines = []
    for row in rows:
        own = [row["ratios"][engine] for engine in engines]
        others = [f"{name} {found}" for name, found in row["ratios"].items() if name not in engines]
        plain = f"{row['plain'].median * 1e3:.1f}"
        between = row.get("host / compiled", "")
        lines.append([row["model"], row["batch"], row["method"], plain, *own, between, ", ".join(others)])
    return table(header, lines)


def memory_table(rows: Sequence[Row], engines: Sequence[str]) -> str:
    """Peak memory as Markdown, in MiB."""
    lines = []
    for row in rows:
        own = [f"{row['peaks'][engine] / MIB:.0f}" for engine in engines]
        others = [f"{name} {found / MIB:.0f}" for name, found in row["peaks"].items() if name not in engines]
        lines.append([row["model"], row["batch"], row["method"], *own, ", ".join(others)])
    return table(["peak memory, MiB", "batch", "method", *engines, "torch libraries"], lines)


def fresh_table(found: Row) -> str:
    """What fresh processes take as Markdown, in seconds."""
    lines = [
        ["import onnxplain", str(found["import"])],
        [f"onnxplain explain, {SMALL}, one picture, the very first time", f"{found['first']:.1f}"],
        [f"onnxplain explain, {SMALL}, one picture, kernels cached", str(found["warm"])],
    ]
    return table(["fresh process", "seconds"], lines)


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that this benchmark and that of the GPU share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/bench"), help="where the models are")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-python", help="the python of an environment with torch, zennit and captum")
    parser.add_argument("--json", type=Path, help="write everything to this file too")
    return parser


def report(given: argparse.Namespace) -> Iterator[tuple[str, Any, str]]:
    """Every part: its name, what was found, and that as Markdown."""
    yield "machine", (at := machine()), ", ".join(f"{k} {v}" for k, v in at.items())
    if given.profile:
        for name in given.models:
            for batch in given.batches:
                for method in given.methods:
                    model, x = load(given, name), next(inputs(batch))
                    found = profile(model, x, METHODS[method], given.rounds)
                    title = f"{name}, batch {batch}, {method}"
                    yield f"profile {title}", found, f"{title}\n\n{profile_table(found)}"
        return
    if "speed" in given.parts:
        rows = [row for name in given.models for row in alone(listed, speed, given, name)]
        yield "speed", rows, speed_table(rows, given.engines)
    if "memory" in given.parts:
        rows = [row for name in given.models for row in peaks(given, name)]
        yield "memory", rows, memory_table(rows, given.engines)
    if "fresh" in given.parts:
        yield "fresh", (found := fresh(given)), fresh_table(found)


def listed(function: Callable[..., Iterator[Row]], *arguments: Any) -> list[Row]:
    return list(function(*arguments))


def main() -> None:
    """Print the tables."""
    parser = options(__doc__)
    parser.add_argument("--engines", nargs="+", choices=("compiled", "host"), default=("compiled", "host"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--profile", action="store_true", help="only: where a compiled graph's time goes")
    parser.set_defaults(providers=None)
    write(parser.parse_args())


def write(given: argparse.Namespace) -> None:
    """Print every part as it is found, and write the JSON."""
    everything = {}
    for name, found, text in report(given):
        everything[name] = found
        print(f"{text}\n", flush=True)
        if given.json:
            given.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
