"""Payloads go, the proof stays: what of a store nothing needs any more, and its deletion beside living writers from a
SQLite file (from a database: postgres_prune.py).

Rules
1. What goes is decided inside the transaction that deletes it: whatever was written since it was looked for is looked
   at first, and what that names stays.
2. Who has written a payload, or a piece of one, does not send it again. So each deletion is counted, and every process
   that writes stops believing what it has kept in mind: see sqlite.py.
3. A rope goes before its pieces: whenever this process dies, what is left is whole, and is found the next time.
4. A log that is damaged is not pruned: what it needs cannot be told.
5. What is deleted is overwritten; the file keeps its size until `compact`.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Protocol, cast

import apsw

from holdfast.core.entry import Entry, check_chain, origin
from holdfast.core.payload import pieces
from holdfast.core.retention import Mark
from holdfast.errors import Conflict, Corrupt, StoreFull
from holdfast.store.reader import PLACES, STOCK
from holdfast.store.reading import DELETIONS, unpacker
from holdfast.store.schema import UNREADABLE, connect, place_blobs, translate
from holdfast.store.wal import WriteAheadLog

MOST_BLOBS, MOST_BYTES = 1024, 8 << 20  # of one transaction
FIX = "run `holdfast verify`; restore a backup"
_MARK = "INSERT OR REPLACE INTO pruned SELECT id, ?2, ?3, ?4, ?5 FROM branch WHERE name = ?1"
_COUNT = "UPDATE meta SET value = cast(cast(value AS INTEGER) + 1 AS TEXT) WHERE name = 'deletions'"
_DELETE = "DELETE FROM blob WHERE id = ? AND digest = ?"
_PLACED = "UPDATE meta SET value = (SELECT cast(ifnull(max(id), 0) AS TEXT) FROM blob) WHERE name = 'placed'"


class Stock:
    """What is stored, and which ropes hold what."""

    def __init__(self) -> None:
        self.sizes: dict[bytes, int] = {}
        self.newest = 0
        self._ropes: dict[bytes, tuple[bytes, ...]] = {}
        self._rows: dict[bytes, int] = {}
        self._twins: dict[bytes, list[int]] = {}  # two that write at once may store the same payload twice
        self._unpack = unpacker()

    def take(self, rows: Iterable[tuple[int, bytes, int, int, bytes]]) -> list[bytes]:
        """Take up further rows of the table of payloads: their digests. Raises Corrupt where a rope cannot be read."""
        taken: list[bytes] = []
        for row, digest, form, size, data in rows:
            self.newest = row
            if self._rows.setdefault(digest, row) != row:
                self._twins.setdefault(digest, []).append(row)
            self.sizes[digest] = self.sizes.get(digest, 0) + size
            if form >= 2:
                self._ropes[digest] = self._ropes.get(digest, ()) + self._held(digest, form, data)
            taken.append(digest)
        return taken

    def _held(self, digest: bytes, form: int, data: bytes) -> tuple[bytes, ...]:
        try:
            return tuple({piece for refers, piece in pieces(self._unpack(data) if form & 1 else data) if refers})
        except (ValueError, Corrupt) as error:
            raise Corrupt(f"a payload cannot be read: {error}", where=digest.hex(), fix=FIX) from error

    def held(self, digest: bytes) -> tuple[bytes, ...]:
        """The pieces of a payload; none if it is whole, or not here."""
        return self._ropes.get(digest, ())

    def reach(self, digest: bytes, seen: set[bytes]) -> bytes | None:
        """Add a payload and everything that it is made of to `seen`; what of it is missing."""
        waiting = [digest]
        while waiting:
            found = waiting.pop()
            if found in seen:
                continue
            if found not in self.sizes:
                return found
            seen.add(found)
            waiting.extend(self.held(found))
        return None

    def forget(self, digest: bytes) -> None:
        """It was deleted."""
        for known in (self.sizes, self._ropes, self._rows, self._twins):
            known.pop(digest, None)

    def rows(self, digest: bytes) -> list[int]:
        """The rows that a payload is stored in."""
        return [self._rows[digest], *self._twins.get(digest, ())]

    def ordered(self, doomed: set[bytes]) -> list[bytes]:
        """So that each comes before its pieces, and otherwise as they lie in the file. (What is damaged, so that it
        holds itself, comes last.)"""
        waits = Counter(piece for digest in doomed for piece in set(self.held(digest)) & doomed)
        free = [(self._rows[digest], digest) for digest in doomed if not waits[digest]]
        heapify(free)
        order: list[bytes] = []
        while free:
            order.append(heappop(free)[1])
            for piece in set(self.held(order[-1])) & doomed:
                waits[piece] -= 1
                if not waits[piece]:
                    heappush(free, (self._rows[piece], piece))
        return order + list(doomed.difference(order))


@dataclass(slots=True)
class Share:
    """What goes of one branch; what several name counts for the first of them."""

    entries: int = 0
    payloads: int = 0
    bytes: int = 0

    def add(self, size_bytes: int) -> None:
        """One more payload."""
        self.payloads, self.bytes = self.payloads + 1, self.bytes + size_bytes


Names = Callable[[Entry], Iterable[bytes]]
"""The digests (32 bytes) of payloads that an entry names."""


@dataclass(slots=True)
class Plan:
    """What goes if `marks` are set. `left`: what an interrupted prune has left behind, and nothing names. `heads`: the
    newest positions of the branches of the runs that are to be marked, where somebody must know them."""

    marks: list[Mark]
    needed: Names
    stock: Stock
    live: set[bytes]
    doomed: list[bytes]
    deletions: str
    newest: int = 0
    shares: dict[str, Share] = field(default_factory=dict[str, Share])
    left: Share = field(default_factory=Share)
    heads: dict[str, int] = field(default_factory=dict[str, int])


class Prunable(Protocol):
    """What a plan is made from, as it is at one moment."""

    def deletions(self) -> str:
        """What is another text each time that payloads were deleted."""
        ...

    def stock(self) -> Iterator[tuple[int, bytes, int, int, bytes]]:
        """The stored payloads and pieces: row, digest, form, size on disk, data (of ropes only)."""
        ...

    def places(self) -> Iterator[tuple[int, Entry]]:
        """All entries by index (0, 1, …)."""
        ...


def plan(reader: Prunable, marks: list[Mark], named: Names, needed: Names, tick: Callable[[], object]) -> Plan:
    """What goes of a store if `marks` are set, as it is at this moment of the reader: entries then name what `named`
    says and must still have what `needed` says. `tick` is called for each entry. Raises Corrupt where the log or a
    payload that stays is damaged."""
    found = Plan(marks, needed, Stock(), set(), [], reader.deletions())
    found.stock.take(reader.stock())
    upto = {mark.branch: mark.upto for mark in marks}
    found.shares = {branch: Share() for branch in upto}
    gone: list[tuple[str, bytes]] = []
    for index, entry in _checked(reader):
        tick()
        found.newest = index + 1
        for digest in needed(entry):
            keep(found, entry, digest)
        if entry.seq <= upto.get(entry.branch, 0):
            found.shares[entry.branch].entries += 1
            gone += [(entry.branch, digest) for digest in named(entry)]
    doomed = set(found.stock.sizes) - found.live
    found.doomed = found.stock.ordered(doomed)
    for branch, digest in gone:
        seen = set[bytes]()
        found.stock.reach(digest, seen)
        for each in seen & doomed:
            doomed.discard(each)
            found.shares[branch].add(found.stock.sizes[each])
    for each in doomed:
        found.left.add(found.stock.sizes[each])
    return found


def _checked(reader: Prunable) -> Iterator[tuple[int, Entry]]:
    """All entries, while they stand where they must and on what they must."""
    newest: dict[str, Entry] = {}
    for number, (index, entry) in enumerate(reader.places()):
        before = newest.get(entry.branch)
        if index != number or (before is not None and entry.seq != before.seq + 1):
            raise Corrupt("an entry is missing from the log", where=f"{entry.branch}:{entry.seq}", fix=FIX)
        if before is not None or entry.seq == 1:  # else it stands on an entry of another branch
            check_chain(before.digest if before else origin(entry.branch), [entry])
        newest[entry.branch] = entry
        yield index, entry


def keep(found: Plan, entry: Entry, digest: bytes) -> None:
    """A payload, and all that it is made of, stays. Raises Corrupt if some of it is missing."""
    lost = found.stock.reach(digest, found.live)
    if lost is not None:
        where = f"{entry.branch}:{entry.seq}"
        raise Corrupt(f"payload {lost.hex()} is missing, and was not pruned", where=where, fix=FIX)


class Pruner:
    """Carries out a plan on the store in the file `path`, for `by`. A context manager."""

    def __init__(self, path: Path, plan: Plan, by: str) -> None:
        self._path = path
        self._plan = plan
        self._by = by
        self._deletions = plan.deletions
        self._connection = connect(path, writer=True)
        self._wal = WriteAheadLog(self._connection, path)
        if self._connection.execute("PRAGMA secure_delete = ON").fetchall() != [(1,)]:
            self._connection.close()
            raise Corrupt("`PRAGMA secure_delete = ON` did not take", where=str(path), fix="use the SQLite of apsw")

    def __enter__(self) -> Pruner:
        return self

    def __exit__(self, *ending: object) -> None:
        self._connection.close()

    def prune(self, tick: Callable[[int], object]) -> Share:
        """Set the marks, then delete, in many small transactions: others write in between. What was deleted. `tick` is
        told of how many. Raises Conflict if another process prunes too, or if one of these runs has moved on."""
        done, step = Share(), MOST_BLOBS
        with self._translated():
            self._mark()
            waiting = self._plan.doomed[::-1]
            while waiting:
                begun_s = time.monotonic()
                try:
                    taken = self._delete(waiting, step, done)
                except apsw.FullError:
                    if step == 1:
                        raise
                    step = 1  # what one payload takes is hardly anything
                    continue
                del waiting[-taken:]
                tick(taken)
                self._wal.empty()
                time.sleep(min(1.0, time.monotonic() - begun_s))  # SQLite's lock is not fair: let others have it
            self._connection.set_busy_timeout(1000)
            self._wal.wipe()  # what was deleted is in there too
        return done

    def _mark(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        rows = [(mark.branch, mark.upto, mark.extent.value, now_ms, self._by) for mark in self._plan.marks]
        runs = {mark.branch.partition("@")[0] for mark in self._plan.marks}
        with self._transaction() as connection:
            for row in connection.execute(PLACES, (self._plan.newest,)):
                if str(row[1]).partition("@")[0] in runs:  # it may need what was to go
                    raise Conflict("a run has moved on since it was looked at", where=str(row[1]), fix="do it again")
            connection.executemany(_MARK, rows)

    def _delete(self, waiting: list[bytes], most: int, done: Share) -> int:
        """Delete up to so many from the end of `waiting`; how many were looked at."""
        stock, share, taken = self._plan.stock, Share(), 0
        with self._transaction() as connection:
            self._look(connection)
            while taken < min(most, len(waiting)) and share.bytes < MOST_BYTES:
                taken += 1
                digest = waiting[-taken]
                if digest in self._plan.live:
                    continue
                connection.executemany(_DELETE, [(row, digest) for row in stock.rows(digest)])
                connection.execute("DELETE FROM blob_place WHERE digest = ?", (digest,))
                share.add(stock.sizes[digest])
            connection.execute(_PLACED)  # rows are numbered anew from the newest that is left
            newest = connection.execute("SELECT ifnull(max(id), 0) FROM blob").fetchall()
        for digest in waiting[len(waiting) - taken :]:
            if digest not in self._plan.live:
                stock.forget(digest)
        stock.newest = cast(int, newest[0][0])
        done.payloads, done.bytes = done.payloads + share.payloads, done.bytes + share.bytes
        return taken

    def _look(self, connection: apsw.Connection) -> None:
        """What was written since: what it names stays."""
        place_blobs(connection)
        plan = self._plan
        for digest in plan.stock.take(connection.execute(STOCK, (plan.stock.newest,))):
            plan.stock.reach(digest, plan.live)  # also what no entry names: others may rest on it from now on
        for row in connection.execute(PLACES, (plan.newest,)):
            entry = Entry(*row[1:])
            for digest in plan.needed(entry):
                keep(plan, entry, digest)
            plan.newest = row[0]

    @contextlib.contextmanager
    def _transaction(self) -> Generator[apsw.Connection]:
        """A transaction that every other process notices."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            if str(connection.execute(DELETIONS).fetchall()[0][0]) != self._deletions:
                raise Conflict("another process prunes this store", where=str(self._path), fix="do it again")
            yield connection
            connection.execute(_COUNT)
            deletions = str(connection.execute(DELETIONS).fetchall()[0][0])
            connection.execute("COMMIT")
            self._deletions = deletions
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except UNREADABLE as error:
            raise translate(error, str(self._path)) from error


