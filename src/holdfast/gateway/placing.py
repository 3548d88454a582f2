"""What people say about a run is placed by the gateway where its log can have it, and nowhere else.

Rules
1. A record that the log could not read where it would stand is refused: else one bad word would end the run.
2. It is looked up by what its record says, not by what its bringer says.
3. A payload is what its digest says, also one that is brought in pieces.
4. The doubt about an effect is ended by people only while nobody advances the branch: its owner knows better.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.log import Log
from holdfast.core.payload import Blob
from holdfast.core.record import Forked, Settled
from holdfast.errors import BadCall, Claimed, Conflict, Corrupt, Refused, Unknown
from holdfast.gateway.history import read_log
from holdfast.gateway.line import key_for
from holdfast.store import Draft, Store
from holdfast.store.rope import gather

TRIES = 8
LARGEST = 64 << 20  # bytes of a payload


async def place(
    store: Store,
    branch: str,
    drafts: Sequence[Draft],
    *,
    after: int | None,
    blobs: Sequence[Blob],
    watch: Mapping[str, int],
    stands_on: Entry | None,
) -> list[Entry]:
    """As `Store.append` without a claim. Raises Refused for a record that may not stand there, BadCall for none,
    Unknown where there is no such branch, and Claimed."""
    if not drafts:
        raise BadCall("there is nothing to be placed")
    await _check_payloads(store, blobs)
    for _ in range(TRIES):
        log = await _log_of(store, branch, stands_on)
        await _check(store, branch, drafts, log, born=stands_on is not None)
        place_after = None if stands_on is not None else log.seq if after is None else after
        try:
            return await store.append(
                branch, drafts, epoch=0, after=place_after, barrier=True, blobs=blobs, watch=watch, stands_on=stands_on
            )
        except Conflict:
            if after is not None or stands_on is not None:
                raise
    raise Conflict("the run is writing too fast for a word to be placed", where=branch, fix="try again")


async def _log_of(store: Store, branch: str, stands_on: Entry | None) -> Log:
    """The log as it is where something is to be placed."""
    if stands_on is None:
        if not await store.read(branch, newest=1):
            raise Unknown("there is no such branch", where=branch, fix="holdfast list shows the runs")
        return (await read_log(store, branch)).log
    there = await store.read(stands_on.branch, after=stands_on.seq - 1, upto=stands_on.seq)
    if there != [stands_on] or stands_on.branch.partition("@")[0] != branch.partition("@")[0]:
        raise Refused("a branch stands on an entry of its run", where=branch, fix="read that entry again")
    return (await read_log(store, stands_on.branch, upto=stands_on.seq)).log


async def _check(store: Store, branch: str, drafts: Sequence[Draft], log: Log, *, born: bool) -> None:
    seq = log.seq
    for number, draft in enumerate(drafts):
        record = decode(draft.body)
        if born and number == 0 and (not isinstance(record, Forked) or record.branch != branch.partition("@")[2]):
            raise Refused("a branch begins with its fork", where=branch)
        if key_for(record, log) != draft.key:
            raise Refused("a record is looked up by what it says", where=branch)
        if isinstance(record, Settled):
            await _check_owner(store, branch)
        seq += 1
        try:
            log.fold(Entry(branch, seq, 0, 0, draft.key, draft.body, b""))
        except Corrupt as error:
            raise Refused(f"the log cannot have it: {error.what}", where=branch, fix="read the log again") from None


class _Brought:
    """Payloads that are brought, and those that are stored."""

    def __init__(self, store: Store, blobs: Sequence[Blob]) -> None:
        self._store = store
        self._blobs = {blob.digest: blob for blob in blobs}

    async def blob(self, digest: bytes) -> Blob:
        """As `Readable.blob`."""
        return self._blobs[digest] if digest in self._blobs else await self._store.blob(digest)


async def _check_payloads(store: Store, blobs: Sequence[Blob]) -> None:
    brought = _Brought(store, blobs)
    for blob in blobs:
        whole = await gather(brought, blob.digest, LARGEST)
        if hashlib.sha256(whole).digest() != blob.digest:
            raise Corrupt("a payload is not what its digest says", where=blob.digest.hex())


async def _check_owner(store: Store, branch: str) -> None:
    if any(found.name == branch and found.holder for found in await store.branches(branch)):
        raise Claimed("it is being advanced: its effects are not in doubt", where=branch, fix="end its program first")
