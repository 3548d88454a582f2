"""How a person's word gets into a log: the store is opened for writing, the word is placed, and its place is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.cli.options import existing, same_store
from holdfast.cli.remedies import resume
from holdfast.cli.terminal import hint, out, safe
from holdfast.core.codec import decode
from holdfast.core.record import Started
from holdfast.errors import Corrupt
from holdfast.gateway.desk import parse_node
from holdfast.gateway.line import STARTED_KEY
from holdfast.store import Readable

if TYPE_CHECKING:
    from holdfast.embedded import House


def place(store: str | None, where: str, word: Callable[[House], str], said: str, *, goes_on: bool = True) -> None:
    """Let `word` place a verdict about `where` (a run or a node), and write to stdout the node at which it stands.
    `goes_on`: whether the run has something to do now."""
    from holdfast.embedded import open_store

    with open_store(existing(store)) as house:
        node = word(house)
        branch = parse_node(node)[0]
        recorded = asyncio.run(started_by(house.store, branch)) if goes_on else ""
    out(f"{safe(node)}  {safe(said)}")
    if goes_on:
        way = safe(resume(branch, recorded, same_store(store)))
        hint(f"a process that waits for this run goes on by itself; if there is none: {way}")


async def started_by(store: Readable, branch: str) -> str:
    """The agent's name in a branch's log. Raises Corrupt if it has no beginning."""
    for entry in await store.read(branch, key=STARTED_KEY, newest=1):
        record = decode(entry.body)
        if isinstance(record, Started):
            return record.agent
    raise Corrupt("the run has no beginning", where=branch, fix="run `holdfast verify`")
