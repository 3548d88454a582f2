"""What a worker asks of the fleet's tables, one statement at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from holdfast.fleet.connector import Jobs, Patient
from holdfast.fleet.schema import queue_of
from holdfast.store.worker import Worker

DUE = 200  # sleepers that are woken in one transaction
_ENROL = (
    "INSERT INTO holdfast_fleet.member (worker, number, agents, at_once)"
    " VALUES (%(worker)s, %(number)s, %(agents)s, %(at_once)s)"
    " ON CONFLICT (worker) DO UPDATE SET number = excluded.number RETURNING worker"
)
_OTHERS = (
    "SELECT w.id, w.place, w.pid, w.born, w.host, m.worker IS NOT NULL AS enrolled,"
    " (extract(epoch FROM clock_timestamp() - w.seen_at))::float8 AS silent_s, w.seen_at::text AS seen"
    " FROM holdfast.worker w LEFT JOIN holdfast_fleet.member m ON m.worker = w.id WHERE w.id <> %(me)s"
    " AND (m.worker IS NOT NULL OR EXISTS (SELECT 1 FROM holdfast.branch b WHERE b.worker = w.id))"
)
_VANISHED = (
    "SELECT holdfast_fleet.bury_1(m.worker) FROM holdfast_fleet.member m"
    " WHERE m.worker <> %(me)s AND NOT EXISTS (SELECT 1 FROM holdfast.worker w WHERE w.id = m.worker)"
)
_OWNER = (
    "SELECT b.worker AS id, w.place, w.pid, w.born, w.host,"
    " (extract(epoch FROM clock_timestamp() - w.seen_at))::float8 AS silent_s"
    " FROM holdfast.branch b LEFT JOIN holdfast.worker w ON w.id = b.worker"
    " WHERE b.name = %(branch)s AND b.worker IS NOT NULL"
)
# Entries of one millisecond are in no order, and clocks of workers differ by some: one wake-up too many does no harm.
_BESIDE = (
    "SELECT 1 AS found FROM holdfast.branch b JOIN holdfast.entry e ON e.branch = b.id"
    ' WHERE b.name >= %(first)s COLLATE "C" AND b.name < %(last)s COLLATE "C" AND b.name <> %(branch)s'
    " AND (e.at_ms >= (SELECT m.at_ms FROM holdfast.entry m JOIN holdfast.branch o ON o.id = m.branch"
    " WHERE o.name = %(branch)s AND m.seq = %(mark)s) - 1000"
    " OR (e.epoch = 0 AND e.at_ms >= (SELECT m.at_ms FROM holdfast.entry m JOIN holdfast.branch o ON o.id = m.branch"
    " WHERE o.name = %(branch)s AND m.seq = %(claim)s) - 1000)) LIMIT 1"
)
_MOVE = (
    "WITH moved AS (INSERT INTO holdfast_fleet.run (run, queue, agent) VALUES (%(run)s, %(queue)s, %(agent)s)"
    " ON CONFLICT (run) DO UPDATE SET queue = excluded.queue, agent = excluded.agent RETURNING run)"
    " SELECT run FROM moved"
)
_LOST = (
    "SELECT id FROM holdfast_fleet.procrastinate_jobs"
    " WHERE status = 'doing' AND worker_id = %(number)s AND NOT id = ANY (%(mine)s)"
)
_PUT_BACK = (
    "WITH gone AS (DELETE FROM holdfast_fleet.procrastinate_jobs WHERE id = ANY (%(jobs)s) AND worker_id = %(number)s"
    " AND status = 'doing' RETURNING lock) SELECT holdfast_fleet.defer_1(lock, NULL) FROM gone"
)


@dataclass(frozen=True, slots=True)
class Other:
    """A worker of the store that is one of the fleet, or holds a claim; how long it has shown no sign of life, by the
    database's clock, and which one was its last."""

    worker: Worker
    enrolled: bool
    silent_s: float
    seen: str


