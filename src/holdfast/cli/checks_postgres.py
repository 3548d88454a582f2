"""What must be true of a database on PostgreSQL, and of this machine beside it, before a log there can be trusted.

Rules
1. As in `checks.py`: a check reads and never assumes, and leaves nothing behind. No store is made, nothing migrated.
2. Where the server cannot be reached, that is the only finding about it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from holdfast.cli.checks import PLAUSIBLE_S, SKEW_S, Check, log_key_check, python_check
from holdfast.cli.view import many, when
from holdfast.errors import HoldfastError
from holdfast.store.heads import Heads, load_key
from holdfast.store.postgres_depot import WHERE
from holdfast.store.postgres_leaves import PostgresLeaves
from holdfast.store.postgres_reader import PostgresReader
from holdfast.store.postgres_schema import MIGRATIONS, check, known, place_of, translate
from holdfast.store.postgres_ways import Connection, connect
from holdfast.store.url import Keepsakes, keepsakes, postgres_address

_SERVER = (
    "SELECT current_setting('server_version'), current_setting('synchronous_commit'),"
    " current_setting('data_checksums'), current_setting('synchronous_standby_names'),"
    " (extract(epoch FROM clock_timestamp()))::float8, (SELECT count(*) FROM pg_stat_replication)"
)
_UNSIGNED = (
    "SELECT count(*) FROM holdfast.branch b JOIN (SELECT DISTINCT branch FROM holdfast.grown) g ON g.branch = b.id"
)
_SEQUENCER = "SELECT worker, (extract(epoch FROM clock_timestamp() - seen_at))::float8 FROM holdfast.sequencer"


def checks(url: str) -> Iterator[Check]:
    """All findings about the store (or the place for one) at a URL."""
    yield python_check()
    address = postgres_address(url)
    where = place_of(address)
    try:
        connection = connect(address)
    except psycopg.Error as error:
        refusal = translate(error, where)
        yield Check("server", "fail", refusal.what, refusal.fix)
        return
    with connection:
        try:
            yield from _of_server(connection, where)
            found = known(connection, where)
        except HoldfastError as error:
            yield Check("server", "fail", error.what, error.fix)
            return
        if found is None:
            yield Check("store", "ok", f"none yet in {where}; `holdfast run` makes one")
            return
        yield _migrations(found[0])
        kept = keepsakes(url, found[1])
        yield log_key_check(kept.key)
        if found[0] >= len(MIGRATIONS):
            yield _signing(connection)
            yield _files(connection)
            yield _anchor(address, found[1], kept)


def _of_server(connection: Connection, where: str) -> Iterator[Check]:
    """Raises Unwritable where the server has a setting under which a promise would not hold."""
    began = time.time()
    ((version, level, checksums, standbys, now_s, followers),) = connection.execute(_SERVER).fetchall()
    _, lazy, pooled = check(connection, where)
    yield Check("server", "ok", f"PostgreSQL {version} at {where}; its settings are as they must be")
    if lazy != "off":
        yield Check("flush", "warn", "wal_writer_delay is long: every entry waits for a flush", "set it to 200ms")
    else:
        told = f", and waits for {standbys}" if standbys else ""
        yield Check("flush", "ok", f"barriers are flushed, whatever synchronous_commit says ({level}){told}")
    if followers and not standbys:
        yield Check("standby", "warn", f"no flush waits for what follows this server: {followers}",
                    "name a standby in synchronous_standby_names; a failover loses what it did not have")  # fmt: skip
    if checksums != "on":
        yield Check("checksums", "warn", "data_checksums is off: a page that its disk has changed is not noticed",
                    "pg_checksums --enable, while the server is down")  # fmt: skip
    else:
        yield Check("checksums", "ok", "the server notices pages that its disk has changed")
    yield Check("pooler", "ok", "one in transaction mode stands between; it fits" if pooled else "none")
    yield _clock(now_s, began, time.time())


def _clock(now_s: float, began_s: float, ended_s: float) -> Check:
    if now_s < PLAUSIBLE_S:
        return Check("clock", "fail", f"the server's says {when(int(now_s * 1000))}", "set it, and keep it by NTP")
    apart_s = max(0.0, began_s - now_s, now_s - ended_s)
    if apart_s > SKEW_S:
        return Check("clock", "warn", f"this machine's and the server's are {apart_s:,.0f} s apart",
                     "keep the server's by NTP: all deadlines are counted by it")  # fmt: skip
    return Check("clock", "ok", f"{when(int(now_s * 1000))}, here and at the server")


def _migrations(number: int) -> Check:
    if number < len(MIGRATIONS):
        return Check("migrations", "warn", f"{number} of {len(MIGRATIONS)}: the next worker that starts makes the rest",
                     "start one while little is going on")  # fmt: skip
    newer = f"; a newer Holdfast has made {number - len(MIGRATIONS)} more" if number > len(MIGRATIONS) else ""
    return Check("migrations", "ok", f"all {len(MIGRATIONS)} that this Holdfast knows{newer}")


def _signing(connection: Connection) -> Check:
    """Whether somebody numbers and signs what is new."""
    grown = connection.execute(_UNSIGNED).fetchall()[0][0]
    worker, silent_s = connection.execute(_SEQUENCER).fetchall()[0]
    if grown and (worker is None or silent_s > 60):
        return Check("signing", "warn", f"{many(grown, 'branch')} with entries that nobody signs",
                     "start a worker: any of them signs")  # fmt: skip
    return Check("signing", "ok", "all is signed" if not grown else f"worker {worker} signs")


def _files(connection: Connection) -> Check:
    """Whether the files of agents are where every machine finds them."""
    found = connection.execute(WHERE).fetchall()
    if not found:
        what = "those of agents stay on the machine that made them: a run with a workspace can be taken over there only"
        return Check("files", "warn", what, "?blobs=s3://BUCKET/PREFIX, or a directory that every machine has")
    return Check("files", "ok", f"large payloads, and files of agents, are in {found[0][0]}")


def _anchor(address: str, log_id: str, kept: Keepsakes) -> Check:
    anchor: Path | None = kept.anchor
    if anchor is None:
        return Check("anchor", "warn", "none: nobody sees a log that was cut or replaced", "?anchor=FILE")
    try:
        with PostgresReader(address) as reader:
            heads = Heads(load_key(kept.key, log_id, new=False), anchor) if kept.key.exists() else None
            wrong = None if heads is None else heads.compare(PostgresLeaves(reader.fetch))
    except HoldfastError as error:
        return Check("anchor", "fail", error.what, error.fix)
    if wrong is not None:
        return Check("anchor", "fail", wrong.what, "restore the newer log; `holdfast anchor` tells more")
    return Check("anchor", "ok", f"{anchor}, on this machine" if anchor.exists() else f"none yet at {anchor}")
