"""The reading side of a PostgreSQL store: entries, payloads and branches, through connections that write nothing.

Rules
1. Reads go to the primary: what was written is seen.
2. A read that lost its connection is made again, on another one, until the server has been away for too long.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, LiteralString, cast

import psycopg

from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.errors import Corrupt, HoldfastError, Unknown
from holdfast.store import Branch
from holdfast.store.postgres_depot import OUTSIDE, PostgresDepot, depot_of
from holdfast.store.postgres_guard import Guard
from holdfast.store.postgres_schema import lost, place_of, translate
from holdfast.store.postgres_ways import Connection, connect
from holdfast.store.reading import IDENTITY_BYTES, unpacker
from holdfast.store.worker import Worker, dead

READERS = 4  # connections
_ENTRY = "SELECT e.seq, e.epoch, e.at_ms, coalesce(e.key, ''::bytea), e.body, e.digest FROM holdfast.entry e"
_OF_BRANCH = " WHERE e.branch = (SELECT id FROM holdfast.branch WHERE name = %s) AND e.seq > %s AND e.seq <= %s"
_RECALL = (
    " JOIN holdfast.recall r ON r.branch = e.branch AND r.seq = e.seq"
    " WHERE r.branch = (SELECT id FROM holdfast.branch WHERE name = %s) AND r.seq > %s AND r.seq <= %s AND r.key = %s"
)
_BRANCHES = (
    "SELECT b.name, b.seq, b.digest, b.epoch, b.at_ms, w.id, w.place, w.pid, w.born, w.host FROM holdfast.branch b"
    " LEFT JOIN holdfast.worker w ON w.id = b.worker"
    ' WHERE b.seq > 0 AND b.name >= %s COLLATE "C" AND b.name < %s COLLATE "C" ORDER BY b.at_ms DESC, b.id DESC'
)
LAST_SIGN = chr(0x10FFFF)
LAST = 2**63 - 1


class PostgresReading:
    """What can be read of the store at `conninfo`. `patience_s`: for how long a server that is away is waited for;
    `answer_s`: for how long one that is there and does not answer."""

    def __init__(self, conninfo: str, *, patience_s: float = 30.0, answer_s: float = 30.0) -> None:
        self.where = place_of(conninfo)
        self.log_id = ""
        self.depot: PostgresDepot | None = None
        self._conninfo = conninfo
        self._reading_patience_s = patience_s
        self._idle: list[Connection] = []
        self._places = threading.Semaphore(READERS)
        self._reader_pid = os.getpid()
        self._unpack = unpacker()
        self._guard = Guard(answer_s)

    async def read(
        self,
        branch: str,
        *,
        after: int = 0,
        key: bytes | None = None,
        unclaimed: bool = False,
        newest: int | None = None,
        upto: int | None = None,
    ) -> list[Entry]:
        """As `Store.read`."""
        values: tuple[object, ...] = (branch, min(after, LAST), LAST if upto is None else min(upto, LAST))
        sql: LiteralString = _ENTRY + _OF_BRANCH
        if key is not None and len(key) < IDENTITY_BYTES:
            sql, values = sql + " AND e.key = %s AND length(e.key) < 32", (*values, key)
        elif key is not None:
            sql, values = _ENTRY + _RECALL, (*values, key)
        elif unclaimed:
            sql += " AND e.epoch = 0"
        order: LiteralString = " ORDER BY e.seq" if newest is None else " ORDER BY e.seq DESC LIMIT %s"
        rows = await self._rows(sql + order, values if newest is None else (*values, newest))
        entries = [Entry(branch, *cast(Any, row)) for row in rows]
        return entries if newest is None else entries[::-1]

    async def blob(self, digest: bytes) -> Blob:
        """As `Store.blob`."""
        rows = await self._rows("SELECT form, data FROM holdfast.blob WHERE digest = %s", (digest,))
        if not rows:
            raise Unknown(
                "a payload is not in the store: it was pruned, or lost",
                where=digest.hex(),
                fix="restore a backup that has it",
            )
        form, data = cast("tuple[int, bytes]", rows[0])
        if form >= OUTSIDE:
            form, data = form - OUTSIDE, await (await self._outside()).get(data)
        return self._blob(digest, form, data)

    def _blob(self, digest: bytes, form: int, data: bytes) -> Blob:
        return Blob(digest, self._unpack(data) if form & 1 else data, rope=form >= 2)

    async def _outside(self) -> PostgresDepot:
        """Where large payloads are."""
        if self.depot is None:
            self.depot = await asyncio.to_thread(depot_of, self, self.log_id, None, where=self.where)
        if self.depot is None:
            raise Corrupt("nobody says where large payloads are", where=self.where, fix="restore a backup")
        return self.depot

    async def branches(self, prefix: str = "") -> list[Branch]:
        """As `Store.branches`."""
        rows = await self._rows(_BRANCHES, (prefix, prefix + LAST_SIGN))
        return [branch_of(row) for row in rows]

    async def _rows(self, sql: LiteralString, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        return await asyncio.to_thread(self.fetch, sql, values)

    def fetch(self, sql: LiteralString, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """The rows of a query that may be made twice, on any connection. Raises Unwritable if the server stays away."""
        until = time.monotonic() + self._reading_patience_s
        with self._places:
            while True:
                connection: Connection | None = None
                try:
                    connection = self._taken()
                    with self._guard.over(connection):
                        rows = cast("list[tuple[object, ...]]", connection.execute(sql, values, binary=True).fetchall())
                except psycopg.Error as error:
                    again = connection is None or lost(connection, error)
                    if connection is not None:
                        connection.close()
                    if not again or time.monotonic() >= until:
                        raise self._refusal(error) from error
                    time.sleep(0.1)
                    continue
                self._idle.append(connection)
                return rows

    def _taken(self) -> Connection:
        if os.getpid() != self._reader_pid:  # after a fork: the connections are the parent's
            self._idle, self._reader_pid = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return connect(self._conninfo)

    def _refusal(self, error: psycopg.Error) -> HoldfastError:
        return translate(error, self.where)

    def _stop_reading(self) -> None:
        while self._idle:
            self._idle.pop().close()


def branch_of(row: Sequence[object]) -> Branch:
    """A branch, of its row with that of the worker that holds it."""
    return Branch(*cast(Any, (*row[:5], _holder(row[5:]))))


def _holder(row: Sequence[object]) -> str:
    if row[0] is None:
        return ""
    worker = Worker(*cast(Any, row))
    return "" if dead(worker) else f"{worker.host}:{worker.pid}"
