"""Group commit on PostgreSQL: one lane, used by whoever holds its lock, for all who wait.

Rules
1. A batch is whatever queued while the one before was on its way: one statement, which is one transaction. It costs one
   round trip where all heads that it rests on were remembered, and two where they had to be read.
2. No lock is held between the two: the statement that writes locks the branches, and writes only if they are as the
   batch takes them. If some have moved on, what concerns those is decided anew.
3. An error is told only from heads that were read for it, never from what was remembered.
4. A batch of which nobody knows what became of it is looked up. It is sent again only once it can never be written any
   more; and if nobody can be asked, this store writes nothing from then on.
5. A barrier commits with synchronous_commit on, which makes everything before it durable too; anything else with it
   off, which a killed client does not lose.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator

import psycopg

from holdfast.errors import HoldfastError, Misuse, RolledBack, Stopped, Unwritable
from holdfast.store.postgres_batch import Batch, Head, Job
from holdfast.store.postgres_guard import Guard
from holdfast.store.postgres_lane import Forgotten, Lane
from holdfast.store.postgres_schema import translate
from holdfast.store.worker import Worker

BATCH = 512
AHEAD = 64  # jobs of one turn of a loop that do not wait for its end: written while the others are thought up
BATCH_BYTES = 16 << 20  # of a gigabyte that PostgreSQL takes in one message
REMEMBERED = 50_000  # heads
IDLE_BEAT_S = 3600.0
LOSSES = 4  # of the connection, with one batch
HASTY = 8  # tries of one batch, before it is less in a hurry
PAUSE_S = 0.01


class PostgresCommitter:
    """The writing side of one store. `busy`: whether this worker holds anything, so that it must show that it lives.
    `patience_s`: for how long a server that is away is waited for."""

    def __init__(self, conninfo: str, worker: Worker, guard: Guard, *, beat_s: float, patience_s: float) -> None:
        self.failed: Stopped | None = None
        self.busy: Callable[[], bool] = lambda: False
        self.lane = Lane(conninfo, worker, guard)
        self.where = self.lane.where
        self._beat_s, self._patience_s = beat_s, patience_s
        self._sent: list[Job] = []  # of the batch in doubt
        self._heads: dict[str, Head] = {}
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._asked = self._done = 0
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._ready: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        self._thread = threading.Thread(target=self._run, name="holdfast postgres", daemon=True)
        self._thread.start()

    # --- the two ways in ---

    def now(self, job: Job) -> bool:
        """Write a job on the calling thread, if nobody else is writing; whether that was done. If the connection is
        lost meanwhile, it was not: then the thread finds out what became of it."""
        self._same_process()
        if self._asked != self._done or not self._lock.acquire(blocking=False):
            return False
        try:
            if self._asked != self._done or self.failed or self.lane.closed or self.lane.in_doubt:
                return False
            if self._transact([job]):
                return False
        except psycopg.Error as error:
            self.lane.lost(error)
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
        if not self._thread.is_alive():
            raise Unwritable("the store is closed", where=self.where, fix="open it anew")
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
            if len(ready) == AHEAD:
                self._send(loop)
        return job.future

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        if (ready := self._ready.pop(loop, None)) is not None:
            self._queue.put(ready)

    @property
    def queued(self) -> int:
        """How many appends were asked for and are not written yet."""
        return self._asked - self._done

    @property
    def waiting(self) -> bool:
        """Whether anything that was asked for is not written yet."""
        return self._asked != self._done

    def _same_process(self) -> None:
        if os.getpid() != self._pid:
            raise Unwritable(
                "the store was opened before this process was forked", where=self.where, fix="open it anew"
            )

    def close(self) -> None:
        """Write what waits, give back what is claimed, and close the connection. Idempotent."""
        if os.getpid() == self._pid and self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    # --- the thread ---

    def _run(self) -> None:
        going = True
        while going:
            jobs: list[Job] = []
            with contextlib.suppress(queue.Empty):
                taken = self._queue.get(timeout=self._beat_s)
                while taken is not None:
                    jobs += taken
                    taken = self._queue.get_nowait()
                going = False
            for batch in _batches(jobs):
                self._finish(batch)
            if going:
                self._beat()
        with self._lock, contextlib.suppress(psycopg.Error):
            if self.failed is None and not self.lane.closed:
                self.lane.leave()
        self.lane.close()

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
        silent_s = time.monotonic() - self.lane.silent_since
        if self.failed or silent_s < (self._beat_s if self.busy() else IDLE_BEAT_S):
            return
        if not self._lock.acquire(blocking=False):
            return  # whoever writes now shows it too
        try:
            if self.lane.closed and not self.lane.in_doubt:
                self.lane.renew(time.monotonic())  # once: whoever wants to write will have more patience
            self.lane.beat()
        except psycopg.Error as error:
            self.lane.lost(error)
        except (Forgotten, RolledBack) as error:
            self.failed = error
        except Stopped:
            pass
        finally:
            self._lock.release()

    # --- one batch ---

    def _settle(self, jobs: list[Job]) -> None:
        """Write `jobs`; afterwards each has its result or its error. Raises Stopped if the server stays away."""
        until = time.monotonic() + self._patience_s
        groups, tries, losses = [jobs], 0, 0
        while groups:
            if self.failed is not None:
                raise self.failed
            group = groups.pop()
            if self.lane.closed or self.lane.in_doubt:
                group = self._looked_up(group, until)
            if not group:
                continue
            try:
                groups += self._transact(group)
            except psycopg.Error as error:
                losses += self.lane.lost(error)
                if self.lane.closed and losses <= LOSSES:
                    groups.append(group)
                    continue
                if self.lane.closed:  # it is what was sent that costs the connection, again and again
                    losses, group = 0, self._looked_up(group, until)
                groups += self._refused(group, error)
            if (tries := tries + 1) > HASTY:
                time.sleep(random.random() * PAUSE_S)

    def _looked_up(self, jobs: list[Job], until: float) -> list[Job]:
        """Connect anew; what is left to do of `jobs`, now that it is known what became of the batch in doubt."""
        self._heads.clear()
        try:
            written = self.lane.renew(until)
        except Stopped as error:
            if self.lane.in_doubt or isinstance(error, Forgotten | RolledBack):
                self.failed = error
            raise
        return [job for job in jobs if job not in self._sent] if written else jobs

    def _transact(self, jobs: list[Job]) -> list[list[Job]]:
        """One transaction for all of `jobs`. What is to be done anew, the last group first: those whose branches have
        moved on meanwhile, after those that have nothing to do with them."""
        self._sent = jobs
        batch = self._guessed(jobs) or self._judged(jobs)
        if batch is None:
            return []
        moved = self.lane.place(batch, flush=any(job.barrier for job in jobs))
        if moved:
            for name in moved:
                self._heads.pop(name, None)
            return _parted(jobs, set(moved))
        if len(self._heads) > REMEMBERED:
            self._heads.clear()
        self._heads.update((head.name, head.copied()) for head in batch.heads.values())
        return []

    def _judged(self, jobs: list[Job]) -> Batch | None:
        """A batch on the heads as they are read now; None if every job was refused."""
        names = sorted({name for job in jobs for name in job.branches})
        stands_on = [job.stands_on for job in jobs if job.stands_on is not None]
        try:
            standing = self.lane.standing(names, self._heads.keys(), stands_on)
        except RolledBack as error:
            self.failed = error
            raise
        batch = Batch(standing.heads, self.lane.now_ms(), standing.owners, standing.there)
        return batch if sum(job.fill(batch) for job in jobs) else None

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
        batch = Batch(heads.values(), self.lane.now_ms())
        return batch if all(job.fill(batch) for job in jobs) else None

    def _refused(self, jobs: list[Job], error: psycopg.Error) -> list[list[Job]]:
        """The database refused a batch: each of its jobs is tried alone, so that only those fail that must."""
        self._heads.clear()
        if len(jobs) != 1:
            return [[job] for job in reversed(jobs)]
        if isinstance(error, psycopg.DataError):
            jobs[0].error = Misuse(f"it cannot be written: {error}", where=self.where)
        else:
            jobs[0].error = translate(error, self.where)
        return []


def _batches(jobs: list[Job]) -> Iterator[list[Job]]:
    """As many at a time as one statement should carry."""
    batch: list[Job] = []
    size = 0
    for job in jobs:
        if batch and (len(batch) == BATCH or size + job.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += job.size
    if batch:
        yield batch


def _parted(jobs: list[Job], moved: set[str]) -> list[list[Job]]:
    """Those that have to do with branches that have moved on, by way of others or not; and before them the rest."""
    heated: list[Job] = []
    calm = jobs
    while found := [job for job in calm if not moved.isdisjoint(job.branches)]:
        moved.update(name for job in found for name in job.branches)
        heated += found
        calm = [job for job in calm if job not in found]
    return [[job for job in jobs if job in heated], calm] if calm else [jobs]


def _wake(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future is not None and not job.future.done():
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
