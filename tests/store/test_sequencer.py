"""The sequencer on PostgreSQL: every entry gets one place in one order, and one worker at a time signs that order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from holdfast.core.note import VerifierKey, newest_note, open_head
from holdfast.errors import RolledBack
from holdfast.store.heads import Heads, LogKey
from holdfast.store.postgres import PostgresStore
from holdfast.store.postgres_leaves import PostgresLeaves
from holdfast.store.postgres_numbering import GIVE_BACK, NOT_SEQUENCER, NUMBER, SIGN, TAKE
from holdfast.store.postgres_reader import PostgresReader
from tests.core.bundle_writer import SEED, mth, sha256
from tests.postgres import Postgres
from tests.store.shelf import drafts, heard, start

MOST = 1_000_000


@pytest.fixture
def url(postgres: Postgres) -> str:
    """An empty database."""
    return postgres.empty()


def log_key(log_id: str) -> LogKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
    return LogKey(SEED, VerifierKey(name=f"holdfast.local/{log_id}", public_key=public))


def signing(url: str, anchor: Path, *, ttl_s: float = 5.0) -> PostgresStore:
    """A worker that takes part in signing."""
    store = PostgresStore(url)
    store.sign_with(Heads(log_key(store.log_id), anchor), ttl_s=ttl_s)
    return store


def newest(anchor: Path, log_id: str) -> int:
    """How many entries the newest head in an anchor covers."""
    note = newest_note(anchor.read_text()) if anchor.exists() else None
    key = log_key(log_id)
    return 0 if note is None else open_head(note, key.verifier, key.check).size


async def soon(is_true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < until, "it never came"
        await asyncio.sleep(0.02)


def placed(url: str) -> list[tuple[str, int, bytes]]:
    """Branch, position and digest of all entries by index."""
    with PostgresReader(url) as reader:
        found = list(reader.places())
    assert [index for index, _ in found] == list(range(len(found)))
    return [(entry.branch, entry.seq, entry.digest) for _, entry in found]


def by_hand(postgres: Postgres) -> Callable[..., list[tuple[object, ...]]]:
    """Statements of a sequencer, one by one."""
    connection = postgres.connect()
    return lambda sql, *values: connection.execute(sql, values).fetchall()


async def write(store: PostgresStore, *words: str) -> None:
    for word in words:
        branch, _, text = word.partition(":")
        await store.append(f"{branch}@main", drafts(text), epoch=0)


# --- one order ---


async def test_the_head_is_the_root_of_rfc_6962_over_the_entries_in_their_order(url: str, tmp_path: Path) -> None:
    store = signing(url, tmp_path / "anchor")
    await write(store, "a:1", "b:1", "a:2", "c:1", "b:2")
    await store.close()
    leaves = [
        sha256(b"\0holdfast/leaf/1\0" + bytes((len(branch),)) + branch.encode() + digest)
        for branch, _, digest in placed(url)
    ]
    key = log_key(store.log_id)
    note = newest_note((tmp_path / "anchor").read_text())
    assert note is not None
    head = open_head(note, key.verifier, key.check)
    assert (head.size, head.root) == (5, mth(leaves))


async def test_an_entry_that_is_committed_late_gets_its_place_when_it_comes(postgres: Postgres, url: str) -> None:
    store = PostgresStore(url)
    await write(store, "early:1", "late:1")
    ask = by_hand(postgres)
    assert ask(TAKE, "me", 5) == [(1,)]
    assert ask(NUMBER, "me", 1, MOST) == [(2,)]
    with psycopg.connect(url) as slow:
        slow.execute("UPDATE holdfast.branch SET seq = 2 WHERE name = 'early@main'")
        slow.execute(
            "INSERT INTO holdfast.entry SELECT id, 2, 0, 0, NULL, '\\x7b7d', '\\x00' FROM holdfast.branch"
            " WHERE name = 'early@main'"
        )
        await write(store, "late:2")
        assert ask(NUMBER, "me", 1, MOST) == [(3,)]
        slow.commit()
    assert ask(NUMBER, "me", 1, MOST) == [(4,)]
    await store.close()
    assert [(branch, seq) for branch, seq, _ in placed(url)] == [
        ("early@main", 1), ("late@main", 1), ("late@main", 2), ("early@main", 2),
    ]  # fmt: skip


async def test_what_a_branch_stands_on_comes_before_it(postgres: Postgres, url: str) -> None:
    store = PostgresStore(url)
    (base,) = await store.append("r@main", drafts("base"), epoch=0)
    await store.append("r@b2", drafts("child"), epoch=0, stands_on=base)
    await store.append("r@main", drafts("after"), epoch=0)
    await store.close()
    ask = by_hand(postgres)
    ask(TAKE, "me", 5)
    assert [ask(NUMBER, "me", 1, 1), ask(NUMBER, "me", 1, MOST)] == [[(1,)], [(3,)]]
    assert [(branch, seq) for branch, seq, _ in placed(url)] == [("r@main", 1), ("r@main", 2), ("r@b2", 2)]


@pytest.mark.parametrize("most", [1, 2, 7])
async def test_what_is_too_much_for_one_head_is_numbered_under_the_next(
    postgres: Postgres, url: str, most: int
) -> None:
    store = PostgresStore(url)
    await asyncio.gather(*[write(store, *[f"r{run}:{step}" for step in range(5)]) for run in range(4)])
    await store.close()
    ask, sizes = by_hand(postgres), [0]
    ask(TAKE, "me", 5)
    while sizes[-1] != 20:
        sizes += [int(str(row[0])) for row in ask(NUMBER, "me", 1, most)]
    assert [after - before for before, after in pairwise(sizes)][:-1] == [most] * ((20 - 1) // most)
    assert sorted((branch, seq) for branch, seq, _ in placed(url)) == [
        (f"r{run}@main", seq) for run in range(4) for seq in range(1, 6)
    ]
    assert ask("SELECT count(*) FROM holdfast.grown") == [(0,)]


async def test_entries_without_a_place_are_read_behind_the_others(postgres: Postgres, url: str) -> None:
    store = PostgresStore(url)
    await write(store, "b:1", "a:1")
    ask = by_hand(postgres)
    ask(TAKE, "me", 5)
    ask(NUMBER, "me", 1, MOST)
    await write(store, "b:2", "c:1")
    await store.close()
    assert [(branch, seq) for branch, seq, _ in placed(url)] == [
        ("b@main", 1), ("a@main", 1), ("b@main", 2), ("c@main", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("cut", range(8))
async def test_leaves_are_found_wherever_one_begins_and_ends(url: str, tmp_path: Path, cut: int) -> None:
    store = signing(url, tmp_path / "anchor")
    await write(store, *[f"a:{step}" for step in range(4)], *[f"b:{step}" for step in range(3)])
    await store.close()
    with PostgresReader(url) as reader:
        leaves = PostgresLeaves(reader.fetch)
        whole = list(leaves.hashes(0, 7))
        assert len(whole) == 7
        assert list(leaves.hashes(0, cut)) + list(leaves.hashes(cut, 7)) == whole


def test_many_processes_write_and_every_entry_has_one_place(url: str, tmp_path: Path) -> None:
    store = signing(url, tmp_path / "anchor")
    processes = [start("tests.store.appender", url, name, 30) for name in ("a", "b", "c")]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    store.let_go()
    found = placed(url)
    assert len(found) == len(set(found)) == newest(tmp_path / "anchor", store.log_id) >= 90
    for branch in {branch for branch, _, _ in found}:
        of_it = [seq for name, seq, _ in found if name == branch]
        assert of_it == list(range(1, len(of_it) + 1))


# --- one sequencer ---


async def test_who_has_lost_its_place_numbers_and_signs_nothing(postgres: Postgres, url: str) -> None:
    store = PostgresStore(url)
    await write(store, "a:1")
    await store.close()
    ask = by_hand(postgres)
    assert ask(TAKE, "first", 5) == [(1,)]
    assert ask(NUMBER, "first", 1, MOST) == [(1,)]
    assert ask(TAKE, "second", 5) == [], "the first one lives"
    assert ask(TAKE, "second", 0) == [(2,)]
    for sql, values in ((NUMBER, ("first", 1, MOST)), (SIGN, ("first", 1, "on", 1, "a head", b"edge")),
                        (NUMBER, ("first", 2, MOST)), (NUMBER, ("second", 1, MOST))):  # fmt: skip
        with pytest.raises(psycopg.Error) as refused:
            ask(sql, *values)
        assert refused.value.sqlstate == NOT_SEQUENCER
    assert ask(GIVE_BACK, "first", 1) == []
    assert ask("SELECT count(*) FROM holdfast.head") == [(0,)]
    assert ask(NUMBER, "second", 2, MOST) == [(1,)]


async def test_a_sequencer_that_wakes_late_finds_another_one_and_follows(url: str, tmp_path: Path) -> None:
    first = signing(url, tmp_path / "first", ttl_s=0.0)
    await write(first, "a:1")
    await soon(lambda: newest(tmp_path / "first", first.log_id) == 1)
    second = signing(url, tmp_path / "second", ttl_s=0.0)  # both take it from each other at every look
    for step in range(3):
        await write(first, f"a:{step}")
        await soon(lambda: newest(tmp_path / "first", first.log_id) == newest(tmp_path / "second", first.log_id) > 1)
    await second.close()
    await first.close()
    assert (first.read_only, second.read_only) == (None, None)
    assert len(placed(url)) == 4


async def test_a_dead_sequencer_is_replaced_and_what_it_had_not_signed_is_signed(
    postgres: Postgres, url: str, tmp_path: Path
) -> None:
    signer = start("tests.store.signer", url, tmp_path / "anchor")
    assert heard(signer) == "signed"
    signer.kill()
    signer.communicate(timeout=60)
    store = signing(url, tmp_path / "anchor", ttl_s=1.0)
    await write(store, "after:1")
    await soon(lambda: newest(tmp_path / "anchor", store.log_id) >= 2)
    assert by_hand(postgres)("SELECT epoch >= 2, worker FROM holdfast.sequencer") == [(True, store.worker.id)]
    await store.close()


async def test_a_worker_that_does_not_sign_publishes_too(url: str, tmp_path: Path) -> None:
    signer, other = signing(url, tmp_path / "signer"), signing(url, tmp_path / "other")
    await write(other, "a:1", "b:1")
    for anchor in ("signer", "other"):
        await soon(lambda anchor=anchor: newest(tmp_path / anchor, signer.log_id) == 2)  # type: ignore[misc]
    await other.close()
    await signer.close()


async def test_workers_of_one_machine_put_each_head_into_its_anchor_once(url: str, tmp_path: Path) -> None:
    workers = [signing(url, tmp_path / "anchor") for _ in range(3)]
    for size in (1, 2):
        await write(workers[0], f"a:{size}")
        await soon(lambda size=size: newest(tmp_path / "anchor", workers[0].log_id) == size)  # type: ignore[misc]
    for worker in workers:
        await worker.close()
    signatures = [line for line in (tmp_path / "anchor").read_text().split("\n") if line.startswith("\u2014")]
    assert len(signatures) == len(set(signatures)) == 2


# --- what was signed, and what is there ---


async def test_an_older_log_than_its_anchor_is_read_and_not_written(
    postgres: Postgres, url: str, tmp_path: Path
) -> None:
    store = signing(url, tmp_path / "anchor")
    await write(store, "a:1", "a:2", "a:3")
    await store.close()
    with postgres.connect() as connection:
        connection.execute("DELETE FROM holdfast.entry WHERE seq = 3")
        connection.execute("UPDATE holdfast.stretch SET count = 2")
    older = signing(url, tmp_path / "anchor")
    assert len(await older.read("a@main")) == 2
    with pytest.raises(RolledBack, match="has 2 entries, its anchor knows of 3"):
        await older.append("a@main", drafts("x"), epoch=0)
    with pytest.raises(RolledBack):
        await older.claim("a@main")
    await older.close()


async def test_a_worker_under_which_the_log_is_put_back_stops(postgres: Postgres, url: str, tmp_path: Path) -> None:
    store = signing(url, tmp_path / "anchor")
    await write(store, "a:1")
    await soon(lambda: newest(tmp_path / "anchor", store.log_id) == 1)
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.heads AS SELECT * FROM holdfast.head")
    await write(store, "a:2")
    await soon(lambda: newest(tmp_path / "anchor", store.log_id) == 2)
    follower = signing(url, tmp_path / "follower")
    await soon(lambda: newest(tmp_path / "follower", store.log_id) == 2)
    with postgres.connect() as connection:
        connection.execute("DELETE FROM holdfast.entry WHERE seq = 2")
        connection.execute("UPDATE holdfast.stretch SET count = 1 WHERE start = 0")
        connection.execute("DELETE FROM holdfast.stretch WHERE start > 0")
        connection.execute("TRUNCATE holdfast.head")
        connection.execute("INSERT INTO holdfast.head SELECT * FROM public.heads")
        connection.execute("DROP TABLE public.heads")
    await soon(lambda: store.read_only is not None and follower.read_only is not None)
    for each in (store, follower):
        await each.close()


async def test_a_killed_server_has_everything_that_was_signed(postgres: Postgres, url: str, tmp_path: Path) -> None:
    if postgres.data is None:
        pytest.skip("HOLDFAST_TEST_POSTGRES names a server that is not ours to kill")
    store = signing(url, tmp_path / "anchor")
    for step in range(200):
        await write(store, f"r{step % 5}:{step}")
        if step == 150:
            await soon(lambda: newest(tmp_path / "anchor", store.log_id) > 0)
    postgres.restart()
    signed = newest(tmp_path / "anchor", store.log_id)
    with contextlib.suppress(Exception):
        await store.close()
    again = signing(url, tmp_path / "anchor")
    assert again.read_only is None
    assert len(placed(url)) >= signed > 0
    await again.close()
