"""Forks of real runs: what was done is not done twice, whoever forks where; nobody is told what is no longer true."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast import Held, InDoubt, Waiting, agent, open_store, tool
from holdfast.core.codec import decode
from holdfast.core.record import (
    Adopted,
    Checkpoint,
    Decision,
    Finished,
    Intent,
    Seal,
    Started,
)
from holdfast.core.tree import ForkKind
from holdfast.embedded import House
from holdfast.errors import BadCall, Misuse, Unknown
from holdfast.gateway.fork import Cutting, fork
from tests.gateway.grove import World, last, new_world, places, records, stages, tree_of, walk
from tests.stage import RUN, Killed, life


@pytest.fixture
def world() -> World:
    return new_world()


@pytest.fixture(params=["memory", "sqlite"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as opened:
        yield opened


LONG = [
    "think what", "look a", "put a", "make a", "mail a", "now x", "look b", "put b", "make b", "mail b",
    "think more", "put c", "make c", "mail c", "look c", "put d", "make d", "mail d", "drop e", "drop e",
]  # fmt: skip
WRITTEN = [step for step in LONG if step.split()[0] in ("put", "make", "mail")]


def resumed(house: House, steps: Any = None, **options: Any) -> Any:
    return life(house, options.pop("agent", walk), steps, **options)


# --- a recovery fork at every node ---


def test_a_recovery_fork_at_every_node_does_nothing_twice(house: House, world: World) -> None:
    answers = life(house, walk, LONG)
    deeds = list(world.deeds)
    for node in range(places(house, Started)[0], last(house) + 1):
        branch = house.fork(f"{RUN}@{node}", by="op")
        assert tree_of(house).line == branch
        again = resumed(house)
        assert resumed(house) == again
        assert world.deeds == deeds, f"forked at {node}: {world.deeds[len(deeds) :]}"
        for step, first, second in zip(LONG, answers, again, strict=True):
            if step.split()[0] in ("put", "make", "mail", "drop"):
                assert second == first, f"forked at {node}: {step}"


def test_a_fork_of_each_fork_does_nothing_twice(house: House, world: World) -> None:
    answers = life(house, walk, LONG[:10])
    deeds = list(world.deeds)
    branch = "main"
    for _ in range(12):
        own = [seq for seq, _ in records(house, branch)]
        branch = house.fork(f"{RUN}@{branch}:{own[len(own) // 2]}", by="op")
        again = resumed(house)
        assert [each for step, each in zip(LONG, again, strict=False) if step[:2] in ("pu", "ma")] == [
            each for step, each in zip(LONG, answers, strict=False) if step[:2] in ("pu", "ma")
        ]
        assert world.deeds == deeds
    assert world.there() == {tuple(step.split()): 1 for step in WRITTEN if step in LONG[:10]}


def test_a_place_before_the_run_began_cannot_be_forked(house: House, world: World) -> None:
    life(house, walk, ["mail a"])
    with pytest.raises(BadCall):
        house.fork(f"{RUN}@1", by="op")
    assert list(tree_of(house).limbs) == ["main"]


@pytest.mark.parametrize("ending", ["finished", "failed", "cancelled", "killed"])
def test_a_run_that_has_ended_goes_on_on_a_fork(house: House, world: World, ending: str) -> None:
    steps = [
        "think what",
        "make a",
        "mail a",
        {"failed": "fail x", "killed": "die x"}.get(ending, "wait word"),
        "mail b",
    ]
    if ending == "finished":
        steps = ["think what", "make a", "mail a", "mail b"]
    life(house, walk, steps)
    if ending == "cancelled":
        house.cancel(RUN, by="op")
        assert "cancelled" in str(resumed(house))
    node = places(house, Seal)[0]
    house.fork(f"{RUN}@{node}", settings={"steps": ["think what", "make a", "mail a", "mail c"]}, by="op")
    assert resumed(house)[2] == "mail a 2"
    assert world.there()["mail", "a"] == world.there()["mail", "c"] == world.there()["make", "a"] == 1


# --- overrides ---


def test_the_answer_of_a_decision_is_replaced_and_what_followed_is_stranded(house: House, world: World) -> None:
    life(house, walk, ["think where", "mail a"])
    (decision,) = places(house, Decision)
    house.fork(f"{RUN}@{decision}", answers={decision: "here"}, by="op")
    assert resumed(house)[0] == "here"
    assert world.asked == ["where"]
    assert world.there() == {("mail", "a"): 1}


def test_the_answer_of_a_read_is_replaced(house: House, world: World) -> None:
    life(house, walk, ["look a", "mail a"])
    (read, _) = places(house, Seal)
    house.fork(f"{RUN}@{last(house)}", answers={read: {"it": ["is", 7]}}, by="op")
    assert resumed(house) == [{"it": ["is", 7]}, "mail a 1"]


def test_what_happened_in_the_world_cannot_be_replaced(house: House, world: World) -> None:
    life(house, walk, ["mail a"])
    for target in range(1, last(house) + 1):
        with pytest.raises(BadCall):
            house.fork(f"{RUN}@{last(house)}", answers={target: "x"}, by="op")
    with pytest.raises(BadCall):
        house.fork(f"{RUN}@2", answers={3: "x"}, by="op")
    assert list(tree_of(house).limbs) == ["main"]


def test_the_input_is_replaced_and_stays_so(house: House, world: World) -> None:
    life(house, walk, ["mail a", "die x"])
    house.fork(f"{RUN}@2", settings={"input": ["mail a", "mail b"]}, by="op")
    assert resumed(house) == ["mail a 1", "mail b 2"]
    assert resumed(house, ["mail a", "mail b"]) == ["mail a 1", "mail b 2"]
    assert isinstance(resumed(house, ["mail a", "die x"]), BadCall)
    house.fork(f"{RUN}@b2:{last(house, 'b2')}", by="op")
    assert resumed(house) == ["mail a 1", "mail b 2"]


def test_a_setting_holds_on_all_that_is_forked_from_its_branch(house: House, world: World) -> None:
    life(house, walk, ["mail a"])
    house.fork(f"{RUN}@2", settings={"steps": ["mail b"]}, by="op")
    assert resumed(house) == ["mail b 2"]
    house.fork(f"{RUN}@b2:{last(house, 'b2')}", by="op")
    assert resumed(house) == ["mail b 2"]
    house.fork(f"{RUN}@2", by="op")
    assert resumed(house) == ["mail a 1"]


@pytest.mark.parametrize("node", ["x@3", "r@99", "r@b7:3", "r@0"])
def test_a_place_that_is_not_there_is_named(house: House, world: World, node: str) -> None:
    life(house, walk, ["mail a"])
    with pytest.raises(Misuse) as error:
        house.fork(node, by="op")
    assert node in str(error.value) or isinstance(error.value, Unknown)


# --- state agents ---


def test_a_setting_outlives_a_checkpoint_of_its_branch(house: House, world: World) -> None:
    life(house, stages, ["mail a"])
    house.fork(f"{RUN}@2", settings={"steps": ["mail b", "checkpoint", "die x"]}, by="op")
    assert isinstance(resumed(house, agent=stages), Killed)
    assert isinstance(resumed(house, agent=stages), Killed)
    assert world.there() == {("mail", "a"): 1, ("mail", "b"): 1}


def test_an_input_outlives_a_checkpoint_of_its_branch(house: House, world: World) -> None:
    life(house, stages, ["mail a"])
    house.fork(f"{RUN}@2", settings={"input": ["mail b", "checkpoint", "die x"]}, by="op")
    assert isinstance(resumed(house, agent=stages), Killed)
    assert isinstance(resumed(house, agent=stages), Killed)
    assert isinstance(resumed(house, ["mail b", "checkpoint", "die x"], agent=stages), Killed)


@pytest.mark.parametrize("cut", range(2, 13))
def test_a_child_goes_on_from_the_checkpoint_before_its_place(house: House, world: World, cut: int) -> None:
    steps = ["mail a", "checkpoint", "mail b", "checkpoint", "think x", "mail c"]
    first = life(house, stages, steps)
    deeds = list(world.deeds)
    if cut <= last(house):
        house.fork(f"{RUN}@{cut}", by="op")
        again = resumed(house, agent=stages)
        assert [again[0], again[2], again[5]] == [first[0], first[2], first[5]]
    assert world.deeds == deeds


def test_what_a_checkpoint_rests_on_cannot_be_replaced_behind_it(house: House, world: World) -> None:
    life(house, stages, ["think x", "checkpoint", "mail a"])
    (decision,) = places(house, Decision)
    (checkpoint,) = places(house, Checkpoint)
    with pytest.raises(BadCall) as refused:
        house.fork(f"{RUN}@{last(house)}", answers={decision: "other"}, by="op")
    assert f"{RUN}@{checkpoint - 1}" in refused.value.fix
    house.fork(f"{RUN}@{checkpoint - 1}", answers={decision: "other"}, by="op")
    assert resumed(house, agent=stages) == ["other", "checkpoint", "mail a 1"]
    house.fork(f"{RUN}@b2:{last(house, 'b2')}", by="op")
    assert resumed(house, agent=stages) == ["other", "checkpoint", "mail a 1"]


def test_what_a_checkpoint_of_no_state_follows_can_be_replaced(house: House, world: World) -> None:
    life(house, walk, ["think x", "checkpoint", "mail a"])
    (decision,) = places(house, Decision)
    house.fork(f"{RUN}@{last(house)}", answers={decision: "other"}, by="op")
    assert resumed(house)[0::2] == ["other", "mail a 1"]


def test_calls_of_an_ancestor_are_counted_on_behind_its_last_entry(house: House, world: World) -> None:
    life(house, stages, ["drop a", "drop a", "checkpoint", "die x"])
    settings: Any = {"steps": ["drop a", "drop a", "checkpoint", "drop a", "drop a"]}
    house.fork(f"{RUN}@{last(house)}", settings=settings, by="op")
    assert resumed(house, agent=stages) == ["drop a 1", "drop a 2", "checkpoint", "drop a 3", "drop a 4"]
    assert len({key for _, _, key in world.deeds}) == 4


def test_behind_a_checkpoint_calls_of_an_ancestor_that_has_none_are_counted(house: House, world: World) -> None:
    life(house, stages, ["drop a", "drop a", "mail a", "die x"])
    steps = ["drop a", "drop a", "mail a", "checkpoint", "mail a", "drop a", "die x"]
    house.fork(f"{RUN}@{last(house)}", settings={"steps": steps}, by="op")
    for _ in range(3):
        assert isinstance(resumed(house, agent=stages), Killed)
    assert world.there() == {("drop", "a"): 3, ("mail", "a"): 1}
    assert len({key for _, _, key in world.deeds}) == 4


def test_an_override_behind_a_checkpoint_goes_on_from_it(house: House, world: World) -> None:
    life(house, stages, ["look a", "checkpoint", "think x", "mail a"])
    (decision,) = places(house, Decision)
    asked = len(world.asked)
    house.fork(f"{RUN}@{last(house)}", answers={decision: "other"}, by="op")
    assert resumed(house, agent=stages)[2:] == ["other", "mail a 1"]
    assert len(world.asked) == asked


def test_calls_are_counted_on_behind_a_checkpoint_of_an_ancestor(house: House, world: World) -> None:
    life(house, stages, ["drop a", "drop a", "checkpoint", "drop a", "die x"])
    house.fork(
        f"{RUN}@{last(house)}", settings={"steps": ["drop a", "drop a", "checkpoint", "drop a", "drop a"]}, by="op"
    )
    assert resumed(house, agent=stages) == ["drop a 1", "drop a 2", "checkpoint", "drop a 3", "drop a 4"]
    assert len({key for _, _, key in world.deeds}) == 4


@pytest.mark.parametrize("why", ["declined", "taken back"])
def test_what_stands_under_another_name_is_counted_behind_a_checkpoint(house: House, world: World, why: str) -> None:
    if why == "declined":
        world.declines.add("a")
        life(house, stages, ["try make a"])
        world.declines.clear()
    else:
        life(house, stages, ["make a"])
    cut = places(house, Started)[0]
    house.fork(f"{RUN}@{cut}", settings={"steps": ["look z"]}, by="op")
    resumed(house, agent=stages)
    assert world.there() == {}
    house.fork(f"{RUN}@{cut}", settings={"steps": ["make a", "checkpoint", "make a", "die x"]}, by="op")
    for _ in range(3):
        assert isinstance(resumed(house, agent=stages), Killed)
    assert world.there() == {("make", "a"): 1}


# --- between intent and seal ---


def test_a_fork_between_an_intent_and_the_seal_that_nobody_has_is_refused(house: House, world: World) -> None:
    def dies(verb: str, name: str) -> None:
        raise Killed

    world.after = dies
    life(house, walk, ["mail a"])
    (intent,) = places(house, Intent)
    for place in range(intent, last(house) + 1):
        with pytest.raises(InDoubt) as doubt:
            house.fork(f"{RUN}@{place}", by="op")
        assert doubt.value.where == f"{RUN}@{intent}"
    house.settle(f"{RUN}@{intent}", happened="mail a 1", by="op")
    world.after = lambda verb, name: None
    house.fork(f"{RUN}@{intent}", by="op")
    assert resumed(house) == ["mail a 1"]
    assert world.there() == {("mail", "a"): 1}


def test_a_seal_that_came_after_the_place_of_the_fork_is_carried(house: House, world: World) -> None:
    life(house, walk, [["mail a", "make a", "mail b", "put b"]])
    for place in places(house, Intent):
        house.fork(f"{RUN}@{place}", by="op")
        answers = resumed(house)
        assert isinstance(answers, list), answers
        assert sorted(answers[0]) == sorted(world.by_key.values())
    assert set(world.there().values()) == {1}
    assert len(world.deeds) == 4


def test_what_was_taken_back_after_the_place_of_the_fork_is_not_believed_there(house: House, world: World) -> None:
    life(house, walk, ["build a.one", "look x", "die x"])
    read = places(house, Seal)[-1]
    life(house, walk, None, id=RUN)
    house.fork(f"{RUN}@2", settings={"steps": ["build a.two"]}, by="op")
    assert resumed(house) == ["build a.two 2"]
    assert world.undone == [("build", "a.one")]
    house.fork(f"{RUN}@{read}", settings={"steps": ["build a.one"]}, by="op")
    resumed(house)
    assert world.there() == {("build", "a.one"): 1}, "what it is told of is not there"


def test_what_a_child_took_back_of_its_history_is_not_believed_by_a_later_fork(house: House, world: World) -> None:
    """The undo stands on the child: the entry that it takes back on main."""
    life(house, walk, ["build a.one", "think x", "mail x"])
    (decision,) = places(house, Decision)
    house.fork(f"{RUN}@{decision}", settings={"steps": ["build a.two"]}, by="op")
    resumed(house)
    assert world.there()[("build", "a.two")] == 1
    assert ("build", "a.one") not in world.there()
    house.fork(f"{RUN}@{decision}", settings={"steps": ["build a.one"]}, by="op")
    answer = resumed(house)
    assert world.living["build", "a.one"] == answer


def test_what_was_adopted_and_then_taken_back_is_not_believed_by_a_later_fork(house: House, world: World) -> None:
    life(house, walk, ["think x", "make a", "die x"])
    cut = places(house, Started)[0]
    house.fork(f"{RUN}@{cut}", settings={"steps": ["make a", "look y", "die x"]}, by="op")
    resumed(house)
    (adoption,) = places(house, Adopted, "b2")
    house.fork(f"{RUN}@{cut}", settings={"steps": ["look z"]}, by="op")
    resumed(house)
    assert world.undone == [("make", "a")], "nobody who goes on needs it"
    house.fork(f"{RUN}@b2:{adoption}", settings={"steps": ["make a"]}, by="op")
    answers = resumed(house)
    assert world.living["make", "a"] == answers


# --- what others who go on need is not taken back ---


def test_what_a_living_branch_inherited_is_not_taken_back_by_its_parent(house: House, world: World) -> None:
    """The parent has diverged, and wants the place of an effect that its living child believes in."""
    life(house, walk, ["build a.one", "think x", "die x"])
    house.fork(f"{RUN}@{places(house, Decision)[0]}", kind="what-if", by="op")
    ways = iter([["build a.two"], ["build a.two"]])

    from holdfast import Run, agent
    from tests.gateway.grove import do

    @agent
    async def turned(run: Run, task: Any) -> Any:
        return [await do(run, step) for step in next(ways)]

    held = life(house, turned)
    assert isinstance(held, Held), held
    assert world.there() == {("build", "a.one"): 1}


def test_what_a_branch_inherited_with_an_adoption_is_not_taken_back(house: House, world: World) -> None:
    life(house, walk, ["think x", "make a", "wait word"])
    cut = places(house, Started)[0]
    house.fork(f"{RUN}@{cut}", kind="what-if", settings={"steps": ["make a", "look y", "wait word"]}, by="op")
    resumed(house, branch="b2")
    house.fork(f"{RUN}@b2:{last(house, 'b2')}", kind="what-if", by="op")
    house.promote(RUN, "b3", by="op")
    assert tree_of(house).limbs["b2"].status == "superseded"
    house.fork(f"{RUN}@{cut}", kind="recovery", settings={"steps": ["look z"]}, by="op")
    resumed(house)
    assert world.undone == [] or "b3" not in [limb.name for limb in tree_of(house) if limb.status == "open"]


def test_the_place_of_what_another_living_branch_needs_is_asked_about(house: House, world: World) -> None:
    """The owner of the effect was superseded, so that it could be taken back; but a what-if has inherited it."""
    life(house, walk, ["build a.one", "wait word"])
    cut = places(house, Started)[0]
    house.fork(f"{RUN}@{places(house, Seal)[-1]}", kind="what-if", by="op")
    house.fork(f"{RUN}@{cut}", settings={"steps": ["build a.two"]}, by="op")
    held = asyncio.run(asyncio.wait_for(_ended(house), 20))
    assert isinstance(held, Held), held
    assert world.there() == {("build", "a.one"): 1}


async def _ended(house: House) -> Any:
    try:
        return await house.arun(walk, id=RUN, wait=False)
    except (Exception, Waiting) as ending:  # noqa: BLE001 - the ending is what is asked for
        return ending


async def test_a_branch_that_loses_its_place_with_its_last_effect_has_no_end_of_its_own() -> None:
    sent: list[str] = []
    async with open_store("memory://") as house:

        @tool(kind="irreversible")
        async def post() -> str:
            if not sent:
                await fork(house.store, Cutting("r@main", 2, ForkKind.RECOVERY, "ann"))
            sent.append("once")
            return "posted"

        @agent
        async def posts(run: Any, task: Any) -> str:
            return f"{await post()} on {run.branch}"

        assert await house.arun(posts, id="r") == "posted on b2"
        assert sent == ["once"]
        assert not [entry for entry in await house.store.read("r@main") if isinstance(decode(entry.body), Finished)]
