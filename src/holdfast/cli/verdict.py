"""How a person's word gets into a log: the store is opened for writing, the word is placed, and its place is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.cli.options import branch_of, existing, same_store
from holdfast.cli.remedies import resume
from holdfast.cli.terminal import hint, out, safe
from holdfast.cli.tree import agent_of, check_open
from holdfast.core.tree import Status
from holdfast.gateway.desk import parse_node
from holdfast.gateway.family import read_tree
from holdfast.gateway.history import read_log
from holdfast.store import Readable

if TYPE_CHECKING:
    from holdfast.embedded import House


def place(
    store: str | None,
    where: str,
    word: Callable[[House], str],
    said: str,
    *,
    goes_on: bool = True,
    lives: bool = False,
) -> None:
    """Let `word` place a verdict about `where` (a run or a node), and write to stdout the node at which it stands.
    `goes_on`: whether the run has something to do now. `lives`: it means something only to a branch that goes on."""
    from holdfast.embedded import open_store

    with open_store(existing(store)) as house:
        if lives:
            asyncio.run(_must_live(house.store, where))
        node = word(house)
        lacking = lives and asyncio.run(_waits_still(house.store, where))
        way = safe(asyncio.run(_way_on(house.store, parse_node(node)[0], same_store(store)))) if goes_on else ""
    out(f"{safe(node)}  {safe(said)}")
    if lacking:
        hint(f"another person must agree too: holdfast approve {safe(where)} --by …")
    elif goes_on and way:
        hint(f"a process that waits for this run goes on by itself; if there is none: {way}")


async def _must_live(store: Readable, where: str) -> None:
    """Raise Misuse if something is said to a branch that goes no further; `where` is a node, RUN or RUN@BRANCH."""
    of_node = where.rpartition("@")[2].rpartition(":")[2].isdigit()
    branch, seq = parse_node(where) if of_node else (branch_of(where), 0)
    run, _, name = branch.partition("@")
    tree = await read_tree(store, run)
    line = tree.line
    if not of_node:
        if "@" in where:
            check_open(tree, run, name, f"say it to the run's line: {run}")
        return
    inherited = any(each == name and (upto is None or seq <= upto) for each, upto in tree.lineage(line))
    here = f"say it to the line: {run}@{line}:{seq}" if inherited else f"holdfast show {run} shows the run's line"
    check_open(tree, run, name, here)


async def _waits_still(store: Readable, where: str) -> bool:
    """Whether what is held at `where` (if it is a node) waits for a further person."""
    if not where.rpartition("@")[2].rpartition(":")[2].isdigit():
        return False
    branch, seq = parse_node(where)
    slot = (await read_log(store, branch)).log.at(seq)
    return slot is not None and slot.hold_seq == seq and slot.waits


async def _way_on(store: Readable, branch: str, same: str) -> str:
    """The command that goes on with a branch; with the run's line, where that is another that has something to hear."""
    run, _, name = branch.partition("@")
    tree = await read_tree(store, run)
    limb = tree.limbs.get(name)
    if limb is None:
        return ""
    name = name if limb.status is Status.OPEN else tree.line
    return resume(run if name == tree.line else f"{run}@{name}", await agent_of(store, f"{run}@{name}"), same)
