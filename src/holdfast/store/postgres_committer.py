"""One writing connection to PostgreSQL, used by whoever holds its lock, and group commit for all who wait.

Rules
1. A batch is whatever queued while the one before was on its way: one transaction, and one round trip where all heads
   that it rests on were remembered; two where they had to be read. The function that writes it looks at all of them
   again, under their locks.
2. A transaction that holds locks while this process computes is taken from it after IDLE_S, so a stopped process keeps
   nobody waiting for long.
3. Each batch writes its number beside the worker's name. When a connection is lost, the next one raises the worker's
   lane and reads that number: a batch that was not written by then never will be, and only then it is sent again.
4. A barrier commits with synchronous_commit on, which makes everything before it durable too; anything else with it off.
   If the server was killed and lost what was not flushed, that is noticed by the number, and this store writes no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from holdfast.core.entry import origin
from holdfast.errors import HoldfastError, Misuse, Stopped, Unwritable
from holdfast.store.postgres_batch import Batch, Head, Job, Owner
from holdfast.store.postgres_schema import IDLE_S, LOCK_S, STALE, connect, lost, opened, place_of, translate
from holdfast.store.worker import Worker

BATCH = 512
REMEMBERED = 50_000  # heads
PAUSE_S = (0.05, 1.0)
IDLE_BEAT_S = 3600.0
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
class _Sent:
    """A batch of which it is not known yet whether it was written."""

    number: int
    batch: Batch
    jobs: list[Job]


class PostgresCommitter:
    """The writing side of one store. `busy`: whether this worker holds anything, so that it must show that it lives.
    `patience_s`: for how long a server that is away is waited for."""

    def __init__(self, conninfo: str, worker: Worker, *, beat_s: float, patience_s: float) -> None:
        self.where = place_of(conninfo)
        self.failed: Stopped | None = None
        self.busy: Callable[[], bool] = lambda: False
        self._conninfo = conninfo
        self._worker = worker
        self._beat_s, self._patience_s = beat_s, patience_s
        self._lane, self._number, self._acknowledged = 1, 0, 0
        self._in_doubt: _Sent | None = None
        self._heads: dict[str, Head] = {}
        self._ahead_ms = 0.0  # of the database's clock before the monotonic one of this process
        self._beaten_at = time.monotonic()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._asked = self._done = 0
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._ready: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        try:
            self._connection = connect(conninfo)
        except psycopg.Error as error:
            raise translate(error, self.where) from error
        try:
            self.server = opened(self._connection, self.where)
            self._enrol()
        except BaseException as error:
            self._connection.close()
            if isinstance(error, psycopg.Error):
                raise translate(error, self.where) from error
            raise
        self._thread = threading.Thread(target=self._run, name="holdfast postgres", daemon=True)
        self._thread.start()

    def _enrol(self) -> None:
        me = self._worker
        self._connection.execute(_STRIKE, (FORGOTTEN,))
        self._connection.execute(_ENROL, (me.id, me.place, me.pid, me.born, me.host))
        self._see_clock(self._connection.execute(_CLOCK).fetchall()[0][0])

    def _see_clock(self, now_ms: float) -> None:
        self._ahead_ms = now_ms - time.monotonic() * 1000

    # --- the two ways in ---

    def now(self, job: Job) -> bool:
        """Write a job on the calling thread, if nobody else is writing; whether that was done. If the connection is lost
        meanwhile, it was not, and the thread finds out what became of it."""
        self._same_process()
        if self._asked != self._done or not self._lock.acquire(blocking=False):
            return False
        try:
            if self._asked != self._done or self.failed is not None or self._in_doubt is not None:
                return False
            try:
                self._transact([job])
            except (psycopg.Error, HoldfastError):
                return False
        finally:
            self._lock.release()
        if job.error is not None:
            raise job.error
        return True

    def soon(self, job: Job) -> asyncio.Future[object]:
        """Write a job with whatever else waits. To be awaited: it raises what the job raised, or why nothing could be
        written."""
        self._same_process()
        loop = asyncio.get_running_loop()
        job.future = loop.create_future()
        with self._counting:
            self._asked += 1
        ready = self._ready.get(loop)
        if ready is None:
            self._ready[loop] = [job]
            loop.call_soon(self._send, loop)  # after everybody who is ready to write in this turn
        else:
            ready.append(job)
        return job.future

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        self._queue.put(self._ready.pop(loop))

    @property
    def waiting(self) -> bool:
        """Whether anything that was asked for is not written yet."""
        return self._asked != self._done

    def _same_process(self) -> None:
        if os.getpid() != self._pid:
            raise Unwritable("the store was opened before this process was forked", where=self.where, fix="open it anew")

    def close(self) -> None:
        """Write what waits, give back what is claimed, and close the connection. Idempotent."""
        if os.getpid() == self._pid and self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    # --- the thread ---

    def _run(self) -> None:
        open_ = True
        while open_:
            jobs: list[Job] = []
            with contextlib.suppress(queue.Empty):
                taken = self._queue.get(timeout=self._beat_s)
                while taken is not None:
                    jobs += taken
                    taken = self._queue.get_nowait()
                open_ = False
            for first in range(0, len(jobs), BATCH):
                self._finish(jobs[first : first + BATCH])
            if open_:
                self._beat()
        with self._lock:
            self._leave()

    def _finish(self, jobs: list[Job]) -> None:
        """Write a batch, and tell whoever waits. Never raises: this thread must outlive everything."""
        with self._lock:
            try:
                self._settle(jobs)
            except Exception as error:  # noqa: BLE001 - nobody else would hear of it
                for job in jobs:
                    job.error = error if isinstance(error, HoldfastError) else self._broken(error)
        with self._counting:
            self._done += len(jobs)
        for loop in {job.future.get_loop() for job in jobs if job.future is not None}:
            with contextlib.suppress(RuntimeError):  # a loop that has closed since has nobody left to tell
                loop.call_soon_threadsafe(_wake, [job for job in jobs if job.future and job.future.get_loop() is loop])

    def _broken(self, error: Exception) -> Stopped:
        self.failed = Unwritable(f"the store failed inside: {type(error).__name__}: {error}", where=self.where)
        return self.failed

    def _beat(self) -> None:
        """Show that this worker lives."""
        silent_s = time.monotonic() - self._beaten_at
        if self.failed or silent_s < (self._beat_s if self.busy() else IDLE_BEAT_S) or not self._lock.acquire(timeout=0):
            return
        try:
            self._connection.execute(_BEAT, (self._worker.id, self._lane))
            self._see_clock(self._connection.execute(_CLOCK).fetchall()[0][0])
            self._beaten_at = time.monotonic()
        except psycopg.Error:
            with contextlib.suppress(HoldfastError, psycopg.Error):
                if self._in_doubt is None and self._connection.closed:
                    self._reconnect(time.monotonic())  # once: whoever wants to write will have more patience
        finally:
            self._lock.release()

    def _leave(self) -> None:
        with contextlib.suppress(psycopg.Error):
            if self.failed is None and not self._connection.closed:
                with self._connection.transaction():
                    me = (self._worker.id,)
                    self._connection.execute("UPDATE holdfast.branch SET worker = NULL WHERE worker = %s", me)
                    self._connection.execute("DELETE FROM holdfast.worker WHERE id = %s", me)
        self._connection.close()

    # --- one batch ---

    def _settle(self, jobs: list[Job]) -> None:
        """Write `jobs`; afterwards each has its result or its error. Raises Stopped if the server stays away."""
        until = time.monotonic() + self._patience_s
        while jobs:
            if self.failed is not None:
                raise self.failed
            try:
                if self._connection.closed or self._in_doubt is not None:
                    self._reconnect(until)
                    jobs = self._without_written(jobs)
                    continue
                return self._transact(jobs)
            except psycopg.Error as error:
                if not lost(self._connection, error):
                    return self._refuse(jobs, error)
                self._connection.close()

    def _without_written(self, jobs: list[Job]) -> list[Job]:
        """What is left to do of `jobs`, now that it is known what became of the batch in doubt."""
        sent, self._in_doubt = self._in_doubt, None
        self._heads.clear()
        if sent is None or sent.number != self._acknowledged:
            return jobs
        return [job for job in jobs if job not in sent.jobs]

    def _reconnect(self, until: float) -> None:
        """Take the next lane, so that nothing that was sent before is written from now on. Raises Stopped if the server
        cannot be reached until then, or has lost what it had acknowledged."""
        self._connection.close()
        pause_s, longest_s = PAUSE_S
        while True:
            try:
                self._connection = connect(self._conninfo)
                rows = self._next_lane()
                break
            except psycopg.Error as error:
                self._connection.close()
                if time.monotonic() >= until:
                    raise self._away(error) from error
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, longest_s)
        expected = self._in_doubt.number if self._in_doubt is not None else self._acknowledged
        if not rows or rows[0][1] not in (self._acknowledged, expected):
            self.failed = Unwritable(
                "PostgreSQL was killed, or put back, and lost entries that it had not flushed",
                where=self.where,
                fix="resume the runs: they go on from what is there",
            )
            raise self.failed
        self._lane, self._acknowledged = rows[0]

    def _next_lane(self) -> list[tuple[Any, ...]]:
        with self._connection.transaction():
            self._guard(self.server.barrier)
            return self._connection.execute(_LANE, (self._worker.id,)).fetchall()

    def _away(self, error: psycopg.Error) -> Stopped:
        """Nobody answers. Whether a batch in doubt was written cannot be told, so nothing may follow it."""
        refusal = translate(error, self.where)
        stopped = refusal if isinstance(refusal, Stopped) else Unwritable(refusal.what, where=self.where)
        if self._in_doubt is not None:
            self.failed = stopped
        return stopped

    def _transact(self, jobs: list[Job]) -> None:
        """One transaction for all of `jobs`."""
        batch = self._guessed(jobs)
        if batch is not None:
            try:
                return self._write(batch, jobs)
            except psycopg.Error as error:
                if error.diag.sqlstate != STALE:
                    raise
                self._in_doubt = None
        self._carefully(jobs)

    def _guessed(self, jobs: list[Job]) -> Batch | None:
        """A batch on the heads as they are remembered; None if some are not, or if any job does not get on with
        them."""
        heads: dict[str, Head] = {}
        for job in jobs:
            for name in job.branches:
                head = self._heads.get(name)
                if head is None or job.looks:
                    return None
                heads[name] = head
        batch = Batch(heads.values(), int(time.monotonic() * 1000 + self._ahead_ms))
        return batch if all([job.fill(batch) for job in jobs]) else None

    def _carefully(self, jobs: list[Job]) -> None:
        """Lock the branches, read how they stand, and write what then holds."""
        names = sorted({name for job in jobs for name in job.branches})
        durability = self._durability(jobs)
        with self._or_rollback():
            with self._connection.pipeline():
                self._connection.execute("BEGIN")
                self._guard(durability)
                fresh = [name for name in names if name not in self._heads]
                if fresh:
                    self._connection.execute(_BRANCH, (fresh, [origin(name) for name in fresh]))
                self._connection.execute(_LOCK, (names,))
                found = self._connection.execute(_HEADS, (names,), binary=True)
                stands_on = [job.stands_on for job in jobs if job.stands_on is not None]
                asked = ([e.branch for e in stands_on], [e.seq for e in stands_on], [e.digest for e in stands_on])
                there = self._connection.execute(_THERE, asked) if stands_on else None
                clock = self._connection.execute(_CLOCK)
            heads, owners = _standing(found.fetchall())
            self._see_clock(clock.fetchall()[0][0])
            now_ms = int(time.monotonic() * 1000 + self._ahead_ms)
            batch = Batch(heads, now_ms, owners, frozenset((r[0], r[1]) for r in there.fetchall()) if there else frozenset())
            if any([job.fill(batch) for job in jobs]):
                self._write(batch, jobs, begun=True)
            else:
                self._connection.execute("ROLLBACK")

    def _write(self, batch: Batch, jobs: list[Job], *, begun: bool = False) -> None:
        """Send a batch, with its commit."""
        self._number += 1
        values = batch.values(self._worker.id, self._lane, self._number, self._durability(jobs))
        self._in_doubt = _Sent(self._number, batch, jobs)
        if begun:
            with self._connection.pipeline():
                written = self._connection.execute(_PLACE, values)
                self._connection.execute("COMMIT")
        else:
            written = self._connection.execute(_PLACE, values)
        self._in_doubt, self._acknowledged, self._beaten_at = None, self._number, time.monotonic()
        self._see_clock(written.fetchall()[0][0])
        if len(self._heads) > REMEMBERED:
            self._heads.clear()
        self._heads.update((head.name, head.copied()) for head in batch.heads.values())

    def _durability(self, jobs: list[Job]) -> str:
        return self.server.barrier if any(job.barrier for job in jobs) else self.server.lazy

    def _guard(self, durability: str) -> None:
        self._connection.execute(_GUARD, (f"{LOCK_S}s", f"{IDLE_S}s", durability))

    @contextlib.contextmanager
    def _or_rollback(self) -> Any:
        try:
            yield
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        with contextlib.suppress(psycopg.Error):
            if not self._connection.closed and self._connection.info.transaction_status != TransactionStatus.IDLE:
                self._connection.execute("ROLLBACK")

    def _refuse(self, jobs: list[Job], error: psycopg.Error) -> None:
        """The database refused a batch: each of its jobs is tried alone, so that only those fail that must."""
        self._in_doubt = None
        self._heads.clear()
        self._rollback()
        if len(jobs) > 1:
            for job in jobs:
                self._settle([job])
            return
        bad = isinstance(error, psycopg.DataError)
        jobs[0].error = Misuse(f"it cannot be written: {error}", where=self.where) if bad else translate(error, self.where)


def _standing(rows: list[tuple[Any, ...]]) -> tuple[list[Head], dict[str, Owner]]:
    """The heads of branches, and who holds them."""
    heads = [Head(*row[:8], found=(row[2], row[6], row[7])) for row in rows]
    owners = {row[7]: Owner(Worker(row[7], *row[8:12]), row[12]) for row in rows if row[8] is not None}
    return heads, owners


def _wake(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future is not None and not job.future.done():
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
