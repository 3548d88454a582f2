"""Pruning a database: no lock is held between two statements, so whoever prunes may be stopped or killed at any.

Whoever writes meanwhile is not kept waiting, and what is kept outside the database goes too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from holdfast.errors import Conflict, Corrupt
from holdfast.store import postgres_prune, postgres_schema
from holdfast.store.postgres import PostgresStore
from holdfast.store.postgres_reader import PostgresReader
from tests.postgres import Postgres
from tests.store.bucket import Directory
from tests.store.depositor import payload
from tests.store.pruned import has, planned, pruned, pruner_of, rows, teller, write, write_whole
from tests.store.shelf import Shelf, blob, draft, heard, naming, start, texts

LINES = ("a@main one+two three+four", "b@main two five")
GOES, STAYS = ("one", "three", "four", "one+two", "three+four"), ("two", "five")


@pytest.fixture
def shelf(postgres: Postgres, tmp_path: Path) -> Shelf:
    return Shelf("postgres", tmp_path, postgres.empty())


@pytest.fixture(scope="module")
def pruners() -> Iterator[subprocess.Popen[str]]:
    """Where processes that prune come from."""
    process = start("tests.store.mortal_pruner")
    yield process
    process.communicate(timeout=60)


def born(pruners: subprocess.Popen[str], *words: object) -> int:
    """A process that prunes: its number."""
    assert pruners.stdin is not None
    pruners.stdin.write(" ".join(map(str, words)) + "\n")
    pruners.stdin.flush()
    return int(heard(pruners))


def standing(shelf: Shelf) -> tuple[int, int]:
    """The count of deletions, and how much is on the list of what is to go."""
    ((count, doomed),) = rows(
        shelf, "SELECT (SELECT value::int FROM meta WHERE name = 'deletions'), (SELECT count(*) FROM doomed)"
    )
    return count, doomed


# --- stopped and killed ---


def test_whoever_prunes_may_be_killed_at_any_statement_and_the_next_one_ends_it(
    shelf: Shelf, pruners: subprocess.Popen[str]
) -> None:
    deaths, ended = 0, "killed"
    nth = 0
    while ended == "killed":
        nth += 1
        rows(shelf, "DROP SCHEMA IF EXISTS holdfast CASCADE")
        write(shelf, *LINES)
        born(pruners, shelf.url, int(signal.SIGKILL), nth, "a@main")
        ended = heard(pruners)
        deaths += ended == "killed"
        assert has(shelf, *STAYS) == [True, True], f"after statement {nth}"
        ropes = has(shelf, "one+two", "three+four")
        left = {digest for (digest,) in rows(shelf, "SELECT digest FROM blob WHERE form >= 2")}
        assert ropes == [texts(word)[-1].digest in left for word in ("one+two", "three+four")], "a rope without pieces"
        with teller(shelf) as told:
            told("c@main three")
            told("c@main one+two")
        pruned(shelf, "a@main")
        assert has(shelf, *STAYS, "one+two", "three", "four") == [True] * 4 + [False], f"after statement {nth}"
        count, doomed = standing(shelf)
        assert (count % 2, doomed) == (0, 0)
    assert ended == "left 0"
    assert deaths > 7, "nobody was killed"


def test_while_whoever_prunes_is_stopped_at_any_statement_others_write(
    shelf: Shelf, pruners: subprocess.Popen[str]
) -> None:
    nth, told_of = 0, "stopped"
    while told_of == "stopped":
        nth += 1
        rows(shelf, "DROP SCHEMA IF EXISTS holdfast CASCADE")
        with teller(shelf) as told:
            for line in LINES:
                told(line)
            pruning = born(pruners, shelf.url, int(signal.SIGSTOP), nth, "a@main")
            told_of = heard(pruners)
            told("c@main one+two")
            told("d@main five")
            if told_of == "stopped":
                os.kill(pruning, signal.SIGCONT)
                assert heard(pruners) == "left 0"
            assert has(shelf, *STAYS, "one+two") == [True] * 3, f"after statement {nth}"
        assert standing(shelf)[0] % 2 == 0
    assert nth > 7, "nobody was stopped"


# --- beside writers ---


def waits(shelf: Shelf) -> bool:
    """Whether anybody waits for a lock."""
    return bool(rows(shelf, "SELECT 1 FROM pg_catalog.pg_locks WHERE NOT granted"))


def test_a_transaction_that_began_before_a_prune_is_waited_for_and_what_it_names_stays(shelf: Shelf) -> None:
    async def scene() -> None:
        store = shelf.open()
        assert isinstance(store, PostgresStore)
        await store.append("a@main", [naming("one")], epoch=0, blobs=texts("one"))
        found = await asyncio.to_thread(planned, shelf, "a@main")
        store.committer.lane._connection.autocommit = False  # so that what it writes stays open for a while
        await store.append("b@main", [naming("one")], epoch=0, blobs=texts("one"))
        with pruner_of(shelf, found) as pruner:
            pruning = asyncio.create_task(asyncio.to_thread(pruner.prune, lambda _number: None))
            until = time.monotonic() + 60
            while not await asyncio.to_thread(waits, shelf):
                assert time.monotonic() < until, "nobody was waited for"
                assert not pruning.done(), "it went on without having seen what was under way"
            store.committer.lane._connection.commit()
            store.committer.lane._connection.autocommit = True
            assert (await pruning).payloads == 0
        await store.close()

    asyncio.run(scene())
    assert has(shelf, "one") == [True]


def test_writers_that_name_again_and_again_what_is_pruned_again_and_again_lose_nothing(shelf: Shelf) -> None:
    words = [f"{first}+{second}" for first in ("one", "two", "three") for second in ("four", "five")]
    over = threading.Event()
    failed: list[BaseException] = []

    def prune_on() -> None:
        try:
            while not over.is_set():
                pruned(shelf, *[f"g{number}@main" for number in range(40)])
        except BaseException as error:  # noqa: BLE001 - told by the test itself
            failed.append(error)

    with teller(shelf) as one, teller(shelf) as other:
        one("kept@main kept")
        pruning = threading.Thread(target=prune_on)
        pruning.start()
        for number in range(40):  # what goes has the same payloads as what stays
            one(f"g{number}@main {words[number % 6]} {words[(number + 1) % 6]}")
            other(f"s{number}@main {words[(number * 5) % 6]}")
        over.set()
        pruning.join(60)
    assert [error for error in failed if "has moved on" not in str(error)] == []
    assert has(shelf, *words) == [True] * 6


def test_a_rope_on_the_list_that_is_named_in_another_cut_no_longer_rests_on_its_old_pieces(shelf: Shelf) -> None:
    write(shelf, "a@main one+two three")
    found = planned(shelf, "a@main")
    with pruner_of(shelf, found) as pruner:
        look = pruner._look

        def looked() -> None:
            look()
            write_whole(shelf, "b@main", "one+two")

        pruner._look = looked
        assert pruner.prune(lambda _number: None).payloads == 3
    assert has(shelf, "one+two", "one", "two", "three") == [True, False, False, False]


def test_a_second_prune_that_gives_up_does_not_put_back_on_the_list_what_was_named_again(shelf: Shelf) -> None:
    with teller(shelf) as told:
        told("a@main one two")
        told("z@main kept")
        found, late = planned(shelf, "a@main"), planned(shelf, "a@main")
        with pruner_of(shelf, found) as first, pruner_of(shelf, late) as second:
            look = first._look

            def looked() -> None:
                look()
                told("b@main one")
                with pytest.raises(Conflict, match="another process prunes"):
                    second.prune(lambda _number: None)

            first._look = looked
            assert first.prune(lambda _number: None).payloads == 1
    assert has(shelf, "one", "two", "kept") == [True, False, True]


def test_no_transaction_deletes_more_than_it_should(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_prune, "MOST_BLOBS", 7)
    write(shelf, "a@main " + " ".join(f"word-{number}" for number in range(40)))
    ticks: list[int] = []
    assert pruned(shelf, "a@main", tick=ticks.append).payloads == 40
    assert sum(ticks) == 40
    assert max(ticks) == 7


def test_to_plan_changes_nothing(shelf: Shelf) -> None:
    write(shelf, *LINES)
    before = rows(shelf, "SELECT digest, xmin::text FROM blob ORDER BY 1"), standing(shelf)
    assert planned(shelf, "a@main").doomed
    assert (rows(shelf, "SELECT digest, xmin::text FROM blob ORDER BY 1"), standing(shelf)) == before


def test_once_a_store_was_pruned_those_who_know_nothing_of_it_write_nothing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(shelf, *LINES)
    named = "SELECT count(*) FROM pg_catalog.pg_proc WHERE proname = 'place_1'"
    assert rows(shelf, named) == [(1,)], "an older worker goes on until then"
    pruned(shelf, "a@main")
    assert rows(shelf, named) == [(0,)]
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", postgres_schema.MIGRATIONS[: postgres_schema.PRUNABLE - 1])
    with pytest.raises(Corrupt, match="this Holdfast knows up to"):
        PostgresStore(shelf.url)


def test_a_store_that_was_never_opened_by_this_holdfast_is_looked_at_and_not_pruned(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(shelf, *LINES)
    rows(shelf, "UPDATE meta SET value = '3' WHERE name = 'schema'")
    with PostgresReader(shelf.url) as reader:
        assert reader.marks() == []
    with pytest.raises(Exception, match="made by an older Holdfast"):
        planned(shelf, "a@main")


# --- what is outside ---


def test_what_is_outside_goes_with_its_row_and_what_is_named_again_is_there(shelf: Shelf, tmp_path: Path) -> None:
    outside = Directory(tmp_path / "blobs")
    first, second = blob(payload(1)), blob(payload(2))

    async def scene() -> None:
        store = PostgresStore(shelf.url, blobs=outside.url)
        assert store.depot is not None
        await store.append(
            "a@main", [draft(f"{first.digest.hex()} {second.digest.hex()}")], epoch=0, blobs=[first, second]
        )
        found = await asyncio.to_thread(planned, shelf, "a@main")
        assert found.shares["a@main"].bytes == sum(map(len, outside.objects().values()))
        with pruner_of(shelf, found) as pruner:
            look = pruner._look

            def looked() -> None:
                look()
                placed = store.append("b@main", [draft(second.digest.hex())], epoch=0, blobs=[second])
                asyncio.run_coroutine_threadsafe(placed, loop).result(60)

            pruner._look = looked  # then it is named while it is on the list
            loop = asyncio.get_running_loop()
            assert (await asyncio.to_thread(pruner.prune, lambda _number: None)).payloads == 1
        await asyncio.to_thread(store.depot.sweep)
        assert list(outside.objects().values()) == [second.data]
        assert await store.blob(second.digest) == second
        await store.close()

    asyncio.run(scene())


def test_a_rope_that_is_outside_keeps_its_pieces(shelf: Shelf, tmp_path: Path) -> None:
    outside = Directory(tmp_path / "blobs")
    piece = texts("piece")[0]
    data = b"\0" + (300_000).to_bytes(4, "big") + payload(3) + b"\1" + piece.digest
    whole = payload(3) + piece.data
    rope = blob(whole)
    rope = type(rope)(rope.digest, data, rope=True, whole=whole)

    async def scene() -> None:
        store = PostgresStore(shelf.url, blobs=outside.url)
        await store.append("a@main", [naming("piece", "other")], epoch=0, blobs=texts("piece", "other"))
        await store.append("b@main", [draft(rope.digest.hex())], epoch=0, blobs=[rope])
        await store.close()

    asyncio.run(scene())
    assert len(outside.objects()) == 1
    pruned(shelf, "a@main")
    assert has(shelf, "piece", "other") == [True, False]


def test_after_a_prune_nothing_of_what_went_is_found_by_anybody(shelf: Shelf) -> None:
    write(shelf, *LINES)
    pruned(shelf, "a@main")
    with psycopg.connect(shelf.url) as connection:
        found = connection.execute("SELECT digest FROM holdfast.blob").fetchall()
    assert {digest for (digest,) in found} == {texts(word)[0].digest for word in STAYS}
    assert has(shelf, *GOES) == [False] * 5
