"""A large log, written into PostgreSQL by COPY in the form in which the store writes it.

Rules
1. Many runs are under way at a time, a turn of each after a turn of the others: a run's entries lie as scattered on the
   disk as if they had been placed one by one.
2. All indexes are there from the beginning, and grow as they would.
3. Nothing is numbered: that is the sequencer's work, which is measured.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import psycopg

from bench.big_stencil import Stencil, row_of, run_of, stencil
from holdfast.core.entry import Entry

AT_ONCE = 128  # runs that a process has under way
PIECE = 6  # entries: about a turn
CHUNK = 20_000  # entries of one COPY
SPREAD_MS = 30 * 86_400_000  # from the beginning of the first run to that of the last
SHARES = {  # of 1000 runs; `long` ones are counted by themselves
    "short": 450, "usual": 416, "large": 44, "failed": 20, "held": 20, "signal": 20, "asleep": 15, "doubt": 5,
    "stopped": 10,
}  # fmt: skip
DEAD = "0" * 32
"""The worker that left doubts and stopped runs behind."""


@dataclass(frozen=True, slots=True)
class Made:
    """One run of the log: the number in its id, its shape and the id of its branch in the database."""

    number: str
    shape: str
    branch: int
    begun_ms: int


def plan(runs: int, longs: int, now_ms: int) -> list[Made]:
    """The runs in the order of their beginning: the same for the same numbers, but for the moment."""
    draw = random.Random(runs)
    shapes = draw.choices(list(SHARES), list(SHARES.values()), k=runs - longs)
    for place in sorted(draw.sample(range(runs), longs)):
        shapes.insert(place, "long")
    begins = sorted(draw.randrange(SPREAD_MS) for _ in range(runs))
    return [
        Made(f"{number:08}", shape, number, now_ms - SPREAD_MS + begun)
        for number, (shape, begun) in enumerate(zip(shapes, begins, strict=True), 1)
    ]


def stencils() -> dict[str, Stencil]:
    """One of each shape."""
    return {shape: stencil(shape) for shape in (*SHARES, "long")}


def load(url: str, made: Sequence[Made], shapes: dict[str, Stencil], processes: int, dead: Sequence[object]) -> int:
    """Write the log; the number of its entries. `dead`: the row of the worker that died."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO holdfast.worker VALUES (%s, %s, %s, %s, %s, now() - interval '1 h', 1, 1)", dead
        )
        same = {row_of(text) for each in shapes.values() for text in each.same}
        _copy(connection, _BLOB, (_blob(*row) for row in same))
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        parts = [made[part::processes] for part in range(processes)]
        count = sum(pool.map(_load, [url] * processes, parts, [shapes] * processes))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT setval(pg_get_serial_sequence('holdfast.branch', 'id'), %s)", (len(made) + 1,))
        connection.execute("INSERT INTO holdfast.grown SELECT id FROM holdfast.branch WHERE id <= %s", (len(made) + 1,))
    return count


_BLOB = "COPY holdfast.blob (digest, form, data) FROM STDIN (FORMAT binary)"
_BRANCH = (
    "COPY holdfast.branch (id, name, seq, digest, at_ms, unclaimed_seq, epoch, worker, ended_seq)"
    " FROM STDIN (FORMAT binary)"
)
_ENTRY = "COPY holdfast.entry (branch, seq, epoch, at_ms, key, body, digest) FROM STDIN (FORMAT binary)"
_RECALL = "COPY holdfast.recall (branch, key, seq) FROM STDIN (FORMAT binary)"


