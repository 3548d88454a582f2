"""Payloads that nothing needs any more go, and nothing else: beside living writers, whatever dies, and only once.

Entries here name payloads by their digests, so that the store can be tried without runs (see shelf.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import pytest

from holdfast.core.entry import Entry
from holdfast.core.retention import Extent, Mark
from holdfast.errors import Conflict, Corrupt, StoreFull, Unknown
from holdfast.store import prune
from holdfast.store.prune import Plan, Pruner, Share, compact, plan, room
from holdfast.store.reader import Reader
from holdfast.store.rope import gather
from holdfast.store.sqlite import SqliteStore
from tests.store.faults import Fault, FaultyDisk, Quiet
from tests.store.shelf import blob, draft, heard, named, naming, said, start, texts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def write(path: Path, *lines: str) -> None:
    """Each line: a branch, and the texts that an entry of it names."""

    async def all_of_them() -> None:
        store = SqliteStore(path, anchor=None)
        for line in lines:
            branch, *words = line.split()
            await store.append(branch, [naming(*words)], epoch=0, blobs=texts(*words))
        await store.close()

    asyncio.run(all_of_them())


def planned(path: Path, *branches: str) -> Plan:
    """What goes if these branches are pruned as they are now."""
    with Reader(path) as reader, reader.moment():
        new = [
            Mark(found.name, found.seq, Extent.ALL)
            for found in asyncio.run(reader.branches())
            if found.name in branches
        ]
        upto = {mark.branch: mark.upto for mark in [*reader.marks(), *new]}
        needed: Callable[[Entry], list[bytes]] = lambda entry: (  # noqa: E731
            [] if entry.seq <= upto.get(entry.branch, 0) else named(entry)
        )
        return plan(reader, new, named, needed, lambda: None)


def pruned(path: Path, *branches: str, tick: Callable[[int], object] = lambda _number: None) -> Share:
    """Prune these branches."""
    with Pruner(path, planned(path, *branches), "ann") as pruner:
        return pruner.prune(tick)


def has(path: Path, *words: str) -> list[bool]:
    """Whether the payloads of these texts are there, whole."""

    async def whole(reader: Reader, word: str) -> bool:
        try:
            return await gather(reader, texts(word)[-1].digest, 1 << 20) == said(word)
        except Unknown:
            return False

    with Reader(path) as reader:
        return [asyncio.run(whole(reader, word)) for word in words]


def rows(path: Path, sql: str, *values: bytes) -> list[Any]:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        return connection.execute(sql, values).fetchall()


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each payload goes in a transaction of its own."""
    monkeypatch.setattr(prune, "MOST_BLOBS", 1)


# --- what goes, and what stays ---


def test_what_only_the_pruned_run_names_goes_and_its_entries_stay(path: Path) -> None:
    write(path, "a@main one two", "b@main three")
    assert pruned(path, "a@main").payloads == 2
    assert has(path, "one", "two", "three") == [False, False, True]
    assert rows(path, "SELECT count(*) FROM entry") == [(2,)]


def test_what_another_run_names_too_stays(path: Path) -> None:
    write(path, "a@main one shared", "b@main shared")
    pruned(path, "a@main")
    assert has(path, "one", "shared") == [False, True]


def test_a_piece_of_a_rope_that_stays_stays(path: Path) -> None:
    write(path, "a@main one two three", "b@main one+two")
    pruned(path, "a@main")
    assert has(path, "one+two", "one", "two", "three") == [True, True, True, False]


def test_a_rope_goes_with_its_pieces(path: Path) -> None:
    write(path, "a@main one+two", "b@main two")
    assert pruned(path, "a@main").payloads == 2
    assert has(path, "one+two", "one", "two") == [False, False, True]


def test_what_an_entry_after_the_mark_names_stays(path: Path) -> None:
    write(path, "a@main one two")
    pruned(path, "a@main")
    write(path, "a@main two")
    assert pruned(path) == Share()
    assert has(path, "one", "two") == [False, True]


