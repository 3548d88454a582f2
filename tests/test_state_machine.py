"""A run that is called, killed, resumed and attended to in any order, against a simple model of the world.

The model is a list of what was done and by which key. What the log says is held against it after each step.

Rules
1. A death is a `Killed` at a boundary that was drawn; from that moment on the house places nothing. The next house
   opens what is on the disk, or for the memory store what it held at that moment, and finds the owner dead.
2. The program is a script that only grows, played from its beginning, or from its newest checkpoint, in each life.
3. People tell the truth: a doubt is settled by looking at the world.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdfast import Cancelled, Happened, Held, InDoubt, NotHappened, Refused, Waiting, agent, key, open_store, tool
from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.record import Approval, Intent, Seal, Settled
from holdfast.embedded import House
from holdfast.errors import AwaitingSignal
from holdfast.gateway.history import read_log
from holdfast.store import Draft
from holdfast.store.memory import MemoryStore
from holdfast.store.sqlite import SqliteStore
from tests.crash.conftest import MEMORY
from tests.stage import RUN, Killed, life
from tests.store.shelf import assert_whole

MOST_LIVES = 60
END = "the end"


@dataclass
class Doom:
    """Where this life ends, if it comes there: at a point of a tool's body, or beside an append."""

    where: str = "never"
    nth: int = 0
    dead: bool = False
    counts: Counter[str] = field(default_factory=Counter[str])

    def meet(self, where: str) -> None:
        self.counts[where] += 1
        if self.dead or (where, self.counts[where]) == (self.where, self.nth):
            self.dead = True
            raise Killed


@dataclass(frozen=True)
class Deed:
    """Something that was done in the world."""

    tool: str
    name: str
    key: str
    answer: str


class World:
    """Everything that was done, whatever became of those who did it."""

    def __init__(self) -> None:
        self.doom = Doom()
        self.deeds: list[Deed] = []
        self.gone: set[str] = set()
        self.entered: Counter[tuple[str, str]] = Counter()

    def act(self, tool: str, name: str, *, once: bool = False) -> str:
        self.doom.meet("acting")
        self.entered[tool, key()] += 1
        known = [deed for deed in self.deeds if deed.key == key()] if once else []
        if not known:
            self.deeds.append(Deed(tool, name, key(), f"{tool} {name} {len(self.deeds)}"))
        self.doom.meet("acted")
        return (known or self.deeds)[-1].answer

    def take_back(self, tool: str, name: str) -> None:
        self.gone |= {deed.answer for deed in self.deeds if (deed.tool, deed.name) == (tool, name)}

    def living(self, of_key: str) -> list[str]:
        return [deed.answer for deed in self.deeds if deed.key == of_key and deed.answer not in self.gone]

    def find(self) -> Happened[str] | NotHappened:
        there = self.living(key())
        return Happened(there[0]) if there else NotHappened("it is not there")


def tools_of(world: World) -> dict[str, Any]:
    """One tool for each way in which a doubt is settled."""

    @tool(kind="read", name="look")
    async def look(name: str) -> str:
        return f"{name} is fine"

    @tool(kind="idempotent", name="put", identity=["name"])
    async def put(name: str) -> str:
        return world.act("put", name, once=True)

    @tool(kind="reversible", name="make", identity=["name"], undo=lambda name: world.take_back("make", name))
    async def make(name: str) -> str:
        return world.act("make", name)

    @tool(kind="irreversible", name="pay", identity=["name"], probe=lambda name: world.find())
    async def pay(name: str) -> str:
        return world.act("pay", name)

    @tool(kind="irreversible", name="mail", identity=["name"])
    async def mail(name: str) -> str:
        return world.act("mail", name)

    @tool(kind="irreversible", name="shout", repeat="each")
    async def shout(name: str) -> str:
        return world.act("shout", name)

    @tool(kind="irreversible", name="alter", identity=["name"], approval="one")
    async def alter(name: str) -> str:
        return world.act("alter", name)

    found = (look, put, make, pay, mail, shout, alter)
    return {made.holdfast.contract.name: made for made in found}


WRITES = ("put", "make", "pay", "mail", "shout", "alter")
CALLS = st.tuples(st.sampled_from(("look", *WRITES)), st.sampled_from("abc"))
DOOMS = st.one_of(
    st.just(("never", 0)),
    st.tuples(st.sampled_from(("acting", "acted")), st.integers(1, 3)),
    st.tuples(st.sampled_from(("before an append", "after an append")), st.integers(1, 12)),
)


