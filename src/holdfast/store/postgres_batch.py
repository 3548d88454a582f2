"""What one transaction on PostgreSQL is to write: decided here from the heads of branches, without any I/O.

Rules
1. A job raises before it has left anything in the batch, so that it can be left out without harm to its neighbours.
2. The heads from which a batch was decided go with it: it is written only where the database has the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from holdfast.core.entry import Entry, chain
from holdfast.store import Draft
from holdfast.store.postgres_arrays import byteas, int8s, texts
from holdfast.store.worker import Worker

Row: TypeAlias = tuple[bytes, int, bytes]
"""A payload: digest, form (0 bytes, 1 compressed bytes, 2 rope, 3 compressed rope), data."""


@dataclass(slots=True)
class Head:
    """The newest entry of a branch, its claim, and the newest entry that was placed without one. `found`: the position,
    epoch and worker that the database has."""

    id: int
    name: str
    seq: int
    digest: bytes
    at_ms: int
    unclaimed_seq: int
    epoch: int
    worker: str
    found: tuple[int, int, str]

    def copied(self) -> Head:
        """The same, as it is once it was written."""
        return Head(
            self.id, self.name, self.seq, self.digest, self.at_ms, self.unclaimed_seq, self.epoch, self.worker,
            found=(self.seq, self.epoch, self.worker),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a claim, and for how long it has shown no sign of life, by the database's clock."""

    worker: Worker
    silent_ms: float


@dataclass(slots=True, eq=False)
class Job:
    """One unit of work inside a transaction. `branches`: of which it must know the heads; `looks`: it must know more
    (who holds them, or whether the entry is there that a branch is to stand on); `size`: about how much it writes
    (bytes). `rows`: payloads that it stores; `relied` and `count`: see `Batch.rely`."""

    work: Callable[[Batch], object]
    branches: tuple[str, ...]
    barrier: bool = False
    looks: bool = False
    stands_on: Entry | None = None
    size: int = 0
    rows: Sequence[Row] = ()
    relied: Collection[bytes] = ()
    count: int | None = None
    future: asyncio.Future[object] | None = None
    result: object = None
    error: BaseException | None = field(default=None)

    def __post_init__(self) -> None:
        for name in self.branches:
            name.encode()  # what is no text is the caller's mistake alone, not that of a batch

    def fill(self, batch: Batch) -> bool:
        """Do the work; whether it could be done."""
        self.error = None
        try:
            self.result = self.work(batch)
            batch.keep(self.rows)
            batch.rely(self.count, self.relied)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's own, and is told to whoever waits
            self.error = error
        return self.error is None


class Batch:
    """What the jobs of one transaction have asked for so far, from `heads` on, at `now_ms` by the database's clock."""

    def __init__(
        self,
        heads: Iterable[Head],
        now_ms: int,
        owners: Mapping[str, Owner] | None = None,
        there: frozenset[tuple[str, int]] = frozenset(),
    ) -> None:
        self.heads = {head.name: head.copied() for head in heads}
        self.owners: Mapping[str, Owner] = owners or {}
        self.there = there
        self._now_ms = now_ms
        self._placed: list[tuple[int, Entry]] = []
        self._blobs: dict[bytes, Row] = {}
        self._recalled: set[int] = set()
        self._believed = -1
        self._relied: set[bytes] = set()

    def place(self, head: Head, epoch: int, drafts: Sequence[Draft], stands_on: Entry | None = None) -> list[Entry]:
        """Give each draft its position, time and digest; after `stands_on`, if the branch begins with them. Raises
        ValueError for one that can have no digest."""
        placed: list[Entry] = []
        last = stands_on or head
        seq, digest, now_ms = last.seq, last.digest, self._now_ms
        for draft in drafts:
            seq += 1
            digest = chain(digest, seq, epoch, now_ms, draft.key, draft.body)
            placed.append(Entry(head.name, seq, epoch, now_ms, draft.key, draft.body, digest))
        if placed:
            head.seq, head.digest, head.at_ms = seq, digest, now_ms
            self._placed += [(head.id, entry) for entry in placed]
            if epoch == 0:
                head.unclaimed_seq = seq
        if any(draft.recall for draft in drafts):
            self._recalled.add(head.id)
        return placed

    def keep(self, rows: Iterable[Row]) -> None:
        """Store payloads, each once."""
        for row in rows:
            self._blobs.setdefault(row[0], row)

    def rely(self, count: int | None, relied: Iterable[bytes]) -> None:
        """What is not sent is there, by a count of deletions (the oldest counts); None: all is sent."""
        if count is not None:
            self._believed = count if self._believed < 0 else min(count, self._believed)
            self._relied.update(relied)

    def values(self, worker: str, lane: int, number: int, durability: str) -> tuple[object, ...]:
        """The arguments of `holdfast.place_2`."""
        heads, placed = list(self.heads.values()), [entry for _, entry in self._placed]
        blobs = sorted(self._blobs.values())  # in one order everywhere, so that nobody waits in a circle
        return (
            self._believed, byteas(sorted(self._relied - self._blobs.keys())),
            worker, lane, number, durability,
            int8s([head.id for head in heads]), int8s([head.found[0] for head in heads]),
            int8s([head.found[1] for head in heads]), texts([head.found[2] or None for head in heads]),
            int8s([head.seq for head in heads]), byteas([head.digest for head in heads]),
            int8s([head.at_ms for head in heads]), int8s([head.unclaimed_seq for head in heads]),
            int8s([head.epoch for head in heads]), texts([head.worker or None for head in heads]),
            int8s([branch for branch, _ in self._placed]), int8s([entry.seq for entry in placed]),
            int8s([entry.epoch for entry in placed]), int8s([entry.at_ms for entry in placed]),
            byteas([entry.key or None for entry in placed]), byteas([entry.body for entry in placed]),
            byteas([entry.digest for entry in placed]),
            byteas([row[0] for row in blobs]), int8s([row[1] for row in blobs]), byteas([row[2] for row in blobs]),
            int8s(sorted(self._recalled)),
        )  # fmt: skip
