"""A store on PostgreSQL, only read: for looking at it beside those who write.

Rules
1. No store is made, nothing is claimed or migrated; the right to SELECT is enough.
2. What is read in one `moment` is of one moment.
"""

from __future__ import annotations

import secrets
from collections.abc import Container, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import LiteralString, Self, cast

import psycopg

from holdfast.core.entry import Entry
from holdfast.core.retention import Extent, Mark
from holdfast.errors import Corrupt, Misuse, RolledBack, Unknown
from holdfast.store.heads import Heads
from holdfast.store.postgres_ahead import PostgresAhead
from holdfast.store.postgres_arrays import byteas
from holdfast.store.postgres_depot import OUTSIDE, Place, depot_of
from holdfast.store.postgres_leaves import PAGE, PostgresLeaves
from holdfast.store.postgres_pruning import COUNT, MARKS
from holdfast.store.postgres_schema import PAGED, PRUNABLE, known, translate
from holdfast.store.postgres_ways import Connection, connect
from holdfast.store.reading import LARGEST_BYTES
from holdfast.store.rope import gather
from holdfast.store.worker import Worker

_HEADS = "SELECT note FROM holdfast.head ORDER BY size DESC LIMIT %s::bigint"
_ROOM = (
    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_catalog.pg_class c"
    " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'holdfast' AND c.relkind IN ('r', 'p')"
)
_DIGESTS = "SELECT digest FROM holdfast.blob WHERE digest > %s ORDER BY digest LIMIT %s"
_STOCK = (
    "SELECT digest, form, octet_length(data)::bigint, CASE WHEN form >= 2 THEN data ELSE ''::bytea END"
    " FROM holdfast.blob"
)
_OWNERS = (
    "SELECT b.name, w.id, w.place, w.pid, w.born, w.host FROM holdfast.branch b"
    " JOIN holdfast.worker w ON w.id = b.worker"
)


