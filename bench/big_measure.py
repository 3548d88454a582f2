"""What is measured in a large log: through the real store, and through the code of the commands themselves.

Rules
1. A page is measured from opening its reader to having its rows: what a command takes beyond that is starting Python.
2. What is compared with an empty log takes turns with it, on the same server.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from bench import big_agents
from bench.big_load import DEAD
from bench.big_stencil import run_of
from bench.spread import quantile
from holdfast import open_store
from holdfast.cli import fleet as cli_fleet
from holdfast.cli import list as cli_list
from holdfast.cli import show as cli_show
from holdfast.cli.entry import show_entry
from holdfast.cli.view import look, reader_of
from holdfast.core.effect import Encoding, Payload
from holdfast.core.payload import pack_bytes
from holdfast.fleet.schema import install
from holdfast.gateway.line import read_payload
from holdfast.store import Draft
from holdfast.store.postgres import PostgresStore
from holdfast.store.postgres_reader import PostgresReader
from holdfast.store.worker import GONE

CATCH_UP_S = 900.0
SERVER: list[int] = []
"""The pid of the server."""
EMPTY = "holdfast_empty"
"""The database beside it that has no log yet."""
DEEP = ("held", "failed")
STATES = ("finished", "failed", "held", "waiting", "asleep", "doubt", "stopped")


def make(url: str) -> None:
    """Make the tables, and let nobody be the sequencer."""
    PostgresStore(url).let_go()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {EMPTY}")


def dead_worker() -> tuple[object, ...]:
    """The row of a process that is known to have ended."""
    return (DEAD, "elsewhere/0", GONE, "0", "elsewhere")


def timed(way: Callable[[int], object], rounds: int) -> dict[str, float]:
    """How long it takes (ms), and for how long it and the server compute for it: on a busy machine these lie apart."""
    taken: list[float] = []
    worked: list[float] = []
    before = _served_s()
    for number in range(rounds):
        began, begun = time.perf_counter(), time.process_time()
        way(number)
        taken.append((time.perf_counter() - began) * 1000)
        worked.append((time.process_time() - begun) * 1000)
    served = (_served_s() - before) * 1000 / rounds
    return {**told(taken), "computes p50": told(worked)["p50"], "the server": round(served, 2)}


def _served_s() -> float:
    """What the server has computed so far (s): its processes, those that are gone included."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(path.parent.name) == SERVER[0]:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) == SERVER[0]:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def told(taken: list[float]) -> dict[str, float]:
    """Median and tail of times."""
    return {
        "p50": round(quantile(taken, 0.5), 2), "p95": round(quantile(taken, 0.95), 2),
        "p99": round(quantile(taken, 0.99), 2), "of": len(taken),
    }  # fmt: skip


def measure(url: str, log: dict[str, Any], rounds: int, only: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything, but for what has another name than `only`."""
    draw = random.Random(5)

    few = max(5, rounds // 4)

    def some(shape: str) -> str:
        return run_of(draw.choice(log["shapes"][shape]))

    ways: dict[str, Callable[[], object]] = {
        "catch-up": lambda: catch_up(url, log["entries"]),
        "sizes": lambda: sizes(url, log["entries"]),
        "append": lambda: appends(url, rounds),
        "list, first page": lambda: timed(lambda _: page(url, set()), rounds),
        "list, deep": lambda: timed(lambda _: page(url, set(), some("usual")), rounds),
        **{f"list, {each}": lambda each=each: timed(lambda _: page(url, {each}), few) for each in STATES},
        **{
            f"list, {each}, deep": lambda each=each: timed(lambda _: page(url, {each}, some(each)), few)
            for each in DEEP
        },
        "show, usual run": lambda: timed(lambda _: shown(url, some("usual")), rounds),
        "show, large run": lambda: timed(lambda _: shown(url, some("large")), rounds),
        "show, 10,000 steps": lambda: timed(lambda _: shown(url, some("long")), max(5, rounds // 8)),
        "show, an entry": lambda: timed(lambda _: entry(url, f"{some('usual')}@9"), rounds),
        "fleet": lambda: fleet(url, max(5, rounds // 8)),
        "resume, 10,000 steps": lambda: resume(url, log),
        "verify, some runs": lambda: verify(url, [some(shape) for shape in log["shapes"]]),
        "vacuum": lambda: vacuumed(url),
    }
    found: dict[str, Any] = {}
    for name, way in ways.items():
        if name.startswith(only):
            began = time.monotonic()
            found[name] = way()
            say(f"{name}: {found[name]}   ({time.monotonic() - began:.1f} s)")
    return found


def catch_up(url: str, entries: int) -> dict[str, float]:
    """How long the sequencer takes to number and sign what is not yet."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ANALYZE")

        def newest() -> int:
            return connection.execute("SELECT coalesce(max(size), 0) FROM holdfast.head").fetchall()[0][0]

        before, began = newest(), time.monotonic()
        with open_store(url):
            while (size := newest()) < entries and time.monotonic() - began < CATCH_UP_S:
                time.sleep(0.2)
        took_s = time.monotonic() - began
    return {"entries": size - before, "s": round(took_s, 1), "entries/s": round((size - before) / took_s)}


