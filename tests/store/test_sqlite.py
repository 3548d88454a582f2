"""The SQLite store: what it asserts of every connection, what it refuses, and how processes share one file."""

import asyncio
import contextlib
import os
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from holdfast.errors import Corrupt, Stopped, Unwritable
from holdfast.store import committer, schema
from holdfast.store.heads import Heads
from holdfast.store.schema import connect
from holdfast.store.sqlite import SqliteStore
from tests.store.shelf import Shelf, assert_whole, blob, bodies, drafts, heard, start

BRANCH = "run@main"
PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,
    "mmap_size": 0,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "foreign_keys": 1,
    "wal_autocheckpoint": 0,
}


@pytest.fixture
def lasting(tmp_path: Path) -> Shelf:
    return Shelf("sqlite", tmp_path / "runs.db")


def settings(connection: apsw.Connection) -> dict[str, object]:
    found = {name: connection.pragma(name) for name in PRAGMAS}
    return {name: 0 if value is None else value for name, value in found.items()}


# --- every connection ---


async def test_every_connection_has_every_setting(lasting: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[apsw.Connection] = []

    class Watched(apsw.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            opened.append(self)

    monkeypatch.setattr(apsw, "Connection", Watched)
    store = lasting.open()
    assert len(opened) == 2, "one connection writes, one reads"
    assert [settings(connection) for connection in opened] == [PRAGMAS, PRAGMAS]
    writer, reader = opened
    assert (writer.pragma("query_only"), reader.pragma("query_only")) == (0, 1)
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("DELETE FROM entry").fetchall()
    await store.close()


@pytest.mark.parametrize("name", [*PRAGMAS, "query_only"])
def test_a_setting_that_does_not_take_is_an_error(lasting: Shelf, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """SQLite says nothing when it cannot carry out an assignment: only asking tells."""

    class Deaf(apsw.Connection):
        def execute(self, statement: str, *args: Any, **kwargs: Any) -> apsw.Cursor:
            return super().execute("SELECT 77" if statement == f"PRAGMA {name}" else statement, *args, **kwargs)

    monkeypatch.setattr(apsw, "Connection", Deaf)
    with pytest.raises(Unwritable, match=name) as refusal:
        lasting.open()
    assert refusal.value.fix


# --- what is refused ---


@pytest.mark.parametrize("version", ["3.7.0", "3.44.6", "3.50.4", "3.51.2"])
def test_an_sqlite_that_can_corrupt_its_log_is_refused(
    lasting: Shelf, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(apsw, "sqlitelibversion", lambda: version)
    with pytest.raises(Unwritable, match=version):
        lasting.open()
    assert not lasting.path.exists()


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "4.0.0"])
async def test_any_later_sqlite_is_good(lasting: Shelf, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(apsw, "sqlitelibversion", lambda: version)
    await lasting.open().close()


def foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE mine (x); INSERT INTO mine VALUES (7)")


def numbered(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA user_version = 1")


def newer(path: Path) -> None:
    asyncio.run(SqliteStore(path, anchor=None).close())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA user_version = 99")


def text(path: Path) -> None:
    path.write_bytes(b"These are not the bytes of a database. " * 200)


REFUSED: dict[str, tuple[Callable[[Path], object], type[Stopped], str]] = {
    "another program's database": (foreign, Corrupt, "not a Holdfast store"),
    "an empty database with a version": (numbered, Corrupt, "not a Holdfast store"),
    "a newer schema": (newer, Corrupt, "schema 99"),
    "not a database": (text, Corrupt, "not a database"),
    "a directory": (Path.mkdir, Unwritable, "not a regular file"),
    "a pipe": (os.mkfifo, Unwritable, "not a regular file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_store_of_ours_is_refused_and_left_as_it_is(lasting: Shelf, name: str) -> None:
    make, error, words = REFUSED[name]
    make(lasting.path)
    before = lasting.path.read_bytes() if lasting.path.is_file() else b""
    with pytest.raises(error, match=words) as refusal:
        lasting.open()
    assert str(lasting.path) in str(refusal.value)
    assert refusal.value.fix
    assert (lasting.path.read_bytes() if lasting.path.is_file() else b"") == before


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unwritable, match="directory does not exist") as refusal:
        SqliteStore(tmp_path / "no" / "runs.db", anchor=None)
    assert refusal.value.fix.startswith("mkdir -p ")


# Mounts as Linux lists them: the deepest mount point of a path counts, the last where two stand on one point.
MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /tmp rw - tmpfs tmpfs rw
41 22 0:40 / /net rw - nfs4 server:/export rw,vers=4.2
42 41 0:41 / /net/local rw - xfs /dev/vdb rw
43 22 0:42 / /win rw - cifs //server/share rw
44 22 0:43 / /host rw - 9p host rw,trans=virtio
45 22 0:44 / /sshfs rw - fuse.sshfs me@there: rw
46 22 0:45 / /old\040disk rw - nfs server:/old rw
47 22 0:46 / /ceph rw - ceph 10.0.0.1:/ rw
48 22 0:47 / /hidden rw - ext4 /dev/vdc rw
49 22 0:48 / /hidden rw - nfs4 server:/over rw
50 22 0:49 / /usb rw - fuseblk /dev/sdb1 rw
51 22 0:50 / /tab\011point rw - nfs server:/tab rw
"""
PLACES = {
    "/": None,
    "/tmp/x": None,
    "/network": None,
    "/net": "NFS",
    "/net/deep/er": "NFS",
    "/net/local": None,
    "/net/local/x": None,
    "/net/localized": "NFS",
    "/win/x": "SMB",
    "/host/x": "9p",
    "/sshfs/x": "FUSE",
    "/usb": "FUSE",
    "/old disk/x": "NFS",
    "/ceph": "Ceph",
    "/hidden/x": "NFS",
    "/tab\tpoint/x": "NFS",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_network_file_system_is_known_by_its_mount(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _self: MOUNTS)
    monkeypatch.setattr(os.path, "realpath", str)
    assert schema._network_of(Path(place)) == PLACES[place]


def test_a_store_on_a_network_file_system_is_refused(lasting: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_network_of", lambda _folder: "NFS")
    with pytest.raises(Unwritable, match="NFS") as refusal:
        lasting.open()
    assert "local disk" in refusal.value.fix
    assert not lasting.path.exists()


@pytest.mark.parametrize("fault", ["key", "reader", "schema"])
def test_a_store_that_cannot_be_opened_leaves_nothing_behind(
    lasting: Shelf, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """No thread, and no open file: another process may move the store away or mend it."""
    key = lasting.path.with_name("runs.db-key")
    match fault:
        case "key":
            key.write_text("no key")
        case "reader":
            monkeypatch.setattr("holdfast.store.sqlite.connect", lambda *_, **__: schema._version() / 0)
        case _:
            newer(lasting.path)
    threads = threading.active_count()
    with pytest.raises((Stopped, ZeroDivisionError)):
        lasting.open()
    assert threading.active_count() == threads
    if sys.platform == "linux":
        assert not [name for name in open_files() if name.startswith(str(lasting.path))]


def open_files() -> list[str]:
    names: list[str] = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return names


async def test_an_opening_may_take_longer_than_the_time_between_flushes(
    lasting: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> None:
        time.sleep(0.1)

    monkeypatch.setattr(Heads, "compare", slow)
    store = lasting.open(flush_s=0.001)
    await asyncio.wait_for(store.append(BRANCH, drafts("x"), epoch=0, barrier=True), 60)
    await store.close()


# --- group commit, flushing, closing ---


async def test_appends_that_wait_together_share_transactions(lasting: Shelf) -> None:
    store = SqliteStore(lasting.path, flush_s=3600, anchor=None)
    done = 0

    def counted() -> bool:
        nonlocal done
        done += 1
        return False

    store.committer.connection.set_commit_hook(counted)
    await asyncio.gather(*(store.append(f"r{n}@main", drafts("x"), epoch=0, barrier=True) for n in range(256)))
    assert 1 <= done <= 32
    assert [len(await store.read(f"r{n}@main")) for n in range(256)] == [1] * 256
    await store.close()


async def test_closing_keeps_what_was_waiting(lasting: Shelf) -> None:
    store = lasting.open(flush_s=3600)
    waiting = [asyncio.create_task(store.append(BRANCH, drafts(f"{n}"), epoch=0, barrier=True)) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*waiting)
    again = lasting.open()
    assert sorted(map(int, bodies(await again.read(BRANCH)))) == list(range(50))
    await again.close()


async def test_a_store_that_was_opened_again_has_everything(lasting: Shelf) -> None:
    kept = blob(b"kept " * 1000)
    store = lasting.open()
    grant = await store.claim(BRANCH)
    await store.append(BRANCH, drafts("a"), epoch=grant.epoch, blobs=[kept])
    placed = await store.append(BRANCH, drafts("b"), epoch=grant.epoch)
    await store.close()
    again = lasting.open()
    entries = await again.read(BRANCH)
    assert entries[1:] == placed
    assert_whole(BRANCH, entries)
    assert await again.blob(kept.digest) == kept
    assert (await again.claim(BRANCH)).previous == "released"
    await again.close()


# --- many processes ---


async def test_processes_that_append_at_once_lose_and_double_nothing(lasting: Shelf) -> None:
    """Each on a branch of its own, and all on one: unguarded, and guarded by what they have seen."""
    await lasting.open().close()
    names, count = ("a", "b", "c"), 60
    processes = [start("tests.store.appender", lasting.path, name, count) for name in names]
    answers = [await asyncio.to_thread(process.communicate, "go\n", 300) for process in processes]
    assert [errors for _, errors in answers] == [""] * 3
    store = lasting.open()
    said = {line.split()[0]: line.split()[1:] for out, _ in answers for line in out.splitlines()}
    expected = sorted(f"{name}/{number}" for name in names for number in range(count))
    assert sorted(said) == expected
    for branch in ("all@main", "guarded@main"):
        entries = await store.read(branch)
        assert_whole(branch, entries)
        assert sorted(bodies(entries)) == expected
    ours = await store.read("all@main")
    for name in names:
        mine = await store.read(f"{name}@main")
        assert_whole(f"{name}@main", mine)
        assert bodies(mine) == [f"{name}/{number}" for number in range(count)]
        for entry in mine:
            place, shared = said[entry.body.decode()]
            assert (entry.seq, ours[int(shared) - 1].body) == (int(place), entry.body)
    await store.close()


async def test_an_entry_of_another_process_is_taken_into_account_at_once(lasting: Shelf) -> None:
    """What is remembered of a branch between transactions is forgotten when another process has written."""
    store = lasting.open()
    other = start("tests.store.claimant", lasting.path, "theirs@main")
    assert heard(other) == "claimed 1 none"
    assert other.stdin is not None
    for number in range(1, 6):
        other.stdin.write(f"{number}\n")
        other.stdin.flush()
        assert heard(other) == f"placed {2 * number - 1}"
        (placed,) = await store.append("theirs@main", drafts("an approval"), epoch=0)
        assert placed.seq == 2 * number
    assert_whole("theirs@main", await store.read("theirs@main"))
    await asyncio.to_thread(other.communicate, "\n", 60)
    await store.close()


# --- the write-ahead file ---


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


async def test_the_write_ahead_file_gets_its_size_after_some_barriers(lasting: Shelf) -> None:
    """Who writes a few words and leaves does not pay for it."""
    store = lasting.open()
    for _ in range(5):
        await store.append(BRANCH, drafts("x"), epoch=0, barrier=True)
    assert wal(lasting.path).stat().st_size < 1 << 20
    for _ in range(20):
        await store.append(BRANCH, drafts("x"), epoch=0, barrier=True)
    size = wal(lasting.path).stat().st_size
    assert size >= 12 << 20
    for _ in range(20):
        await store.append(BRANCH, drafts("x"), epoch=0, barrier=True)
    assert wal(lasting.path).stat().st_size == size
    await store.close()


@pytest.mark.parametrize("barrier", [True, False])
@pytest.mark.parametrize("alone", [True, False])
async def test_the_write_ahead_file_does_not_grow_however_fast_it_is_written(
    lasting: Shelf, *, alone: bool, barrier: bool
) -> None:
    """60 MB in one go, by appends that never wait for a flush interval."""
    store = lasting.open(flush_s=60.0)
    for _ in range(1000):
        await store.append(BRANCH, drafts("x"), epoch=0, barrier=barrier, alone=alone, blobs=[blob(os.urandom(60_000))])
    assert wal(lasting.path).stat().st_size < 24 << 20
    await store.close()


async def test_a_commit_that_takes_long_does_not_keep_the_write_ahead_file_growing_for_good(lasting: Shelf) -> None:
    """The thread that empties it finds the lock taken, gives up, and must be asked again."""
    store = lasting.open(flush_s=60.0)
    with store.committer._lock:
        store.committer._nudged = True
        store.committer._queue.put(committer._Nudge())
        await asyncio.sleep(20 * committer.LOCK_S)

    async def more() -> None:
        await store.append(BRANCH, drafts("x"), epoch=0, barrier=True, alone=True, blobs=[blob(os.urandom(9 << 20))])

    await more()
    assert await stops_growing(wal(lasting.path), more)
    await store.close()


async def stops_growing(file: Path, more: Callable[[], Awaitable[None]]) -> bool:
    """Whether what comes is written over what was there, three times in a row: as soon as the disk has time for it."""
    held, over = size_of(file), 0
    for _ in range(40):
        await more()
        over = over + 1 if size_of(file) <= held else 0
        if over == 3:
            return True
        held = size_of(file)
        await asyncio.sleep(0.1)
    return False


def size_of(file: Path) -> int:
    return file.stat().st_size


@pytest.mark.parametrize("share", [0, 1, 37, 100])
async def test_being_killed_while_the_write_ahead_file_is_extended_harms_nothing(lasting: Shelf, share: int) -> None:
    """Another process has the store open meanwhile, so the file stays as the dead one left it."""
    witness = lasting.open()
    process = start("tests.store.extender", lasting.path, share)
    said, errors = await asyncio.to_thread(process.communicate, None, 60)
    assert (said, process.returncode) == ("five\n", -9), errors
    await witness.append(BRANCH, drafts("5"), epoch=0, barrier=True)
    entries = await witness.read(BRANCH)
    assert_whole(BRANCH, entries)
    assert bodies(entries) == list("012345")
    await witness.close()
    again = lasting.open()
    assert bodies(await again.read(BRANCH)) == list("012345")
    await again.close()


async def test_a_long_reader_keeps_its_view_and_the_write_ahead_file_is_used_again_after_it(lasting: Shelf) -> None:
    """While somebody reads, nothing may be moved from under them; when they have ended, the file stops growing."""
    store = lasting.open(flush_s=0.02)
    await store.append(BRANCH, drafts("first"), epoch=0, barrier=True)
    reader = connect(lasting.path, writer=False)
    reader.execute("BEGIN").fetchall()
    counted = "SELECT count(*) FROM entry"
    assert reader.execute(counted).fetchall() == [(1,)]

    async def load(megabytes: int) -> None:
        for _ in range(megabytes):
            await store.append(BRANCH, drafts("x"), epoch=0, barrier=True, blobs=[blob(os.urandom(1 << 20))])

    await load(24)
    assert reader.execute(counted).fetchall() == [(1,)]
    held = wal(lasting.path).stat().st_size
    assert held > 20 << 20, "nothing may be written over what the reader still sees"
    reader.execute("ROLLBACK").fetchall()
    reader.close()
    assert await stops_growing(wal(lasting.path), lambda: load(16))
    assert_whole(BRANCH, await store.read(BRANCH))
    assert len(await store.read(BRANCH)) >= 73
    assert store.committer.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    await store.close()


def placed(path: Path) -> tuple[int, int]:
    """How many payloads there are, and how many digests are in the index."""
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        return connection.execute("SELECT (SELECT count(*) FROM blob), (SELECT count(*) FROM blob_place)").fetchall()[0]


async def test_a_payload_is_found_before_and_after_its_digest_is_indexed(lasting: Shelf) -> None:
    store = lasting.open()
    grant = await store.claim(BRANCH)
    kept = [blob(b"%d" % number) for number in range(1500)]
    for number, one in enumerate(kept):
        await store.append(BRANCH, drafts(str(number)), epoch=grant.epoch, blobs=[one, kept[0]])
    rows, indexed = placed(lasting.path)
    assert rows == 1500, "a payload that was known was stored again"
    assert 0 < indexed < 1500
    assert [await store.blob(one.digest) for one in kept] == kept
    await store.close()
    again = lasting.open()
    assert placed(lasting.path) == (1500, 1500)
    assert [await again.blob(one.digest) for one in kept] == kept
    await again.close()


async def test_a_payload_that_an_earlier_life_stored_is_not_stored_again(lasting: Shelf) -> None:
    kept = blob(b"kept " * 1000)
    for _ in range(3):
        store = lasting.open()
        grant = await store.claim(BRANCH)
        await store.append(BRANCH, drafts("a"), epoch=grant.epoch, blobs=[kept])
        assert await store.blob(kept.digest) == kept
        await store.close()
    await lasting.open().close()
    assert placed(lasting.path) == (1, 1)


def test_payloads_are_written_and_read_in_many_threads_at_once(lasting: Shelf) -> None:
    """A tool that is called plainly writes from a loop of its own: what compresses must bear that."""
    store = lasting.open()

    async def busy(number: int) -> None:
        for turn in range(20):
            data = random.Random(number * 100 + turn).randbytes(200_000).hex().encode()  # half of it can be saved
            (entry,) = await store.append(f"r{number}@main", drafts("{}"), epoch=0, blobs=[blob(data)])
            assert entry.seq == turn + 1
            assert (await store.blob(blob(data).digest)).data == data

    with ThreadPoolExecutor(8) as pool:
        for ended in [pool.submit(lambda number=number: asyncio.run(busy(number))) for number in range(8)]:
            ended.result()
    asyncio.run(store.close())


# --- whose it is ---


async def test_a_store_that_is_made_is_its_owners_alone(lasting: Shelf) -> None:
    """Whatever the process lets others read of its files."""
    before = os.umask(0o022)
    try:
        store = lasting.open()
        await store.append(BRANCH, drafts("x"), epoch=0, barrier=True)
        files = [lasting.path.with_name(lasting.path.name + ending) for ending in ("", "-wal", "-shm", "-key")]
        modes = {each.name: each.stat().st_mode & 0o777 for each in files}
        await store.close()
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}
