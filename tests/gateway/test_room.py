"""The files of a run whose starter captures them: one checkpoint, one moment, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.payload import pack_text
from holdfast.core.record import Checkpoint
from holdfast.errors import BadCall, Busy, HoldfastError, Misuse, Stopped
from holdfast.gateway.closure import Closure
from holdfast.gateway.room import LOOKS, StarterRoom
from tests.gateway.lodge import Lodge

TREE = "ab" * 32


class Starter:
    """Answers each time that it is asked to capture; before that it does `meanwhile`."""

    def __init__(self, told: Mapping[str, Any], meanwhile: Callable[[], Any] = lambda: None) -> None:
        self.room = StarterRoom(self.tell)
        self.told = told
        self.meanwhile = meanwhile
        self.asked = 0
        self.answers: set[asyncio.Task[None]] = set()

    async def tell(self, message: Mapping[str, Any]) -> None:
        assert message == {"capture": True}
        self.asked += 1
        self.answers.add(asyncio.create_task(self.answer()))

    async def answer(self) -> None:
        found = self.meanwhile()
        if found is not None:
            await found
        await self.room.captured(self.told)


def closure(room: StarterRoom) -> Closure:
    return Closure(
        state=lambda: pack_text(b"null", None, lambda _: False), room=room, services=(), labels=(), restores=False
    )


async def test_a_checkpoint_names_what_the_starter_has_captured_and_then_lets_go_of_it(tmp_path: Path) -> None:
    lodge, starter = Lodge(tmp_path / "runs.db"), Starter({"tree": TREE})
    async with lodge.open() as taken:
        await taken.ward.memory.checkpoint(closure(starter.room))
        await asyncio.wait_for(asyncio.gather(*starter.answers), 60)
    (made,) = [each for each in await lodge.records() if isinstance(each, Checkpoint)]
    assert (made.workspace, starter.asked) == (TREE, 1)


async def test_what_the_run_has_done_while_it_was_captured_is_captured_again(tmp_path: Path) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    async with lodge.open() as taken:

        def meanwhile() -> Any:
            return lodge.look(taken) if starter.asked == 1 else None

        starter = Starter({"tree": TREE}, meanwhile)
        await taken.ward.memory.checkpoint(closure(starter.room))
        await asyncio.wait_for(asyncio.gather(*starter.answers), 60)
    records = await lodge.records()
    assert starter.asked == 2
    assert isinstance(records[-1], Checkpoint)


async def test_a_run_that_never_rests_gets_no_checkpoint_and_is_told_so(tmp_path: Path) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    async with lodge.open() as taken:
        starter = Starter({"tree": TREE}, lambda: lodge.look(taken))
        with pytest.raises(Busy, match="each time that its files are captured"):
            await taken.ward.memory.checkpoint(closure(starter.room))
        await asyncio.wait_for(asyncio.gather(*starter.answers), 60)
    assert starter.asked == LOOKS
    assert not [each for each in await lodge.records() if isinstance(each, Checkpoint)]


FALSE: dict[str, tuple[Mapping[str, Any], type[HoldfastError], str]] = {
    "no digest": ({"tree": "x"}, BadCall, "named by no digest"),
    "none at all": ({}, BadCall, "named by no digest"),
    "too long": ({"tree": TREE + "ab"}, BadCall, "named by no digest"),
    "other letters": ({"tree": "AB" * 32}, BadCall, "named by no digest"),
    "too much": ({"error": {"type": "Misuse", "what": "the workspace holds more"}}, Misuse, "holds more"),
    "a wait": ({"error": {"type": "Held", "what": "it waits"}}, Stopped, "it waits"),
    "garbage": ({"error": 7}, Stopped, "the gateway failed"),
}


@pytest.mark.parametrize("kind", FALSE)
async def test_without_a_capture_there_is_no_checkpoint(tmp_path: Path, kind: str) -> None:
    told, error, why = FALSE[kind]
    lodge, starter = Lodge(tmp_path / "runs.db"), Starter(told)
    async with lodge.open() as taken:
        with pytest.raises(error, match=why):
            await taken.ward.memory.checkpoint(closure(starter.room))
    assert not [each for each in await lodge.records() if isinstance(each, Checkpoint)]


async def test_a_starter_that_is_gone_keeps_nobody_waiting(tmp_path: Path) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    async with lodge.open() as taken:
        starter = Starter({"tree": TREE})
        starter.meanwhile = starter.room.gone
        for _ in range(2):
            with pytest.raises(Stopped, match="nobody is there"):
                await asyncio.wait_for(taken.ward.memory.checkpoint(closure(starter.room)), 60)
    assert starter.asked == 1


async def test_a_capture_that_nobody_waits_for_any_more_is_let_go_of(tmp_path: Path) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    async with lodge.open() as taken:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> None:
            asked.set()
            await go_on.wait()

        starter = Starter({"tree": TREE}, slowly)
        making = asyncio.ensure_future(taken.ward.memory.checkpoint(closure(starter.room)))
        await asyncio.wait_for(asked.wait(), 60)
        making.cancel()
        await asyncio.wait([making])
        go_on.set()
        await asyncio.wait_for(asyncio.gather(*starter.answers), 60)
    assert not [each for each in await lodge.records() if isinstance(each, Checkpoint)]
