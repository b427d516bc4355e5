"""onnxruntime sessions: providers that are really there, taps on intermediate tensors, one session per purpose."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from onnxplain.errors import FailureError, UnsupportedError, UsageError
from onnxplain.files import captured_stderr

T = TypeVar("T")
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
BATCH = "batch"
"""The symbol of the batch axis in graphs that onnxplain emits."""
_BROKEN = ["QDQS8ToU8Transformer"]
"""Turns int8 into uint8 but leaves the attribute output_dtype of opset 21 as it is, so that a graph does not load."""
_LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


@dataclass(frozen=True)
class Runtime:
    """How sessions are built.

    Attributes
    ----------
    providers : tuple of str
        Execution providers, proven to be there; see :func:`resolve_providers`.
    chosen : str
        "named" by the caller or "automatic", and then why CUDA was left out although there is a driver.
    threads : int
        Threads inside an op; 0 lets onnxruntime take one per core.
    optimization : str
        disable, basic, extended or all.
    tf32 : bool
        Whether CUDA may round products to TF32.
    profile : str, optional
        Every session writes onnxruntime's profile to a file whose name begins with this when it ends.
    """

    providers: tuple[str, ...] = (CPU,)
    chosen: str = "automatic"
    threads: int = 0
    optimization: str = "all"
    tf32: bool = False
    profile: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the CUDA provider runs the graph."""
        return CUDA in self.providers

    def __str__(self) -> str:
        return f"{', '.join(self.providers)} ({self.chosen})"

    @property
    def in_blocks(self) -> bool:
        """Whether graphs may be laid out for the CPU provider."""
        return self.providers == (CPU,) and self.optimization == "all"

    def options(self, optimization: str | None = None) -> ort.SessionOptions:
        """Fresh session options."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        options.graph_optimization_level = _LEVELS[optimization or self.optimization]
        # Threads that spin after a run would take the cores from the kernels that follow it.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, self.profile
        return options

    def provider_list(self) -> list[str | tuple[str, dict[str, Any]]]:
        """The providers with their options."""
        return [(name, {"use_tf32": int(self.tf32)}) if name == CUDA else name for name in self.providers]


def resolve_providers(names: Sequence[str] | str | None) -> tuple[tuple[str, ...], str]:
    """The providers to use, each proven by a built session.

    Parameters
    ----------
    names : str, sequence of str or None
        "cpu", "cuda" or onnxruntime's full names; None takes CUDA where it works, else the CPU.

    Raises
    ------
    UsageError
        A named provider is unknown or does not come up; names what failed to load.
    """
    if names is None:
        problem = _failure(CUDA) if _has_nvidia_driver() else ""
        return ((CUDA, CPU) if problem is None else (CPU,)), f"automatic; {CUDA}: {problem}" if problem else "automatic"
    available = ort.get_available_providers()
    chosen: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        match = [p for p in available if name.lower() in (p.lower(), p.removesuffix("ExecutionProvider").lower())]
        if not match:
            known = ", ".join(p.removesuffix("ExecutionProvider").lower() for p in available)
            raise UsageError(f"execution provider {name!r} is not part of this onnxruntime; it has {known}")
        problem = None if match[0] == CPU else _failure(match[0])
        if problem is not None:
            raise UsageError(f"execution provider {name!r} does not work here: {problem}")
        chosen.append(match[0])
    return tuple(dict.fromkeys([*chosen, CPU])), "named"


def _has_nvidia_driver() -> bool:
    if CUDA not in ort.get_available_providers():
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _failure(provider: str) -> str | None:
    """Why a session does not come up on ``provider``; None where it does."""
    node = helper.make_node("Identity", ["x"], ["y"])
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    probe = helper.make_model(
        helper.make_graph([node], "probe", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    with captured_stderr() as log:
        try:
            session = ort.InferenceSession(probe.SerializeToString(), providers=[provider], enable_fallback=0)
            if provider in session.get_providers():
                return None
            reason = "onnxruntime left it out without a reason"
        except Exception as error:
            reason = _first_line(error)
    lines = [line for line in log() if "rror" in line]
    return lines[0].split("with error: ")[-1].strip() if lines else reason


class Session:
    """An onnxruntime session of one graph.

    Parameters
    ----------
    model : onnx.ModelProto, bytes or str
        A graph, serialised or not, or a path.
    runtime : Runtime
    weights : mapping of str to numpy.ndarray
        Values of the initializers that the graph declares as external; not copied into the protobuf.
    batch : int, optional
        The batch size that it will be run with.
    filters : mapping of str to numpy.ndarray, optional
        Inputs that are the same in every run; the runtime reads these arrays and makes no copies of them.
    lean : bool
        Give memory back after every run and keep no second form of the weights, at the price of slower runs.
    """

    def __init__(
        self,
        model: onnx.ModelProto | bytes | str,
        runtime: Runtime,
        weights: Mapping[str, np.ndarray] | None = None,
        optimization: str | None = None,
        label: str = "the model",
        batch: int | None = None,
        lean: bool = False,
        filters: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        options = runtime.options(optimization)
        if lean:
            options.enable_cpu_mem_arena = False
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # shapes at once, or their tensors stay
            options.add_session_config_entry("session.disable_prepacking", "1")
        if batch is not None:
            options.add_free_dimension_override_by_name(BATCH, batch)
        if weights:
            values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for value in weights.values()]
            options.add_external_initializers(list(weights), values)
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString() if isinstance(model, onnx.ModelProto) else model,
                options,
                runtime.provider_list(),
                enable_fallback=0,
                disabled_optimizers=None if weights is None else _BROKEN,
            )
        except Exception as error:
            raise _session_error(error, label) from error
        give_memory_back()  # building takes far more than what stays
        self.label = label
        self.outputs: tuple[str, ...] = tuple(out.name for out in self._session.get_outputs())
        arguments = [*self._session.get_inputs(), *self._session.get_outputs()]
        bindable = all(a.type.startswith("tensor(") and a.type != "tensor(string)" for a in arguments)
        self._bound_to = "cuda" if runtime.on_gpu and bindable else None
        self._filters = dict(filters or {})

    @property
    def providers(self) -> list[str]:
        """What the runtime really uses."""
        return list(self._session.get_providers())

    def run(self, feed: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Outputs by name."""
        wanted = list(names) if names is not None else list(self.outputs)
        arrays = {name: np.asarray(value) for name, value in feed.items()}
        try:
            if self._bound_to is None:
                values = self._session.run(wanted, {**self._filters, **arrays})
            else:
                values = self.run_bound(self._bound_to, arrays, wanted)
        except Exception as error:
            raise FailureError(f"{self.label} failed while running: {_first_line(error)}") from error
        return dict(zip(wanted, values, strict=True))

    def run_bound(self, device: str, feed: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """The outputs ``names``; inputs and outputs lie in the memory of ``device``, results are copied at the end."""
        binding = self._session.io_binding()
        given = {**self._filters, **feed}
        whole = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in given.items()}
        for name, value in whole.items():  # which a binding does not keep alive
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, device))
        for name in names:
            binding.bind_output(name, device)
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())


