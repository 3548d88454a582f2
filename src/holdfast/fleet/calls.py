"""So many calls of some tools at a time, in the whole fleet: each call that is under way has a row in the database.

Rules
1. A row goes with its worker: when that one is buried, what it held is free, at the moment at which its runs are put
   down for others.
2. Whoever comes first is let in first. A call of a tool that several limits name stands in one line at a time.
3. What is asked for here may be asked for twice: a row has the number that its worker gave it. One thread asks, in
   order, so that a call never comes back after it has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString

from holdfast.core.capability import matches
from holdfast.errors import HoldfastError
from holdfast.store.postgres import PostgresStore

POLL_S = (1.0, 5.0)  # between looks for a place of which nobody has told
_ENTER = "SELECT holdfast_fleet.enter_1(%s, %s, %s::text[], %s::integer[])"
_LEAVE = "DELETE FROM holdfast_fleet.call WHERE worker = %s AND number = %s RETURNING number"
_TIDY = (
    "DELETE FROM holdfast_fleet.call WHERE worker = %s AND number <= %s AND NOT number = ANY (%s::bigint[])"
    " RETURNING number"
)


class Calls:
    """A turnstile (`gateway.turnstile`) for one worker of a fleet. `limits`: so many calls at a time, by pattern: a
    tool, `SYSTEM.*` or `*`."""

    def __init__(self, store: PostgresStore, limits: Mapping[str, int]) -> None:
        self._store = store
        self._limits = dict(sorted(limits.items()))  # everybody locks them in this order
        self._numbers = itertools.count(1)
        self._newest = 0
        self._mine: set[int] = set()
        self._news: dict[int, Callable[[], object]] = {}
        self._lock = threading.Lock()
        self._asking = ThreadPoolExecutor(1, "holdfast calls")

    @functools.lru_cache(1024)  # noqa: B019 - there is one of them in a process
    def _named(self, tool: str) -> list[str]:
        return [pattern for pattern in self._limits if matches(pattern, tool)]

    def counts(self, tool: str) -> bool:
        """As `Turnstile.counts`."""
        return bool(self._limits) and bool(self._named(tool))

    async def enter(self, tool: str, *, patient: bool = True) -> Callable[[], None] | None:
        """As `Turnstile.enter`."""
        named = self._named(tool)
        most = [self._limits[pattern] for pattern in named]
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            number = self._newest = next(self._numbers)
            self._mine.add(number)
            self._news[number] = functools.partial(loop.call_soon_threadsafe, news.set)
        poll_s, longest_s = POLL_S
        try:
            while not await loop.run_in_executor(self._asking, self._let_in, number, named, most):
                if not patient:
                    self._leave(number)
                    return None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), poll_s)
                news.clear()
                poll_s = min(1.5 * poll_s, longest_s)
        except BaseException:
            self._leave(number)
            raise
        finally:
            del self._news[number]
        return functools.partial(self._leave, number)

    def _let_in(self, number: int, named: list[str], most: list[int]) -> bool:
        ((free,),) = self._store.fetch(_ENTER, (self._store.worker.id, number, named, most))
        return bool(free)

    def _leave(self, number: int) -> None:
        with self._lock:
            self._mine.discard(number)
        with contextlib.suppress(RuntimeError):  # after `close`
            self._asking.submit(self._ask, _LEAVE, self._store.worker.id, number)

    def _ask(self, sql: LiteralString, *values: object) -> None:
        with contextlib.suppress(HoldfastError):  # what was not said is said by `tidy`
            self._store.fetch(sql, values)

    def heard(self, numbered: str) -> None:
        """There may be room for a call: `WORKER NUMBER`."""
        worker, _, number = numbered.partition(" ")
        if worker == self._store.worker.id and number.isdigit() and (tell := self._news.get(int(number))) is not None:
            with contextlib.suppress(RuntimeError):  # its loop has closed since
                tell()

    async def tidy(self) -> None:
        """Give back what no call of this worker holds any more."""
        with self._lock:
            mine, newest = list(self._mine), self._newest
        me = self._store.worker.id
        await asyncio.get_running_loop().run_in_executor(self._asking, self._ask, _TIDY, me, newest, mine)

    def close(self) -> None:
        """The worker has left the fleet, and all its places with it."""
        self._asking.shutdown(wait=False, cancel_futures=True)