class Runs(RuleBasedStateMachine):
    """One run, its lives, and what people do about it."""

    url = "memory://"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.world = World()
        self.tools = tools_of(self.world)
        self.script: list[tuple[str, Any]] = []
        self.told: dict[Any, Any] = {}
        self.signals: list[int] = []
        self.ending: Any = None
        self.refused: set[str] = set()
        self.deeds_at_cancel: int | None = None
        self.house = self.open(None)

    @initialize(stateful=st.booleans())
    def choose(self, *, stateful: bool) -> None:
        self.agent = agent(state=dict)(self.play) if stateful else agent(self.play)
        self.stateful = stateful

    # --- houses ---

    def open(self, before: House | None) -> House:
        """The house that comes after one that has died."""
        house = open_store(self.url.format(folder=self.folder))
        store = cast("Any", house.store)
        if isinstance(store, SqliteStore):
            # Once it has died, this process's number belongs to somebody who was born later.
            store.worker = replace(store.worker, born="long ago")
        elif before is not None:
            dead = cast("MemoryStore", before.store)
            store._entries, store._blobs, store._epochs = dead._entries, dead._blobs, dead._epochs
        honest = store.append

        async def append(branch: str, drafts: Sequence[Draft], **how: Any) -> list[Entry]:
            if how["epoch"]:
                self.world.doom.meet("before an append")
            placed = await honest(branch, drafts, **how)
            if how["epoch"]:
                self.world.doom.meet("after an append")
            return placed

        store.append = append
        return house

    def drop(self) -> None:
        """The process is gone: nothing is given back, nothing is said."""
        dead, self.world.doom = self.house, Doom()
        if isinstance(dead.store, SqliteStore):
            dead.store.committer.close()
        self.house = self.open(dead)

    # --- the program ---

    async def play(self, run: Any, task: Any) -> int:
        at = run.state.get("at", 0) if self.stateful else 0
        for place in range(at, len(self.script)):
            what, about = self.script[place]
            match what:
                case "call":
                    self.hear(place, await self.called(*about))
                case "together":
                    self.hear(place, list(await asyncio.gather(*(self.called(*each) for each in about))))
                case "clock":
                    self.hear(place, await run.now())
                case "think":
                    self.hear(place, await run.decide(self.model, about))
                case "wait":
                    self.hear(place, await run.wait_for("news"))
                case _:
                    if self.stateful:
                        run.state["at"] = place + 1
                    await run.checkpoint()
        await run.wait_for(END)
        return len(self.script)

    async def called(self, name: str, on: str) -> Any:
        """What certainly did not happen is tried again; what people refused is not."""
        while True:
            try:
                return await self.tools[name](on)
            except NotHappened:
                continue
            except Refused:
                return "refused"

    async def model(self, prompt: int) -> str:
        self.thoughts = getattr(self, "thoughts", 0) + 1
        return f"thought {self.thoughts}"

    def hear(self, place: int, answer: Any) -> None:
        """INVARIANT: what a program was told once, at one place, it is told in each life."""
        assert self.told.setdefault(place, answer) == answer, f"{self.script[place]} was answered anew"

    # --- rules: the program grows ---

    @rule(call=CALLS)
    def call(self, call: tuple[str, str]) -> None:
        self.script.append(("call", call))

    @rule(calls=st.lists(CALLS, min_size=2, max_size=4))
    def call_together(self, calls: list[tuple[str, str]]) -> None:
        self.script.append(("together", calls))

    @rule(what=st.sampled_from(("clock", "think", "wait", "checkpoint")))
    def ask(self, what: str) -> None:
        self.script.append((what, len(self.script) % 2))

    # --- rules: lives and deaths ---

    @rule(doom=DOOMS)
    def resume(self, doom: tuple[str, int]) -> None:
        self.world.doom = Doom(*doom)
        self.ending = life(self.house, self.agent)
        assert isinstance(self.ending, Waiting | Killed | Cancelled), f"a life came to {self.ending!r}"
        if self.world.doom.dead:
            self.drop()
        self.world.doom = Doom()

    @rule()
    def move_house(self) -> None:
        """Close and open again."""
        if self.url != "memory://":
            self.house.close()
            self.house = self.open(None)

    # --- rules: people ---

    @precondition(lambda self: isinstance(self.ending, Held) and not self.has_ended())
    @rule()
    def approve(self) -> None:
        self.house.approve(self.ending.where, by="ann")
        self.ending = None

    @precondition(lambda self: isinstance(self.ending, Held) and not self.has_ended())
    @rule()
    def refuse(self) -> None:
        self.refused.add(self.ending.where)
        self.house.refuse(self.ending.where, by="ann", reason="no")
        self.ending = None

    @precondition(lambda self: isinstance(self.ending, InDoubt))
    @rule()
    def settle(self) -> None:
        seq = int(self.ending.where.rpartition("@")[2])
        intent = cast("Intent", self.log()[seq - 1])
        there = self.world.living(intent.key)
        verdict: Any = {"happened": there[0]} if there else {"did_not_happen": "it is not there"}
        self.house.settle(self.ending.where, by="ann", **verdict)
        self.ending = None

    @precondition(lambda self: self.log())
    @rule()
    def signal(self) -> None:
        self.signals.append(len(self.signals))
        self.house.signal(RUN, "news", self.signals[-1])

    @precondition(lambda self: len(self.script) > 10 and self.log() and not self.has_ended())
    @rule()
    def cancel(self) -> None:
        self.house.cancel(RUN, by="ann")
        self.deeds_at_cancel = len(self.world.deeds)

    def has_ended(self) -> bool:
        return self.deeds_at_cancel is not None

    # --- what always holds ---

    def log(self) -> list[Any]:
        return [decode(entry.body) for entry in asyncio.run(self.house.store.read(f"{RUN}@main"))]

    @invariant()
    def the_chain_holds_and_the_log_can_be_read(self) -> None:
        assert_whole(f"{RUN}@main", asyncio.run(self.house.store.read(f"{RUN}@main")))
        asyncio.run(read_log(self.house.store, f"{RUN}@main"))

    @invariant()
    def everything_in_the_world_is_in_the_log(self) -> None:
        intents = {(record.tool, record.key) for record in self.log() if isinstance(record, Intent)}
        assert {(deed.tool, deed.key) for deed in self.world.deeds} <= intents

    @invariant()
    def what_is_sealed_as_happened_is_there_once(self) -> None:
        found = self.log()
        for record in found:
            if isinstance(record, Seal | Settled) and record.intent and isinstance(record.outcome, Happened):
                intent = found[record.intent - 1]
                if intent.undoes is None:
                    assert len(self.world.living(intent.key)) == 1, f"{intent.tool} is there more or less than once"

    @invariant()
    def what_cannot_be_taken_back_is_never_repeated_blindly(self) -> None:
        done = Counter((deed.tool, deed.key) for deed in self.world.deeds if deed.tool != "make")
        assert not [each for each, times in done.items() if times > 1]
        entered = {each: times for each, times in self.world.entered.items() if each[0] in {"mail", "shout", "alter"}}
        assert set(entered.values()) <= {1}, "a body that nobody can ask about was entered twice under one key"

    @invariant()
    def nothing_that_needs_approval_happens_without_one(self) -> None:
        found = self.log()
        approved = [record.approval for record in found if isinstance(record, Intent) and record.tool == "alter"]
        assert len(set(approved)) == len(approved)
        assert all(isinstance(found[seq - 1], Approval) for seq in approved)

    @invariant()
    def signals_are_heard_in_their_order_and_once(self) -> None:
        waits = [place for place, (what, _) in enumerate(self.script) if what == "wait"]
        heard = [self.told[place] for place in waits if place in self.told]
        assert heard == list(range(len(heard)))

    @invariant()
    def nothing_is_begun_after_a_cancellation(self) -> None:
        assert self.deeds_at_cancel in {None, len(self.world.deeds)}

    # --- the end ---

    def teardown(self) -> None:
        try:
            if hasattr(self, "agent"):
                self.come_to_the_end()
            self.house.close()
        finally:
            shutil.rmtree(self.folder)

    def come_to_the_end(self) -> None:
        for _ in range(MOST_LIVES):
            ending = self.ending = life(self.house, self.agent)
            match ending:
                case Held():
                    self.approve()
                case InDoubt():
                    self.settle()
                case AwaitingSignal() if END in ending.what:
                    self.house.signal(RUN, END)
                case AwaitingSignal():
                    self.signal()
                case _:
                    break
        if self.has_ended():
            assert isinstance(ending, Cancelled)
            return
        assert ending == len(self.script), f"the run does not come to its end, but to {ending!r}"
        self.census()

    def census(self) -> None:
        """Every call of the script is in the world: once for each name, or once for each call, or was refused."""
        asked = [each for what, about in self.script for each in _calls(what, about)]
        living = Counter((deed.tool, deed.name) for deed in self.world.deeds if deed.answer not in self.world.gone)
        expected = {each: asked.count(each) if each[0] == "shout" else 1 for each in asked if each[0] != "look"}
        if self.refused:  # only these may be missing
            expected = {each: times for each, times in expected.items() if each[0] != "alter" or each in living}
        assert living == expected


def _calls(what: str, about: Any) -> list[tuple[str, str]]:
    return [about] if what == "call" else about if what == "together" else []


class RunsOnDisk(Runs):
    url = "sqlite:///{folder}/runs.db?anchor={folder}/anchor"


QUICK = settings(max_examples=20, stateful_step_count=25)
LONG = settings(max_examples=1500, stateful_step_count=60)


@pytest.mark.parametrize("machine", [Runs, RunsOnDisk])
def test_no_order_of_calls_deaths_and_verdicts_does_anything_twice(machine: type[Runs]) -> None:
    run_state_machine_as_test(machine, settings=QUICK)


@pytest.mark.soak
@pytest.mark.parametrize("machine", [Runs, RunsOnDisk])
def test_no_order_of_calls_deaths_and_verdicts_does_anything_twice_for_long(machine: type[Runs]) -> None:
    run_state_machine_as_test(machine, settings=LONG)
