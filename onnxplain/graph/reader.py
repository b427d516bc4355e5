"""From a path, bytes or ModelProto to a checked model with its weights at hand.

A model file is untrusted: sizes are checked before memory is taken, external data is read from the model's own
folder only, and nothing in the file is executed.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import checker, inliner, numpy_helper

from onnxplain.errors import FailureError, UnsupportedError, UsageError
from onnxplain.graph.layers import subgraphs
from onnxplain.graph.wire import Place, WireError, without_weights
from onnxplain.origin import Identity

OPSETS = range(7, 27)
IR_VERSIONS = range(3, 14)
MAX_PROTOBUF_BYTES = 2**31 - 1
MAX_INLINED_NODES = 100_000
"""How many nodes a model may have once every call of its own functions is replaced by what it stands for."""

_STANDARD_DOMAINS = ("", "ai.onnx")
_TYPES = frozenset(onnx.TensorProto.DataType.values())


@dataclass
class ModelFile:
    """A model as read: structure without weights, and the weights by name.

    Attributes
    ----------
    proto : onnx.ModelProto
        Functions inlined, initializers and Constant nodes taken out, inputs without initializers.
    constants : dict of str to numpy.ndarray
        External data is memory-mapped.
    identity : Identity
        The file and those that hold its external data.
    metadata : dict of str to str
    """

    proto: onnx.ModelProto
    constants: dict[str, np.ndarray]
    identity: Identity = field(default_factory=lambda: Identity(None))
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The file; None for a model given as bytes or as a ModelProto."""
        return self.identity.path

    @property
    def label(self) -> str:
        """How messages call the model."""
        return str(self.path) if self.path else "the model"


def read(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> ModelFile:
    """Read and check a model.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
        A ModelProto is copied, never written to.

    Raises
    ------
    UsageError
        No such file.
    FailureError
        Not an ONNX file, truncated, failing onnx's checker, external data missing or outside the folder,
        NaN or Inf among the weights.
    UnsupportedError
        Opset or IR version that onnxruntime does not load.
    """
    path: Path | None = None
    places: dict[int, Place] = {}
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
    elif isinstance(source, bytes):
        proto = _parse(source, "the model")
    else:
        path = Path(source)
        proto, places = _read_file(path)
    label = str(path) if path else "the model"
    _check_fields(proto, "", label)
    for entry in proto.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    _check_versions(proto, label)
    external: set[Path] = set()
    constants = take_constants(proto.graph, path, external, label, places)
    _check_structure(proto, constants, label)
    if proto.functions:
        _check_functions(proto, label)
        proto = inliner.inline_local_functions(proto, convert_version=False)
        constants |= take_constants(proto.graph, path, external, label)
    _check_weights(constants, label)
    for value in [value for value in proto.graph.input if value.name in constants]:
        proto.graph.input.remove(value)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    # What was taken out of a protobuf keeps its memory until the whole of it goes.
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    return ModelFile(proto, constants, Identity(path, tuple(sorted(external))), metadata)


def _read_file(path: Path) -> tuple[onnx.ModelProto, dict[int, Place]]:
    """The model without its large weights, and where those lie, by the position among the initializers."""
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not an ONNX file")
    try:
        size = path.stat().st_size
        if size == 0:
            raise FailureError(f"{path} is empty")
        if size > MAX_PROTOBUF_BYTES:
            raise FailureError(
                f"{path} has {size} bytes, more than a protobuf file can hold; store the weights as external data"
            )
        with path.open("rb") as stream:
            try:
                data, places = without_weights(stream, size)
            except WireError:  # protobuf's parser says what is wrong, if anything is
                data, places = path.read_bytes(), {}
    except OSError as error:
        raise FailureError(f"{path} cannot be read: {error.strerror}") from error
    return _parse(data, str(path)), places


def _parse(data: bytes, label: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise FailureError(f"{label} is not an ONNX file, or it is truncated or corrupt") from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise FailureError(f"{label} is not an ONNX file: it holds no graph")
    return proto


def _check_fields(message: Message, owner: str, label: str) -> None:
    """Refuse strings that are not UTF-8, which protobuf hands over as bytes, and types that ONNX does not define.

    ``owner`` is the name that is closest around ``message``.
    """
    owner = getattr(message, "name", "") or owner
    for descriptor, value in message.ListFields():
        if descriptor.name in ("elem_type", "data_type") and isinstance(value, int) and value not in _TYPES:
            kind = "weight" if descriptor.name == "data_type" else "tensor"
            raise FailureError(f"{label}: {kind} {owner!r} is of the unknown type {value}; export the model again")
        if descriptor.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE):
            continue
        for item in [value] if isinstance(value, str | bytes | Message) else value:
            if isinstance(item, bytes):
                raise FailureError(f"{label} is not a valid ONNX model: a name in it is not UTF-8 text")
            if isinstance(item, Message):
                _check_fields(item, owner, label)


def _check_versions(proto: onnx.ModelProto, label: str) -> None:
    if proto.ir_version not in IR_VERSIONS:
        raise UnsupportedError(
            f"{label} has IR version {proto.ir_version}; supported are {IR_VERSIONS[0]} to {IR_VERSIONS[-1]}: "
            "export it again with an older onnx package"
        )
    versions = [entry.version for entry in proto.opset_import if not entry.domain]
    for version in versions:
        if version not in OPSETS:
            raise UnsupportedError(
                f"{label} uses ai.onnx opset {version}; supported are {OPSETS[0]} to {OPSETS[-1]}: "
                "export it again with a supported opset or convert it with onnx.version_converter"
            )


def take_constants(
    graph: onnx.GraphProto,
    path: Path | None,
    external: set[Path],
    label: str,
    places: Mapping[int, Place] | None = None,
) -> dict[str, np.ndarray]:
    """Move initializers and Constant nodes out of a graph; the files of external data are entered in ``external``.

    ``places`` says where the values of some initializers lie in the file, by their position.
    """
    constants: dict[str, np.ndarray] = {}
    for position, tensor in enumerate(graph.initializer):
        constants[tensor.name] = _tensor_value(tensor, path, external, label, (places or {}).get(position))
    for sparse in graph.sparse_initializer:
        constants[sparse.values.name] = _dense(sparse, label)
    del graph.initializer[:]
    del graph.sparse_initializer[:]
    kept = []
    for node in graph.node:
        value = _constant_value(node, path, external, label) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            constants[node.output[0]] = value
    if len(kept) < len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)
    return constants


