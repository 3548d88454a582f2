"""How the tests of pruning write to a store, prune it, and look at what is left: for any store that lasts.

Entries here name payloads by their digests, so that the store can be tried without runs (see shelf.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import apsw
import psycopg

from holdfast.core.entry import Entry
from holdfast.core.retention import Extent, Mark
from holdfast.errors import Unknown
from holdfast.store import Store
from holdfast.store.postgres_prune import PostgresPruner
from holdfast.store.postgres_prune import planned as planned_there
from holdfast.store.postgres_reader import PostgresReader
from holdfast.store.prune import Plan, Pruner, Share, plan
from holdfast.store.reader import Reader
from holdfast.store.rope import gather
from tests.store.shelf import Shelf, blob, heard, named, naming, said, start, texts


def write(shelf: Shelf, *lines: str) -> None:
    """Each line: a branch, and the texts that an entry of it names."""

    async def all_of_them() -> None:
        store = shelf.open()
        for line in lines:
            branch, *words = line.split()
            await store.append(branch, [naming(*words)], epoch=0, blobs=texts(*words))
        await store.close()

    asyncio.run(all_of_them())


def write_whole(shelf: Shelf, branch: str, word: str) -> None:
    """Place an entry that names the payload of a rope, not cut into pieces."""

    async def write_it() -> None:
        store = shelf.open()
        await store.append(branch, [naming(word)], epoch=0, blobs=[blob(said(word))])
        await store.close()

    asyncio.run(write_it())


def reading(shelf: Shelf) -> Any:
    """The reading side of a store, to be entered."""
    return PostgresReader(shelf.url) if shelf.url else Reader(shelf.path)


def planned(shelf: Shelf, *branches: str) -> Plan:
    """What goes if these branches are pruned as they are now."""
    with reading(shelf) as reader, reader.moment():
        new = [
            Mark(found.name, found.seq, Extent.ALL)
            for found in asyncio.run(reader.branches())
            if found.name in branches
        ]
        upto = {mark.branch: mark.upto for mark in [*reader.marks(), *new]}
        needed: Callable[[Entry], list[bytes]] = lambda entry: (  # noqa: E731
            [] if entry.seq <= upto.get(entry.branch, 0) else named(entry)
        )
        make = planned_there if shelf.url else plan
        return make(reader, new, named, needed, lambda: None)


def pruner_of(shelf: Shelf, found: Plan, by: str = "ann") -> Any:
    """What carries a plan out, to be entered."""
    return PostgresPruner(shelf.url, found, by) if shelf.url else Pruner(shelf.path, found, by)


def pruned(shelf: Shelf, *branches: str, tick: Callable[[int], object] = lambda _number: None) -> Share:
    """Prune these branches."""
    with pruner_of(shelf, planned(shelf, *branches)) as pruner:
        share: Share = pruner.prune(tick)
        return share


def has(shelf: Shelf, *words: str) -> list[bool]:
    """Whether the payloads of these texts are there, whole."""

    async def whole(reader: Any, word: str) -> bool:
        try:
            return await gather(reader, texts(word)[-1].digest, 1 << 20) == said(word)
        except Unknown:
            return False

    with reading(shelf) as reader:
        return [asyncio.run(whole(reader, word)) for word in words]


def rows(shelf: Shelf, sql: str, *values: bytes) -> list[Any]:
    """What the database itself answers; its tables are named without their schema, a value is `?`."""
    if shelf.url:
        with psycopg.connect(shelf.url, autocommit=True, options="-c search_path=holdfast") as connection:
            found = connection.execute(sql.replace("?", "%s"), values or None)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []
    with contextlib.closing(apsw.Connection(str(shelf.path))) as connection:
        return connection.execute(sql, values).fetchall()


def another(shelf: Shelf, number: int) -> Shelf:
    """An empty store of the same kind; of those on PostgreSQL there is one at a time."""
    if shelf.url:
        rows(shelf, "DROP SCHEMA IF EXISTS holdfast CASCADE")
        return shelf
    return replace(shelf, path=shelf.path.with_name(f"{number}.db"))


@contextlib.contextmanager
def rememberer(shelf: Shelf) -> Iterator[subprocess.Popen[str]]:
    """A living process that has the store open."""
    process = start("tests.store.rememberer", shelf.place)
    try:
        assert heard(process) == "open"
        yield process
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def teller(shelf: Shelf) -> Iterator[Callable[[str], None]]:
    """The same in this process, where many are needed: another handle on the store, which remembers for itself."""
    with asyncio.Runner() as own, ThreadPoolExecutor(1) as thread:
        store = thread.submit(own.run, _opened(shelf)).result(60)

        async def place(line: str) -> None:
            branch, *words = line.split()
            await store.append(branch, [naming(*words)], epoch=0, barrier=True, blobs=texts(*words))

        yield lambda line: thread.submit(own.run, place(line)).result(60)
        thread.submit(own.run, store.close()).result(60)


async def _opened(shelf: Shelf) -> Store:
    return shelf.open()


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Let it place an entry."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    assert heard(process) == "placed"


def at_the(nth: int, work: Callable[[], object]) -> Callable[[int], object]:
    """To be told of each deletion: after the n-th one, do some work."""
    ticks = iter(range(1, 1000))
    return lambda _number: work() if next(ticks) == nth else None
