"""How a child of a test dies, or is stopped, at a boundary that is named: by its own hand, with SIGKILL or SIGSTOP.

A boundary is written `SIDE WHAT NTH`:

    before Intent 1     before the first append of this life that places an intent
    after Seal 2        after the second append that places a seal has returned
    in acted 1          at the first `acted` point of a tool's body (see tools.py)
    before write 17     before the 17th write or flush that SQLite asks of the system (also `after`)

Rules
1. The product knows nothing of this: its seams (`Store.append`, SQLite's own VFS) are wrapped in the child alone.
2. A boundary that is never reached is an error of the test: the parent checks how its child ended.
3. Nobody is stopped inside a transaction: SQLite's own lock would keep everybody else out for as long. Who is killed
   there gives the lock up by dying.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.store import Draft
from holdfast.store.committer import Committer
from holdfast.store.sqlite import SqliteStore


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where it happens, and by which signal."""

    side: str
    what: str
    nth: int
    signal: int = signal.SIGKILL

    @classmethod
    def of(cls, text: str, number: int = signal.SIGKILL) -> Boundary:
        side, what, nth = text.split()
        return cls(side, what, int(nth), number)

    def reached(self) -> None:
        with contextlib.ExitStack() as between_transactions:
            if self.signal == signal.SIGSTOP:
                for committer in _committers:
                    between_transactions.enter_context(committer._lock)
            self._sent()

    def _sent(self) -> None:
        signal.pthread_kill(threading.get_ident(), self.signal)  # else another thread takes it, and this one runs on


class Points:
    """The points of tools' bodies, counted; whoever is armed at one of them meets its end there."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.armed: list[Boundary] = []

    def __call__(self, what: str) -> None:
        self._counts[what] += 1
        for boundary in self.armed:
            if (boundary.side, boundary.what, boundary.nth) == ("in", what, self._counts[what]):
                boundary.reached()


point = Points()


_committers: list[Committer] = []


def _know_committers() -> None:
    honest = Committer.__init__

    def init(self: Committer, *given: Any, **named: Any) -> None:
        honest(self, *given, **named)
        _committers.append(self)

    Committer.__init__ = init


def arm(boundary: Boundary) -> None:
    """From now on this process meets its end at `boundary`."""
    if boundary.signal == signal.SIGSTOP:
        _know_committers()
    if boundary.side == "in":
        point.armed.append(boundary)
    elif boundary.what == "write":
        Census(boundary).stand_in()
    else:
        _arm_append(boundary)


def _arm_append(boundary: Boundary) -> None:
    honest, count = SqliteStore.append, Counter[str]()

    async def append(self: SqliteStore, branch: str, drafts: Sequence[Draft], **how: Any) -> list[Entry]:
        places = any(type(decode(draft.body)).__name__ == boundary.what for draft in drafts)
        count[boundary.what] += places
        here = places and count[boundary.what] == boundary.nth
        if here and boundary.side == "before":
            boundary.reached()
        placed = await honest(self, branch, drafts, **how)
        if here and boundary.side == "after":
            boundary.reached()
        return placed

    SqliteStore.append = append


_standing: list[apsw.VFS] = []


class Census(apsw.VFS):
    """Stands between SQLite and the system: counts writes and flushes, and knows which files are not flushed."""

    def __init__(self, boundary: Boundary | None = None) -> None:
        self.name = f"census-{os.getpid()}"
        self.system = apsw.vfs_names()[0]
        super().__init__(self.name, self.system)
        self.boundary = boundary
        self.operations = 0
        self.flushes = 0
        self.unflushed: set[str] = set()

    def stand_in(self) -> Census:
        """Be the way of every connection that this process opens from now on."""
        _standing.append(self)  # SQLite forgets it with the last reference
        apsw.set_default_vfs(self.name)
        return self

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - the name is SQLite's
        return _File(self, name, flags)

    def around(self, operation: Callable[[], None]) -> None:
        self.operations += 1
        boundary = self.boundary
        here = boundary is not None and boundary.nth == self.operations
        if boundary is not None and here and boundary.side == "before":
            boundary.reached()
        operation()
        if boundary is not None and here and boundary.side == "after":
            boundary.reached()


class _File(apsw.VFSFile):
    def __init__(self, census: Census, name: Any, flags: list[int]) -> None:
        super().__init__(census.system, name, flags)
        self._census = census
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - the name is SQLite's
        self._census.around(lambda: super(_File, self).xWrite(data, offset))
        self._census.unflushed.add(self._name)

    def xSync(self, flags: int) -> None:  # noqa: N802 - the name is SQLite's
        self._census.around(lambda: super(_File, self).xSync(flags))
        self._census.flushes += 1
        self._census.unflushed.discard(self._name)
