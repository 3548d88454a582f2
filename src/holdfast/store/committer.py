"""One writing connection, used by whoever holds its lock, and group commit for all who wait.

Rules
1. Every transaction is BEGIN IMMEDIATE; claims and positions are checked inside it.
2. A batch is whatever queued while the last commit ran. If it fails for a reason of one job, each job is tried alone.
3. A barrier commits at synchronous=FULL, which makes everything before it durable too; anything else at NORMAL. What is
   committed and not flushed is flushed within a second.
4. After a failed write nothing is certain but what was acknowledged: only a full disk may be tried again.
5. A job raises a HoldfastError only before its first write, so that it can be left out of a batch without harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from holdfast.errors import HoldfastError, Stopped, Unwritable
from holdfast.store.reserve import Reserve
from holdfast.store.schema import UNREADABLE, connect, migrate, translate
from holdfast.store.wal import WriteAheadLog

BATCH = 1024
LOCK_S = 0.01  # longer than any commit on a caller's thread takes


@dataclass(slots=True, eq=False)
class Job:
    """One unit of work inside a transaction; `urgent` work (a seal) may use the reserved space of a full disk."""

    work: Callable[[apsw.Connection], object]
    barrier: bool = False
    urgent: bool = False
    future: asyncio.Future[object] | None = None
    result: object = None
    error: BaseException | None = field(default=None)


@dataclass(slots=True, eq=False)
class _Lane:
    """The jobs of one event loop that wait for the batch before them."""

    ready: list[Job] = field(default_factory=list[Job])
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs of one transaction, on their way to the committing thread; `filled`: only the commit is left to do."""

    jobs: list[Job]
    barrier: bool
    filled: bool
    loop: asyncio.AbstractEventLoop
    lane: _Lane


class _Nudge:
    """The write-ahead log has grown long, and nothing else would wake the thread."""


