"""A run whose payloads were pruned: what it did is not done again, what it no longer knows it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast import House, Run, agent, open_store, tool
from holdfast.cli import main
from holdfast.core.entry import Entry
from holdfast.core.record import Finished
from holdfast.core.retention import Extent, Mark
from holdfast.errors import Cancelled, Unknown
from holdfast.gateway.retention import Needs, choose, named
from holdfast.store.prune import Pruner, plan
from holdfast.store.reader import Reader
from tests.stage import Killed, life, of

LONG = "a long answer " * 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


class World:
    """What was done in the world, and the agents that do it. They die at the turn that `until` says."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.until = 99

        @tool(kind="irreversible", name="mail", identity=["to"])
        async def mail(to: str) -> str:
            self.did.append(to)
            return f"mail to {to}: {LONG}"

        @agent
        async def writer(run: Run, task: Any) -> list[str]:
            answers = [await mail("ann")]
            if self.until == 1:
                raise Killed
            return [*answers, await mail("bob")]

        @agent
        async def swallower(run: Run, task: Any) -> str:
            for to in ("ann", "bob"):
                try:
                    await mail(to)
                except Exception:  # noqa: BLE001 - that is what it does
                    await mail("the postmaster")
            return "all is well"

        self.mail, self.writer, self.swallower = mail, writer, swallower


def house_at(path: Path) -> House:
    return open_store(f"sqlite:///{path}?anchor=none")


def prune(path: Path, marks: Sequence[Mark], needed: Callable[[Entry], Iterable[bytes]] | None = None) -> None:
    """Set these marks, and delete what then nothing needs."""
    with Reader(path) as reader, reader.moment():
        found = plan(reader, list(marks), named, needed or Needs(marks), lambda: None)
    with Pruner(path, found, "ann") as pruner:
        pruner.prune(lambda _number: None)


def forget_answers(path: Path) -> None:
    """Of a run that has not ended everything goes but its input, which no rule lets go."""
    prune(path, [Mark("r@main", 99, Extent.ALL)], lambda entry: named(entry) if b'"t":"started"' in entry.body else ())


def test_what_was_sealed_is_not_done_again_when_its_answer_is_gone(path: Path) -> None:
    world = World()
    world.until = 1
    with house_at(path) as house:
        assert isinstance(life(house, world.writer), Killed)
    forget_answers(path)
    world.until = 99
    with house_at(path) as house:
        ended = life(house, world.writer)
    assert isinstance(ended, Unknown)
    assert "it was pruned, or lost" in ended.what
    assert ended.where.startswith("r@main, payload ")
    assert ended.fix
    assert world.did == ["ann"]


def test_an_agent_that_swallows_the_loss_of_an_answer_does_not_go_on(path: Path) -> None:
    world = World()
    world.until = 1
    with house_at(path) as house:
        assert isinstance(life(house, world.writer), Killed)
    forget_answers(path)
    with house_at(path) as house:
        ended = life(house, world.swallower)
        assert not [record for record in of(Finished, house) if record.error is None]
    assert world.did == ["ann"], "it wrote to somebody else, not knowing what it had done"
    assert isinstance(ended, Unknown)


def test_a_run_that_has_ended_and_was_pruned_is_not_begun_anew(path: Path) -> None:
    world = World()
    with house_at(path) as house:
        life(house, world.writer)
    prune(path, [Mark("r@main", 99, Extent.ALL)])
    with house_at(path) as house:
        assert isinstance(life(house, world.writer), Unknown)
    assert world.did == ["ann", "bob"]


def test_a_pruned_run_says_that_its_input_is_another_one(path: Path) -> None:
    """Digests stay: what a run was given can still be compared."""
    world = World()
    with house_at(path) as house:
        life(house, world.writer, {"what": "this"})
    prune(path, [Mark("r@main", 99, Extent.ALL)])
    with house_at(path) as house:
        ended = life(house, world.writer, {"what": "that"})
    assert "another input" in str(ended)


# --- which runs may be pruned ---


