"""Arrays as PostgreSQL's binary format has them: what psycopg does with a list takes longer than all else of a batch.

Format: dimensions (0 or 1), whether there are NULLs, the element's type, length, lower bound (1); then for each element
its length (-1 for NULL) and its bytes; all numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import psycopg
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

_INT8, _TEXT, _BYTEA = 20, 25, 17  # types of elements
_NULL = b"\xff\xff\xff\xff"
_ONE_INT8 = struct.Struct(">iiiiiiq")  # most arrays of a single run's batch
_EMPTY = {kind: struct.pack(">iii", 0, 0, kind) for kind in (_INT8, _TEXT, _BYTEA)}


class Int8s(bytes):
    """A bigint[]."""


class Texts(bytes):
    """A text[]."""


class Byteas(bytes):
    """A bytea[]."""


def int8s(values: Sequence[int]) -> Int8s:
    """The array of these numbers."""
    if len(values) == 1:
        return Int8s(_ONE_INT8.pack(1, 0, _INT8, 1, 1, 8, values[0]))
    flat = [part for value in values for part in (8, value)]
    return Int8s(_head(_INT8, len(values)) + struct.pack(">" + "iq" * len(values), *flat))


def texts(values: Iterable[str | None]) -> Texts:
    """The array of these texts."""
    return Texts(_strings(_TEXT, [None if value is None else value.encode() for value in values]))


def byteas(values: Iterable[bytes | None]) -> Byteas:
    """The array of these bytes."""
    return Byteas(_strings(_BYTEA, list(values)))


def _strings(kind: int, values: list[bytes | None]) -> bytes:
    parts = [_NULL if value is None else len(value).to_bytes(4, "big") + value for value in values]
    return _head(kind, len(values), nulls=None in values) + b"".join(parts)


def _head(kind: int, length: int, *, nulls: bool = False) -> bytes:
    return struct.pack(">iiiii", 1, nulls, kind, length, 1) if length else _EMPTY[kind]


class _AsIs(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> Buffer:
        return obj


class _Int8sDumper(_AsIs):
    oid = 1016


class _TextsDumper(_AsIs):
    oid = 1009


class _ByteasDumper(_AsIs):
    oid = 1001


def register(connection: psycopg.Connection[object]) -> None:
    """Let a connection take these arrays as arguments (`%b`)."""
    for kind, dumper in ((Int8s, _Int8sDumper), (Texts, _TextsDumper), (Byteas, _ByteasDumper)):
        connection.adapters.register_dumper(kind, dumper)
