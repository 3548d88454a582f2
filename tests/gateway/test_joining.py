"""A library that gives up waiting and calls again: joined to the call that is open, held, or an effect of its own, as
the contract says (design §4, "Joining" and "Repeat").

The same is asked of each contract in three moments: the first call is still in flight, it has been sealed, and the
process died in between, so that it is in doubt.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from holdfast import Happened, Held, NotHappened, agent, key, open_store, tool
from holdfast.agent.run import Agent
from holdfast.core.record import Hold, Intent
from holdfast.embedded import House
from holdfast.store.committer import Committer
from tests.stage import RUN, Killed, life, of, story

KINDS = ["idempotent", "reversible", "irreversible"]
WRITES = [(kind, repeat) for kind in KINDS for repeat in ("once", "ask", "each")]


class Office:
    """A world that is slow: each sending is counted by its key, and answered when `slow` is set. The first sending
    dies, if asked to, after it has acted."""

    def __init__(self, *, dies: bool = False) -> None:
        self.sent: list[str] = []
        self.started = asyncio.Event()
        self.slow = asyncio.Event()
        self.dies = dies

    def tool(self, kind: str, repeat: str) -> Any:
        reversible = {"undo": self.take_back} if kind == "reversible" else {}
        probed = {} if kind == "idempotent" else {"probe": self.find}

        @tool(kind=kind, name="send", identity=["to"], repeat=repeat, **reversible, **probed)
        async def send(to: str) -> str:
            if kind != "idempotent" or key() not in self.sent:
                self.sent.append(key())
            answer = f"sent {self.sent.index(key()) + 1}"
            self.started.set()
            await self.slow.wait()
            if self.dies:
                self.dies = False
                raise Killed
            return answer

        return send

    def find(self, to: str) -> Happened[str] | NotHappened:
        return Happened(f"sent {self.sent.index(key()) + 1}") if key() in self.sent else NotHappened("it was not sent")

    def take_back(self, to: str) -> None:
        raise AssertionError("nothing is to be taken back here")


def retrying(office: Office, send: Any, *, in_flight: bool) -> Agent:
    """An agent whose library gives up on the first call when it is under way, and calls again: at once (`in_flight`),
    or when the first has been answered."""

    @agent
    async def retries(run: Any, task: Any) -> list[str]:
        first = asyncio.ensure_future(send("ann"))
        if in_flight:
            await office.started.wait()
            first.cancel()
            await asyncio.wait([first])
            assert first.cancelled()
        else:
            office.slow.set()
            await first
        again = asyncio.ensure_future(send("ann"))
        for _ in range(5):
            await asyncio.sleep(0)
        office.slow.set()
        return [await again, await send("ann")]

    return retries


def waits_for_people(house: House, office: Office, ending: object) -> None:
    """The second call is held; when people agree it is an effect of its own."""
    assert isinstance(ending, Held)
    assert len(office.sent) == 1
    assert "the same call happened before" in of(Hold, house)[0].why


@pytest.mark.parametrize("in_flight", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_where_the_contract_says_once_a_call_that_is_made_again_is_the_first_one(kind: str, *, in_flight: bool) -> None:
    office = Office()
    with open_store("memory://") as house:
        played = retrying(office, office.tool(kind, "once"), in_flight=in_flight)
        assert life(house, played) == ["sent 1", "sent 1"]
        assert len(office.sent) == 1
        assert len(of(Intent, house)) == 1
        assert life(house, played) == ["sent 1", "sent 1"]


@pytest.mark.parametrize("in_flight", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_where_the_contract_says_ask_a_call_that_is_made_again_is_held(kind: str, *, in_flight: bool) -> None:
    office = Office()
    with open_store("memory://") as house:
        ending = life(house, retrying(office, office.tool(kind, "ask"), in_flight=in_flight))
        waits_for_people(house, office, ending)


@pytest.mark.parametrize("in_flight", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_where_the_contract_says_each_a_call_that_is_made_again_is_another(kind: str, *, in_flight: bool) -> None:
    office = Office()
    with open_store("memory://") as house:
        played = retrying(office, office.tool(kind, "each"), in_flight=in_flight)
        assert life(house, played) == ["sent 2", "sent 3"]
        assert len(set(office.sent)) == len(office.sent) == 3


def test_people_who_agree_to_a_call_that_is_made_again_agree_to_one() -> None:
    office = Office()
    send = office.tool("irreversible", "ask")

    @agent
    async def retries(run: Any, task: Any) -> list[str]:
        office.slow.set()
        return [await send("ann"), await send("ann")]

    with open_store("memory://") as house:
        held = life(house, retries)
        waits_for_people(house, office, held)
        house.approve(held.where, by="ben")
        assert life(house, retries) == ["sent 1", "sent 2"]
        assert story(house).split().count("hold") == 1


def test_people_who_refuse_a_call_that_is_made_again_leave_the_first_as_it_is() -> None:
    office = Office()
    send = office.tool("irreversible", "ask")

    @agent
    async def retries(run: Any, task: Any) -> str:
        office.slow.set()
        first = await send("ann")
        try:
            await send("ann")
        except Exception as refused:  # noqa: BLE001 - what an agent sees
            return f"{first}, then {type(refused).__name__}"
        return "sent twice"

    with open_store("memory://") as house:
        held = life(house, retries)
        house.refuse(held.where, by="ben")
        assert life(house, retries) == "sent 1, then Refused"
        assert len(office.sent) == 1


# --- after a crash ---


@pytest.mark.parametrize("in_flight", [True, False])
@pytest.mark.parametrize(("kind", "repeat"), WRITES)
def test_a_call_in_doubt_is_settled_before_one_that_is_made_again(kind: str, repeat: str, *, in_flight: bool) -> None:
    """The process died after the world had changed. Whatever the contract says of a second call, the first is still
    one."""
    office = Office(dies=True)
    send = office.tool(kind, repeat)

    @agent
    async def dying(run: Any, task: Any) -> list[str]:
        office.slow.set()
        return [await send("ann")]

    @agent
    async def retries(run: Any, task: Any) -> list[str]:
        office.slow.set()
        if in_flight:  # both at once, as two that do not know of each other
            return list(await asyncio.gather(send("ann"), send("ann")))
        return [await send("ann"), await send("ann")]

    with open_store("memory://") as house:
        assert isinstance(life(house, dying), Killed)
        assert len(office.sent) == 1
        ending = life(house, retries)
        match repeat:
            case "once":
                assert ending == ["sent 1", "sent 1"]
                assert len(office.sent) == 1
            case "ask":
                waits_for_people(house, office, ending)
            case _:
                assert sorted(ending) == ["sent 1", "sent 2"]
                assert len(set(office.sent)) == len(office.sent) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_waits_for_one_that_never_happened_is_carried_out_itself(kind: str) -> None:
    """The first certainly did not happen, so there is nothing to adopt: the second is an attempt with its own key."""
    tries: list[str] = []
    undo = {"undo": lambda to: None} if kind == "reversible" else {}

    @tool(kind=kind, name="send", identity=["to"], **undo)
    async def send(to: str) -> str:
        tries.append(key())
        await asyncio.sleep(0)
        if len(tries) == 1:
            raise NotHappened("the line is busy")
        return "sent"

    @agent
    async def retries(run: Any, task: Any) -> list[str]:
        heard = await asyncio.gather(send("ann"), send("ann"), send("ann"), return_exceptions=True)
        return [str(each) if isinstance(each, str) else type(each).__name__ for each in heard]

    with open_store("memory://") as house:
        assert life(house, retries) == ["NotHappened", "sent", "sent"]
        assert len(set(tries)) == len(tries) == 2


@pytest.mark.parametrize("repeat", ["once", "each"])
def test_many_who_call_at_once_are_as_many_effects_as_the_contract_says(repeat: str) -> None:
    office = Office()
    send = office.tool("irreversible", repeat)

    @agent
    async def crowd(run: Any, task: Any) -> list[str]:
        office.slow.set()
        return list(await asyncio.gather(*(send("ann") for _ in range(20))))

    with open_store("memory://") as house:
        answers = life(house, crowd)
        assert len(office.sent) == len(set(answers)) == (1 if repeat == "once" else 20)
        assert life(house, crowd) == answers


@pytest.mark.parametrize("turns", range(6))
def test_a_call_that_is_made_again_while_the_answer_of_the_first_is_on_its_way_to_the_disk_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """The seal of an idempotent effect leaves with the intent of the next one. Until both have arrived, the answer is
    in neither place that one would look first."""
    monkeypatch.setattr(Committer, "now", lambda _committer, _job: False)  # as when somebody else is writing

    @tool(kind="idempotent", identity=["what"])
    async def put(what: str) -> str:
        return f"{what} was put"

    @agent
    async def hurries(run: Any, task: Any) -> str:
        await put("a")
        other = asyncio.ensure_future(put("b"))
        for _ in range(turns):
            await asyncio.sleep(0)
        answer = await put("a")
        await other
        return answer

    with open_store(f"sqlite:///{tmp_path}/runs.db") as house:
        assert life(house, hurries) == "a was put"


def test_a_deliberate_second_effect_says_so_and_is_joined_to_its_own() -> None:
    office = Office()
    send = office.tool("irreversible", "once")

    @agent
    async def reminds(run: Any, task: Any) -> list[str]:
        office.slow.set()
        reminder = send.again("reminder")
        return list(await asyncio.gather(send("ann"), reminder("ann"), send("ann"), reminder("ann")))

    with open_store("memory://") as house:
        assert life(house, reminds, id=RUN) == ["sent 1", "sent 2", "sent 1", "sent 2"]
        assert len(office.sent) == 2