def kept(path: Path, *runs: str, before_ms: int | None = None, behind: bool = False) -> dict[str, str]:
    """Why runs may not be pruned; `-` if they may."""
    with Reader(path) as reader:
        found = asyncio.run(choose(reader, runs, before_ms, behind=behind))
    return {one.run: one.why for one in found.kept} | dict.fromkeys(found.marks, "-")


@agent
async def fails(run: Run, task: Any) -> None:
    raise ValueError("no")


@agent
async def waits(run: Run, task: Any) -> None:
    await run.wait_for("go")


@tool(kind="irreversible", name="half")
async def half() -> None:
    raise Killed


@agent
async def doubtful(run: Run, task: Any) -> None:
    await half()


@agent(state=int)
async def counts(run: Run, task: Any) -> None:
    for number in range(3):
        run.state = number
        await run.checkpoint()
    await run.wait_for("go")


@agent
async def marks(run: Run, task: Any) -> None:
    await run.checkpoint()
    await run.wait_for("go")


def test_only_what_has_ended_may_be_pruned(path: Path) -> None:
    world = World()
    with house_at(path) as house:
        life(house, world.writer, id="finished")
        for name, performer in (("failed", fails), ("waiting", waits), ("doubt", doubtful), ("cancelled", waits)):
            life(house, performer, id=name)
        house.cancel("cancelled", by="ann")
        assert isinstance(life(house, waits, id="cancelled"), Cancelled)
    assert kept(path) == {
        "finished": "-",
        "cancelled": "-",
        "failed": "it has not ended",
        "waiting": "it has not ended",
        "doubt": "an effect may have happened, and nobody has said so",
    }


def test_a_cancelled_run_keeps_what_a_person_must_look_at(path: Path) -> None:
    with house_at(path) as house:
        life(house, doubtful, id="doubt")
        house.cancel("doubt", by="ann")
        assert kept(path)["doubt"] == "an effect may have happened, and nobody has said so"
        (node,) = [f"doubt@{slot}" for slot in range(1, 9) if _is_intent(house, slot)]
        house.settle(node, did_not_happen="I looked", by="ann")
    assert kept(path) == {"doubt": "-"}


def _is_intent(house: House, seq: int) -> bool:
    entries = asyncio.run(house.store.read("doubt@main"))
    return seq <= len(entries) and b'"t":"intent"' in entries[seq - 1].body


def test_a_run_that_somebody_advances_is_not_pruned(path: Path) -> None:
    with house_at(path) as house:
        life(house, counts, id="r")
        house.cancel("r", by="ann")
        asyncio.run(house.store.claim("r@main"))
        assert kept(path)["r"].startswith("it is being advanced by ")
    assert kept(path) == {"r": "-"}


def test_what_lies_before_a_checkpoint_may_be_pruned_where_that_is_asked_for(path: Path) -> None:
    with house_at(path) as house:
        for name, performer in (("counts", counts), ("marks", marks), ("waits", waits)):
            life(house, performer, id=name)
    assert set(kept(path).values()) == {"it has not ended"}
    assert kept(path, behind=True) == {
        "counts": "-",
        "marks": "it has no checkpoint to go on from",  # its agent keeps no state: it would begin from the start
        "waits": "it has no checkpoint to go on from",
    }


def test_only_runs_of_a_certain_age_are_pruned(path: Path) -> None:
    world = World()
    with house_at(path) as house:
        life(house, world.writer, id="r")
        (newest,) = asyncio.run(house.store.read("r@main", newest=1))
    assert kept(path, before_ms=newest.at_ms) == {"r": "it is not that old"}
    assert kept(path, before_ms=newest.at_ms + 1) == {"r": "-"}


def test_a_run_that_was_pruned_is_not_pruned_again(path: Path) -> None:
    world = World()
    with house_at(path) as house:
        life(house, world.writer, id="r")
    with Reader(path) as reader:
        found = asyncio.run(choose(reader, [], None, behind=False))
    prune(path, found.marks["r"])
    assert kept(path) == {}
    with house_at(path) as house:
        house.signal("r", "late", "a word")
    assert kept(path) == {"r": "-"}, "what came later may go too"


# --- branches ---


