"""One world, many branches: what any of them did is known to all, and what any of them rests on is not taken back.

Each test is a schedule that the plays of tests/model once found, or that its model says must hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast import Held, InDoubt, NotHappened, agent, open_store, tool
from holdfast.core.codec import decode
from holdfast.core.effect import NotHappened as NotHappenedSeal
from holdfast.core.record import Adopted, Attempt, Decision, Intent, Seal
from holdfast.embedded import House
from tests.stage import Killed, life, of

Script = list[tuple[str, str]]


class Town:
    """A world with a few tools, and the scripts of the branches. `fails`: what the next calls and undos come to;
    `lost`: how many answers get lost."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.made: list[str] = []
        self.paid: list[str] = []
        self.put: list[str] = []
        self.gone: list[str] = []
        self.lost = 0
        self.scripts: dict[str, Script] = {}
        self.fails: list[BaseException | None] = []
        self.told: dict[str, list[Any]] = {}
        self.tools = self.declared()
        self.agent = agent(self.play)

    def stumble(self) -> None:
        failure = self.fails.pop(0) if self.fails else None
        if failure is not None:
            raise failure

    def declared(self) -> dict[str, Any]:
        def take_back(name: str, size: str, answer: str | None) -> None:
            self.stumble()
            self.gone.append(answer or "?")

        @tool(kind="reversible", name="town.make", identity=["name", "size"], resource=["name"], undo=take_back)
        async def make(name: str, size: str) -> str:
            self.made.append(f"{name}{size} {len(self.made)}")
            if self.lost:
                self.lost -= 1
                raise ConnectionError("no answer")
            return self.made[-1]

        @tool(kind="irreversible", name="town.pay", repeat="each")
        async def pay(name: str, size: str) -> str:
            self.stumble()
            self.paid.append(f"{name}{size} {len(self.paid)}")
            return self.paid[-1]

        @tool(kind="irreversible", name="town.fee", identity=["name"])
        async def fee(name: str, size: str) -> str:
            self.stumble()
            self.paid.append(f"{name}{size} {len(self.paid)}")
            return self.paid[-1]

        @tool(kind="idempotent", name="town.put", repeat="each")
        async def put(name: str, size: str) -> str:
            self.stumble()
            self.put.append(f"{name}{size}")
            return self.put[-1]

        return {"make": make, "pay": pay, "put": put, "fee": fee}

    async def play(self, run: Any, task: Any) -> list[Any]:
        told = self.told[run.branch] = []
        await run.now()  # the place at which branches are begun
        for name_of_tool, what in self.scripts[run.branch]:
            if name_of_tool == "think":
                await run.decide(lambda thought: thought, what)
                continue
            try:
                told.append(await self.tools[name_of_tool](what[0], what[1:]))
            except NotHappened:
                told.append(None)
        return told

    def run(self, branch: str, *script: str) -> Any:
        """A life of the branch, whose script is `TOOL WHAT` for each call; what it comes to."""
        self.scripts[branch] = [(each.split()[0], each.split()[1]) for each in script]
        return life(self.house, self.agent, branch=branch)

    def seq(self, branch: str, kind: type[Any], number: int = -1) -> int:
        """Where a record of this kind stands."""
        entries = asyncio.run(self.house.store.read(f"r@{branch}"))
        return [entry.seq for entry in entries if isinstance(decode(entry.body), kind)][number]


START = "r@3"  # after the claim, the start and the clock


@pytest.fixture
def town() -> Iterator[Town]:
    with open_store("memory://") as house:
        yield Town(house)


def test_what_was_refused_and_then_done_on_another_branch_is_not_done_again(town: Town) -> None:
    town.fails = [NotHappened("no")]
    assert town.run("main", "pay a1", "pay a1") == [None, "a1 0"]
    town.house.fork(START, by="ann")
    assert town.run("b2", "pay a1", "pay a1") == ["a1 0", "a1 1"], "one is adopted, and only once"
    assert len(town.paid) == 2


def test_what_may_be_done_once_is_not_done_again_by_a_branch_that_was_not_refused(town: Town) -> None:
    town.fails = [NotHappened("no")]
    assert town.run("main", "fee a1", "fee a1") == [None, "a1 0"]
    town.house.fork(START, by="ann")
    assert town.run("b2", "fee a1") == ["a1 0"]


def test_what_was_done_anew_after_another_branch_took_it_back_is_still_done_once(town: Town) -> None:
    town.run("main", "make a1")
    town.house.fork(START, by="ann")
    assert town.run("b2", "make a2", "make a1", "make a1") == ["a2 1", "a1 2", "a1 2"]
    assert town.gone == ["a1 0"]


def test_what_a_branch_inherited_as_adopted_is_not_taken_back(town: Town) -> None:
    town.run("main", "make a1")
    town.house.fork(START, by="ann")
    town.run("b2", "make a1")
    town.house.fork(f"r@b2:{town.seq('b2', Adopted)}", kind="what-if", by="ann")
    town.house.fork(START, by="ann")
    assert isinstance(town.run("b4", "make a2"), Held)
    assert town.gone == []