@dataclass(frozen=True, slots=True)
class Room:
    """The size of a store's file, and how much of it is free for what comes, in bytes."""

    file_bytes: int
    free_bytes: int


def room(path: Path) -> Room:
    """What the store in the file `path` takes."""
    connection = connect(path, writer=False)
    try:
        pages, free, size = (
            cast(int, connection.execute(ask).fetchall()[0][0])
            for ask in ("PRAGMA page_count", "PRAGMA freelist_count", "PRAGMA page_size")
        )
    finally:
        connection.close()
    return Room(pages * size, free * size)


def compact(path: Path) -> None:
    """Give what is free in the file back to the disk. Nobody else can write meanwhile. Raises StoreFull where there is
    no room for a copy: the store is as it was."""
    found = room(path)
    needed, have = 2 * (found.file_bytes - found.free_bytes), shutil.disk_usage(path.parent).free
    if have < needed:
        raise StoreFull(
            f"to compact the store takes {needed} bytes for a while, and {have} are free",
            where=str(path), fix="make room; nothing was changed by this, and what is free in the file is used again",
        )  # fmt: skip
    connection = connect(path, writer=True)
    try:
        connection.execute("VACUUM")
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.Error as error:
        raise translate(error, str(path)) from error
    finally:
        connection.close()
