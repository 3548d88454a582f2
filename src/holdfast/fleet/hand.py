"""Handing a run to the fleet from outside: for whom it is, how urgent it is, and that somebody should look at it."""

from __future__ import annotations

from typing import LiteralString

import psycopg

from holdfast.fleet.schema import queue_of
from holdfast.store.postgres_schema import place_of, translate
from holdfast.store.postgres_ways import connect

_RANK = (
    "INSERT INTO holdfast_fleet.run (run, queue, agent, priority) VALUES (%s, %s, %s, %s)"
    " ON CONFLICT (run) DO UPDATE SET queue = excluded.queue, agent = excluded.agent, priority = excluded.priority"
)


def rank(conninfo: str, run: str, agent: str, priority: int) -> None:
    """Say for whose agent a run is, and that runs of a lower priority come after it. Raises Unwritable."""
    _tell(conninfo, _RANK, (run, queue_of(agent), agent, priority))


def look_at(conninfo: str, run: str) -> None:
    """Somebody should look at a run. Raises Unwritable."""
    _tell(conninfo, "SELECT holdfast_fleet.defer_1(%s, NULL)", (run,))


def _tell(conninfo: str, sql: LiteralString, values: tuple[object, ...]) -> None:
    try:
        with connect(conninfo) as connection:
            connection.execute(sql, values)
    except psycopg.Error as error:
        raise translate(error, place_of(conninfo)) from error
