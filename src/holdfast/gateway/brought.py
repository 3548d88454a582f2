"""What somebody brings with a word: payloads, and the entry that a branch is to stand on.

Rules
1. A payload is what its digest says, also one that is brought in pieces: else it would stand for another for ever.
2. Nothing begins a run here, and a branch stands on an entry of its own run, as the store has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.errors import Corrupt, Refused, Unknown
from holdfast.store import Store
from holdfast.store.rope import gather

LARGEST = 64 << 20  # bytes of a payload


async def check_brought(store: Store, branch: str, blobs: Sequence[Blob], stands_on: Entry | None) -> None:
    """Raises Unknown for a branch or a piece of a payload that is nowhere, Refused for an entry that is not there,
    Corrupt for a payload that is not what it says."""
    if stands_on is None:
        if not await store.read(branch, newest=1):
            raise Unknown("there is no such branch", where=branch, fix="holdfast list shows the runs")
    else:
        there = await store.read(stands_on.branch, after=stands_on.seq - 1, upto=stands_on.seq)
        if there != [stands_on] or stands_on.branch.partition("@")[0] != branch.partition("@")[0]:
            raise Refused("a branch stands on an entry of its run", where=branch, fix="read that entry again")
    brought = _Brought(store, blobs)
    for blob in blobs:
        if hashlib.sha256(await gather(brought, blob.digest, LARGEST)).digest() != blob.digest:
            raise Corrupt("a payload is not what its digest says", where=blob.digest.hex())


class _Brought:
    """Payloads that are brought, and those that are stored."""

    def __init__(self, store: Store, blobs: Sequence[Blob]) -> None:
        self._store = store
        self._blobs = {blob.digest: blob for blob in blobs}

    async def blob(self, digest: bytes) -> Blob:
        """As `Readable.blob`."""
        return self._blobs[digest] if digest in self._blobs else await self._store.blob(digest)
