"""A loaded ONNX file: its layer graph, its sessions, its inputs and outputs."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx

from onnxplain.engine.matrices import as_inputs, is_large
from onnxplain.engine.protos import file_model, graph_model
from onnxplain.engine.recording import Recording, record
from onnxplain.engine.sessions import Runtime, Session, SessionCache, give_memory_back, resolve_providers
from onnxplain.engine.sharing import Shared
from onnxplain.errors import FailureError, UsageError
from onnxplain.graph.canonize import Change, canonize
from onnxplain.graph.fold import freeze, surgeon_graph
from onnxplain.graph.layers import LayerGraph, Tensor
from onnxplain.graph.reader import ModelFile, read
from onnxplain.graph.sizes import check_sizes

T = TypeVar("T")
Feed = Mapping[str, np.ndarray]

_TOLERANCE = {2: 2e-2, 4: 1e-3, 8: 1e-3}
"""How far an output may differ, relative to its largest magnitude, by the bytes of its type."""


class Model:
    """An ONNX model, ready to run and to be explained; make one with :func:`onnxplain.load`.

    Attributes
    ----------
    path : pathlib.Path or None
    metadata : dict of str to str
        The file's metadata_props.
    graph : LayerGraph
        The canonized graph that is analysed.
    changes : tuple of Change
        What the canonizers did.
    runtime : Runtime
    remarks : set of str
        What is worth telling of the instrumented runs carried out through this object; see :meth:`apart`.
    shared : Shared or None
        Of a model made by :meth:`sharing`.
    """

    def __init__(self, source: ModelFile, original: Any, runtime: Runtime) -> None:
        self.file = source
        self.path: Path | None = source.path
        self.metadata = dict(source.metadata)
        self.runtime = runtime
        self._whole, self.original_graph = freeze(surgeon_graph(source), source)
        self.graph: LayerGraph
        self.changes: tuple[Change, ...]
        self.graph, self.changes = canonize(self.original_graph)
        self.sessions = SessionCache()
        self._original = original
        self._checked: dict[Hashable, str | None] = {}
        self.remarks: set[str] = set()
        self.shared: Shared | None = None

    @property
    def label(self) -> str:
        """How messages call the model."""
        return self.file.label

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the model takes: name, dtype, shape."""
        return self.graph.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What the model returns: name, dtype, shape."""
        return self.graph.outputs

    @property
    def digest(self) -> str:
        """SHA-256 of the nodes and weights; the same wherever the file lies and however it was given."""
        return self.sessions.get("digest", lambda: _digest(self.original_graph))

    @property
    def plain(self) -> Session:
        """The session of the file as it stands."""
        return self.sessions.get("plain", self._plain_session)

    def _plain_session(self, optimization: str | None = None, lean: bool = False) -> Session:
        """Of the file itself; ``lean`` of what was read of it, where its large matrices would be copied else."""
        source = self._original if self.path is None else str(self.path)
        if source is None or (lean and any(map(is_large, self.file.constants.values()))):
            model, weights = file_model(self.file)
            matrices = as_inputs(model, weights, self.original_graph.shapes, self.runtime) if lean else {}
            return Session(model, self.runtime, weights, optimization, self.label, lean=lean, filters=matrices)
        return Session(source, self.runtime, optimization=optimization, label=self.label, lean=lean)

    @property
    def batched(self) -> bool:
        """Whether every input has a free first axis, so that samples can be stacked."""
        return all(t.shape is not None and len(t.shape) > 0 and not isinstance(t.shape[0], int) for t in self.inputs)

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the file fixes, None where it is free or there is none."""
        firsts = {tensor.shape[0] if tensor.shape else None for tensor in self.inputs}
        first = next(iter(firsts)) if len(firsts) == 1 else None
        return first if isinstance(first, int) and first > 0 else None

    def apart(self) -> Model:
        """The same model over the same sessions, with remarks of its own: those of one call."""
        model = copy.copy(self)
        model.remarks = set()
        return model

    def sharing(self, shared: Shared) -> Model:
        """The same model over the same sessions; passes over one sample are carried out once through it."""
        model = copy.copy(self)
        model.shared = shared
        return model

    def once(self, key: Hashable, feed: Feed, build: Callable[[], T]) -> T:
        """What ``build`` gives for ``feed``, or what it gave before where passes are shared."""
        return build() if self.shared is None else self.shared.get(key, feed, build)

    def check_feed(self, feed: Feed | np.ndarray) -> dict[str, np.ndarray]:
        """``feed`` with every name, dtype and shape checked.

        Parameters
        ----------
        feed : mapping of str to array, or array
            A bare array is accepted for a model with one input. Floating arrays are cast to the input's floating type.

        Raises
        ------
        UsageError
            Unknown or missing input, wrong dtype or shape.
        FailureError
            NaN or Inf in the input; with these shapes a tensor would be larger than memory is taken for.
        """
        if not isinstance(feed, Mapping):
            if len(self.inputs) != 1:
                names = ", ".join(tensor.name for tensor in self.inputs)
                raise UsageError(f"{self.label} has {len(self.inputs)} inputs ({names}): give a dict of name to array")
            feed = {self.inputs[0].name: feed}
        known = {tensor.name: tensor for tensor in self.inputs}
        for name in feed:
            if name not in known:
                raise UsageError(f"{self.label} has no input {name!r}; it has {', '.join(known)}")
        missing = [name for name in known if name not in feed]
        if missing:
            raise UsageError(f"{self.label} also needs input {', '.join(missing)}")
        checked = {name: _check_array(np.asarray(value), known[name]) for name, value in feed.items()}
        empty = [name for name, value in checked.items() if not value.size and 0 not in (known[name].shape or ())]
        if empty:
            raise UsageError(f"input {empty[0]!r} holds no samples")
        if self.batched and len({len(value) for value in checked.values()}) > 1:
            sizes = ", ".join(f"{name} {len(value)}" for name, value in checked.items())
            raise UsageError(f"the inputs hold different numbers of samples: {sizes}")
        self._check_sizes(checked)
        return checked

    def _check_sizes(self, feed: Feed) -> None:
        """Refuse what one sample of these shapes would make of dimensions that the file leaves open."""
        one = 1 if self.batched else self.fixed_batch
        shapes = {name: value.shape if one is None else (one, *value.shape[1:]) for name, value in feed.items()}
        self.sessions.get(("sizes", *sorted(shapes.items())), lambda: self._infer_sizes(shapes))

    def _infer_sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Of every node of the file: the plain session runs those too that no output needs."""
        ends = [tensor for tensor in self._whole.tensors.values() if tensor.producer and not tensor.consumers]
        model, _ = graph_model(self._whole, ends)
        check_sizes(model, shapes, self.label)

    def run(self, feed: Feed | np.ndarray, taps: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The model's outputs, and intermediate tensors by name.

        Parameters
        ----------
        feed : mapping of str to array, or array
        taps : sequence of str
            Names of tensors inside the model.

        Raises
        ------
        UsageError
            Unknown tensor, or one that canonizing has folded away.
        """
        checked = self.check_feed(feed)
        result = self.plain.run(checked)
        if taps:
            result |= self.trace([self.tensor(name) for name in taps], checked)
        return result

    def tensor(self, name: str) -> Tensor:
        """A tensor of the analysed graph by name.

        Raises
        ------
        UsageError
            No such tensor.
        """
        if name in self.graph.tensors:
            return self.graph.tensors[name]
        if name in self.original_graph.tensors:
            raise UsageError(f"tensor {name!r} lies between a convolution and the batch normalization folded into it")
        close = [known for known in self.graph.tensors if name.lower() in known.lower()][:5]
        hint = f"; close to it: {', '.join(close)}" if close else "; `onnxplain inspect --layers` lists them"
        raise UsageError(f"{self.label} has no tensor {name!r}{hint}")

    def trace(self, tensors: Sequence[Tensor], feed: Feed, alone: bool = False) -> dict[str, np.ndarray]:
        """Run with ``tensors`` exposed, by name; constants are not run for.

        The session of a set of tensors is kept once a run with it has given the outputs of the plain run. It has a
        single thread if ``alone``: other runs go on at the same time.

        Raises
        ------
        FailureError
            The instrumented graph computes something else than the file.
        """
        wanted = sorted({t.name for t in tensors if t.value is None and t.producer is not None})
        values = {t.name: t.value for t in tensors if t.value is not None}
        values |= {t.name: np.asarray(feed[t.name]) for t in tensors if t.name in feed}
        if not wanted:
            return values
        key = ("trace alone" if alone else "trace", *wanted)
        found = self.once(key, feed, lambda: self._exposed(key, feed))
        self._recall(key)
        return values | found

    def _exposed(self, key: tuple[str, ...], feed: Feed) -> dict[str, np.ndarray]:
        """The tensors that ``key`` names, of one run, checked as :meth:`trace` says."""
        wanted = key[1:]
        if {out.name for out in self.outputs}.issuperset(wanted):
            return self.plain.run(feed, wanted)
        return self.sessions.get(key, lambda: self._tapped(key, feed)).run(feed, wanted)

    def resume(self, tensor: Tensor, value: np.ndarray, feed: Feed, output: Tensor) -> np.ndarray:
        """Run from an internal tensor on, which is given ``value``.

        Parameters
        ----------
        tensor : Tensor
        value : numpy.ndarray
        feed : mapping of str to numpy.ndarray
            Inputs, for what does not pass through ``tensor``; as many samples as ``value`` has.
        output : Tensor
            What is returned.

        Raises
        ------
        FailureError
            The cut graph computes something else than the file.
        """
        key = ("resume", tensor.name, output.name)
        session = self.sessions.get(key, lambda: self._cut(tensor, output))
        if key not in self._checked:
            true = self.trace([tensor, output], feed)
            found = session.run({**feed, tensor.name: true[tensor.name]}, [output.name])
            problem = _difference(found, {output.name: true[output.name]})
            if problem is not None:
                raise FailureError(
                    f"{self.label}: the graph cut at {tensor.name!r} gives another {output.name!r}, "
                    f"by {problem[1]:.3g} (largest value {problem[2]:.3g})"
                )
            self._checked[key] = None
        return session.run({**feed, tensor.name: value}, [output.name])[output.name]

    def _cut(self, tensor: Tensor, output: Tensor) -> Session:
        model, weights = graph_model(self.graph, [output], given=[tensor])
        return Session(model, self.runtime, weights, label=self.label)

    def expected(self, key: Hashable, feed: Feed) -> Feed | None:
        """What :meth:`check` compares a run of this graph on ``feed`` with; None where it was compared before."""
        return None if key in self._checked else self._expected(feed)

    def check(self, key: Hashable, feed: Feed, run: Callable[[], Feed], expected: Feed | None = None) -> None:
        """Compare the outputs of an instrumented run with the plain run's, once per instrumented graph.

        Quantized graphs that onnxruntime's optimiser fuses into integer kernels may round otherwise than the graph as
        written: there the instrumented run must equal the run without optimisation, and ``remarks`` says how
        far the two differ, whenever that graph is used.

        Parameters
        ----------
        key : hashable
            Of the instrumented graph.
        feed : mapping of str to numpy.ndarray
        run : callable
            Gives the outputs of the instrumented run on ``feed``; called where they have not been compared yet.
        expected : mapping of str to numpy.ndarray, optional
            What :meth:`expected` gave.

        Raises
        ------
        FailureError
            The instrumented graph computes something else than the file.
        """
        if key not in self._checked:
            self._checked[key] = self._compared(run(), feed, expected or self._expected(feed))
        self._recall(key)

    def _recall(self, key: Hashable) -> None:
        remark = self._checked.get(key)
        if remark is not None:
            self.remarks.add(remark)

    def _compared(self, found: Feed, feed: Feed, expected: Feed) -> str | None:
        """What is worth telling of outputs of an instrumented run; raises as :meth:`check`."""
        problem = _difference(found, expected)
        if problem is None:
            return None
        name, difference, scale = problem
        said = f"{difference:.3g} (largest value {scale:.3g})"
        quantized = any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in self.file.proto.graph.node)
        if quantized and _difference(found, self.plain.run(feed)) is None:  # a lean session has other kernels
            return None
        if quantized and _difference(found, self._unoptimized.run(feed)) is None:
            return (
                "where a method reads values before they are quantized, it explains the quantized graph as written; "
                f"onnxruntime's integer kernels change output {name!r} by {said}"
            )
        raise FailureError(
            f"{self.label}: output {name!r} of the instrumented graph differs from the plain run by {said}; "
            "try optimization='basic' in onnxplain.load"
        )

    @property
    def _unoptimized(self) -> Session:
        return self.sessions.get("unoptimized", lambda: self._plain_session("disable"))

    def _expected(self, feed: Feed) -> Feed:
        """The outputs of the plain run; its session is kept only where it was before, since it holds all weights."""
        kept: Session | None = self.sessions.find("plain")
        if kept is not None:
            return kept.run(feed)
        found = self._plain_session(lean=True).run(feed)
        give_memory_back()
        return found

    def _tapped(self, key: tuple[str, ...], feed: Feed) -> Session:
        """A session with tensors exposed that gives the outputs of the plain run; that comes first and is over."""
        expected = self._expected(feed)
        tensors = [self.graph.tensors[name] for name in key[1:]]
        outputs = [out for out in self.outputs if out.value is None]
        model, weights = graph_model(self.graph, list(dict.fromkeys([*tensors, *outputs])))
        matrices = as_inputs(model, weights, self.graph.shapes, self.runtime)
        runtime = replace(self.runtime, threads=1) if key[0] == "trace alone" else self.runtime
        session = Session(model, runtime, weights, label=self.label, filters=matrices)
        self._checked[key] = self._compared(session.run(feed, [out.name for out in outputs]), feed, expected)
        return session

    def recording(self, feed: Feed, target: Tensor, batch: int | None = None) -> Recording:
        """Shapes of a run on ``feed``, or on ``batch`` copies of its first sample; kept per shape."""
        if batch is not None:
            feed = {name: np.repeat(value[:1], batch, axis=0) for name, value in feed.items()}
        shapes = tuple((name, value.shape) for name, value in sorted(feed.items()))
        return self.sessions.get(
            ("recording", target.name, shapes), lambda: record(self.graph, target, self.runtime, self.label, feed)
        )


