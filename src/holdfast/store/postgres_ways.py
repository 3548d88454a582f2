"""How a server on PostgreSQL is reached; and of several, which one is the right one.

Rules
1. A standby that is promoted begins a new timeline. A server on an older one than this process has seen was left
   behind: nothing is read from it or written to it, whatever it says of itself.
2. Where several hosts are named, the first is taken that can be written and was not left behind; the first time, of
   all that can be reached the one whose timeline is newest.
"""

from __future__ import annotations

from typing import Any, Self, TypeAlias

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from holdfast.store.postgres_arrays import register

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

OTHERS_S = 2  # for a host that is looked at only since it might be newer
_WHO = (
    "SELECT pg_backend_pid(), (SELECT system_identifier FROM pg_control_system()), CASE WHEN pg_is_in_recovery() THEN"
    " '' ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END"
)
_PID = "SELECT pg_backend_pid(), 0, ''"
_UNTOLD = (pg.InsufficientPrivilege, pg.FeatureNotSupported, pg.UndefinedFunction, pg.ObjectNotInPrerequisiteState)
_newest: dict[int, int] = {}  # the newest timeline that this process has seen, by system


class LeftBehind(psycopg.OperationalError):
    """The server is on a timeline that was left behind: another one was promoted in its place."""


def connect(conninfo: str, *, timeout_s: int = 10) -> Connection:
    """A connection that commits by itself. Raises psycopg.Error. Its TCP connection is given up when nothing is heard
    for about 10 seconds."""
    return found(conninfo, timeout_s=timeout_s)[0]


def found(conninfo: str, *, timeout_s: int = 10) -> tuple[Connection, int]:
    """As `connect`, and the timeline of the server; 0 where it does not tell."""
    best: tuple[Connection, int, int] | None = None
    wrong: psycopg.Error | None = None
    for way in ways(conninfo):
        try:
            another = _one(way, OTHERS_S if best else timeout_s)
        except psycopg.Error as error:
            wrong = error if wrong is None or isinstance(error, LeftBehind) else wrong
            continue
        if best is not None and best[1:] >= another[1:]:
            another[0].close()
            continue
        if best is not None:
            best[0].close()
        best = another
        if best[1] in _newest:
            break
    if best is None:
        assert wrong is not None, "there is a way, or it is told why not"
        raise wrong
    connection, system, timeline = best
    _remember(system, timeline)
    return connection, timeline


def warnings_of(connection: Connection) -> list[str]:
    """What the server warns of on a connection, from now on, as it comes: where a statement had to wait for a standby,
    and that was cancelled, this is all that tells it from one that did."""
    heard: list[str] = []

    def hear(notice: pg.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            heard.append(notice.message_primary or "")

    connection.add_notice_handler(hear)
    return heard


def ways(conninfo: str) -> list[str]:
    """One for each host that is named."""
    given = conninfo_to_dict(conninfo)
    named = {name: str(given[name]).split(",") for name in ("host", "hostaddr", "port") if given.get(name)}
    many = max((len(each) for name, each in named.items() if name != "port"), default=1)
    if many == 1:
        return [conninfo]
    return [
        make_conninfo(conninfo, **{name: each[number % len(each)] for name, each in named.items()})
        for number in range(many)
    ]


def _one(way: str, timeout_s: int) -> tuple[Connection, int, int]:
    """A connection, the system that its server belongs to, and its timeline. Raises psycopg.Error, LeftBehind."""
    connection: Connection = psycopg.connect(
        way, autocommit=True, prepare_threshold=None, **defaults(way, timeout_s)
    )  # fmt: skip
    try:
        register(connection)
        try:
            ((pid, system, name),) = connection.execute(_WHO).fetchall()
        except _UNTOLD:
            ((pid, system, name),) = connection.execute(_PID).fetchall()
        timeline = _admitted(system, name)
    except BaseException:
        connection.close()
        raise
    if pid == connection.info.backend_pid:  # else somebody stands between, and keeps no statements
        connection.prepare_threshold = 2
    return connection, system, timeline


def _admitted(system: int, name: str) -> int:
    """The timeline whose number (8 hex digits) a server has told. Raises LeftBehind."""
    timeline = int(name, 16) if name else 0
    if timeline and timeline < _newest.get(system, 0):
        raise LeftBehind(
            f"this server was left behind when another was promoted: it is on timeline {timeline}, and"
            f" {_newest[system]} was seen"
        )
    return timeline


def _remember(system: int, timeline: int) -> None:
    if timeline:
        _newest[system] = max(timeline, _newest.get(system, 0))


def defaults(conninfo: str, timeout_s: int) -> dict[str, Any]:
    """What a URL did not say by itself."""
    given = conninfo_to_dict(conninfo)
    wanted = {
        "connect_timeout": timeout_s, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
        "tcp_user_timeout": 10_000, "client_encoding": "utf8", "application_name": "holdfast",
        "target_session_attrs": "read-write",
    }  # fmt: skip
    return {name: value for name, value in wanted.items() if name not in given}


class Faithful(psycopg.AsyncConnection[Any]):
    """A connection of a pool, which is made by the same rules. `conninfo` says everything but what a pool adds."""

    @classmethod
    async def connect(cls, conninfo: str = "", **more: Any) -> Self:
        """As `connect`; more than psycopg's own defaults is for the caller to say."""
        wrong: psycopg.Error | None = None
        for way in ways(conninfo):
            try:
                connection = await super().connect(way, **more)
            except psycopg.Error as error:
                wrong = wrong or error
                continue
            try:
                await connection.admit()
            except psycopg.Error as error:
                wrong = error
                await connection.close()
                continue
            return connection
        assert wrong is not None, "there is a way, or it is told why not"
        raise wrong

    async def admit(self) -> None:
        """Raises LeftBehind, psycopg.Error."""
        await self.set_autocommit(True)
        try:
            async with self.cursor(row_factory=tuple_row) as cursor:
                ((_, system, name),) = await (await cursor.execute(_WHO)).fetchall()
        except _UNTOLD:
            return
        _remember(system, _admitted(system, name))
