"""A worker of the fleet: it is handed out runs to look at, and advances those that can go on, several at a time.

Rules
1. A job is over when what comes next has been put down: nothing, because a word or the end of a claim will put it down,
   or a moment. If that cannot be done, the job is left, and somebody else finds it.
2. Claims decide who advances a run. That somebody else was faster is normal.
3. A life that ends without anything done is not followed by the next one at once.
4. When told to stop: nothing more is taken, what is under way reaches its seal, the claims are given back, and their
   runs are put down for others. However long that takes, this worker shows that it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace

from procrastinate import App, JobContext
from procrastinate.exceptions import ConnectorException
from procrastinate.worker import Worker as Procrastinate

from holdfast.agent.run import Agent
from holdfast.core.codec import decode
from holdfast.core.effect import legible
from holdfast.core.record import Cancelled as WasCancelled
from holdfast.core.tree import MAIN
from holdfast.core.wake import Failed, Over, Owner, Quarantined, Ready, Waits, retry_ms
from holdfast.embedded.house import House
from holdfast.embedded.outlook import Seen, line_of, run_of, see
from holdfast.errors import (
    Away,
    Busy,
    Cancelled,
    Corrupt,
    Fenced,
    HoldfastError,
    Misuse,
    Stopped,
    StoreFull,
    Unwritable,
    Waiting,
)
from holdfast.fleet.calls import Calls
from holdfast.fleet.connector import Jobs, Patient
from holdfast.fleet.keeper import Keeper
from holdfast.fleet.queue import Queue
from holdfast.fleet.room import Room
from holdfast.fleet.schema import CALL, QUEUE, WORD, queue_of
from holdfast.fleet.watched import WatchedStore
from holdfast.store.postgres import PostgresStore
from holdfast.store.worker import dead

FULL_S = 5.0
REFUSED_S = 60.0  # before a run is looked at again whose agent could not be imported
PAUSE_S = (0.25, 300.0)  # after lives in which nothing was done: doubled each time
POLL_S = 2.0  # between looks for jobs of which nobody has told
WORDS_S = 5.0  # between looks for words of which nobody has told
STORE_S = 1.0  # between looks whether the store can still be written
TRIED = 10_000  # runs that are remembered


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker works. `names`: the modules and agents that it may run; `at_once`: so many runs at a time; `limits`:
    so many runs of an agent in the whole fleet; `calls`: so many calls there of the tools that a pattern names.
    `retry_failed`: runs whose agent raised are tried again, after growing pauses. `patience_s`: for how long a server
    that is away is waited for."""

    names: frozenset[str]
    at_once: int = 8
    limits: Mapping[str, int] = field(default_factory=dict[str, int])
    calls: Mapping[str, int] = field(default_factory=dict[str, int])
    retry_failed: bool = False
    on_divergence: str = "brief"
    patience_s: float = 30.0


@dataclass(frozen=True, slots=True)
class _Tried:
    """A run that was advanced here: how it stood before, and how many lives before that had found it so. `until_s`: the
    next one is not to begin before that (monotonic)."""

    seq: int
    steps: int
    idle: int
    until_s: float | None = None


