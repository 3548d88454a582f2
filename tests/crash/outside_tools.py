"""The hosted tools of gateways that are killed: one for each kind, as honest as its contract says. `OUTSIDE` in their
environment is the trial's folder."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from holdfast import Happened, NotHappened, key, tool
from tests.crash import outside
from tests.crash.world import World

FOLDER = Path(os.environ.get("OUTSIDE", "."))  # what only lists the tools has no environment


def point(what: str) -> None:
    """Where the gateway dies, this process ends by itself, and does nothing more before that."""
    try:
        outside.point(FOLDER, what)
    except outside.Cut:
        while True:
            time.sleep(60)


def world() -> World:
    return World(FOLDER / "world")


def _act(what: str, name: str, *, once: bool = False) -> str:
    point("acting")
    answer = world().act(what, name, key(), once=once)
    point("acted")
    return answer


def _find(what: str) -> Happened[str] | NotHappened:
    point("probing")
    there = world().there(what, key())
    return Happened(there[0]) if there else NotHappened("it is not there")


def _take_back(what: str) -> Callable[[str], None]:
    def undo(name: str) -> None:
        point("undoing")
        world().clear(what, name)
        point("undone")

    return undo


@tool(kind="read", name="crm.look", identity=["name"])
async def look(name: str) -> str:
    point("acting")
    await asyncio.sleep(0)
    point("acted")
    return f"{name} is fine"


@tool(kind="idempotent", name="crm.put", identity=["name"])
def put(name: str) -> str:
    return _act("crm.put", name, once=True)


@tool(kind="reversible", name="crm.make", identity=["name"], undo=_take_back("crm.make"))
def make(name: str) -> str:
    return _act("crm.make", name)


@tool(
    kind="reversible", name="crm.build", identity=["name"], undo=_take_back("crm.build"),
    probe=lambda name: _find("crm.build"),
)  # fmt: skip
async def build(name: str) -> str:
    return _act("crm.build", name)


@tool(kind="irreversible", name="crm.mail", identity=["name"])
def mail(name: str) -> str:
    return _act("crm.mail", name)


@tool(kind="irreversible", name="crm.pay", identity=["name"], probe=lambda name: _find("crm.pay"))
async def pay(name: str) -> str:
    return _act("crm.pay", name)