def _load(url: str, made: Sequence[Made], shapes: dict[str, Stencil]) -> int:
    """One process's part."""
    count = 0
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        left = iter(made)
        under_way: list[Iterator[_Piece]] = [
            _pieces(each, shapes[each.shape]) for each in itertools.islice(left, AT_ONCE)
        ]
        blobs: list[bytes] = []
        rows: list[bytes] = []
        ends: list[bytes] = []
        recalls: list[bytes] = []
        while under_way:
            for pieces in list(under_way):
                piece = next(pieces, None)
                if piece is None:
                    under_way.remove(pieces)
                    under_way += [_pieces(each, shapes[each.shape]) for each in itertools.islice(left, 1)]
                    continue
                blobs += piece.blobs
                rows += piece.entries
                recalls += piece.recalls
                ends += piece.branch
            if len(rows) > CHUNK:
                count += _flush(connection, blobs, rows, recalls, ends)
        return count + _flush(connection, blobs, rows, recalls, ends)


def _flush(connection: psycopg.Connection, *lists: list[bytes]) -> int:
    count = len(lists[1])
    with connection.transaction():
        for sql, rows in zip((_BLOB, _ENTRY, _RECALL, _BRANCH), lists, strict=True):
            _copy(connection, sql, rows)
            rows.clear()
    return count


def _copy(connection: psycopg.Connection, sql: str, rows: Iterable[bytes]) -> None:
    with connection.cursor() as cursor, cursor.copy(sql) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(rows) + b"\xff\xff")


@dataclass(frozen=True, slots=True)
class _Piece:
    blobs: list[bytes]
    entries: list[bytes]
    recalls: list[bytes]
    branch: list[bytes]


def _pieces(made: Made, shape: Stencil) -> Iterator[_Piece]:
    """A run, some entries at a time, as rows."""
    payloads, values = shape.values(made.number)
    pause = 1 + int(made.number) % 40_000 // len(shape.lines)
    entries = shape.entries(made.number, made.begun_ms, values, pause)
    share = -(-len(payloads) * PIECE // len(entries))
    for place, start in enumerate(range(0, len(entries), PIECE)):
        piece = entries[start : start + PIECE]
        last = piece[-1] if start + PIECE >= len(entries) else None
        yield _Piece(
            [_blob(*row_of(text)) for text in payloads[place * share : (place + 1) * share]],
            [_entry(made.branch, entry) for entry in piece],
            [_recall(made.branch, entry) for entry in piece if len(entry.key) == 32 and entry.seq < shape.recalled],
            [_branch(made, last)] if last else [],
        )


_INT = struct.Struct(">iq")
_ROW = struct.Struct(">hiqiqiqiq")


def _blob(digest: bytes, form: int, data: bytes) -> bytes:
    return b"".join(
        (b"\0\3\0\0\0\x20", digest, b"\0\0\0\2", form.to_bytes(2, "big"), len(data).to_bytes(4, "big"), data)
    )


def _entry(branch: int, entry: Entry) -> bytes:
    head = _ROW.pack(7, 8, branch, 8, entry.seq, 8, entry.epoch, 8, entry.at_ms)
    key = len(entry.key).to_bytes(4, "big") + entry.key if entry.key else b"\xff\xff\xff\xff"
    return b"".join((head, key, len(entry.body).to_bytes(4, "big"), entry.body, b"\0\0\0\x20", entry.digest))


def _recall(branch: int, entry: Entry) -> bytes:
    return b"".join((b"\0\3", _INT.pack(8, branch), b"\0\0\0\x20", entry.key, _INT.pack(8, entry.seq)))


def _branch(made: Made, last: Entry) -> bytes:
    name = f"{run_of(made.number)}@main".encode()
    held = made.shape in ("doubt", "stopped", "long")
    return b"".join(
        (
            b"\0\x09", _INT.pack(8, made.branch), len(name).to_bytes(4, "big"), name, _INT.pack(8, last.seq),
            b"\0\0\0\x20", last.digest, _INT.pack(8, last.at_ms), _INT.pack(8, 0), _INT.pack(8, 1),
            b"\0\0\0\x20" + DEAD.encode() if held else b"\xff\xff\xff\xff",
            _INT.pack(8, last.seq) if last.key == b"finished" else b"\xff\xff\xff\xff",
        )
    )  # fmt: skip