class FleetWorker:
    """One worker on the store of `house`, which is at `conninfo`. `find` is the agent of a name in a log; it raises
    Misuse where it may not be run, or cannot be imported; `allowed` says which. `tell` is given a run (or nothing) and
    what has become of it."""

    def __init__(
        self, house: House, store: PostgresStore, conninfo: str, find: Callable[[str], Agent],
        allowed: Callable[[str], bool], tell: Callable[[str, str], None], settings: Settings,
    ) -> None:  # fmt: skip
        self._house = house
        self._store = store
        self._find = find
        self._allowed = allowed
        self._tell = tell
        self._settings = settings
        self._calls = Calls(store, settings.calls)
        if settings.calls:
            house.turnstile = self._calls
        heard = {WORD: self._heard, CALL: self._calls.heard}
        connector = Patient(conninfo, where=store.where, patience_s=settings.patience_s, heard=heard)
        self._queue = Queue(connector, store.worker.id)
        self._jobs = Jobs(connector, self._enrol)
        self._app = App(connector=connector)
        self._app.job_manager = self._jobs
        self._app.task(name="advance", pass_context=True)(self._job)
        self._watched = WatchedStore(store, self._queue)
        self._agents: dict[str, Agent | None] = {}
        self._tried: dict[str, _Tried] = {}
        self._lives: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._words: set[asyncio.Task[None]] = set()
        self._room = Room()
        self._full: set[str] = set()
        self._full_s = 0.0
        self._stopping = False
        self._procrastinate: Procrastinate | None = None
        self._failure: Stopped | None = None

    async def _enrol(self, number: int) -> None:
        await self._queue.enrol(number, self._settings.names, self._settings.at_once)

    # --- its own life ---

    async def run(self) -> None:
        """Work until told to stop. Raises Stopped if the store can no longer be written or trusted."""
        modules = {name.partition(":")[0] for name in self._settings.names}
        self._store.committer.busy = lambda: True  # a worker shows that it lives, whether it holds anything or not
        async with self._app.open_async():
            worker = self._procrastinate = Procrastinate(
                self._app, queues=[QUEUE, *sorted(map(queue_of, modules))], concurrency=self._settings.at_once,
                fetch_job_polling_interval=POLL_S, abort_job_polling_interval=3600.0, install_signal_handlers=False,
                delete_jobs="always", stalled_worker_timeout=7 * 24 * 3600.0,
            )  # fmt: skip
            work = (self._keep(), self._look_for_words(), self._look_at_the_store())
            beside = [asyncio.create_task(each) for each in work]
            try:
                if not self._stopping:
                    await worker.run()
                if not self._stopping:
                    self._fail(Unwritable("the database of the jobs does not answer", where=self._store.where))
            except ConnectorException as error:
                self._fail(Stopped(f"the jobs cannot be read: {error.__cause__}", where=self._store.where))
            except Stopped as error:
                self._fail(error)
            finally:
                for each in beside:
                    each.cancel()
                await asyncio.wait(beside)
                with contextlib.suppress(HoldfastError, ConnectorException):
                    await self._queue.leave()
                self._calls.close()
        if self._failure is not None:
            raise self._failure

    @property
    def advancing(self) -> int:
        """How many runs are under way here."""
        return len(self._lives)

    def stop(self) -> None:
        """Take nothing more; bring what is under way to its seal; give the claims back."""
        self._stopping = True
        if self._procrastinate is not None:
            self._procrastinate.stop()
        for _, life in self._lives.values():
            life.cancel()
        self._aside(self._queue.drain())

    def _fail(self, error: Stopped) -> None:
        self._failure = self._failure or error
        if not self._stopping:
            self.stop()

    def _aside(self, work: Coroutine[object, object, None]) -> None:
        """Do something that nobody waits for."""

        async def done() -> None:
            with contextlib.suppress(HoldfastError, ConnectorException):
                await work

        task = asyncio.get_running_loop().create_task(done())
        self._words.add(task)
        task.add_done_callback(self._words.discard)

    async def _keep(self) -> None:
        keeper = Keeper(
            self._queue, self._jobs, self._store.claim_ttl_s, self._enrol, lambda what: self._tell("", what)
        )
        try:
            await keeper.keep()
        except Stopped as error:
            self._fail(error)
        except ConnectorException as error:
            self._fail(Stopped(f"the fleet cannot be kept: {error.__cause__}", where=self._store.where))

    # --- one job ---

    async def _job(self, context: JobContext, run: str) -> None:
        """Look at a run, and advance it if it can go on."""
        try:
            while not self._stopping:
                if await self._turn(run):
                    return
            await self._queue.now(run)
        except Corrupt as error:
            self._tell(run, f"its log cannot be trusted: {error.what} [{error.where}]")
        except Stopped as error:
            self._leave(context)
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must be found by somebody else
            self._leave(context)
            self._tell(run, f"it could not be looked at: {type(error).__name__}: {legible(error, 300)}")
        finally:
            if self._settings.limits:
                with contextlib.suppress(HoldfastError, ConnectorException):
                    await self._queue.turn(run)

    def _leave(self, context: JobContext) -> None:
        if context.job.id is not None:
            self._jobs.leave(context.job.id)

    async def _turn(self, run: str) -> bool:
        """One look at a run, and one life of it if it can go on; whether this job is over."""
        if (wait_s := self._full_s - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
            return False
        branch, owner = await self._owner(run)
        if owner is Owner.LIVING:
            return True  # when it lets go of it, or dies, the run is looked at again
        seen = await self._see(branch, owner)
        match seen.outlook if seen is not None else None:
            case Ready() as ready:
                assert seen is not None
                return await self._go_on(seen, ready)
            case Waits(until_ms=int() as until_ms):
                await self._queue.at(run, until_ms)
            case Failed() as failed if self._settings.retry_failed:
                await self._queue.at(run, retry_ms(failed, self._store.now_ms()))
            case Quarantined(deaths):
                self._tell(run, f"its process has died {deaths} times in a row: left alone until it is resumed")
            case Over():
                await self._queue.forget(run)
            case _:
                pass
        return True

    async def _owner(self, run: str) -> tuple[str, Owner]:
        """The branch that is the run's line, and whether whoever holds it lives, or may."""
        try:
            branch = await line_of(self._store, run)
        except Corrupt:
            branch = f"{run}@{MAIN}"  # what is wrong with the tree, `see` tells
        held = await self._queue.owner(branch)
        if held is None:
            return branch, Owner.NOBODY
        worker, silent_s = held
        if worker is not None and worker.id == self._store.worker.id and run in self._full:
            return branch, Owner.NOBODY  # it was given back, while there was no room to say so
        gone = worker is None or dead(worker) or silent_s > self._store.claim_ttl_s
        return branch, Owner.DEAD if gone else Owner.LIVING

    async def _see(self, branch: str, owner: Owner) -> Seen | None:
        try:
            return await see(self._watched, branch, owner)
        except (Corrupt, Misuse) as error:
            self._tell(run_of(branch), f"its log cannot be read: {error.what} [{error.where or branch}]")
            return None

    async def _go_on(self, seen: Seen, ready: Ready) -> bool:
        """Advance a run, if this worker may, has room, and has not tried in vain a moment ago; whether this job is
        over."""
        run = seen.run
        if not self._allowed(seen.agent):
            if any(queue_of(seen.agent) == queue_of(name) for name in self._settings.names):
                await self._queue.later(run, REFUSED_S)  # others of its module are allowed here, so it would come back
            else:
                await self._queue.move(run, seen.agent)
            return True
        agent = self._agent(run, seen.agent)
        if agent is None:
            await self._queue.later(run, REFUSED_S)
            return True
        if (pause_s := self._pause_s(seen, ready)) > 0:
            await self._queue.later(run, pause_s)
            return True
        most = self._settings.limits.get(seen.agent)
        if most is not None and not await self._queue.sit(run, seen.agent, most):
            return True
        async with self._room.inside(ready.deaths):
            if not self._stopping:
                await self._live(seen, agent)
        return False

    def _pause_s(self, seen: Seen, ready: Ready) -> float:
        """How long a run must wait of which the last life here has done nothing."""
        tried = self._tried.get(seen.run)
        if tried is None or tried.steps != seen.steps or (ready.answered and tried.seq != seen.seq):
            return 0.0
        if tried.until_s is None:
            pause_s = min(PAUSE_S[0] * 2 ** min(tried.idle, 20), PAUSE_S[1])
            tried = replace(tried, idle=tried.idle + 1, until_s=time.monotonic() + pause_s)
            self._remember(seen.run, tried)
        return max(0.0, (tried.until_s or 0.0) - time.monotonic())

    def _remember(self, run: str, tried: _Tried) -> None:
        if len(self._tried) > TRIED:
            self._tried.pop(next(iter(self._tried)))
        self._tried[run] = tried

    def _agent(self, run: str, name: str) -> Agent | None:
        """The agent of this name; None, and said once, if it cannot be imported."""
        if name not in self._agents:
            try:
                self._agents[name] = self._find(name)
            except Misuse as error:
                self._agents[name] = None
                self._tell(run, f"{error.what}\n  fix: {error.fix}")
        return self._agents[name]

    async def _live(self, seen: Seen, agent: Agent) -> None:
        """One life of a run."""
        before = self._tried.get(seen.run)
        idle = before.idle if before is not None and before.steps == seen.steps else 0
        self._remember(seen.run, _Tried(seen.seq, seen.steps, idle))
        life = asyncio.create_task(self._advance(seen, agent), name=f"holdfast {seen.run}")
        self._lives[seen.run] = (seen.branch, life)
        try:
            await asyncio.wait([life])
        finally:
            del self._lives[seen.run]
        life.result()

    async def _advance(self, seen: Seen, agent: Agent) -> None:
        run = seen.run
        self._full.discard(run)
        try:
            await self._house.arun(agent, None, id=run, wait=False, on_divergence=self._settings.on_divergence)
            self._tell(run, "finished")
        except Busy as error:
            self._tried.pop(run, None)
            if isinstance(error, Fenced):
                self._tell(run, error.what)
        except Waiting as waiting:
            self._tell(run, f"waits: {waiting.what}" + (f" [{waiting.where}]" if waiting.where else ""))
        except Cancelled as error:
            self._tell(run, error.what)
        except asyncio.CancelledError:
            self._tell(run, "interrupted")
        except StoreFull as error:
            self._full.add(run)
            self._full_s = time.monotonic() + FULL_S
            self._tell(run, f"{error.what}; it is tried again in {FULL_S:.0f} s")
        except Away as error:  # the others go on, and so does this one when it is back
            self._tell(run, f"{error.what} [{error.where}]; it is tried again")
        except (Stopped, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - an agent may raise whatever it likes, and the others go on
            text = error.what if isinstance(error, HoldfastError) else legible(error, 300)
            self._tell(run, f"the agent failed: {type(error).__name__}: {text}")

    # --- words to runs that are being advanced ---

    def _heard(self, run: str) -> None:
        if run in self._lives and not self._stopping:
            self._aside(self._obey(run))

    async def _obey(self, run: str) -> None:
        """End the life of a run that was cancelled: at once, and not only when it asks for something."""
        branch, life = self._lives[run]
        for entry in await self._store.read(branch, unclaimed=True, newest=1):
            if isinstance(decode(entry.body), WasCancelled):
                life.cancel()

    async def _look_at_the_store(self) -> None:
        """End where it cannot be written any more, also while there is nothing to write."""
        while (wrong := self._store.committer.failed or self._store.read_only) is None:  # noqa: ASYNC110
            await asyncio.sleep(STORE_S)
        self._fail(wrong)

    async def _look_for_words(self) -> None:
        while True:
            await asyncio.sleep(WORDS_S)
            for run in list(self._lives):
                self._heard(run)
            if self._settings.calls:
                await self._calls.tidy()