class Committer:
    """The writing side of one SQLite store.

    Inside each transaction: `changed` first, if another process has written since; `seal_batch` last. `flushed` after a
    barrier has succeeded. `unsigned`: whether there is anything to seal. `beat` about once
    every `flush_s`, and at the end, outside any transaction, in the committing thread."""

    def __init__(self, path: Path, flush_s: float, *, new: bool = True) -> None:
        self.path = path
        self.connection = connect(path, writer=True)
        try:
            self.log_id = migrate(self.connection, path, new=new)
        except BaseException:
            self.connection.close()
            raise
        self.failed: Stopped | None = None
        self.changed: Callable[[], None] = _nothing
        self.seal_batch: Callable[[apsw.Connection, bool], None] = _no_seal
        self.unsigned: Callable[[], bool] = _never
        self.flushed: Callable[[], None] = _nothing
        self.closing = False
        self.beat: Callable[[], None] = _nothing
        self._flush_s = flush_s
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Batch | _Nudge | None] = queue.SimpleQueue()
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane] = weakref.WeakKeyDictionary()
        self._counting = threading.Lock()
        self._sent = 0
        self._done = 0
        self._full: bool = True
        self._nudged = False
        self._version = -1
        self._unflushed = False
        self._ticked_at = time.monotonic()
        self.reserve = Reserve(path)
        self._wal = WriteAheadLog(self.connection, path)
        self._thread = threading.Thread(target=self._run, name=f"holdfast {path.name}", daemon=True)

    def start(self) -> None:
        """From now on commit, flush and beat: everything that is called from the thread must be in its place."""
        self._thread.start()

    # --- the two ways in ---

    def now(self, job: Job) -> bool:
        """Commit a job on the calling thread, if nobody else is writing; whether that was done."""
        self._same_process()
        if self._sent != self._done or not self._lock.acquire(blocking=False):
            return False
        try:
            if self._sent != self._done:
                return False
            self.connection.set_busy_timeout(0)
            try:
                self._transact([job], job.barrier)
            except apsw.BusyError:
                return False
            finally:
                self.connection.set_busy_timeout(30_000)
        finally:
            self._lock.release()
        if self._wal.long and not self._nudged:
            self._nudged = True
            self._queue.put(_Nudge())
        if job.error is not None:
            raise job.error
        return True

    def soon(self, job: Job) -> asyncio.Future[object]:
        """Commit a job with whatever else waits. To be awaited: it raises what the job raised, or why nothing could be
        written."""
        self._same_process()
        loop = asyncio.get_running_loop()
        job.future = loop.create_future()
        lane = self._lanes.get(loop)
        if lane is None:
            lane = self._lanes[loop] = _Lane()
        with self._counting:
            self._sent += 1
        lane.ready.append(job)
        if not lane.busy:
            lane.busy = True
            loop.call_soon(self._lead, loop, lane)  # after everybody who is ready to write in this turn
        return job.future

    def _lead(self, loop: asyncio.AbstractEventLoop, lane: _Lane) -> None:
        """Do the work of a batch here, where nobody contends for the interpreter, and leave the flush to the thread. If
        the database is not free, or anything goes wrong, the thread does all of it."""
        jobs, lane.ready = lane.ready[:BATCH], lane.ready[BATCH:]
        barrier = any(job.barrier for job in jobs)
        self._queue.put(Batch(jobs, barrier, self._filled(jobs, barrier), loop, lane))

    def _filled(self, jobs: list[Job], barrier: bool) -> bool:
        """Whether the transaction of these jobs is ready to commit. Then, and only then, the lock is held."""
        if self.failed is not None or not self._lock.acquire(blocking=False):
            return False
        filled = False
        try:
            self.connection.set_busy_timeout(0)
            self._fill(jobs, barrier)
            filled = True
        except Exception:  # noqa: BLE001 - rolled back: the thread tries again, and finds out what to say
            filled = False
        finally:
            with contextlib.suppress(apsw.Error):
                self.connection.set_busy_timeout(30_000)
            if not filled:
                self._lock.release()
        return filled

    def _landed(self, batch: Batch) -> None:
        """Back in the loop: tell everybody, and lead the next batch if there is one."""
        _wake(batch.jobs)
        if batch.lane.ready:
            batch.loop.call_soon(self._lead, batch.loop, batch.lane)
        else:
            batch.lane.busy = False

    @property
    def queued(self) -> int:
        """How many appends were asked for and are not committed yet."""
        return self._sent - self._done

    @property
    def waiting(self) -> bool:
        """Whether anything that was asked for is not committed yet."""
        return self._sent != self._done

    def _same_process(self) -> None:
        if os.getpid() != self._pid:
            raise Unwritable(
                "the store was opened before this process was forked", where=str(self.path), fix="open it anew"
            )
        if self.closing and not self._thread.is_alive():  # nobody would ever commit it
            raise Unwritable("the store is closed", where=str(self.path), fix="open it anew")

    def close(self) -> None:
        """Commit what waits, flush, and close the connection. Idempotent."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        if os.getpid() == self._pid:
            self.connection.close()

    # --- the thread ---

    def _run(self) -> None:
        while not self.closing:
            batch: Batch | _Nudge | None = None
            with contextlib.suppress(queue.Empty):
                batch = self._queue.get(timeout=self._flush_s)
                self.closing = batch is None
            if isinstance(batch, _Nudge):
                self._checkpoint(wait_s=LOCK_S)
            elif batch is not None and not batch.filled and not self._lock.acquire(blocking=False):
                self._queue.put(batch)  # the lock may stand for a filled batch that waits behind this one
                time.sleep(0.0002)
                continue
            elif batch is not None:
                self._finish(batch)
            if self.closing or time.monotonic() - self._ticked_at >= self._flush_s:
                self._tick()

    def _finish(self, batch: Batch) -> None:
        """Commit what was filled, or do everything, under the lock that is held, and tell whoever waits; then, still
        under the lock, so that it does not go on growing, empty a long write-ahead log. Never raises."""
        try:
            self._commit(batch.jobs, batch.barrier, filled=batch.filled)
            self._done += len(batch.jobs)
            with contextlib.suppress(RuntimeError):  # a loop that has closed since has nobody left to tell
                batch.loop.call_soon_threadsafe(self._landed, batch)
            self._wal.empty()
        finally:
            self._lock.release()

    def _tick(self) -> None:
        """Flush what was committed without a barrier, and show that this process lives."""
        self._ticked_at = time.monotonic()
        if self.failed is None and (self._unflushed or self.unsigned()):
            if not self._lock.acquire(blocking=self.closing):
                return  # a filled batch waits for this thread; its own flush will do
            try:
                self._commit([Job(_touch, barrier=True)], barrier=True)
            finally:
                self._lock.release()
        self.beat()

    def _checkpoint(self, wait_s: float) -> None:
        """Empty a long write-ahead log, if the lock can be had. If not, the next commit asks again."""
        self._nudged = False
        if not self._lock.acquire(timeout=wait_s):
            return  # a filled batch waits for this thread, or a slow disk has the caller's
        try:
            self._wal.empty()
        finally:
            self._lock.release()

    def _commit(self, jobs: list[Job], barrier: bool, *, filled: bool = False) -> None:
        """As `_transact`, but never raises: the committing thread outlives every error."""
        try:
            self._transact(jobs, barrier, filled=filled)
        except Exception as error:  # noqa: BLE001 - this thread must outlive everything, and nobody else would hear of it
            refusal = translate(error, str(self.path)) if isinstance(error, apsw.Error) else error
            if not isinstance(error, apsw.BusyError):
                self.failed = Unwritable(f"the store failed inside: {type(error).__name__}", where=str(self.path))
            for job in jobs:
                job.error = refusal

    def _transact(self, jobs: list[Job], barrier: bool, *, filled: bool = False) -> None:
        """One transaction for all of `jobs`; afterwards each has its result or its error. `filled`: only the commit is
        left."""
        if self.failed is not None:
            for job in jobs:
                job.error = self.failed
            return
        try:
            if not filled:
                self._fill(jobs, barrier)
            self._land(barrier)
        except apsw.BusyError:
            raise
        except apsw.FullError as error:
            self._on_full(jobs, barrier, error)
        except (apsw.Error, ValueError, TypeError, OverflowError) as error:
            self._on_failure(jobs, error)

    def _fill(self, jobs: Sequence[Job], barrier: bool) -> None:
        """Begin a transaction and do everything in it but the commit. On any error it is rolled back."""
        connection = self.connection
        if barrier is not self._full:
            connection.execute("PRAGMA synchronous = FULL" if barrier else "PRAGMA synchronous = NORMAL")
            self._full = barrier
        connection.execute("BEGIN IMMEDIATE")
        with self._or_rollback():
            if barrier:
                self._wal.extend()
            version = connection.execute("PRAGMA data_version").fetchall()[0][0]
            if version != self._version:
                self._version = version
                self.changed()
            for job in jobs:
                job.error = None
                try:
                    job.result = job.work(connection)
                except HoldfastError as error:
                    job.error = error
            self.seal_batch(connection, barrier)

    def _land(self, barrier: bool) -> None:
        """Commit what was filled."""
        with self._or_rollback():
            self.connection.execute("COMMIT")
        self._unflushed = not barrier
        if barrier:
            self.flushed()

    @contextlib.contextmanager
    def _or_rollback(self) -> Generator[None, None, None]:
        try:
            yield
        except BaseException:
            self._version = -1
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _on_failure(self, batch: list[Job], error: Exception) -> None:
        """A job's own fault fails that job; the storage's fault fails all, and all that come after."""
        storage = isinstance(error, UNREADABLE) and not isinstance(error, apsw.ConstraintError | apsw.TooBigError)
        if storage:
            assert isinstance(error, UNREADABLE)
            refusal = translate(error, str(self.path))
            self.failed = refusal if isinstance(refusal, Stopped) else Unwritable(str(refusal))
        for job in batch:
            if storage:
                job.error = self.failed
            elif len(batch) == 1:
                job.error = translate(error, str(self.path)) if isinstance(error, apsw.Error) else error
            else:
                self._transact([job], job.barrier)

    # --- a full disk ---

    def _on_full(self, batch: list[Job], barrier: bool, error: apsw.FullError) -> None:
        """Seals of calls in flight go into the reserved space; nothing else does."""
        refusal = translate(error, str(self.path))
        urgent = [job for job in batch if job.urgent]
        for job in batch:
            job.error = None if job.urgent else refusal
        if urgent and self.reserve.spend():
            try:
                self._fill(urgent, barrier)
                self._land(barrier)
                return
            except apsw.Error:
                pass
        for job in urgent:
            job.error = refusal


def _nothing() -> None:
    return None


def _never() -> bool:
    return False


def _no_seal(_connection: apsw.Connection, _barrier: bool) -> None:
    return None


def _touch(connection: apsw.Connection) -> object:
    """A transaction that writes nothing flushes nothing."""
    return connection.execute("INSERT OR REPLACE INTO meta VALUES ('flushed', ?)", (str(time.time_ns()),)).fetchall()


def _wake(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future is not None and not job.future.done():
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
