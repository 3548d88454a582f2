"""One connection to PostgreSQL that writes for one worker: its lane, and the number of its newest batch.

Rules
1. Each batch writes its number beside the worker's name. When a connection is lost, the next one raises the worker's
   lane and reads that number: a batch that was not written by then never will be, and only then it may be sent again.
2. If the server was killed and lost what was not flushed, that is noticed by the number. If what was flushed is gone,
   it is another history (a standby that did not have it, a backup): that is put down there, and nobody claims anything
   in it before somebody has acknowledged it.
3. The newest number is acknowledged, or in doubt; never neither. A wait for a standby that somebody cancelled leaves
   doubt, though the server calls it a success.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from holdfast.core.entry import Entry, origin
from holdfast.errors import HoldfastError, RolledBack, Stopped, Unwritable
from holdfast.store.postgres_arrays import byteas, int8s, texts
from holdfast.store.postgres_batch import Batch, Head, Owner
from holdfast.store.postgres_guard import Guard
from holdfast.store.postgres_leaves import ACCEPT, MARK
from holdfast.store.postgres_pruning import PLACE
from holdfast.store.postgres_schema import LOCK_S, STALE, Server, lost, opened, place_of, translate
from holdfast.store.postgres_ways import Connection, found, warnings_of
from holdfast.store.worker import Worker

PAUSE_S = (0.05, 1.0)
FORGOTTEN = "7 days"  # of silence, after which a worker that holds nothing is struck out
_STANDING = (
    "SELECT s.*, (SELECT m.value FROM holdfast.meta m WHERE m.name = 'rolled_back')"
    " FROM holdfast.standing_1(%b, %b, %b) s"
)
_THERE = (
    "SELECT b.name, e.seq FROM unnest(%b, %b, %b) AS s(name, seq, digest)"
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
    " RETURNING (extract(epoch FROM clock_timestamp()) * 1000)::float8"
)
_LANE = (
    "WITH s AS (SELECT set_config('synchronous_commit', %s, true), set_config('lock_timeout', %s, true))"
    " UPDATE holdfast.worker SET lane = lane + 1, seen_at = clock_timestamp() FROM s WHERE id = %s"
    " RETURNING lane, batch"
)
_LEAVE = (  # the branches in the order in which everybody locks them
    "WITH mine AS MATERIALIZED (SELECT id FROM holdfast.branch WHERE worker = %s ORDER BY id FOR NO KEY UPDATE),"
    " freed AS (UPDATE holdfast.branch b SET worker = NULL FROM mine WHERE b.id = mine.id)"
    " DELETE FROM holdfast.worker WHERE id = %s"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """How branches stand: their heads, who holds them, and which of the entries are there that were
    asked about."""

    heads: list[Head]
    owners: dict[str, Owner]
    there: frozenset[tuple[str, int]]


class Lane:
    """The writing connection of `worker`. Used by one thread at a time. Raises Stopped where the server cannot be used;
    its methods raise psycopg.Error where nothing else is said."""

    def __init__(self, conninfo: str, worker: Worker, guard: Guard) -> None:
        self.where = place_of(conninfo)
        self.in_doubt: int | None = None
        self.silent_since = time.monotonic()
        self._conninfo = conninfo
        self._worker = worker
        self._guard = guard
        self._number, self._next, self._acknowledged = 1, 0, 0
        self._flushed = 0  # the newest number that was acknowledged with a barrier
        self._warnings: list[str] = []
        self._ahead_ms = 0.0  # of the database's clock before the monotonic one of this process
        self.compare: Callable[[], RolledBack | None] = lambda: None  # with what is known elsewhere of the log
        try:
            self._connection, self._timeline = self._connected()
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

    def _connected(self) -> tuple[Connection, int]:
        connection, timeline = found(self._conninfo)
        self._warnings = warnings_of(connection)
        self._cursor = connection.cursor(binary=True)  # kept: to make one costs as much as to use it
        return connection, timeline

    def _enrol(self) -> None:
        me = self._worker
        with self._guard.over(self._connection):
            self._connection.execute(_STRIKE, (FORGOTTEN,))
            self._connection.execute(_ENROL, (me.id, me.place, me.pid, me.born, me.host))
            self._see_clock(self._connection.execute(_CLOCK).fetchall()[0][0])

    def _ask(self, sql: LiteralString, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """The rows that a statement gives. Raises psycopg.Error, also if no answer comes, or one that says that it was
        not waited for a standby."""
        self._warnings.clear()
        with self._guard.over(self._connection):
            rows = self._cursor.execute(sql, values).fetchall()
        if self._warnings:
            self._connection.close()
            raise psycopg.OperationalError(f"it is in doubt what was done: {self._warnings[0]}")
        return rows

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

    # --- one batch ---

    def standing(self, names: list[str], known: Collection[str], stands_on: Sequence[Entry]) -> Standing:
        """How branches stand. Those that are not `known` are made if need be, empty. Raises RolledBack if somebody has
        found that entries are gone."""
        there: frozenset[tuple[str, int]] = frozenset()
        if stands_on:
            branches, seqs = [entry.branch for entry in stands_on], [entry.seq for entry in stands_on]
            asked = (texts(branches), int8s(seqs), byteas([entry.digest for entry in stands_on]))
            there = frozenset((row[0], row[1]) for row in self._ask(_THERE, asked))
        fresh = [name for name in names if name not in known]
        values = (texts(names), texts(fresh), byteas([origin(name) for name in fresh]))
        rows = self._ask(_STANDING, values)
        self._see_clock(rows[0][13])
        if rows[0][14] is not None:
            raise RolledBack(rows[0][14], where=self.where, fix=ACCEPT)
        heads = [Head(*row[:8], found=(row[2], row[6], row[7])) for row in rows]
        owners = {row[7]: Owner(Worker(row[7], *row[8:12]), row[12]) for row in rows if row[8] is not None}
        return Standing(heads, owners, there)

    def place(self, batch: Batch, *, flush: bool) -> frozenset[str]:
        """Write a batch, and commit it, in one round trip. The answer is empty, or the branches that are not as the
        batch takes them: then nothing was written."""
        self._next += 1
        durability = self.server.barrier if flush else self.server.lazy
        values = batch.values(self._worker.id, self._number, self._next, durability)
        self.in_doubt = self._next
        try:
            ((now_ms,),) = self._ask(PLACE, values)
        except psycopg.Error as error:
            if self.lost(error):
                raise
            self.in_doubt = None
            if error.diag.sqlstate != STALE:
                raise
            moved = (error.diag.message_detail or "").split(",")
            return frozenset(head.name for head in batch.heads.values() if str(head.id) in moved)
        self.in_doubt, self._acknowledged, self.silent_since = None, self._next, time.monotonic()
        if flush or self.server.lazy == self.server.barrier:
            self._flushed = self._next
        self._see_clock(now_ms)
        return frozenset()

    # --- another connection ---

    def renew(self, until: float) -> bool:
        """Take the next lane, on a connection of its own, so that nothing that was sent before is written from now on;
        whether the batch in doubt was written. Raises Stopped if the server cannot be reached until `until` (monotonic,
        s), Forgotten if it has lost what it had acknowledged, RolledBack if what it had flushed."""
        self._connection.close()
        pause_s, longest_s = PAUSE_S
        while True:
            try:
                self._connection, timeline = self._connected()
                values = (self.server.barrier, f"{LOCK_S}s", self._worker.id)
                rows = self._ask(_LANE, values)
                self._agree(rows, promoted=timeline != self._timeline)
                break
            except HoldfastError:
                self._connection.close()
                raise
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
        self._timeline, (self._number, newest) = timeline, rows[0]
        written = newest == self.in_doubt
        self._acknowledged, self.in_doubt = newest, None
        return written

    def _agree(self, rows: list[tuple[Any, ...]], *, promoted: bool) -> None:
        """Whether this server has all that was flushed, as far as this worker can tell; else it is put down there.
        `promoted`: its timeline is another one. Raises RolledBack, psycopg.Error."""
        wrong: RolledBack | None = None
        if rows:
            older = rows[0][0] <= self._number or (rows[0][1] < self._flushed and rows[0][1] != self.in_doubt)
        else:
            older = promoted and self._flushed > 0
        if older:
            wrong = RolledBack("the database has lost entries that were flushed", where=self.where, fix=ACCEPT)
        elif promoted:
            wrong = self.compare()
        if wrong is not None:
            self._ask(MARK, (f"{wrong.what}; noticed by process {self._worker.pid} on {self._worker.host}",))
            raise wrong

    def _away(self, error: psycopg.Error) -> Stopped:
        refusal = translate(error, self.where)
        return refusal if isinstance(refusal, Stopped) else Unwritable(refusal.what, where=self.where)

    def beat(self) -> None:
        """Show that the worker lives."""
        ((now_ms,),) = self._ask(_BEAT, (self._worker.id, self._number)) or [(self.now_ms(),)]
        self._see_clock(now_ms)
        self.silent_since = time.monotonic()

    def leave(self) -> None:
        """Give back what the worker holds, and strike it out."""
        with self._guard.over(self._connection):
            self._connection.execute(_LEAVE, (self._worker.id, self._worker.id))

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


class Forgotten(Unwritable):
    """The server has lost what it had acknowledged."""
