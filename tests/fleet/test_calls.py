"""Limits of calls hold over all workers; what waits for room is not begun; a dead worker's places come back."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from holdfast import open_store
from holdfast.core.record import Intent
from holdfast.fleet.calls import Calls
from holdfast.store.postgres import PostgresStore
from holdfast.store.url import postgres_address
from tests.fleet import crew
from tests.fleet.test_worker import command
from tests.fleet.yard import CREW, Fleet, freed, soon, stuck

IN_LINE = "SELECT count(*) FROM holdfast_fleet.call WHERE line IS NOT NULL"
UNDER_WAY = "SELECT count(*) FROM holdfast_fleet.call WHERE line IS NULL"


def at_most(fleet: Fleet) -> int:
    """How many counted calls were ever under way at a time."""
    at_work = most = 0
    for what, *_ in fleet.book():
        at_work += {"begins": 1, "ends": -1}.get(what, 0)
        most = max(most, at_work)
    return most


def counted(fleet: Fleet, sql: str) -> int:
    return fleet.rows(sql)[0][0]


def test_of_the_tools_that_a_limit_names_only_so_many_calls_are_under_way_in_the_whole_fleet(fleet: Fleet) -> None:
    names = [f"{kind}-{number}" for number in range(3) for kind in ("send", "find")]
    stuck(fleet, names)
    for _ in range(2):
        fleet.worker("--limit", "crm.*=2")
    tasks = {name: [[f"crm.{name.partition('-')[0]}", name], ["crm.put", f"put-{name}"]] for name in names}
    fleet.begin(crew.errand, {**tasks, "free": [["wire", "free"]]})
    soon(lambda: counted(fleet, IN_LINE) == 4, "four wait")
    soon(lambda: fleet.ended("free"), "other tools are not counted")
    assert at_most(fleet) == 2
    waiting = [name for name in names if name not in [line[1] for line in fleet.book()]]
    assert not any(isinstance(each, Intent) for name in waiting for each in fleet.records(name))
    shown = json.loads(command(fleet, "fleet", "--json").stdout)
    assert shown["calls"] == [{"tools": "crm.*", "under_way": 2, "in_line": 4, "most": 2}]
    freed(fleet, names)
    soon(lambda: fleet.finished() == 7, "all have ended")
    assert at_most(fleet) == 2
    assert len([line for line in fleet.book() if line[0] == "begins"]) == 12
    soon(lambda: not fleet.rows("SELECT 1 FROM holdfast_fleet.call"), "nothing is counted any more")
    fleet.check()


def test_the_places_of_a_worker_that_was_killed_come_back(fleet: Fleet) -> None:
    stuck(fleet, ["a", "b"])
    first = fleet.worker("--limit", "crm.*=2", agents=f"{CREW}:errand")
    fleet.begin(crew.errand, {"a": [["crm.find", "a"]], "b": [["crm.send", "b"]]})
    soon(lambda: counted(fleet, UNDER_WAY) == 2, "both are under way")
    fleet.worker("--limit", "crm.*=2")
    fleet.begin(crew.errand, {"c": [["crm.find", "c"]]})
    soon(lambda: counted(fleet, IN_LINE) == 1, "the third waits")
    fleet.kill(first)
    soon(lambda: fleet.ended("c"), "it has got a place")
    freed(fleet, ["a", "b"])
    soon(lambda: fleet.ended("a"), "what was read is read by another")
    soon(lambda: not fleet.rows("SELECT 1 FROM holdfast_fleet.call"), "nothing is counted any more")


@pytest.mark.parametrize("fleet", [2.0], indirect=True)
def test_the_places_of_a_worker_that_has_fallen_silent_come_back_with_its_claims(fleet: Fleet) -> None:
    stuck(fleet, ["a"])
    first = fleet.worker("--limit", "crm.send=1")
    fleet.begin(crew.errand, {"a": [["crm.send", "a"]]})
    soon(lambda: counted(fleet, UNDER_WAY) == 1, "it is under way")
    fleet.worker("--limit", "crm.send=1")
    fleet.begin(crew.errand, {"b": [["crm.send", "b"]]})
    fleet.kill(first, signal.SIGSTOP)
    soon(lambda: fleet.ended("b"), "the other has got its place")
    assert fleet.rows("SELECT 1 FROM holdfast.branch b JOIN holdfast.worker w ON w.id = b.worker WHERE w.pid = %s",
                      first) == []  # fmt: skip
    freed(fleet, ["a"])
    fleet.kill(first, signal.SIGCONT)
    soon(lambda: ["ends", "a"] in fleet.book(), "it has woken")
    fleet.stop(first)
    assert [line[1] for line in fleet.book() if line[0] == "begins"] == ["a", "b"]


def test_a_worker_that_is_told_to_stop_does_not_wait_for_room(fleet: Fleet) -> None:
    stuck(fleet, ["a"])
    fleet.worker("--limit", "crm.*=1")
    fleet.begin(crew.errand, {"a": [["crm.send", "a"]]})
    soon(lambda: counted(fleet, UNDER_WAY) == 1, "the place is taken")
    second = fleet.worker("--limit", "crm.*=1")
    fleet.begin(crew.errand, {f"b{number}": [["crm.send", f"b{number}"]] for number in range(8)})
    of_second = "SELECT count(*) FROM holdfast_fleet.call c JOIN holdfast.worker w ON w.id = c.worker WHERE w.pid = %s"
    soon(lambda: fleet.rows(of_second, second)[0][0], "it waits")
    fleet.stop(second)
    assert fleet.rows(of_second, second)[0][0] == 0
    freed(fleet, ["a"])
    soon(lambda: fleet.finished() == 9, "the other has done it all")
    assert at_most(fleet) == 1
    fleet.check()


def test_a_run_that_is_cancelled_while_it_waits_for_room_asks_for_nothing(fleet: Fleet) -> None:
    stuck(fleet, ["a"])
    worker = fleet.worker("--limit", "*=1")
    fleet.begin(crew.errand, {"a": [["crm.send", "a"]]})
    soon(lambda: counted(fleet, UNDER_WAY) == 1, "the place is taken")
    fleet.begin(crew.errand, {"b": [["crm.send", "b"]]})
    soon(lambda: counted(fleet, IN_LINE) == 1, "the other waits")
    with open_store(fleet.url) as house:
        house.cancel("b", by="eve")
    soon(lambda: "b  " in fleet.said(worker), "it has ended")
    soon(lambda: counted(fleet, IN_LINE) == 0, "it waits no more")
    freed(fleet, ["a"])
    soon(lambda: fleet.ended("a"), "the first has ended")
    assert [line[1] for line in fleet.book()] == ["a", "a"]
    assert not any(isinstance(each, Intent) for each in fleet.records("b"))


def test_a_call_that_was_made_plainly_does_not_keep_away_those_who_would_make_room(fleet: Fleet) -> None:
    stuck(fleet, ["a"])
    worker = fleet.worker("--limit", "crm.*=1")
    fleet.begin(crew.errand, {"a": [["crm.send", "a"]]})
    soon(lambda: counted(fleet, UNDER_WAY) == 1, "the place is taken")
    fleet.begin(crew.plainly, {"b": "b"})
    soon(
        lambda: "b  waits: as many calls like `crm.put` are under way as may be" in fleet.said(worker), "it is put off"
    )
    freed(fleet, ["a"])
    soon(lambda: fleet.ended("a"), "the first has ended")
    soon(lambda: fleet.rows("SELECT 1 FROM holdfast_fleet.procrastinate_jobs WHERE lock = 'b' AND status = 'todo'"
                            " AND scheduled_at IS NOT NULL"), "the other comes back")  # fmt: skip
    assert not any(isinstance(each, Intent) for each in fleet.records("b"))
    fleet.begin(crew.plainly, {"c": "c"})
    soon(lambda: fleet.ended("c"), "where there is room, it is let in")


@pytest.mark.parametrize("limit", ["crm.*", "crm.*=0", "=3", "*crm=1", "crm. *=1", "a:b:c=1", "crm=x", "crm=-1"])
def test_a_limit_that_cannot_be_meant_is_refused(limit: str) -> None:
    from holdfast.cli.worker import _limits
    from holdfast.errors import BadCall

    with pytest.raises(BadCall):
        _limits([limit])


def test_limits_come_from_the_environment_and_options_come_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.cli.worker import _limits

    monkeypatch.setenv("HOLDFAST_LIMITS", "dun:dun=4, crm.*=2,*=9")
    assert _limits(["crm.*=3", "mail.send=1"]) == ({"dun:dun": 4}, {"crm.*": 3, "*": 9, "mail.send": 1})


# --- the turnstile itself ---


@asynccontextmanager
async def turnstile(fleet: Fleet, **limits: int) -> AsyncIterator[Calls]:
    """That of one more member of the fleet."""
    store = PostgresStore(postgres_address(fleet.url))
    fleet.rows(
        "INSERT INTO holdfast_fleet.member (worker, number, agents, at_once) VALUES (%s, 0, '', 1) RETURNING 1",
        store.worker.id,
    )
    calls = Calls(store, {name.replace("_", ".").replace("all", "*"): most for name, most in limits.items()})
    try:
        yield calls
    finally:
        calls.close()
        await store.close()


async def waits(fleet: Fleet, calls: Calls, tool: str, in_line: int) -> asyncio.Task[Any]:
    """A call that stands in line."""
    waiting = asyncio.create_task(calls.enter(tool))
    async with asyncio.timeout(60):
        while counted(fleet, IN_LINE) != in_line:  # noqa: ASYNC110 - it is the database that tells
            await asyncio.sleep(0.01)
    return waiting


def test_who_comes_first_is_let_in_first(fleet: Fleet) -> None:
    async def told() -> list[str]:
        async with turnstile(fleet, crm_send=1) as one, turnstile(fleet, crm_send=1) as other:
            leave: Any = await one.enter("crm.send")
            first = await waits(fleet, other, "crm.send", 1)
            second = await waits(fleet, one, "crm.send", 2)
            order: list[str] = []
            for name, waiting in (("second", second), ("first", first)):
                waiting.add_done_callback(lambda _, name=name: order.append(name))
            leave()
            (await first)()
            (await second)()
            return order

    assert asyncio.run(told()) == ["first", "second"]


def test_what_waits_for_one_limit_takes_no_room_of_another(fleet: Fleet) -> None:
    async def told() -> int:
        async with turnstile(fleet, all=2, crm_all=1) as calls:
            leave: Any = await calls.enter("crm.send")
            waiting = await waits(fleet, calls, "crm.find", 1)
            other: Any = await calls.enter("mail.send")
            other()
            leave()
            (await waiting)()
            return counted(fleet, IN_LINE)

    assert asyncio.run(told()) == 0


def test_who_waits_is_told_when_a_membership_has_taken_its_places_with_it(fleet: Fleet) -> None:
    async def told() -> str:
        async with turnstile(fleet, crm_all=1) as one, turnstile(fleet, crm_all=1) as other:
            await one.enter("crm.send")
            waiting = await waits(fleet, other, "crm.find", 1)
            ((name,),) = fleet.rows("SELECT worker || ' ' || number FROM holdfast_fleet.call WHERE line IS NOT NULL")
            with fleet.postgres.connect() as connection:
                connection.execute("LISTEN holdfast_call")
                fleet.rows(
                    "DELETE FROM holdfast_fleet.member WHERE worker = (SELECT worker FROM holdfast_fleet.call"
                    " WHERE line IS NULL) RETURNING 1"
                )
                heard = [each.payload for each in connection.notifies(timeout=60, stop_after=1)]
            assert heard == [name]
            other.heard(name)
            (await waiting)()
            return name

    assert asyncio.run(told())


def test_a_call_that_waits_no_more_leaves_nothing(fleet: Fleet) -> None:
    async def told() -> None:
        async with turnstile(fleet, all=1) as calls:
            leave: Any = await calls.enter("crm.send")
            waiting = await waits(fleet, calls, "crm.find", 1)
            waiting.cancel()
            await asyncio.wait([waiting])
            await calls.tidy()
            assert counted(fleet, IN_LINE) == 0
            assert counted(fleet, UNDER_WAY) == 1
            leave()

    asyncio.run(told())


def test_a_place_that_nobody_has_is_given_back_though_leaving_was_never_said(fleet: Fleet) -> None:
    async def told() -> None:
        async with turnstile(fleet, all=5) as calls:
            leave: Any = await calls.enter("crm.send")
            fleet.rows(  # as by a statement that came late
                "INSERT INTO holdfast_fleet.call (worker, number, tools, most)"
                " SELECT worker, 0, tools, most FROM holdfast_fleet.call RETURNING 1"
            )
            await calls.tidy()
            assert counted(fleet, UNDER_WAY) == 1
            leave()

    asyncio.run(told())


def test_who_is_not_one_of_the_fleet_is_not_let_in(fleet: Fleet) -> None:
    async def told() -> None:
        async with turnstile(fleet, all=5) as calls:
            fleet.rows("DELETE FROM holdfast_fleet.member RETURNING 1")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await calls.enter("crm.send")

    asyncio.run(told())
