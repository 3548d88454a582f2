"""A SQLite database: classified by SQLite itself, which asks about all that a statement is about to do.

Rules
1. What SQLite asks about is refused unless a list of this file, or the configuration, names it: while the statement is
   looked at, and again by the connection that carries it out.
2. A read opens the file for reading only.
3. A write and its key are one transaction, begun with the lock that all writers need: so whoever has this lock after a
   crash sees whether the write happened.
4. Rows are counted by SQLite, also those that a trigger or a foreign key changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import apsw
import apsw.ext

from holdfast.core.canonical import JSON, canonical
from holdfast.errors import BadCall, NotHappened, RetryAfter
from holdfast.gateway.upstreams.sql_classify import KEYS, LONGEST, Statement, unproven
from holdfast.gateway.upstreams.sql_database import Limits, Query, Said, Table, too_many
from holdfast.gateway.upstreams.sql_functions import SQLITE

KEYS_TABLE: Final = "CREATE TABLE holdfast_keys (key TEXT PRIMARY KEY, answer TEXT NOT NULL) STRICT"
"""What the table of keys must look like."""

BUSY_MS: Final = 5000
LARGEST_VALUE: Final = 16 << 20  # bytes, of one value or row
T = TypeVar("T")
_Bound: TypeAlias = "str | int | float | None"

_WRITES: Final = {apsw.SQLITE_INSERT: "insert", apsw.SQLITE_UPDATE: "update", apsw.SQLITE_DELETE: "delete"}
_DDL: Final = frozenset(
    (
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_VIEW,
        apsw.SQLITE_DROP_TABLE,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_VIEW,
        apsw.SQLITE_ALTER_TABLE,
    )
)
_INNER: Final = frozenset(("dbstat", "bytecode", "tables_used", "carray"))
_OF_DDL: Final = frozenset(f"sqlite_{name}" for name in ("rename_table", "rename_column", "rename_test", "drop_column"))
_SCHEMA: Final = frozenset(("sqlite_master", "sqlite_schema"))


@dataclass(slots=True)
class _Asked:
    """The answers to what SQLite asks about one statement. `refused`: the first thing that was not on a list."""

    pure: frozenset[str]
    verbs: set[str] = field(default_factory=set[str])
    on_schema: bool = False
    refused: str = ""

    def __call__(
        self, what: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        """What SQLite calls."""
        if self.permits(what, first or "", second or "", database or "main"):
            return apsw.SQLITE_OK
        if not self.refused:
            name = str(apsw.mapping_authorizer_function[what]).removeprefix("SQLITE_").lower().replace("_", " ")
            self.refused = f"`{name}` of `{second or first or ''}` is not on the list of what is proven"
        return apsw.SQLITE_DENY

    @property
    def told(self) -> frozenset[str]:
        """How it changes something. What a change of tables does to rows is part of it."""
        return frozenset({"ddl"} if "ddl" in self.verbs else self.verbs)

    def permits(self, what: int, first: str, second: str, database: str) -> bool:
        """Whether one thing is on the lists."""
        if KEYS in (first.lower(), second.lower()):
            return False
        if what in (apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE):
            return True
        if what == apsw.SQLITE_FUNCTION:
            return second.lower() in SQLITE or second in self.pure or ("ddl" in self.verbs and second in _OF_DDL)
        if database != "main":  # ALTER looks whether something temporary speaks of the table
            return "ddl" in self.verbs and first == "sqlite_temp_master"
        if what == apsw.SQLITE_READ:
            inner = first.lower().startswith(("sqlite_", "pragma_")) or first.lower() in _INNER
            return not inner or first in _SCHEMA
        if what in _DDL:
            self.verbs.add("ddl")
            return True
        if what in _WRITES:
            if first in _SCHEMA:  # how CREATE and DROP do it; by itself SQLite lets nobody
                self.on_schema = True
                return True
            self.verbs.add(_WRITES[what])
            return not first.lower().startswith("sqlite_")
        return what == apsw.SQLITE_REINDEX and "ddl" in self.verbs


class SqliteDatabase:
    """A SQLite file; see `Database`. There is no password."""

    def __init__(self, path: Path, limits: Limits, *, keys: bool, pure: frozenset[str]) -> None:
        self._path = path
        self._limits = limits
        self._keys = keys
        self._pure = pure
        self._at_work: set[str] = set()

    def running(self, key: str) -> bool:
        """As `Database`: until its thread has ended, also when nobody waits for it any more."""
        return key in self._at_work

    def classify(self, text: str) -> Statement:
        """By SQLite itself, against the tables of the file; nothing is carried out."""
        if len(text) > LONGEST:
            raise BadCall(f"the statement has {len(text)} characters; at most {LONGEST} are read")
        if "\0" in text:
            raise BadCall("a statement cannot hold a NUL: what stands behind it would not be seen")
        asked = _Asked(self._pure)
        with self._opened(asked, write=False) as connection:
            try:
                found = apsw.ext.query_info(connection, text)
            except apsw.Error as error:
                raise self._unclear(asked, error) from None
            returning = bool(found.description)
        if found.query_remaining is not None and self._says_something(found.query_remaining):
            raise BadCall("a call is one statement; this text holds more", fix="send one statement per call")
        if not found.has_vdbe:
            raise BadCall("the text holds no statement")
        if asked.on_schema and "ddl" not in asked.verbs:
            raise unproven("the table of tables is changed")
        verbs = frozenset[str]() if found.is_explain else asked.told
        if not verbs and not found.is_readonly and not found.is_explain:
            raise unproven("it changes something that SQLite does not ask about")
        return Statement(verbs, None, returning and "ddl" not in verbs, found.bindings_count)

    async def read(self, query: Query, password: str) -> Table:
        """As `Database`."""
        return await self._in_thread(lambda stop: self._read(query, stop), "")

    async def write(self, query: Query, password: str, *, key: str, most: int) -> bytes:
        """As `Database`."""
        return await self._in_thread(lambda stop: self._write(query, key, most, stop), key)

    async def landed(self, key: str, password: str) -> bytes | None:
        """As `Database`: under the lock that a write which is still at work would hold."""
        return await self._in_thread(lambda stop: self._landed(key, stop), "")

    def _read(self, query: Query, stop: _Stop) -> Table:
        with self._opened(_Asked(self._pure), write=False) as connection, stop.over(connection):
            table = Table(self._limits)
            with _before_commit():
                _rows(connection, query, table)
            return table

    def _write(self, query: Query, key: str, most: int, stop: _Stop) -> bytes:
        asked = _Asked(self._pure)
        with self._opened(None, write=True) as connection, stop.over(connection):
            with _before_commit():
                connection.execute("BEGIN IMMEDIATE")
                earlier = self._answer_of(connection, key)
                if earlier is not None:
                    return earlier
                table = Table(self._limits)
                before = connection.total_changes()
                connection.authorizer = asked
                _rows(connection, query, table)
                connection.authorizer = None
                if asked.told - query.statement.verbs:
                    raise NotHappened("the tables have changed since the statement was looked at")
                changed = connection.total_changes() - before
                table.count, table.changed = (changed if "ddl" in asked.verbs else connection.changes()), changed
                if "ddl" not in asked.verbs and changed > most:
                    raise too_many(changed, most)
                answer = canonical(table.answer())
                if self._keys:
                    connection.execute("INSERT INTO holdfast_keys VALUES (?, ?)", (key, answer.decode()))
            _commit(connection)
            return answer

    def _landed(self, key: str, stop: _Stop) -> bytes | None:
        with self._opened(None, write=True) as connection, stop.over(connection), _before_commit():
            connection.execute("BEGIN IMMEDIATE")
            return self._answer_of(connection, key)

    def _answer_of(self, connection: apsw.Connection, key: str) -> bytes | None:
        if not self._keys:
            return None
        try:
            found = connection.execute("SELECT answer FROM holdfast_keys WHERE key = ?", (key,)).fetchone()
        except apsw.SQLError as error:
            raise NotHappened(f"the table of keys cannot be used: {error}", fix=KEYS_TABLE) from None
        return None if found is None else str(found[0]).encode()

    @contextlib.contextmanager
    def _opened(self, asked: _Asked | None, *, write: bool) -> Generator[apsw.Connection]:
        """A connection for one call."""
        flags = apsw.SQLITE_OPEN_READWRITE if write else apsw.SQLITE_OPEN_READONLY
        try:
            connection = apsw.Connection(str(self._path), flags=flags | apsw.SQLITE_OPEN_NOFOLLOW)
        except apsw.Error as error:
            raise NotHappened(f"the database cannot be opened: {error}") from None
        with contextlib.closing(connection):
            connection.set_busy_timeout(BUSY_MS)
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
            connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
            connection.limit(apsw.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
            connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
            connection.authorizer = asked
            yield connection

    def _unclear(self, asked: _Asked, error: apsw.Error) -> Exception:
        if asked.refused:
            return unproven(asked.refused)
        if isinstance(error, apsw.BusyError | apsw.LockedError):
            return NotHappened(f"the database is busy: {error}")
        return BadCall(f"the statement is not understood: {str(error)[:300]}")

    def _says_something(self, text: str) -> bool:
        """Whether the rest of a text is more than white space and comments."""
        with contextlib.closing(apsw.Connection(":memory:")) as empty:
            try:
                return apsw.ext.query_info(empty, text).has_vdbe
            except apsw.Error:
                return True

    async def _in_thread(self, work: Callable[[_Stop], T], key: str) -> T:
        """Run it in a thread of its own, which is asked to stop at the time limit, or when nobody waits any more."""
        stop = _Stop()
        began: list[bool] = []

        def body() -> T:
            began.append(True)
            try:
                return work(stop)
            finally:
                self._at_work.discard(key)

        if key:
            self._at_work.add(key)
        timer = asyncio.get_running_loop().call_later(self._limits.statement_s, stop.now)
        try:
            return await asyncio.to_thread(body)
        finally:
            timer.cancel()
            stop.now()
            if not began:  # and if it begins now, it stops before it has done anything
                self._at_work.discard(key)


class _Stop:
    """Interrupts whatever a connection is at, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._connection: apsw.Connection | None = None

    def now(self) -> None:
        """Interrupt it, now or as soon as it begins."""
        with self._lock:
            self._stopped = True
            if self._connection is not None:
                self._connection.interrupt()

    @contextlib.contextmanager
    def over(self, connection: apsw.Connection) -> Generator[None]:
        """While this block runs, `connection` can be interrupted."""
        with self._lock:
            if self._stopped:
                raise NotHappened("it was stopped before it began")
            self._connection = connection
        connection.set_progress_handler(lambda: self._stopped, 10_000)
        try:
            yield
        finally:
            with self._lock:
                self._connection = None


