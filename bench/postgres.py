"""The store on PostgreSQL beside its floor, on one server and in one run: `python -m bench.postgres`.

The floor is one row of the same size and one commit per step, by as many connections as are named. Everything takes its
turns, round by round, so that a busy moment of the machine hits all alike. A round trip is a statement that is sent:
nothing else waits for the server.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from bench.machine import load, machine, state
from bench.peers.window import used_s
from bench.server import started
from bench.spread import spread
from bench.steps import SHELF, step_of
from bench.text import Texts, write
from holdfast import Run, agent, open_store
from holdfast.cli.heap import for_many_runs
from holdfast.store import Draft
from holdfast.store.postgres import PostgresStore

ROOT = Path(__file__).parent.parent
BODY = b"x" * 300
WARM = 4  # steps of each run, or commits of each connection, before it is measured
FLOOR: LiteralString = "INSERT INTO floor (key, args, result) VALUES (%s, %s, %s)"


def floor(url: str, connections: int, seconds: float, used_s: Callable[[], float]) -> Found:
    """Commits of one row each, by so many connections."""
    counts = [0] * connections
    ready = threading.Barrier(connections + 1)
    ends = [0.0]

    def commit(which: int) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for warm in range(WARM):
                connection.execute(FLOOR, (b"%d/%d/%d" % (time.time_ns(), which, warm), BODY, BODY * 3))
            ready.wait()
            ready.wait()
            while time.perf_counter() < ends[0]:
                key = hashlib.sha256(b"%d/%d" % (which, counts[which])).digest()
                connection.execute(FLOOR, (key, BODY, BODY * 3))
                counts[which] += 1

    threads = [threading.Thread(target=commit, args=(which,)) for which in range(connections)]
    for thread in threads:
        thread.start()
    ready.wait()
    before_s, began = used_s(), time.perf_counter()
    ends[0] = began + seconds
    ready.wait()
    for thread in threads:
        thread.join()
    count = sum(counts)
    return Found(count / (time.perf_counter() - began), (used_s() - before_s) / count * 1000)


def appends(url: str, runs: int, seconds: float, used_s: Callable[[], float], *, barrier: bool) -> Found:
    """Appends of one entry each, by so many runs of one process."""
    window = Window(runs, seconds, used_s)

    async def measured() -> Found:
        store = PostgresStore(url)

        async def append(branch: str, epoch: int) -> None:
            drafts = [Draft(b"k" * 32, BODY)]
            for _ in range(WARM):
                await store.append(branch, drafts, epoch=epoch, barrier=barrier, alone=runs == 1)
            await window.opens()
            while window.open():
                await store.append(branch, drafts, epoch=epoch, barrier=barrier, alone=runs == 1)
                window.count += 1

        branches = [f"floor-{number}-{time.time_ns()}@main" for number in range(runs)]
        grants = await asyncio.gather(*(store.claim(branch) for branch in branches))
        await asyncio.gather(*(append(branch, grant.epoch) for branch, grant in zip(branches, grants, strict=True)))
        await store.close()
        return window.found()

    return asyncio.run(measured())


class Window:
    """The time that is measured: from the moment at which the last run is warm, for `seconds`. Whatever comes before
    (connecting, claiming, beginning) and after is none of a step's."""

    def __init__(self, runs: int, seconds: float, used_s: Callable[[], float]) -> None:
        self._cold = runs
        self._seconds = seconds
        self._used_s = used_s
        self._warm = asyncio.Event()
        self._began = self._ended = 0.0
        self._from_s = self._to_s = 0.0
        self.count = 0

    async def opens(self) -> None:
        """One more run is warm; returns when all are."""
        self._cold -= 1
        if self._cold == 0:
            self._from_s, self._began = self._used_s(), time.perf_counter()
            self._warm.set()
        await self._warm.wait()

    def open(self) -> bool:
        """Whether there is time for one more step, which is counted if there was."""
        if self._ended:
            return False
        self._ended = now if (now := time.perf_counter()) - self._began >= self._seconds else 0.0
        if self._ended:
            self._to_s = self._used_s()
            return False
        return True

    def found(self) -> Found:
        """A second, and ms of a processor for each."""
        return Found(self.count / (self._ended - self._began), (self._to_s - self._from_s) / self.count * 1000)