def give_memory_back() -> None:
    """Let the C library return to the system what sessions have freed; glibc keeps it otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:400] if str(error).strip() else type(error).__name__


def _session_error(error: Exception, label: str) -> Exception:
    text = _first_line(error)
    unsupported = ("NOT_IMPLEMENTED", "is not a registered function/op", "No Op registered", "opset", "INVALID_GRAPH")
    if any(mark in text for mark in unsupported):
        return UnsupportedError(f"{label} cannot be run by onnxruntime {ort.__version__}: {text}")
    return FailureError(f"{label} cannot be loaded by onnxruntime: {text}")


class SessionCache:
    """Sessions by purpose, built once in each process."""

    def __init__(self) -> None:
        self._sessions: dict[Any, Any] = {}
        self._lock = threading.RLock()
        _caches.add(self)

    def get(self, key: Any, build: Callable[[], T]) -> T:
        """The session under ``key``, built by ``build`` on first use."""
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = build()
            value: T = self._sessions[key]
            return value

    def find(self, key: Any) -> Any:
        """The session under ``key``, None where there is none."""
        with self._lock:
            return self._sessions.get(key)

    def start_anew(self) -> None:
        """In a forked process: the threads of the sessions are gone; their destructors, which need them, never run."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._sessions))
        self._sessions, self._lock = {}, threading.RLock()


_caches: weakref.WeakSet[SessionCache] = weakref.WeakSet()


def _start_in_child() -> None:
    for cache in list(_caches):
        cache.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_in_child)