@pytest.mark.parametrize("branch", ["a@main", "a@b2"])
def test_a_run_that_has_moved_on_since_is_not_pruned(path: Path, branch: str) -> None:
    write(path, "a@main one two")
    found = planned(path, "a@main")
    write(path, f"{branch} three")
    with Pruner(path, found, "ann") as pruner, pytest.raises(Conflict, match="a run has moved on"):
        pruner.prune(lambda _number: None)
    assert has(path, "one", "two") == [True, True]


def test_the_plan_counts_for_each_run_what_goes_and_nothing_twice(path: Path) -> None:
    write(path, "a@main one shared", "a@main one", "b@main shared two three", "c@main three")
    found = planned(path, "a@main", "b@main")
    assert {name: (share.entries, share.payloads) for name, share in found.shares.items()} == {
        "a@main": (2, 2),  # with what both name
        "b@main": (1, 1),
    }
    sizes = dict(rows(path, "SELECT digest, length(data) FROM blob"))
    del sizes[texts("three")[0].digest]
    assert sum(share.bytes for share in found.shares.values()) == sum(sizes.values())


def test_to_plan_changes_nothing(path: Path) -> None:
    write(path, "a@main one")
    before = path.read_bytes()
    assert planned(path, "a@main").doomed
    assert path.read_bytes() == before


def test_pruning_twice_is_pruning_once(path: Path) -> None:
    write(path, "a@main one two", "b@main one")
    pruned(path, "a@main")
    assert pruned(path, "a@main") == Share()
    assert has(path, "one", "two") == [True, False]


def test_who_pruned_what_is_written_down(path: Path) -> None:
    write(path, "a@main one", "a@main two")
    pruned(path, "a@main")
    assert rows(path, "SELECT upto, extent, by FROM pruned") == [(2, "all", "ann")]


def test_what_was_stored_twice_goes_twice(path: Path) -> None:
    """Two processes that store the same payload at the same time do not see each other's."""
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(rememberer(path)) for _ in range(2)]
        for number, writer in enumerate(writers):
            tell(writer, f"r{number}@main same")
    assert rows(path, "SELECT count(*) FROM blob") == [(2,)], "the twins were not born"
    pruned(path, "r0@main")
    assert has(path, "same") == [True]
    pruned(path, "r1@main")
    assert rows(path, "SELECT (SELECT count(*) FROM blob), (SELECT count(*) FROM blob_place)") == [(0, 0)]


def test_a_payload_that_comes_back_after_the_newest_ones_went_is_found(path: Path) -> None:
    """SQLite gives the numbers of the newest rows again: what is looked up by number must not be taken for another."""
    write(path, "a@main one", "b@main two three")
    pruned(path, "b@main")
    write(path, "c@main four", "d@main two")
    assert has(path, "one", "two", "three", "four") == [True, True, False, True]
    write(path, "e@main five")
    assert has(path, "one", "two", "four", "five") == [True] * 4


def test_what_went_is_nowhere_in_the_files(path: Path) -> None:
    secrets = [f"secret-{number}" for number in range(40)]
    write(path, "a@main " + " ".join(secrets), "b@main kept")
    everything = lambda: b"".join(file.read_bytes() for file in path.parent.iterdir())  # noqa: E731
    assert all(secret.encode() in everything() for secret in secrets)
    pruned(path, "a@main")
    assert not [secret for secret in secrets if secret.encode() in everything()]
    assert b"kept" in everything()


# --- beside writers ---