def _constant_value(node: onnx.NodeProto, path: Path | None, external: set[Path], label: str) -> np.ndarray | None:
    attribute = node.attribute[0] if node.attribute else None
    if node.domain not in _STANDARD_DOMAINS or attribute is None or attribute.ref_attr_name:
        return None
    match attribute.name:
        case "value":
            return _tensor_value(attribute.t, path, external, label)
        case "sparse_value":
            return _dense(attribute.sparse_tensor, label)
        case "value_float":
            return np.array(attribute.f, np.float32)
        case "value_floats":
            return np.array(attribute.floats, np.float32)
        case "value_int":
            return np.array(attribute.i, np.int64)
        case "value_ints":
            return np.array(attribute.ints, np.int64)
    return None


def _tensor_value(
    tensor: onnx.TensorProto, path: Path | None, external: set[Path], label: str, place: Place | None = None
) -> np.ndarray:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external_value(tensor, path, external, label)
    if any(dim < 0 for dim in tensor.dims):
        raise FailureError(f"{label}: weight {tensor.name!r} declares a negative dimension")
    dtype = _dtype(tensor, label)
    if place is not None or tensor.HasField("raw_data"):
        expected = _packed_bytes(tensor.data_type, dtype, tensor.dims)
        held = len(tensor.raw_data) if place is None else place.length
        if held != expected:
            shape = list(tensor.dims)
            raise FailureError(
                f"{label}: weight {tensor.name!r} holds {held} bytes where its shape {shape} needs {expected}"
            )
    try:
        if place is not None and path is not None:
            values = np.fromfile(path, np.uint8, place.length, offset=place.offset)
            if place.length == dtype.itemsize * math.prod(tensor.dims):
                return values.view(dtype).reshape(tuple(tensor.dims))
            tensor.raw_data = values.tobytes()
        return np.asarray(numpy_helper.to_array(tensor))
    except (OSError, ValueError, TypeError) as error:
        raise FailureError(f"{label}: weight {tensor.name!r} is corrupt: {error}") from error


def _dtype(tensor: onnx.TensorProto, label: str) -> np.dtype[Any]:
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as error:
        raise FailureError(f"{label}: weight {tensor.name!r} is of the unknown type {tensor.data_type}") from error


def _packed_bytes(data_type: Any, dtype: np.dtype[Any], dims: Any) -> int:
    count = math.prod(int(dim) for dim in dims)
    bits: int = {
        onnx.TensorProto.INT4: 4,
        onnx.TensorProto.UINT4: 4,
        onnx.TensorProto.FLOAT4E2M1: 4,
        onnx.TensorProto.INT2: 2,
        onnx.TensorProto.UINT2: 2,
    }.get(data_type, dtype.itemsize * 8)
    return (count * bits + 7) // 8


