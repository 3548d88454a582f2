"""The reading side of a SQLite store: entries, payloads and branches through one connection that never writes.

Rules
1. A connection is used by one thread at a time; a long query is read in a thread of its own.
2. A payload is taken for no more than its own head says that it holds, and for no more than may be written.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import apsw
import zstandard

from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.errors import Corrupt, Unknown
from holdfast.store import Branch
from holdfast.store.schema import UNREADABLE, translate
from holdfast.store.worker import Worker, dead

IDENTITY_BYTES = 32
LARGEST_BYTES = 512 << 20
AT_ONCE = 256  # entries that are read in the calling thread; more are read in another
_ENTRY = "SELECT seq, epoch, at_ms, ifnull(key, x''), body, digest FROM entry"
_RECALL = (
    "SELECT r.seq AS seq, e.epoch, e.at_ms, ifnull(e.key, x''), e.body, e.digest FROM recall r"
    " CROSS JOIN entry e ON e.branch = r.branch AND e.seq = r.seq"
    " WHERE r.branch = (SELECT id FROM branch WHERE name = ?) AND r.key = ? AND r.seq > ?"
)
DELETIONS = "SELECT value FROM meta WHERE name = 'deletions'"  # how often payloads were deleted: see prune.py
_BLOB = (  # placed in the index, or among the newest, which are not yet
    "SELECT form, data FROM blob WHERE id = (SELECT id FROM blob_place WHERE digest = ?1)"
    " UNION ALL SELECT form, data FROM blob WHERE digest = ?1"
    " AND id > (SELECT cast(value AS INTEGER) FROM meta WHERE name = 'placed') LIMIT 1"
)


class Reading:
    """What can be read of the store in the file `path`, through `connection`."""

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self.path = path
        self._reader = connection
        self._reading = threading.Lock()
        self._unpack = unpacker()

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
        where = " WHERE branch = (SELECT id FROM branch WHERE name = ?) AND seq > ?"
        last = "" if upto is None else f" AND seq <= {upto:d}"
        where += last
        limit = -1 if newest is None else newest
        order = " ORDER BY seq LIMIT ?" if newest is None else " ORDER BY seq DESC LIMIT ?"
        if key is not None and len(key) < IDENTITY_BYTES:
            named = _ENTRY + where + " AND key = ? AND length(key) < 32" + order
            rows = await self._rows(named, (branch, after, key, limit))
        elif key is not None:
            recalled = _RECALL + last.replace("seq", "r.seq") + order
            rows = await self._rows(recalled, (branch, key, after, limit))
        elif unclaimed:
            rows = await self._rows(_ENTRY + where + " AND epoch = 0" + order, (branch, after, limit))
        else:
            rows = await self._rows(_ENTRY + where + order, (branch, after, AT_ONCE if newest is None else limit))
            if newest is None and len(rows) == AT_ONCE:
                last = cast(int, rows[-1][0])
                rows += await self._rows(_ENTRY + where + order, (branch, last, limit), long=True)
        entries = [Entry(branch, *cast(Any, row)) for row in rows]
        return entries if newest is None else entries[::-1]

    async def blob(self, digest: bytes) -> Blob:
        """As `Store.blob`."""
        rows = await self._rows(_BLOB, (digest,))
        if not rows:
            raise Unknown(
                "a payload is not in the store: it was pruned, or lost (`holdfast verify` tells which)",
                where=digest.hex(),
                fix="restore a backup that has it",
            )
        form, data = cast("tuple[int, bytes]", rows[0])
        if form & 1:
            data = self._unpack(data)
        return Blob(digest, data, rope=form >= 2)

    async def branches(self, prefix: str = "") -> list[Branch]:
        """As `Store.branches`."""
        rows = await self._rows(
            "SELECT b.name, e.seq, e.digest, ifnull(c.epoch, 0), e.at_ms, w.id, w.place, w.pid, w.born, w.host"
            " FROM branch b JOIN entry e ON e.branch = b.id"
            " AND e.seq = (SELECT max(seq) FROM entry WHERE branch = b.id)"
            " LEFT JOIN claim c ON c.branch = b.id LEFT JOIN worker w ON w.id = c.worker"
            " WHERE b.name >= ?1 AND b.name < ?1 || char(0x10ffff) ORDER BY e.at_ms DESC, b.id DESC",
            (prefix,),
        )
        return [Branch(*cast(Any, (*row[:5], _holder(row[5:])))) for row in rows]

    async def _rows(
        self, sql: str, values: tuple[int | str | bytes, ...], *, long: bool = False
    ) -> list[tuple[object, ...]]:
        """The rows of a query; a `long` one is read in another thread."""

        def fetch() -> list[tuple[object, ...]]:
            with self._reading:
                try:
                    return cast("list[tuple[object, ...]]", self._reader.execute(sql, values).fetchall())
                except UNREADABLE as error:
                    raise translate(error, str(self.path)) from error

        return await asyncio.to_thread(fetch) if long else fetch()


class _PerThread(threading.local):
    """What compresses has a state, and lets other threads run while it works: each thread has its own."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=1).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


def packer() -> Callable[[bytes], bytes]:
    """Compression, for any thread."""
    own = _PerThread()

    def pack(data: bytes) -> bytes:
        return own.compress(data)

    return pack


def unpacker() -> Callable[[bytes], bytes]:
    """Decompression that believes no more than a payload may hold, for any thread."""
    own = _PerThread()

    def unpack(data: bytes) -> bytes:
        try:
            if zstandard.get_frame_parameters(data).content_size <= LARGEST_BYTES:
                return own.decompress(data)
        except zstandard.ZstdError:
            pass
        raise Corrupt("a payload cannot be decompressed", fix="run `holdfast verify`; restore a backup")

    return unpack


def _holder(row: tuple[object, ...]) -> str:
    if row[0] is None:
        return ""
    worker = Worker(*cast(Any, row))
    return "" if dead(worker) else f"{worker.host}:{worker.pid}"
