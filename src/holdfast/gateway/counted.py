"""Calls of one life of a run that were counted at a door: found again by whoever asks the same once more.

Rules
1. A call whose answer was not delivered is never forgotten: the same call, sent again, would be another one. Where
   there are too many of them, no more are counted.
2. Answers are kept here up to so many bytes, for they are in the log, too: whoever asks for one that is not here any
   more is answered from there, under the number that its call has.
3. A mark of which nothing is known any more is refused, and not taken for that of a new call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from holdfast.errors import BadCall, Busy
from holdfast.gateway.order import Mark
from holdfast.gateway.upstreams import Prepared, Reply

MOST_OPEN = 10_000  # calls whose answers were not delivered
REMEMBERED = 4096  # calls that were delivered, or are marked, and are found again
MOST_KEPT, KEPT = 256, 16 << 20  # answers that are kept beside the log, and their bytes
MOST_CARRIED, CARRIED = 10_000, 256 << 20  # what is being carried out, and the bytes of its arguments
T = TypeVar("T")

Key: TypeAlias = tuple[str, bytes, str]
"""What makes a call the same as another one: the capability by which it is made, its identity, its arguments."""


@dataclass(slots=True, eq=False)
class Counted:
    """A call with its number among those of its identity. `replying`: its answer, on its way or there; None where the
    log is to be asked."""

    key: Key
    n: int
    replying: asyncio.Task[Reply] | None = None

    @property
    def answering(self) -> asyncio.Task[Reply] | None:
        """Its answer, on its way or there. What failed, or is waited for no longer, is asked for anew: the log knows
        what came of it."""
        return None if self.replying is None or failed(self.replying) else self.replying


class Kept(Generic[T]):
    """What holds an answer, up to so many and so many bytes. The oldest are let go of first."""

    def __init__(self, let_go: Callable[[T], object]) -> None:
        self.size_bytes = 0
        self._sizes: dict[T, int] = {}
        self._let_go = let_go

    def add(self, what: T, size_bytes: int) -> None:
        """Keep it, if there is room for it."""
        self.drop(what)
        self._sizes[what] = size_bytes
        self.size_bytes += size_bytes
        while self.size_bytes > KEPT or len(self._sizes) > MOST_KEPT:
            oldest = next(iter(self._sizes))
            self.drop(oldest)
            self._let_go(oldest)

    def drop(self, what: T) -> None:
        """It is gone."""
        self.size_bytes -= self._sizes.pop(what, 0)


class Carried:
    """What is being carried out, whoever still waits for it."""

    def __init__(self) -> None:
        self._count = self._size_bytes = 0

    def check_room(self, size_bytes: int) -> None:
        """Raise Busy where there is no room for arguments of this size beside what is being carried out."""
        if self._count and (self._size_bytes + size_bytes > CARRIED or self._count >= MOST_CARRIED):
            raise Busy(f"{self._count} calls of {self._size_bytes} bytes are being carried out already",
                       fix="wait for their answers")  # fmt: skip

    def begin(self, task: asyncio.Task[Any], size_bytes: int) -> None:
        """A task carries something out."""
        self._count += 1
        self._size_bytes += size_bytes

        def end(_task: asyncio.Task[Any]) -> None:
            self._count -= 1
            self._size_bytes -= size_bytes

        task.add_done_callback(end)


class Calls:
    """The calls of one life."""

    def __init__(self) -> None:
        self.carried = Carried()
        self._open: dict[Key, Counted] = {}
        self._delivered: dict[Key, Counted] = {}
        self._marked: dict[tuple[str, Mark], Counted] = {}
        self._forgotten: dict[tuple[str, str], int] = {}
        self._made: WeakKeyDictionary[Prepared, Counted] = WeakKeyDictionary()
        self._kept = Kept[Counted](_let_go)

    def find(self, tool: str, key: Key, mark: Mark | None, *, resend: bool) -> Counted | None:
        """The call that this one is, if it was counted before. `resend`: it may be one that was delivered. Raises
        BadCall for the mark of another call."""
        if mark is None:
            return self._open.get(key) or (self._delivered.get(key) if resend else None)
        known = self._marked.get((tool, mark))
        if known is not None and known.key != key:
            raise BadCall("a call of this mark was another one", fix="mark each call by itself")
        if known is None and mark.made <= self._forgotten.get((tool, mark.maker), -1):
            raise BadCall("the call of this mark was answered long ago", fix="mark each call by itself")
        return known

    def check_room(self, known: Counted | None, size_bytes: int) -> None:
        """Raise Busy where a call with arguments of this size has no room."""
        if known is None and len(self._open) >= MOST_OPEN:
            raise Busy(f"{MOST_OPEN} calls were made whose answers nobody has taken", fix="start the program again")
        self.carried.check_room(size_bytes)

    def add(self, tool: str, key: Key, mark: Mark | None, n: int) -> Counted:
        """A call that was made for the first time."""
        found = Counted(key, n)
        if mark is None:
            self._open[key] = found
            return found
        self._marked[tool, mark] = found
        if len(self._marked) > REMEMBERED:
            (name, oldest), gone = _pop_oldest(self._marked)
            place = (name, oldest.maker)
            self._forgotten[place] = max(self._forgotten.pop(place, -1), oldest.made)
            self._kept.drop(gone)
            if len(self._forgotten) > REMEMBERED:
                _pop_oldest(self._forgotten)
        return found

    def answer(self, call: Counted, replying: asyncio.Task[Reply], size_bytes: int) -> None:
        """The answer to a call is on its way."""
        call.replying = replying
        self.carried.begin(replying, size_bytes)
        replying.add_done_callback(lambda done: self._answered(call, done))

    def _answered(self, call: Counted, replying: asyncio.Task[Reply]) -> None:
        if call.replying is not replying:
            return
        if failed(replying):
            call.replying = None  # with all that its error holds on to
        else:
            self._kept.add(call, len(replying.result().data))

    def made(self, prepared: Prepared, call: Counted) -> None:
        """Somebody waits for this call, who made it by `prepared`."""
        self._made[prepared] = call

    def delivered(self, prepared: Prepared) -> None:
        """Who made a call by `prepared` has the whole of its answer."""
        call = self._made.pop(prepared, None)
        if call is None or self._open.get(call.key) is not call:
            return  # it was not counted; or somebody else who waits for it has had it, and it may be made anew by now
        del self._open[call.key]
        self._delivered.pop(call.key, None)
        self._delivered[call.key] = call
        if len(self._delivered) > REMEMBERED:
            self._kept.drop(_pop_oldest(self._delivered)[1])


def failed(task: asyncio.Task[Any]) -> bool:
    """Whether nothing came of it."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def _let_go(call: Counted) -> None:
    call.replying = None


K = TypeVar("K")


def _pop_oldest(among: dict[K, T]) -> tuple[K, T]:
    key = next(iter(among))
    return key, among.pop(key)