def test_what_an_open_branch_inherited_is_not_taken_back(town: Town) -> None:
    town.run("main", "make a1")
    town.house.fork(f"r@{town.seq('main', Intent)}", kind="what-if", by="ann")
    town.house.fork(START, by="ann")
    assert isinstance(town.run("b3", "make a2"), Held)
    assert town.gone == []


def test_a_branch_that_takes_another_way_does_not_take_back_what_its_parent_rests_on(town: Town) -> None:
    town.run("main", "make a1", "think twice")
    town.house.fork(f"r@{town.seq('main', Intent)}", kind="what-if", by="ann")
    assert isinstance(town.run("b2", "make a2"), Held)
    assert town.gone == []


def test_what_an_heir_took_back_is_not_adopted_by_others(town: Town) -> None:
    town.run("main", "make a1")
    town.house.fork(f"r@{town.seq('main', Intent)}", by="ann")
    assert town.run("b2", "make a2") == ["a2 1"]
    assert town.gone == ["a1 0"]
    town.house.fork(START, by="ann")
    town.run("b3", "make a1")
    assert town.told["b3"] == ["a1 2"]


def test_an_undo_that_died_is_brought_to_its_end_before_the_same_is_done_anew(town: Town) -> None:
    town.run("main", "make a1")
    town.house.fork(START, by="ann")
    town.fails = [Killed()]
    assert isinstance(town.run("b2", "make a2"), Killed)
    town.house.fork(START, by="ann")
    assert town.run("b3", "make a1") == ["a1 1"]
    assert town.gone == ["a1 0"]


def test_who_begins_after_an_undo_knows_of_it_though_it_only_adopted_what_is_gone(town: Town) -> None:
    town.run("main", "make a1")
    town.house.fork(START, by="ann")
    town.run("b2", "make a1", "think once")
    town.house.fork(START, by="ann")
    assert town.run("b3", "make a2") == ["a2 1"]
    assert town.gone == ["a1 0"]
    town.house.fork(f"r@b2:{town.seq('b2', Adopted)}", by="ann")
    assert town.run("b4", "make a1") == ["a1 2"]


def test_nobody_begins_on_what_is_just_being_taken_back(town: Town) -> None:
    town.run("main", "make a1")
    town.house.fork(START, by="ann")
    town.run("b2", "make a1", "think once")
    town.house.fork(START, by="ann")
    town.fails = [Killed()]
    assert isinstance(town.run("b3", "make a2"), Killed)
    with pytest.raises(InDoubt):
        town.house.fork(f"r@b2:{town.seq('b2', Adopted)}", by="ann")


def test_a_refusal_is_not_believed_while_another_branch_may_have_sent_the_same(town: Town) -> None:
    town.fails = [Killed()]
    assert isinstance(town.run("main", "put a1"), Killed)
    town.house.fork(START, by="ann")
    town.fails = [NotHappened("no"), None]
    assert town.run("b2", "put a1") == ["a1"]


def test_the_undo_of_a_doubt_takes_back_nothing_that_was_done_after_it(town: Town) -> None:
    """In main it is done, lost, taken back and done again: a fork in the middle of that holds what is there."""
    town.lost = 1
    assert town.run("main", "make a1") == ["a1 1"]
    town.house.fork(f"r@{town.seq('main', Intent, 0)}", by="ann")
    assert town.run("b2", "make a1") == ["a1 1"]
    town.house.fork(START, by="ann")
    assert town.run("b3", "make a1") == ["a1 1"]


def test_an_undo_that_is_refused_is_no_doubt(town: Town) -> None:
    town.run("main", "make a1")
    town.house.fork(START, by="ann")
    town.fails = [NotHappened("it cannot be taken back")]
    assert town.run("b2", "make a2") == [None]
    assert [record.outcome for record in of(Seal, town.house)[1:]] == [NotHappenedSeal("it cannot be taken back")]


def test_everything_on_the_resource_is_taken_back_first_whoever_did_it(town: Town) -> None:
    """Two effects of main: one that the new branch has inherited and does not ask for, one that it has not."""
    town.run("main", "make a1", "think twice", "make a3")
    town.house.fork(f"r@{town.seq('main', Decision)}", by="ann")
    assert town.run("b2", "make a2") == ["a2 2"]
    assert sorted(town.gone) == ["a1 0", "a3 1"]


def test_what_happened_all_the_same_after_the_undo_of_its_doubt_can_still_be_taken_back(town: Town) -> None:
    """The first sending is lost and taken back; the worker dies before it sends again; a person finds it there."""
    honest = town.house.store.append

    async def append(branch: str, drafts: Any, **how: Any) -> Any:
        if any(isinstance(decode(draft.body), Attempt) for draft in drafts):
            raise Killed
        return await honest(branch, drafts, **how)

    town.house.store.append = append
    town.lost = 1
    assert isinstance(town.run("main", "make a1"), Killed)
    town.house.store.append = honest
    town.house.settle(f"r@{town.seq('main', Intent, 0)}", happened="a1 0", by="ann")
    town.house.fork(START, by="ann")
    assert town.run("b2", "make a2") == ["a2 1"]
    assert town.gone == ["?", "a1 0"]
