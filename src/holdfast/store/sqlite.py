"""The store in one SQLite file: no server, one writing connection, any number of processes.

Rules
1. Positions, epochs and claims are checked in the transaction that writes, never before it.
2. What is remembered between transactions (heads of branches, the newest payloads) is forgotten as soon as another
   process has written, or a transaction was rolled back.
3. Payloads are compressed here and nowhere else; they are checked against their digest when they are read.
4. A payload that is known to be stored is not sent again. Once anything was deleted (see prune.py), nobody believes
   what they know, and a rope is kept only with all of its pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import apsw

from holdfast.core.entry import Entry, chain, origin
from holdfast.core.payload import Blob, pieces
from holdfast.errors import Claimed, Conflict, Corrupt, Fenced, HoldfastError, RolledBack, StoreFull
from holdfast.store import NOTHING, Draft, Grant
from holdfast.store.committer import Committer, Job
from holdfast.store.heads import Heads, default_anchor, load_key
from holdfast.store.reading import DELETIONS, Reading, packer
from holdfast.store.schema import UNREADABLE, connect, place_blobs, refuse_unfit, translate
from holdfast.store.sqlite_leaves import SqliteLeaves
from holdfast.store.worker import Worker, dead, here

COMPRESS_FROM = 256  # bytes
UNPLACED = 1024  # payloads that may be outside the index of digests
_KEEP = (
    "INSERT INTO blob (digest, form, data) SELECT ?1, ?2, ?3"
    " WHERE NOT EXISTS (SELECT 1 FROM blob_place WHERE digest = ?1)"
)
_HAS = (
    "SELECT 1 FROM blob_place WHERE digest = ?1 UNION ALL SELECT 1 FROM blob WHERE digest = ?1"
    " AND id > (SELECT cast(value AS INTEGER) FROM meta WHERE name = 'placed') LIMIT 1"
)
_HEAD = (
    "SELECT b.id, ifnull(e.seq, 0), e.digest, ifnull(c.epoch, 0), ifnull(c.worker, ''),"
    " (SELECT ifnull(max(seq), 0) FROM entry WHERE branch = b.id AND epoch = 0)"
    " FROM branch b LEFT JOIN claim c ON c.branch = b.id"
    " LEFT JOIN entry e ON e.branch = b.id AND e.seq = (SELECT max(seq) FROM entry WHERE branch = b.id)"
    " WHERE b.name = ?"
)


@dataclass(slots=True)
class _Head:
    """The newest entry of a branch, its claim, and the newest entry that was placed without one."""

    id: int
    seq: int
    digest: bytes
    epoch: int
    worker: str
    unclaimed_seq: int


class SqliteStore(Reading):
    """A store in the file `path`. `claim_ttl_s`: after so long without a sign of life, a worker that is not provably
    dead may be overtaken (its open writes are then not settled without proof). `flush_s`: the longest time that an
    entry written without a barrier stays unflushed. `key`: the log key's file (beside the database); `anchor`: the file
    to which heads are published (in the user's state directory), None for none."""

    def __init__(
        self,
        path: Path,
        *,
        claim_ttl_s: float = 15.0,
        flush_s: float = 1.0,
        key: Path | None = None,
        anchor: Path | Literal["default"] | None = "default",
    ) -> None:
        refuse_unfit(path)
        self.path = path
        self.worker: Worker = here()
        self.read_only: RolledBack | None = None
        self._claim_ttl_ms = int(claim_ttl_s * 1000)
        self._heads: dict[str, _Head] = {}
        self._claims: set[str] = set()
        self._given_up: set[str] = set()  # claims that were given back while the disk was too full to say so
        self._stored: set[bytes] = set()  # another set each time that anything was deleted
        self._deletions = ""
        self._unsure = False  # anything was deleted since this store was opened
        self._pack = packer()
        key = key or path.with_name(path.name + "-key")
        self.committer = Committer(path, flush_s, new=not key.exists())  # a key is made after its log, never before
        self.log_id = self.committer.log_id
        self.committer.changed = self._forget
        self.committer.beat = self._beat
        self.committer.seal_batch = self._sign
        self.committer.unsigned = lambda: self._new_entries > 0
        self._new_entries = 0
        self._newest: set[bytes] = set()
        with contextlib.ExitStack() as undo:
            undo.callback(self.committer.close)
            super().__init__(path, connect(path, writer=False))
            undo.callback(self._reader.close)
            try:
                self.heads = self._open_heads(key, anchor)
                self.read_only = self.heads.compare(SqliteLeaves(self._reader))
            except UNREADABLE as error:
                raise translate(error, str(path)) from error
            undo.pop_all()
        self.committer.flushed = self.heads.flushed
        self.committer.start()

    def _forget(self) -> None:
        """Another process has written, or a transaction was rolled back: what was remembered may not be so."""
        self._heads.clear()
        self._newest.clear()
        deletions = str(self.committer.connection.execute(DELETIONS).fetchall()[0][0])
        if deletions != self._deletions:
            self._unsure = self._deletions != ""
            self._deletions, self._stored = deletions, set()

    def _open_heads(self, key: Path, anchor: Path | Literal["default"] | None) -> Heads:
        unsigned = not self._reader.execute("SELECT 1 FROM head LIMIT 1").fetchall()
        opened = load_key(key, self.log_id, new=unsigned)
        return Heads(opened, default_anchor(self.log_id) if anchor == "default" else anchor)

    def _sign(self, connection: apsw.Connection, barrier: bool) -> None:
        """Inside each transaction, last: a head where one is due."""
        if barrier and (self.committer.closing or self.heads.is_due(new_entries=self._new_entries)):
            leaves = SqliteLeaves(connection)
            signed = self.heads.sign(leaves)
            if signed is not None:
                leaves.keep(leaves.size(), signed)
            self._new_entries = 0

    # --- writing ---

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
        if after is not None:
            self.committer.reserve.require()
        stored = self._stored
        packed = [self._form(blob) for blob in blobs if blob.digest not in stored]

        def work(connection: apsw.Connection) -> object:
            nonlocal stored, packed
            for other, seen in watch.items():
                if self._head(connection, other).seq > seen:
                    raise Conflict("another branch of the run has moved on", where=other)
            head = self._check(connection, branch, epoch, after)
            if stands_on is not None:
                _begin(connection, head, stands_on, branch)
            if stored is not self._stored:  # what was remembered may be gone
                stored, packed = self._stored, [self._form(blob) for blob in blobs]
            self._keep(connection, self._sound(connection, blobs, packed) if self._unsure else packed)
            placed = _place(connection, branch, head, epoch, drafts)
            self._new_entries += len(placed)
            if release:
                connection.execute("UPDATE claim SET worker = NULL WHERE branch = ?", (head.id,))
                head.worker = ""
            return placed

        job = Job(work, barrier=barrier, urgent=after is None and epoch > 0)
        try:
            if (barrier and not alone) or not self.committer.now(job):
                await self.committer.soon(job)
        except StoreFull:
            if release:
                self._given_up.add(branch)
            raise
        self._remember(stored, packed, branch if release else "")
        return cast("list[Entry]", job.result)

    def _sound(
        self, connection: apsw.Connection, blobs: Sequence[Blob], packed: list[tuple[bytes, int, bytes]]
    ) -> list[tuple[bytes, int, bytes]]:
        """What is to be stored; a rope of which a piece was deleted since it was cut, whole. Who cuts knows pieces that
        no entry names: where a payload is stored already, its new cut is not, though the pieces of that are."""
        here = {blob.digest for blob in blobs}
        ropes = {blob.digest: blob for blob in blobs if blob.rope}

        def is_here(piece: bytes) -> bool:
            return piece in here or piece in self._stored or bool(connection.execute(_HAS, (piece,)).fetchall())

        def is_sound(rope: Blob) -> bool:
            return all(is_here(piece) for refers, piece in pieces(rope.data) if refers)

        return [
            row if row[0] not in ropes or is_sound(ropes[row[0]]) else self._form(_whole(ropes[row[0]]))
            for row in packed
        ]

    def _keep(self, connection: apsw.Connection, packed: list[tuple[bytes, int, bytes]]) -> None:
        """Store the payloads that are not known to be stored."""
        fresh = {row[0]: row for row in reversed(packed) if row[0] not in self._newest}  # the first of its name
        if fresh:
            connection.executemany(_KEEP, fresh.values())
            self._newest.update(fresh)
        if len(self._newest) >= UNPLACED:
            place_blobs(connection)
            self._newest.clear()

    def _remember(self, stored: set[bytes], packed: list[tuple[bytes, int, bytes]], released: str) -> None:
        """Digests that are known to be stored: what repeats is not even sent again. If anything was deleted since,
        nobody looks into this set any more."""
        if len(stored) > 100_000:
            stored.clear()
        stored.update([row[0] for row in packed])
        self._claims.discard(released)

    def _form(self, blob: Blob) -> tuple[bytes, int, bytes]:
        """A payload as a row. Form: 0 bytes, 1 compressed bytes, 2 rope, 3 compressed rope."""
        form, data = (2 if blob.rope else 0), blob.data
        if len(data) >= COMPRESS_FROM:
            small = self._pack(data)
            if len(small) < len(data):
                return blob.digest, form + 1, small
        return blob.digest, form, data

    def _head(self, connection: apsw.Connection, branch: str) -> _Head:
        head = self._heads.get(branch)
        if head is None:
            head = self._heads[branch] = _load_head(connection, branch)
        return head

    def _check(self, connection: apsw.Connection, branch: str, epoch: int, after: int | None) -> _Head:
        head = self._head(connection, branch)
        if epoch and (epoch != head.epoch or head.worker != self.worker.id):
            raise Fenced(
                "another worker has taken this branch over", where=branch, fix="nothing: the other one goes on"
            )
        if after is not None and after < (head.unclaimed_seq if epoch else head.seq):
            raise Conflict("the log has moved on", where=branch)
        return head

    async def claim(self, branch: str) -> Grant:
        """As `Store.claim`."""
        if self.read_only is not None:
            raise self.read_only

        def work(connection: apsw.Connection) -> object:
            head = _load_head(connection, branch)
            previous = self._judge(connection, branch, head)
            mine = self.worker
            now_ms = time.time_ns() // 1_000_000
            row = (mine.id, mine.place, mine.pid, mine.born, mine.host, now_ms)
            connection.execute("INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?, ?, ?)", row)
            connection.execute("INSERT OR REPLACE INTO claim VALUES (?, ?, ?)", (head.id, head.epoch + 1, mine.id))
            head.epoch, head.worker = head.epoch + 1, mine.id
            self._heads[branch] = head
            return Grant(head.epoch, previous)

        job = Job(work)
        if not self.committer.now(job):
            await self.committer.soon(job)
        self._claims.add(branch)
        self._given_up.discard(branch)
        return cast(Grant, job.result)

    def _judge(self, connection: apsw.Connection, branch: str, head: _Head) -> str:
        """How the last owner ended. Raises Claimed if it has not."""
        if not head.worker or (head.worker == self.worker.id and branch in self._given_up):
            return "released" if head.epoch else "none"
        rows = connection.execute("SELECT * FROM worker WHERE id = ?", (head.worker,)).fetchall()
        if not rows:
            return "released"
        owner, beat_ms = Worker(*cast(Any, rows[0][:5])), cast(int, rows[0][5])
        if owner.id != self.worker.id and dead(owner):
            return "dead"
        if owner.id != self.worker.id and time.time_ns() // 1_000_000 - beat_ms > self._claim_ttl_ms:
            return "unproven"
        who = "this process" if owner.id == self.worker.id else f"process {owner.pid} on {owner.host}"
        raise Claimed(
            f"{who} is already advancing it", where=branch, fix=f"wait for it to end, or end it: kill {owner.pid}"
        )

    def _beat(self) -> None:
        """Show that this process lives, while it holds anything; let the newest head leave."""
        with contextlib.suppress(HoldfastError):
            self.heads.publish()
        if self._claims and self.committer.failed is None:
            with contextlib.suppress(HoldfastError, apsw.Error):
                self.committer.now(Job(self._write_beat))

    def _write_beat(self, connection: apsw.Connection) -> object:
        now_ms = time.time_ns() // 1_000_000
        return connection.execute("UPDATE worker SET beat_ms = ? WHERE id = ?", (now_ms, self.worker.id)).fetchall()

    # --- the end ---

    async def close(self) -> None:
        """As `Store.close`. Idempotent."""
        if self._claims and self.committer.failed is None and self.read_only is None:
            job = Job(self._leave)
            with contextlib.suppress(HoldfastError):
                await self.committer.soon(job)
        while self.committer.waiting:  # noqa: ASYNC110 - what waits is led by this loop
            await asyncio.sleep(0.001)
        self._claims.clear()
        with self._reading:
            self._reader.close()
        await asyncio.to_thread(self.committer.close)

    def _leave(self, connection: apsw.Connection) -> object:
        connection.execute("UPDATE claim SET worker = NULL WHERE worker = ?", (self.worker.id,)).fetchall()
        self._heads.clear()
        return connection.execute("DELETE FROM worker WHERE id = ?", (self.worker.id,)).fetchall()


def _whole(rope: Blob) -> Blob:
    """A rope, not cut. Raises Conflict where nobody knows what it was cut from."""
    if not rope.whole:
        raise Conflict("a piece of a payload was pruned", where=rope.digest.hex(), fix="give all of its pieces")
    return Blob(rope.digest, rope.whole)


def _load_head(connection: apsw.Connection, branch: str) -> _Head:
    rows = connection.execute(_HEAD, (branch,)).fetchall()
    if not rows:
        if connection.execute("SELECT 1 FROM branch NOT INDEXED WHERE name = ?", (branch,)).fetchall():
            fix = "run `holdfast verify`; restore a backup"  # else a run that is here would be begun anew
            raise Corrupt("the index of the branches is damaged", where=branch, fix=fix)
        connection.execute("INSERT INTO branch (name) VALUES (?)", (branch,)).fetchall()
        return _Head(connection.last_insert_rowid(), 0, origin(branch), 0, "", 0)
    head = _Head(*cast(Any, rows[0]))
    return head if head.seq else _Head(head.id, 0, origin(branch), head.epoch, head.worker, 0)


def _begin(connection: apsw.Connection, head: _Head, stands_on: Entry, branch: str) -> None:
    """Let a new branch stand on an entry of another. Raises Conflict if it is not new, or that entry is not there."""
    there = connection.execute(
        "SELECT 1 FROM entry WHERE branch = (SELECT id FROM branch WHERE name = ?) AND seq = ? AND digest = ?",
        (stands_on.branch, stands_on.seq, stands_on.digest),
    ).fetchall()
    if head.seq or not there:
        raise Conflict("the branch is there already, or what it would stand on is not", where=branch)
    head.seq, head.digest = stands_on.seq, stands_on.digest


def _place(connection: apsw.Connection, branch: str, head: _Head, epoch: int, drafts: Sequence[Draft]) -> list[Entry]:
    """Give each draft its position, time and digest."""
    now_ms = time.time_ns() // 1_000_000
    placed: list[Entry] = []
    seq, digest = head.seq, head.digest
    for draft in drafts:
        seq += 1
        digest = chain(digest, seq, epoch, now_ms, draft.key, draft.body)
        placed.append(Entry(branch, seq, epoch, now_ms, draft.key, draft.body, digest))
    connection.executemany(
        "INSERT INTO entry (branch, seq, epoch, at_ms, key, body, digest) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(head.id, entry.seq, epoch, now_ms, entry.key or None, entry.body, entry.digest) for entry in placed],
    )
    head.seq, head.digest = seq, digest
    if epoch == 0:
        head.unclaimed_seq = seq
    if any(draft.recall for draft in drafts):
        connection.execute(
            "INSERT OR IGNORE INTO recall SELECT branch, key, seq FROM entry WHERE branch = ?1 AND length(key) = 32"
            " AND seq > (SELECT ifnull(max(seq), 0) FROM recall WHERE branch = ?1)",
            (head.id,),
        )
    return placed
