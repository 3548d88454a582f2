"""How a run of a store stands, read from its log no further than needed.

Rules
1. The branch that is a run's line is named by one function, `line_of`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from holdfast.core.codec import decode
from holdfast.core.record import Finished
from holdfast.core.wake import Outlook, Over, Owner, Ready, Rest, Waits
from holdfast.errors import Corrupt
from holdfast.gateway.family import read_tree
from holdfast.gateway.history import FINISHED_KEY, lineage_of
from holdfast.store import Readable
from holdfast.store.changes import Newest
from holdfast.store.clock import clock_of

TURN = 500  # entries that are taken up before others have their turn


@dataclass(frozen=True, slots=True)
class Seen:
    """How a run stood when its line, `branch`, had come to entry `seq`, and `steps` things were done in it; `agent` is
    the name in its log."""

    run: str
    branch: str
    seq: int
    steps: int
    agent: str
    outlook: Outlook


class Watched(Readable, Protocol):
    """What is read of a store to find out how a run goes on."""

    async def beside(self, branch: str, claim_seq: int, mark_seq: int) -> bool:
        """Whether another branch of a run got an entry after entry `mark_seq` of this one, or, without a claim, after
        `claim_seq`. Where that is not certain, it is said to have."""
        ...


def run_of(branch: str) -> str:
    """The run that a branch belongs to."""
    return branch.partition("@")[0]


async def line_of(store: Readable, run: str) -> str:
    """The branch on which a run goes on."""
    return f"{run}@{(await read_tree(store, run)).line}"


def ended(newest: Newest, *, failed_too: bool) -> bool:
    """Whether the newest entry of a branch says that nobody need look further: it has ended, or (`failed_too`) its
    agent raised."""
    return newest.key == FINISHED_KEY and (failed_too or _answered(newest.body))


def _answered(body: bytes) -> bool:
    try:
        record = decode(body)
    except Corrupt:
        return False  # whoever reads all of it finds out, and says so
    return isinstance(record, Finished) and record.error is None


async def see(changes: Watched, branch: str, owner: Owner) -> Seen:
    """How a run goes on, on its line, with the claim in the hands of `owner`. Raises Corrupt if an entry cannot be
    read."""
    run = run_of(branch)
    await read_tree(changes, run)  # which must hold, whichever branch is asked for
    for entry in await changes.read(branch, key=FINISHED_KEY, newest=1):
        if _answered(entry.body):
            return Seen(run, branch, entry.seq, 0, "", Over())
    rest = Rest()
    for stretch, upto in await lineage_of(changes, branch):
        for place, entry in enumerate(await changes.read(stretch, upto=upto), 1):
            rest.take(decode(entry.body), entry)
            if place % TURN == 0:
                await asyncio.sleep(0)
    outlook = rest.outlook(owner, clock_of(changes)()) if rest.seq else Over()
    if isinstance(outlook, Waits) and rest.kin_seq and await changes.beside(branch, rest.claim_seq, rest.kin_seq):
        outlook = Ready("another branch of it has moved", answered=True)
    return Seen(run, branch, rest.seq, rest.steps, rest.agent, outlook)
