"""Durable entries and payloads. Nothing here looks inside a record.

Rules
1. Prefix-durable: when an entry is durable, so are all before it on its branch.
2. The store places entries (position, time, digest); the writer says only what follows what.
3. Who holds no claim may append too (an approval, a signal): such entries have epoch 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from holdfast.core.entry import Entry
from holdfast.core.payload import Blob

NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that wants a place: what it is looked up by, and its body.

    A `key` of less than 32 bytes is a name and can be looked up at once; one of 32 bytes is an identity, and can be
    looked up from the next draft on that says `recall` (so that runs without checkpoints pay for no index).
    """

    key: bytes
    body: bytes
    recall: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to advance a branch: its epoch, and how the owner before is known to have ended
    (`none`, `released`, `dead`, `unproven`)."""

    epoch: int
    previous: str


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch as it stands: newest entry, and who holds it (empty if nobody does, or its holder is known to be
    dead)."""

    name: str
    seq: int
    digest: bytes
    epoch: int
    at_ms: int
    holder: str


class Readable(Protocol):
    """Entries by branch, and payloads by digest, as they were placed."""

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
        """The entries after position `after` and up to `upto`, in order: all, those looked up by `key`, those of epoch
        0 (`unclaimed`); only the `newest` so many of them if given. Raises Corrupt if they cannot be read."""
        ...

    async def blob(self, digest: bytes) -> Blob:
        """The stored payload of this digest (32 bytes), as it was given. Raises Unknown if it is not here (pruned)."""
        ...

    async def branches(self, prefix: str = "") -> list[Branch]:
        """The branches whose names start with `prefix`, newest first."""
        ...


class Store(Readable, Protocol):
    """Entries by branch, and payloads by digest.

    When `append` returns from a barrier, the entries, and all before them on their branch, survive the loss of this
    process and of its machine's power; without a barrier they survive the loss of the process. Entries are never
    changed or removed.
    """

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
        """Place `drafts` one after another, with their `blobs`, and give the claim back if `release`. `alone`: nobody
        else would be kept waiting, so the calling thread may be blocked for a flush. `stands_on`: the branch begins
        with them, after that entry of another branch.

        Raises Fenced when `epoch` (> 0) is no longer the branch's claim. Raises Conflict when something was placed
        after position `after`: anything at all for epoch 0, entries of epoch 0 for a claim; when anything was placed on
        a branch of `watch` after the position there; when a branch that begins is there already. Raises Stopped if the
        store cannot be written. On any error nothing was kept."""
        ...

    async def claim(self, branch: str) -> Grant:
        """Take the right to advance a branch, durably. Raises Claimed while another living worker holds it."""
        ...

    async def close(self) -> None:
        """Flush, give back what is claimed, and let go of the storage."""
        ...
