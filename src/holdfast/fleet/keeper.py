"""Every worker keeps the fleet: it wakes what has become due, and finds those who have died or fallen silent.

Rules
1. A death is proven by a process of the same machine: the system says that the other one is gone. It is put down, so
   that a worker elsewhere may rest on it.
2. Silence proves nothing. After `silent_s` of it, by the database's clock, a worker's runs are looked at by others; the
   claim then says `unproven`, and what may still be sent waits for a person (G6).
3. All of this may be done by several at once, and twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

from holdfast.fleet.connector import Jobs
from holdfast.fleet.queue import Other, Queue
from holdfast.store.worker import Worker, dead, here

ROUND_S = 1.0
LEAST_S = 0.05


class Keeper:
    """Keeps the fleet for one worker. `silent_s`: how long a worker may be silent; `again` makes this one a member once
    more, after it was taken for gone; `tell` is given what has become of another."""

    def __init__(
        self,
        queue: Queue,
        jobs: Jobs,
        silent_s: float,
        again: Callable[[int], Awaitable[None]],
        tell: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._jobs = jobs
        self._silent_s = silent_s
        self._again = again
        self._tell = tell
        self._place = here().place
        self._watched: dict[str, int] = {}  # by a descriptor of their process
        self._buried: dict[str, str] = {}  # and the sign of life that was their last
        self._suspects: set[int] = set()
        self._nudge = asyncio.Event()

    async def keep(self) -> None:
        """Until it is cancelled. Raises Unwritable if the server stays away."""
        try:
            while True:
                next_s = await self.round()
                wait_s = ROUND_S if next_s is None else max(LEAST_S, min(ROUND_S, next_s))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._nudge.wait(), wait_s)
                self._nudge.clear()
        finally:
            for worker in list(self._watched):
                self._forget(worker)

    async def round(self) -> float | None:
        """Once; in how long something becomes due (s), if anything waits for its time."""
        next_s = await self._queue.due()
        others = await self._queue.others()
        for other in others:
            await self._look(other)
        there = {other.worker.id for other in others}
        for worker in self._watched.keys() - there:
            self._forget(worker)
        self._buried = {worker: seen for worker, seen in self._buried.items() if worker in there}
        await self._own()
        await self._queue.turn()
        return next_s

    async def _look(self, other: Other) -> None:
        worker = other.worker
        gone = dead(worker)
        if not gone:
            self._watch(worker)
            if other.silent_s <= self._silent_s:
                return
        if self._buried.get(worker.id) == other.seen and not (gone and other.enrolled):
            return
        if gone and worker.place == self._place:
            await self._queue.died(worker)
        runs = await self._queue.bury(worker.id)
        self._buried[worker.id] = other.seen
        how = "has died" if gone else f"has been silent for {other.silent_s:.0f} s"
        self._tell(f"worker {worker.host}:{worker.pid} {how}; its runs are looked at: {runs}")

    async def _own(self) -> None:
        """What this worker itself has lost: its place in the fleet, and answers that said what it was handed out."""
        number = self._jobs.number
        if number is None:
            return
        if not await self._queue.enrolled():
            await self._again(number)
        lost = set(await self._queue.tidy(self._jobs))
        again = lost & self._suspects
        self._suspects = lost - again
        if again:
            await self._queue.put_back(sorted(again), number)

    # --- deaths, at once ---

    def _watch(self, worker: Worker) -> None:
        """Be told by the system when a process of this machine ends."""
        if worker.id in self._watched or worker.place != self._place or not hasattr(os, "pidfd_open"):
            return
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(worker.pid)
            self._watched[worker.id] = descriptor
            asyncio.get_running_loop().add_reader(descriptor, self._ended, worker.id)

    def _ended(self, worker: str) -> None:
        self._forget(worker)
        self._nudge.set()

    def _forget(self, worker: str) -> None:
        descriptor = self._watched.pop(worker, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