class Queue:
    """The fleet as the worker `me` (of the store) sees it."""

    def __init__(self, connector: Patient, me: str) -> None:
        self.me = me
        self._connector = connector

    async def _ask(self, query: LiteralString, **arguments: Any) -> list[dict[str, Any]]:
        return await self._connector.execute_query_all_async(query, **arguments)

    # --- what is to be done ---

    async def now(self, run: str) -> None:
        """Somebody should look at a run."""
        await self._ask("SELECT holdfast_fleet.defer_1(%(run)s, NULL)", run=run)

    async def later(self, run: str, seconds: float) -> None:
        """Somebody should look at a run, after so long."""
        query = "SELECT holdfast_fleet.defer_1(%(run)s, clock_timestamp() + make_interval(secs => %(seconds)s))"
        await self._ask(query, run=run, seconds=float(seconds))

    async def at(self, run: str, at_ms: int) -> None:
        """Somebody should look at a run at a moment (wall clock); not at once, if clocks disagree."""
        query = (
            "SELECT holdfast_fleet.defer_1(%(run)s, greatest(to_timestamp(%(at)s::float8 / 1000),"
            " clock_timestamp() + interval '0.2 s'))"
        )
        await self._ask(query, run=run, at=min(at_ms, 10**14))

    async def due(self) -> float | None:
        """Take up what has become due; in how long something more will, if anything waits (s)."""
        rows = await self._ask("SELECT holdfast_fleet.due_1(%(most)s) AS next_s", most=DUE)
        return rows[0]["next_s"]

    async def move(self, run: str, agent: str) -> None:
        """A run is for those who may run its agent."""
        await self._ask(_MOVE, run=run, queue=queue_of(agent), agent=agent)
        await self.now(run)

    async def forget(self, run: str) -> None:
        """A run has ended."""
        await self._ask("DELETE FROM holdfast_fleet.run WHERE run = %(run)s RETURNING run", run=run)

    # --- how a run stands ---

    async def owner(self, branch: str) -> tuple[Worker | None, float] | None:
        """Who holds the claim of a branch, and for how long it has been silent (s); (None, inf) if it is unknown; None
        if nobody does."""
        for row in await self._ask(_OWNER, branch=branch):
            if row["pid"] is None:
                return None, float("inf")
            return Worker(row["id"], row["place"], row["pid"], row["born"], row["host"]), row["silent_s"]
        return None

    async def beside(self, branch: str, claim_seq: int, mark_seq: int) -> bool:
        """Whether another branch of a run got an entry after entry `mark_seq` of this one, or, without a claim, after
        `claim_seq`."""
        run = branch.partition("@")[0]
        values = {"first": f"{run}@", "last": f"{run}A", "branch": branch, "claim": claim_seq, "mark": mark_seq}
        return bool(await self._ask(_BESIDE, **values))

    # --- limits ---

    async def sit(self, run: str, agent: str, most: int) -> bool:
        """Whether there is room for one more run of an agent; if not, the run stands in line."""
        query = "SELECT holdfast_fleet.sit_1(%(run)s, %(agent)s, %(most)s, %(me)s) AS free"
        return (await self._ask(query, run=run, agent=agent, most=most, me=self.me))[0]["free"]

    async def turn(self, run: str = "") -> None:
        """A run has left its place; whoever is next in line is looked at."""
        await self._ask("SELECT holdfast_fleet.turn_1(%(run)s)", run=run)

    # --- workers ---

    async def enrol(self, number: int, agents: Iterable[str], at_once: int) -> None:
        """Be one of the fleet."""
        named = ",".join(sorted(agents))
        await self._ask(_ENROL, worker=self.me, number=number, agents=named, at_once=at_once)

    async def drain(self) -> None:
        """Say that this worker takes nothing more."""
        query = "UPDATE holdfast_fleet.member SET draining = true WHERE worker = %(me)s RETURNING worker"
        await self._ask(query, me=self.me)

    async def leave(self) -> None:
        """Be no longer one of the fleet; what was not ended is put back."""
        await self.bury(self.me)

    async def enrolled(self) -> bool:
        """Whether the fleet still knows this worker."""
        return bool(await self._ask("SELECT 1 AS found FROM holdfast_fleet.member WHERE worker = %(me)s", me=self.me))

    async def others(self) -> list[Other]:
        """Whoever else is one of the fleet, or holds a claim."""
        rows = await self._ask(_OTHERS, me=self.me)
        return [
            Other(
                Worker(row["id"], row["place"], row["pid"], row["born"], row["host"]),
                row["enrolled"], row["silent_s"], row["seen"],
            )
            for row in rows
        ]  # fmt: skip

    async def died(self, worker: Worker) -> None:
        """Put down that a worker is proven to have stopped, for those who cannot ask themselves."""
        query = "UPDATE holdfast.worker SET pid = 0 WHERE id = %(id)s AND born = %(born)s RETURNING id"
        await self._ask(query, id=worker.id, born=worker.born)

    async def bury(self, worker: str) -> int:
        """Have looked at what a worker was doing, and what it holds: so many runs."""
        query = "SELECT holdfast_fleet.bury_1(%(worker)s) AS runs"
        return (await self._ask(query, worker=worker))[0]["runs"]

    async def tidy(self, jobs: Jobs) -> Sequence[int]:
        """Put back what nobody is at; the jobs that this worker was handed out, by its number, and knows nothing of."""
        await self._ask("SELECT holdfast_fleet.orphans_1()")
        await self._ask(_VANISHED, me=self.me)
        if jobs.fetching:
            return ()
        rows = await self._ask(_LOST, number=jobs.number, mine=list(jobs.mine))
        return () if jobs.fetching else [row["id"] for row in rows if row["id"] not in jobs.mine]

    async def put_back(self, jobs: Sequence[int], number: int) -> None:
        """Jobs of this worker that it knows nothing of are for anybody."""
        await self._ask(_PUT_BACK, jobs=list(jobs), number=number)
