"""A turnstile lets in so many calls at a time; whoever finds it full waits before anything is written down or sent.

Rules
1. A call that waits here has no intent yet: whatever becomes of it, nothing is in doubt.
2. Who is let in keeps its place from before its intent until after its seal, and gives it back whatever happens.
3. A run that stops sends home those of its calls that still wait.
4. A call that was made plainly keeps the loop of all other runs from turning, among them those that would make room. It
   does not wait here: its run is put off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol

from holdfast.core.effect import Call
from holdfast.errors import Stopped
from holdfast.gateway.line import Line


class Turnstile(Protocol):
    """Lets in so many calls of some tools at a time."""

    def counts(self, tool: str) -> bool:
        """Whether calls of this tool are counted."""
        ...

    async def enter(self, tool: str, *, patient: bool) -> Callable[[], None] | None:
        """Return once there is room for a call, with what gives its place back: to be called once, from any thread.
        None if there is none, and it is not `patient`. Cancelled, it holds nothing. Raises Stopped if it cannot be
        known any more whether there is room."""
        ...


class Entrance:
    """The way of one run's calls through a turnstile, if there is one."""

    def __init__(self) -> None:
        self._turnstile: Turnstile | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Task[Callable[[], None] | None]] = set()

    def goes_through(self, turnstile: Turnstile | None) -> None:
        """From now on. To be called in the loop in which the run is advanced."""
        self._turnstile, self._home = turnstile, asyncio.get_running_loop()

    def counts(self, call: Call) -> bool:
        """Whether a call must go through it."""
        return self._turnstile is not None and self._turnstile.counts(call.tool)

    @contextlib.asynccontextmanager
    async def inside(
        self, call: Call, line: Line, check: Callable[[], None], put_off: Callable[[str], Awaitable[None]]
    ) -> AsyncGenerator[None]:
        """While a call has its place. `check` raises what keeps the run of `line` from going on: it is asked before and
        after the wait; `put_off` raises what makes it wait elsewhere. Raises Stopped, and then nothing more is asked of
        the line, where `Turnstile.enter` does."""
        check()
        try:
            leave = await self._enter(call.tool, check)
        except Stopped as error:
            line.broken = line.broken or error
            raise
        if leave is None:
            await put_off(f"as many calls like `{call.tool}` are under way as may be")
            raise AssertionError("a run that was put off does not go on")
        try:
            check()
            yield
        finally:
            leave()

    async def _enter(self, tool: str, check: Callable[[], None]) -> Callable[[], None] | None:
        assert self._turnstile is not None, "only a call that is counted goes through"
        patient = asyncio.get_running_loop() is self._home
        waiting = asyncio.create_task(self._turnstile.enter(tool, patient=patient))
        self._waiting.add(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                leave = waiting.result()  # it was let in at the same moment
                if leave is not None:
                    leave()
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
