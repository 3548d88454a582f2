"""A fleet as the tests see it: a store on a real PostgreSQL, a directory that is the world, and worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from holdfast import open_store
from holdfast.agent.run import Agent
from holdfast.core.codec import decode, encode
from holdfast.core.log import Log
from holdfast.core.record import Claim, Finished, Intent, Record, Seal, Settled, Started
from holdfast.embedded.explore import packed_json
from holdfast.errors import HoldfastError
from holdfast.fleet.schema import install
from holdfast.gateway.line import key_for
from holdfast.store import Draft, Store
from holdfast.store.postgres_reader import PostgresReader
from holdfast.store.url import postgres_address
from tests.fleet.nursery import Nursery
from tests.postgres import Postgres
from tests.standby import Pair

CREW = "tests.fleet.crew"


def soon(is_true: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until something holds; what takes a minute never comes."""
    until = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < until, f"it never came to this: {what}"
        time.sleep(0.02)


class Fleet:
    """A store, the directory in which its agents act, and its workers."""

    def __init__(self, nursery: Nursery, postgres: Postgres | Pair, place: Path, ttl_s: float) -> None:
        self.postgres = postgres
        self.place = place
        self.url = self.url_by(None, postgres.empty(), ttl_s)
        self._nursery = nursery
        self._ttl_s = ttl_s
        self.workers: list[int] = []
        self.surroundings: dict[str, str] = {}  # of its workers
        install(postgres_address(self.url))

    def url_by(self, folder: str | None, base: str | None = None, ttl_s: float | None = None) -> str:
        """The store's URL; by way of the socket in a folder."""
        url = base or self.postgres.url
        if folder is not None:
            url = f"{url.partition('?')[0]}?host={folder}"
        return f"{url}{'&' if '?' in url else '?'}key={self.place}/key&claim_ttl_s={ttl_s or self._ttl_s}"

    # --- workers ---

    def worker(self, *words: str, agents: str = CREW, url: str = "", **more: str) -> int:
        """A new worker's pid, once it works."""
        speech = self.place / f"speech-{len(self.workers)}"
        pid = self._nursery.bear(
            ["worker", *words], self.place, speech, HOLDFAST_STORE=url or self.url, HOLDFAST_AGENTS=agents,
            **self.surroundings, **more,
        )  # fmt: skip
        self.workers.append(pid)
        soon(lambda: self._enrolled(pid) or self.code(pid) is not None, "it works")
        assert self.code(pid) is None, speech.read_text()
        return pid

    def _enrolled(self, pid: int) -> bool:
        sql = "SELECT 1 FROM holdfast_fleet.member m JOIN holdfast.worker w ON w.id = m.worker WHERE w.pid = %s"
        there = self.rows("SELECT to_regclass('holdfast_fleet.member') IS NOT NULL")[0][0]
        return there and bool(self.rows(sql, pid))

    def said(self, pid: int) -> str:
        """What a worker has said."""
        return (self.place / f"speech-{self.workers.index(pid)}").read_text()

    def code(self, pid: int) -> int | None:
        """The exit code of a worker, once it has ended."""
        return self._nursery.poll(pid)

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """A signal to a worker; after SIGKILL it is gone when this returns."""
        os.kill(pid, number)
        if number == signal.SIGKILL:
            soon(lambda: self.code(pid) is not None, "it is dead")

    def stop(self, pid: int) -> None:
        """Stop a worker, as a system stops what it runs."""
        self.kill(pid, signal.SIGTERM)
        soon(lambda: self.code(pid) is not None, "it has stopped")
        assert self.code(pid) == 0, self.said(pid)

    def tend(self, many: int, *words: str) -> None:
        """As a system does that starts a worker again which has ended."""
        living = [pid for pid in self.workers if self.code(pid) is None]
        for _ in range(many - len(living)):
            self.worker(*words)

    def close(self) -> None:
        for pid in self.workers:
            if self.code(pid) is None:
                os.kill(pid, signal.SIGKILL)
                soon(lambda pid=pid: self.code(pid) is not None, "it is dead")

    # --- runs ---

    def begin(self, agent: Agent, tasks: dict[str, Any]) -> None:
        """Hand runs over, by id."""

        async def all_of_them() -> None:
            async with open_store(self.url) as house:
                await asyncio.gather(*(house.begin(agent, task, id=run) for run, task in tasks.items()))

        asyncio.run(all_of_them())

    def plant(self, runs: Sequence[str], agent: Agent, task: Any, *more: Record) -> None:
        """Runs that have come so far, as the process that gave them up has left them."""
        packed = packed_json(task)

        async def one(store: Store, run: str) -> None:
            records = [Claim(worker="w", previous="none"), Started(agent=agent.name, input=packed.payload), *more]
            grant = await store.claim(f"{run}@main")
            drafts = [Draft(key_for(record, Log("")), encode(record)) for record in records]
            await store.append(f"{run}@main", drafts, epoch=grant.epoch, release=True, blobs=packed.blobs)

        async def all_of_them() -> None:
            async with open_store(self.url) as house:
                await asyncio.gather(*(one(house.store, run) for run in runs))

        asyncio.run(all_of_them())

    def rows(self, sql: Any, *values: object) -> list[tuple[Any, ...]]:
        """What the database says."""
        with self.postgres.connect() as connection:
            return connection.execute(sql, values).fetchall()

    def records(self, run: str) -> list[Any]:
        """The log of a run, decoded."""
        with PostgresReader(postgres_address(self.url)) as reader:
            return [decode(entry.body) for entry in asyncio.run(reader.read(f"{run}@main"))]

    def ended(self, run: str) -> bool:
        """Whether a run has an answer."""
        return any(isinstance(each, Finished) and each.error is None for each in self.records(run))

    def finished(self) -> int:
        """How many runs have come to an end."""
        sql = "SELECT count(DISTINCT branch) FROM holdfast.entry WHERE key = convert_to('finished', 'UTF8')"
        return self.rows(sql)[0][0]

    def previous(self, run: str) -> list[str]:
        """How each owner of a run's claim ended."""
        return [record.previous for record in self.records(run) if isinstance(record, Claim)]

    def open(self, run: str) -> dict[int, Intent]:
        """What was begun in a run and has no outcome, where its sender is not proven to have stopped."""
        found: dict[int, Intent] = {}
        unproven: dict[int, Intent] = {}
        for seq, record in enumerate(self.records(run), 1):
            match record:
                case Intent(tool="mail" | "wire"):
                    found[seq] = record
                case Seal(intent=int(place)) | Settled(intent=place):
                    found.pop(place, None)
                    unproven.pop(place, None)
                case Claim(previous="unproven"):
                    unproven |= found
                case _:
                    pass
        return unproven

    def attend(self, runs: Iterable[str]) -> None:
        """A person looks into the book, for each effect that waits since nobody can tell whether it is still sent."""
        with open_store(self.url) as house:
            for run in runs:
                for seq, intent in self.open(run).items():
                    there = [intent.tool, intent.key] in [[line[0], line[2]] for line in self.book() if len(line) == 3]
                    with contextlib.suppress(HoldfastError):  # somebody may have been faster
                        if there:
                            house.settle(f"{run}@{seq}", happened="a person has seen it", by="eve")
                        else:
                            house.settle(f"{run}@{seq}", did_not_happen="it is not in the book", by="eve")

    # --- the world ---

    def book(self) -> list[list[str]]:
        """What was done in the world, line by line."""
        path = self.place / "book"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def done(self, tool: str, name: str) -> int:
        """How often."""
        return sum(line[:2] == [tool, name] for line in self.book())

    def check(self) -> None:
        """Nothing in the world was done twice, and nothing was written by whoever had lost its claim."""
        counted = Counter((tool, name) for tool, name, *_ in self.book() if tool in ("mail", "wire"))
        assert {what: times for what, times in counted.items() if times > 1} == {}
        keys = {(name, key) for tool, name, *rest in self.book() if tool == "put" for key in rest}
        assert len(keys) == len({name for name, _ in keys}), "an effect was sent again with another key"
        assert self.rows(
            "SELECT e.branch, e.seq FROM holdfast.entry e WHERE e.epoch > 0 AND e.epoch < (SELECT max(f.epoch)"
            " FROM holdfast.entry f WHERE f.branch = e.branch AND f.seq < e.seq)"
        ) == []  # fmt: skip


def stuck(fleet: Fleet, names: Sequence[str]) -> None:
    """What is done for these does not come back from the world."""
    for name in names:
        (fleet.place / f"stuck-{name}").touch()


def freed(fleet: Fleet, names: Sequence[str]) -> None:
    """It does again."""
    for name in names:
        (fleet.place / f"stuck-{name}").unlink()
