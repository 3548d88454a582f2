"""Moments at which a program asks its gateway for nothing: what a checkpoint says is of one moment.

Rules
1. Who is on the way is waited for; who comes meanwhile waits until the moment is over.
2. Requests are made in threads, by any loop of the program: so are these waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from holdfast.agent.run import in_thread

T = TypeVar("T")


class Stillness:
    """The requests of one program."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._moving = 0
        self._holder: object | None = None

    def moving(self, work: Callable[[], T]) -> T:
        """What comes of `work`, which is not done while it is still."""
        with self._news:
            self._news.wait_for(lambda: self._holder is None)
            self._moving += 1
        try:
            return work()
        finally:
            with self._news:
                self._moving -= 1
                self._news.notify_all()

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """While the block lasts, nobody is on the way."""
        holder = _Holder()
        try:
            await in_thread(lambda: self._stop(holder))
            yield
        finally:
            with self._news:
                holder.gone = True
                if self._holder is holder:
                    self._holder = None
                self._news.notify_all()

    def _stop(self, holder: _Holder) -> None:
        with self._news:
            self._news.wait_for(lambda: holder.gone or self._holder is None)
            if holder.gone:
                return
            self._holder = holder
            self._news.wait_for(lambda: holder.gone or self._moving == 0)


class _Holder:
    """Somebody who wants it to be still. `gone`: no more."""

    def __init__(self) -> None:
        self.gone = False
