"""The PostgreSQL database: what must be true of it, and its numbered migrations.

Rules
1. Nothing rests on a session: a pooler may give each transaction another one. What it needs, a transaction sets itself.
   Each is one statement, so no lock is held while a client computes, or is stopped.
2. A setting that would break a promise is refused at the opening, not hoped about.
3. A migration is never edited once released; the next one is appended. It only adds, unless it `breaks`: so workers
   that were started before it go on, and functions carry the number of their form in their name.
4. Everything is in the schema `holdfast`, and is named with it: no search path is believed.
"""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass
from typing import LiteralString, cast

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict

from holdfast.errors import Conflict, Corrupt, HoldfastError, Misuse, StoreFull, Unwritable
from holdfast.store.postgres_large import LARGE, SHELVES, SHELVING
from holdfast.store.postgres_numbering import NUMBERING
from holdfast.store.postgres_placing import PLACE, STANDING
from holdfast.store.postgres_pruning import COUNTED_ON, GONE, OVERTAKEN, pruning
from holdfast.store.postgres_ways import Connection, LeftBehind

OLDEST_SERVER = 140000
LOCK_S = 10  # longer than any statement of ours holds a branch
MIGRATING_S = 120.0
MIGRATING = 0x48464C31  # "HFL1": the advisory lock of whoever migrates
LOST_LANE, STALE, OVER = "HF001", "HF002", "HF004"
FOUND_GONE = (pg.AdminShutdown, pg.CrashShutdown, pg.CannotConnectNow, pg.ConnectionException)


@dataclass(frozen=True, slots=True)
class Migration:
    """What brings the schema one number further. `breaks`: who does not know it must not write any more."""

    statements: tuple[LiteralString, ...]
    breaks: bool = False


