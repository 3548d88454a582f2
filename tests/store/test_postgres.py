"""The PostgreSQL store: what it asks of a server, and what becomes of appends when processes, connections or the server
die in the middle. What all stores share is asked in test_store.py, test_branching.py and test_claims.py."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.errors import Conflict, Corrupt, Fenced, Misuse, Stopped, Unwritable
from holdfast.store import Grant, postgres_schema
from holdfast.store.postgres import PostgresStore
from holdfast.store.postgres_arrays import byteas, int8s, texts
from holdfast.store.postgres_schema import MIGRATIONS, Migration
from holdfast.store.postgres_ways import connect
from holdfast.store.url import open_url
from tests.postgres import Postgres
from tests.store.shelf import Shelf, assert_whole, blob, bodies, drafts, heard, start
from tests.store.test_claims import overtaken
from tests.store.wire import Wire

BRANCH = "run@main"


@pytest.fixture
def url(postgres: Postgres) -> str:
    """An empty database."""
    return postgres.empty()


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(url)
    yield opened
    await opened.close()


@pytest.fixture
def ours(postgres: Postgres) -> Postgres:
    """A server that may be killed and set otherwise."""
    if postgres.data is None:
        pytest.skip("HOLDFAST_TEST_POSTGRES names a server that is not ours to kill or to set otherwise")
    return postgres


@pytest.fixture
def wire(ours: Postgres, url: str) -> Iterator[Wire]:
    wire = Wire(ours.socket)
    yield wire
    wire.close()


def through(wire: Wire, url: str) -> str:
    """The same database, reached through the wire."""
    return url.partition("?")[0] + f"?host={wire.folder}"


def set_server(server: Postgres, **settings: str | None) -> None:
    """Change settings of the whole server, from now on; None takes one back."""
    with server.connect() as connection:
        for name, value in settings.items():
            change = "RESET" if value is None else "SET"
            connection.execute(f"ALTER SYSTEM {change} {name}" + ("" if value is None else f" = '{value}'"))
        connection.execute("SELECT pg_reload_conf()")
        for name, value in settings.items():
            while value is not None and connection.execute(f"SHOW {name}").fetchall() != [(value,)]:
                time.sleep(0.01)


# --- what is asked of a server ---


@pytest.mark.parametrize(
    ("name", "value"),
    [("fsync", "off"), ("full_page_writes", "off"), ("default_transaction_isolation", "serializable")],
)
def test_a_server_on_which_a_promise_would_not_hold_is_refused(ours: Postgres, url: str, name: str, value: str) -> None:
    set_server(ours, **{name: value})
    try:
        with pytest.raises(Unwritable, match=name) as refused:
            PostgresStore(url)
        assert name in refused.value.fix
    finally:
        set_server(ours, **{name: None})


def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(Unwritable) as refused:
        open_url(f"postgresql://me:secret@/nothing?host={tmp_path}")
    assert str(tmp_path) in str(refused.value)
    assert "secret" not in str(refused.value)


def test_without_psycopg_it_is_said_what_to_install() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from holdfast.store.url import open_url\n"
        "try: open_url('postgresql://nowhere/none')\n"
        "except Exception as error: print(type(error).__name__, error.fix)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == 'Misuse pip install "holdfast[postgres]"\n'


@pytest.mark.parametrize("option", ["claim_ttl_s=soon", "overlay=perhaps"])
def test_an_option_that_means_nothing_is_refused(url: str, option: str) -> None:
    with pytest.raises(Misuse):
        open_url(f"{url}{'&' if '?' in url else '?'}{option}")


# --- opening ---


def test_of_many_who_open_an_empty_database_at_once_all_see_one_log(url: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda _: PostgresStore(url), range(8)))
    assert len({store.log_id for store in stores}) == 1
    for store in stores:
        store.let_go()


async def test_a_schema_that_only_adds_is_written_by_an_older_worker_and_one_that_breaks_is_not(
    postgres: Postgres, store: PostgresStore
) -> None:
    with postgres.connect() as connection:
        connection.execute("UPDATE holdfast.meta SET value = %s WHERE name = 'schema'", (str(len(MIGRATIONS) + 1),))
        older = PostgresStore(postgres.url)
        await older.append(BRANCH, drafts("a"), epoch=0)
        await older.close()
        connection.execute("UPDATE holdfast.meta SET value = %s WHERE name = 'needs'", (str(len(MIGRATIONS) + 1),))
    with pytest.raises(Corrupt, match=f"schema {len(MIGRATIONS) + 1}"):
        PostgresStore(postgres.url)
    assert await store.append(BRANCH, drafts("b"), epoch=0), "who was there before goes on"


async def test_a_migration_runs_beside_a_living_worker(
    postgres: Postgres, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await store.claim(BRANCH)
    await store.append(BRANCH, drafts("a"), epoch=owner.epoch)
    added = Migration(("ALTER TABLE holdfast.branch ADD COLUMN remark text",))
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", (*MIGRATIONS, added))
    newer = PostgresStore(postgres.url)
    await store.append(BRANCH, drafts("b"), epoch=owner.epoch, barrier=True)
    await newer.append("newer@main", drafts("c"), epoch=0)
    assert bodies(await newer.read(BRANCH)) == ["a", "b"]
    with postgres.connect() as connection:
        meta = dict(connection.execute("SELECT name, value FROM holdfast.meta WHERE name IN ('schema', 'needs')"))
        assert connection.execute("SELECT remark FROM holdfast.branch LIMIT 1").fetchall() == [(None,)]
    breaking = max(number for number, each in enumerate(MIGRATIONS, 1) if each.breaks or number == 1)
    assert meta == {"schema": str(len(MIGRATIONS) + 1), "needs": str(breaking)}
    await newer.close()


def test_arrays_arrive_as_they_were_sent(postgres: Postgres) -> None:
    numbers = [0, -1, 2**63 - 1, -(2**63), 256]
    strings = ["", "a", None, "NULL", '{"x",}', "ü\u4e2d\U0001f600"]
    pieces = [b"", None, b"\0", bytes(range(256)), b"x" * 100_000]
    with connect(postgres.url) as connection:
        for made, given in ((int8s, numbers), (texts, strings), (byteas, pieces)):
            for values in (given, given[:1], []):
                assert connection.execute("SELECT %b", (made(values),)).fetchall() == [(values,)]


def test_a_schema_of_somebody_elses_is_left_alone(postgres: Postgres, url: str) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE SCHEMA holdfast")
        connection.execute("CREATE TABLE holdfast.meta (name text, value text)")
    with pytest.raises(Corrupt, match="not ours"):
        PostgresStore(url)


def test_all_workers_have_one_key(url: str, tmp_path: Path) -> None:
    glue = "&" if "?" in url else "?"
    first = open_url(f"{url}{glue}key={tmp_path}/one")
    second = open_url(f"{url}{glue}key={tmp_path}/one")
    assert first.secret == second.secret
    with pytest.raises(Unwritable, match="missing"):
        open_url(f"{url}{glue}key={tmp_path}/two")
    (tmp_path / "two").write_text("00" * 32)
    with pytest.raises(Unwritable, match="not the key"):
        open_url(f"{url}{glue}key={tmp_path}/two")
    for opening in (first, second):
        asyncio.run(opening.store.close())


async def test_entries_have_the_time_of_the_database(
    postgres: Postgres, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    (placed,) = await store.append(BRANCH, drafts("a"), epoch=0)
    with postgres.connect() as connection:
        ((now_ms,),) = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    assert 0 <= now_ms - placed.at_ms < 600_000


# --- a connection that is cut: what became of the transaction is looked up ---


@pytest.mark.parametrize("path", ["remembered", "read first", "on the caller's thread"])
@pytest.mark.parametrize("plan", ["before", "after"])
async def test_an_append_whose_connection_is_cut_is_placed_once(wire: Wire, url: str, plan: str, path: str) -> None:
    store = PostgresStore(through(wire, url))
    owner = await store.claim(BRANCH)
    await store.append(BRANCH, drafts("one"), epoch=owner.epoch)
    watch = {"another@main": 0} if path == "read first" else {}
    wire.plan = plan
    alone = path == "on the caller's thread"
    (placed,) = await store.append(
        BRANCH, drafts("cut here"), epoch=owner.epoch, barrier=True, watch=watch, alone=alone
    )
    assert wire.cuts == 1, "nothing was tried"
    await store.append(BRANCH, drafts("three"), epoch=owner.epoch, after=2)
    entries = await store.read(BRANCH)
    assert_whole(BRANCH, entries)
    assert bodies(entries) == ["one", "cut here", "three"]
    assert entries[1] == placed
    await store.close()


@pytest.mark.parametrize("alone", [False, True])
async def test_an_answer_that_never_comes_is_not_waited_for(wire: Wire, url: str, *, alone: bool) -> None:
    store = PostgresStore(through(wire, url), answer_s=0.5)
    owner = await store.claim(BRANCH)
    wire.plan = "stall"
    await store.append(BRANCH, drafts("cut here"), epoch=owner.epoch, barrier=True, alone=alone)
    assert wire.cuts == 1
    wire.plan = "stall"
    assert await store.read(BRANCH, key=Wire.MARK) == []
    assert wire.cuts == 2
    assert bodies(await store.read(BRANCH)) == ["cut here"]
    await store.close()


async def test_what_arrives_after_it_was_looked_up_is_not_written(wire: Wire, url: str) -> None:
    """The network gives back an old message: the lane that it came from is closed."""
    store = PostgresStore(through(wire, url))
    await store.append(BRANCH, drafts("one"), epoch=0)
    wire.plan = "late"
    await store.append(BRANCH, drafts("cut here"), epoch=0, barrier=True)
    await store.append(BRANCH, drafts("three"), epoch=0)
    before = await store.read(BRANCH)
    assert b"HF001" in await asyncio.to_thread(wire.deliver)
    assert await store.read(BRANCH) == before
    assert bodies(before) == ["one", "cut here", "three"]
    await store.close()


async def test_neighbours_of_a_cut_append_are_told_what_became_of_theirs(wire: Wire, url: str) -> None:
    store = PostgresStore(through(wire, url))
    await store.append(BRANCH, drafts("seen"), epoch=0)
    wire.plan = "after"
    texts = ["cut here", *map(str, range(30))]
    behind = store.append(BRANCH, drafts("behind"), epoch=0, after=0, barrier=True)
    answers = await asyncio.gather(
        *(store.append(f"{n}@main", drafts(text), epoch=0, barrier=True) for n, text in enumerate(texts)), behind,
        return_exceptions=True,
    )  # fmt: skip
    assert wire.cuts == 1
    assert [type(answer).__name__ for answer in answers if not isinstance(answer, list)] == ["Conflict"]
    for number, text in enumerate(texts):
        assert bodies(await store.read(f"{number}@main")) == [text]
    await store.close()


async def test_what_costs_the_connection_each_time_is_refused_and_its_neighbours_are_not(wire: Wire, url: str) -> None:
    """As a message that is too large for the server does."""
    store = PostgresStore(through(wire, url))
    await store.append(BRANCH, drafts("one"), epoch=0)
    wire.plan = "always"
    answers = await asyncio.gather(
        *(store.append(f"{n}@main", drafts(text), epoch=0) for n, text in enumerate(["two", "cut here", "three"])),
        return_exceptions=True,
    )
    assert [type(answer).__name__ for answer in answers] == ["list", "Unwritable", "list"]
    assert await store.append(BRANCH, drafts("four"), epoch=0, barrier=True)
    await store.close()


@pytest.mark.parametrize("branch", ["lone \ud800", "nothing \0"])
async def test_a_branch_whose_name_is_no_text_is_refused_alone(store: PostgresStore, branch: str) -> None:
    answers = await asyncio.gather(
        store.append(BRANCH, drafts("a"), epoch=0), store.append("b@main", drafts("b"), epoch=0),
        *([] if "\ud800" in branch else [store.append(branch, drafts("c"), epoch=0)]),
        return_exceptions=True,
    )  # fmt: skip
    assert [len(answer) for answer in answers[:2] if isinstance(answer, list)] == [1, 1]
    with pytest.raises((Misuse, ValueError)):
        await store.append(branch, drafts("c"), epoch=0)
    assert await store.append(BRANCH, drafts("d"), epoch=0)


async def test_large_payloads_share_no_statement(postgres: Postgres, store: PostgresStore) -> None:
    await store.append(BRANCH, drafts("first"), epoch=0)
    given = [blob(os.urandom(10 << 20)) for _ in range(3)]
    await asyncio.gather(*(store.append(BRANCH, drafts("x"), epoch=0, blobs=[each]) for each in given))
    for each in given:
        assert await store.blob(each.digest) == each
    with postgres.connect() as connection:
        assert connection.execute("SELECT batch FROM holdfast.worker").fetchall() == [(4,)]


async def test_a_store_that_was_closed_says_so(url: str) -> None:
    store = PostgresStore(url)
    await store.close()
    with pytest.raises(Unwritable, match="closed"):
        await store.append(BRANCH, drafts("a"), epoch=0, alone=True)


async def test_while_nobody_can_be_asked_nothing_more_is_written(wire: Wire, url: str) -> None:
    store = PostgresStore(through(wire, url), patience_s=0.5)
    await store.append(BRANCH, drafts("one"), epoch=0)
    wire.plan, wire.down = "after", True
    with pytest.raises(Stopped):
        await store.append(BRANCH, drafts("cut here"), epoch=0, barrier=True)
    wire.down = False
    with pytest.raises(Stopped):
        await store.append(BRANCH, drafts("three"), epoch=0)
    await store.close()
    again = PostgresStore(through(wire, url))
    assert bodies(await again.read(BRANCH)) == ["one", "cut here"], "who opens it anew reads what became of it"
    await again.close()


async def test_a_server_that_was_away_while_nothing_was_asked_is_found_again(wire: Wire, url: str) -> None:
    store = PostgresStore(through(wire, url))
    owner = await store.claim(BRANCH)
    wire.cut()
    (placed,) = await store.append(BRANCH, drafts("one"), epoch=owner.epoch, barrier=True)
    assert await store.read(BRANCH) == [placed]
    wire.cut()
    assert await store.read(BRANCH) == [placed]
    await store.close()


async def test_a_server_that_has_lost_what_it_acknowledged_is_noticed(postgres: Postgres, wire: Wire, url: str) -> None:
    """As if it had been killed before it flushed, or put back from a backup."""
    store = PostgresStore(through(wire, url))
    owner = await store.claim(BRANCH)
    await store.append(BRANCH, drafts("one"), epoch=owner.epoch)
    with postgres.connect() as connection:
        connection.execute("UPDATE holdfast.worker SET batch = batch - 1")
    wire.cut()
    with pytest.raises(Unwritable, match="lost"):
        await store.append(BRANCH, drafts("two"), epoch=owner.epoch)
    with pytest.raises(Unwritable, match="lost"):
        await store.append(BRANCH, drafts("three"), epoch=owner.epoch, barrier=True)
    assert bodies(await store.read(BRANCH)) == ["one"]
    await store.close()


async def storm(wire: Wire, url: str, draw: random.Random, count: int) -> None:
    """Several workers write own and shared branches, while all connections are cut again and again: up to three times
    for one batch, since what costs the connection each time is refused in the end."""
    stores = [PostgresStore(through(wire, url)) for _ in range(3)]
    written = dict.fromkeys(stores, 0)
    at_work = Counter(stores * 2)
    owners = {f"own-{number}@main": store for number, store in enumerate(stores * 2)}
    grants = {branch: await store.claim(branch) for branch, store in owners.items()}
    going = True

    async def guarded(store: PostgresStore, text: str) -> None:
        while True:
            seen = await store.read("guarded@main", newest=1)
            with contextlib.suppress(Conflict):
                await store.append("guarded@main", drafts(text), epoch=0, after=seen[0].seq if seen else 0)
                return

    async def post(branch: str, store: PostgresStore) -> None:
        for number in range(count):
            barrier, alone = draw.random() < 0.5, draw.random() < 0.2
            epoch = grants[branch].epoch
            await store.append(branch, drafts(f"{number}"), epoch=epoch, barrier=barrier, alone=alone)
            await store.append("shared@main", drafts(f"{branch} {number}"), epoch=0, barrier=not barrier)
            await guarded(store, f"{branch} {number}")
            written[store] += 1
        at_work[store] -= 1

    async def cut() -> None:
        while going:
            before = dict(written)
            for _ in range(3):
                await asyncio.sleep(draw.uniform(0.005, 0.1))
                wire.cut()
            while any(at_work[store] and written[store] == before[store] for store in stores):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    cutting = asyncio.create_task(cut())
    await asyncio.gather(*(post(branch, store) for branch, store in owners.items()))
    going = False
    await cutting
    everything = sorted(f"{branch} {number}" for branch in owners for number in range(count))
    for branch in [*owners, "shared@main", "guarded@main"]:
        entries = await stores[0].read(branch)
        assert_whole(branch, entries)
        found = bodies(entries)
        assert found == [*map(str, range(count))] if branch in owners else sorted(found) == everything
    for store in stores:
        await store.close()


async def test_a_storm_of_cut_connections_loses_and_doubles_nothing(wire: Wire, url: str) -> None:
    await storm(wire, url, random.Random(1), 15)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 22))
async def test_longer_storms_of_cut_connections_lose_and_double_nothing(wire: Wire, url: str, seed: int) -> None:
    await storm(wire, url, random.Random(seed), 40)


# --- processes and servers that are killed ---


def acknowledged(process: subprocess.Popen[str], lines: int) -> list[list[str]]:
    """What a poster has been told, so many lines of it."""
    return [heard(process).split() for _ in range(lines)]


def rest_of(process: subprocess.Popen[str]) -> list[list[str]]:
    said, _ = process.communicate(timeout=120)
    return [line.split() for line in said.splitlines() if line.startswith("r") and len(line.split()) == 3]


async def assert_kept(url: str, told: list[list[str]], *, lazy_too: bool) -> None:
    """Every branch is whole, its heads are as its entries say, and what was acknowledged is there."""
    store = PostgresStore(url)
    for branch in {line[0] for line in told}:
        entries = await store.read(branch)
        assert_whole(branch, entries)
        assert bodies(entries) == [str(seq) for seq in range(1, len(entries) + 1)], "lost or doubled"
        newest = max(int(seq) for name, seq, kind in told if name == branch and (lazy_too or kind == "barrier"))
        assert len(entries) >= newest
    for branch in await store.branches():
        (last,) = await store.read(branch.name, newest=1)
        assert (branch.seq, branch.digest, branch.at_ms) == (last.seq, last.digest, last.at_ms)
    await store.close()


async def test_a_killed_process_loses_nothing_that_was_acknowledged(url: str) -> None:
    process = start("tests.store.poster", url, 8)
    told = acknowledged(process, 400)
    process.kill()
    await assert_kept(url, told + rest_of(process), lazy_too=True)


async def test_a_killed_server_loses_no_barrier_and_nothing_before_one(ours: Postgres, url: str) -> None:
    """Killed in the middle of appends. The process goes on, or says that entries were lost that were not flushed."""
    process = start("tests.store.poster", url, 8)
    told = acknowledged(process, 400)
    await asyncio.to_thread(ours.restart)
    if process.poll() is None:
        told += [line for line in (heard_or_end(process) for _ in range(200)) if line]
    process.kill()
    told += rest_of(process)
    await assert_kept(url, told, lazy_too=False)


def heard_or_end(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    words = process.stdout.readline().split()
    return words if len(words) == 3 and words[0].startswith("r") else []


async def test_barriers_alone_go_on_over_the_death_of_the_server(ours: Postgres, store: PostgresStore) -> None:
    owner = await store.claim(BRANCH)
    placed = 0

    async def post() -> None:
        nonlocal placed
        for number in range(150):
            await store.append(BRANCH, drafts(f"{number}"), epoch=owner.epoch, barrier=True)
            placed += 1

    posting = asyncio.create_task(post())
    while placed < 30:  # noqa: ASYNC110 - it is a number that is waited for
        await asyncio.sleep(0)
    restarting = asyncio.create_task(asyncio.to_thread(ours.restart))
    await asyncio.gather(posting, restarting)
    entries = await store.read(BRANCH)
    assert_whole(BRANCH, entries)
    assert bodies(entries) == [str(number) for number in range(150)]


async def test_where_the_server_flushes_too_seldom_everything_is_a_barrier(ours: Postgres, url: str) -> None:
    set_server(ours, wal_writer_delay="10s", synchronous_commit="off")
    try:
        store = PostgresStore(url)
        await store.append(BRANCH, drafts("a"), epoch=0)
        await asyncio.to_thread(ours.restart)
        assert bodies(await store.read(BRANCH)) == ["a"]
        await store.close()
    finally:
        set_server(ours, wal_writer_delay=None, synchronous_commit=None)


@pytest.mark.parametrize("more", [[], ["calm@main"], ["calm@main", "calmer@main"]])
async def test_appends_keep_their_order_when_others_were_faster(url: str, more: list[str]) -> None:
    """What was remembered of one branch is out of date; the others have nothing to do with it."""
    store, faster = PostgresStore(url), PostgresStore(url)
    for branch in [BRANCH, *more]:
        await store.append(branch, drafts("seen"), epoch=0)
    await faster.append(BRANCH, drafts("faster"), epoch=0)
    each = [(branch, f"{number}") for number in range(6) for branch in [BRANCH, *more]]
    await asyncio.gather(*(store.append(branch, drafts(text), epoch=0) for branch, text in each))
    assert bodies(await store.read(BRANCH)) == ["seen", "faster", *"012345"]
    for branch in more:
        assert bodies(await store.read(branch)) == ["seen", *"012345"]
    await store.close()
    await faster.close()


@pytest.mark.parametrize("others", [0, 1])
async def test_a_claim_alone_fences_who_remembers_the_one_before(url: str, others: int) -> None:
    """Nothing was written since: only the claim tells."""
    first, second = PostgresStore(url), PostgresStore(url, claim_ttl_s=0)
    mine = await first.claim(BRANCH)
    watch = {f"{n}@main": 0 for n in range(others)}
    await first.append(BRANCH, drafts("mine"), epoch=mine.epoch, watch=watch)
    await overtaken(second)
    with pytest.raises(Fenced):
        await first.append(BRANCH, drafts("too late"), epoch=mine.epoch, watch=watch)
    assert bodies(await second.read(BRANCH)) == ["mine"]
    await first.close()
    await second.close()


async def test_who_is_stopped_before_it_writes_keeps_nobody_waiting_and_writes_nothing(url: str) -> None:
    """It has read that it holds the claim. When it wakes, what it has decided on that is not written."""
    process = start("tests.store.sleeper", url, BRANCH)
    try:
        assert heard(process) == "claimed 1"
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        store = PostgresStore(url, claim_ttl_s=0.2)
        assert await overtaken(store) == Grant(2, "unproven")
        await store.append(BRANCH, drafts("theirs"), epoch=2, barrier=True)
        os.kill(process.pid, signal.SIGCONT)
        assert heard(process) == "Fenced"
        entries = await store.read(BRANCH)
        assert_whole(BRANCH, entries)
        assert bodies(entries) == ["mine", "theirs"]
        await store.close()
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_processes_that_append_at_once_lose_and_double_nothing(url: str) -> None:
    count, names = 50, ["a", "b", "c"]
    processes = [start("tests.store.appender", url, name, count) for name in names]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    store = Shelf("postgres", Path(), url).open()

    async def read() -> dict[str, list[str]]:
        found = {}
        for branch in ["all@main", "guarded@main", *(f"{name}@main" for name in names)]:
            entries = await store.read(branch)
            assert_whole(branch, entries)
            found[branch] = bodies(entries)
        await store.close()
        return found

    found = asyncio.run(read())
    everything = sorted(f"{name}/{number}" for name in names for number in range(count))
    assert sorted(found["all@main"]) == sorted(found["guarded@main"]) == everything
    for name in names:
        assert found[f"{name}@main"] == [f"{name}/{number}" for number in range(count)]


# --- a pooler between ---


@pytest.fixture
def pooled(ours: Postgres, url: str) -> Iterator[str]:
    """The same database through PgBouncer in transaction mode, which gives two sessions to everybody."""
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        owner = ours.socket.owner()
        shutil.chown(folder, owner)
        settings = Path(folder) / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\npostgres = host={ours.socket.parent} port={ours.socket.suffix[1:]}\n[pgbouncer]\n"
            f"unix_socket_dir = {folder}\nlisten_port = 6432\nauth_type = trust\nauth_file = {folder}/users\n"
            f"pool_mode = transaction\ndefault_pool_size = 2\nlogfile = {folder}/log\n"
        )
        (Path(folder) / "users").write_text('"postgres" ""\n')
        user = owner if os.geteuid() == 0 else None  # it refuses to run as root
        process = subprocess.Popen([program, "-q", str(settings)], stderr=subprocess.PIPE, text=True, user=user)
        try:
            while not (Path(folder) / ".s.PGSQL.6432").exists():
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.01)
            yield f"postgresql://postgres@/postgres?host={folder}&port=6432"
        finally:
            process.terminate()
            process.communicate(timeout=60)


async def test_through_a_pooler_nothing_is_lost_and_nothing_stays_in_its_sessions(pooled: str, url: str) -> None:
    stores = [PostgresStore(pooled) for _ in range(3)]
    assert [store.committer.lane.server.pooled for store in stores] == [True] * 3

    async def five(store: PostgresStore, branch: str) -> None:
        grant = await store.claim(branch)
        for number in range(5):
            await store.append(branch, drafts(f"{number}"), epoch=grant.epoch, barrier=number % 2 == 0)
            await store.append("all@main", drafts(branch), epoch=0)

    branches = {f"r{number}@main": store for number, store in enumerate(stores * 6)}
    await asyncio.gather(*(five(store, branch) for branch, store in branches.items()))
    for branch, store in branches.items():
        entries = await store.read(branch)
        assert_whole(branch, entries)
        assert bodies(entries) == list("01234")
    assert sorted(bodies(await stores[0].read("all@main"))) == sorted([*branches] * 5)
    session = "SELECT current_setting('synchronous_commit'), current_setting('lock_timeout')"
    assert set(stores[0].fetch(session) * 2) == {("on", "0")}
    for store in stores:
        await store.close()
    direct = PostgresStore(url)
    assert not direct.committer.lane.server.pooled
    assert {branch.holder for branch in await direct.branches()} == {""}
    await direct.close()


async def test_a_worker_behind_a_pooler_is_fenced_as_any_other(pooled: str, url: str) -> None:
    through, direct = PostgresStore(pooled), PostgresStore(url, claim_ttl_s=0)
    mine = await through.claim(BRANCH)
    await through.append(BRANCH, drafts("mine"), epoch=mine.epoch)
    theirs = await overtaken(direct)
    await direct.append(BRANCH, drafts("theirs"), epoch=theirs.epoch)
    with pytest.raises(Fenced):
        await through.append(BRANCH, drafts("too late"), epoch=mine.epoch, barrier=True)
    assert bodies(await through.read(BRANCH)) == ["mine", "theirs"]
    await through.close()
    await direct.close()