def _external_value(tensor: onnx.TensorProto, path: Path | None, external: set[Path], label: str) -> np.ndarray:
    if path is None:
        raise UsageError(f"weight {tensor.name!r} is stored outside the model: load the model by its path")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _external_file(entries.get("location", ""), path, tensor.name, label)
    dtype = _dtype(tensor, label)
    needed = _packed_bytes(tensor.data_type, dtype, tensor.dims)
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", needed))
    except ValueError as error:
        raise FailureError(f"{label}: weight {tensor.name!r} has a malformed offset or length") from error
    if length != needed or offset < 0 or offset + length > file.stat().st_size:
        raise FailureError(
            f"{label}: weight {tensor.name!r} needs {needed} bytes at offset {offset} of {file.name}, "
            "which the file does not hold"
        )
    external.add(file)
    if needed != dtype.itemsize * int(np.prod(tensor.dims, dtype=np.int64)):
        raw = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type)
        raw.raw_data = np.fromfile(file, np.uint8, length, offset=offset).tobytes()
        return np.asarray(numpy_helper.to_array(raw))
    if needed == 0:
        return np.zeros(tuple(tensor.dims), dtype)
    with file.open("rb") as stream:
        view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(view, dtype, needed // dtype.itemsize, offset).reshape(tuple(tensor.dims))


def _external_file(location: str, path: Path, name: str, label: str) -> Path:
    folder = path.resolve().parent
    where = f"{label}: weight {name!r} points to external data {location!r}"
    if "\0" in location:
        raise FailureError(f"{where}, a name that no file can have; export the model again")
    file = folder / location
    if not location or os.path.isabs(location) or not file.resolve().is_relative_to(folder):
        raise FailureError(f"{where} outside the model's folder; such files are not read")
    if not file.exists():
        raise FailureError(f"{where}, which is missing from {folder}")
    if file.is_symlink() or not file.is_file() or file.stat().st_nlink > 1:
        raise FailureError(f"{where}, which is a link or no plain file; such files are not read")
    return file


def _dense(sparse: onnx.SparseTensorProto, label: str) -> np.ndarray:
    dims = tuple(sparse.dims)
    values = _tensor_value(sparse.values, None, set(), label)
    places = _tensor_value(sparse.indices, None, set(), label)
    total = math.prod(dims)
    if total * values.dtype.itemsize > MAX_PROTOBUF_BYTES:
        raise FailureError(f"{label}: sparse weight {sparse.values.name!r} would take {total} elements when dense")
    try:
        dense = np.zeros(dims, values.dtype)
        dense.reshape(-1)[places if places.ndim == 1 else np.ravel_multi_index(list(places.T), dims)] = values
    except (ValueError, IndexError, TypeError) as error:
        raise FailureError(f"{label}: sparse weight {sparse.values.name!r} is corrupt: {error}") from error
    return dense


def _check_structure(proto: onnx.ModelProto, constants: dict[str, np.ndarray], label: str) -> None:
    """Run onnx's checker on the structure, constants declared as inputs so that no weight is serialised."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    declared = {value.name for value in probe.graph.input}
    for name, value in constants.items():
        if name not in declared:
            data_type = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            probe.graph.input.append(onnx.helper.make_tensor_value_info(name, data_type, value.shape))
    try:
        checker.check_model(probe)
    except checker.ValidationError as error:
        said, _, node = (
            " ".join(part.split()) for part in str(error).partition("==> Context: Bad node spec for node.")
        )
        reason = f"{said} ({node})" if node else said
        if "No Op registered" in reason or "No opset import" in reason:
            raise UnsupportedError(f"{label} cannot be run: {reason}; export it again from standard ops") from error
        raise FailureError(f"{label} is not a valid ONNX model: {reason}") from error


def _check_functions(proto: onnx.ModelProto, label: str) -> None:
    """Refuse functions that call each other so often that inlining them takes all memory."""
    nodes = _inlined(proto, lambda node: 1)
    if nodes > MAX_INLINED_NODES:
        raise FailureError(
            f"{label}: the model's own functions call each other so often that they come to {nodes:.3g} nodes; the "
            f"limit is {MAX_INLINED_NODES:,}: export it with fewer calls"
        )
    size = _inlined(proto, lambda node: node.ByteSize() - sum(body.ByteSize() for body in subgraphs(node)))
    if size > MAX_PROTOBUF_BYTES:
        raise FailureError(
            f"{label}: the model's own functions come to {size / 2**30:.3g} GiB, more than a protobuf file can hold; "
            "export it with its weights outside the functions"
        )


def _inlined(proto: onnx.ModelProto, measure: Callable[[onnx.NodeProto], int]) -> int:
    """The sum of a measure over the nodes that inlining gives; onnx's checker has ruled cycles out."""
    functions = {(each.domain, each.name, each.overload): each.node for each in proto.functions}
    known: dict[tuple[str, str, str], int] = {}

    def total(nodes: Iterable[onnx.NodeProto]) -> int:
        return sum(of_node(node) + sum(total(body.node) for body in subgraphs(node)) for node in nodes)

    def of_node(node: onnx.NodeProto) -> int:
        called = (node.domain, node.op_type, node.overload)
        if called not in functions:
            return measure(node)
        if called not in known:
            known[called] = total(functions[called])
        return known[called]

    return total(proto.graph.node)


def _check_weights(constants: dict[str, np.ndarray], label: str) -> None:
    for name, value in constants.items():
        if not np.issubdtype(value.dtype, np.floating) or value.size < 1:
            continue
        with np.errstate(all="ignore"):
            suspicious = not np.isfinite(value.sum(dtype=np.float32))
        if suspicious and np.isnan(value).any():
            raise FailureError(f"{label}: weight {name!r} contains NaN")
        if suspicious and value.size > 1 and np.isinf(value).any():
            raise FailureError(f"{label}: weight {name!r} contains Inf")
