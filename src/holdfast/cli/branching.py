"""How a word about a branch gets into the tree of its run, and what follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.cli.options import existing, same_store
from holdfast.cli.remedies import resume
from holdfast.cli.terminal import hint, out, safe
from holdfast.cli.tree import agent_of, others_of
from holdfast.core.outlook import Fate, left_behind
from holdfast.gateway.family import read_tree
from holdfast.gateway.history import FINISHED_KEY, read_log
from holdfast.store import Readable

if TYPE_CHECKING:
    from holdfast.embedded import House


def change(store: str | None, run: str, word: Callable[[House], str], said: str) -> None:
    """Let `word` place a record in the tree of `run`, write its place to stdout, and say what is to be done now."""
    from holdfast.embedded import open_store

    with open_store(existing(store)) as house:
        node = word(house)
        hints = asyncio.run(_hints(house.store, run, same_store(store)))
    out(f"{safe(node)}  {safe(said)}")
    for each in hints:
        hint(safe(each))


async def _hints(store: Readable, run: str, same: str) -> list[str]:
    tree = await read_tree(store, run)
    line = f"{run}@{tree.line}"
    ended = await store.read(line, key=FINISHED_KEY, newest=1)
    found = [] if ended else [f"{resume(run, await agent_of(store, line), same)}   # goes on with the run's line"]
    left = left_behind((await read_log(store, line)).log, tree, await others_of(store, line, tree))
    if any(each.fate is not Fate.KEPT for each in left):
        found.append(f"holdfast stranded {run}{same}   # what is still in the world, and what becomes of it")
    return found