@pytest.fixture
def forked(path: Path) -> tuple[World, Path]:
    """A run that was forked after its first mail, and whose fork has come to its end."""
    world = World()
    world.until = 1
    with house_at(path) as house:
        life(house, world.writer)
        node = f"r@{len(asyncio.run(house.store.read('r@main')))}"
        assert house.fork(node, by="ann") == "b2"
        world.until = 99
        assert len(life(house, world.writer)) == 2
    assert world.did == ["ann", "bob"]
    return world, path


def all_that_may_go(path: Path) -> list[Mark]:
    with Reader(path) as reader:
        found = asyncio.run(choose(reader, [], None, behind=False))
    return [mark for of_run in found.marks.values() for mark in of_run]


def test_a_run_whose_line_has_ended_is_pruned_with_all_its_branches(forked: tuple[World, Path]) -> None:
    world, path = forked
    marks = all_that_may_go(path)
    assert {mark.branch for mark in marks} == {"r@main", "r@b2"}
    prune(path, marks)
    with Reader(path) as reader:
        assert list(reader.digests()) == []
    with house_at(path) as house:
        assert isinstance(life(house, world.writer), Unknown)
    assert world.did == ["ann", "bob"]


def test_a_branch_that_goes_on_keeps_what_the_others_gave_it(forked: tuple[World, Path]) -> None:
    world, path = forked
    with house_at(path) as house:
        assert house.fork("r@3", kind="what-if", by="ann") == "b3"
    assert kept(path) == {"r": "its branch `b3` has not ended"}
    assert kept(path, behind=True) == {"r": "its branch `b3` has not ended"}
    with house_at(path) as house:
        life(house, world.writer, branch="b3")
    assert kept(path) == {"r": "-"}


def test_a_fork_of_what_was_pruned_does_nothing_twice_and_says_what_it_lacks(forked: tuple[World, Path]) -> None:
    world, path = forked
    prune(path, all_that_may_go(path))
    with house_at(path) as house:
        branch = house.fork("r@b2:9", by="ann")
        assert isinstance(life(house, world.writer), Unknown)
        assert isinstance(life(house, world.swallower), Unknown)
    assert kept(path) == {"r": "it has not ended"}, branch
    assert world.did == ["ann", "bob"]


def test_what_a_fork_adopts_of_what_was_pruned_is_no_damage(forked: tuple[World, Path]) -> None:
    """It is given an input of its own, so that it comes as far as the first mail, which the log says was sent."""
    world, path = forked
    prune(path, all_that_may_go(path))
    with house_at(path) as house:
        house.fork("r@2", settings={"input": {"anew": True}}, by="ann")
        assert isinstance(life(house, world.writer), Unknown)
        assert world.did == ["ann", "bob"]
        (adopted,) = (entry for entry in asyncio.run(house.store.read("r@b3")) if b'"t":"adopted"' in entry.body)
    with Reader(path) as reader:
        needs = Needs(reader.marks())
        assert list(needs(adopted)) == []
    assert main(["verify", str(path), "--anchor", "none"]) == 0


def test_what_a_branch_that_was_given_up_did_can_be_taken_back_before_it_is_forgotten(path: Path) -> None:
    undone: list[str] = []

    async def take_back(what: str) -> None:
        undone.append(what)

    @tool(kind="reversible", name="build-for-pruning", undo=take_back)
    async def build(what: str) -> str:
        return f"built {what}"

    @agent
    async def builder(run: Run, task: Any) -> str:
        return await build(await run.setting("what", "a house"))

    with house_at(path) as house:
        life(house, builder)
        node = "r@2"
        house.fork(node, kind="what-if", settings={"what": "a barn"}, by="ann")
        assert life(house, builder, branch="b2") == "built a barn"
        house.abandon("r", "b2", by="ann")
        assert kept(path) == {"r": "what a branch did that was given up could be taken back"}
        assert kept(path, "r") == {"r": "-"}, "who names it means it"
        house.clear("r")
    assert undone == ["a barn"]
    assert kept(path) == {"r": "-"}


def test_a_run_that_is_named_must_be_there(path: Path) -> None:
    with house_at(path) as house:
        life(house, waits, id="r")
    with pytest.raises(Unknown, match="no run `s`"):
        kept(path, "s")
