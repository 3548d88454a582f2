"""What people said, sent and allowed, over the branches of a run: nothing is spent twice, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast import AwaitingSignal, Held, Refused, Run, agent, open_store
from holdfast.core.record import Approval, Forked, Intent, Seal, Started
from holdfast.embedded import House
from holdfast.errors import Superseded
from tests.gateway.grove import World, do, last, new_world, places, records, tree_of, walk
from tests.stage import RUN, life


@pytest.fixture
def world() -> World:
    return new_world()


@pytest.fixture(params=["memory", "sqlite"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as opened:
        yield opened


def start_of(house: House) -> str:
    return f"{RUN}@{places(house, Started)[0]}"


def approvals_used(house: House) -> list[tuple[str, int]]:
    """By each intent on each branch: the approval that it rests on, by the branch on which that stands."""
    tree = tree_of(house)
    used: list[tuple[str, int]] = []
    for limb in tree:
        for _, record in records(house, limb.name):
            if isinstance(record, Intent) and record.approval is not None:
                home = next(name for name, upto in tree.lineage(limb.name) if upto is None or record.approval <= upto)
                used.append((home, record.approval))
    return used


# --- approvals ---


@pytest.mark.parametrize("kind", ["recovery", "what-if"])
def test_an_approval_is_spent_on_the_run_and_not_on_the_branch(house: House, world: World, kind: str) -> None:
    held = life(house, walk, ["look x", "ask a", "mail b"])
    house.approve(held.where, by="ann")
    (approval,) = places(house, Approval)
    house.fork(f"{RUN}@{approval}", kind=kind, by="op")
    first, second = (life(house, walk, branch=branch) for branch in ("b2", "main"))
    assert world.there() == {("ask", "a"): 1, ("mail", "b"): 1}
    assert first[1] == "ask a 1"
    assert isinstance(second, Superseded) if kind == "recovery" else second == first
    assert len(set(approvals_used(house))) == len(approvals_used(house)) == 1


def test_an_approval_whose_effect_did_not_happen_is_spent_too(house: House, world: World) -> None:
    held = life(house, walk, ["try ask a"])
    house.approve(held.where, by="ann")
    (approval,) = places(house, Approval)
    world.declines.add("a")
    assert "declined" in life(house, walk)[0]
    world.declines.clear()
    house.fork(f"{RUN}@{approval}", by="op")
    held = life(house, walk)
    assert isinstance(held, Held), f"people agreed to one attempt: {held}"
    assert world.there() == {}
    house.approve(held.where, by="bob")
    assert life(house, walk) == ["ask a 1"]
    assert len(set(approvals_used(house))) == 2


def test_a_hold_of_the_old_way_waits_on_the_new_one_for_people_of_its_own(house: House, world: World) -> None:
    held = life(house, walk, ["ask a"])
    house.fork(f"{RUN}@{last(house)}", by="op")
    house.approve(held.where, by="ann")
    new = life(house, walk)
    assert isinstance(new, Held)
    house.approve(new.where, by="ann")
    assert life(house, walk) == ["ask a 1"]
    assert isinstance(life(house, walk, branch="main"), Superseded)
    assert world.there() == {("ask", "a"): 1}


def test_what_people_refused_before_the_place_stays_refused(house: House, world: World) -> None:
    held = life(house, walk, ["ask a"])
    house.refuse(held.where, by="ann", reason="never")
    house.fork(f"{RUN}@{last(house)}", by="op")
    assert isinstance(life(house, walk), Refused)
    house.fork(start_of(house), by="op")
    assert isinstance(life(house, walk), Held), "before that place nobody had said anything"
    assert world.there() == {}


# --- signals ---


def test_a_signal_before_the_place_is_heard_on_every_branch_and_once_on_each(house: House, world: World) -> None:
    life(house, walk, ["wait word", "wait word"])
    house.signal(RUN, "word", 1)
    place = last(house)
    assert isinstance(life(house, walk), AwaitingSignal)
    house.fork(f"{RUN}@{place}", by="op")
    waiting = life(house, walk)
    assert isinstance(waiting, AwaitingSignal)
    house.signal(RUN, "word", 2)
    assert life(house, walk) == [1, 2]
    assert tree_of(house).line == "b2"


def test_a_signal_goes_to_the_line(house: House, world: World) -> None:
    life(house, walk, ["mail a", "wait word"])
    house.fork(f"{RUN}@{last(house)}", kind="what-if", by="op")
    house.signal(RUN, "word", "to main")
    assert isinstance(life(house, walk, branch="b2"), AwaitingSignal)
    assert life(house, walk) == ["mail a 1", "to main"]


def test_two_branches_that_wait_do_not_wake_each_other(tmp_path: Path, world: World) -> None:
    async def lives() -> tuple[int, list[Any]]:
        async with open_store(f"sqlite:///{tmp_path}/runs.db") as house:
            runs = [asyncio.create_task(house.arun(walk, id=RUN, branch=branch)) for branch in ("main", "b2")]
            await asyncio.sleep(2.0)
            grown = sum([len(await house.store.read(found.name)) for found in await house.store.branches(f"{RUN}@")])
            from holdfast.embedded.explore import packed_json

            for branch in ("main", "b2"):
                await house.desk.signal(f"{RUN}@{branch}", "word", packed_json(branch), by="op")
            return grown, [await asyncio.wait_for(run, 60) for run in runs]

    with open_store(f"sqlite:///{tmp_path}/runs.db") as house:
        life(house, walk, ["mail a", "wait word"])
        house.fork(f"{RUN}@{last(house)}", kind="what-if", by="op")
        before = last(house) + len(records(house, "b2"))
    grown, answers = asyncio.run(lives())
    assert answers == [["mail a 1", "main"], ["mail a 1", "b2"]]
    assert grown <= before + 12, "they live again and again"


# --- beside each other, in one process ---


def test_a_what_if_beside_its_living_parent_in_the_same_loop(house: House, world: World) -> None:
    """Both ask for the same calls at the same time; each is made by one of them and adopted by the other."""
    steps = [f"{verb} {name}" for name in "abcd" for verb in ("put", "make", "mail")]
    life(house, walk, ["wait word"])
    house.fork(start_of(house), kind="what-if", settings={"steps": steps}, by="op")
    house.fork(start_of(house), kind="what-if", settings={"steps": [*steps]}, by="op")

    async def both() -> list[Any]:
        return await asyncio.gather(*(house.arun(walk, id=RUN, branch=branch) for branch in ("b2", "b3")))

    first, second = asyncio.run(both())
    assert first == second
    assert set(world.there().values()) == {1}
    assert len({key for _, _, key in world.deeds}) == len(steps)


@pytest.mark.parametrize("verb", ["ring", "drop", "mail"])
def test_how_often_something_may_happen_holds_across_branches(house: House, world: World, verb: str) -> None:
    """`ask`, `each` and `once`: the n-th call of a line is the n-th of every other."""
    steps = [f"{verb} a"] * 2
    held = life(house, walk, steps)
    if verb == "ring":
        assert isinstance(held, Held)
        house.approve(held.where, by="ann")
        held = life(house, walk)
    expected = {"ring": 2, "drop": 2, "mail": 1}[verb]
    assert world.there()[verb, "a"] == expected
    house.fork(start_of(house), settings={"steps": [*steps, "look x"]}, by="op")
    assert life(house, walk)[:2] == held
    assert world.there()[verb, "a"] == expected
    house.fork(start_of(house), settings={"steps": [f"{verb} a"]}, by="op")
    assert life(house, walk) == held[:1]


def test_a_deliberate_second_one_is_another_effect_and_once_over_all_branches(house: House, world: World) -> None:
    life(house, walk, ["mail a"])
    for _ in range(2):
        house.fork(start_of(house), settings={"steps": ["mail a", "again a"]}, by="op")
        assert life(house, walk) == ["mail a 1", "mail a 2"]
    assert world.there() == {("mail", "a"): 2}


def test_what_drifted_on_two_branches_happens_once(house: House, world: World) -> None:
    life(house, walk, ["mail a=1"])
    for number in range(2):
        house.fork(start_of(house), settings={"steps": ["mail a=2"]}, by="op")
        held = life(house, walk)
        if number == 0:
            assert isinstance(held, Held)
            house.approve(held.where, by="ann")
            held = life(house, walk)
        assert held == ["mail a 2"], "people agreed once, and it has happened"
    assert world.there() == {("mail", "a"): 2}


# --- agents that fork ---


def test_an_agent_leaves_a_dead_end_by_itself(house: House, world: World) -> None:
    @agent
    async def tries(run: Run, task: Any) -> Any:
        node = int((await run.checkpoint()).rpartition(":")[2].rpartition("@")[2])
        region = await run.setting("region", "eu")
        built = await do(run, f"build net.{region}")
        if region == "eu":
            await run.fork(node, why="no room in eu", region="us")
        return [region, built, await do(run, "mail done")]

    assert life(house, tries) == ["us", "build net.us 2", "mail done 3"]
    assert world.undone == [("build", "net.eu")]
    assert world.there() == {("build", "net.us"): 1, ("mail", "done"): 1}
    (forked,) = [record for _, record in records(house) if isinstance(record, Forked)]
    assert (forked.by, forked.why) == ("agent", "no room in eu")


def test_an_agent_is_told_what_it_has_done_on_the_way_that_it_left(house: House, world: World) -> None:
    told: list[Any] = []

    @agent
    async def listens(run: Run, task: Any) -> Any:
        if run.branch == "main":
            return [await do(run, step) for step in ("look x", "make a", "mail b")]
        told[:] = [[each.node, each.tool, each.happened, each.answer] for each in await run.stranded()]
        return await do(run, "make a")

    life(house, listens)
    (read, made, mailed) = (seq for seq in places(house, Seal))
    intents = places(house, Intent)
    house.fork(f"{RUN}@{read}", by="op")
    assert life(house, listens) == "make a 1"
    assert told == [
        [f"{RUN}@{intents[0]}", "grove.make", True, "make a 1"],
        [f"{RUN}@{intents[1]}", "grove.mail", True, "mail b 2"],
    ]
    assert made < mailed


# --- promotions ---


def test_a_what_if_that_came_to_its_end_can_become_the_line(house: House, world: World) -> None:
    life(house, walk, ["make a", "wait word"])
    house.fork(start_of(house), kind="what-if", settings={"steps": ["make b"]}, by="op")
    assert life(house, walk, branch="b2") == ["make b 2"]
    house.promote(RUN, "b2", by="op")
    assert life(house, walk) == ["make b 2"]
    assert isinstance(life(house, walk, branch="main"), Superseded)
    house.clear(RUN)
    assert world.there() == {("make", "b"): 1}