@dataclass(frozen=True, slots=True)
class Found:
    """So many a second, and how many ms of a processor each has cost, client and server."""

    per_s: float
    cpu_ms: float


def steps(url: str, runs: int, seconds: float, kind: str, used_s: Callable[[], float]) -> Found:
    """Steps of one kind through the whole of Holdfast, by so many runs of one process."""
    window = Window(runs, seconds, used_s)

    @agent
    async def stepping(run: Run, _task: object) -> None:
        step = step_of(run, kind)
        for _ in range(WARM):
            await step()
        await window.opens()
        while window.open():
            await step()
            window.count += 1

    with open_store(url) as house:
        began = time.time_ns()
        if runs == 1:
            house.run(stepping, id=f"steps-{began}")
        else:

            async def all_runs() -> None:
                await asyncio.gather(*(house.arun(stepping, id=f"steps-{began}-{number}") for number in range(runs)))

            asyncio.run(all_runs())
    return window.found()


def round_trips(url: str, kind: str, count: int = 200) -> float:
    """Statements that are sent for a step of this kind, in one run."""
    sent = [0]
    execute = psycopg.Cursor.execute  # a connection's own goes through it, too

    def counting(self: psycopg.Cursor[Any], *arguments: Any, **named: Any) -> psycopg.Cursor[Any]:
        sent[0] += 1
        return execute(self, *arguments, **named)

    @agent
    async def stepping(run: Run, _task: object) -> int:
        step = step_of(run, kind)
        await step()
        before = sent[0]
        for _ in range(count):
            await step()
        return sent[0] - before

    psycopg.Cursor.execute = counting  # type: ignore[method-assign, assignment]
    try:
        with open_store(f"{url}&beat_s=600") as house:
            return house.run(stepping, id=f"trips-{kind}") / count
    finally:
        psycopg.Cursor.execute = execute  # type: ignore[method-assign]


def measure(url: str, texts: Texts, server: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Everything, in turns."""
    SHELF.texts = texts
    used = functools.partial(used_s, server)
    ways: dict[str, Callable[[], Found]] = {
        "floor, 1 connection": lambda: floor(url, 1, seconds, used),
        "floor, 32 connections": lambda: floor(url, 32, seconds, used),
        "appends, barrier, 1 run": lambda: appends(url, 1, seconds, used, barrier=True),
        "appends, no barrier, 1 run": lambda: appends(url, 1, seconds, used, barrier=False),
        "appends, barrier, 256 runs": lambda: appends(url, 256, seconds, used, barrier=True),
        "idempotent steps, 1 run": lambda: steps(url, 1, seconds, "idempotent", used),
        "irreversible steps, 1 run": lambda: steps(url, 1, seconds, "irreversible", used),
        "idempotent steps, 256 runs": lambda: steps(url, 256, seconds, "idempotent", used),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found = way()
            rates[name].append(found.per_s)
            costs[name].append(found.cpu_ms)
    one, many = rates["floor, 1 connection"], rates["floor, 32 connections"]
    return {
        "rates": {name: spread(found, 1) for name, found in rates.items()},
        "cpu_ms": {name: spread(found) for name, found in costs.items()},
        "of the floor": {
            name: spread([rate / base for rate, base in zip(found, many if "256" in name else one, strict=True)], 2)
            for name, found in rates.items()
            if not name.startswith("floor")
        },
        "round trips": {kind: round(round_trips(url, kind), 2) for kind in ("decision", "idempotent", "irreversible")},
    }


def main() -> None:
    """Measure on a server that is started for it, and print what was found as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.postgres", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement in each round")
    options = parser.parse_args()
    os.environ["HOLDFAST_HOME"] = tempfile.mkdtemp(prefix="bench-home-")
    for_many_runs()  # as `holdfast worker` does
    folder = Path(tempfile.mkdtemp(prefix="bench-postgres-"))
    with started(folder) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE floor (id bigserial PRIMARY KEY, key bytea, args bytea, result bytea)")
        write(folder / "texts", 8 << 20)
        begun = load()
        found = measure(server.url, Texts(folder / "texts"), server.pid, options.rounds, options.seconds)
        loads = {"load before": begun, "load after": load()}
        about = {**machine(folder), **state(ROOT), "PostgreSQL": server.version, **loads}
        json.dump({"about": about, **found}, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