def _digest(graph: LayerGraph) -> str:
    found = hashlib.sha256(repr(sorted(graph.opsets.items())).encode())
    for layer in graph.layers:
        found.update(layer.node.SerializeToString(deterministic=True))
    for tensor in sorted(graph.constants, key=lambda tensor: tensor.name):
        found.update(repr((tensor.name, tensor.dtype, tensor.shape)).encode())
        value = np.ascontiguousarray(tensor.value)
        found.update(
            repr(value.tolist()).encode() if value.dtype.kind in "OUS" else value.reshape(-1).view(np.uint8).data
        )
    return found.hexdigest()


def _difference(found: Feed, expected: Feed) -> tuple[str, float, float] | None:
    """The first output that differs beyond rounding: its name, the difference, its largest magnitude."""
    for name, value in expected.items():
        if name not in found or not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
            continue
        own, other = value.astype(np.float64).reshape(-1), found[name].astype(np.float64).reshape(-1)
        finite = own[np.isfinite(own)]
        scale = float(np.abs(finite).max(initial=0)) + 1e-6
        apart = ~((own == other) | (np.isnan(own) & np.isnan(other)))
        difference = float(np.abs(own[apart] - other[apart]).max(initial=0))
        if not difference <= _TOLERANCE[value.dtype.itemsize] * scale:
            return name, difference, scale
    return None


