"""Room for a run that has killed its process before: it is advanced alone, as far as possible, so that it takes no
others with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

SUSPECT = 2  # deaths
ALONE_S = 10.0  # how long a suspect waits to be alone, and then is left alone


class Room:
    """Lets in any number of runs, or one suspect. Neither is kept waiting for ever."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def inside(self, deaths: int) -> AsyncGenerator[None]:
        """While a run is advanced that has died so many times without having done anything."""
        suspect = deaths >= SUSPECT
        await self._wait(suspect=suspect)
        self._inside += 1
        if suspect:
            self._alone = True
            asyncio.get_running_loop().call_later(ALONE_S, self._others_may)
        try:
            yield
        finally:
            self._inside -= 1
            if suspect:
                self._alone = False
            async with self._changed:
                self._changed.notify_all()

    async def _wait(self, *, suspect: bool) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ALONE_S), self._changed:
                await self._changed.wait_for(lambda: not self._alone and not (suspect and self._inside))

    def _others_may(self) -> None:
        self._alone = False
