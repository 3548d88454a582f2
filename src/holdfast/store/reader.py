"""A SQLite store, only read: for looking at it beside those who write, and at copies of which nobody is the owner.

Rules
1. No store is made, nothing is claimed, migrated or moved out of the write-ahead log; no writer waits for a reader.
2. A file that cannot be read where it stands (a directory that is read-only) is read from a private copy.
3. What is read in one `moment` is of one moment.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import apsw

from holdfast.core.entry import Entry
from holdfast.core.retention import Extent, Mark
from holdfast.errors import Corrupt, RolledBack, Unknown, Unwritable
from holdfast.store.heads import Heads, Leaves
from holdfast.store.reading import DELETIONS, LARGEST_BYTES, Reading
from holdfast.store.rope import gather
from holdfast.store.schema import APPLICATION_ID, MIGRATIONS, UNREADABLE, translate
from holdfast.store.sqlite_leaves import SqliteLeaves
from holdfast.store.worker import Worker

PLACES = (
    "SELECT e.id, b.name, e.seq, e.epoch, e.at_ms, ifnull(e.key, x''), e.body, e.digest"
    " FROM entry e LEFT JOIN branch b ON b.id = e.branch WHERE e.id > ? ORDER BY e.id"
)
STOCK = "SELECT id, digest, form, length(data), iif(form >= 2, data, x'') FROM blob WHERE id > ? ORDER BY id"
_MARKS = "SELECT b.name, p.upto, p.extent FROM pruned p JOIN branch b ON b.id = p.branch ORDER BY p.at_ms"
_OWNERS = (
    "SELECT b.name, w.id, w.place, w.pid, w.born, w.host FROM claim c JOIN branch b ON b.id = c.branch"
    " JOIN worker w ON w.id = c.worker"
)


class Reader(Reading):
    """The reading side of a store in the file `path`. Raises Unknown if there is no file, Corrupt if it is not ours,
    Unwritable if this user may not read it."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise Unknown("there is no store here", where=str(path), fix="name another file")
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        try:
            super().__init__(path, self._open(path))
            self._check()
            self.log_id = self._log_id()
        except UNREADABLE as error:
            self._forget_copy()
            raise translate(error, str(path)) from error

    def _open(self, path: Path) -> apsw.Connection:
        try:
            return _connected(path)
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            self._copy = tempfile.TemporaryDirectory(prefix="holdfast-")
            private = Path(self._copy.name) / "store.db"
            for ending in ("", "-wal"):
                source = path.with_name(path.name + ending)
                if source.exists():
                    self._copy_file(source, private.with_name(private.name + ending))
            return _connected(private)

    def _copy_file(self, source: Path, target: Path) -> None:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            self._forget_copy()
            raise Unwritable(
                f"the store cannot be read: {error.strerror}", where=str(source), fix="check its owner and permissions"
            ) from error

    def _check(self) -> None:
        mark = self._reader.execute("PRAGMA application_id").fetchall()[0][0]
        schema = cast(int, self._reader.execute("PRAGMA user_version").fetchall()[0][0])
        if mark != APPLICATION_ID:
            raise Corrupt("this database is not a Holdfast store", where=str(self.path), fix="name another file")
        if schema != len(MIGRATIONS):
            raise Corrupt(
                f"the store has schema {schema}; this Holdfast reads {len(MIGRATIONS)}",
                where=str(self.path),
                fix="use the Holdfast that wrote it, or let `holdfast run` of this one bring it up to date",
            )

    def _log_id(self) -> str:
        rows = self._reader.execute("SELECT value FROM meta WHERE name = 'log'").fetchall()
        if not rows:
            raise Corrupt("the store has lost its id", where=str(self.path), fix="restore a backup")
        return str(rows[0][0])

    async def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._reader.close()
        self._forget_copy()

    def _forget_copy(self) -> None:
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    # --- the whole store, in the order of its commits ---

    @contextmanager
    def moment(self) -> Generator[None]:
        """Everything that is read inside is of one moment, however long it takes."""
        self._reader.execute("BEGIN").fetchall()
        try:
            yield
        finally:
            if self._reader.in_transaction:
                self._reader.execute("ROLLBACK").fetchall()

    def places(self, after: int = 0) -> Iterator[tuple[int, Entry]]:
        """All entries by index (0, 1, …), from index `after` on. Raises Corrupt where the file cannot be read."""
        for row in self._each(PLACES, (after,)):
            yield cast(int, row[0]) - 1, Entry(cast("str | None", row[1]) or "", *cast(Any, row[2:]))

    def heads(self, newest: int = -1) -> list[str]:
        """The published heads (notes), oldest first; only the `newest` so many."""
        found = self._each("SELECT note FROM head ORDER BY size DESC LIMIT ?", (newest,))
        return [str(row[0]) for row in found][::-1]

    def digests(self) -> Iterator[bytes]:
        """The digests of all stored payloads and pieces."""
        for row in self._each("SELECT DISTINCT digest FROM blob", ()):
            yield cast(bytes, row[0])

    def size(self) -> int:
        """The number of entries."""
        return cast(int, next(self._each("SELECT count(*) FROM entry", ()))[0])

    async def whole(self, digest: bytes) -> bytes:
        """A payload (32-byte digest), put together from its pieces, unchecked. Raises Unknown where a piece is not
        here, Corrupt where one cannot be read."""
        return await gather(self, digest, LARGEST_BYTES)

    def leaves(self) -> Leaves:
        """What heads and proofs are made from."""
        return SqliteLeaves(self._reader)

    def against(self, heads: Heads) -> RolledBack | None:
        """Why this log is not the one that the anchor of `heads` knows, or None."""
        try:
            return heads.compare(SqliteLeaves(self._reader))
        except UNREADABLE as error:
            raise translate(error, str(self.path)) from error

    def damage(self) -> str | None:
        """What SQLite finds wrong with the file itself, its tables and its indexes, or None."""
        try:
            rows = self._reader.execute("PRAGMA integrity_check(1)").fetchall()
        except UNREADABLE as error:
            return str(error)
        return None if rows == [("ok",)] else str(rows[0][0])

    def newest_ms(self) -> int | None:
        """When the newest entry was placed, by the clock of whoever placed it."""
        return cast("int | None", next(self._each("SELECT max(at_ms) FROM entry", ()))[0])

    def marks(self) -> list[Mark]:
        """What was pruned, oldest first. Raises Corrupt if that cannot be read."""
        try:
            return [Mark(str(row[0]), cast(int, row[1]), Extent(str(row[2]))) for row in self._each(_MARKS, ())]
        except ValueError as error:
            raise Corrupt(
                f"what was pruned cannot be read: {error}", where=str(self.path), fix="restore a backup"
            ) from None

    def deletions(self) -> str:
        """What is another text each time that payloads were deleted."""
        return str(next(self._each(DELETIONS, ()))[0])

    def stock(self, after: int = 0) -> Iterator[tuple[int, bytes, int, int, bytes]]:
        """The stored payloads and pieces from row `after` on: row, digest, form, size on disk, data (of ropes only)."""
        for row in self._each(STOCK, (after,)):
            yield cast("tuple[int, bytes, int, int, bytes]", row)

    def owners(self) -> dict[str, Worker]:
        """Whoever claimed a branch and has not given it back, by branch: alive or not."""
        return {
            str(row[0]): Worker(*cast("tuple[str, str, int, str, str]", row[1:])) for row in self._each(_OWNERS, ())
        }

    def _each(self, sql: str, values: tuple[int, ...]) -> Iterator[tuple[object, ...]]:
        try:
            yield from cast("Iterator[tuple[object, ...]]", self._reader.execute(sql, values))
        except UNREADABLE as error:
            raise translate(error, str(self.path)) from error


def _connected(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(10_000)
        for setting in ("PRAGMA query_only = 1", "PRAGMA trusted_schema = 0", "PRAGMA cell_size_check = 1"):
            connection.execute(setting).fetchall()
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except apsw.Error:
        connection.close()
        raise
    return connection
