"""A beam: the branches of one depth are judged together, the best explore on, and nobody else does anything."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from holdfast import Attempt, House, NoCandidate, Run, agent, open_store, tool
from holdfast.core.codec import decode
from holdfast.core.record import Decision, Intent
from holdfast.core.tree import Limb, Status, Tree
from holdfast.errors import BadCall
from holdfast.gateway.family import read_tree

DEPTH = 3
VALUES = {"a": 3, "b": 2, "c": 1, "d": 0}

done: list[str] = []


@tool(kind="irreversible", name="lay", repeat="each")
async def lay(stone: str) -> str:
    done.append(stone)
    return stone


def worth(attempt: Attempt) -> float:
    return sum(VALUES[stone] for stone in attempt.offer)


def path(keep: int, score: Callable[[Attempt], object] = worth, fails: Callable[[str], bool] = lambda _: False) -> Any:
    """An agent that lays stones, one of four at each step."""

    @agent
    async def walk(run: Run, task: None) -> str:
        way = ""
        for _ in range(DEPTH):
            way += await run.explore(list(VALUES), score=score, keep=keep, so_far=way)
            if fails(way):
                raise ValueError(f"no way beyond {way}")
            await lay(way[-1])
        return way

    return walk


def limbs(house: House) -> list[Limb]:
    tree: Tree = asyncio.run(read_tree(house.store, "r"))
    return [limb for limb in tree if limb.name != "main"]


def records(house: House, branch: str) -> list[object]:
    return [decode(entry.body) for entry in asyncio.run(house.store.read(f"r@{branch}"))]


@pytest.fixture
def house() -> Any:
    done.clear()
    with open_store("memory://") as opened:
        yield opened


def test_the_best_way_is_found_and_gone_once(house: House) -> None:
    assert house.run(path(2), id="r") == "aaa"
    assert house.run(path(2), id="r") == "aaa"
    assert done == ["a", "a", "a"]


def test_at_each_depth_only_the_kept_are_forked(house: House) -> None:
    house.run(path(2), id="r")
    parents = Counter(limb.parent for limb in limbs(house))
    assert set(parents.values()) == {len(VALUES)}
    assert len(parents) == 1 + 2 * (DEPTH - 1)


def test_the_branches_of_one_depth_are_judged_across_their_parents(house: House) -> None:
    """Below `a` the worst way is as good as the best below `d`: the second place is given to another child of `a`."""
    house.run(path(2, score=lambda attempt: {"": 0, "a": 9, "b": 8}.get(attempt.offer[:1], 0)), id="r")
    grown = Counter(limb.parent for limb in limbs(house))
    by_name = {limb.name: limb for limb in limbs(house)}
    second = [by_name[name] for name in grown if name != "main" and by_name[name].parent != "main"]
    assert {limb.parent for limb in second} == {"b2"}


def test_who_is_not_kept_has_done_nothing_and_knows_why(house: House) -> None:
    house.run(path(1), id="r")
    lost = [limb for limb in limbs(house) if limb.status is Status.ABANDONED]
    assert len(lost) == 3 * DEPTH
    for limb in lost:
        assert not [record for record in records(house, limb.name) if isinstance(record, Intent)]
        assert "not among the 1 best" in limb.ended


def test_the_whole_way_is_promoted_and_each_is_judged_once(house: House) -> None:
    house.run(path(2), id="r")
    assert sum(limb.promoted for limb in limbs(house)) == DEPTH
    judged = [record for record in records(house, "main") if isinstance(record, Decision)]
    elsewhere = [record for limb in limbs(house) for record in records(house, limb.name)]
    assert len(judged) == len(limbs(house))
    assert not [record for record in elsewhere if isinstance(record, Decision)]


def test_a_branch_that_fails_is_out_and_another_takes_its_place(house: House) -> None:
    assert house.run(path(1, fails=lambda way: way in ("a", "ba")), id="r") == "bba"


def test_where_all_fail_there_is_no_candidate_and_nothing_was_done(house: House) -> None:
    with pytest.raises(NoCandidate):
        house.run(path(2, fails=lambda way: len(way) == 2), id="r")
    assert done == []
    assert not [limb for limb in limbs(house) if limb.status is Status.OPEN]


@pytest.mark.parametrize("deadly", range(1, 25))
def test_a_search_that_dies_at_any_judgement_goes_on_and_ends_the_same(house: House, deadly: int) -> None:
    asked: list[str] = []

    def judge(attempt: Attempt) -> float:
        asked.append(attempt.branch)
        if len(asked) == deadly:
            raise KeyboardInterrupt
        return worth(attempt)

    walk = path(2, score=judge)
    try:
        house.run(walk, id="r")
    except KeyboardInterrupt:
        assert done == []
    assert house.run(walk, id="r") == "aaa"
    assert done == ["a", "a", "a"]
    judged = Counter(asked)
    assert sum(times - 1 for times in judged.values()) <= 1, "only the judgement that died is asked for again"


def test_a_beam_needs_a_score(house: House) -> None:
    @agent
    async def careless(run: Run, task: None) -> str:
        return await run.explore(["a"], keep=2)

    with pytest.raises(BadCall, match="a beam keeps the best"):
        house.run(careless, id="r")


def test_a_beam_inside_a_plain_search_is_a_search_of_its_own(house: House) -> None:
    @agent
    async def both(run: Run, task: None) -> str:
        first = await run.explore(["c", "d"], score=worth)
        way = first
        for _ in range(2):
            way += await run.explore(["a", "b"], score=worth, keep=1, so_far=way)
            await lay(way[-1])
        return way

    assert house.run(both, id="r") == "caa"
    assert done == ["a", "a"]


def test_a_plain_search_inside_a_beam_is_decided_there(house: House) -> None:
    @agent
    async def both(run: Run, task: None) -> str:
        way = ""
        for _ in range(2):
            way += await run.explore(["b", "c"], score=worth, keep=1, so_far=way)
            way += await run.explore(["d", "a"], score=worth)
            await lay(way[-2:])
        return way

    assert house.run(both, id="r") == "baba"
    assert done == ["ba", "ba"]


@dataclass
class Place:
    way: str = ""


@agent(state=Place)
async def careful(run: Run, task: None) -> str:
    """Takes a checkpoint at the head of each step: who is started from it comes to it once more."""
    while len(run.state.way) < DEPTH:
        await run.checkpoint()
        step = await run.explore(["b", "a"], score=worth)
        await run.offer(run.state.way + step)
        await lay(step)
        run.state.way += step
    return run.state.way


def test_a_search_right_behind_a_checkpoint_is_found_again_by_who_starts_from_it(house: House) -> None:
    assert house.run(careful, id="r") == "aaa"
    assert done == ["a", "a", "a"]
    assert len(limbs(house)) == 2 * DEPTH
