"""A PostgreSQL store whose log is large: pages, reading ahead, numbering in pieces, partitions. That they are quick is
measured (`python -m bench.big`); here is asked that they tell the same as the plain ways."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from holdfast.store import Branch, postgres_schema
from holdfast.store.postgres import PostgresStore
from holdfast.store.postgres_ahead import Question
from holdfast.store.postgres_reader import PostgresReader
from holdfast.store.postgres_schema import MIGRATIONS, PAGED
from tests.postgres import Postgres
from tests.store.shelf import assert_whole, blob, bodies, draft, drafts

END = b"finished"


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
async def reader(store: PostgresStore, url: str) -> AsyncIterator[PostgresReader]:
    opened = PostgresReader(url)
    yield opened
    await opened.close()


async def grown(store: PostgresStore, runs: int) -> None:
    """Runs with one or two branches, of which some have ended, and some have gone on after that."""
    draw = random.Random(runs)
    for number in range(runs):
        for branch in ("main", "b2")[: draw.choice([1, 1, 2])]:
            name = f"r{number}@{branch}"
            await store.append(name, drafts("a", "b"), epoch=0)
            if draw.random() < 0.6:
                await store.append(name, [draft("{}", END)], epoch=0)
                if draw.random() < 0.3:
                    await store.append(name, drafts("further"), epoch=0)


async def by_pages(reader: PostgresReader, most: int, *, open_only: bool = False) -> list[Branch]:
    found: list[Branch] = []
    while page := await reader.page(most, after=found[-1] if found else None, open_only=open_only):
        assert len(page) <= most
        found += page
    return found


# --- pages ---


@pytest.mark.parametrize("most", [1, 7, 100])
async def test_pages_tell_every_branch_once_the_newest_first(
    store: PostgresStore, reader: PostgresReader, most: int
) -> None:
    await grown(store, 20)
    found = await by_pages(reader, most)
    assert sorted(found, key=lambda each: each.name) == sorted(await reader.branches(), key=lambda each: each.name)
    assert [each.at_ms for each in found] == sorted((each.at_ms for each in found), reverse=True)


async def test_pages_of_what_is_open_leave_out_those_whose_newest_entry_is_their_end(
    store: PostgresStore, reader: PostgresReader
) -> None:
    await grown(store, 30)
    ends = {each.name for each in await reader.branches() if (await reader.read(each.name, newest=1))[0].key == END}
    found = {each.name for each in await by_pages(reader, 8, open_only=True)}
    assert found == {each.name for each in await reader.branches()} - ends
    assert ends
    assert 4 in [len(await reader.read(name)) for name in found], "one that went on after its end"


async def test_an_end_that_shares_its_batch_with_what_others_write_is_seen(
    store: PostgresStore, reader: PostgresReader
) -> None:
    appends = [store.append(f"r{number}@main", [*drafts("a"), draft("{}", END)], epoch=0) for number in range(20)]
    await asyncio.gather(*appends, store.append("s@main", drafts("a"), epoch=0))
    assert [each.name for each in await by_pages(reader, 5, open_only=True)] == ["s@main"]


async def test_the_members_of_runs_are_theirs_alone(store: PostgresStore, reader: PostgresReader) -> None:
    for name in ("r@main", "r@b2", "r1@main", "r-1@main", "R@main", "q@main"):
        await store.append(name, drafts("a"), epoch=0)
    found = await reader.members(["r", "r1", "nobody"])
    assert {run: {each.name for each in members} for run, members in found.items()} == {
        "r": {"r@main", "r@b2"}, "r1": {"r1@main"}, "nobody": set(),
    }  # fmt: skip


async def test_branches_are_found_by_the_beginning_of_their_name(store: PostgresStore) -> None:
    for name in ("r@main", "r@b2", "rr@main", "r%@main", "r_@main", "q@main"):
        await store.append(name, drafts("a"), epoch=0)
    assert {each.name for each in await store.branches("r@")} == {"r@main", "r@b2"}
    assert {each.name for each in await store.branches("r%")} == {"r%@main"}
    assert len(await store.branches("r")) == 5
    assert len(await store.branches()) == 6


async def test_a_page_costs_no_look_at_the_other_branches(
    postgres: Postgres, store: PostgresStore, reader: PostgresReader
) -> None:
    with postgres.connect() as connection:
        connection.execute(
            "INSERT INTO holdfast.branch (name, seq, digest, at_ms, unclaimed_seq, epoch)"
            " SELECT 'r' || n || '@main', 1, '\\x00', n * 1000000::bigint, 0, 0 FROM generate_series(1, 20000) n"
        )
        connection.execute("ANALYZE holdfast.branch")
        connection.execute("SELECT pg_stat_force_next_flush()")
        counted = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE schemaname = 'holdfast' AND relname = 'branch'"
        before = connection.execute(counted).fetchall()
        (first,) = await reader.page(1)
        page = await reader.page(50, after=first, open_only=True)
        await reader.close()  # its counts are told when it ends, at the latest
        connection.execute("SELECT pg_stat_clear_snapshot()")
        assert connection.execute(counted).fetchall() == before
    assert [each.name for each in page] == [f"r{number}@main" for number in range(19999, 19949, -1)]


# --- reading ahead ---


async def test_what_was_read_ahead_is_what_is_read(store: PostgresStore, reader: PostgresReader, url: str) -> None:
    draw = random.Random(3)
    for number in range(12):
        for place in range(draw.randrange(1, 9)):
            key = draw.choice([b"", b"name", b"other", bytes(32)])
            await store.append(f"r{number}@main", [draft(str(place), key)], epoch=0)
    places = [(f"r{number}@main", after) for number in range(14) for after in (0, 1, 3)]
    forms = [(key, newest) for key in (None, b"name") for newest in (None, 1, 3)]
    asked = [Question(*draw.choice(places), *draw.choice(forms)) for _ in range(60)]
    await reader.foresee(asked)
    plain = PostgresReader(url)
    for each in asked:
        found = await reader.read(each.branch, after=each.after, key=each.key, newest=each.newest)
        assert found == await plain.read(each.branch, after=each.after, key=each.key, newest=each.newest), each
    await plain.close()


async def test_what_was_read_ahead_is_forgotten(store: PostgresStore, reader: PostgresReader) -> None:
    await store.append("r@main", drafts("a"), epoch=0)
    await reader.foresee([Question("r@main")])
    await store.append("r@main", drafts("b"), epoch=0)
    assert bodies(await reader.read("r@main")) == ["a"]
    reader.forget()
    assert bodies(await reader.read("r@main")) == ["a", "b"]


async def test_payloads_that_were_read_ahead_are_what_was_stored(store: PostgresStore, reader: PostgresReader) -> None:
    payloads = [blob(b"short"), blob(b"long " * 1000), blob(b"\0" * 40, rope=True)]
    await store.append("r@main", drafts("a"), epoch=0, blobs=payloads)
    await reader.foresee_blobs([*(each.digest for each in payloads), bytes(32)])
    assert [await reader.blob(each.digest) for each in payloads] == payloads


async def test_who_holds_a_branch_is_told_of_that_branch(store: PostgresStore, reader: PostgresReader) -> None:
    await store.claim("held@main")
    await store.append("free@main", drafts("a"), epoch=0)
    assert await reader.owner("held@main") == store.worker
    assert await reader.owner("free@main") is None
    await reader.foresee([Question("held@main"), Question("free@main")])
    assert [await reader.owner(name) for name in ("held@main", "free@main")] == [store.worker, None]


# --- numbering ---


async def test_more_branches_than_are_looked_at_at_once_are_numbered_all_and_in_their_order(
    postgres: Postgres, store: PostgresStore
) -> None:
    with postgres.connect() as connection:
        connection.execute(
            "WITH b AS (INSERT INTO holdfast.branch (name, seq, digest, at_ms, unclaimed_seq, epoch)"
            " SELECT 'r' || n || '@main', 2, '\\x00', 0, 0, 0 FROM generate_series(1, 4500) n RETURNING id)"
            " INSERT INTO holdfast.entry SELECT id, s, 0, 0, NULL, '\\x7b7d', '\\x00' FROM b, generate_series(1, 2) s"
        )
        connection.execute("INSERT INTO holdfast.grown SELECT id FROM holdfast.branch ORDER BY random()")
        connection.execute("INSERT INTO holdfast.grown SELECT id FROM holdfast.branch")
        connection.execute("UPDATE holdfast.sequencer SET worker = 'me', epoch = 1")
        sizes = [0]
        while sizes[-1] != 9000 and len(sizes) < 9:
            sizes += [row[0] for row in connection.execute("SELECT holdfast.number_2('me', 1, 50000)").fetchall()]
        assert sizes == [0, 4000, 8000, 9000]
        stretches = connection.execute("SELECT start, branch, count FROM holdfast.stretch ORDER BY start").fetchall()
        assert [row[0] for row in stretches] == list(range(0, 9000, 2))
        assert [row[1] for row in stretches] == sorted(row[1] for row in stretches)
        assert connection.execute("SELECT count(*) FROM holdfast.grown").fetchall() == [(0,)]


# --- an older schema, and older writers ---


async def test_a_database_that_no_writer_has_opened_since_pages_came_is_read_too(
    postgres: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", MIGRATIONS[: PAGED - 1])
    older = PostgresStore(url)
    await grown(older, 6)
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", MIGRATIONS)
    reader = PostgresReader(url)
    assert not reader.paged
    found = await by_pages(reader, 4)
    assert sorted(each.name for each in found) == sorted(each.name for each in await reader.branches())
    await reader.close()
    await older.close()


async def test_pages_know_what_was_there_before_them_and_what_older_writers_write(
    postgres: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", MIGRATIONS[: PAGED - 1])
    older = PostgresStore(url)
    await older.append("over@main", [*drafts("a"), draft("{}", END)], epoch=0)
    await older.append("open@main", drafts("a"), epoch=0)
    await older.append("ends@main", drafts("a"), epoch=0)
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", MIGRATIONS)
    newer = PostgresStore(url)
    reader = PostgresReader(url)
    assert {each.name for each in await reader.page(9, open_only=True)} == {"open@main", "ends@main"}
    await older.append("ends@main", [draft("{}", END)], epoch=0)
    await older.append("over@main", drafts("further"), epoch=0)
    assert {each.name for each in await reader.page(9, open_only=True)} == {"open@main", "over@main"}
    for each in (older, newer, reader):
        await each.close()


# --- partitions ---


async def test_a_store_goes_on_when_its_tables_are_partitioned(postgres: Postgres, store: PostgresStore) -> None:
    owner = await store.claim("r@main")
    first = [draft("a", b"name"), draft("b", b"\1" * 32), draft("{}", b"checkpoint", recall=True)]
    await store.append("r@main", first, epoch=owner.epoch, blobs=[blob(b"one " * 200)], barrier=True)
    with postgres.connect() as connection:
        kinds = "SELECT c.relname, c.relkind FROM pg_class c WHERE c.relnamespace = 'holdfast'::regnamespace"
        made = "SELECT indexname FROM pg_indexes WHERE schemaname = 'holdfast' AND tablename ~ '^(entry|blob|recall)$'"
        fired = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'holdfast.entry'::regclass"
        before = [sorted(connection.execute(sql).fetchall()) for sql in (made, fired)]
        moved = [connection.execute("SELECT holdfast.partition_1(%s, 4)", (name,)).fetchall()[0][0]
                 for name in ("entry", "recall", "blob")]  # fmt: skip
        assert moved == [3, 1, 1]
        assert dict(connection.execute(kinds).fetchall())["entry"] == "p"
        assert [sorted(connection.execute(sql).fetchall()) for sql in (made, fired)] == before
        storage = "SELECT attstorage FROM pg_attribute WHERE attrelid = 'holdfast.blob_3'::regclass AND attnum = 3"
        assert connection.execute(storage).fetchall() == [("e",)], "it is compressed already"
    second = [draft("c", b"\1" * 32), draft("d"), draft("{}", b"checkpoint", recall=True)]
    await store.append("r@main", second, epoch=owner.epoch, blobs=[blob(b"two " * 200)], barrier=True)
    for number in range(20):
        await store.append(f"q{number}@main", [draft("{}", END)], epoch=0)
    assert_whole("r@main", await store.read("r@main"))
    assert bodies(await store.read("r@main", key=b"\1" * 32)) == ["b", "c"]
    for payload in (b"one " * 200, b"two " * 200):
        assert (await store.blob(blob(payload).digest)).data == payload
    with postgres.connect() as connection:
        spread = connection.execute("SELECT count(DISTINCT tableoid) FROM holdfast.entry").fetchall()
        assert spread[0][0] > 1
        opened = connection.execute("SELECT name FROM holdfast.branch WHERE open").fetchall()
        assert opened == [("r@main",)], "the triggers of the table are those of its parts"


@pytest.mark.parametrize(("name", "parts"), [("branch", 4), ("entry", 1), ("entry; DROP TABLE holdfast.meta", 4)])
def test_only_what_may_be_partitioned_is(postgres: Postgres, store: PostgresStore, name: str, parts: int) -> None:
    with postgres.connect() as connection, pytest.raises(Exception, match=r"parts|exist|syntax"):
        connection.execute("SELECT holdfast.partition_1(%s, %s)", (name, parts))


def test_a_table_is_partitioned_once(postgres: Postgres, store: PostgresStore) -> None:
    with postgres.connect() as connection:
        connection.execute("SELECT holdfast.partition_1('entry', 2)")
        with pytest.raises(Exception, match="already"):
            connection.execute("SELECT holdfast.partition_1('entry', 2)")
