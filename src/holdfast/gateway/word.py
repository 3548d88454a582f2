"""A person's word, as it comes in at the admin door: it must fit the log that it is to stand in.

Rules
1. What would not fit would make the log unreadable: it is refused here, whatever program has sent it.
2. The conditions of `Desk` hold for everybody: an approval is for the exact call, nobody settles what a living owner
   has in hand, and a word is about the log as it stands when it is placed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from holdfast.core.entry import Entry
from holdfast.core.log import Log
from holdfast.core.record import Abandoned, Approval, Forked, Promoted, Record, Refusal, Settled, Signal
from holdfast.core.tree import MAIN
from holdfast.errors import Claimed, Conflict, Corrupt, Misuse, Refused
from holdfast.gateway.family import KnownTree
from holdfast.gateway.history import read_log
from holdfast.gateway.line import key_for
from holdfast.store import Draft, Store

NOWHERE = bytes(32)


async def fitting(
    store: Store, branch: str, words: Sequence[tuple[Draft, Record]], after: int | None, now_ms: int,
    *, rests: Callable[[], bool] = lambda: False,
) -> int | None:  # fmt: skip
    """The position after which these words may be placed on a branch; None: wherever it ends. `rests`: its owner waits,
    with nothing in flight. Raises Conflict, Misuse, Refused, Claimed where they may not."""
    if all(isinstance(record, Forked | Promoted | Abandoned) for _, record in words):
        await _fits_tree(store, branch, words)
        return after
    log = (await read_log(store, branch)).log
    if after is not None and after != log.seq:
        raise Conflict("the run has moved on", where=branch)
    seq = log.seq
    for draft, record in words:
        _check(log, draft, record, branch, now_ms)
        if isinstance(record, Settled) and not rests():
            await _check_owner(store, branch)
        try:
            log.fold(Entry(branch=branch, seq=log.seq + 1, epoch=0, at_ms=now_ms, key=draft.key, body=draft.body,
                           digest=NOWHERE))  # fmt: skip
        except Corrupt as error:
            raise Misuse(f"this cannot be said here: {error.what}", where=branch, fix="holdfast show") from None
    return None if all(isinstance(record, Signal) for _, record in words) else seq


def _check(log: Log, draft: Draft, record: Record, branch: str, now_ms: int) -> None:
    if draft.key != key_for(record, log):
        raise Refused("a record is to be found under what it is about", where=branch)
    if isinstance(record, Approval | Refusal) and record.hold is not None:
        slot = log.at(record.hold)
        if slot is None or slot.hold is None or slot.hold_seq != record.hold or not slot.waits:
            raise Misuse(f"nothing is held at {record.hold}", where=branch, fix="holdfast show lists the holds")
        if isinstance(record, Approval) and record.call != slot.hold.call:
            raise Refused("the approval is for another call than the held one", where=branch)
        if isinstance(record, Approval) and now_ms >= slot.hold.expires_ms:
            raise Misuse("the hold has expired: nobody answered in time", where=branch)


async def _check_owner(store: Store, branch: str) -> None:
    for found in await store.branches(branch):
        if found.name == branch and found.holder:
            what = f"the run is being advanced by {found.holder}: its effects are not in doubt"
            raise Claimed(what, where=branch, fix="wait for it, or end its program first")


async def _fits_tree(store: Store, branch: str, words: Sequence[tuple[Draft, Record]]) -> None:
    run, _, line = branch.partition("@")
    tree = await KnownTree(store, run).refresh()
    for draft, record in words:
        assert isinstance(record, Forked | Promoted | Abandoned)
        if draft.key != key_for(record, Log(branch)) or (line != MAIN and not isinstance(record, Forked)):
            raise Refused("a record is to be found under what it is about", where=branch)
        why = tree.breach(record)
        if why is not None:
            raise Misuse(why, where=branch, fix=f"holdfast show {run} shows the tree")
