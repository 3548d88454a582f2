"""What is new in a store, for whoever waits: found without asking those who write, and without reading what is old."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from holdfast.store import Draft
from holdfast.store.changes import _SINCE, Changes
from holdfast.store.sqlite import SqliteStore

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(path, anchor=None, flush_s=30.0)
    yield opened
    asyncio.run(opened.close())


def place(store: SqliteStore, branch: str, *bodies: bytes, epoch: int = 0) -> None:
    asyncio.run(store.append(branch, [Draft(b"", body) for body in bodies], epoch=epoch))


def test_whoever_looks_is_told_once_of_each_commit(store: SqliteStore, path: Path) -> None:
    with Changes(path) as changes:
        assert changes.moved()
        assert not changes.moved()
        place(store, "a@main", b"1")
        assert changes.moved()
        assert not changes.moved()


def test_the_branches_that_got_something_are_found_in_the_order_in_which_they_got_it(
    store: SqliteStore, path: Path
) -> None:
    with Changes(path) as changes:
        for branch in ("a@main", "b@main", "a@main", "c@b2"):
            place(store, branch, b"1", b"2")
        number, found = changes.since(0)
        assert (number, found) == (8, ["b@main", "a@main", "c@b2"])
        assert changes.last() == 8
        assert changes.since(8) == (8, [])
        place(store, "b@main", b"3")
        assert changes.since(number) == (9, ["b@main"])


def test_what_is_new_is_found_by_its_number_and_what_is_old_is_not_read(store: SqliteStore, path: Path) -> None:
    place(store, "a@main", b"1")
    with apsw.Connection(str(path)) as connection:
        plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {_SINCE}", (0,))]
    assert plan[0] == "SEARCH e USING INTEGER PRIMARY KEY (rowid>?)"
    assert not [step for step in plan if step.startswith("SCAN")]


def test_the_newest_entry_of_each_branch_is_read_page_by_page(store: SqliteStore, path: Path) -> None:
    for number in range(5):
        place(store, f"r{number}@main", b"first", f"newest {number}".encode())
    with Changes(path) as changes:
        pages, after = [], 0
        while page := changes.newest(after, 2):
            pages.append([(each.branch, each.body) for each in page])
            after = page[-1].id
        assert [len(page) for page in pages] == [2, 2, 1]
        assert [each for page in pages for each in page] == [(f"r{n}@main", f"newest {n}".encode()) for n in range(5)]


def test_what_moved_beside_a_branch_is_known_by_the_order_of_commits(store: SqliteStore, path: Path) -> None:
    """The claim stands at 1, the mark at 2. In between another branch was advanced, and one word was placed."""
    with Changes(path) as changes:

        def beside() -> bool:
            return asyncio.run(changes.beside("r@main", 1, 2))

        epoch = asyncio.run(store.claim("r@main")).epoch
        place(store, "r@main", b"claim", epoch=epoch)
        other = asyncio.run(store.claim("r@b2")).epoch
        place(store, "r@b2", b"its own work", epoch=other)
        place(store, "r@main", b"mark", epoch=epoch)
        place(store, "rr@main", b"another run")
        place(store, "r@main", b"a word for itself")
        assert not beside()
        place(store, "r@b2", b"more of its own work", epoch=other)
        assert beside()


def test_a_word_beside_a_branch_counts_from_its_claim_on(store: SqliteStore, path: Path) -> None:
    with Changes(path) as changes:
        epoch = asyncio.run(store.claim("r@main")).epoch
        place(store, "r@b2", b"an old word")
        place(store, "r@main", b"claim", epoch=epoch)
        place(store, "r@main", b"mark", epoch=epoch)
        assert not asyncio.run(changes.beside("r@main", 1, 2))
        place(store, "r@main", b"claim", epoch=epoch)
        place(store, "r@b2", b"a word that came beside it")
        place(store, "r@main", b"mark", epoch=epoch)
        assert asyncio.run(changes.beside("r@main", 3, 4))


def test_a_holder_is_known_alive_dead_and_gone(store: SqliteStore, path: Path) -> None:
    place(store, "mine@main", b"1")
    asyncio.run(store.claim("mine@main"))
    claimant = subprocess.Popen(
        [sys.executable, "-m", "tests.store.claimant", str(path), "theirs@main"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert claimant.stdout is not None
    assert claimant.stdout.readline() == "claimed 1 none\n"
    with Changes(path) as changes:
        mine, theirs = (asyncio.run(changes.holder(f"{run}@main")) for run in ("mine", "theirs"))
        assert mine is not None
        assert (mine.worker, mine.dead) == (store.worker, False)
        assert theirs is not None
        assert (theirs.worker.pid, theirs.dead) == (claimant.pid, False)
        claimant.kill()
        claimant.communicate()
        theirs = asyncio.run(changes.holder("theirs@main"))
        assert theirs is not None
        assert theirs.dead
        asyncio.run(store.append("mine@main", [], epoch=1, release=True))
        assert asyncio.run(changes.holder("mine@main")) is None
        assert asyncio.run(changes.holder("nobody@main")) is None
