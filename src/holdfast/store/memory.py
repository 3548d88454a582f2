"""The plain-object store: the reference that the others are tested against. Nothing in it outlives the process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from holdfast.core.entry import Entry, chain, origin
from holdfast.core.payload import Blob
from holdfast.errors import Claimed, Conflict, Fenced, Unknown
from holdfast.store import NOTHING, Branch, Draft, Grant


class MemoryStore:
    """Entries in lists, payloads in a dict. One process, so whoever holds a claim is alive."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Entry]] = {}
        self._blobs: dict[bytes, Blob] = {}
        self._epochs: dict[str, int] = {}
        self._held: set[str] = set()

    async def append(
        self,
        branch: str,
        drafts: Sequence[Draft],
        *,
        epoch: int,
        after: int | None = None,
        barrier: bool = False,
        release: bool = False,
        alone: bool = False,
        blobs: Sequence[Blob] = (),
        watch: Mapping[str, int] = NOTHING,
        stands_on: Entry | None = None,
    ) -> list[Entry]:
        """As `Store.append`."""
        entries = self._entries.setdefault(branch, [])
        if stands_on is not None and (entries or stands_on not in self._entries.get(stands_on.branch, ())):
            raise Conflict("the branch is there already, or what it would stand on is not", where=branch)
        for other, seen in watch.items():
            if (known := self._entries.get(other)) and known[-1].seq > seen:
                raise Conflict("another branch of the run has moved on", where=other)
        if epoch and (epoch != self._epochs.get(branch) or branch not in self._held):
            raise Fenced("another worker has taken this branch over", where=branch)
        before = entries[0].seq - 1 if entries else 0
        if after is not None and any(entry.epoch == 0 or epoch == 0 for entry in entries[max(0, after - before) :]):
            raise Conflict("the log has moved on", where=branch)
        placed: list[Entry] = []
        last = stands_on if stands_on is not None else entries[-1] if entries else None
        for draft in drafts:
            last = self._form(branch, last, epoch, draft)
            placed.append(last)
        entries.extend(placed)
        for blob in blobs:
            self._blobs.setdefault(blob.digest, blob)
        if release:
            self._held.discard(branch)
        return placed

    @staticmethod
    def _form(branch: str, before: Entry | None, epoch: int, draft: Draft) -> Entry:
        """The entry after `before`."""
        seq, at_ms = before.seq + 1 if before else 1, time.time_ns() // 1_000_000
        previous = before.digest if before else origin(branch)
        digest = chain(previous, seq, epoch, at_ms, draft.key, draft.body)
        return Entry(branch, seq, epoch, at_ms, draft.key, draft.body, digest)

    async def read(
        self,
        branch: str,
        *,
        after: int = 0,
        key: bytes | None = None,
        unclaimed: bool = False,
        newest: int | None = None,
        upto: int | None = None,
    ) -> list[Entry]:
        """As `Store.read`."""
        entries = self._entries.get(branch, [])
        before = entries[0].seq - 1 if entries else 0
        found = [
            entry
            for entry in entries[max(0, after - before) : None if upto is None else max(0, upto - before)]
            if (key is None or entry.key == key) and (not unclaimed or entry.epoch == 0)
        ]
        return found if newest is None else found[max(0, len(found) - newest) :]

    async def blob(self, digest: bytes) -> Blob:
        """As `Store.blob`."""
        found = self._blobs.get(digest)
        if found is None:
            raise Unknown("a payload is not in the store", where=digest.hex())
        return found

    async def claim(self, branch: str) -> Grant:
        """As `Store.claim`."""
        if branch in self._held:
            raise Claimed("this process is already advancing it", where=branch, fix="wait for it to end")
        epoch = self._epochs.get(branch, 0) + 1
        self._epochs[branch] = epoch
        self._held.add(branch)
        return Grant(epoch, "none" if epoch == 1 else "released")

    async def branches(self, prefix: str = "") -> list[Branch]:
        """As `Store.branches`."""
        found = [
            Branch(
                name,
                entries[-1].seq,
                entries[-1].digest,
                self._epochs.get(name, 0),
                entries[-1].at_ms,
                self._holder(name),
            )
            for name, entries in self._entries.items()
            if entries and name.startswith(prefix)
        ]
        return sorted(found, key=lambda branch: branch.at_ms, reverse=True)

    def _holder(self, branch: str) -> str:
        return "this process" if branch in self._held else ""

    async def close(self) -> None:
        """As `Store.close`."""
        self._held.clear()
