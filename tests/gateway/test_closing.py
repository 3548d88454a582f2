"""What branches left behind that were given up: taken back last first, never what a living branch rests on, and told of
where it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast import AwaitingSignal, NotHappened, Run, agent, open_store, tool
from holdfast.core.record import Adopted, Intent, Seal, Started
from holdfast.core.tree import ForkKind
from holdfast.embedded import House
from holdfast.errors import Misuse
from holdfast.gateway.fork import Cutting, fork
from tests.gateway.grove import World, do, last, new_world, places, records, tree_of, walk
from tests.stage import RUN, Killed, life


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


def undos(house: House, branch: str = "main") -> list[Intent]:
    return [record for _, record in records(house, branch) if isinstance(record, Intent) and record.undoes is not None]


MADE = ["make a", "mail b", "make c", "put d", "make e"]


def other_way(house: House, steps: list[str]) -> Any:
    """The run on another way, from its start."""
    house.fork(start_of(house), settings={"steps": [*steps]}, by="op")
    return life(house, walk)


def test_what_was_stranded_is_taken_back_last_first_when_the_run_ends(house: House, world: World) -> None:
    life(house, walk, MADE)
    other_way(house, ["mail z"])
    assert world.undone == [("make", "e"), ("make", "c"), ("make", "a")]
    assert world.there() == {("mail", "b"): 1, ("put", "d"): 1, ("mail", "z"): 1}
    assert [record.undoes for record in undos(house)] == sorted(
        (record.undoes or 0 for record in undos(house)), reverse=True
    )


def test_nothing_is_taken_back_before_the_run_ends(house: House, world: World) -> None:
    life(house, walk, MADE)
    other_way(house, ["mail z", "wait word"])
    assert world.undone == []
    house.signal(RUN, "word", 1)
    life(house, walk)
    assert len(world.undone) == 3


def test_what_was_adopted_is_not_taken_back(house: House, world: World) -> None:
    life(house, walk, MADE)
    other_way(house, ["make c"])
    assert world.undone == [("make", "e"), ("make", "a")]
    assert world.there()["make", "c"] == 1


def test_what_cannot_be_taken_back_is_told(house: House, world: World) -> None:
    life(house, walk, MADE)
    other_way(house, ["mail z"])
    residue = house.clear(RUN)
    assert [(each.tool, each.why) for each in residue] == [
        ("grove.put", "it is idempotent"), ("grove.mail", "it is irreversible"),
    ]  # fmt: skip
    intents = {record.tool: seq for seq, record in records(house) if isinstance(record, Intent)}
    assert [each.node for each in residue] == [f"{RUN}@{intents[each.tool]}" for each in residue]
    assert len(world.undone) == 3, "what is cleared stays cleared"


def test_every_effect_is_in_the_line_taken_back_or_told(house: House, world: World) -> None:
    """Invariant I10, over a chain of forks that each go another way."""
    life(house, walk, ["make a", "mail b"])
    for number in range(4):
        other_way(house, [f"make {number}", f"mail {number}", "make a" if number % 2 else "mail b"])
    residue = house.clear(RUN)
    line = tree_of(house).line
    kept = {(deed[0], deed[1]) for deed in world.deeds if world.living.get(deed[:2])}
    told = {each.node for each in residue}
    assert set(world.there().values()) == {1}
    assert ("make", "3") in kept
    assert ("make", "a") in kept
    assert ("make", "0") not in kept
    assert len(told) == len([thing for thing in kept if thing[0] == "mail"]) - 1
    assert line == "b5"


def test_an_undo_that_fails_is_tried_again_and_what_came_before_it_stays(world: World) -> None:
    def fails(verb: str, name: str) -> None:
        if (verb, name) == ("unmake", "c"):
            raise ConnectionError("away")

    with open_store("memory://") as house:
        life(house, walk, MADE)
        house.fork(start_of(house), settings={"steps": ["mail z"]}, by="op")
        world.before = fails
        assert life(house, walk) == ["mail z 6"]
        assert world.undone == [("make", "e")]
        residue = {each.tool + each.node: each.why for each in house.clear(RUN)}
        assert sum("could not be taken back" in why or "may have happened" in why for why in residue.values()) >= 2
        world.before = lambda verb, name: None
        assert [each.tool for each in house.clear(RUN)] == ["grove.put", "grove.mail"]
        assert world.undone == [("make", "e"), ("make", "c"), ("make", "a")]


def test_an_undo_that_is_refused_is_told_and_what_came_before_it_stays(house: House, world: World) -> None:
    def refuses(verb: str, name: str) -> None:
        if (verb, name) == ("unmake", "c"):
            raise NotHappened("it is in use")

    life(house, walk, MADE)
    world.before = refuses
    assert other_way(house, ["mail z"]) == ["mail z 6"]
    assert world.undone == [("make", "e")]
    whys = [each.why for each in house.clear(RUN) if each.tool == "grove.make"]
    assert len(whys) == 2
    assert all("it is in use" in why for why in whys)
    assert world.undone == [("make", "e")]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("which", ["e", "c", "a"])
def test_a_death_in_the_middle_of_an_undo_is_gone_on_from(house: House, world: World, which: str, when: str) -> None:
    deaths = [True]

    def dies(verb: str, name: str) -> None:
        if (verb, name) == ("unmake", which) and deaths:
            deaths.pop()
            raise Killed

    life(house, walk, MADE)
    house.fork(start_of(house), settings={"steps": ["mail z"]}, by="op")
    setattr(world, when, dies)
    assert isinstance(life(house, walk), Killed)
    assert life(house, walk) == ["mail z 6"]
    assert [
        name for position, (_, name) in enumerate(world.undone) if name not in dict(world.undone[:position]).values()
    ]
    assert list(dict.fromkeys(name for _, name in world.undone)) == ["e", "c", "a"]
    assert world.there() == {("mail", "b"): 1, ("put", "d"): 1, ("mail", "z"): 1}
    assert len({record.key for record in undos(house)}) == 3


def test_an_effect_in_doubt_is_told_and_keeps_nobody_waiting(house: House, world: World) -> None:
    def dies(verb: str, name: str) -> None:
        raise Killed

    world.after = dies
    life(house, walk, ["make a"])
    world.after = lambda verb, name: None
    assert other_way(house, ["mail z"]) == ["mail z 2"]
    (left,) = house.clear(RUN)
    assert left.tool == "grove.make"
    assert "may have happened" in left.why
    house.settle(left.node, happened="make a 1", by="op")
    assert house.clear(RUN) == []
    assert ("make", "a") not in world.there()


def test_what_was_taken_back_is_done_anew_under_another_key(house: House, world: World) -> None:
    life(house, walk, ["make a"])
    other_way(house, ["look z"])
    assert world.there() == {}
    other_way(house, ["make a", "make a"])
    assert world.there() == {("make", "a"): 1}
    assert len({key for _, _, key in world.deeds}) == 2
    other_way(house, ["make a"])
    assert world.there() == {("make", "a"): 1}
    assert len(world.deeds) == 2


def test_what_is_done_anew_is_once_though_its_first_key_is_used_up(house: House, world: World) -> None:
    """`once` holds on the line, under whatever identity the first call stands."""
    world.declines.add("a")
    life(house, walk, ["try mail a"])
    world.declines.clear()
    other_way(house, ["mail a", "mail a", "mail a"])
    assert world.there() == {("mail", "a"): 1}


def test_what_is_done_anew_asks_before_a_second_one(house: House, world: World) -> None:
    world.declines.add("a")
    life(house, walk, ["try ring a"])
    world.declines.clear()
    held = other_way(house, ["ring a", "ring a"])
    assert "happened before" in str(held)
    assert world.there() == {("ring", "a"): 1}


def test_a_what_if_that_is_abandoned_is_cleared_and_its_parent_goes_on(house: House, world: World) -> None:
    life(house, walk, ["make a", "wait word"])
    house.fork(f"{RUN}@{last(house)}", kind="what-if", settings={"steps": ["make a", "make b"]}, by="op")
    assert life(house, walk, branch="b2") == ["make a 1", "make b 2"]
    assert house.clear(RUN) == [], "it goes on: nothing is cleared"
    house.abandon(RUN, "b2", by="op")
    assert world.undone == []
    assert house.clear(RUN) == []
    assert world.undone == [("make", "b")]
    house.signal(RUN, "word", "go")
    assert life(house, walk) == ["make a 1", "go"]
    with pytest.raises(Misuse):
        house.abandon(RUN, "b2", by="op")
    with pytest.raises(Misuse):
        house.abandon(RUN, "main", by="op")


def test_what_a_living_what_if_has_inherited_stays(house: House, world: World) -> None:
    life(house, walk, ["make a", "wait word"])
    house.fork(f"{RUN}@{places(house, Seal)[-1]}", kind="what-if", by="op")
    other_way(house, ["mail z"])
    assert world.undone == []
    (left,) = house.clear(RUN)
    assert (left.tool, left.why) == ("grove.make", "another branch, which goes on, rests on it")
    house.abandon(RUN, "b2", by="op")
    assert house.clear(RUN) == []
    assert world.undone == [("make", "a")]


def test_what_a_search_stands_on_that_nobody_goes_on_with_is_told(house: House, world: World) -> None:
    """Its candidates were never given up: a person may still promote one of them."""

    @agent
    async def searches(run: Run, task: Any) -> Any:
        return [await do(run, "make early"), await run.explore(["a", "b"]), await run.wait_for("word")]

    assert isinstance(life(house, searches), AwaitingSignal)
    for branch in [limb.name for limb in tree_of(house) if limb.name != "main"]:
        assert branch in ("b2", "b3")
    other_way(house, ["mail z"])
    assert [(each.tool, each.why) for each in house.clear(RUN)] == [
        ("grove.make", "another branch, which goes on, rests on it")
    ]
    for branch in ("b2", "b3"):
        house.abandon(RUN, branch, by="op")
    assert house.clear(RUN) == []
    assert world.there() == {("mail", "z"): 1}


def test_what_a_living_what_if_has_adopted_stays(house: House, world: World) -> None:
    life(house, walk, ["make a", "wait word"])
    house.fork(start_of(house), kind="what-if", settings={"steps": ["make a", "wait word"]}, by="op")
    life(house, walk, branch="b2")
    assert len(places(house, Adopted, "b2")) == 1
    other_way(house, ["mail z"])
    assert world.undone == []
    house.abandon(RUN, "b2", by="op")
    house.clear(RUN)
    assert world.undone == [("make", "a")]


def test_the_place_of_a_stranded_effect_is_cleared_before_it_is_taken(house: House, world: World) -> None:
    life(house, walk, ["build a.one", "carve b.one"])
    assert other_way(house, ["build a.two"]) == ["build a.two 3"]
    assert world.undone == [("build", "a.one")]
    held = other_way(house, ["carve b.two"])
    assert "same resource was changed" in str(held)
    house.approve(held.where, by="ann")
    assert life(house, walk) == ["carve b.two 4"]


def test_who_left_what_it_had_adopted_is_asked_before_its_place_is_taken(house: House, world: World) -> None:
    life(house, walk, ["build a.one"])
    other_way(house, ["build a.one", "die x"])
    assert len(places(house, Adopted, "b2")) == 1

    @agent
    async def turned(run: Run, task: Any) -> Any:
        return [await do(run, "build a.two")]

    held = life(house, turned)
    assert "same resource was changed" in str(held)
    assert world.there() == {("build", "a.one"): 1}


def test_the_tools_that_are_not_here_are_named(house: House, world: World) -> None:
    from holdfast import tool

    def declared() -> Any:
        @tool(kind="reversible", name="grove.passing", undo=lambda: world.undone.append(("passing", "")))
        def passing() -> str:
            return "passed"

        @agent
        def passes(run: Any, task: Any) -> Any:
            return passing() if run.branch == "main" else "nothing"

        return passes

    import gc

    life(house, declared())
    house._functions.clear()
    gc.collect()
    house.fork(start_of(house), by="op")
    (left,) = list(house.clear(RUN))
    assert (left.tool, left.why) == ("grove.passing", "the tool `grove.passing` is not known here")


async def test_two_tools_of_one_name_keep_no_run_from_its_end() -> None:
    """Nobody can tell which of them made it: it is told, and the run ends."""
    undone: list[str] = []

    def one() -> Any:
        @tool(kind="reversible", name="twin.make", undo=undone.append)
        async def make(place: str) -> str:
            return place

        return make

    def other() -> Any:
        @tool(kind="reversible", name="twin.make", undo=undone.append)
        async def made(place: str) -> str:
            return place

        return made

    make, twin = one(), other()

    @agent
    async def makes(run: Any, task: Any) -> str:
        if run.branch == "main":
            await make("here")
            raise RuntimeError("a dead end")
        return "done"

    async with open_store("memory://") as house:
        with pytest.raises(RuntimeError, match="a dead end"):
            await house.arun(makes, id="r")
        await fork(house.store, Cutting("r@main", 2, ForkKind.RECOVERY, "ann"))
        assert await house.arun(makes, id="r") == "done"
        assert undone == []
        (left,) = await house.clear_up("r@b2")
        assert "different functions are declared" in left.why
    assert twin is not make