@contextlib.contextmanager
def _before_commit() -> Generator[None]:
    """What SQLite raises in this block proves that nothing was committed: the connection is closed next."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError) as error:
        raise RetryAfter(1.0, f"the database is busy: {error}") from None
    except apsw.InterruptError:
        raise Said("interrupted", "the statement took too long, or was cancelled", fix="ask for less at once") from None
    except apsw.Error as error:
        raise Said(type(error).__name__.removesuffix("Error").lower() or "error", str(error)) from None
    except (LookupError, OverflowError, TypeError, ValueError) as error:  # a parameter that SQLite cannot hold
        raise Said("bad_parameter", f"{type(error).__name__}: {error}") from None


def _commit(connection: apsw.Connection) -> None:
    """What it raises proves that nothing was committed only where the transaction is still open afterwards."""
    try:
        connection.execute("COMMIT")
    except apsw.Error:
        if connection.in_transaction:
            with _before_commit():
                raise
        raise


def _rows(connection: apsw.Connection, query: Query, table: Table) -> None:
    cursor = connection.cursor()

    def described(cursor: apsw.Cursor, *_: object) -> bool:
        """Called before the first row, while the columns are known."""
        if query.statement.returning:
            table.columns.extend(str(column[0]) for column in cursor.description)
        return True

    cursor.exec_trace = described
    for row in cursor.execute(query.text, _parameters(query)):
        table.add([_value(value) for value in row])


def _value(value: object) -> JSON:
    """A value as JSON has it exactly; bytes are hex digits, as SQL writes them."""
    if value is None or isinstance(value, int | str | float):
        return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
    assert isinstance(value, bytes), "SQLite has no further types"
    return f"x'{value.hex()}'"


def _parameters(query: Query) -> tuple[_Bound, ...] | dict[str, _Bound]:
    if isinstance(query.parameters, Mapping):
        return {name: _parameter(value) for name, value in query.parameters.items()}
    return tuple(_parameter(value) for value in query.parameters)


def _parameter(value: JSON) -> _Bound:
    """A parameter as SQLite takes it: a list or an object is JSON text."""
    if isinstance(value, list | tuple | dict):
        return canonical(value).decode()
    return int(value) if isinstance(value, bool) else value
