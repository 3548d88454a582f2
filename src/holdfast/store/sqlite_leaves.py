"""The entries of a SQLite store in the order of their commits, as heads are made from them.

Rules
1. The index of an entry is its row's number less one: rows are never removed, so numbers have no gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import apsw

from holdfast.core.note import Frontier, leaf
from holdfast.store.heads import Signed

_HASHES = (
    "SELECT b.name, e.digest FROM entry e JOIN branch b ON b.id = e.branch WHERE e.id > ? AND e.id <= ? ORDER BY e.id"
)


class SqliteLeaves:
    """As `Leaves`, through a connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def size(self) -> int:
        """As `Leaves.size`."""
        return cast(int, self._connection.execute("SELECT ifnull(max(id), 0) FROM entry").fetchall()[0][0])

    def index(self, branch: str, seq: int) -> int | None:
        """As `Leaves.index`."""
        sql = "SELECT id - 1 FROM entry WHERE branch = (SELECT id FROM branch WHERE name = ?) AND seq = ?"
        rows = self._connection.execute(sql, (branch, seq)).fetchall()
        return cast(int, rows[0][0]) if rows else None

    def frontier(self, most: int) -> Frontier:
        """As `Leaves.frontier`."""
        rows = self._connection.execute(
            "SELECT frontier FROM head WHERE size <= ? ORDER BY size DESC LIMIT 1", (most,)
        ).fetchall()
        return Frontier.decode(cast(bytes, rows[0][0])) if rows else Frontier()

    def hashes(self, after: int, upto: int) -> Iterator[bytes]:
        """As `Leaves.hashes`."""
        for name, digest in self._connection.execute(_HASHES, (after, upto)):
            yield leaf(cast(str, name), cast(bytes, digest))

    def note(self, covers: int | None = None) -> str | None:
        """As `Leaves.note`."""
        sql, values = "SELECT note FROM head ORDER BY size DESC LIMIT 1", tuple[int, ...]()
        if covers is not None:
            sql, values = "SELECT note FROM head WHERE size > ? ORDER BY size LIMIT 1", (covers,)
        rows = self._connection.execute(sql, values).fetchall()
        return cast(str, rows[0][0]) if rows else None

    def acknowledge(self, name: str, what: str) -> None:
        """As `Leaves.acknowledge`."""
        self._connection.execute("INSERT INTO meta VALUES (?, ?)", (name, what)).fetchall()

    def keep(self, size: int, signed: Signed) -> None:
        """Keep a head, in whatever transaction is open."""
        row = (size, signed.note, signed.frontier.encode())
        self._connection.execute("INSERT OR REPLACE INTO head VALUES (?, ?, ?)", row).fetchall()
