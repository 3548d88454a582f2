"""Workers of the real engine that go on by one boundary at a time, as the model's do.

Rules
1. All workers of a play share one store, as processes would. Each has a way of its own to it, and stops before and
   after each append, and where a tool touches the world, until it is let on.
2. A death: from that moment on nothing of the worker is carried out or written. A pause: it is just not let on; when
   its claim is taken from it meanwhile, nobody has proof that it has stopped.
3. Time stands still while anybody is at work, and passes at once while everybody waits.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from holdfast.core.codec import decode
from holdfast.core.effect import Happened
from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.core.record import Intent, Record, Seal, Settled
from holdfast.errors import Claimed
from holdfast.store import NOTHING, Branch, Draft, Grant, Store
from tests.stage import Killed

ON_STAGE: ContextVar[Actor] = ContextVar("on_stage")


class Hasty(selectors.DefaultSelector):
    """Nobody waits for a timer: the clock is put forward instead."""

    ahead_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(timeout if timeout is None or timeout <= 0 else 0.0005)
        if not found and timeout is not None and timeout > 0:
            self.ahead_s += timeout
        return found


class HastyLoop(asyncio.SelectorEventLoop):
    """An event loop in which time passes at once."""

    def __init__(self) -> None:
        self._hasty = Hasty()
        super().__init__(self._hasty)
        self.set_exception_handler(_but_of_deaths)

    def time(self) -> float:
        return super().time() + self._hasty.ahead_s


def _names(records: Sequence[Record]) -> str:
    """What is written, as boundaries are called by it."""
    for record in records:
        if isinstance(record, Intent):
            return "Intent" if record.undoes is None else "the intent of an undo"
    return " ".join(type(record).__name__ for record in records) or "release"


def _but_of_deaths(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Nobody hears of what became of the tasks of a dead worker."""
    if not isinstance(context.get("exception"), Killed):
        loop.default_exception_handler(context)


class Actor:
    """Somebody who works on the run. `branch` and `epoch`: what it advances, if it has a claim. `at`, `waits`: the
    boundary that it has passed, and that it stands before. `since`: how much was written when it came. `ending`: what
    it came to. Who is `free` stops nowhere."""

    def __init__(self, name: str, troupe: Troupe, *, free: bool = False) -> None:
        self.name = name
        self.free = free
        self.troupe = troupe
        self.store = Own(self)
        self.branch = ""
        self.epoch = 0
        self.dead = False
        self.at = ""
        self.waits = ""
        self.since = len(troupe.written)
        self.ending: Any = None
        self._gates: deque[asyncio.Future[None]] = deque()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """It has begun, and has neither died nor come to an end."""
        return self._task is not None and not self._task.done() and not self.dead

    def play(self, work: Coroutine[Any, Any, Any]) -> Actor:
        """Begin; it stops before its first boundary."""

        async def whole() -> None:
            ON_STAGE.set(self)
            try:
                await self.gate("begins")
                self.ending = await work
            except BaseException as ending:  # noqa: BLE001 - the ending is what is asked for
                work.close()
                self.ending = ending
            finally:
                self._arrived.set()

        self._task = asyncio.get_running_loop().create_task(whole())
        return self

    async def gate(self, at: str) -> None:
        """A boundary."""
        if self.dead:
            raise Killed
        if self.free:
            return
        gate = asyncio.get_running_loop().create_future()
        self.waits = at
        self._gates.append(gate)
        self._arrived.set()
        await gate
        self.at = at
        if self.dead:
            raise Killed

    async def step(self) -> None:
        """Let it go on to its next boundary, or to its end."""
        if not self.alive:
            return
        while not self._gates and self.alive:
            self._arrived.clear()
            await self._arrived.wait()
        if self._gates:
            self._arrived.clear()
            self._gates.popleft().set_result(None)
            if not self._gates:
                await self._arrived.wait()

    async def finish(self) -> None:
        """Let it go on to its end."""
        while self.alive:
            await self.step()

    async def bury(self) -> None:
        """Whatever is left of it ends without a trace."""
        self.dead = True
        while self._task is not None and not self._task.done():
            while self._gates:
                self._gates.popleft().set_result(None)
            await asyncio.sleep(0)


