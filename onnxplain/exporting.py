"""A model with its relevance as one more output, in one ONNX file that plain onnxruntime runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from onnxplain.engine.compiled import PREDICTED, RELEVANCE, TARGET
from onnxplain.engine.run import Work, compiled_graph, run_plan
from onnxplain.errors import FailureError, UsageError
from onnxplain.files import atomic_file
from onnxplain.graph.reader import MAX_PROTOBUF_BYTES
from onnxplain.methods import job_for
from onnxplain.model import Model, load

EXPORTABLE = ("lrp", "gradient", "guided-backprop", "deconvnet")


def export(
    model: Model | str | os.PathLike[str] | bytes,
    path: str | os.PathLike[str],
    method: str = "lrp",
    rules: str | None = None,
    output: str | None = None,
    keep_softmax: bool = False,
    **options: Any,
) -> None:
    """Write ``model`` with the relevance of its predicted class as further outputs named ``relevance/<input>``.

    Parameters
    ----------
    model : Model or path
    path : path
        Another file than the model's own, which is never changed; a file of that name is replaced.
        Free dimensions other than the batch are fixed at 1, or at the model's own sizes.
    method : {"lrp", "gradient", "guided-backprop", "deconvnet"}
    rules, output, keep_softmax, **options
        As for :func:`onnxplain.explain`.

    Raises
    ------
    UsageError
        The method is no single backward walk; ``path`` is the model itself, or a folder.
    UnsupportedError
        A layer has no graph form.
    FailureError
        The written graph disagrees with explain(), or is too large for one file.
    """
    model = model if isinstance(model, Model) else load(model)
    if method not in EXPORTABLE:
        raise UsageError(f"method {method!r} is no single backward walk; export knows {', '.join(EXPORTABLE)}")
    _check_path(Path(path), model)
    feed = _random_feed(model)
    job, plan = job_for(model, feed, method, rules, output, keep_softmax, options)
    compiled = compiled_graph(model, plan, Work(), job.target, feed)
    size = sum(value.nbytes for value in compiled.weights.values())
    if size > MAX_PROTOBUF_BYTES:
        raise FailureError(f"the exported graph would hold {size / 2**30:.1f} GiB, more than one protobuf file can")
    proto = _embedded(compiled.model, compiled.weights)
    _fix_target(proto)
    _declare_outputs(proto, model)
    _check(proto, model, job, plan, feed)
    with atomic_file(Path(path)) as file:
        file.write_bytes(proto.SerializeToString())


def _check_path(path: Path, model: Model) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the file to write in it")
    own = [file for file in (model.path, *model.file.identity.external) if file is not None]
    if path.resolve() in [file.resolve() for file in own]:
        raise UsageError(f"{path} belongs to the model, which is never changed; name another file")


def _random_feed(model: Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feed = {}
    for tensor in model.inputs:
        shape = [dim if isinstance(dim, int) else 1 for dim in tensor.shape or ()]
        value = rng.standard_normal(shape)
        feed[tensor.name] = value.astype(tensor.dtype) if tensor.dtype.kind == "f" else np.zeros(shape, tensor.dtype)  # type: ignore[union-attr]
    return feed


def _embedded(model: onnx.ModelProto, weights: Any) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    return proto


def _fix_target(proto: onnx.ModelProto) -> None:
    """Make the predicted class the constant target, so that the model's own inputs suffice."""
    for value in [value for value in proto.graph.input if value.name in (TARGET, PREDICTED)]:
        zeros = np.zeros([1] * len(value.type.tensor_type.shape.dim), np.float32)
        constant = zeros if value.name == TARGET else np.array(1.0, np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(constant, value.name))
        proto.graph.input.remove(value)
    entry = proto.metadata_props.add()
    entry.key, entry.value = "onnxplain", "relevance outputs explain the predicted class"


def _declare_outputs(proto: onnx.ModelProto, model: Model) -> None:
    """State the types of the outputs, without which the file is no valid ONNX."""
    inputs = {RELEVANCE + value.name: value for value in proto.graph.input}
    for out in proto.graph.output:
        if out.name in inputs:
            out.type.CopyFrom(inputs[out.name].type)
            out.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        else:
            tensor = model.graph.tensors[out.name]
            elem_type = helper.np_dtype_to_tensor_dtype(tensor.dtype or np.dtype(np.float32))
            out.CopyFrom(helper.make_tensor_value_info(out.name, elem_type, tensor.shape))


def _check(proto: onnx.ModelProto, model: Model, job: Any, plan: Any, feed: dict[str, np.ndarray]) -> None:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict(zip([out.name for out in session.get_outputs()], session.run(None, feed), strict=True))
    result = run_plan(model, plan, job.target, feed, Work(engine="host"))
    for tensor, expected in result.relevance.items():
        value = found[RELEVANCE + tensor.name]
        scale = float(np.abs(expected).max()) or 1.0
        if not float(np.abs(value - expected).max()) <= 2e-2 * scale:
            raise FailureError(
                f"the exported relevance of {tensor.name!r} disagrees with explain(); nothing was written"
            )