_OUTSIDE: LiteralString = """
CREATE FUNCTION holdfast.outside_1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  age bigint;
BEGIN
  SELECT value::bigint INTO STRICT age FROM holdfast.meta WHERE name = 'age' FOR SHARE;
  IF ('x' || encode(substring(NEW.data FROM 1 FOR 8), 'hex'))::bit(64)::bigint < age THEN
    RAISE EXCEPTION 'a large payload was put in an age that is over' USING ERRCODE = 'HF004';
  END IF;
  RETURN NEW;
END $$
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        (
            (
                "CREATE TABLE holdfast.worker (id text PRIMARY KEY, place text NOT NULL, pid bigint NOT NULL,"
                " born text NOT NULL, host text NOT NULL, seen_at timestamptz NOT NULL, lane bigint NOT NULL,"
                " batch bigint NOT NULL) WITH (fillfactor = 20)"
            ),
            (
                "CREATE TABLE holdfast.branch (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                ' name text COLLATE "C" NOT NULL UNIQUE, seq bigint NOT NULL, digest bytea NOT NULL,'
                " at_ms bigint NOT NULL, unclaimed_seq bigint NOT NULL, epoch bigint NOT NULL, worker text)"
                " WITH (fillfactor = 60)"
            ),
            "CREATE INDEX branch_held ON holdfast.branch (worker) WHERE worker IS NOT NULL",
            (
                "CREATE TABLE holdfast.entry (branch bigint NOT NULL, seq bigint NOT NULL, epoch bigint NOT NULL,"
                " at_ms bigint NOT NULL, key bytea, body bytea NOT NULL, digest bytea NOT NULL,"
                " PRIMARY KEY (branch, seq))"
            ),
            "CREATE INDEX entry_named ON holdfast.entry (branch, key, seq) WHERE length(key) < 32",
            "CREATE INDEX entry_unclaimed ON holdfast.entry (branch, seq) WHERE epoch = 0",
            (
                "CREATE TABLE holdfast.recall (branch bigint NOT NULL, key bytea NOT NULL, seq bigint NOT NULL,"
                " PRIMARY KEY (branch, key, seq))"
            ),
            "CREATE INDEX recall_newest ON holdfast.recall (branch, seq)",
            "CREATE TABLE holdfast.blob (digest bytea PRIMARY KEY, form smallint NOT NULL, data bytea NOT NULL)",
            "ALTER TABLE holdfast.blob ALTER COLUMN data SET STORAGE EXTERNAL",  # it is compressed already
            PLACE,
            STANDING,
        )
    ),
    Migration(NUMBERING),
    Migration(  # large payloads outside the database: a row of form 4 and more says where; see postgres_depot.py
        (
            "INSERT INTO holdfast.meta VALUES ('age', '1')",
            "CREATE INDEX blob_outside ON holdfast.blob (digest) WHERE form >= 4",
            _OUTSIDE,
            (
                "CREATE TRIGGER blob_outside BEFORE INSERT ON holdfast.blob FOR EACH ROW WHEN (NEW.form >= 4)"
                " EXECUTE FUNCTION holdfast.outside_1()"
            ),
        )
    ),
    Migration(pruning(PLACE)),  # whoever prunes first shuts out the workers that do not know of it
    Migration(LARGE),
    Migration(SHELVING),
    Migration(SHELVES),
)
PRUNABLE = 4  # migrations, which a worker must know to write beside one that prunes
PAGED = 7  # which bring pages of branches


class Over(Unwritable):
    """What was put outside the database was put in an age that is over: put it again."""


class Pruned(Unwritable):
    """What this process takes for stored may be gone: send all that is named. `count`: of deletions, by now."""

    def __init__(self, what: str, *, where: str, fix: str, count: int) -> None:
        super().__init__(what, where=where, fix=fix)
        self.count = count


class Gone(Unwritable):
    """What a payload rests on is gone, or goes: send that too."""


_ASK = (
    "SELECT current_setting('server_version_num')::int, current_setting('fsync'), current_setting('full_page_writes'),"
    " current_setting('standard_conforming_strings'), current_setting('server_encoding'),"
    " current_setting('default_transaction_isolation'), current_setting('transaction_read_only'),"
    " pg_is_in_recovery(), current_setting('synchronous_commit'),"
    " (SELECT setting::int FROM pg_settings WHERE name = 'wal_writer_delay'), pg_backend_pid()"
)

_IS_THERE = (  # asked of the table: what `to_regclass` answers may be older than the lock that was waited for
    "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = 'holdfast' AND c.relname = 'meta'"
)


@dataclass(frozen=True, slots=True)
class Server:
    """What the opening found. `barrier` and `lazy`: the two values of synchronous_commit that are used; `pooled`: each
    transaction may be given another session."""

    log_id: str
    barrier: str
    lazy: str
    pooled: bool


def place_of(conninfo: str) -> str:
    """How errors name the database: never with its password."""
    given = conninfo_to_dict(conninfo)
    host = given.get("host") or given.get("hostaddr") or "localhost"
    return f"postgresql://{host}:{given.get('port') or 5432}/{given.get('dbname') or ''}"


def check(connection: Connection, where: str) -> tuple[str, str, bool]:
    """Refuse a server on which a promise would not hold; what to call a barrier, and what anything else, and whether a
    pooler stands between. Raises Unwritable."""
    ((version, fsync, pages, strings, encoding, isolation, read_only, standby, level, delay_ms, pid),) = (
        connection.execute(_ASK).fetchall()
    )
    if version < OLDEST_SERVER:
        raise Unwritable(f"PostgreSQL {version // 10000} is too old", where=where, fix="use PostgreSQL 14 or newer")
    if standby or read_only == "on":
        raise Unwritable("this server is read-only", where=where, fix="name the primary: target_session_attrs=primary")
    for name, found, wanted in (
        ("fsync", fsync, "on"),
        ("full_page_writes", pages, "on"),
        ("standard_conforming_strings", strings, "on"),
        ("server_encoding", encoding, "UTF8"),
        ("default_transaction_isolation", isolation, "read committed"),
    ):
        if found != wanted:
            raise Unwritable(
                f"`{name}` is `{found}`, and must be `{wanted}`", where=where, fix=f"set {name} for this database"
            )
    barrier = "remote_apply" if level == "remote_apply" else "on"
    return barrier, "off" if 3 * delay_ms <= 1000 else barrier, pid != connection.info.backend_pid


def opened(connection: Connection, where: str) -> Server:
    """Check the server, and bring the schema up to date. Raises Unwritable, Corrupt."""
    try:
        barrier, lazy, pooled = check(connection, where)
        return Server(_migrate(connection, where), barrier, lazy, pooled)
    except psycopg.Error as error:
        raise translate(error, where) from error


def _migrate(connection: Connection, where: str) -> str:
    """The log id (32 hex digits) of a schema that is up to date. Each migration is a transaction of its own, so that
    writers wait for one of them only. Whoever waits for a lock keeps others waiting, too: so not for long at a time."""
    until = time.monotonic() + MIGRATING_S
    while (found := known(connection, where)) is None or found[0] < len(MIGRATIONS):
        try:
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', '3s', true)")
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATING,))
                found = known(connection, where)  # somebody else may have done it meanwhile
                if found is None:
                    _begin(connection)
                if found is None or found[0] < len(MIGRATIONS):
                    _apply(connection, found[0] if found else 0)
        except (pg.LockNotAvailable, pg.DeadlockDetected):
            if time.monotonic() > until:
                raise
            time.sleep(random.random())
    return found[1]


def known(connection: Connection, where: str) -> tuple[int, str] | None:
    """How many migrations the database has seen, and its log id; None if it has no log. Raises Corrupt if it must not
    be written by this Holdfast."""
    if not connection.execute(_IS_THERE).fetchall():
        return None
    meta = dict(cast("list[tuple[str, str]]", connection.execute("SELECT name, value FROM holdfast.meta").fetchall()))
    if "schema" not in meta or "log" not in meta:
        raise Corrupt("the schema `holdfast` of this database is not ours", where=where, fix="name another database")
    if int(meta["needs"]) > len(MIGRATIONS):
        raise Corrupt(
            f"the store has schema {meta['schema']}; this Holdfast knows up to {len(MIGRATIONS)}",
            where=where,
            fix="use the Holdfast that wrote it, or a newer one",
        )
    return int(meta["schema"]), meta["log"]


def _begin(connection: Connection) -> None:
    connection.execute("CREATE SCHEMA IF NOT EXISTS holdfast")
    connection.execute("CREATE TABLE holdfast.meta (name text PRIMARY KEY, value text NOT NULL)")
    connection.execute(
        "INSERT INTO holdfast.meta VALUES ('log', %s), ('schema', '0'), ('needs', '0')", (secrets.token_hex(16),)
    )


def _apply(connection: Connection, number: int) -> None:
    migration = MIGRATIONS[number]
    for statement in migration.statements:
        connection.execute(statement)
    done = str(number + 1)
    connection.execute("UPDATE holdfast.meta SET value = %s WHERE name = 'schema'", (done,))
    if migration.breaks or number == 0:
        connection.execute("UPDATE holdfast.meta SET value = %s WHERE name = 'needs'", (done,))


def lost(connection: Connection, error: psycopg.Error) -> bool:
    """Whether the connection is gone, so that nobody knows what became of the last statement."""
    return connection.closed or connection.broken or isinstance(error, FOUND_GONE)


def translate(error: psycopg.Error, where: str) -> HoldfastError:
    """Our error for PostgreSQL's: what the caller can do next decides the class."""
    match error:
        case pg.DiskFull() | pg.OutOfMemory():
            return StoreFull("the database server has no space left", where=where, fix="make room on its disk")
        case pg.DataCorrupted() | pg.IndexCorrupted():
            return Corrupt(
                f"PostgreSQL cannot read the store: {_said(error)}", where=where, fix="check its disk; restore a backup"
            )
        case _ if error.sqlstate == OVER:
            return Over("sweeps follow each other too fast", where=where, fix="let fewer of them run, then resume")
        case _ if error.sqlstate == COUNTED_ON:
            count = int(error.diag.message_detail or 0)
            return Pruned("the store was pruned meanwhile", where=where, fix="resume", count=count)
        case _ if error.sqlstate == GONE:
            return Gone("what a payload rests on was pruned", where=where, fix="resume")
        case _ if error.sqlstate == OVERTAKEN:
            return Conflict("another process prunes this store", where=where, fix="do it again")
        case pg.LockNotAvailable():
            return Unwritable(
                f"a branch was locked for {LOCK_S} s", where=where, fix="end the session that holds it: pg_locks"
            )
        case pg.InsufficientPrivilege() | pg.InvalidPassword() | pg.InvalidAuthorizationSpecification():
            return Unwritable(f"PostgreSQL refuses: {_said(error)}", where=where, fix="check the role and its rights")
        case LeftBehind():
            return Unwritable(_said(error), where=where, fix="name the one that was promoted; end this one")
        case psycopg.ProgrammingError() if error.sqlstate is None:
            return Misuse(f"the URL cannot be used: {_said(error)}", where=where, fix="postgresql://USER@HOST/DATABASE")
        case _:
            return Unwritable(f"PostgreSQL failed: {_said(error)}", where=where, fix="check the server, then resume")


def _said(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error) or type(error).__name__).strip().replace("\n", "; ")
