"""One connection to PostgreSQL that writes for one worker: its lane, and the number of its newest batch.

Rules
1. Each batch writes its number beside the worker's name. When a connection is lost, the next one raises the worker's
   lane and reads that number: a batch that was not written by then never will be, and only then it may be sent again.
2. If the server was killed and lost what was not flushed, that is noticed by the number.
3. The newest number is acknowledged, or in doubt; never neither.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from holdfast.core.entry import Entry, origin
from holdfast.errors import Stopped, Unwritable
from holdfast.store.postgres_batch import Batch, Head, Owner
from holdfast.store.postgres_schema import IDLE_S, LOCK_S, Server, connect, lost, opened, place_of, translate
from holdfast.store.worker import Worker

PAUSE_S = (0.05, 1.0)
FORGOTTEN = "7 days"  # of silence, after which a worker that holds nothing is struck out
_PLACE = (
    "SELECT holdfast.place_1(%s::text, %s::bigint, %s::bigint, %s::text,"
    " %b::bigint[], %b::bigint[], %b::bigint[], %b::text[],"
    " %b::bigint[], %b::bytea[], %b::bigint[], %b::bigint[], %b::bigint[], %b::text[],"
    " %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bytea[], %b::bytea[], %b::bytea[],"
    " %b::bytea[], %b::smallint[], %b::bytea[], %b::bigint[])"
)
_GUARD = (
    "SELECT set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true),"
    " set_config('synchronous_commit', %s, true)"
)
_BRANCH = (
    "INSERT INTO holdfast.branch (name, seq, digest, at_ms, unclaimed_seq, epoch)"
    " SELECT name, 0, digest, 0, 0, 0 FROM unnest(%b::text[], %b::bytea[]) AS b(name, digest) ORDER BY name"
    " ON CONFLICT DO NOTHING"
)
_LOCK = "SELECT id FROM holdfast.branch WHERE name = ANY (%b::text[]) ORDER BY id FOR NO KEY UPDATE"
_HEADS = (
    "SELECT b.id, b.name, b.seq, b.digest, b.at_ms, b.unclaimed_seq, b.epoch, coalesce(b.worker, ''),"
    " w.place, w.pid, w.born, w.host, (extract(epoch FROM clock_timestamp() - w.seen_at) * 1000)::float8"
    " FROM holdfast.branch b LEFT JOIN holdfast.worker w ON w.id = b.worker WHERE b.name = ANY (%b::text[])"
)
_THERE = (
    "SELECT b.name, e.seq FROM unnest(%b::text[], %b::bigint[], %b::bytea[]) AS s(name, seq, digest)"
    " JOIN holdfast.branch b ON b.name = s.name"
    " JOIN holdfast.entry e ON e.branch = b.id AND e.seq = s.seq AND e.digest = s.digest"
)
_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8"
_ENROL = (
    "INSERT INTO holdfast.worker (id, place, pid, born, host, seen_at, lane, batch)"
    " VALUES (%s, %s, %s, %s, %s, clock_timestamp(), 1, 0)"
)
_STRIKE = (
    "DELETE FROM holdfast.worker w WHERE seen_at < clock_timestamp() - %s::interval"
    " AND NOT EXISTS (SELECT 1 FROM holdfast.branch b WHERE b.worker = w.id)"
)
_BEAT = (
    "WITH s AS (SELECT set_config('synchronous_commit', 'off', true))"
    " UPDATE holdfast.worker SET seen_at = clock_timestamp() FROM s WHERE id = %s AND lane = %s"
)
_LANE = "UPDATE holdfast.worker SET lane = lane + 1, seen_at = clock_timestamp() WHERE id = %s RETURNING lane, batch"


@dataclass(frozen=True, slots=True)
class Standing:
    """How branches stand, under their locks: their heads, who holds them, and which of the entries are there that were
    asked about."""

    heads: list[Head]
    owners: dict[str, Owner]
    there: frozenset[tuple[str, int]]


class Lane:
    """The writing connection of `worker`. Used by one thread at a time. Raises Stopped where the server cannot be used;
    its methods raise psycopg.Error where nothing else is said."""

    def __init__(self, conninfo: str, worker: Worker) -> None:
        self.where = place_of(conninfo)
        self.in_doubt: int | None = None
        self.silent_since = time.monotonic()
        self._conninfo = conninfo
        self._worker = worker
        self._number, self._next, self._acknowledged = 1, 0, 0
        self._ahead_ms = 0.0  # of the database's clock before the monotonic one of this process
        try:
            self._connection = connect(conninfo)
        except psycopg.Error as error:
            raise translate(error, self.where) from error
        try:
            self.server: Server = opened(self._connection, self.where)
            self._enrol()
        except BaseException as error:
            self._connection.close()
            if isinstance(error, psycopg.Error):
                raise translate(error, self.where) from error
            raise

    def _enrol(self) -> None:
        me = self._worker
        self._connection.execute(_STRIKE, (FORGOTTEN,))
        self._connection.execute(_ENROL, (me.id, me.place, me.pid, me.born, me.host))
        self._see_clock(self._connection.execute(_CLOCK).fetchall()[0][0])

    def _see_clock(self, now_ms: float) -> None:
        self._ahead_ms = now_ms - time.monotonic() * 1000

    def now_ms(self) -> int:
        """The time by the database's clock, as it was last heard."""
        return int(time.monotonic() * 1000 + self._ahead_ms)

    @property
    def closed(self) -> bool:
        """Whether there is no connection."""
        return self._connection.closed

    def lost(self, error: psycopg.Error) -> bool:
        """Whether the connection is gone, so that nobody knows what became of the last statement. Then it is closed."""
        if lost(self._connection, error):
            self._connection.close()
        return self._connection.closed

    # --- one transaction ---

    @contextlib.contextmanager
    def standing(self, names: list[str], known: Collection[str], stands_on: Sequence[Entry]) -> Generator[Standing]:
        """Begin a transaction, lock branches (those that are not `known` are made if need be), and see how they stand.
        It ends with `place`; else nothing was done."""
        try:
            with self._connection.pipeline():
                self._connection.execute("BEGIN")
                self._guard()
                if fresh := [name for name in names if name not in known]:
                    self._connection.execute(_BRANCH, (fresh, [origin(name) for name in fresh]))
                self._connection.execute(_LOCK, (names,))
                found = self._connection.execute(_HEADS, (names,), binary=True)
                asked = ([e.branch for e in stands_on], [e.seq for e in stands_on], [e.digest for e in stands_on])
                there = self._connection.execute(_THERE, asked) if stands_on else None
                clock = self._connection.execute(_CLOCK)
            self._see_clock(clock.fetchall()[0][0])
            heads, owners = _standing(found.fetchall())
            yield Standing(
                heads, owners, frozenset((row[0], row[1]) for row in there.fetchall()) if there else frozenset()
            )
        finally:
            self.roll_back()

    def place(self, batch: Batch, *, flush: bool) -> None:
        """Write a batch, and commit; in one round trip, in the transaction that was begun or in one of its own."""
        self._next += 1
        durability = self.server.barrier if flush else self.server.lazy
        values = batch.values(self._worker.id, self._number, self._next, durability)
        self.in_doubt = self._next
        if self._connection.info.transaction_status == TransactionStatus.IDLE:
            written = self._connection.execute(_PLACE, values)
        else:
            with self._connection.pipeline():
                written = self._connection.execute(_PLACE, values)
                self._connection.execute("COMMIT")
        self.in_doubt, self._acknowledged, self.silent_since = None, self._next, time.monotonic()
        self._see_clock(written.fetchall()[0][0])

    def roll_back(self) -> None:
        """End a transaction that was begun and not committed, if there is one."""
        with contextlib.suppress(psycopg.Error):
            if not self._connection.closed and self._connection.info.transaction_status != TransactionStatus.IDLE:
                self._connection.execute("ROLLBACK")

    def _guard(self) -> None:
        self._connection.execute(_GUARD, (f"{LOCK_S}s", f"{IDLE_S}s", self.server.barrier))

    # --- another connection ---

    def renew(self, until: float) -> bool:
        """Take the next lane, on a connection of its own, so that nothing that was sent before is written from now on;
        whether the batch in doubt was written. Raises Stopped if the server cannot be reached until `until` (monotonic,
        s), Forgotten if it has lost what it had acknowledged."""
        self._connection.close()
        pause_s, longest_s = PAUSE_S
        while True:
            try:
                self._connection = connect(self._conninfo)
                with self._connection.transaction():
                    self._guard()
                    rows = self._connection.execute(_LANE, (self._worker.id,)).fetchall()
                break
            except psycopg.Error as error:
                self._connection.close()
                if time.monotonic() >= until:
                    raise self._away(error) from error
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, longest_s)
        if not rows or rows[0][1] not in (self._acknowledged, self.in_doubt):
            raise Forgotten(
                "PostgreSQL was killed, or put back, and lost entries that it had not flushed",
                where=self.where,
                fix="resume the runs: they go on from what is there",
            )
        self._number, newest = rows[0]
        written = newest == self.in_doubt
        self._acknowledged, self.in_doubt = newest, None
        return written

    def _away(self, error: psycopg.Error) -> Stopped:
        refusal = translate(error, self.where)
        return refusal if isinstance(refusal, Stopped) else Unwritable(refusal.what, where=self.where)

    def beat(self) -> None:
        """Show that the worker lives."""
        self._connection.execute(_BEAT, (self._worker.id, self._number))
        self._see_clock(self._connection.execute(_CLOCK).fetchall()[0][0])
        self.silent_since = time.monotonic()

    def leave(self) -> None:
        """Give back what the worker holds, and strike it out."""
        with self._connection.transaction():
            me = (self._worker.id,)
            self._connection.execute("UPDATE holdfast.branch SET worker = NULL WHERE worker = %s", me)
            self._connection.execute("DELETE FROM holdfast.worker WHERE id = %s", me)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


class Forgotten(Unwritable):
    """The server has lost what it had acknowledged."""


def _standing(rows: list[tuple[Any, ...]]) -> tuple[list[Head], dict[str, Owner]]:
    """The heads of branches, and who holds them."""
    heads = [Head(*row[:8], found=(row[2], row[6], row[7])) for row in rows]
    owners = {row[7]: Owner(Worker(row[7], *row[8:12]), row[12]) for row in rows if row[8] is not None}
    return heads, owners