class Own:
    """One actor's way to the store that all share."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._troupe = actor.troupe

    async def append(
        self,
        branch: str,
        drafts: Sequence[Draft],
        *,
        epoch: int,
        after: int | None = None,
        barrier: bool = False,
        release: bool = False,
        alone: bool = False,
        blobs: Sequence[Blob] = (),
        watch: Mapping[str, int] = NOTHING,
        stands_on: Entry | None = None,
    ) -> list[Entry]:
        names = _names([decode(draft.body) for draft in drafts])
        await self._actor.gate(f"before {names}")
        placed = await self._troupe.inner.append(
            branch, drafts, epoch=epoch, after=after, barrier=barrier, release=release, alone=False, blobs=blobs,
            watch=watch, stands_on=stands_on,
        )  # fmt: skip
        self._troupe.written.extend((self._actor, entry) for entry in placed)
        if release and self._troupe.holders.get(branch) is self._actor:
            del self._troupe.holders[branch]
        await self._actor.gate(f"after {names}")
        return placed

    async def claim(self, branch: str) -> Grant:
        await self._actor.gate("before a claim")
        grant = await self._troupe.claim(self._actor, branch)
        if not self._actor.branch:
            self._actor.branch, self._actor.epoch = branch, grant.epoch
        return grant

    async def read(self, branch: str, **which: Any) -> list[Entry]:
        self._living()
        return await self._troupe.inner.read(branch, **which)

    async def blob(self, digest: bytes) -> Blob:
        self._living()
        return await self._troupe.inner.blob(digest)

    async def branches(self, prefix: str = "") -> list[Branch]:
        self._living()
        found = await self._troupe.inner.branches(prefix)
        return [replace(each, holder=self._troupe.holder(each.name)) for each in found]

    async def close(self) -> None:
        return

    def _living(self) -> None:
        if self._actor.dead:
            raise Killed


class Troupe:
    """All actors of a play, and the store that they share. `written`: every entry, in order, and who wrote it.
    `impatient`: whether claims run out now."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.actors: list[Actor] = []
        self.written: list[tuple[Actor, Entry]] = []
        self.holders: dict[str, Actor] = {}
        self.epochs: dict[str, int] = {}
        self.of_epoch: dict[tuple[str, int], Actor] = {}
        self.impatient = False

    def actor(self, name: str, work: Callable[[Actor], Coroutine[Any, Any, Any]]) -> Actor:
        """Somebody new, who stands before the first boundary of `work`."""
        actor = Actor(name, self)
        self.actors.append(actor)
        return actor.play(work(actor))

    def alive(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.alive]

    def holder(self, branch: str) -> str:
        """Who holds a branch, if it lives."""
        actor = self.holders.get(branch)
        return actor.name if actor is not None and actor.alive else ""

    async def claim(self, actor: Actor, branch: str) -> Grant:
        """The claim: from the dead at once; from the living only while claims run out."""
        before, previous = self.holders.get(branch), ""
        if before is not None:
            if before.alive and not self.impatient:
                raise Claimed("another worker is at it", where=branch, fix="wait for it to end")
            previous = "unproven" if before.alive else "dead"
            await self.inner.append(branch, [], epoch=self.epochs[branch], release=True)
        grant = await self.inner.claim(branch)
        self.epochs[branch] = grant.epoch
        self.holders[branch] = self.of_epoch[branch, grant.epoch] = actor
        return replace(grant, previous=previous or grant.previous)

    def keys_done(self) -> set[object]:
        """The keys of what is written down as done."""
        intents: dict[tuple[str, int | None], str] = {}
        done: set[object] = set()
        for _, entry in self.written:
            record = decode(entry.body)
            if isinstance(record, Intent):
                intents[entry.branch, entry.seq] = record.key
            elif isinstance(record, Seal | Settled) and isinstance(record.outcome, Happened):
                done.add(intents.get((entry.branch, record.intent)))
        return done

    async def curtain(self) -> None:
        """The play is over."""
        for actor in self.actors:
            await actor.bury()