def sizes(url: str, entries: int) -> dict[str, Any]:
    """What the tables and indexes take (MB), and bytes of disk for an entry."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT c.relname, pg_total_relation_size(c.oid), pg_indexes_size(c.oid), c.reltuples::bigint"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'holdfast'"
            " AND c.relkind = 'r' ORDER BY 2 DESC"
        ).fetchall()
        indexes = connection.execute(
            "SELECT indexrelname, pg_relation_size(indexrelid) FROM pg_stat_user_indexes WHERE schemaname = 'holdfast'"
            " AND pg_relation_size(indexrelid) > 1e6 ORDER BY 2 DESC"
        ).fetchall()
    return {
        "bytes of an entry": round(sum(row[1] for row in rows) / entries),
        "tables": {name: [round(whole / 1e6), round(index / 1e6), count] for name, whole, index, count in rows},
        "indexes": {name: round(size / 1e6) for name, size in indexes},
    }


def appends(url: str, rounds: int) -> dict[str, Any]:
    """An append of one entry and two payloads, flushed, here and in an empty log, turn by turn."""
    empty = url.replace("/postgres?", f"/{EMPTY}?")
    assert empty != url, "the server's URL names the database `postgres`"
    taken: dict[str, list[float]] = {"here": [], "in an empty log": []}

    async def turns() -> None:
        stores = {"here": PostgresStore(url), "in an empty log": PostgresStore(empty)}
        branches = [f"append-{time.time_ns()}-{number}@main" for number in range(16)]
        grants = {name: [await store.claim(branch) for branch in branches] for name, store in stores.items()}
        for number in range(rounds * 50):
            for name, store in stores.items():
                place, text = number % len(branches), f"{time.time_ns()}{name}".encode()
                key = hashlib.sha256(text).digest()
                blobs = [pack_bytes(text + big_agents.TEXTS[0].answer(number).encode()[:size], Encoding.JSON).blobs[0]
                         for size in (160, 400)]  # fmt: skip
                began = time.perf_counter()
                await store.append(branches[place], [Draft(key, b"x" * 320)], epoch=grants[name][place].epoch,
                                   barrier=True, alone=True, blobs=blobs)  # fmt: skip
                taken[name].append((time.perf_counter() - began) * 1000)
        for store in stores.values():
            await store.close()

    asyncio.run(turns())
    return {name: told(found) for name, found in taken.items()}


def page(url: str, wanted: set[str], after: str | None = None) -> int:
    """One page of `holdfast list`."""
    found, _ = asyncio.run(cli_list.rows(url, wanted, 50, after))
    assert found, wanted
    return len(found)


def shown(url: str, run: str) -> object:
    """`holdfast show RUN`."""
    return asyncio.run(cli_show._shown(url, run, 100, ""))


def entry(url: str, node: str) -> None:
    """`holdfast show NODE`."""
    with contextlib.redirect_stdout(io.StringIO()):
        asyncio.run(show_entry(url, node, json=True))


def fleet(url: str, rounds: int) -> dict[str, float]:
    """`holdfast fleet`."""
    install(url)

    def once(_: int) -> None:
        with PostgresReader(url) as reader:
            asyncio.run(cli_fleet._read(reader, 15))

    return timed(once, rounds)


def resume(url: str, log: dict[str, Any]) -> dict[str, float]:
    """From the opening of the store to the end of runs whose last turns are all there: restored, and nothing is called
    again."""
    taken: list[float] = []
    with PostgresReader(url) as reader:
        open_ = [run for run in map(run_of, log["shapes"]["long"])
                 if not asyncio.run(reader.read(f"{run}@main", key=b"finished"))]  # fmt: skip
    for run in open_[:5]:
        big_agents.CALLED.clear()
        number = run.rpartition("-")[2]
        began = time.perf_counter()
        with open_store(url) as house:
            answer = house.run(big_agents.shopper, {"number": number, "shape": "long"}, id=run)
            taken.append((time.perf_counter() - began) * 1000)
        assert (answer, big_agents.CALLED) == (f"{number} is done", []), "what is in the log is not called again"
    return told(taken) if taken else {}


def verify(url: str, runs: list[str]) -> dict[str, int]:
    """Fold these runs, and check all their payloads against their digests: what was written here is a log."""
    count = payloads = 0

    async def one(run: str) -> None:
        nonlocal count, payloads
        reader = reader_of(url)
        looked = await look(reader, f"{run}@main")
        count += looked.log.seq
        for each in await reader.read(f"{run}@main"):
            for digest, encoding, size in re.findall(rb'\["([0-9a-f]{64})","(\w+)",(\d+)\]', each.body):
                await read_payload(reader, Payload(digest.decode(), Encoding(encoding.decode()), int(size)))
                payloads += 1
        await reader.close()

    for run in runs:
        asyncio.run(one(run))
    return {"runs": len(runs), "entries": count, "payloads": payloads}


def vacuumed(url: str) -> dict[str, Any]:
    """What autovacuum has done so far, and what is left to it."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT relname, n_live_tup, n_dead_tup, n_ins_since_vacuum, autovacuum_count, autoanalyze_count,"
            " n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = 'holdfast' AND n_live_tup > 1000"
        ).fetchall()
    names = ("live", "dead", "inserted since", "autovacuums", "autoanalyzes", "updates", "of them in place")
    return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
