"""A small scheduler: it goes on with every run of a store that can, several at a time, in this one process.

Rules
1. What lets a run go on is read from its log (`core/wake.py`). What is remembered here may be forgotten: a watcher that
   is killed and started anew finds the same.
2. A log is read only when something was written in it, or when whoever held it has gone.
3. A moment is never slept towards in one piece: the clock may be set.
4. Claims decide who advances a run. That somebody else was faster is normal. A process of this machine that holds one
   is overtaken when it is dead, never because it is slow; another one when the store's `claim_ttl_s` says so.
5. A run that has died twice without having done anything is advanced alone, as far as possible, so that it does not
   take others with it.
6. A life that ends without anything done is not followed by the next one at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from holdfast.agent.run import Agent
from holdfast.core.effect import legible
from holdfast.core.tree import MAIN
from holdfast.core.wake import Failed, Owner, Quarantined, Ready, Waits, retry_ms
from holdfast.embedded.agenda import Agenda, Due
from holdfast.embedded.house import House
from holdfast.embedded.outlook import Seen, ended, line_of, run_of, see
from holdfast.errors import Busy, Cancelled, Corrupt, HoldfastError, Misuse, Stopped, StoreFull, Waiting
from holdfast.store.changes import Changes, Holder
from holdfast.store.worker import here

POLL_S = 0.25
HOLDERS_S = 1.0  # between looks at those who hold claims
STALE_S = 5.0  # a holder that nobody here can ask about, and that has shown no sign of life for so long, is overtaken
ALONE_S = 10.0  # how long a suspect waits to be alone, and then is left alone
FULL_S = 5.0
SUSPECT = 2  # deaths
PAUSE_S = (0.25, 300.0)  # after lives in which nothing was done: doubled each time
PAGE = 500  # branches
LOOKS = 50  # logs that are read before anything else has its turn


@dataclass(frozen=True, slots=True)
class Settings:
    """How a watcher works. `at_once`: so many runs at a time. `retry_failed`: runs whose agent raised are tried again,
    after growing pauses."""

    at_once: int = 8
    retry_failed: bool = False
    on_divergence: str = "brief"


@dataclass(slots=True)
class _Held:
    """A claim that somebody holds: its newest sign of life, and since when (monotonic, s) there was no other."""

    beat_ms: int
    since_s: float
    ours: bool


@dataclass(frozen=True, slots=True)
class _Tried:
    """A run that was advanced here: how it stood before, and how many lives before that had found it so."""

    seq: int
    steps: int
    idle: int


class Watch:
    """Watches one store. `find` is the agent of a name in a log; it raises Misuse where it may not be run. `tell` is
    given a run and what has become of it."""

    def __init__(
        self,
        house: House,
        changes: Changes,
        find: Callable[[str], Agent],
        tell: Callable[[str, str], None],
        settings: Settings,
    ) -> None:
        self._house = house
        self._changes = changes
        self._find = find
        self._tell = tell
        self._settings = settings
        self._place = here().place
        self._agents: dict[str, Agent | None] = {}
        self._number = 0
        self._agenda = Agenda()
        self._looks: dict[str, None] = {}  # runs that are to be looked at, in this order
        self._held: dict[str, _Held] = {}
        self._tried: dict[str, _Tried] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._suspects: dict[str, float] = {}  # that may go on; since when (monotonic, s)
        self._alone: tuple[str, float] | None = None  # a suspect at work, and until when it is left alone
        self._looked_s = self._full_s = 0.0
        self._nudge = asyncio.Event()
        self._stopping = False
        self._failure: Stopped | None = None

    def stop(self) -> None:
        """Start nothing more; bring what is under way to its seal; give the claims back."""
        self._stopping = True
        self._nudge.set()

    async def run(self) -> None:
        """Watch until it is stopped. Raises Stopped if the store can no longer be written or trusted."""
        try:
            await self._scan()
            while not self._stopping:
                await self._round()
                await self._rest()
        finally:
            await self._drain()
        if self._failure is not None:
            raise self._failure

    async def _drain(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
            await asyncio.sleep(0)

    # --- what is new ---

    async def _scan(self) -> None:
        """Once: which runs have not ended. Reads the newest entry of each."""
        self._number, after = self._changes.last(), 0
        while page := self._changes.newest(after, PAGE):
            after = page[-1].id
            for newest in page:
                if not ended(newest, failed_too=not self._settings.retry_failed):
                    self._looks[run_of(newest.branch)] = None
            await asyncio.sleep(0)
            if self._stopping:
                return

    async def _round(self) -> None:
        if self._changes.moved():
            self._number, branches = self._changes.since(self._number)
            self._looks.update({run_of(branch): None for branch in branches})
        if self._held and time.monotonic() - self._looked_s >= HOLDERS_S:
            await self._look_at_holders()
        for run in list(islice(self._looks, LOOKS)):
            del self._looks[run]
            if run not in self._tasks:  # else it is looked at when its life has ended
                await self._look(run)
        self._agenda.turn(_now_ms(), time.monotonic())
        self._start()

    async def _rest(self) -> None:
        """Return when there may be something to do."""
        if self._looks:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._nudge.wait(), self._agenda.wait_s(_now_ms(), POLL_S))
        self._nudge.clear()

    async def _look(self, run: str) -> None:
        """Find out how a run goes on, and when. Whoever holds it is looked for first: what it wrote is in the log
        then."""
        self._agenda.drop(run)
        self._suspects.pop(run, None)
        self._held.pop(run, None)
        branch, holder = await self._holder(run)
        if holder is not None and not holder.dead:
            self._held[run] = _Held(holder.beat_ms, time.monotonic(), holder.worker.pid == os.getpid())
            return
        seen = await self._see(branch, holder)
        match seen.outlook if seen is not None else None:
            case Ready() as ready:
                assert seen is not None
                self._plan(Due(seen, ready))
            case Waits(until_ms=int() as until_ms):
                assert seen is not None
                self._agenda.put_at(seen, until_ms)
            case Failed() as failed if self._settings.retry_failed:
                assert seen is not None
                self._agenda.put_at(seen, retry_ms(failed, _now_ms()))
            case Quarantined(deaths):
                self._tell(run, f"its process has died {deaths} times in a row: left alone until it is resumed")
            case Waits() | Failed():
                pass
            case _:
                self._tried.pop(run, None)

    async def _holder(self, run: str) -> tuple[str, Holder | None]:
        """The branch that is the run's line, and who holds it. What is wrong with the tree, `see` tells."""
        try:
            branch = await line_of(self._changes, run)
        except Corrupt:
            branch = f"{run}@{MAIN}"
        return branch, await self._changes.holder(branch)

    async def _see(self, branch: str, holder: Holder | None) -> Seen | None:
        try:
            return await see(self._changes, branch, Owner.NOBODY if holder is None else Owner.DEAD)
        except (Corrupt, Misuse) as error:
            self._tell(run_of(branch), f"its log cannot be read: {error.what} [{error.where or branch}]")
            return None

    def _plan(self, due: Due) -> None:
        """To be advanced: at once, or, after a life in which nothing was done, a little later."""
        run, tried = due.seen.run, self._tried.get(due.seen.run)
        idle = tried is not None and tried.steps == due.seen.steps
        if tried is not None and idle and (not due.ready.answered or tried.seq == due.seen.seq):
            pause_s = min(PAUSE_S[0] * 2 ** min(tried.idle, 20), PAUSE_S[1])
            self._agenda.put_after(due, time.monotonic() + pause_s)
            return
        self._agenda.put(due)
        if due.ready.deaths >= SUSPECT:
            self._suspects[run] = time.monotonic()

    async def _look_at_holders(self) -> None:
        """A claim that was given back leaves no entry, and a death leaves nothing at all."""
        self._looked_s = now_s = time.monotonic()
        for run, held in list(self._held.items()):
            branch, holder = await self._holder(run)
            if holder is not None and not holder.dead:
                if holder.beat_ms != held.beat_ms and not held.ours:
                    held.beat_ms, held.since_s = holder.beat_ms, now_s
                elif now_s - held.since_s > STALE_S and (held.ours or holder.worker.place != self._place):
                    held.since_s = now_s
                    await self._go_on(branch, holder, "its holder shows no sign of life")
                continue
            del self._held[run]
            if held.ours:  # what a timeout had left behind has returned: its effect can be looked into now
                await self._go_on(branch, holder, "what it had left behind has returned")
            else:
                self._looks[run] = None

    async def _go_on(self, branch: str, holder: Holder | None, why: str) -> None:
        """Advance a run although its log does not say so. The store judges whether it may be claimed."""
        seen = await self._see(branch, holder)
        if seen is not None and isinstance(seen.outlook, Ready | Waits):
            self._agenda.put(Due(seen, Ready(why)))

    # --- advancing ---

    def _start(self) -> None:
        """Start what may go on, as far as there is room."""
        while len(self._tasks) < self._settings.at_once and not self._stopping:
            due = self._next(time.monotonic())
            if due is None:
                return
            run = due.seen.run
            self._agenda.drop(run)
            agent = self._agent(run, due.seen.agent)
            if agent is not None:
                self._tasks[run] = task = asyncio.create_task(self._advance(due, agent), name=f"holdfast {run}")
                task.add_done_callback(lambda _task, run=run: self._landed(run))

    def _next(self, now_s: float) -> Due | None:
        """The run that is started next, if any may be."""
        if now_s < self._full_s or (self._alone is not None and now_s < self._alone[1]):
            return None
        for due in self._agenda:
            run = due.seen.run
            since_s = self._suspects.get(run)
            if since_s is None:
                return due
            if not self._tasks or now_s - since_s > ALONE_S:
                del self._suspects[run]
                self._alone = (run, now_s + ALONE_S)
                return due
        return None

    def _landed(self, run: str) -> None:
        self._tasks.pop(run, None)
        if self._alone is not None and self._alone[0] == run:
            self._alone = None
        self._looks[run] = None
        self._nudge.set()

    def _agent(self, run: str, name: str) -> Agent | None:
        """The agent of this name; None, and said once, if it may not be run or cannot be imported."""
        if name not in self._agents:
            try:
                self._agents[name] = self._find(name)
            except Misuse as error:
                self._agents[name] = None
                self._tell(run, f"{error.what}\n  fix: {error.fix}")
        return self._agents[name]

    async def _advance(self, due: Due, agent: Agent) -> None:
        """One life of a run, unless somebody has been here since it was looked at."""
        seen, run, before = due.seen, due.seen.run, self._tried.get(due.seen.run)
        newest = await self._changes.read(seen.branch, newest=1)
        if newest and newest[0].seq != seen.seq:
            return
        same = before is not None and before.steps == seen.steps and not due.ready.answered
        idle = before.idle + 1 if before is not None and same else 0
        self._tried[run] = _Tried(seen.seq, seen.steps, idle)
        try:
            await self._house.arun(agent, None, id=run, wait=False, on_divergence=self._settings.on_divergence)
            self._tell(run, "finished")
        except Busy:
            self._tried.pop(run, None)
        except Waiting as waiting:
            self._tell(run, f"waits: {waiting.what}" + (f" [{waiting.where}]" if waiting.where else ""))
        except Cancelled as error:
            self._tell(run, error.what)
        except asyncio.CancelledError:
            self._tell(run, "interrupted" if self._stopping else "the agent failed: CancelledError")
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - an agent may raise whatever it likes, and the others go on
            self._note(run, error)

    def _note(self, run: str, error: BaseException) -> None:
        """What an advance that failed means for all the others."""
        text = error.what if isinstance(error, HoldfastError) else legible(error, 300)
        match error:
            case StoreFull():
                self._full_s = time.monotonic() + FULL_S
                self._tell(run, f"{text}; it is tried again in {FULL_S:.0f} s")
            case Corrupt():
                self._tell(run, f"its log cannot be trusted: {text} [{error.where}]")
            case Stopped():
                self._failure = error
                self.stop()
            case _:
                self._tell(run, f"the agent failed: {type(error).__name__}: {text}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
