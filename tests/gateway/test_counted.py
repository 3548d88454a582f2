"""Calls at a door that are found again: by whom, for how long, and how many of them there may be."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.capability import Budget, Terms
from holdfast.core.contract import Repeat
from holdfast.core.effect import Encoding
from holdfast.core.record import Decision, Refusal
from holdfast.errors import BadCall, Busy, NotHappened, Refused
from holdfast.gateway import counted, order
from holdfast.gateway.order import Mark
from holdfast.gateway.receipt import Receipt
from holdfast.gateway.rights import Right
from holdfast.gateway.upstreams import Declined, Reply
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


# --- for how long, and how many ---


async def test_an_answer_that_is_not_kept_comes_from_the_log(lodge: Lodge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "KEPT", 30)
    async with lodge.open() as taken:
        first = [await call(lodge, taken, taken.right, to) for to in "abcdef"]
        seen = [(await taken.ward.call(taken.right, await lodge.office.prepare("look", {}))).data for _ in range(2)]
        assert [await call(lodge, taken, taken.right, to) for to in "abcdef"] == first
        assert await lodge.look(taken) == json.loads(seen[0]) == json.loads(seen[1])
    assert (len(lodge.office.sent), lodge.office.looked) == (6, 1)


async def test_a_delivered_answer_that_is_not_kept_comes_from_the_log(
    lodge: Lodge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "KEPT", 0)
    async with lodge.open() as taken:
        first = [await lodge.send(taken, to) for to in "ab"]
        assert [await lodge.send(taken, to, resend=True) for to in "ab"] == first
        assert await lodge.send(taken, mark=Mark("m", 0)) == await lodge.send(taken, mark=Mark("m", 0)) == {"number": 3}


async def test_what_a_system_said_no_with_comes_from_the_log(lodge: Lodge) -> None:
    lodge.office.declines = True
    async with lodge.open() as taken:
        for _ in range(3):
            with pytest.raises(Declined) as said:
                await call(lodge, taken, taken.right)
            assert said.value.reply.data == b'{"closed":true}'
    assert len(lodge.office.receipts) == 1


async def test_answers_are_kept_for_so_many_bytes(lodge: Lodge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "KEPT", 100)
    async with lodge.open() as taken:
        replies = [await taken.ward.call(taken.right, await lodge.office.prepare("look", {"n": n})) for n in range(50)]
        sizes = {id(reply): len(reply.data) for reply in replies}
        gc.collect()
        alive = [each for each in gc.get_objects() if isinstance(each, asyncio.Task) and each.done()]
        held = [id(each.result()) for each in alive if not each.cancelled() and each.exception() is None]
        assert 0 < sum(sizes.get(each, 0) for each in held) <= 100


async def test_calls_whose_answers_nobody_takes_are_so_many_and_no_more(
    lodge: Lodge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "MOST_OPEN", 3)
    async with lodge.open() as taken:
        for to in "abc":
            await call(lodge, taken, taken.right, to)
        with pytest.raises(Busy, match="whose answers nobody has taken"):
            await call(lodge, taken, taken.right, "d")
        assert await lodge.send(taken, "b") == {"number": 2}
        assert await lodge.send(taken, "d") == {"number": 4}
    assert [to for to, _ in lodge.office.sent] == ["a", "b", "c", "d"]


async def test_what_is_carried_out_at_once_has_arguments_of_so_many_bytes(
    lodge: Lodge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "CARRIED", 100)
    lodge.office.gate = asyncio.Event()
    async with lodge.open() as taken:
        large = asyncio.ensure_future(call(lodge, taken, taken.right, "a" * 80))
        await eventually(lambda: lodge.office.receipts)
        with pytest.raises(Busy, match="are being carried out already"):
            await call(lodge, taken, taken.right, "b" * 80)
        lodge.office.gate.set()
        await large
        assert await call(lodge, taken, taken.right, "b" * 80) == {"number": 2}


async def test_a_mark_that_was_forgotten_is_not_a_new_call(lodge: Lodge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "REMEMBERED", 2)
    async with lodge.open() as taken:
        for made in range(4):
            await lodge.send(taken, mark=Mark("m", made))
        with pytest.raises(BadCall, match="answered long ago"):
            await lodge.send(taken, mark=Mark("m", 1))
        assert await lodge.send(taken, mark=Mark("m", 3)) == {"number": 4}
    assert len(lodge.office.sent) == 4


async def test_the_turns_of_so_many_makers_are_known_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "MOST", 3)
    monkeypatch.setattr(order, "PATIENCE_S", 0.01)
    turns = order.Order()
    for maker in "abcad":  # b is the one that was not heard of for longest
        turns.passed("post.send", Mark(maker, 0))
    for maker in "abcd":
        await turns.turn("post.send", Mark(maker, 1))
    assert [maker for maker, _ in turns._next] == ["c", "a", "d"]


async def test_what_a_model_said_comes_from_the_log_where_it_is_not_kept(
    lodge: Lodge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "KEPT", 0)
    answers = [b"one", b"two", b"three"]

    async def ask(receipt: Receipt) -> Reply:
        return Reply(answers.pop(0), Encoding.BYTES, None)

    async with lodge.open() as taken:

        async def asked(resend: bool) -> bytes:
            prepared = await lodge.office.prepare("look", {"prompt": "hello"})
            return (await taken.ward.decide(taken.right, prepared, ask, resend=resend)).reply.data

        assert [await asked(resend) for resend in (False, True, True, False, True)] == [b"one"] * 3 + [b"two"] * 2
    decisions = [record for record in await lodge.records() if isinstance(record, Decision)]
    assert len(decisions) == 2


async def test_a_question_that_failed_is_asked_anew_and_not_answered_with_an_older_answer(lodge: Lodge) -> None:
    answers = [b"one", None, b"two"]

    async def ask(receipt: Receipt) -> Reply:
        if (answer := answers.pop(0)) is None:
            raise NotHappened("the model is not there")
        return Reply(answer, Encoding.BYTES, None)

    async with lodge.open() as taken:
        prepared = await lodge.office.prepare("look", {"prompt": "hello"})
        await taken.ward.decide(taken.right, prepared, ask)
        with pytest.raises(NotHappened):
            await taken.ward.decide(taken.right, prepared, ask)
        assert (await taken.ward.decide(taken.right, prepared, ask, resend=True)).reply.data == b"two"
