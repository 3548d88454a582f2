"""A turnstile lets in so many calls at a time; whoever finds it full waits before anything is written down or sent.

Rules
1. A call that waits here has no intent yet: whatever becomes of it, nothing is in doubt.
2. Who is let in keeps its place from before its intent until after its seal, and gives it back whatever happens.
3. A run that stops sends home those of its calls that still wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from holdfast.core.effect import Call
from holdfast.errors import Stopped
from holdfast.gateway.line import Line


class Turnstile(Protocol):
    """Lets in so many calls of some tools at a time."""

    def counts(self, tool: str) -> bool:
        """Whether calls of this tool are counted."""
        ...

    async def enter(self, tool: str) -> Callable[[], None]:
        """Return once there is room for a call, with what gives its place back: to be called once, from any thread.
        Cancelled, it holds nothing. Raises Stopped if it cannot be known any more whether there is room."""
        ...


class Entrance:
    """The way of one run's calls through a turnstile, if there is one."""

    def __init__(self) -> None:
        self.turnstile: Turnstile | None = None
        self._waiting: set[asyncio.Task[Callable[[], None]]] = set()

    def counts(self, call: Call) -> bool:
        """Whether a call must go through it."""
        return self.turnstile is not None and self.turnstile.counts(call.tool)

    @contextlib.asynccontextmanager
    async def inside(self, call: Call, line: Line, check: Callable[[], None]) -> AsyncGenerator[None]:
        """While a call has its place. `check` raises what keeps the run of `line` from going on: it is asked before and
        after the wait. Raises Stopped, and then nothing more is asked of the line, where `Turnstile.enter` does."""
        check()
        try:
            leave = await self._enter(call.tool, check)
        except Stopped as error:
            line.broken = line.broken or error
            raise
        try:
            check()
            yield
        finally:
            leave()

    async def _enter(self, tool: str, check: Callable[[], None]) -> Callable[[], None]:
        assert self.turnstile is not None, "only a call that is counted goes through"
        waiting = asyncio.create_task(self.turnstile.enter(tool))
        self._waiting.add(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                waiting.result()()  # it was let in at the same moment
            here = asyncio.current_task()
            if here is None or not here.cancelling():
                check()  # why it was sent home
            raise
        finally:
            self._waiting.discard(waiting)

    def send_home(self) -> None:
        """Nobody waits any more."""
        for waiting in list(self._waiting):
            with contextlib.suppress(RuntimeError):  # a loop that has closed since has nobody waiting
                waiting.get_loop().call_soon_threadsafe(waiting.cancel)
