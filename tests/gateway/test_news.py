"""A run that waits is started again when there is something new for it, and not before."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.codec import encode
from holdfast.core.contract import Level
from holdfast.core.effect import Encoding
from holdfast.core.log import Log
from holdfast.core.payload import pack_bytes
from holdfast.core.policy import Held
from holdfast.core.record import Claim, Draw, Finished, Record
from holdfast.core.tree import ForkKind
from holdfast.errors import BadCall, Waiting
from holdfast.gateway.desk import Desk
from holdfast.gateway.fork import Cutting, fork
from holdfast.gateway.line import key_for
from holdfast.gateway.news import Heard, heard_by, heard_in, news
from holdfast.store import Draft
from holdfast.store.sqlite import SqliteStore
from tests.gateway.lodge import RUN, Lodge, Rules

MAIN = f"{RUN}@main"


async def parked(lodge: Lodge, level: Level = Level.ONE) -> tuple[Heard, str]:
    """What a run had heard that waits for people, and where its held call stands."""
    lodge.rules = Rules(lambda facts: Held("ask", "people are asked", level))
    async with lodge.open() as taken:
        with pytest.raises(Waiting) as held:
            await lodge.send(taken)
        return heard_by(taken.ward.mediator.line, held.value), held.value.where


async def is_news(store: SqliteStore, heard: Heard, now_ms: int = 0) -> bool:
    """Whether the run may go on; what takes longer than a few looks is waited for in vain."""
    try:
        await asyncio.wait_for(news(store, heard, lambda: now_ms), 0.3)
    except TimeoutError:
        return False
    return True


async def test_a_held_run_has_news_when_enough_people_have_agreed(tmp_path: Path) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    heard, node = await parked(lodge, Level.TWO)
    store = SqliteStore(lodge.path)
    assert not await is_news(store, heard)
    await Desk(store).approve(node, by="ann")
    assert not await is_news(store, heard)
    await Desk(store).approve(node, by="bob")
    assert await is_news(store, heard)
    await store.close()


@pytest.mark.parametrize("word", ["refuse", "signal", "cancel"])
async def test_any_other_word_is_news(tmp_path: Path, word: str) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    heard, node = await parked(lodge)
    store = SqliteStore(lodge.path)
    desk = Desk(store)
    if word == "refuse":
        await desk.refuse(node, by="ann")
    elif word == "signal":
        await desk.signal(RUN, "go", pack_bytes(b"1", Encoding.JSON), by="ann")
    else:
        await desk.cancel(RUN, by="ann", reason="too late")
    assert await is_news(store, heard)
    await store.close()


async def test_a_moment_that_has_come_is_news(tmp_path: Path) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    heard, _ = await parked(lodge)
    store = SqliteStore(lodge.path)
    sleeping = replace(heard, until_ms=1000)
    assert not await is_news(store, sleeping, now_ms=1000 - 10_000)
    assert await is_news(store, sleeping, now_ms=1000)
    await store.close()


async def test_another_line_of_the_run_is_news(tmp_path: Path) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    heard, _ = await parked(lodge)
    store = SqliteStore(lodge.path)
    await fork(store, Cutting(MAIN, 3, ForkKind.RECOVERY, "ann"))
    assert await is_news(store, heard)
    await store.close()


async def test_the_end_of_the_run_elsewhere_is_news(tmp_path: Path) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    heard, node = await parked(lodge)
    await Desk(own := SqliteStore(lodge.path)).approve(node, by="ann")
    await own.close()
    approved = replace(heard, seen=len(await lodge.records()))
    async with lodge.open(ends=True) as taken:
        await lodge.send(taken)
    store = SqliteStore(lodge.path)
    assert isinstance((await lodge.records(store))[-1], Finished)
    assert await is_news(store, approved)
    await store.close()


async def test_what_moves_on_the_branch_that_it_waits_for_is_news(tmp_path: Path) -> None:
    lodge = Lodge(tmp_path / "runs.db")
    heard, _ = await parked(lodge)
    store = SqliteStore(lodge.path)
    name = await fork(store, Cutting(MAIN, 3, ForkKind.WHAT_IF, "ann"))
    (newest,) = await store.read(f"{RUN}@{name}", newest=1)
    (told,) = await store.read(MAIN, newest=1)
    beside = replace(heard, seen=told.seq, beside=f"{RUN}@{name}", beside_seen=newest.seq)
    grant = await store.claim(f"{RUN}@{name}")
    await store.append(f"{RUN}@{name}", [_draft(Claim(worker="w", previous="none"))], epoch=grant.epoch)
    assert not await is_news(store, beside), "somebody has come to it, and has done nothing yet"
    await store.append(f"{RUN}@{name}", [_draft(Draw(name="dice", n=0, value="6"))], epoch=grant.epoch)
    assert await is_news(store, beside)
    await store.close()


def _draft(record: Record) -> Draft:
    return Draft(key_for(record, Log("")), encode(record))


WRONG: list[dict[str, Any]] = [
    {},
    {"branch": "r@main"},
    {"branch": "r@main", "seen": "1"},
    {"branch": "r@main", "seen": True},
    {"branch": "r@main", "seen": -1},
    {"branch": "r@main", "seen": 1 << 63},
    {"branch": "r", "seen": 1},
    {"branch": 7, "seen": 1},
    {"branch": "r@" + "b" * 300, "seen": 1},
    {"branch": "r@main", "seen": 1, "beside": None},
    {"branch": "r@main", "seen": 1, "until_ms": 1.5},
    {"branch": "r@main", "seen": 1, "more": 1},
]


@pytest.mark.parametrize("asked", WRONG)
def test_what_no_gateway_has_told_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(BadCall):
        heard_in(asked)


def test_what_was_told_comes_back_as_it_was() -> None:
    heard = Heard(branch="r@b2", seen=7, beside="r@main", beside_seen=3, until_ms=9)
    assert heard_in(heard.told()) == heard
