"""A PostgreSQL database: reads in READ ONLY under a role of their own, writes counted in one transaction.

Rules
1. The statement goes by the extended protocol, which takes one statement, whatever stands in it.
2. What the classifier's proof rests on (the spelling of strings, the encoding) and what the answer's text rests on
   (dates, floats, bytes) is set for the transaction before the statement is sent.
3. A write puts its key into the table of keys before it changes anything, and nothing is sent before the last message
   was answered. So a key that can be inserted belongs to no transaction that was committed or still may be.
4. Rows are counted by the database, after deferred triggers: also those that a trigger or a foreign key changed.
5. An error to COMMIT proves that nothing happened; a connection that is lost then proves nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, LiteralString, TypeAlias, cast

import psycopg
from psycopg import generators
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn
from psycopg.types.string import StrDumperUnknown

from holdfast.core.canonical import JSON, canonical
from holdfast.core.effect import legible
from holdfast.errors import HoldfastError, NotHappened, RetryAfter
from holdfast.gateway.upstreams.sql_classify import Statement, classify
from holdfast.gateway.upstreams.sql_database import Limits, Query, Said, Table, too_many

KEYS_TABLE: Final = (
    "CREATE TABLE holdfast_keys (key text PRIMARY KEY, answer text, made timestamptz NOT NULL DEFAULT now());"
    " GRANT SELECT, INSERT, UPDATE ON holdfast_keys TO the role that writes"
)
"""What the table of keys must look like, where the role that writes looks for tables. Others need nothing of it."""

CONNECT_S: Final = 10
LATER_S: Final = 1.0

_SETTINGS: Final = (
    "SELECT set_config('standard_conforming_strings', 'on', true), set_config('DateStyle', 'ISO, YMD', true),"
    " set_config('IntervalStyle', 'postgres', true), set_config('TimeZone', 'UTC', true),"
    " set_config('bytea_output', 'hex', true), set_config('extra_float_digits', '1', true),"
    " set_config('statement_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true)"
)
_TAKE_KEY: Final = "INSERT INTO holdfast_keys (key) VALUES ($1) ON CONFLICT (key) DO NOTHING"
_ANSWER_OF: Final = "SELECT answer FROM holdfast_keys WHERE key = $1"
_KEEP_ANSWER: Final = "UPDATE holdfast_keys SET answer = $1 WHERE key = $2"
_LATER: Final = ("40001", "40P01", "55P03", "53", "57P01", "57P02", "57P03")
"""SQLSTATEs, or their classes, of what may well succeed when it is asked again."""

_GOOD: Final = (ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
_BOOL, _INTEGERS, _FLOATS = 16, (20, 21, 23, 26), (700, 701)
_CHANGED: Final = (
    "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0), current_setting('track_counts')"
    " FROM pg_catalog.pg_stat_xact_user_tables"
)

_Row: TypeAlias = "tuple[str | None, ...]"
_Connection: TypeAlias = "psycopg.AsyncConnection[_Row]"


class _Text(Loader):
    """Values stay the text that the database wrote."""

    def load(self, data: Buffer) -> str:
        """The text."""
        return bytes(data).decode("utf-8", "replace")


def _adapters() -> AdaptersMap:
    """Nothing is turned into Python's types, and the database finds the types of parameters."""
    adapters = AdaptersMap(types=psycopg.adapters.types)
    adapters.register_dumper(str, StrDumperUnknown)
    adapters.register_loader(0, _Text)
    return adapters


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the database is. `address`: tells, at each connection, the address to connect to (empty: `host` is the
    folder of a Unix socket). `tls`: whether the server must prove its name. `keys`: whether there is a table of
    keys."""

    host: str
    port: int
    database: str
    role: str
    read_role: str
    address: Callable[[], Any]
    tls: bool
    ca: str
    keys: bool
    pure: frozenset[str]


class PostgresDatabase:
    """A PostgreSQL server's database; see `Database`."""

    def __init__(self, place: Place, limits: Limits) -> None:
        self._place = place
        self._limits = limits
        self._at_work: set[str] = set()

    def running(self, key: str) -> bool:
        """As `Database`."""
        return key in self._at_work

    def classify(self, text: str) -> Statement:
        """By PostgreSQL's own grammar."""
        return classify(text, pure=self._place.pure)

    async def read(self, query: Query, password: str) -> Table:
        """As `Database`: in a READ ONLY transaction that is never committed."""
        async with self._connected(self._place.read_role, password) as connection:
            await self._begin(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            table = Table(self._limits)
            await self._rows(connection, query, table)
            return table

    async def write(self, query: Query, password: str, *, key: str, most: int) -> bytes:
        """As `Database`. The transaction is gone with its connection, whatever ends it before COMMIT."""
        self._at_work.add(key)
        try:
            async with self._connected(self._place.role, password) as connection:
                await self._begin(connection, "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE")
                earlier = await self._take_key(connection, key)
                if earlier is not None:
                    return earlier
                answer = await self._changed(connection, query, most)
                await self._keep_answer(connection, key, answer)
                await _commit(connection)
                return answer
        finally:
            self._at_work.discard(key)

    async def landed(self, key: str, password: str) -> bytes | None:
        """As `Database`: its own insert of the key waits for a transaction that holds it, and is never committed."""
        async with self._connected(self._place.role, password) as connection:
            await self._begin(connection, "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE")
            return await self._take_key(connection, key)

    @contextlib.asynccontextmanager
    async def _connected(self, role: str, password: str) -> AsyncGenerator[_Connection]:
        """A connection for one call. What its block raises of psycopg's own proves that nothing was committed."""
        try:
            connection = await psycopg.AsyncConnection.connect(
                autocommit=True, context=_adapters(), **await self._conninfo(role, password)
            )
        except psycopg.Error as error:
            raise NotHappened(f"the database was not reached: {_worded(error)}") from None
        try:
            yield cast("_Connection", connection)
        except psycopg.Error as error:
            raise _translated(error) from None
        except (HoldfastError, Said, Unknown):
            raise
        except Exception as error:  # noqa: BLE001 - COMMIT was not sent, or it would have been `Unknown`
            raise NotHappened(f"{type(error).__name__}: {legible(error, 300)}") from None
        finally:
            await connection.close()

    async def _conninfo(self, role: str, password: str) -> dict[str, Any]:
        """All that libpq would otherwise look for in the environment or in somebody's home."""
        place = self._place
        pinned = await place.address()
        return {
            "host": place.host,
            **({"hostaddr": pinned} if pinned else {}),
            "port": place.port,
            "dbname": place.database,
            "user": role,
            "password": password,
            "passfile": os.devnull,
            "options": "",
            "client_encoding": "UTF8",
            "application_name": "holdfast",
            "connect_timeout": CONNECT_S,
            "tcp_user_timeout": round((self._limits.statement_s + CONNECT_S) * 1000),
            "keepalives_idle": 10,
            "gssencmode": "disable",
            "sslcertmode": "disable",
            **({"sslmode": "verify-full", "sslrootcert": place.ca} if place.tls else {"sslmode": "disable"}),
            **({"require_auth": "scram-sha-256"} if password and not place.tls else {}),
        }

    async def _begin(self, connection: _Connection, begin: LiteralString) -> None:
        """Open the transaction, with the settings that proof and answer rest on."""
        await connection.execute(begin)
        statement_ms = round(self._limits.statement_s * 1000)
        times = (f"{statement_ms}ms", f"{statement_ms + CONNECT_S * 1000}ms")
        await psycopg.AsyncRawCursor(connection).execute(_SETTINGS, times)

    async def _rows(self, connection: _Connection, query: Query, table: Table) -> int:
        """Carry the statement out; its rows one at a time, so that no more than the limit is ever held. How many rows
        it says it was about."""
        pgconn, count = connection.pgconn, 0
        async with connection.lock:
            await connection.wait(_started(pgconn, query))
            while (result := await connection.wait(generators.fetch(pgconn))) is not None:
                if result.status not in _GOOD:
                    raise psycopg.errors.error_from_result(result, encoding="utf-8")
                kinds = [result.ftype(column) for column in range(result.nfields)]
                table.columns = [_decoded(result.fname(column)) for column in range(result.nfields)]
                for row in range(result.ntuples):
                    table.add([_value(result.get_value(row, column), kind) for column, kind in enumerate(kinds)])
                count = result.command_tuples or 0
        return count

    async def _changed(self, connection: _Connection, query: Query, most: int) -> bytes:
        """Carry the statement out and count. Raises Said for more than `most`: the transaction goes no further."""
        before = await _count(connection)
        table = Table(self._limits)
        table.count = await self._rows(connection, query, table)
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        told = len(table.rows) if query.statement.returning else table.count
        table.changed = max(told, await _count(connection) - before)
        if "ddl" not in query.statement.verbs and table.changed > most:
            raise too_many(table.changed, most)
        return canonical(table.answer())

    async def _take_key(self, connection: _Connection, key: str) -> bytes | None:
        """Make the key ours until the end of the transaction; or what the write under it answered."""
        if not self._place.keys:
            return None
        cursor = psycopg.AsyncRawCursor(connection)
        try:
            await cursor.execute(_TAKE_KEY, (key,))
            if cursor.rowcount == 1:
                return None
            await cursor.execute(_ANSWER_OF, (key,))
        except psycopg.Error as error:
            if not (error.sqlstate or "").startswith(("42", "3F")):
                raise
            raise NotHappened(f"the table of keys cannot be used: {_worded(error)}", fix=KEYS_TABLE) from None
        found = await cursor.fetchone()
        if found is None or found[0] is None:
            raise NotHappened("the table of keys has a key without an answer", fix="let nobody else write to it")
        return str(found[0]).encode()

    async def _keep_answer(self, connection: _Connection, key: str, answer: bytes) -> None:
        if self._place.keys:
            await psycopg.AsyncRawCursor(connection).execute(_KEEP_ANSWER, (answer.decode(), key))


class Unknown(Exception):
    """COMMIT was sent, and nobody answered."""


async def _commit(connection: _Connection) -> None:
    """Raises Said where the database answers that nothing was committed, and Unknown where it does not answer."""
    try:
        cursor = await connection.execute("COMMIT")
    except Exception as error:
        refused = isinstance(error, psycopg.Error) and _refuses(error)
        if refused and not connection.broken and not connection.closed:
            raise
        raise Unknown(f"no answer to COMMIT: {type(error).__name__}") from None
    if cursor.statusmessage != "COMMIT":
        raise Said("rolled_back", "the database took the transaction back instead of committing it")


async def _count(connection: _Connection) -> int:
    """How many rows this connection has changed, in whatever way."""
    cursor = await connection.execute(_CHANGED)
    found = await cursor.fetchone()
    assert found is not None, "an aggregate has a row"
    if found[1] != "on":
        raise NotHappened(
            "the database does not count the rows that change, so no limit can be kept", fix="set track_counts = on"
        )
    return int(found[0] or 0)


def _refuses(error: psycopg.Error) -> bool:
    """Whether it is the answer of a server that goes on working."""
    return error.sqlstate is not None and error.sqlstate[:2] not in ("08", "57", "58", "XX")


def _translated(error: psycopg.Error) -> Exception:
    """What an error before COMMIT means."""
    state = error.sqlstate
    if state is not None and state.startswith(_LATER):
        return RetryAfter(LATER_S, f"the database asks to come back later: {_worded(error)}")
    if state == "57014":
        return Said(state, "the statement took too long, or was cancelled", fix="ask for less at once")
    if state is not None and _refuses(error):
        detail = error.diag.message_detail
        return Said(state, f"{error.diag.message_primary}{f' ({detail})' if detail else ''}")
    return NotHappened(f"the connection was lost before anything was committed: {_worded(error)}")


def _worded(error: psycopg.Error) -> str:
    """One line."""
    return " ".join((error.diag.message_primary or str(error)).split())[:300] or type(error).__name__


def _started(pgconn: PGconn, query: Query) -> PQGen[None]:
    """Send the statement by the extended protocol, and ask for single rows."""
    assert not isinstance(query.parameters, Mapping), "prepare lets only a list through"
    values = [None if text is None else text.encode() for text in map(_parameter, query.parameters)]
    pgconn.send_query_params(query.text.encode(), values)
    pgconn.set_single_row_mode()
    yield from generators.send(pgconn)


def _decoded(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")


def _value(data: bytes | None, kind: int) -> JSON:
    """A value as JSON has it exactly, or as the database wrote it."""
    if data is None:
        return None
    text = _decoded(data)
    if kind == _BOOL:
        return text == "t"
    if kind in _INTEGERS:
        return int(text)
    if kind in _FLOATS and math.isfinite(number := float(text)):
        return number
    return text


def _parameter(value: JSON) -> str | None:
    """A parameter's text: a list is an array, an object is JSON."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "{" + ",".join(_element(item) for item in value) + "}"
    if isinstance(value, dict):
        return canonical(value).decode()
    return value if isinstance(value, str) else repr(value)


def _element(value: JSON) -> str:
    if isinstance(value, list | tuple):
        return "{" + ",".join(_element(item) for item in value) + "}"
    text = _parameter(value)
    return "NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
