"""The history of a branch: what it stands on, read as one log.

Rules
1. A history is one sequence without gaps, whatever branches its stretches stand on, and one chain of digests.
2. Nothing is believed that does not fit the entry before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from holdfast.core.codec import decode
from holdfast.core.entry import Entry, check_chain, origin
from holdfast.core.log import Log
from holdfast.core.record import Checkpoint, Forked, Started
from holdfast.core.tree import MAIN
from holdfast.errors import Corrupt, Unknown
from holdfast.gateway.family import TREE_KEY, tree_record
from holdfast.store import Readable

CHECKPOINT_KEY = b"checkpoint"
OVERRIDE_KEY = b"override"
STARTED_KEY = b"started"
FINISHED_KEY = b"finished"
NO_STATE = hashlib.sha256(b"null").hexdigest()
"""Of the checkpoints of an agent that is replayed from its beginning: what lies before them is not behind it."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A branch as it was read: its log, its first record, and the checkpoint that it was read from."""

    log: Log
    started: Started | None
    restored: Checkpoint | None = None


Lineage = Sequence[tuple[str, int | None]]
"""The stretches of a history, oldest first: `RUN@BRANCH`, and the last seq of it that belongs to it (None: all)."""


async def lineage_of(store: Readable, branch: str) -> Lineage:
    """The stretches that a branch stands on. Raises Unknown if there is no such branch."""
    run, _, name = branch.partition("@")
    stretches: list[tuple[str, int | None]] = []
    upto: int | None = None
    while name != MAIN:
        stretches.append((f"{run}@{name}", upto))
        born = await store.read(f"{run}@{name}", key=TREE_KEY, newest=1)
        if not born:
            raise Unknown(f"there is no branch `{name}`", where=run, fix=f"holdfast show {run} shows its branches")
        forked = tree_record(born[0])
        if not isinstance(forked, Forked) or forked.branch != name or forked.at >= born[0].seq:
            raise Corrupt("a branch does not begin with its fork", where=f"{run}@{name}", fix="run `holdfast verify`")
        name, upto = forked.parent, forked.at if upto is None else min(forked.at, upto)
    return [(f"{run}@{MAIN}", upto), *reversed(stretches)]


async def read_log(store: Readable, branch: str, *, restore: bool = False, upto: int | None = None) -> Opened:
    """Read a branch with all that it stands on, up to position `upto` if given: from its beginning, or (`restore`) from
    the newest checkpoint on. Raises Corrupt if the chain does not hold."""
    lineage = [(name, least(last, upto)) for name, last in await lineage_of(store, branch)]
    base = await newest_checkpoint(store, lineage, upto) if restore else None
    log = Log(branch, base.seq if base else 0)
    if base:
        log.fold(base)
    entries = [
        entry
        for stretch, last in lineage
        if last is None or last > log.base
        for entry in await store.read(stretch, after=log.base, upto=last)
    ]
    check_places(entries, log.base)
    check_chain(base.digest if base else origin(lineage[0][0]), entries)
    for entry in entries:
        log.fold(entry)
    if base is None:
        return Opened(log, log.started)
    await begin_with(store, log, lineage)
    return Opened(log, log.started, cast(Checkpoint, decode(base.body)))


async def begin_with(store: Readable, log: Log, lineage: Lineage) -> int:
    """Take up what the run began with, in a log of what lies behind a checkpoint; when that was (ms since 1970)."""
    begun_ms = 0
    for entry in await store.read(lineage[0][0], key=STARTED_KEY, newest=1):
        log.fold(entry)
        begun_ms = entry.at_ms
    for stretch, last in lineage[1:]:
        for entry in await store.read(stretch, key=OVERRIDE_KEY, upto=least(last, log.base)):
            log.fold(entry)
    return begun_ms


def least(one: int | None, other: int | None) -> int | None:
    """The smaller of two limits, of which either may be none."""
    return other if one is None else one if other is None else min(one, other)


async def newest_checkpoint(store: Readable, lineage: Lineage, most: int | None = None) -> Entry | None:
    """The newest checkpoint of a history, up to position `most` if given."""
    for branch, upto in reversed(lineage):
        found = await store.read(branch, key=CHECKPOINT_KEY, newest=1, upto=least(most, upto))
        if found:
            return found[0]
    return None


def check_places(entries: Sequence[Entry], after: int) -> None:
    """Raise Corrupt where an entry is missing."""
    for place, entry in enumerate(entries, after + 1):
        if entry.seq != place:
            raise Corrupt(
                "an entry is missing from the log", where=f"{entry.branch}:{place}", fix="run `holdfast verify`"
            )
