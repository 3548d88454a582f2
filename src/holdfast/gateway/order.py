"""The order in which a program made its calls, whichever way they came.

Rules
1. Calls that a program makes side by side are counted as it made them, not as they arrive: when it is started again
   each finds its own record.
2. Whoever waits for a call that never comes waits no longer than `PATIENCE_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

PATIENCE_S = 10.0
MOST = 4096  # makers, each with a tool, whose numbers are known


@dataclass(frozen=True, slots=True)
class Mark:
    """A call as its program knows it. `maker` tells the program apart from others of its run, `made` is the number of
    the call among those that it made of this tool, from 0. The same mark again is the same call."""

    maker: str
    made: int


class Order:
    """The marks of one life of a run, by tool."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, str], int] = {}
        self._moved = asyncio.Event()

    async def turn(self, tool: str, mark: Mark) -> None:
        """Return when every call of this tool that was made before has been counted."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while self._next.get((mark.maker, tool), 0) < mark.made:
                    self._moved.clear()
                    await self._moved.wait()

    def passed(self, tool: str, mark: Mark) -> None:
        """This call is counted, or will never be."""
        place = (mark.maker, tool)
        self._next[place] = max(self._next.pop(place, 0), mark.made + 1)
        if len(self._next) > MOST:  # of whom nothing was heard for longest: its next call waits out its patience
            self._next.pop(next(iter(self._next)))
        self._moved.set()
