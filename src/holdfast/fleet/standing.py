"""How a fleet stands: its workers, what waits for them, and what waits for people. Only read.

Rules
1. Whether a worker is dead is said as whoever asks can tell it: on its own machine, or where somebody has put it down.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString, cast

from holdfast.fleet.schema import QUEUE, queue_of
from holdfast.store import Branch
from holdfast.store.postgres_reader import PostgresReader
from holdfast.store.worker import Worker, dead

_WORKERS = (
    "SELECT w.id, w.place, w.pid, w.born, w.host, (extract(epoch FROM clock_timestamp() - w.seen_at))::float8,"
    " m.agents, m.at_once, m.draining, (SELECT count(*) FROM holdfast.branch b WHERE b.worker = w.id)"
    " FROM holdfast.worker w LEFT JOIN holdfast_fleet.member m ON m.worker = w.id"
    " WHERE m.worker IS NOT NULL OR EXISTS (SELECT 1 FROM holdfast.branch b WHERE b.worker = w.id)"
    " ORDER BY m.since NULLS LAST, w.id"
)
_CLAIMS = (
    "SELECT b.name, b.epoch, w.host, w.pid FROM holdfast.branch b JOIN holdfast.worker w ON w.id = b.worker"
    " ORDER BY b.at_ms LIMIT %s"
)
_QUEUES = (
    "SELECT j.queue_name, coalesce(max(r.agent), ''),"
    " count(*) FILTER (WHERE j.status = 'todo' AND j.scheduled_at IS NULL),"
    " (max(extract(epoch FROM clock_timestamp() - (SELECT max(e.at) FROM holdfast_fleet.procrastinate_events e"
    " WHERE e.job_id = j.id AND e.type IN ('deferred', 'scheduled'))))"
    " FILTER (WHERE j.status = 'todo' AND j.scheduled_at IS NULL))::float8,"
    " count(*) FILTER (WHERE j.status = 'todo' AND j.scheduled_at IS NOT NULL),"
    " (min(extract(epoch FROM j.scheduled_at - clock_timestamp())) FILTER (WHERE j.status = 'todo'))::float8,"
    " count(*) FILTER (WHERE j.status = 'doing')"
    " FROM holdfast_fleet.procrastinate_jobs j LEFT JOIN holdfast_fleet.run r ON r.run = j.lock"
    " GROUP BY j.queue_name ORDER BY j.queue_name"
)
_LINES = (
    "SELECT agent, count(*) FILTER (WHERE worker IS NOT NULL), count(*) FILTER (WHERE worker IS NULL), max(most)"
    " FROM holdfast_fleet.seat GROUP BY agent ORDER BY agent"
)
_CALLS = (
    "SELECT tool, count(*) FILTER (WHERE line IS NULL), count(*) FILTER (WHERE line = tool), max(most_of_it)"
    " FROM holdfast_fleet.call, unnest(tools, most) AS t(tool, most_of_it) GROUP BY tool ORDER BY tool"
)
_CALLS_THERE = "SELECT to_regclass('holdfast_fleet.call') IS NOT NULL"
_RESTING = (
    "SELECT b.name, b.seq, b.digest, b.epoch, b.at_ms FROM holdfast.branch b"
    " LEFT JOIN holdfast.worker w ON w.id = b.worker"
    " WHERE b.seq > 0 AND (b.worker IS NULL OR w.pid = 0 OR b.worker NOT IN (SELECT id FROM holdfast.worker)"
    " OR w.id = ANY (%s)) AND "
)
_OPEN = "b.open"
_UNPAGED = (  # a database that no writer has opened since that column came
    "NOT EXISTS (SELECT 1 FROM holdfast.entry e WHERE e.branch = b.id AND e.seq = b.seq"
    " AND e.key = convert_to('finished', 'UTF8'))"
)
_OLDEST = " ORDER BY b.at_ms, b.id LIMIT %s"
_DECLARE = "UPDATE holdfast.worker SET pid = 0 WHERE id = %s AND pid <> 0 RETURNING id"


class State(StrEnum):
    """How a worker stands."""

    UP = "up"
    DRAINING = "draining"  # it was told to stop, and brings what is under way to its seal
    VISITING = "visiting"  # it holds a claim, and is none of the fleet: `holdfast run`, a gateway
    SILENT = "silent"  # no sign of life for as long as a claim lasts; it may live
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Member:
    """A worker. `id` as the store has it; `claims`: how many branches it holds."""

    id: str
    host: str
    pid: int
    state: State
    silent_s: float
    at_once: int | None
    agents: list[str]
    claims: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim: the branch, its epoch, and who holds it."""

    branch: str
    epoch: int
    holder: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for workers of one module's agents, or for anybody (no `module`). `ready` may be taken now, the oldest
    since `oldest_s`; `later` waits for its time, the first of which comes in `next_s`; `at_work` is taken. `workers`:
    how many living ones may take it."""

    module: str
    ready: int
    oldest_s: float | None
    later: int
    next_s: float | None
    at_work: int
    workers: int


@dataclass(frozen=True, slots=True)
class Limit:
    """How many runs of an agent are advanced, wait in line, and may be advanced at a time."""

    agent: str
    at_work: int
    in_line: int
    most: int


@dataclass(frozen=True, slots=True)
class CallLimit:
    """How many calls of the tools that a pattern names are under way, wait in its line, and may be under way."""

    tools: str
    under_way: int
    in_line: int
    most: int


def members(reader: PostgresReader, ttl_s: float) -> list[Member]:
    """The workers of the fleet, and whoever else holds a claim."""
    found: list[Member] = []
    for row in reader.fetch(_WORKERS):
        worker, (silent_s, agents, at_once, draining, claims) = Worker(*cast(Any, row[:5])), cast(Any, row[5:])
        state = State.DRAINING if draining else State.VISITING if agents is None else State.UP
        if dead(worker):
            state = State.DEAD
        elif silent_s > ttl_s:
            state = State.SILENT
        names = cast(str, agents or "").split(",") if agents else []
        found.append(Member(worker.id, worker.host, worker.pid, state, round(silent_s, 1), at_once, names, claims))
    return found


def claims(reader: PostgresReader, most: int) -> list[Claimed]:
    """At most so many claims, those first whose run has written nothing for the longest time."""
    return [
        Claimed(str(name), cast(int, epoch), f"{host}:{pid}")
        for name, epoch, host, pid in reader.fetch(_CLAIMS, (most,))
    ]


def backlog(reader: PostgresReader, workers: list[Member]) -> list[Backlog]:
    """What waits, for whom."""
    living = [member for member in workers if member.state in (State.UP, State.DRAINING) and member.at_once]
    found: list[Backlog] = []
    for queue, agent, ready, oldest_s, later, next_s, at_work in cast("list[Any]", reader.fetch(_QUEUES)):
        able = [each for each in living if queue == QUEUE or any(queue_of(name) == queue for name in each.agents)]
        module = "" if queue == QUEUE else agent.partition(":")[0]
        found.append(Backlog(module, ready, oldest_s, later, next_s, at_work, len(able)))
    return found


def limits(reader: PostgresReader) -> list[Limit]:
    """The agents of which only so many runs are advanced at a time, while any of them is."""
    return [Limit(*cast(Any, row)) for row in reader.fetch(_LINES)]


def calls(reader: PostgresReader) -> list[CallLimit]:
    """The limits of calls, while any call is counted by them."""
    if not reader.fetch(_CALLS_THERE)[0][0]:  # an older worker has installed the fleet
        return []
    return [CallLimit(*cast(Any, row)) for row in reader.fetch(_CALLS)]


def resting(reader: PostgresReader, workers: list[Member], most: int) -> list[Branch]:
    """At most so many branches that have not ended and that nobody living holds, the oldest first."""
    sql: LiteralString = _RESTING + (_OPEN if reader.paged else _UNPAGED) + _OLDEST
    gone = [each.id for each in workers if each.state is State.DEAD]
    return [Branch(*cast(Any, row), holder="") for row in reader.fetch(sql, (gone, most))]


def declare_dead(reader: PostgresReader, worker: str) -> bool:
    """Put down, on the word of whoever knows, that a worker has stopped for good; whether there was one."""
    return bool(reader.fetch(_DECLARE, (worker,)))