def _check_array(value: np.ndarray, tensor: Tensor) -> np.ndarray:
    given, expected = value, tensor.dtype
    if expected is None or tensor.shape is None:
        return value
    if value.dtype != expected:
        if value.dtype.kind != "f" or expected.kind != "f":
            raise UsageError(f"input {tensor.name!r} must have dtype {expected}, not {value.dtype}")
        with np.errstate(all="ignore"):
            value = value.astype(expected)
    fits = value.ndim == len(tensor.shape) and all(
        not isinstance(dim, int) or size == dim for size, dim in zip(value.shape, tensor.shape, strict=True)
    )
    batch_split = (
        value.ndim == len(tensor.shape) > 0
        and isinstance(tensor.shape[0], int)
        and tensor.shape[0] > 0
        and value.shape[0] % tensor.shape[0] == 0
        and all(not isinstance(d, int) or s == d for s, d in zip(value.shape[1:], tensor.shape[1:], strict=True))
    )
    if not fits and not batch_split:
        wanted = "x".join(str(dim) if dim is not None else "?" for dim in tensor.shape)
        got = "x".join(map(str, value.shape)) or "a scalar"
        raise UsageError(f"input {tensor.name!r} must have shape {wanted}, not {got}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        beyond = f"values beyond the range of {expected}: scale it as the model expects"
        raise FailureError(f"input {tensor.name!r} contains {beyond if np.isfinite(given).all() else 'NaN or Inf'}")
    return value


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
    providers: Sequence[str] | str | None = None,
    *,
    threads: int = 0,
    optimization: str = "all",
    tf32: bool = False,
) -> Model:
    """Load an ONNX model.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
    providers : str, sequence of str or None
        Execution providers ("cuda", "cpu" or onnxruntime's names); None takes CUDA where it works, else the CPU.
    threads : int
        Threads of onnxruntime; 0 for one per core.
    optimization : {"all", "extended", "basic", "disable"}
        onnxruntime's graph optimisation level.
    tf32 : bool
        Let CUDA round products to TF32.

    Raises
    ------
    UsageError
        Missing file, unknown or absent provider.
    FailureError
        Corrupt file.
    UnsupportedError
        Opset, IR version or op that onnxruntime does not run.
    """
    if optimization not in ("all", "extended", "basic", "disable"):
        raise UsageError(f"optimization must be all, extended, basic or disable, not {optimization!r}")
    file = read(source)
    names, chosen = resolve_providers(providers)
    runtime = Runtime(names, chosen, threads, optimization, tf32)
    return Model(file, source, runtime)