class PostgresReader(PostgresAhead):
    """The reading side of the store at `conninfo`. Raises Unknown if there is none, Corrupt if it is not ours,
    Unwritable if the server cannot be reached."""

    def __init__(self, conninfo: str) -> None:
        super().__init__(conninfo)
        self.path = self.where
        self._of_moment: Connection | None = None
        found = self._known()
        if found is None:
            self._stop_reading()
            raise Unknown("there is no store here", where=self.where, fix="`holdfast run` makes one")
        self.log_id = found[1]
        self._prunable, self.paged = found[0] >= PRUNABLE, found[0] >= PAGED

    def _known(self) -> tuple[int, str] | None:
        """As `known`, by the connection that is read through then."""
        try:
            connection = connect(self._conninfo)
            try:
                found = known(connection, self.where)
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            raise translate(error, self.where) from error
        self._idle.append(connection)
        return found

    async def close(self) -> None:
        """Let go of the connections. Idempotent."""
        self._stop_reading()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_reading()

    @contextmanager
    def moment(self) -> Generator[None]:
        """Everything that is read inside is of one moment, however long it takes."""
        try:
            with connect(self._conninfo) as connection:
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                self._of_moment = connection
                yield
        except psycopg.Error as error:
            raise translate(error, self.where) from error
        finally:
            self._of_moment = None

    def fetch(self, sql: LiteralString, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """As `PostgresReading.fetch`; inside a moment, of that moment."""
        if self._of_moment is None:
            return super().fetch(sql, values)
        try:
            return cast("list[tuple[object, ...]]", self._of_moment.execute(sql, values, binary=True).fetchall())
        except psycopg.Error as error:
            raise translate(error, self.where) from error

    async def whole(self, digest: bytes) -> bytes:
        """A payload (32-byte digest), put together from its pieces, unchecked. Raises Unknown where a piece is not
        here, Corrupt where one cannot be read."""
        return await gather(self, digest, LARGEST_BYTES)

    def size(self) -> int:
        """The number of entries."""
        return cast(int, self.fetch("SELECT count(*) FROM holdfast.entry")[0][0])

    def places(self, after: int = 0) -> Iterator[tuple[int, Entry]]:
        """All entries by index (0, 1, …), from index `after` on; those that are not numbered yet come last."""
        return self.leaves().entries(after)

    def heads(self, newest: int = -1) -> list[str]:
        """The published heads (notes), oldest first; only the `newest` so many."""
        rows = self.fetch(_HEADS, (None if newest < 0 else newest,))
        return [str(row[0]) for row in rows][::-1]

    def digests(self) -> Iterator[bytes]:
        """The digests of all stored payloads and pieces."""
        last = b""
        while rows := self.fetch(_DIGESTS, (last, PAGE)):
            yield from cast("list[bytes]", [row[0] for row in rows])
            last = cast(bytes, rows[-1][0])

    def leaves(self) -> PostgresLeaves:
        """What heads and proofs are made from."""
        return PostgresLeaves(self.fetch)

    def against(self, heads: Heads) -> RolledBack | None:
        """Why this log is not the one that the anchor of `heads`, or a worker, knows; or None."""
        return self.leaves().rolled_back(self.where) or heads.compare(self.leaves())

    def damage(self) -> str | None:
        """Nothing: what is wrong with its files PostgreSQL says itself, where they are read."""
        return None

    def marks(self) -> list[Mark]:
        """What was pruned, oldest first. Raises Corrupt if that cannot be read."""
        if not self._prunable:
            return []
        try:
            return [Mark(str(row[0]), cast(int, row[1]), Extent(str(row[2]))) for row in self.fetch(MARKS)]
        except ValueError as error:
            raise Corrupt(
                f"what was pruned cannot be read: {error}", where=self.where, fix="restore a backup"
            ) from None

    def deletions(self) -> str:
        """What is another text whenever a prune began or ended. Raises Misuse where the database is too old for one."""
        if not self._prunable:
            fix = "let a worker of this Holdfast open the store once: it brings it up to date"
            raise Misuse(
                "this store was made by an older Holdfast, and cannot be pruned yet", where=self.where, fix=fix
            )
        return str(self.fetch(COUNT)[0][0])

    def stock(self, known: Container[bytes] = ()) -> Iterator[tuple[int, bytes, int, int, bytes]]:
        """The stored payloads and pieces that are not `known`: a number, digest, form, size, data (of ropes only); of
        those outside, size and data of their objects. To be read inside a moment. Raises Corrupt, Unknown."""
        digests = self._streamed("SELECT digest FROM holdfast.blob") if known else None
        if digests is None:
            found = self._streamed(_STOCK)
        else:
            fresh = [digest for digest in (cast(bytes, row[0]) for row in digests) if digest not in known]
            pages = (byteas(fresh[start : start + PAGE]) for start in range(0, len(fresh), PAGE))
            found = (row for page in pages for row in self.fetch(_STOCK + " WHERE digest = ANY (%b)", (page,)))
        for number, (digest, form, size, data) in enumerate(cast("Iterator[tuple[bytes, int, int, bytes]]", found)):
            if form < OUTSIDE:
                yield number, digest, form, size, data
            else:
                rope = self._fetched(data) if form - OUTSIDE >= 2 else b""
                yield number, digest, form - OUTSIDE, Place.unpacked(data).size, rope

    def _fetched(self, packed: bytes) -> bytes:
        depot = self.depot or depot_of(self, self.log_id, None, where=self.where)
        if depot is None:
            raise Corrupt("nobody says where large payloads are", where=self.where, fix="restore a backup")
        self.depot = depot
        return depot.fetch(packed)

    def _streamed(self, sql: LiteralString) -> Iterator[tuple[object, ...]]:
        """The rows of a query of this moment, so many at a time."""
        assert self._of_moment is not None, "what is streamed is of one moment"
        try:
            with self._of_moment.cursor(f"stream_{secrets.token_hex(4)}", binary=True) as cursor:
                cursor.itersize = PAGE
                yield from cast("Iterator[tuple[object, ...]]", cursor.execute(sql))
        except psycopg.Error as error:
            raise translate(error, self.where) from error

    def room(self) -> int:
        """How much the tables take on the server's disk (bytes), with what is free in them."""
        return cast(int, self.fetch(_ROOM)[0][0])

    def newest_ms(self) -> int | None:
        """When the newest entry was placed, by the clock of the database."""
        return cast("int | None", self.fetch("SELECT max(at_ms) FROM holdfast.branch WHERE seq > 0")[0][0])

    def owners(self) -> dict[str, Worker]:
        """Whoever claimed a branch and has not given it back, by branch: alive or not."""
        return {str(row[0]): Worker(*cast("tuple[str, str, int, str, str]", row[1:])) for row in self.fetch(_OWNERS)}
