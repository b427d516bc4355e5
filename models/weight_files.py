"""Weights by name from .npz, .safetensors, .pth and .caffemodel files. Nothing in a file is executed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from torch_files import read_pth

from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.npz import members

Weights = dict[str, np.ndarray]

MAX_HEADER = 100 << 20
"""Largest .safetensors header, the limit of the format's own library."""

_SAFE_DTYPES = {
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    "BOOL": "?",
    "BF16": "<u2",
}


def read_weights(path: Path) -> Weights:
    """The arrays of a file of weights, float32.

    Caffe's are called ``LAYER.weight`` and ``LAYER.bias``.

    Raises
    ------
    UsageError
        Missing file, another form.
    FailureError
        A damaged file.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file; give weights as .npz, .safetensors, .pth or .caffemodel")
    match path.suffix.lower():
        case ".npz":
            return {name: _floats(path, name, member.read()) for name, member in members(path).items()}
        case ".safetensors":
            return dict(_safetensors(path))
        case ".caffemodel":
            return dict(_caffemodel(path))
        case ".pth" | ".pt":
            return {name: _floats(path, name, value) for name, value in read_pth(path).items()}
    raise UsageError(f"{path}: weights are read from .npz, .safetensors, .pth and .caffemodel, not {path.suffix!r}")


def _floats(path: Path, name: str, value: np.ndarray) -> np.ndarray:
    """Floats as float32; integers, such as counters of training steps, as they are."""
    if value.dtype.kind != "f":
        return value
    if not np.isfinite(value).all():
        raise FailureError(f"{path}: {name!r} holds NaN or Inf")
    return value.astype(np.float32, copy=False)


def _safetensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    data = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    try:
        length = int(data[:8].view("<u8")[0])
        if length > min(MAX_HEADER, len(data) - 8):
            raise ValueError(f"its header claims {length} bytes")
        header = json.loads(bytes(data[8 : 8 + length]))
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, _floats(path, name, _tensor(data[8 + length :], entry))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise FailureError(f"{path} is not a sound .safetensors file: {error}") from error


def _tensor(data: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    form, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if form not in _SAFE_DTYPES:
        raise ValueError(f"numbers of dtype {form!r} are not read")
    dtype = np.dtype(_SAFE_DTYPES[form])
    if not 0 <= start <= stop <= len(data) or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{entry} does not fit the file")
    values = np.frombuffer(bytes(data[start:stop]), dtype).reshape(shape)
    return (values.astype("<u4") << 16).view("<f4") if form == "BF16" else values


def _caffemodel(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    net = _caffe_net()()
    try:
        net.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise FailureError(f"{path} is not a sound .caffemodel file: {error}") from error
    found = False
    for layer in [*net.layer, *net.layers]:
        for kind, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            found = True
            yield f"{layer.name}.{kind}", _floats(path, f"{layer.name}.{kind}", _blob(path, layer.name, blob))
    if not found:
        raise FailureError(f"{path} holds no layer with weights; is it a .caffemodel of trained weights?")


def _blob(path: Path, layer: str, blob: Any) -> np.ndarray:
    shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
    values = np.frombuffer(blob.data, "<f4") if blob.data else np.frombuffer(blob.double_data, "<f8")
    if math.prod(shape) != values.size:
        raise FailureError(f"{path}: a blob of layer {layer!r} has shape {shape} but {values.size} values")
    return values.reshape(shape)


def _caffe_net() -> Any:
    """The message class of a Caffe net, as far as weights go; packed numbers are taken as bytes."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="onnxplain/caffe_weights.proto", package="caffe_weights")
    fields: dict[str, list[tuple[str, int, Any, bool]]] = {
        "Shape": [("dim", 1, field.TYPE_INT64, True)],
        "Blob": [
            *((name, number, field.TYPE_INT64, False) for number, name in enumerate(("num", "channels", "height"), 1)),
            ("width", 4, field.TYPE_INT64, False),
            ("data", 5, field.TYPE_BYTES, False),
            ("shape", 7, "Shape", False),
            ("double_data", 8, field.TYPE_BYTES, False),
        ],
        "Layer": [("name", 1, field.TYPE_STRING, False), ("blobs", 7, "Blob", True)],
        "OldLayer": [("name", 4, field.TYPE_STRING, False), ("blobs", 6, "Blob", True)],
        "Net": [("layers", 2, "OldLayer", True), ("layer", 100, "Layer", True)],
    }
    for message, entries in fields.items():
        added = file.message_type.add(name=message)
        for name, number, kind, repeated in entries:
            of_message = isinstance(kind, str)
            added.field.add(
                name=name,
                number=number,
                type=field.TYPE_MESSAGE if of_message else kind,
                type_name=f".caffe_weights.{kind}" if of_message else None,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe_weights.Net"))
