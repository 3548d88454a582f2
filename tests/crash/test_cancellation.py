"""Whoever waits for a call gives up, at each boundary of it: the call is brought to its end all the same.

The boundaries are those of the kill matrix, with one more: `during` an append, when it is under way and nobody knows
what became of it. The waiting ends as asyncio ends it: `task.cancel()`, `asyncio.timeout`, `asyncio.wait_for`, or a
task group in which somebody else has failed.

Rules
1. A cancellation is no crash: the process lives, so it ends what it has begun, and leaves no doubt to people.
2. Nothing here waits for a clock to run: where a timeout must end at a boundary, the loop's clock is put forward there.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast import Run, agent, open_store
from holdfast.agent.run import Agent
from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.record import Intent, Settled
from holdfast.embedded import House
from holdfast.store import Draft
from holdfast.store.committer import Committer, Job
from holdfast.store.sqlite import SqliteStore
from tests.crash import tools
from tests.crash.deaths import Boundary, Points
from tests.crash.programs import errand, plain_errand, stages, think
from tests.crash.tools import ALL, world
from tests.crash.world import World
from tests.stage import Killed
from tests.store.shelf import assert_whole

NAMES = ["a", "b"]
TURNS = 12  # of the loop: enough for a cancellation to reach whoever waits
LONG_S = 3600.0
WAYS = ("cancel", "timeout", "wait_for", "group")


class GaveUp(Exception):
    """Whoever waited no longer does."""


class Alarm:
    """Ends the waiting of one task when a boundary is reached, once, and lets that be noticed before it goes on."""

    def __init__(self, boundary: str) -> None:
        self.boundary = Boundary.of(boundary)
        self.rung = False
        self._counts: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: Callable[[], object] = lambda: None

    def set(self, end: Callable[[], object]) -> None:
        """What is done at the boundary."""
        self._loop, self._end = asyncio.get_running_loop(), end

    def ring(self) -> bool:
        if self.rung or self._loop is None:
            return False
        self.rung = True
        self._end()
        return True

    async def pause(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    # --- where it is met ---

    def reached(self) -> None:
        """In a tool's body: in the loop, where the next `await` of the body lets it be noticed, or in a thread."""
        if self._loop is None:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            noticed = threading.Event()

            async def ring() -> None:
                self.ring()
                await self.pause()
                noticed.set()

            asyncio.run_coroutine_threadsafe(ring(), self._loop)
            assert noticed.wait(20), "the loop stands still"
        else:
            self.ring()

    @property
    def side(self) -> str:
        return self.boundary.side

    @property
    def what(self) -> str:
        return self.boundary.what

    @property
    def nth(self) -> int:
        return self.boundary.nth

    async def append(self, honest: Callable[..., Awaitable[list[Entry]]], drafts: Sequence[Draft]) -> list[Entry]:
        """An append of the product, and what happens to it here."""
        places = any(type(decode(draft.body)).__name__ == self.what for draft in drafts)
        self._counts[self.what] += places
        here = places and self._counts[self.what] == self.nth
        if here and self.side == "before" and self.ring():
            await self.pause()
        if here and self.side == "during":
            self.ring()  # the cancellation arrives where the append waits for its turn
        placed = await honest()
        if here and self.side == "after" and self.ring():
            await self.pause()
        return placed


