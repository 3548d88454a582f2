"""The entries of a database on PostgreSQL in the order in which they were numbered, as heads are made from them.

Rules
1. A stretch is some entries of one branch, one after another, and the index of the first. Entries are read by
   stretches, so many at a time.
2. What is asked for by index need not begin or end with a stretch: another database may have signed other sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, LiteralString, TypeAlias, cast

from holdfast.core.entry import Entry
from holdfast.core.note import Frontier, leaf
from holdfast.errors import RolledBack

Fetch: TypeAlias = Callable[[LiteralString, tuple[object, ...]], list[tuple[object, ...]]]
"""The rows of a query, in binary form."""

PAGE = 5_000  # entries
ACCEPT = "restore the newer log; or, if this one is right, holdfast anchor --accept"
_MARKED: LiteralString = "SELECT m.value FROM holdfast.meta m WHERE m.name = 'rolled_back'"
MARK: LiteralString = (
    "INSERT INTO holdfast.meta VALUES ('rolled_back', %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    " RETURNING name"
)
_ACKNOWLEDGE: LiteralString = (
    "WITH gone AS (DELETE FROM holdfast.meta WHERE name = 'rolled_back')"
    " INSERT INTO holdfast.meta VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING name"
)
_HASHES: LiteralString = (
    "SELECT coalesce(b.name, ''), e.digest"
    " FROM (SELECT %s::bigint AS low, %s::bigint AS high) r"
    " JOIN holdfast.stretch s ON s.start < r.high AND s.start >="
    " coalesce((SELECT max(f.start) FROM holdfast.stretch f WHERE f.start <= r.low), 0)"
    " LEFT JOIN holdfast.branch b ON b.id = s.branch"
    " CROSS JOIN LATERAL (SELECT * FROM holdfast.entry e WHERE e.branch = s.branch"
    " AND e.seq >= s.seq + greatest(0, r.low - s.start) AND e.seq < s.seq + least(s.count, r.high - s.start)"
    " ORDER BY e.seq) e ORDER BY s.start, e.seq"
)
_ENTRIES: LiteralString = (
    "SELECT s.start + e.seq - s.seq, coalesce(b.name, ''), e.seq, e.epoch, e.at_ms, coalesce(e.key, ''::bytea),"
    " e.body, e.digest"
    " FROM (SELECT %s::bigint AS low, %s::bigint AS high) r"
    " JOIN holdfast.stretch s ON s.start < r.high AND s.start >="
    " coalesce((SELECT max(f.start) FROM holdfast.stretch f WHERE f.start <= r.low), 0)"
    " LEFT JOIN holdfast.branch b ON b.id = s.branch"
    " CROSS JOIN LATERAL (SELECT * FROM holdfast.entry e WHERE e.branch = s.branch"
    " AND e.seq >= s.seq + greatest(0, r.low - s.start) AND e.seq < s.seq + least(s.count, r.high - s.start)"
    " ORDER BY e.seq) e ORDER BY s.start, e.seq"
)
_INDEX: LiteralString = (
    "SELECT s.start + %s - s.seq FROM holdfast.stretch s WHERE s.branch = (SELECT id FROM holdfast.branch WHERE name ="
    " %s) AND s.seq <= %s AND s.seq + s.count > %s ORDER BY s.seq DESC LIMIT 1"
)
_NEWEST: LiteralString = "SELECT note FROM holdfast.head ORDER BY size DESC LIMIT 1"
_COVERING: LiteralString = "SELECT note FROM holdfast.head WHERE size > %s ORDER BY size LIMIT 1"
_SIZE: LiteralString = (
    "SELECT coalesce((SELECT s.start + s.count FROM holdfast.stretch s ORDER BY s.start DESC LIMIT 1), 0)"
)
_GROWN: LiteralString = (  # branches that have entries without an index, and from which position on
    "SELECT b.id, b.name, coalesce(n.next, 0) FROM holdfast.branch b LEFT JOIN LATERAL"
    " (SELECT s.seq + s.count AS next FROM holdfast.stretch s WHERE s.branch = b.id ORDER BY s.seq DESC LIMIT 1) n"
    " ON true WHERE EXISTS (SELECT 1 FROM holdfast.entry e WHERE e.branch = b.id AND e.seq >= coalesce(n.next, 0))"
    " ORDER BY b.id"
)
_REST: LiteralString = (
    "SELECT e.seq, e.epoch, e.at_ms, coalesce(e.key, ''::bytea), e.body, e.digest FROM holdfast.entry e"
    " WHERE e.branch = %s AND e.seq >= %s ORDER BY e.seq LIMIT %s"
)


class PostgresLeaves:
    """As `Leaves`, by whatever fetches rows."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    def size(self) -> int:
        """As `Leaves.size`."""
        return cast(int, self._fetch(_SIZE, ())[0][0])

    def index(self, branch: str, seq: int) -> int | None:
        """As `Leaves.index`."""
        rows = self._fetch(_INDEX, (seq, branch, seq, seq))
        return cast(int, rows[0][0]) if rows else None

    def frontier(self, most: int) -> Frontier:
        """As `Leaves.frontier`."""
        rows = self._fetch("SELECT frontier FROM holdfast.head WHERE size <= %s ORDER BY size DESC LIMIT 1", (most,))
        return Frontier.decode(cast(bytes, rows[0][0])) if rows else Frontier()

    def hashes(self, after: int, upto: int) -> Iterator[bytes]:
        """As `Leaves.hashes`."""
        for name, digest in self._pages(_HASHES, after, upto):
            yield leaf(cast(str, name), cast(bytes, digest))

    def note(self, covers: int | None = None) -> str | None:
        """As `Leaves.note`."""
        sql, values = _NEWEST, tuple[object, ...]()
        if covers is not None:
            sql, values = _COVERING, (covers,)
        rows = self._fetch(sql, values)
        return cast(str, rows[0][0]) if rows else None

    def acknowledge(self, name: str, what: str) -> None:
        """As `Leaves.acknowledge`."""
        self._fetch(_ACKNOWLEDGE, (name, what))

    def rolled_back(self, where: str) -> RolledBack | None:
        """What a worker has found that had written more than is here, unless it was acknowledged since."""
        rows = self._fetch(_MARKED, ())
        return RolledBack(str(rows[0][0]), where=where, fix=ACCEPT) if rows else None

    def entries(self, after: int) -> Iterator[tuple[int, Entry]]:
        """All entries by index, from index `after` on; those that have none yet come behind the others."""
        size = self.size()
        for row in self._pages(_ENTRIES, after, size):
            yield cast(int, row[0]), Entry(cast(str, row[1]), *cast(Any, row[2:]))
        for branch, name, begin in self._fetch(_GROWN, ()):
            first = cast(int, begin)
            while rows := self._fetch(_REST, (branch, first, PAGE)):
                for row in rows:
                    if size >= after:
                        yield size, Entry(cast(str, name), *cast(Any, row))
                    size += 1
                first = cast(int, rows[-1][0]) + 1

    def _pages(self, sql: LiteralString, after: int, upto: int) -> Iterator[tuple[object, ...]]:
        for start in range(after, upto, PAGE):
            rows = self._fetch(sql, (start, min(start + PAGE, upto)))
            yield from rows
            if not rows:  # what was to be here is gone; who counts will see it
                return
