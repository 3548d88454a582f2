"""Calls at a door that are found again: by whom, for how long, and how many of them there may be."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.capability import Budget, Terms
from holdfast.core.contract import Repeat
from holdfast.core.effect import Encoding
from holdfast.core.record import Refusal
from holdfast.errors import BadCall, Refused
from holdfast.gateway.order import Mark
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.rights import Right
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.wards import Taken
from tests.gateway.lodge import Lodge, limited


@pytest.fixture
def lodge(tmp_path: Path) -> Lodge:
    return Lodge(tmp_path / "runs.db")


async def eventually(holds: Any) -> None:
    """Wait until something holds; at most a minute."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - nobody tells this side
            await asyncio.sleep(0.005)


async def call(lodge: Lodge, taken: Taken, right: Right, to: str = "a", **more: Any) -> Any:
    """The answer to a letter that is sent by a right; it is not delivered."""
    prepared = await lodge.office.prepare("send", {"to": to})
    return json.loads((await taken.ward.call(right, prepared, **more)).data)


async def narrowed(taken: Taken, terms: Terms) -> Right:
    right, _ = await taken.ward.rights.narrow(taken.right, terms, by="the agent")
    return right


# --- until when ---


async def test_an_answer_that_is_delivered_late_ends_no_call_but_its_own(lodge: Lodge) -> None:
    """Two wait for one call; when the first has its answer, the same call is made anew. Then the second has it."""
    office = lodge.office
    async with lodge.open() as taken:
        ward, asked = taken.ward, [await office.prepare("send", {"to": "a"}) for _ in range(4)]
        await asyncio.gather(ward.call(taken.right, asked[0]), ward.call(taken.right, asked[1]))
        ward.delivered(asked[0])
        office.gate = asyncio.Event()
        anew = asyncio.ensure_future(ward.call(taken.right, asked[2]))
        await eventually(lambda: len(office.receipts) == 2)
        ward.delivered(asked[1])
        again = asyncio.ensure_future(ward.call(taken.right, asked[3]))
        await asyncio.sleep(0)
        office.gate.set()
        assert (await anew).data == (await again).data == b'{"number":2}'
    assert len(office.sent) == 2


# --- by whom ---


async def test_a_call_under_way_is_not_joined_by_another_right(lodge: Lodge) -> None:
    lodge.office.gate = asyncio.Event()
    async with lodge.open() as taken:
        other = await narrowed(taken, Terms(tools=("post.send",), budget=Budget(calls=1)))
        calls = [asyncio.ensure_future(call(lodge, taken, right)) for right in (taken.right, taken.right, other, other)]
        await eventually(lambda: len(lodge.office.receipts) == 2)
        lodge.office.gate.set()
        assert sorted(each["number"] for each in await asyncio.gather(*calls)) == [1, 1, 2, 2]
        assert other.used.calls == 1


async def test_who_may_not_ask_is_not_told_what_another_right_was_answered(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        other = await narrowed(taken, limited(prefix="b"))
        await call(lodge, taken, taken.right)
        for resend in (False, True):
            with pytest.raises(Refused, match="does not begin with"):
                await call(lodge, taken, other, resend=resend)
        await lodge.send(taken)
        with pytest.raises(Refused, match="does not begin with"):
            await call(lodge, taken, other, resend=True)
    assert len(lodge.office.sent) == 1


async def test_an_answer_that_stands_for_every_such_call_is_not_given_to_who_may_not_ask(lodge: Lodge) -> None:
    lodge.office.repeat = Repeat.ONCE
    async with lodge.open() as taken:
        may, may_not = await narrowed(taken, limited(prefix="a")), await narrowed(taken, limited(prefix="b"))
        await lodge.send(taken)
        assert await call(lodge, taken, may) == {"number": 1}
        with pytest.raises(Refused, match="does not begin with"):
            await call(lodge, taken, may_not)
    refused = [record for record in await lodge.records() if isinstance(record, Refusal)]
    assert [(each.tool, each.by) for each in refused] == [("post.send", "capability")]


async def test_the_mark_of_a_call_is_worth_nothing_to_another_right(lodge: Lodge) -> None:
    async with lodge.open() as taken:
        other = await narrowed(taken, Terms(tools=("post.send",)))
        await call(lodge, taken, taken.right, mark=Mark("m", 0))
        with pytest.raises(BadCall, match="another one"):
            await call(lodge, taken, other, mark=Mark("m", 0))
    assert len(lodge.office.sent) == 1


async def test_what_a_model_said_is_not_told_to_another_right(lodge: Lodge) -> None:
    answers = [b"one", b"two"]

    async def ask(receipt: Receipt) -> Reply:
        return Reply(answers.pop(0), Encoding.BYTES, None)

    async def asked(taken: Taken, right: Right) -> bytes:
        prepared = await lodge.office.prepare("look", {"prompt": "hello"})
        return (await taken.ward.decide(right, prepared, ask, resend=True)).reply.data

    async with lodge.open(crash=True) as taken:
        assert [await asked(taken, taken.right) for _ in range(2)] == [b"one"] * 2
        assert await asked(taken, await narrowed(taken, Terms(tools=("post.look",)))) == b"two"
    async with lodge.open() as taken:
        with pytest.raises(Refused, match=r"does not name `post\.look`"):
            await asked(taken, await narrowed(taken, Terms(tools=("post.send",))))
        assert await asked(taken, taken.right) == b"one"
