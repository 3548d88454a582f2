"""Pruning a SQLite file: rows that are numbered anew, the write-ahead log, what is overwritten, room on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest

from holdfast.errors import StoreFull
from holdfast.store import prune
from holdfast.store.prune import compact, room
from tests.store.faults import Fault, FaultyDisk, Quiet
from tests.store.pruned import has, planned, pruned, rememberer, rows, tell, write
from tests.store.shelf import Shelf, blob, draft


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf("sqlite", tmp_path / "runs.db")


def test_to_plan_changes_nothing(shelf: Shelf) -> None:
    write(shelf, "a@main one")
    before = shelf.path.read_bytes()
    assert planned(shelf, "a@main").doomed
    assert shelf.path.read_bytes() == before


def test_what_was_stored_twice_goes_twice(shelf: Shelf) -> None:
    """Two processes that store the same payload at the same time do not see each other's."""
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(rememberer(shelf)) for _ in range(2)]
        for number, writer in enumerate(writers):
            tell(writer, f"r{number}@main same")
    assert rows(shelf, "SELECT count(*) FROM blob") == [(2,)], "the twins were not born"
    pruned(shelf, "r0@main")
    assert has(shelf, "same") == [True]
    pruned(shelf, "r1@main")
    assert rows(shelf, "SELECT (SELECT count(*) FROM blob), (SELECT count(*) FROM blob_place)") == [(0, 0)]


def test_a_payload_that_comes_back_after_the_newest_ones_went_is_found(shelf: Shelf) -> None:
    """SQLite gives the numbers of the newest rows again: what is looked up by number must not be taken for another."""
    write(shelf, "a@main one", "b@main two three")
    pruned(shelf, "b@main")
    write(shelf, "c@main four", "d@main two")
    assert has(shelf, "one", "two", "three", "four") == [True, True, False, True]
    write(shelf, "e@main five")
    assert has(shelf, "one", "two", "four", "five") == [True] * 4


def test_what_went_is_nowhere_in_the_files(shelf: Shelf) -> None:
    secrets = [f"secret-{number}" for number in range(40)]
    write(shelf, "a@main " + " ".join(secrets), "b@main kept")
    everything = lambda: b"".join(file.read_bytes() for file in shelf.path.parent.iterdir())  # noqa: E731
    assert all(secret.encode() in everything() for secret in secrets)
    pruned(shelf, "a@main")
    assert not [secret for secret in secrets if secret.encode() in everything()]
    assert b"kept" in everything()


def test_the_write_ahead_log_of_a_living_process_has_its_size_again_and_nothing_of_what_went(shelf: Shelf) -> None:
    log = shelf.path.with_name("runs.db-wal")
    with rememberer(shelf) as writer:
        tell(writer, "a@main secret")
        for _ in range(200):
            tell(writer, "b@main kept")
        size = log.stat().st_size
        assert size > 10_000_000, "it was never given its size"
        assert b"secret" in log.read_bytes() + shelf.path.read_bytes()
        pruned(shelf, "a@main")
        assert b"secret" not in log.read_bytes() + shelf.path.read_bytes()
        assert log.stat().st_size == size
        tell(writer, "b@main more")
    assert has(shelf, "kept", "more") == [True, True]


def test_on_a_disk_that_gets_full_nothing_is_half_done_and_the_rest_follows(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of a prune finds no space, once or from then on."""
    monkeypatch.setattr(apsw, "Connection", Quiet)
    words = [f"text-{number}" for number in range(30)]
    lines = ("a@main " + " ".join(words), "b@main text-3 text-4+text-5")
    write(shelf, *lines)
    whole = shelf.path.read_bytes()
    nth, met = 1, True
    while met:
        for lasting in ("once", "ever"):
            shelf.path.write_bytes(whole)
            disk = FaultyDisk(Fault.of(f"write {nth} full {lasting}")).stand_in()
            try:
                with contextlib.suppress(StoreFull):
                    pruned(shelf, "a@main")
            finally:
                disk.stand_aside()
            met = disk.failures > 0
            assert has(shelf, "text-3", "text-4+text-5") == [True, True], f"write {nth} {lasting}"
            pruned(shelf, "a@main")
            assert has(shelf, "text-3", "text-4+text-5", "text-9") == [True, True, False]
            assert rows(shelf, "PRAGMA integrity_check") == [("ok",)]
            assert rows(shelf, "SELECT count(*) FROM blob") == [(4,)]
        nth += 1
    assert nth > 5, "no write was tried"


def test_what_is_free_in_the_file_is_given_back_when_that_is_asked_for(shelf: Shelf) -> None:
    write(shelf, "b@main kept")
    chance = random.Random(0)

    async def fill() -> None:
        store = shelf.open()
        large = [blob(chance.randbytes(50_000)) for _ in range(20)]
        names = draft(" ".join(each.digest.hex() for each in large))
        await store.append("a@main", [names], epoch=0, blobs=large)
        await store.close()

    asyncio.run(fill())
    full = room(shelf.path)
    pruned(shelf, "a@main")
    assert room(shelf.path).file_bytes == full.file_bytes
    assert room(shelf.path).free_bytes > 1_000_000
    compact(shelf.path)
    assert room(shelf.path).free_bytes == 0
    assert shelf.path.stat().st_size == room(shelf.path).file_bytes < full.file_bytes - 1_000_000
    assert has(shelf, "kept") == [True]


def test_there_must_be_room_to_compact(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    write(shelf, "a@main one")
    monkeypatch.setattr(prune.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=4096))
    before = shelf.path.read_bytes()
    with pytest.raises(StoreFull, match="4096 are free"):
        compact(shelf.path)
    assert shelf.path.read_bytes() == before
