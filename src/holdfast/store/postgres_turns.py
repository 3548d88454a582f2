"""The appends of one branch stay in order, though some of them first wait for what is put outside the database.

An entry that came later must not be placed before a checkpoint that waits: whoever goes on from the checkpoint would
take it for something that lies behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future


class Turn:
    """The appends of a branch that are under way: how many, and which came last."""

    __slots__ = ("last", "under_way")

    def __init__(self) -> None:
        self.under_way = 0
        self.last: object = None


class Turns:
    """Who appends to which branch, from whatever loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Future[None]] = {}
        self._turns: dict[str, Turn] = {}

    @contextlib.contextmanager
    def counted(self, branch: str) -> Generator[Callable[[], bool]]:
        """An append, while it is under way: whether no other of its branch has come since it did."""
        mine = object()
        with self._lock:
            turn = self._turns.setdefault(branch, Turn())
            turn.under_way, turn.last = turn.under_way + 1, mine
        try:
            yield lambda: turn.last is mine
        finally:
            with self._lock:
                turn.under_way -= 1
                if not turn.under_way:
                    del self._turns[branch]

    @contextlib.asynccontextmanager
    async def held(self, branch: str) -> AsyncGenerator[None]:
        """Whoever comes meanwhile waits for the end of the block."""
        mine: Future[None] = Future()
        while True:
            with self._lock:
                if branch not in self._held:
                    self._held[branch] = mine
                    break
            await self.passed(branch)
        try:
            yield
        finally:
            with self._lock:
                del self._held[branch]
            mine.set_result(None)

    async def passed(self, branch: str) -> None:
        """Wait until nobody holds the branch."""
        while self._held and (before := self._held.get(branch)) is not None:
            await asyncio.shield(asyncio.wrap_future(before))
