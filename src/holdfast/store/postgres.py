"""The store in a PostgreSQL database: any number of workers on any number of machines.

Rules
1. Positions, epochs and claims are checked in the transaction that writes, under the locks of the branches.
2. Time is the database's: when an entry was placed, and for how long a worker has been silent.
3. Nothing rests on a session, so a pooler in transaction mode may stand between.
4. Payloads are compressed here, and checked against their digest when they are read. Large ones may be kept outside.
5. What is known to be stored is not sent again, as long as nothing was pruned (postgres_belief.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.errors import Claimed, Conflict, Fenced, RolledBack, StoreFull, Unwritable
from holdfast.store import NOTHING, Draft, Grant
from holdfast.store.heads import Heads
from holdfast.store.postgres_batch import Batch, Head, Job
from holdfast.store.postgres_belief import Belief, Load
from holdfast.store.postgres_committer import PostgresCommitter
from holdfast.store.postgres_depot import LARGE, depot_of
from holdfast.store.postgres_leaves import PostgresLeaves
from holdfast.store.postgres_pruning import COUNT
from holdfast.store.postgres_reading import PostgresReading
from holdfast.store.postgres_schema import Gone, Over, Pruned
from holdfast.store.postgres_sequencer import TTL_S, Sequencer
from holdfast.store.postgres_turns import Turns
from holdfast.store.reading import packer
from holdfast.store.worker import Worker, dead, here

TRIES = 6  # of one append, in whose way sweeps and prunes come


class PostgresStore(PostgresReading):
    """A store in the database that `conninfo` (a URL of libpq) names; its tables are made if they are missing.
    `claim_ttl_s`: after so long without a sign of life, a worker that is not provably dead may be overtaken (its open
    writes are then not settled without proof). `beat_s`: how often it is given while nothing is written. `patience_s`:
    for how long a server that is away is waited for, before what was asked for fails; `answer_s`: for how long one that
    is there and does not answer, before its connection is cut. `blobs`: the URL of the depot of large payloads, unless
    the store knows it already; without any they are in the database."""

    def __init__(
        self,
        conninfo: str,
        *,
        claim_ttl_s: float = 15.0,
        beat_s: float = 1.0,
        patience_s: float = 30.0,
        answer_s: float = 30.0,
        blobs: str | None = None,
    ) -> None:
        super().__init__(conninfo, patience_s=patience_s, answer_s=answer_s)
        self.worker: Worker = here()
        self.claim_ttl_s = claim_ttl_s
        self._claims: set[str] = set()
        self._turns = Turns()
        self._given_up: set[str] = set()  # claims that were given back while the disk was too full to say so
        self.committer = PostgresCommitter(conninfo, self.worker, self._guard, beat_s=beat_s, patience_s=patience_s)
        self.committer.busy = lambda: bool(self._claims)
        self.log_id = self.committer.lane.server.log_id
        self.read_only: RolledBack | None = None
        self._sequencer: Sequencer | None = None
        try:
            self.depot = depot_of(self, self.log_id, blobs, where=self.where)
            self._belief = Belief(cast(int, self.fetch(COUNT)[0][0]), packer())
        except BaseException:
            self.let_go()
            raise

    def sign_with(self, heads: Heads, *, ttl_s: float = TTL_S) -> None:
        """Compare with the anchor, and from now on take part in numbering, signing and publishing. To be called once.
        `ttl_s`: for how long the sequencer may be silent before this worker takes its place."""
        leaves = PostgresLeaves(self.fetch)
        self.committer.lane.compare = lambda: heads.compare(leaves)
        self.read_only = leaves.rolled_back(self.where) or heads.compare(leaves)
        if self.read_only is None:
            self._sequencer = Sequencer(
                self._conninfo, self.worker, heads, guard=self._guard, barrier=self.committer.lane.server.barrier,
                wrong=self._refuse, ttl_s=ttl_s,
            )  # fmt: skip

    def now_ms(self) -> int:
        """The database's clock (ms since 1970), as it was last heard and has gone on since."""
        return self.committer.lane.now_ms()

    def _refuse(self, wrong: RolledBack) -> None:
        self.read_only = wrong

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
        if self.read_only is not None:
            raise self.read_only

        def work(batch: Batch) -> object:
            for other, seen in watch.items():
                if batch.heads[other].seq > seen:
                    raise Conflict("another branch of the run has moved on", where=other)
            head = batch.heads[branch]
            self._check(head, epoch, after)
            if stands_on is not None and (head.seq or (stands_on.branch, stands_on.seq) not in batch.there):
                raise Conflict("the branch is there already, or what it would stand on is not", where=branch)
            placed = batch.place(head, epoch, drafts, stands_on)
            if release:
                head.worker = ""
            return placed

        size = sum([len(draft.body) for draft in drafts])
        job = Job(work, (branch, *watch), barrier, stands_on is not None, stands_on, size)
        try:
            await self._write_in_turn(job, blobs, alone=alone, guarded=after is not None)
        except StoreFull:
            if release:
                self._given_up.add(branch)
            raise
        if release:
            self._claims.discard(branch)
        return cast("list[Entry]", job.result)

    async def _write_in_turn(self, job: Job, blobs: Sequence[Blob], *, alone: bool, guarded: bool) -> None:
        if self.depot is not None and any(len(blob.data) >= LARGE for blob in blobs):
            async with self._turns.held(job.branches[0]):
                await self._write(job, blobs, alone=False, guarded=guarded)
        else:
            await self._turns.passed(job.branches[0])
            await self._write(job, blobs, alone=alone, guarded=guarded)

    async def _write(self, job: Job, blobs: Sequence[Blob], *, alone: bool, guarded: bool) -> None:
        """Write a job with its payloads. A refused one is sent anew, unless it was `guarded` and another of its branch
        has come meanwhile: it could have been placed before."""
        size = job.size
        load = await self._belief.load(blobs, self.depot)
        with self._turns.counted(job.branches[0]) as is_last:
            for tries in range(TRIES):
                job.rows, job.relied, job.count = load.rows, load.relied, load.count
                job.size = size + sum([len(row[2]) for row in load.rows])
                try:
                    if not alone or not self.committer.now(job):
                        await self.committer.soon(job)
                    break
                except (Over, Pruned, Gone) as refusal:
                    if tries == TRIES - 1:
                        raise
                    load = await self._load_anew(blobs, refusal)
                    if guarded and not is_last():
                        raise Conflict("the log has moved on", where=job.branches[0]) from None
        load.remember()

    async def _load_anew(self, blobs: Sequence[Blob], refusal: Unwritable) -> Load:
        """What is to be sent after a refusal: what is large was put too long ago, or what is not sent may be gone."""
        if isinstance(refusal, Pruned):
            self._belief.told(refusal.count)
        if self.depot is not None and isinstance(refusal, Over):
            self.depot.grow_old()
        return await self._belief.load(blobs, self.depot, whole=isinstance(refusal, Gone))

    def _check(self, head: Head, epoch: int, after: int | None) -> None:
        if epoch and (epoch != head.epoch or head.worker != self.worker.id):
            raise Fenced(
                "another worker has taken this branch over", where=head.name, fix="nothing: the other one goes on"
            )
        if after is not None and after < (head.unclaimed_seq if epoch else head.seq):
            raise Conflict("the log has moved on", where=head.name)

    async def claim(self, branch: str) -> Grant:
        """As `Store.claim`."""
        if self.read_only is not None:
            raise self.read_only

        def work(batch: Batch) -> object:
            head = batch.heads[branch]
            previous = self._judge(head, batch)
            head.epoch, head.worker = head.epoch + 1, self.worker.id
            return Grant(head.epoch, previous)

        job = Job(work, (branch,), barrier=True, looks=True)
        await self.committer.soon(job)
        self._claims.add(branch)
        self._given_up.discard(branch)
        return cast(Grant, job.result)

    def _judge(self, head: Head, batch: Batch) -> str:
        """How the last owner ended. Raises Claimed if it has not."""
        mine = head.worker == self.worker.id
        if not head.worker or (mine and head.name in self._given_up):
            return "released" if head.epoch else "none"
        owner = batch.owners.get(head.worker)
        if owner is None and not mine:
            return "unproven"  # its row is gone, and nobody can say how it ended
        if owner is not None and not mine and dead(owner.worker):
            return "dead"
        if owner is not None and not mine and owner.silent_ms > self.claim_ttl_s * 1000:
            return "unproven"
        if mine or owner is None:
            raise Claimed("this process is already advancing it", where=head.name, fix="wait for it to end")
        raise Claimed(
            f"process {owner.worker.pid} on {owner.worker.host} is already advancing it",
            where=head.name,
            fix=f"wait for it to end, or end it: kill {owner.worker.pid}",
        )

    async def close(self) -> None:
        """As `Store.close`. Idempotent."""
        while self.committer.waiting:  # noqa: ASYNC110 - what waits is sent by this loop
            await asyncio.sleep(0.001)
        await asyncio.to_thread(self.let_go)

    def let_go(self) -> None:
        """Give back what is claimed, and close the connections; nothing may be waiting. Idempotent."""
        self.committer.close()
        self._claims.clear()
        if self._sequencer is not None:
            self._sequencer.close()
        self._stop_reading()
