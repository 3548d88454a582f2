"""A run that searches: candidates on branches of their own, nothing done in the world before one is promoted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast import Asleep, AwaitingSignal, Held, Run, agent, open_store
from holdfast.core.record import Checkpoint, Finished, Forked, Hold, Intent, Planned, Promoted
from holdfast.embedded import House
from holdfast.errors import Misuse, NoCandidate, Ready
from tests.gateway.grove import World, do, last, mail, make, new_world, places, put, tree_of, walk
from tests.stage import RUN, Killed, life


@pytest.fixture
def world() -> World:
    return new_world()


@pytest.fixture(params=["memory", "sqlite"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db"
    with open_store(url) as opened:
        yield opened


def open_branches(house: House) -> list[str]:
    return [limb.name for limb in tree_of(house) if limb.status == "open"]


async def longest(attempt: Any) -> float:
    return len(attempt.candidate)


@agent
async def search(run: Run, task: Any) -> Any:
    """Something before, a search among ways (each the steps to take), something after."""
    before = await mail("before")
    steps = await run.explore(task, score=longest)
    answers = [await do(run, step) for step in steps]
    return [before, *answers, await mail("after")]


# --- one winner, and nothing of the others ---


def test_the_best_candidate_is_done_once_and_the_others_are_not(house: House, world: World) -> None:
    ways = [["make a"], ["make b", "mail b", "put b"], ["mail c"]]
    answer = life(house, search, ways)
    assert answer == ["mail before 1", "make b 2", "mail b 3", "put b 4", "mail after 5"]
    assert [(verb, name) for verb, name, _ in world.deeds] == [
        ("mail", "before"), ("make", "b"), ("mail", "b"), ("put", "b"), ("mail", "after"),
    ]  # fmt: skip
    assert open_branches(house) == ["b3"]
    assert life(house, search, ways) == answer
    assert len(world.deeds) == 5


def test_what_a_candidate_asks_for_is_planned_and_not_sent(house: House, world: World) -> None:
    seen: list[Any] = []

    async def judge(attempt: Any) -> float:
        seen.append(attempt)
        assert [deed[1] for deed in world.deeds] == ["before"]
        return 1.0

    @agent
    async def tries(run: Run, task: Any) -> Any:
        await mail("before")
        name = await run.explore(["a", "b"], score=judge)
        await make(name)
        await put(name)
        await mail(name)
        return name

    assert life(house, tries) == "a"
    for attempt, name in zip(seen, "ab", strict=True):
        assert [call["tool"] for call in attempt.planned] == ["grove.make", "grove.put", "grove.mail"]
        assert attempt.planned[0]["arguments"]["name"] == name
        assert attempt.offer == name
    assert world.there() == {("mail", "before"): 1, ("make", "a"): 1, ("put", "a"): 1, ("mail", "a"): 1}
    assert len(places(house, Planned, "b2")) == len(places(house, Planned, "b3")) == 3
    assert not places(house, Intent, "b3")


def test_who_needs_a_held_answer_stops_there_and_goes_on_after_the_promotion(house: House, world: World) -> None:
    @agent
    async def needs(run: Run, task: Any) -> Any:
        name = await run.explore(["a", "b"])
        answer = await make(name)
        return [await mail(answer.upper())]

    assert life(house, needs) == ["mail MAKE A 1 2"]
    assert world.there() == {("make", "a"): 1, ("mail", "MAKE A 1"): 1}


@pytest.mark.parametrize("held", ["in arguments", "in a decision", "in an answer", "in a list", "in a state"])
def test_a_held_answer_goes_nowhere(house: House, world: World, held: str) -> None:
    async def ask(what: Any) -> Any:
        return f"asked {what}"

    @agent(state=dict)
    async def passes(run: Run, task: Any) -> Any:
        name = run.state.get("name") or await run.explore(["a", "b"])
        answer = await make(name)
        match held:
            case "in arguments":
                return await mail(answer)
            case "in a decision":
                return await run.decide(ask, answer)
            case "in a list":
                return await run.decide(ask, [{"deep": [answer]}])
            case "in a state":
                run.state |= {"name": name, "answer": answer}
                await run.checkpoint()
        return [answer]

    answer = life(house, passes)
    assert "held" not in repr(answer)
    assert "make a" in repr(answer).lower()
    assert world.there()["make", "a"] == 1
    assert ("make", "b") not in world.there()


def test_reads_are_live_on_every_candidate(house: House, world: World) -> None:
    life(house, search, [["look a", "mail a"], ["look b"]])
    assert world.asked == ["look a", "look b"]
    assert ("mail", "a") in world.there()


def test_an_equal_call_of_the_line_is_no_other_on_a_candidate(house: House, world: World) -> None:
    """What the line had done before the search answers there."""
    assert life(house, search, [["mail before", "make a"]]) == [
        "mail before 1", "mail before 1", "make a 2", "mail after 3",
    ]  # fmt: skip


def test_a_call_that_drifted_is_not_sent_from_a_candidate(house: House, world: World) -> None:
    life(house, walk, ["mail a=1", "wait word"])
    house.fork(f"{RUN}@{last(house)}", kind="speculative", settings={"steps": ["mail a=2", "make b"]}, by="op")
    assert isinstance(life(house, walk, branch="b2"), Ready)
    assert not places(house, Hold, "b2")
    house.promote(RUN, "b2", by="op")
    held = life(house, walk)
    assert isinstance(held, Held), held
    assert "other arguments" in str(held)
    house.approve(held.where, by="ann")
    assert life(house, walk) == ["mail a 2", "make b 3"]
    assert len({key for _, _, key in world.deeds}) == 3


def test_what_is_planned_before_a_checkpoint_is_not_lost(house: House, world: World) -> None:
    @agent(state=list)
    async def notes(run: Run, task: Any) -> Any:
        name = run.state[0] if run.state else await run.explore(["a", "b"])
        if not run.state:
            await make(name)
            run.state.append(name)
            await run.checkpoint()
        return await mail(name)

    assert life(house, notes) == "mail a 2"
    assert world.there() == {("make", "a"): 1, ("mail", "a"): 1}


def test_a_policy_of_checkpoints_does_not_end_a_candidate(house: House, world: World) -> None:
    seen: list[Any] = []

    def first(attempt: Any) -> float:
        seen.append((attempt.offer, len(attempt.planned)))
        return attempt.candidate == "a"

    @agent(state=list, checkpoint_every=1)
    async def turns(run: Run, task: Any) -> Any:
        if not run.state:
            run.state.append(await run.explore(["a", "b"], score=first))
        for verb in ("make", "put", "mail")[len(run.state) - 1 :]:
            await do(run, f"{verb} {run.state[0]}")
            run.state.append(verb)
            await run.turn()
        return run.state[0]

    assert life(house, turns) == "a"
    assert seen == [("a", 3), ("b", 3)]
    assert world.there() == {("make", "a"): 1, ("put", "a"): 1, ("mail", "a"): 1}
    assert len(places(house, Checkpoint, "b2")) == 3


# --- candidates that fail, wait, die ---


def test_a_candidate_that_fails_is_out_of_the_race(house: House, world: World) -> None:
    assert life(house, search, [["mail a", "fail xxxxx", "x", "x"], ["mail b"]])[1] == "mail b 2"
    assert ("mail", "a") not in world.there()


def test_where_all_fail_the_agent_may_decide_anew(house: House, world: World) -> None:
    @agent
    async def retries(run: Run, task: Any) -> Any:
        for ways in (["fail a", "fail b"], ["fail c"], ["mail d", "mail e"]):
            try:
                way = await run.explore(ways)
            except NoCandidate:
                await mail(f"failed {ways[0]}")
                continue
            return await do(run, way)
        return None

    answer = life(house, retries)
    assert answer == "mail d 3"
    assert life(house, retries) == answer
    assert world.there() == {("mail", "failed fail a"): 1, ("mail", "failed fail c"): 1, ("mail", "d"): 1}


def test_a_search_behind_a_checkpoint_is_another_one(house: House, world: World) -> None:
    @agent(state=list)
    async def twice(run: Run, task: Any) -> Any:
        while len(run.state) < 3:
            try:
                name = await run.explore([f"{len(run.state)}a", f"{len(run.state)}b"])
            except NoCandidate:
                name = "none"
            run.state.append(await make(name))
            await run.checkpoint()
            if task and len(run.state) == 2 and world.deeds[-1][1] == "1a" and not world.asked:
                world.asked.append("died")
                raise Killed
        return list(run.state)

    assert isinstance(life(house, twice, 1), Killed)
    assert life(house, twice, 1) == ["make 0a 1", "make 1a 2", "make 2a 3"]
    assert set(world.there().values()) == {1}


def test_a_candidate_that_waits_for_a_signal_lets_the_search_wait(house: House, world: World) -> None:
    ways = [["mail a", "wait word", "mail b"], ["mail c"]]
    waiting = life(house, search, ways)
    assert isinstance(waiting, AwaitingSignal)
    assert waiting.where == f"{RUN}@b2"
    house._plainly(house.desk.signal(f"{RUN}@b2", "word", _packed("go"), by="op"))
    answer = life(house, search, ways)
    assert answer == ["mail before 1", "mail a 2", "go", "mail b 3", "mail after 4"]


def _packed(value: Any) -> Any:
    from holdfast.embedded.explore import packed_json

    return packed_json(value)


async def test_who_waits_with_a_waiting_candidate_does_not_turn_in_circles(tmp_path: Path, world: World) -> None:
    async with open_store(f"sqlite:///{tmp_path}/runs.db") as house:
        runs = asyncio.create_task(house.arun(search, [["wait word"], ["mail c"]], id=RUN))
        await asyncio.sleep(1.5)
        claims = 0
        for found in await house.store.branches(f"{RUN}@"):
            claims += len([1 for entry in await house.store.read(found.name) if b'"t":"claim"' in entry.body])
        await house.desk.signal(f"{RUN}@b2", "word", _packed("go"), by="op")
        assert (await asyncio.wait_for(runs, 30))[0] == "mail before 1"
        assert claims <= 6


def test_a_candidate_that_somebody_else_advances_is_waited_for(house: House, world: World) -> None:
    deaths = [True]

    @agent
    async def dies(run: Run, task: Any) -> Any:
        name = await run.explore(["a", "b"])
        if deaths:
            deaths.pop()
            raise Killed
        return await mail(name)

    assert isinstance(life(house, dies), Killed)
    grant = asyncio.run(house.store.claim(f"{RUN}@b2"))
    waiting = life(house, dies)
    assert isinstance(waiting, Asleep), waiting
    assert waiting.where == f"{RUN}@b2"
    assert not places(house, Finished), "it has not failed"
    asyncio.run(house.store.append(f"{RUN}@b2", [], epoch=grant.epoch, release=True))
    assert life(house, dies) == "mail a 1"


def test_a_candidate_that_dies_is_gone_on_with(house: House, world: World) -> None:
    deaths = [Killed(), None]

    @agent
    async def dies(run: Run, task: Any) -> Any:
        name = await run.explore(["a", "b"])
        await make(name)
        if name == "b" and (death := deaths.pop(0) if deaths else None):
            raise death
        return await mail(name)

    assert isinstance(life(house, dies), Killed)
    assert world.there() == {}
    assert life(house, dies) == "mail a 2"
    assert world.there() == {("make", "a"): 1, ("mail", "a"): 1}


def test_a_held_call_after_the_promotion_asks_people(house: House, world: World) -> None:
    ways = [["ask a", "mail a"]]
    held = life(house, search, ways)
    assert isinstance(held, Held)
    assert tree_of(house).line == "b2"
    assert ("ask", "a") not in world.there()
    house.approve(held.where, by="ann")
    assert life(house, search, ways) == ["mail before 1", "ask a 2", "mail a 3", "mail after 4"]


# --- nested ---


@agent
async def nested(run: Run, task: Any) -> Any:
    first = await run.explore(["a", "b"], score=lambda attempt: {"a": 1, "b": 2}[attempt.candidate])
    await make(first)
    second = await run.explore([f"{first}1", f"{first}2"], score=lambda attempt: int(attempt.candidate[1]))
    await mail(second)
    return [first, second]


def test_a_search_within_a_search(house: House, world: World) -> None:
    assert life(house, nested) == ["b", "b2"]
    assert world.there() == {("make", "b"): 1, ("mail", "b2"): 1}
    assert len(open_branches(house)) == 1
    assert life(house, nested) == ["b", "b2"]
    assert len(world.deeds) == 2


def test_two_searches_one_after_another(house: House, world: World) -> None:
    @agent
    async def twice(run: Run, task: Any) -> Any:
        first = await run.explore(["a", "b"])
        await make(first)
        second = await run.explore(["c", "d"])
        return [first, second, await mail(second)]

    assert life(house, twice) == ["a", "c", "mail c 2"]
    assert world.there() == {("make", "a"): 1, ("mail", "c"): 1}


@pytest.mark.parametrize("parallel", [1, 2])
def test_searches_side_by_side(house: House, world: World, parallel: int) -> None:
    @agent
    async def beside(run: Run, task: Any) -> Any:
        found = await asyncio.gather(*(run.explore([f"{n}a", f"{n}b"]) for n in range(parallel)))
        return [await make(name) for name in found]

    assert [answer[:7] for answer in life(house, beside)] == [f"make {n}a" for n in range(parallel)]
    assert world.there() == {("make", f"{n}a"): 1 for n in range(parallel)}


# --- by hand ---


def test_a_speculative_fork_by_hand_is_held_until_it_is_promoted(house: House, world: World) -> None:
    life(house, walk, ["mail a", "wait word"])
    house.fork(f"{RUN}@{last(house)}", kind="speculative", settings={"steps": ["mail a", "make b", "mail c"]}, by="op")
    ready = life(house, walk, branch="b2")
    assert isinstance(ready, Ready)
    assert world.there() == {("mail", "a"): 1}
    with pytest.raises(Misuse):
        house.fork(f"{RUN}@b2:{last(house, 'b2')}", by="op")
    house.promote(RUN, "b2", by="op")
    assert life(house, walk) == ["mail a 1", "make b 2", "mail c 3"]
    with pytest.raises(Misuse):
        house.promote(RUN, "b2", by="op")
    with pytest.raises(Misuse):
        house.abandon(RUN, "b2", by="op")


def test_an_abandoned_candidate_has_left_nothing_behind(house: House, world: World) -> None:
    life(house, walk, ["mail a", "wait word"])
    house.fork(f"{RUN}@{last(house)}", kind="speculative", settings={"steps": ["mail a", "make b", "mail c"]}, by="op")
    life(house, walk, branch="b2")
    house.abandon(RUN, "b2", by="op")
    assert house.clear(RUN) == []
    assert "abandoned" in str(life(house, walk, branch="b2"))
    assert world.there() == {("mail", "a"): 1}
    house.signal(RUN, "word", "go")
    assert life(house, walk) == ["mail a 1", "go"]


def test_one_of_a_group_is_promoted(house: House, world: World) -> None:
    life(house, search, [["make a"], ["make b"]])
    assert len(places(house, Promoted)) == 1
    assert len(places(house, Forked)) == 2
    for name in ("b2", "b3"):
        with pytest.raises(Misuse):
            house.promote(RUN, name, by="op")