@contextlib.contextmanager
def armed(alarm: Alarm, ground: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """In this block the product meets the alarm."""
    points, honest, at_once = Points(), SqliteStore.append, Committer.now
    points.armed.append(alarm)  # type: ignore[arg-type]

    async def append(self: SqliteStore, branch: str, drafts: Sequence[Draft], **how: Any) -> list[Entry]:
        return await alarm.append(lambda: honest(self, branch, drafts, **how), drafts)

    def now(self: Committer, job: Job) -> bool:
        return False if alarm.side == "during" else at_once(self, job)  # as when somebody else is writing

    with monkeypatch.context() as patch:
        patch.setattr(tools, "point", points)
        patch.setattr(tools.slowness, "draw", lambda: 0.001)  # an `await` that takes a turn, in which it is noticed
        patch.setattr(SqliteStore, "append", append)
        patch.setattr(Committer, "now", now)
        yield tools.enter(ground / "world")


# --- the ways in which a waiting ends ---


async def cancelled(work: Callable[[], Awaitable[Any]], alarm: Alarm) -> Any:
    task = asyncio.ensure_future(work())
    alarm.set(task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise GaveUp from None


def put_forward() -> None:
    """The clock of this loop: every timer that runs has run out."""
    loop = asyncio.get_running_loop()
    honest = loop.time
    loop.time = lambda: honest() + 2 * LONG_S  # type: ignore[method-assign]


async def timed_out(work: Callable[[], Awaitable[Any]], alarm: Alarm) -> Any:
    alarm.set(put_forward)
    try:
        async with asyncio.timeout(LONG_S):
            return await work()
    except TimeoutError:
        raise GaveUp from None


async def waited_for(work: Callable[[], Awaitable[Any]], alarm: Alarm) -> Any:
    alarm.set(put_forward)
    try:
        return await asyncio.wait_for(work(), LONG_S)
    except TimeoutError:
        raise GaveUp from None


async def grouped(work: Callable[[], Awaitable[Any]], alarm: Alarm) -> Any:
    failing, done = asyncio.Event(), asyncio.Event()
    alarm.set(failing.set)

    async def fail() -> None:
        await failing.wait()
        if not done.is_set():
            raise GaveUp

    async def wait() -> Any:
        try:
            return await work()
        finally:
            done.set()
            failing.set()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            waiting = group.create_task(wait())
        return waiting.result()
    except* GaveUp:
        pass
    raise GaveUp


GIVE_UP = dict(zip(WAYS, (cancelled, timed_out, waited_for, grouped), strict=True))


# --- the trial ---


class Trial:
    """One run in this process: its lives, its log, its world."""

    def __init__(self, ground: Path) -> None:
        self.url = f"sqlite:///{ground}/runs.db?anchor={ground}/anchor"

    @contextlib.asynccontextmanager
    async def house(self) -> AsyncIterator[House]:
        async with open_store(self.url) as house:
            yield house

    async def live(self, played: Agent, task: Any, alarm: Alarm | None = None, way: str = "cancel") -> Any:
        """One life; with an alarm, one whose whole run is given up at the boundary."""
        async with self.house() as house:
            run = lambda: house.arun(played, task, id="trial", wait=False)  # noqa: E731
            return await (run() if alarm is None else GIVE_UP[way](run, alarm))

    async def records(self) -> list[Any]:
        """The log, which must be whole."""
        async with self.house() as house:
            entries = await house.store.read("trial@main")
        assert_whole("trial@main", entries)
        return [decode(entry.body) for entry in entries]

    async def census(self, tool: str, names: Sequence[str]) -> None:
        """Everything once in the world, everything in the log, no doubt left to anybody."""
        found = await self.records()
        assert not [record for record in found if isinstance(record, Settled) and record.by != "probe"]
        assert not world().changed_minds()
        if tool == "look":
            return
        assert {name: len(world().living(tool, name)) for name in names} == dict.fromkeys(names, 1)
        assert not world().done_twice()
        intents = [record for record in found if isinstance(record, Intent) and record.tool == tool]
        assert len(intents) == len(names), "the log tells of more, or of less, than was done"


OF_A_READ = ["in acting 1", "in acted 1", "before Seal 1", "during Seal 1", "after Seal 1"]
OF_A_WRITE = ["before Intent 1", "during Intent 1", "after Intent 1", *OF_A_READ]
AWAITED = ("put", "build", "ring", "pay")
IN_THREADS = ("store", "make", "mail")
TOOLS = ("look", *AWAITED, *IN_THREADS)
IN_EVERY_WAY = ("look", "put", "make", "pay", "mail")
# The seal of an idempotent effect leaves with what comes next, when nobody waits for its call any more.
LAZY = {"put", "store"}


def boundaries(tool: str) -> list[str]:
    if tool == "look":
        return OF_A_READ
    return [each for each in OF_A_WRITE if tool not in LAZY or "Seal" not in each]


def ways(tool: str, boundary: str) -> tuple[str, ...]:
    """Those that can be noticed there. An asynchronous body ends in the same turn in which it has acted, so a timer is
    too late; a read does so from its beginning."""
    hasty = boundary == "in acted 1" or (tool == "look" and boundary == "in acting 1")
    if (tool not in IN_THREADS and hasty) or tool not in IN_EVERY_WAY:
        return ("cancel",)
    return WAYS


# --- one call is given up ---


@pytest.mark.parametrize(
    ("tool", "boundary", "way"),
    [(tool, where, way) for tool in TOOLS for where in boundaries(tool) for way in ways(tool, where)],
)
async def test_a_call_that_was_given_up_is_carried_out_once_and_answers_the_next_one(
    ground: Path, monkeypatch: pytest.MonkeyPatch, tool: str, boundary: str, way: str
) -> None:
    alarm, trial = Alarm(boundary), Trial(ground)
    gave_up: list[str] = []

    @agent
    async def impatient(run: Run, task: Any) -> list[Any]:
        try:
            await GIVE_UP[way](lambda: run.call(ALL[tool], name="a"), alarm)
        except GaveUp:
            gave_up.append("a")
        return [world().saw(name, await run.call(ALL[tool], name=name)) for name in NAMES]

    with armed(alarm, ground, monkeypatch):
        answers = await trial.live(impatient, None)
        assert alarm.rung, f"the call never came to {boundary}"
        assert gave_up == ["a"], "nobody gave up"
        await trial.census(tool, NAMES)
        assert await trial.live(impatient, None) == answers, "a finished run gives its answer again"


@pytest.mark.parametrize("boundary", OF_A_WRITE)
@pytest.mark.parametrize("tool", ["make", "mail", "pay"])
async def test_a_run_that_ends_without_a_call_that_was_given_up_has_carried_it_out(
    ground: Path, monkeypatch: pytest.MonkeyPatch, tool: str, boundary: str
) -> None:
    alarm, trial = Alarm(boundary), Trial(ground)

    @agent
    async def careless(run: Run, task: Any) -> str:
        with contextlib.suppress(GaveUp):
            await cancelled(lambda: run.call(ALL[tool], name="a"), alarm)
        return "done"

    with armed(alarm, ground, monkeypatch):
        assert await trial.live(careless, None) == "done"
        assert alarm.rung
        await trial.census(tool, ["a"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("boundary", ["before Decision 1", "during Decision 1", "after Decision 1"])
async def test_a_decision_that_was_given_up_leaves_a_sound_log(
    ground: Path, monkeypatch: pytest.MonkeyPatch, boundary: str, way: str
) -> None:
    alarm, trial = Alarm(boundary), Trial(ground)

    @agent
    async def impatient(run: Run, task: Any) -> Any:
        with contextlib.suppress(GaveUp):
            await GIVE_UP[way](lambda: run.decide(think, "first"), alarm)
        with contextlib.suppress(GaveUp):
            await GIVE_UP[way](run.now, alarm)
        thought = await run.decide(think, "second")
        return [world().saw("second", thought), world().saw("pay", await run.call(ALL["pay"], name="a"))]

    with armed(alarm, ground, monkeypatch):
        answers = await trial.live(impatient, None)
        assert alarm.rung
        await trial.census("pay", ["a"])
        assert await trial.live(impatient, None) == answers
        assert world().asked().count("second") == 1


# --- the whole run is given up ---

OF_A_RUN = [
    *(f"{side} {what} 1" for what in ("Started", "Decision") for side in ("before", "during", "after")),
    *OF_A_WRITE,
    "before Intent 2", "during Intent 2", "after Intent 2", "in acting 2", "in acted 2",
    *(f"{side} {what} 1" for what in ("Draw", "Finished") for side in ("before", "during")),
]  # fmt: skip


async def given_up_and_resumed(trial: Trial, played: Agent, tool: str, alarm: Alarm, way: str) -> None:
    task = {"tool": tool, "names": NAMES}
    with contextlib.suppress(GaveUp):
        await trial.live(played, task, alarm, way)
    assert alarm.rung, "the run never came there"
    await trial.live(played, task)
    await trial.census(tool, NAMES)


@pytest.mark.parametrize("boundary", OF_A_RUN)
@pytest.mark.parametrize("tool", ["put", "ring"])  # a synchronous tool holds the loop of an asynchronous agent
async def test_a_run_that_was_given_up_goes_on_where_it_was(
    ground: Path, monkeypatch: pytest.MonkeyPatch, tool: str, boundary: str
) -> None:
    alarm = Alarm(boundary)
    with armed(alarm, ground, monkeypatch):
        await given_up_and_resumed(Trial(ground), errand, tool, alarm, "cancel")


@pytest.mark.parametrize("boundary", OF_A_RUN)
@pytest.mark.parametrize("way", [way for way in WAYS if way != "cancel"])
async def test_a_run_goes_on_in_whatever_way_it_was_given_up(
    ground: Path, monkeypatch: pytest.MonkeyPatch, way: str, boundary: str
) -> None:
    alarm = Alarm(boundary)
    with armed(alarm, ground, monkeypatch):
        await given_up_and_resumed(Trial(ground), errand, "pay", alarm, way)


@pytest.mark.parametrize("boundary", OF_A_RUN)
@pytest.mark.parametrize("tool", ["store", "mail"])
async def test_a_synchronous_run_that_was_given_up_goes_on_where_it_was(
    ground: Path, monkeypatch: pytest.MonkeyPatch, tool: str, boundary: str
) -> None:
    alarm = Alarm(boundary)
    with armed(alarm, ground, monkeypatch):
        await given_up_and_resumed(Trial(ground), plain_errand, tool, alarm, "cancel")


OF_A_STAGE = [f"{side} Checkpoint {nth}" for nth in (1, 2) for side in ("before", "during", "after")]


@pytest.mark.parametrize("boundary", OF_A_STAGE)
@pytest.mark.parametrize("tool", ["put", "ring"])
async def test_a_run_that_was_given_up_goes_on_from_its_newest_checkpoint(
    ground: Path, monkeypatch: pytest.MonkeyPatch, tool: str, boundary: str
) -> None:
    alarm = Alarm(boundary)
    with armed(alarm, ground, monkeypatch):
        await given_up_and_resumed(Trial(ground), stages, tool, alarm, "cancel")
        assert len(world().asked()) == len(NAMES), "the model was asked again"


@pytest.mark.parametrize("boundary", OF_A_STAGE[:3])
async def test_what_a_run_is_given_behind_a_checkpoint_that_was_given_up_stays_the_same(
    ground: Path, monkeypatch: pytest.MonkeyPatch, boundary: str
) -> None:
    alarm, trial, lives = Alarm(boundary), Trial(ground), Counter[str]()

    @agent(state=dict)
    async def staged(run: Run, task: Any) -> Any:
        lives["lives"] += 1
        if "begun" not in run.state:
            run.state["begun"] = world().saw("the clock before", await run.now())
            with contextlib.suppress(GaveUp):
                await cancelled(run.checkpoint, alarm)
        world().saw("the clock behind", await run.now())
        await ALL["ring"]("a")
        if lives["lives"] == 1:
            raise Killed
        return run.state["begun"]

    with armed(alarm, ground, monkeypatch):
        with contextlib.suppress(Killed):
            await trial.live(staged, None)
        assert alarm.rung
        await trial.live(staged, None)
        await trial.census("ring", ["a"])


# --- at any turn of the loop ---


@pytest.mark.parametrize("busy", [False, True])
async def test_a_run_that_is_given_up_at_any_turn_of_the_loop_can_be_taken_up_by_the_same_process(
    ground: Path, monkeypatch: pytest.MonkeyPatch, *, busy: bool
) -> None:
    if busy:
        monkeypatch.setattr(Committer, "now", lambda _committer, _job: False)  # as when somebody else is writing
    tools.enter(ground / "world")
    given_up = 0
    async with open_store(Trial(ground).url) as house:
        for turns in range(40):
            run, names = f"run-{turns}", [f"{turns}-a"]
            task = {"tool": "pay", "names": names}
            waiting = asyncio.ensure_future(house.arun(errand, task, id=run, wait=False))
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            try:
                await waiting
            except asyncio.CancelledError:
                given_up += 1
            answer = await house.arun(errand, task, id=run, wait=False)
            assert answer == world().living("pay", names[0])
            assert len(answer) == 1
    assert given_up > 3
