"""The files of a run whose program somebody else has started: whoever started it holds them still and captures them.

Rules
1. A digest comes from the starter, over the connection by which it holds the run; nothing that the program says counts.
2. What was captured is not collected before its checkpoint stands, or was given up.
3. When the starter is gone there is nobody to capture: no checkpoint is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

from holdfast.core.canonical import JSON
from holdfast.core.effect import Parcel
from holdfast.errors import BadCall, Busy, HoldfastError, Stopped, Waiting
from holdfast.gateway.closure import Capture
from holdfast.store.remote import error_of

CAPTURE = "capture"  # what a starter is told unasked
LOOKS = 20
_TREE = re.compile(r"[0-9a-f]{64}", re.ASCII)
Tell = Callable[[Mapping[str, JSON]], Awaitable[None]]


class StarterRoom:
    """A `Room`. `tell` says something to the starter."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._one = asyncio.Lock()
        self._looks = 0
        self._tree: str | None = None
        self._wanted: asyncio.Future[str] | None = None
        self._kept: asyncio.Future[None] | None = None
        self._gone = False

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """As `Room.held`."""
        async with self._one:
            self._looks, self._tree = 0, None
            try:
                yield
            finally:
                self._let_go()

    async def look(self) -> None:
        """As `Room.look`."""
        self._let_go()
        if self._gone:
            raise _nobody()
        self._looks += 1
        if self._looks > LOOKS:
            fix = "let nothing of it call anything while it makes a checkpoint"
            raise Busy("the run does something each time that its files are captured", fix=fix)
        self._wanted = asyncio.get_running_loop().create_future()
        await self._tell({CAPTURE: True})
        self._tree = await self._wanted

    def capture(self) -> Capture:
        """As `Room.capture`. The files stay where they are."""
        assert self._tree is not None, "they are looked at before they are captured"
        return Capture(self._tree)

    def placed(self, parcels: Sequence[Parcel]) -> None:
        """As `Room.placed`."""

    async def captured(self, told: Mapping[str, JSON]) -> None:
        """The starter has captured (`tree`), or could not (`error`). Returns when what it has captured may be
        collected, if nobody refers to it."""
        wanted = self._wanted
        if wanted is None or wanted.done():
            return
        if "error" in told:
            wanted.set_exception(_as_error(told["error"]))
            return
        tree = told.get("tree")
        if not isinstance(tree, str) or _TREE.fullmatch(tree) is None:
            wanted.set_exception(BadCall("what was captured is named by no digest"))
            return
        self._kept = asyncio.get_running_loop().create_future()
        wanted.set_result(tree)
        await self._kept

    def gone(self) -> None:
        """The starter is gone."""
        self._gone = True
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_exception(_nobody())
        self._let_go()

    def _let_go(self) -> None:
        self._wanted = None
        if self._kept is not None and not self._kept.done():
            self._kept.set_result(None)
        self._kept = None


def _as_error(told: object) -> HoldfastError:
    found = error_of(told)
    return Stopped(found.what, where=found.where, fix=found.fix) if isinstance(found, Waiting) else found


def _nobody() -> Stopped:
    return Stopped("nobody is there to capture the files of the run", fix="start its program again")
