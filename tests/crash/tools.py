"""The tools of these tests: one for each kind, each as honest as its contract says and no more.

Rules
1. `mail` and `pay`, `make` and `build` have no deduplication of their own: sent twice, they happen twice.
2. Each body passes points (`acting` before the world has changed, `acted` after it) at which a child can be killed or
   stopped.
3. Half of them are synchronous: those run in a thread of the process that is killed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast import Happened, NotHappened, RetryAfter, key, tool
from tests.crash.deaths import point
from tests.crash.world import World

_worlds: list[World] = []


def enter(path: Path) -> World:
    """From now on this process acts on the world in this file."""
    _worlds[:] = [World(path)]
    return _worlds[0]


def world() -> World:
    return _worlds[0]


class Slowness:
    """How long the world takes, at most, before and after it changes: 0, unless a trial wants to be killed in
    between."""

    most_s = 0.0

    def draw(self) -> float:
        return random.uniform(0, self.most_s)


slowness = Slowness()


def _act(what: str, name: str, *, once: bool = False) -> str:
    """What a tool does, in a synchronous body; an asynchronous one awaits `_act_slowly`."""
    point("acting")
    time.sleep(slowness.draw())
    answer = world().act(what, name, key(), once=once)
    time.sleep(slowness.draw())
    point("acted")
    return answer


async def _act_slowly(what: str, name: str, *, once: bool = False) -> str:
    point("acting")
    await asyncio.sleep(slowness.draw())
    answer = world().act(what, name, key(), once=once)
    await asyncio.sleep(slowness.draw())
    point("acted")
    return answer


def _find(what: str) -> Happened[str] | NotHappened:
    point("probing")
    there = world().there(what, key())
    return Happened(there[0]) if there else NotHappened("it is not there")


@tool(kind="read", name="look", identity=["name"])
async def look(name: str) -> str:
    point("acting")
    await asyncio.sleep(0)
    point("acted")
    return f"{name} is fine"


@tool(kind="idempotent", name="put", identity=["name"])
async def put(name: str) -> str:
    return await _act_slowly("put", name, once=True)


@tool(kind="idempotent", name="store", identity=["name"])
def store(name: str) -> str:
    return _act("store", name, once=True)


# An undo is told the tool's arguments and has a key of its own: like a deletion, it goes by the name.
def _take_back(what: str) -> Callable[[str], None]:
    def undo(name: str) -> None:
        point("undoing")
        world().clear(what, name)
        point("undone")

    return undo


@tool(kind="reversible", name="make", identity=["name"], undo=_take_back("make"))
def make(name: str) -> str:
    return _act("make", name)


@tool(kind="reversible", name="build", identity=["name"], undo=_take_back("build"), probe=lambda name: _find("build"))
async def build(name: str) -> str:
    return await _act_slowly("build", name)


@tool(kind="irreversible", name="mail", identity=["name"])
def mail(name: str) -> str:
    return _act("mail", name)


@tool(kind="irreversible", name="ring", identity=["name"])
async def ring(name: str) -> str:
    return await _act_slowly("ring", name)


@tool(kind="irreversible", name="pay", identity=["name"], probe=lambda name: _find("pay"))
async def pay(name: str) -> str:
    return await _act_slowly("pay", name)


@tool(kind="irreversible", name="alter", identity=["name"], approval="one")
async def alter(name: str) -> str:
    return await _act_slowly("alter", name)


@tool(kind="irreversible", name="order", identity=["name"])
async def order(name: str) -> str:
    """Turned away twice for a rate, before it is let in."""
    if world().meet("too many", name) < 2:
        point("turned_away")
        raise RetryAfter(0.01)
    return await _act_slowly("order", name)


@tool(kind="irreversible", name="book", identity=["name"])
def book(name: str) -> str:
    """Declined once: a later attempt is another one."""
    if world().meet("declined", name) < 1:
        point("declined")
        raise NotHappened("declined")
    return _act("book", name)


ALL: dict[str, Any] = {
    made.holdfast.contract.name: made for made in (look, put, store, make, build, mail, ring, pay, alter, order, book)
}
WRITES = tuple(name for name in ALL if name != "look")


# --- tools of which each call is a call of its own, however equal ---


@tool(kind="read", name="gauge", repeat="each")
async def gauge(name: str) -> str:
    """It reads another value each time."""
    point("acting")
    await asyncio.sleep(slowness.draw())
    point("acted")
    return world().answer(name)


@tool(kind="idempotent", name="drop", repeat="each")
async def drop(name: str) -> str:
    return await _act_slowly("drop", name, once=True)


@tool(kind="irreversible", name="chime", repeat="each", probe=lambda name: _find("chime"))
async def chime(name: str) -> str:
    return await _act_slowly("chime", name)


@tool(kind="irreversible", name="knock", repeat="each", probe=lambda name: _find("knock"))
def knock(name: str) -> str:
    return _act("knock", name)


EACH: dict[str, Any] = {made.holdfast.contract.name: made for made in (gauge, drop, chime, knock)}


async def carry_out(name: str, on: str) -> Any:
    """Call a tool from an async agent until it has happened: what certainly did not happen is tried again."""
    called = ALL[name]
    while True:
        try:
            answer = called(on)
            return await answer if asyncio.iscoroutine(answer) else answer
        except NotHappened:
            continue
