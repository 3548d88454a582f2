"""Deletion of what a plan (prune.py) lets go from a database on PostgreSQL, beside living writers.

Rules
1. Marks first; then what is to go is listed; then the count of deletions is raised, and every worker is waited for
   once. What was placed by then is looked at: what that names stays. All else that is named later is taken from the
   list by those who name it (postgres_pruning.py).
2. Each step is one statement, and so one transaction, over no more than `MOST_BLOBS` payloads or `MOST_BRANCHES`
   branches. No table is locked, and no lock is held while this process computes, or is stopped.
3. Of two that prune at once, the one that begins later goes on.
4. Whenever this process dies, what is left is whole: a rope goes before its pieces, and never without its mark. The
   next prune ends it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, LiteralString, TypeVar, cast

import psycopg

from holdfast.core.retention import Mark
from holdfast.errors import Conflict, Unwritable
from holdfast.store.postgres_arrays import byteas, int8s, texts
from holdfast.store.postgres_pruning import BEGIN, DELETE, DOOM, END, MARK, PASS, WORKERS
from holdfast.store.postgres_reader import PostgresReader
from holdfast.store.postgres_schema import PRUNABLE, opened, translate
from holdfast.store.postgres_ways import connect
from holdfast.store.prune import Names, Plan, Share, keep, plan

MOST_BLOBS, MOST_BYTES = 1024, 8 << 20  # of one transaction
MOST_BRANCHES = 500
LOCK_S = 60.0  # for how long a worker's transaction is waited for
FIX = "do it again"
_T = TypeVar("_T")


def planned(reader: PostgresReader, marks: list[Mark], named: Names, needed: Names, tick: Callable[[], object]) -> Plan:
    """As `prune.plan`. To be called inside a moment of the reader."""
    found = plan(reader, marks, named, needed, tick)
    found.newest = reader.leaves().size()  # those that had no number yet are looked at once more
    runs = {_run(mark.branch) for mark in marks}
    heads = cast("list[tuple[str, int]]", reader.fetch("SELECT name, seq FROM holdfast.branch WHERE seq > 0"))
    found.heads = {name: seq for name, seq in heads if _run(name) in runs}
    return found


class PostgresPruner:
    """Carries out a plan on the store at `conninfo`, for `by`. A context manager."""

    def __init__(self, conninfo: str, plan: Plan, by: str) -> None:
        self._conninfo = conninfo
        self._plan = plan
        self._by = by
        before = int(plan.deletions)
        self._mine = before + 1 + before % 2  # odd, and greater
        self._list = secrets.randbits(63)
        self._reader = PostgresReader(conninfo)
        self._where = self._reader.where
        try:
            self._connection = connect(conninfo)
        except psycopg.Error as error:
            raise translate(error, self._where) from error
        try:
            opened(self._connection, self._where)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> PostgresPruner:
        return self

    def __exit__(self, *ending: object) -> None:
        self._connection.close()
        self._reader.__exit__(None, None, None)

    def prune(self, tick: Callable[[int], object]) -> Share:
        """Set the marks, then delete, in many small transactions: others write in between. What was deleted. `tick` is
        told of how many were looked at. Raises Conflict if another process prunes too, or if one of these runs has
        moved on; Stopped: then the next prune goes on."""
        self._mark()
        for page in _pages(self._plan.doomed, MOST_BLOBS):
            self._ask(DOOM, (self._list, byteas(page)))
        if not self._ask(BEGIN, (int(self._plan.deletions), self._mine, PRUNABLE))[0][0]:
            raise Conflict("another process prunes this store", where=self._where, fix=FIX)
        self._wait_for_all()
        self._look()
        done = self._delete(tick)
        while cast(int, self._ask(END, (self._mine, MOST_BLOBS))[0][0]) >= MOST_BLOBS:
            time.sleep(0.01)
        return done

    def _mark(self) -> None:
        """Runs that have moved on since they were looked at are left alone: they may need what was to go."""
        runs: dict[str, list[Mark]] = {}
        for mark in self._plan.marks:
            runs.setdefault(_run(mark.branch), []).append(mark)
        branches: dict[str, list[str]] = {}
        for name in self._plan.heads:
            branches.setdefault(_run(name), []).append(name)
        for page in _pages(runs, MOST_BRANCHES):
            self._mark_some(page, [name for run in page for name in branches.get(run, ())],
                            [mark for run in page for mark in runs[run]])  # fmt: skip

    def _mark_some(self, runs: list[str], branches: list[str], marks: list[Mark]) -> None:
        ends = int8s([self._plan.heads[name] for name in branches])
        names, upto = texts([mark.branch for mark in marks]), int8s([mark.upto for mark in marks])
        extents = texts([mark.extent.value for mark in marks])
        moved = self._ask(MARK, (texts(branches), ends, texts(runs), names, upto, extents, self._by))[0][0]
        if moved is not None:
            raise Conflict("a run has moved on since it was looked at", where=str(moved), fix=FIX)

    def _wait_for_all(self) -> None:
        """Until every transaction is over that was begun by an older count."""
        until = time.monotonic() + LOCK_S
        for (worker,) in self._ask(WORKERS):
            while True:
                try:
                    self._ask(PASS, (worker,))
                    break
                except Unwritable:
                    if self._connection.closed or time.monotonic() > until:
                        raise

    def _look(self) -> None:
        """What was written since: what it names stays, and what is made of it (others may rest on that from now on)."""
        plan = self._plan
        with self._reader.moment():
            for digest in plan.stock.take(self._reader.stock(plan.stock.sizes)):
                plan.stock.reach(digest, plan.live)
            for _, entry in self._reader.places(plan.newest):
                for digest in plan.needed(entry):
                    keep(plan, entry, digest)

    def _delete(self, tick: Callable[[int], object]) -> Share:
        done, stock = Share(), self._plan.stock
        waiting = self._plan.doomed[::-1]
        while waiting:
            begun_s = time.monotonic()
            page = self._page(waiting)
            del waiting[len(waiting) - len(page) :]
            going = [digest for digest in page if digest not in self._plan.live]
            for (digest,) in self._ask(DELETE, (self._mine, self._list, byteas(going))):
                done.add(stock.sizes[cast(bytes, digest)])
            tick(len(page))
            time.sleep(min(1.0, time.monotonic() - begun_s))  # the disk and the processor are others' too
        return done

    def _page(self, waiting: list[bytes]) -> list[bytes]:
        """The last of them, as many as one transaction should delete."""
        size = number = 0
        while number < min(MOST_BLOBS, len(waiting)) and size < MOST_BYTES:
            number += 1
            size += self._plan.stock.sizes[waiting[-number]]
        return waiting[len(waiting) - number :]

    def _ask(self, sql: LiteralString, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement, which is a transaction. Raises Stopped, Conflict."""
        try:
            done = self._connection.execute(sql, values, binary=True)
            return done.fetchall() if done.description else []
        except psycopg.Error as error:
            raise translate(error, self._where) from error


def _run(branch: str) -> str:
    return branch.partition("@")[0]


def _pages(items: Iterable[_T], most: int) -> Iterator[list[_T]]:
    each = iter(items)
    while page := list(islice(each, most)):
        yield page
