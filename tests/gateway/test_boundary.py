"""Checkpoints by an agent's policy: only at the boundaries of its turns, and only when they are due."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast import agent, open_store, tool
from holdfast.core.record import Checkpoint
from holdfast.errors import BadCall
from tests.stage import Killed, life, of, records, story


@dataclass
class Steps:
    """What the agents of these tests remember."""

    done: int = 0


@tool(kind="irreversible", name="pay", repeat="each")
async def pay(what: int) -> int:
    return what


@tool(kind="read", name="look")
async def look(what: int) -> int:
    return what


@tool(kind="idempotent", name="put", repeat="each")
async def put(what: int) -> int:
    return what


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}?anchor=none"


def told(url: str, body: Any, **declared: Any) -> str:
    """The log of one life of an agent, as names."""

    @agent(state=Steps, **declared)
    async def works(run: Any, task: Any) -> Any:
        return await body(run)

    with open_store(url) as house:
        ending = life(house, works)
        assert not isinstance(ending, BaseException), ending
        return story(house)


async def turns(run: Any) -> None:
    for number in range(4):
        await run.turn()
        await look(number)


def test_without_a_policy_a_boundary_is_nothing(url: str) -> None:
    assert told(url, turns) == "started seal seal seal seal finished"


def test_a_checkpoint_is_made_at_the_first_boundary_after_so_many_entries(url: str) -> None:
    assert told(url, turns, checkpoint_every=2) == (
        "started seal checkpoint seal seal checkpoint seal finished"
    )  # a run's start is an entry like any other; its claims are none


def test_a_turn_that_may_do_what_cannot_be_undone_begins_with_a_checkpoint(url: str) -> None:
    async def body(run: Any) -> None:
        await run.turn(look)
        await look(1)
        await run.turn(pay, look)
        await pay(2)
        await run.turn(put)
        await put(3)
        await run.turn()
        await look(4)

    assert told(url, body, checkpoint_before="irreversible") == (
        "started seal checkpoint intent seal intent seal checkpoint seal finished"
    )


def test_no_checkpoint_is_made_twice_in_one_place(url: str) -> None:
    async def body(run: Any) -> None:
        for _ in range(3):
            await run.turn()
        await pay(1)
        await run.checkpoint()
        await run.turn(pay)

    assert told(url, body, checkpoint_every=1, checkpoint_before="irreversible") == (
        "started checkpoint intent seal checkpoint finished"
    )


def test_in_the_middle_of_a_turn_none_is_ever_made(url: str) -> None:
    async def body(run: Any) -> None:
        await run.turn()
        for number in range(5):
            await pay(number)

    found = told(url, body, checkpoint_every=1, checkpoint_before="irreversible")
    assert found == "started checkpoint " + "intent seal " * 5 + "finished"


def test_a_run_that_comes_back_again_and_again_makes_none_for_that(url: str) -> None:
    @agent(state=Steps, checkpoint_every=1, checkpoint_before="irreversible")
    async def works(run: Any, task: Any) -> None:
        await run.turn()
        raise Killed

    with open_store(url) as house:
        for _ in range(4):
            assert isinstance(life(house, works), Killed)
        assert len(of(Checkpoint, house)) == 1


def test_what_is_done_between_boundaries_is_answered_and_done_once(url: str) -> None:
    """The rule of a boundary, kept: a program that begins at its top with the state of one goes on the same."""
    did: list[int] = []

    @tool(kind="irreversible", name="mail", repeat="each")
    async def mail(to: int) -> int:
        did.append(to)
        return to

    deaths = iter([2, 5, 5, 7])
    dies_at = [next(deaths)]

    @agent(state=Steps, checkpoint_every=4)
    async def works(run: Any, task: Any) -> int:
        while run.state.done < 10:
            await run.turn(mail)
            await mail(run.state.done)
            if run.state.done == dies_at[0]:
                dies_at[0] = next(deaths, -1)
                raise Killed
            run.state.done += 1
        return run.state.done

    with open_store(url) as house:
        endings = [life(house, works) for _ in range(5)]
        assert endings[-1] == 10
        assert did == list(range(10))
        assert len(of(Checkpoint, house)) >= 3


def test_a_plain_agent_marks_its_turns_plainly(url: str) -> None:
    places: list[Any] = []

    @agent(state=Steps, checkpoint_every=1)
    def works(run: Any, task: Any) -> None:
        places.append(run.turn(services=["serve"], labels=["begun"]))
        places.append(run.turn())

    with open_store(url) as house:
        life(house, works)
        (made,) = of(Checkpoint, house)
        assert places == ["r@3", None]
        assert (made.services, made.labels) == (("serve",), ("begun",))


@pytest.mark.parametrize(
    "declared",
    [
        {"checkpoint_every": 5},
        {"checkpoint_before": "irreversible"},
        {"state": Steps, "checkpoint_every": 0},
        {"state": Steps, "checkpoint_every": True},
        {"state": Steps, "checkpoint_every": 1.5},
        {"state": Steps, "checkpoint_before": "read"},
        {"state": Steps, "checkpoint_before": "everything"},
        {"state": Steps, "ignore": ["build/"]},
        {"state": Steps, "workspace": True, "ignore": "build/"},
    ],
)
def test_a_policy_that_cannot_be_is_refused_when_it_is_declared(declared: dict[str, Any]) -> None:
    with pytest.raises(BadCall):
        agent(**declared)


@pytest.mark.parametrize("said", [{"services": "serve"}, {"services": [7]}, {"labels": ["two\nlines"]}])
def test_what_cannot_be_written_down_is_no_service_and_no_label(url: str, said: dict[str, Any]) -> None:
    @agent(state=Steps)
    async def works(run: Any, task: Any) -> None:
        with pytest.raises(BadCall):
            await run.checkpoint(**said)

    with open_store(url) as house:
        assert life(house, works) is None
        assert of(Checkpoint, house) == []
        assert len(records(house)) == 3


def test_only_tools_are_named_at_a_boundary(url: str) -> None:
    @agent(state=Steps, checkpoint_every=1)
    async def works(run: Any, task: Any) -> None:
        with pytest.raises(BadCall):
            await run.turn(print)

    with open_store(url) as house:
        assert life(house, works) is None
