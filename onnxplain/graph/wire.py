"""A model file without its large weights, which are read one by one later: to parse the whole takes twice its size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

LEAST_BYTES = 2**16
"""Weights from here on are left in the file."""
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Field numbers of ModelProto.graph, GraphProto.initializer and TensorProto.raw_data (onnx.proto)."""
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_MOST_FIELDS = 1_000_000
"""Of more, protobuf's parser makes less work."""


class WireError(ValueError):
    """The bytes are no protobuf message, or one that needs protobuf's own parser."""


class Place(NamedTuple):
    """Where a value lies in the file, in bytes."""

    offset: int
    length: int


class _Field(NamedTuple):
    number: int
    wire: int
    start: int
    body: int
    end: int


def without_weights(stream: BinaryIO, size: int) -> tuple[bytes, dict[int, Place]]:
    """The serialised ModelProto less the ``raw_data`` of large initializers, and where each of them lies.

    Parameters
    ----------
    stream : binary file
    size : int
        Its bytes.

    Returns
    -------
    bytes
    dict of int to Place
        By the position among the initializers of the graph.

    Raises
    ------
    WireError
        The file has to be parsed as a whole.
    """
    places: dict[int, Place] = {}
    pieces: list[bytes] = []
    graphs = 0
    left = iter(range(_MOST_FIELDS))
    for field in _fields(stream, 0, size, left):
        if field.number == _GRAPH and field.wire == _DELIMITED:
            graphs += 1
            pieces.append(_delimited(_GRAPH, _graph(stream, field, places, left)))
        else:
            pieces.append(_bytes(stream, field.start, field.end))
    if graphs != 1:
        raise WireError("one graph in several pieces, or none")
    return b"".join(pieces), places


def _graph(stream: BinaryIO, graph: _Field, places: dict[int, Place], left: Iterator[int]) -> bytes:
    pieces: list[bytes] = []
    position = 0
    for field in _fields(stream, graph.body, graph.end, left):
        if field.number != _INITIALIZER or field.wire != _DELIMITED:
            pieces.append(_bytes(stream, field.start, field.end))
            continue
        if field.end - field.body < LEAST_BYTES:
            pieces.append(_bytes(stream, field.start, field.end))
        else:
            kept, raw = _tensor(stream, field, left)
            pieces.append(_delimited(_INITIALIZER, kept))
            if raw is not None:
                places[position] = raw
        position += 1
    return b"".join(pieces)


def _tensor(stream: BinaryIO, tensor: _Field, left: Iterator[int]) -> tuple[bytes, Place | None]:
    raw: Place | None = None
    pieces: list[bytes] = []
    for field in _fields(stream, tensor.body, tensor.end, left):
        if field.number == _RAW_DATA and field.wire == _DELIMITED:
            raw = Place(field.body, field.end - field.body)  # of several the last counts
        else:
            pieces.append(_bytes(stream, field.start, field.end))
    return b"".join(pieces), raw


def _fields(stream: BinaryIO, start: int, end: int, left: Iterator[int]) -> Iterator[_Field]:
    """The fields of a message that lies from ``start`` to ``end``, as long as ``left`` gives something for each."""
    while start < end:
        if next(left, None) is None:
            raise WireError("a million fields")
        stream.seek(start)
        tag = _varint(stream)
        wire = tag & 7
        if wire == _VARINT:
            _varint(stream)
            body = stop = stream.tell()
        elif wire in (_FIXED64, _FIXED32):
            body = stream.tell()
            stop = body + (8 if wire == _FIXED64 else 4)
        elif wire == _DELIMITED:
            length = _varint(stream)
            body = stream.tell()
            stop = body + length
        else:
            raise WireError("a group")
        if not tag >> 3 or stop > end:
            raise WireError("a field that ends behind its message")
        yield _Field(tag >> 3, wire, start, body, stop)
        start = stop


def _varint(stream: BinaryIO) -> int:
    value = 0
    for place in range(_LONGEST_VARINT):
        [byte] = stream.read(1) or [None]
        if byte is None:
            raise WireError("the end of the file within a number")
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value
    raise WireError("a number of more than 64 bits")


def _delimited(number: int, body: bytes) -> bytes:
    return _encoded(number << 3 | _DELIMITED) + _encoded(len(body)) + body


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _bytes(stream: BinaryIO, start: int, end: int) -> bytes:
    stream.seek(start)
    return stream.read(end - start)
