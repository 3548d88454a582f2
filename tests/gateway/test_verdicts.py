"""A person's verdict on an effect of a run that is taken up: it ends a doubt, and stands beside no seal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.codec import decode
from holdfast.core.contract import Level
from holdfast.core.effect import Kind
from holdfast.core.policy import Allowed, Facts, Held, Verdict
from holdfast.core.record import Intent, Record, Seal, Settled
from holdfast.errors import Claimed, Misuse
from holdfast.errors import Held as WaitsForPeople
from holdfast.gateway import line as line_of
from holdfast.gateway.admin import AdminDoor
from holdfast.gateway.desk import Desk
from holdfast.gateway.gate import Gate
from holdfast.gateway.health import Health
from holdfast.gateway.history import read_log
from holdfast.gateway.people import People
from holdfast.gateway.wards import Taken, Wanted, Wards
from holdfast.store.remote import RemoteStore
from holdfast.store.sqlite import SqliteStore
from tests.gateway.lodge import ALL, RUN, Office, Rules

MAIN = f"{RUN}@main"


def only_letters_to_b_are_held(facts: Facts) -> Verdict:
    return Held("ask", "who is b?", Level.ONE) if facts.args == {"to": "b"} else Allowed("all")


class Home:
    """A run behind the door for people."""

    def __init__(self, store: SqliteStore, taken: Taken, office: Office, people: RemoteStore) -> None:
        self.store, self.taken, self.office = store, taken, office
        self.desk = Desk(people)

    async def send(self, to: str) -> Any:
        return await self.taken.ward.call(self.taken.right, await self.office.prepare("send", {"to": to}))

    async def records(self) -> list[Record]:
        return [decode(entry.body) for entry in await self.store.read(MAIN)]

    async def parked_beside_a_letter(self) -> str:
        """The run waits for people; then what was under way is answered. The place of that intent."""
        self.office.gate = asyncio.Event()
        under_way = asyncio.ensure_future(self.send("a"))
        while not self.office.receipts:  # noqa: ASYNC110 - nobody tells this side
            await asyncio.sleep(0.005)
        with pytest.raises(WaitsForPeople):
            await self.send("b")
        self.office.gate.set()
        await under_way
        records = await self.records()
        (intent,) = [each for each in records if isinstance(each, Intent)]
        return f"{RUN}@{records.index(intent) + 1}"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncGenerator[Home]:
    office = Office(kind=Kind.IDEMPOTENT)
    store = SqliteStore(tmp_path / "runs.db")
    wards = Wards(store, lambda: Rules(only_letters_to_b_are_held), patience_s=0.0)
    health = Health({}, broken=lambda: None, metrics=list)
    path = tmp_path / "admin.sock"
    door = AdminDoor(path, store, Gate(wards, {}), People({}), lambda _: "", dict, health)
    async with contextlib.AsyncExitStack() as opened:
        opened.push_async_callback(store.close)
        await door.open()
        opened.push_async_callback(door.close)
        taken = await wards.open(Wanted(run=RUN, agent="clerk", terms=ALL, by="tester"))
        opened.push_async_callback(wards.close, RUN, ended=False)
        people = RemoteStore(path)
        opened.push_async_callback(people.close)
        yield Home(store, taken, office, people)


async def test_a_verdict_is_not_given_on_an_effect_whose_seal_waits_for_its_place(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_of, "LATER_S", 3600)  # what is placed later comes with what is placed next
    node = await home.parked_beside_a_letter()
    with pytest.raises(Claimed, match="not in doubt"):
        await home.desk.settle(node, "it was not sent", by="ann")
    await home.taken.ward.mediator.line.flush()
    with pytest.raises(Misuse, match="settled already"):
        await home.desk.settle(node, "it was not sent", by="ann")
    ends = [type(each) for each in await home.records() if isinstance(each, Seal | Settled)]
    assert ends == [Seal]
    await read_log(home.store, MAIN)


async def test_a_verdict_is_not_given_while_a_seal_is_on_its_way(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_of, "LATER_S", 3600)
    node = await home.parked_beside_a_letter()
    append, begun, goes_on = home.store.append, asyncio.Event(), asyncio.Event()

    async def slow(branch: str, drafts: Any, **more: Any) -> Any:
        if more["epoch"] != 0:
            begun.set()
            await goes_on.wait()
        return await append(branch, drafts, **more)

    monkeypatch.setattr(home.store, "append", slow)
    flushing = asyncio.ensure_future(home.taken.ward.mediator.line.flush())
    await begun.wait()
    with pytest.raises(Claimed, match="not in doubt"):
        await home.desk.settle(node, "it was not sent", by="ann")
    goes_on.set()
    await flushing
    await read_log(home.store, MAIN)