@contextlib.contextmanager
def rememberer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A living process that has the store open."""
    process = start("tests.store.rememberer", path)
    try:
        assert heard(process) == "open"
        yield process
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Let it place an entry."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    assert heard(process) == "placed"


def test_a_living_process_does_not_believe_that_what_went_is_stored(path: Path) -> None:
    with rememberer(path) as writer:
        tell(writer, "a@main one two one+two")
        pruned(path, "a@main")
        assert has(path, "one", "one+two") == [False, False]
        tell(writer, "b@main one one+two")
    assert has(path, "one", "one+two", "two") == [True, True, True]


def test_a_rope_whose_pieces_went_after_they_were_written_is_kept_whole(path: Path) -> None:
    """Who cuts a payload takes what it has written before for stored, and does not send it with the rope."""
    with rememberer(path) as writer:
        tell(writer, "a@main one two")
        tell(writer, "b@main two")
        pruned(path, "a@main")
        tell(writer, "b@main ~one+two")
    assert has(path, "one+two", "one", "two") == [True, False, True]
    assert rows(path, "SELECT count(*) FROM blob WHERE form >= 2") == [(0,)]


def test_a_piece_that_no_entry_names_may_go_and_is_not_missed(path: Path) -> None:
    """The payload was stored whole by another: then its cut is not kept, and its pieces are, which nothing holds."""
    write(path, "z@main kept")
    write_whole(path, "a@main", "one+two")
    with rememberer(path) as writer:
        tell(writer, "b@main one+two")
        assert has(path, "one", "two") == [True, True]
        assert pruned(path).payloads == 2
        tell(writer, "b@main ~one+kept")
        tell(writer, "b@main ~two+one+kept three+four")
        tell(writer, "b@main ~three+four")
    assert has(path, "one+two", "one+kept", "two+one+kept", "three+four", "one") == [True, True, True, True, False]


def test_who_does_not_know_what_a_rope_was_cut_from_is_refused(path: Path) -> None:
    async def refused() -> None:
        store = SqliteStore(path, anchor=None)
        await store.append("a@main", [naming("one")], epoch=0, blobs=texts("one"))
        await asyncio.to_thread(pruned, path, "a@main")
        rope = replace(texts("~one+two")[0], whole=b"")
        with pytest.raises(Conflict, match="a piece of a payload was pruned"):
            await store.append("b@main", [naming("one+two")], epoch=0, blobs=[rope])
        assert await store.read("b@main") == []
        await store.close()

    asyncio.run(refused())


def test_each_deletion_is_forgotten_not_only_the_first(path: Path, one_by_one: None) -> None:
    with rememberer(path) as writer:
        tell(writer, "a@main one two three")
        told = iter(("b@main one", "c@main two", "d@main three"))
        pruned(path, "a@main", tick=lambda _number: tell(writer, next(told)))
    assert has(path, "one", "two", "three") == [True] * 3


def at_the(nth: int, work: Callable[[], object]) -> Callable[[int], object]:
    """To be told of each deletion: after the n-th one, do some work."""
    ticks = iter(range(1, 1000))
    return lambda _number: work() if next(ticks) == nth else None


@pytest.mark.parametrize("word", ["one", "one+two", "three+four", "one+two+three+four"])
def test_what_is_named_while_it_is_being_pruned_stays(path: Path, one_by_one: None, word: str) -> None:
    """After each single deletion, whatever went before, a living process names it again: it is whole."""
    for nth in range(1, 7):
        store = path.with_name(f"{nth}.db")
        with rememberer(store) as writer:
            tell(writer, "a@main one+two three+four one+two+three+four")
            pruned(store, "a@main", tick=at_the(nth, partial(tell, writer, f"b@main {word}")))
        assert has(store, word) == [True], f"named after {nth} deletions"


def write_whole(path: Path, branch: str, word: str) -> None:
    """Place an entry that names the payload of a rope, not cut into pieces."""

    async def write_it() -> None:
        store = SqliteStore(path, anchor=None)
        await store.append(branch, [naming(word)], epoch=0, blobs=[blob(said(word))])
        await store.close()

    asyncio.run(write_it())


def test_a_rope_that_is_named_again_in_another_cut_is_whole(path: Path, one_by_one: None) -> None:
    """While it is stored, the new cut is not kept: so the pieces of the old one must not have gone before it."""
    for nth in range(1, 4):
        store = path.with_name(f"{nth}.db")
        write(store, "a@main one+two")
        pruned(store, "a@main", tick=at_the(nth, partial(write_whole, store, "b@main", "one+two")))
        assert has(store, "one+two") == [True], f"named after {nth} deletions"


def test_the_write_ahead_log_of_a_living_process_has_its_size_again_and_nothing_of_what_went(path: Path) -> None:
    log = path.with_name("runs.db-wal")
    with rememberer(path) as writer:
        tell(writer, "a@main secret")
        for _ in range(200):
            tell(writer, "b@main kept")
        size = log.stat().st_size
        assert size > 10_000_000, "it was never given its size"
        assert b"secret" in log.read_bytes() + path.read_bytes()
        pruned(path, "a@main")
        assert b"secret" not in log.read_bytes() + path.read_bytes()
        assert log.stat().st_size == size
        tell(writer, "b@main more")
    assert has(path, "kept", "more") == [True, True]


def test_two_that_prune_at_once_do_not_trust_each_others_plan(path: Path) -> None:
    write(path, "a@main one", "b@main two")
    late = planned(path, "a@main")
    pruned(path, "b@main")
    write(path, "c@main three")  # under the number that `two` had
    with Pruner(path, late, "bob") as pruner, pytest.raises(Conflict, match="another process prunes"):
        pruner.prune(lambda _number: None)
    assert has(path, "one", "three") == [True, True]


# --- what is damaged is kept ---


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM entry WHERE id = 2", "an entry is missing"),
        ("UPDATE entry SET body = x'00' WHERE id = 3", "does not fit the one before it"),
        ("DELETE FROM blob WHERE id = 3", "is missing, and was not pruned"),
        ("UPDATE blob SET data = x'ff00' WHERE form = 2", "cannot be read"),
    ],
)
def test_a_damaged_log_is_not_pruned(path: Path, damage: str, said: str) -> None:
    write(path, "a@main one", "b@main two", "b@main three", "c@main two+three")
    rows(path, damage)
    with pytest.raises(Corrupt, match=said):
        planned(path, "a@main")


def test_a_piece_that_is_missing_is_told_with_the_entry_that_needs_it(path: Path) -> None:
    write(path, "a@main one", "b@main two+three")
    lost = texts("three")[0].digest
    rows(path, "DELETE FROM blob WHERE digest = ?", lost)
    with pytest.raises(Corrupt) as caught:
        planned(path, "a@main")
    assert caught.value.where == "b@main:1"
    assert lost.hex() in caught.value.what


# --- space ---


def test_on_a_disk_that_gets_full_nothing_is_half_done_and_the_rest_follows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of a prune finds no space, once or from then on."""
    monkeypatch.setattr(apsw, "Connection", Quiet)
    words = [f"text-{number}" for number in range(30)]
    lines = ("a@main " + " ".join(words), "b@main text-3 text-4+text-5")
    write(path, *lines)
    whole = path.read_bytes()
    nth, met = 1, True
    while met:
        for lasting in ("once", "ever"):
            path.write_bytes(whole)
            disk = FaultyDisk(Fault.of(f"write {nth} full {lasting}")).stand_in()
            try:
                with contextlib.suppress(StoreFull):
                    pruned(path, "a@main")
            finally:
                disk.stand_aside()
            met = disk.failures > 0
            assert has(path, "text-3", "text-4+text-5") == [True, True], f"write {nth} {lasting}"
            pruned(path, "a@main")
            assert has(path, "text-3", "text-4+text-5", "text-9") == [True, True, False]
            assert rows(path, "PRAGMA integrity_check") == [("ok",)]
            assert rows(path, "SELECT count(*) FROM blob") == [(4,)]
        nth += 1
    assert nth > 5, "no write was tried"


def test_what_is_free_in_the_file_is_given_back_when_that_is_asked_for(path: Path) -> None:
    write(path, "b@main kept")
    chance = random.Random(0)

    async def fill() -> None:
        store = SqliteStore(path, anchor=None)
        large = [blob(chance.randbytes(50_000)) for _ in range(20)]
        names = draft(" ".join(each.digest.hex() for each in large))
        await store.append("a@main", [names], epoch=0, blobs=large)
        await store.close()

    asyncio.run(fill())
    full = room(path)
    pruned(path, "a@main")
    assert room(path).file_bytes == full.file_bytes
    assert room(path).free_bytes > 1_000_000
    compact(path)
    assert room(path).free_bytes == 0
    assert path.stat().st_size == room(path).file_bytes < full.file_bytes - 1_000_000
    assert has(path, "kept") == [True]


def test_there_must_be_room_to_compact(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, "a@main one")
    monkeypatch.setattr(prune.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=4096))
    before = path.read_bytes()
    with pytest.raises(StoreFull, match="4096 are free"):
        compact(path)
    assert path.read_bytes() == before
