"""A program that was edited while its run was under way: it asks for something new before what it has done."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from holdfast import Cancelled, Held, House, InDoubt, Stranded, agent, open_store, tool
from holdfast.core.record import Divergence, Intent
from holdfast.errors import BadCall
from tests.stage import Killed, life, of, story


class Cloud:
    """Networks and mails, as tools make them."""

    def __init__(self) -> None:
        self.did: list[Any] = []

        def take_back(zone: str, size: int, answer: Any) -> None:
            self.did.append(("undo", zone, size, answer))

        @tool(kind="reversible", name="net", resource=["zone"], undo=take_back)
        async def net(zone: str, size: int) -> str:
            self.did.append(("net", zone, size))
            return f"net {size}"

        @tool(kind="irreversible", name="mail", resource=["to"], repeat="each")
        async def mail(to: str, body: str) -> str:
            self.did.append(("mail", to, body))
            return f"mail {body}"

        @tool(kind="idempotent", name="put", resource=["name"])
        async def put(name: str, value: int) -> int:
            self.did.append(("put", name, value))
            return value

        @tool(kind="read", name="look")
        async def look(name: str) -> str:
            self.did.append(("look", name))
            return name

        self.net, self.mail, self.put, self.look = net, mail, put, look


def program(body: Callable[[Any], Any], *, dies: bool = False) -> Any:
    """One edition of a program."""

    @agent
    async def edition(run: Any, task: Any) -> Any:
        answer = await body(run)
        if dies:
            raise Killed
        return answer

    return edition


def after(house: House, cloud: Cloud, *names: str) -> None:
    """Let a first edition put these, and die."""

    async def old(run: Any) -> None:
        for name in names:
            await cloud.put(name, 1)

    assert isinstance(life(house, program(old, dies=True)), Killed)


# --- the three settings ---


def test_a_briefed_agent_goes_on_and_is_told_what_it_has_done() -> None:
    cloud, told = Cloud(), []

    async def new(run: Any) -> str:
        told.append(await run.stranded())
        await cloud.put("other", 5)
        await cloud.put("a", 1)
        told.append(await run.stranded())
        return "done"

    with open_store("memory://") as house:
        after(house, cloud, "a", "b")
        assert life(house, program(new)) == "done"
        assert cloud.did == [("put", "a", 1), ("put", "b", 1), ("put", "other", 5)]
        assert told[0] == [
            Stranded("r@3", "put", {"name": "a", "value": 1}, True, 1),
            Stranded("r@5", "put", {"name": "b", "value": 1}, True, 1),
        ]
        assert [stranded.node for stranded in told[1]] == ["r@5"]
        (divergence,) = of(Divergence, house)
        assert divergence.asked == "`put`"
        assert divergence.unclaimed == (3, 5)


def test_what_may_have_happened_is_stranded_too_and_not_said_to_have_happened() -> None:
    told: list[Stranded] = []

    @tool(kind="irreversible", name="fire")
    async def fire() -> None:
        raise Killed

    async def old(run: Any) -> None:
        await fire()

    async def new(run: Any) -> str:
        told.extend(await run.stranded())
        return "done"

    with open_store("memory://") as house:
        life(house, program(old))
        assert life(house, program(new)) == "done"
        assert told == [Stranded("r@3", "fire", {}, False, None)]


def test_a_run_that_asks_waits_at_the_divergence_and_does_nothing() -> None:
    cloud = Cloud()

    async def new(run: Any) -> str:
        await cloud.put("other", 5)
        return "done"

    with open_store("memory://") as house:
        after(house, cloud, "a")
        for _ in range(2):
            held = life(house, program(new), on_divergence="ask")
            assert isinstance(held, Held)
            assert "took another way than its log: it asks for `put`" in str(held)
            assert "holdfast resume r --on-divergence brief | holdfast cancel r" in held.fix
        assert ("put", "other", 5) not in cloud.did
        assert life(house, program(new)) == "done"
        assert cloud.did[-1] == ("put", "other", 5)


def test_a_run_that_stops_ends_there_and_can_go_on_when_the_program_is_mended() -> None:
    cloud = Cloud()

    async def new(run: Any) -> str:
        try:
            await cloud.put("other", 5)
        except Exception:  # noqa: BLE001
            await cloud.put("another", 6)
        return "done"

    async def mended(run: Any) -> str:
        await cloud.put("a", 1)
        await cloud.put("other", 5)
        return "mended"

    with open_store("memory://") as house:
        after(house, cloud, "a")
        stopped = life(house, program(new), on_divergence="stop")
        assert isinstance(stopped, Cancelled)
        assert "mend the program" in stopped.fix
        assert cloud.did == [("put", "a", 1)]
        assert life(house, program(mended), on_divergence="stop") == "mended"
        assert cloud.did == [("put", "a", 1), ("put", "other", 5)]


def test_a_setting_that_there_is_none_of_is_refused() -> None:
    with open_store("memory://") as house:
        ending = life(house, program(lambda run: asyncio.sleep(0)), on_divergence="guess")
        assert isinstance(ending, BadCall)
        assert "choose brief, ask or stop" in str(ending)


# --- what is one, and what is none ---


def test_a_new_decision_before_old_effects_is_a_divergence() -> None:
    cloud = Cloud()

    async def model() -> str:
        return "thought"

    async def new(run: Any) -> Any:
        return await run.decide(model)

    with open_store("memory://") as house:
        after(house, cloud, "a")
        assert life(house, program(new)) == "thought"
        (divergence,) = of(Divergence, house)
        assert divergence.asked.startswith("a decision of `")


def test_a_read_is_no_divergence() -> None:
    cloud = Cloud()

    async def new(run: Any) -> str:
        return await cloud.look("x")

    with open_store("memory://") as house:
        after(house, cloud, "a")
        assert life(house, program(new), on_divergence="stop") == "x"
        assert not of(Divergence, house)


def test_another_order_is_no_divergence_as_long_as_nothing_is_new() -> None:
    cloud = Cloud()

    async def new(run: Any) -> list[int]:
        return [await cloud.put("b", 1), await cloud.put("a", 1), await cloud.put("c", 1)]

    with open_store("memory://") as house:
        after(house, cloud, "a", "b")
        assert life(house, program(new), on_divergence="stop") == [1, 1, 1]
        assert not of(Divergence, house)


def test_new_calls_started_together_with_old_ones_are_no_divergence() -> None:
    cloud = Cloud()

    async def new(run: Any) -> list[int]:
        async def sub(name: str, turns: int) -> int:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await cloud.put(name, 1)

        return await asyncio.gather(cloud.put("new", 1), sub("b", 2), sub("a", 3))

    with open_store("memory://") as house:
        after(house, cloud, "a", "b")
        assert life(house, program(new), on_divergence="stop") == [1, 1, 1]
        assert cloud.did == [("put", "a", 1), ("put", "b", 1), ("put", "new", 1)]


def test_a_divergence_is_recorded_once_a_life() -> None:
    cloud = Cloud()

    async def new(run: Any) -> None:
        for number in range(4):
            await cloud.put(f"new {number}", 1)

    with open_store("memory://") as house:
        after(house, cloud, "a")
        life(house, program(new))
        assert len(of(Divergence, house)) == 1


def test_a_program_that_leaves_something_out_at_its_end_is_no_divergence() -> None:
    cloud = Cloud()

    async def new(run: Any) -> str:
        return "nothing more to do"

    with open_store("memory://") as house:
        after(house, cloud, "a")
        assert life(house, program(new), on_divergence="stop") == "nothing more to do"
        assert story(house) == "started intent seal finished"


# --- near-duplicates ---


def test_a_reversible_effect_on_the_same_resource_is_taken_back_first() -> None:
    cloud = Cloud()

    async def old(run: Any) -> None:
        await cloud.net("west", 1)

    async def new(run: Any) -> str:
        return await cloud.net("west", 2)

    with open_store("memory://") as house:
        life(house, program(old, dies=True))
        assert life(house, program(new)) == "net 2"
        assert cloud.did == [("net", "west", 1), ("undo", "west", 1, "net 1"), ("net", "west", 2)]
        assert story(house) == "started intent seal divergence intent seal intent seal finished"
        assert of(Intent, house)[1].undoes == 3


def test_a_crash_between_undo_and_the_new_effect_undoes_once() -> None:
    cloud, deaths = Cloud(), [True]

    def take_back(zone: str, size: int) -> None:
        cloud.did.append(("undo", zone, size))

    @tool(kind="reversible", name="vpc", resource=["zone"], undo=take_back)
    async def vpc(zone: str, size: int) -> int:
        if size == 2 and deaths:
            deaths.clear()
            raise Killed
        cloud.did.append(("vpc", zone, size))
        return size

    async def old(run: Any) -> None:
        await vpc("west", 1)

    async def new(run: Any) -> int:
        return await vpc("west", 2)

    with open_store("memory://") as house:
        life(house, program(old, dies=True))
        assert isinstance(life(house, program(new)), Killed)
        assert life(house, program(new)) == 2
        # the second undo makes sure that the sending of 2 that nobody heard of left nothing
        assert cloud.did == [("vpc", "west", 1), ("undo", "west", 1), ("undo", "west", 2), ("vpc", "west", 2)]


def test_what_was_taken_back_is_done_anew_when_the_program_asks_for_it_after_all() -> None:
    cloud = Cloud()

    async def old(run: Any) -> None:
        await cloud.net("west", 1)

    async def new(run: Any) -> list[str]:
        return [await cloud.net("west", 2), await cloud.net("west", 1)]

    with open_store("memory://") as house:
        life(house, program(old, dies=True))
        assert life(house, program(new)) == ["net 2", "net 1"]
        assert [did[0] for did in cloud.did] == ["net", "undo", "net", "net"]


@pytest.mark.parametrize("name", ["mail", "put"])
def test_what_cannot_be_taken_back_is_asked_about(name: str) -> None:
    cloud = Cloud()

    async def old(run: Any) -> None:
        await (cloud.mail("ann", "old") if name == "mail" else cloud.put("x", 1))

    async def new(run: Any) -> Any:
        return await (cloud.mail("ann", "new") if name == "mail" else cloud.put("x", 2))

    with open_store("memory://") as house:
        life(house, program(old, dies=True))
        held = life(house, program(new))
        assert isinstance(held, Held)
        assert "the same resource was changed at 3, which the program no longer asks for" in str(held)
        assert len(cloud.did) == 1
        house.approve(held.where, by="ann")
        assert life(house, program(new)) in ("mail new", 2)
        assert len(cloud.did) == 2


def test_a_near_duplicate_of_a_doubt_is_asked_about() -> None:
    sent: list[int] = []

    @tool(kind="irreversible", name="fire", resource=["at"])
    async def fire(at: str, times: int) -> None:
        sent.append(times)
        raise Killed

    async def old(run: Any) -> None:
        await fire("x", 1)

    async def new(run: Any) -> None:
        await fire("x", 2)

    with open_store("memory://") as house:
        life(house, program(old))
        held = life(house, program(new))
        assert isinstance(held, Held)
        assert "may have been changed at 3" in str(held)
        assert sent == [1]


@pytest.mark.parametrize("to", ["bob", "carl"])
def test_another_resource_is_no_near_duplicate(to: str) -> None:
    cloud = Cloud()

    async def old(run: Any) -> None:
        await cloud.mail("ann", "old")

    async def new(run: Any) -> str:
        return await cloud.mail(to, "new")

    with open_store("memory://") as house:
        life(house, program(old, dies=True))
        assert life(house, program(new)) == "mail new"


def test_without_a_divergence_the_same_resource_may_be_changed_again() -> None:
    cloud = Cloud()

    async def body(run: Any) -> list[str]:
        return [await cloud.mail("ann", "one"), await cloud.mail("ann", "two")]

    with open_store("memory://") as house:
        assert life(house, program(body)) == ["mail one", "mail two"]


def test_an_effect_in_doubt_that_is_no_longer_asked_for_does_not_keep_the_run_from_its_end() -> None:
    @tool(kind="irreversible", name="fire")
    async def fire() -> None:
        raise Killed

    async def old(run: Any) -> None:
        await fire()

    async def asks(run: Any) -> None:
        await fire()

    with open_store("memory://") as house:
        life(house, program(old))
        assert isinstance(life(house, program(asks)), InDoubt)
        assert life(house, program(lambda run: asyncio.sleep(0, "over"))) == "over"
