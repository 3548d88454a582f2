"""What a system says no with is sealed as it came, and said again by each resume."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from holdfast import NotHappened, agent, open_store, tool
from holdfast.core.effect import Encoding
from holdfast.core.effect import NotHappened as Absent
from holdfast.core.record import Seal
from holdfast.gateway.upstreams import Declined, Reply
from tests.stage import Killed, life, of, story

SAID = b'{"error":"the account is closed","code":4}'
REPLY = Reply(SAID, Encoding.JSON, {"error": "the account is closed", "code": 4})


class Shop:
    """A shop that takes no orders, and an agent that asks until it is told."""

    def __init__(self) -> None:
        self.asked = 0
        self.heard: list[NotHappened] = []

    def orders(self, *deaths: int) -> Any:
        """An agent that orders, and dies after having heard the answer in each of these lives."""

        @tool(kind="irreversible", name="shop.order", repeat="each")
        def order(what: str) -> str:
            self.asked += 1
            raise Declined("the account is closed", REPLY)

        @agent
        def buyer(run: Any, task: Any) -> str:
            try:
                order("ink")
            except NotHappened as no:
                self.heard.append(no)
            if len(self.heard) in deaths:
                raise Killed
            return "went without"

        return buyer


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}?anchor=none"


def test_what_was_said_no_with_is_sealed_and_replayed_byte_for_byte(url: str) -> None:
    shop = Shop()
    for life_number in (1, 2, 3):
        with open_store(url) as house:
            ending = life(house, shop.orders(1, 2))
            assert ending == "went without" if life_number == 3 else isinstance(ending, Killed)
    assert shop.asked == 1
    assert [(type(no), no.what, no.where) for no in shop.heard] == [(Declined, "the account is closed", "r@3")] * 3
    replies = [no.reply for no in shop.heard if isinstance(no, Declined)]
    assert [(reply.data, reply.encoding) for reply in replies] == [(SAID, Encoding.JSON)] * 3
    assert [reply.value for reply in replies] == [{"error": "the account is closed", "code": 4}] * 3


def test_the_seal_says_that_it_did_not_happen_and_names_the_answer(url: str) -> None:
    with open_store(url) as house:
        life(house, Shop().orders())
        (seal,) = of(Seal, house)
        assert isinstance(seal.outcome, Absent)
        assert seal.outcome.answer is not None
        kept = asyncio.run(house.store.blob(bytes.fromhex(seal.outcome.answer.digest)))
        assert kept is not None
        assert kept.data == SAID
        assert story(house) == "started intent seal finished"


def test_a_refusal_without_words_of_the_system_keeps_none(url: str) -> None:
    @tool(kind="irreversible", name="shop.order")
    def order() -> str:
        raise NotHappened("closed on Sundays")

    @agent
    def buyer(run: Any, task: Any) -> str:
        return order()

    with open_store(url) as house:
        life(house, buyer)
        (seal,) = of(Seal, house)
        assert seal.outcome == Absent("closed on Sundays")
