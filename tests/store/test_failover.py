"""A standby takes the place of the primary: what was acknowledged is there, or nobody goes on as if it were."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.cli.checks_postgres import checks
from holdfast.errors import RolledBack, Stopped
from holdfast.store.postgres import PostgresStore
from holdfast.store.postgres_ways import ways
from holdfast.store.url import open_url
from tests.postgres import Postgres
from tests.standby import Pair
from tests.store.shelf import bodies, drafts

BRANCH = "run@main"


def paired(programs: Postgres, *, synchronous: bool) -> Iterator[Pair]:
    if programs.data is None:
        pytest.skip("HOLDFAST_TEST_POSTGRES names a server, and a standby of it cannot be made here")
    pair = Pair(programs, synchronous=synchronous)
    try:
        yield pair
    finally:
        pair.close()


@pytest.fixture
def pair(postgres: Postgres) -> Iterator[Pair]:
    """What is flushed is flushed by both."""
    yield from paired(postgres, synchronous=True)


@pytest.fixture
def loose(postgres: Postgres) -> Iterator[Pair]:
    """The standby follows, and nobody waits for it."""
    yield from paired(postgres, synchronous=False)


async def until(is_true: Callable[[], object]) -> None:
    """Wait until something holds, for a minute at most."""
    async with asyncio.timeout(60):
        while not is_true():  # noqa: ASYNC110 - it is a server that changes
            await asyncio.sleep(0.02)


def reached(pair: Pair, place: Path) -> str:
    """The pair as a URL of ours, with an anchor."""
    return f"{pair.url}&key={place}/key&anchor={place}/anchor&patience_s=20"


# --- nothing is lost ---


async def test_a_wait_for_the_standby_that_is_cancelled_acknowledges_nothing(pair: Pair) -> None:
    store = PostgresStore(pair.url)
    grant = await store.claim(BRANCH)
    pair.b.kill()
    writing = asyncio.ensure_future(store.append(BRANCH, drafts("once"), epoch=grant.epoch, barrier=True))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%%place_%%'"
    await until(lambda: pair.a.says(waits) == 1)
    cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    pair.a.says(cancel)
    await until(lambda: pair.a.says("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == 1)
    assert not writing.done(), "it was acknowledged, and no standby has it"
    await asyncio.to_thread(pair.b.start)
    await writing
    assert bodies(await store.read(BRANCH)) == ["once"]
    await store.close()


# --- a server that was left behind ---


async def test_a_primary_that_was_left_behind_is_neither_read_nor_written_when_it_is_back(pair: Pair) -> None:
    store = PostgresStore(pair.url)
    grant = await store.claim(BRANCH)
    await asyncio.to_thread(pair.fail_over)
    await store.append(BRANCH, drafts("new"), epoch=grant.epoch, barrier=True)
    pair.a.set(synchronous_standby_names="")  # so that it would take whatever it is told
    await asyncio.to_thread(pair.a.start)
    before = pair.a.says("SELECT max(lane) FROM holdfast.worker")
    pair.b.says("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'holdfast'")
    await store.append(BRANCH, drafts("newer"), epoch=grant.epoch, barrier=True)
    assert bodies(await store.read(BRANCH)) == ["new", "newer"]
    assert pair.a.says("SELECT max(lane) FROM holdfast.worker") == before
    assert pair.a.says("SELECT count(*) FROM holdfast.entry") == 0
    await store.close()


async def test_who_never_saw_the_failover_takes_the_newer_of_two_that_can_be_written(pair: Pair) -> None:
    await PostgresStore(pair.url).close()
    await asyncio.to_thread(pair.fail_over)
    pair.a.set(synchronous_standby_names="")
    await asyncio.to_thread(pair.a.start)
    program = (
        "import sys\nfrom holdfast.store.postgres_ways import connect\n"
        "print(connect(sys.argv[1]).info.host, connect(sys.argv[1]).info.host)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, pair.url, stdout=asyncio.subprocess.PIPE
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert said.decode().split() == [str(pair.b.folder)] * 2


# --- something is lost ---


async def test_a_worker_whose_flushed_entries_are_gone_stops_everybody_until_somebody_accepts(
    loose: Pair, tmp_path: Path
) -> None:
    url = reached(loose, tmp_path)
    mine, other = open_url(url).store, open_url(url).store
    grant = await mine.claim(BRANCH)
    loose.cut()
    await mine.append(BRANCH, drafts("the intent of a mail"), epoch=grant.epoch, barrier=True)
    await asyncio.to_thread(loose.fail_over)
    with pytest.raises(RolledBack, match="lost entries"):
        await mine.append(BRANCH, drafts("its seal"), epoch=grant.epoch, barrier=True)
    with pytest.raises(Stopped):
        await other.claim("another@main")
    fresh = open_url(url).store
    with pytest.raises(RolledBack, match=f"noticed by process {os.getpid()}"):
        await fresh.claim(BRANCH)
    for store in (mine, other, fresh):
        await store.close()
    await accepted(url)
    store = PostgresStore(loose.url, claim_ttl_s=0)
    assert (await store.claim(BRANCH)).previous == "unproven"
    await store.close()


async def accepted(url: str) -> None:
    """As a person does who has looked into the world."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "holdfast", "anchor", "--accept", "--by", "eve", "--store", url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said.decode()


async def test_a_worker_that_lost_nothing_itself_compares_with_its_anchor_before_it_goes_on(
    loose: Pair, tmp_path: Path
) -> None:
    url = reached(loose, tmp_path)
    idle = open_url(url).store
    grant = await idle.claim(BRANCH)
    busy = open_url(url).store
    theirs = await busy.claim("busy@main")
    loose.cut()
    await busy.append("busy@main", drafts("gone with its worker"), epoch=theirs.epoch, barrier=True)
    anchored = "SELECT max(size) FROM holdfast.head"
    await until(lambda: loose.a.says(anchored) == 1 and (tmp_path / "anchor").exists())
    assert isinstance(busy, PostgresStore)
    await asyncio.to_thread(loose.fail_over)
    with pytest.raises(RolledBack):
        await idle.append(BRANCH, drafts("on"), epoch=grant.epoch, barrier=True)
    assert loose.b.says("SELECT count(*) FROM holdfast.entry") == 0
    for store in (idle, busy):
        with contextlib.suppress(Stopped):
            await store.close()


def test_the_doctor_warns_of_a_standby_that_no_flush_waits_for(loose: Pair) -> None:
    assert [check.state for check in checks(loose.url) if check.name == "standby"] == ["warn"]


# --- ways ---


@pytest.mark.parametrize(
    ("conninfo", "hosts"),
    [
        ("host=a", [("a", None)]),
        ("host=a,b port=1,2", [("a", "1"), ("b", "2")]),
        ("postgresql://u@a:1,b:2/d", [("a", "1"), ("b", "2")]),
        ("host=a,b port=7", [("a", "7"), ("b", "7")]),
        ("", [(None, None)]),
    ],
)
def test_each_host_that_is_named_is_a_way(conninfo: str, hosts: list[tuple[str, str]]) -> None:
    from psycopg.conninfo import conninfo_to_dict

    found = [conninfo_to_dict(way) for way in ways(conninfo)]
    assert [(way.get("host"), way.get("port")) for way in found] == hosts
