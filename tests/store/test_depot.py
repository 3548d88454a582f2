"""Large payloads outside the database: in an S3 that moto serves, and in a directory."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from holdfast.errors import Corrupt, Misuse, Unknown, Unwritable
from holdfast.store.depot import open_depot
from holdfast.store.postgres import PostgresStore
from holdfast.store.postgres_depot import PostgresDepot
from holdfast.store.postgres_reader import PostgresReader
from holdfast.store.url import open_url
from tests.postgres import Postgres
from tests.store.bucket import Bucket, Directory, Outside
from tests.store.depositor import payload
from tests.store.shelf import blob, bodies, draft, drafts, heard, start

BRANCH = "run@main"
BIG = blob(payload(1))
SMALL = blob(b"a few words")


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    yield bucket
    bucket.close()


@pytest.fixture(params=["file", "s3"])
def outside(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outside:
    if request.param == "file":
        return Directory(tmp_path / "blobs")
    bucket: Bucket = request.getfixturevalue("bucket")
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    bucket.empty()
    return bucket


@pytest.fixture
async def store(postgres: Postgres, outside: Outside) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(postgres.empty(), blobs=outside.url)
    yield opened
    await opened.close()


def depot_of(store: PostgresStore) -> PostgresDepot:
    assert store.depot is not None
    return store.depot


async def put(store: PostgresStore, *blobs: object) -> None:
    await store.append(BRANCH, [draft(each.digest.hex()) for each in blobs], epoch=0, barrier=True, blobs=blobs)


async def test_a_large_payload_is_outside_and_the_database_says_where(
    store: PostgresStore, outside: Outside, postgres: Postgres
) -> None:
    rope = blob(b"\0" + len(BIG.data).to_bytes(4, "big") + BIG.data, rope=True)
    await put(store, BIG, SMALL, rope)
    assert sorted(outside.objects().values()) == sorted([BIG.data, rope.data])
    with postgres.connect() as connection:
        sizes = connection.execute("SELECT octet_length(data) FROM holdfast.blob ORDER BY 1").fetchall()
    assert sizes == [(len(SMALL.data),), (48,), (48,)]
    assert [await store.blob(each.digest) for each in (BIG, SMALL, rope)] == [BIG, SMALL, rope]
    with PostgresReader(postgres.url) as reader:
        assert await reader.blob(BIG.digest) == BIG, "nobody told the reader where it is, but the database"


async def test_what_is_stored_already_is_not_put_again(
    store: PostgresStore, outside: Outside, postgres: Postgres
) -> None:
    await put(store, BIG)
    depot_of(store).sweep()  # so that putting it again would make another object
    other = PostgresStore(postgres.url)
    await put(other, BIG)
    await other.close()
    assert len(outside.objects()) == 1


async def test_an_object_that_is_there_with_other_bytes_is_put_right(store: PostgresStore, outside: Outside) -> None:
    name = f"{store.log_id}/{1:016x}/{hashlib.sha256(BIG.data).hexdigest()}"
    outside.put(name, b"something else")
    await put(store, BIG)
    assert outside.objects() == {name: BIG.data}


async def test_what_comes_later_is_not_placed_before_what_waits_for_the_outside(
    store: PostgresStore, outside: Outside
) -> None:
    depot = depot_of(store)._depot
    keep, may_go_on = depot.put, threading.Event()

    def slow(name: str, data: bytes) -> None:
        assert may_go_on.wait(60)
        keep(name, data)

    depot.put = slow  # type: ignore[method-assign]
    first = asyncio.create_task(put(store, BIG))
    later = [asyncio.create_task(put(store, SMALL)) for _ in range(3)]
    for _ in range(20):
        await asyncio.sleep(0)
    await store.append("other@main", drafts("not kept waiting"), epoch=0, barrier=True)
    assert await store.read(BRANCH) == []
    may_go_on.set()
    await asyncio.gather(first, *later)
    assert [entry.body.decode() for entry in await store.read(BRANCH)] == [BIG.digest.hex()] + [SMALL.digest.hex()] * 3


# --- crashes and sweeps ---


async def test_a_writer_killed_between_object_and_entry_leaves_an_object_and_no_entry(
    store: PostgresStore, outside: Outside, postgres: Postgres
) -> None:
    writer = start("tests.store.depositor", postgres.url, "die")
    said, errors = writer.communicate(timeout=60)
    assert (writer.returncode, said) == (-signal.SIGKILL, "put\n"), errors
    assert await store.read(BRANCH) == []
    assert list(outside.objects().values()) == [BIG.data]
    assert depot_of(store).sweep(dry_run=True).objects == 1
    assert len(outside.objects()) == 1
    swept = depot_of(store).sweep()
    assert (swept.objects, swept.bytes) == (1, len(BIG.data))
    assert outside.objects() == {}
    await put(store, BIG)
    assert await store.blob(BIG.digest) == BIG


async def test_what_a_stopped_writer_has_put_may_be_swept_and_its_entry_still_has_its_payload(
    store: PostgresStore, outside: Outside, postgres: Postgres
) -> None:
    writer = start("tests.store.depositor", postgres.url, "wait")
    assert heard(writer) == "put"
    _, status = await asyncio.to_thread(os.waitpid, writer.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert depot_of(store).sweep().objects == 1
    assert outside.objects() == {}
    os.kill(writer.pid, signal.SIGCONT)
    assert heard(writer) == "placed"
    writer.communicate(timeout=60)
    assert bodies(await store.read(BRANCH)) == [BIG.digest.hex()]
    assert await store.blob(BIG.digest) == BIG


async def test_a_sweep_leaves_alone_what_entries_name_and_what_is_not_its_own(
    store: PostgresStore, outside: Outside
) -> None:
    await put(store, BIG)
    strange = [f"{'0' * 32}/{1:016x}/{'1' * 64}", f"{store.log_id}/notes/about-this"]
    for name in strange:
        outside.put(name, b"of somebody else")
    assert depot_of(store).sweep().objects == 0
    assert depot_of(store).sweep().objects == 0
    assert set(strange) < outside.objects().keys()
    assert await store.blob(BIG.digest) == BIG


@pytest.mark.parametrize("outside", ["file", pytest.param("s3", marks=pytest.mark.soak)], indirect=True)
async def test_two_writers_beside_one_that_sweeps_without_a_break_lose_nothing(
    store: PostgresStore, outside: Outside, postgres: Postgres
) -> None:
    count = 8
    writers = [start("tests.store.depositor", postgres.url, name, count) for name in ("aa", "bb")]
    ended = threading.Event()

    def sweep() -> int:
        sweeps = 0
        while not ended.is_set():
            depot_of(store).sweep()
            sweeps += 1
            ended.wait(0.1)  # a writer that is overtaken by every sweep gives up, and rightly
        return sweeps

    sweeping = asyncio.create_task(asyncio.to_thread(sweep))
    told = await asyncio.gather(*(asyncio.to_thread(writer.communicate, timeout=120) for writer in writers))
    ended.set()
    assert await sweeping > 0
    assert [writer.returncode for writer in writers] == [0, 0], told
    for name, (said, _) in zip(("aa", "bb"), told, strict=True):
        digests = bodies(await store.read(f"{name}@main"))
        assert digests == said.split()
        assert len(digests) == count
        for digest in digests:
            assert hashlib.sha256((await store.blob(bytes.fromhex(digest))).data).hexdigest() == digest


# --- what is lost, damaged or away ---


async def test_a_payload_that_was_changed_outside_is_not_believed(store: PostgresStore, outside: Outside) -> None:
    await put(store, BIG)
    (name,) = outside.objects()
    outside.put(name, BIG.data[:-1] + bytes([BIG.data[-1] ^ 1]))
    with pytest.raises(Corrupt, match=name):
        await store.blob(BIG.digest)


async def test_a_payload_that_is_lost_outside_is_told_with_its_place(store: PostgresStore, outside: Outside) -> None:
    await put(store, BIG)
    (name,) = outside.objects()
    outside.delete(name)
    with pytest.raises(Unknown, match=name):
        await store.blob(BIG.digest)


async def test_while_the_outside_is_away_nothing_large_is_placed_and_nothing_is_lost(
    store: PostgresStore, outside: Outside
) -> None:
    await put(store, BIG)
    other = blob(payload(2))
    outside.away()
    with pytest.raises(Unwritable):
        await put(store, other)
    with pytest.raises(Unwritable):
        await store.blob(BIG.digest)
    await put(store, SMALL)
    outside.back()
    await put(store, other)
    assert bodies(await store.read(BRANCH)) == [each.digest.hex() for each in (BIG, SMALL, other)]
    assert [await store.blob(each.digest) for each in (BIG, SMALL, other)] == [BIG, SMALL, other]


def test_a_forked_process_is_told_that_it_cannot_use_the_object_store(bucket: Bucket) -> None:
    program = (
        "import os\n"
        "from holdfast.store.depot import open_depot\n"
        f"depot = open_depot('{bucket.url}'); depot.put('a/b', b'c')\n"
        "if os.fork(): os.wait()\n"
        "else:\n"
        "    try: depot.get('a/b')\n"
        "    except Exception as error: print(type(error).__name__, error.what, flush=True)\n"
    )
    environment = {**os.environ, **bucket.environment}
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert said.stdout == "Unwritable the object store was opened before this process was forked\n"


# --- which outside ---


async def test_the_outside_of_a_store_is_named_once(store: PostgresStore, outside: Outside, postgres: Postgres) -> None:
    with pytest.raises(Misuse, match="large payloads of this store are in"):
        PostgresStore(postgres.url, blobs=outside.url + "/elsewhere")
    again = PostgresStore(postgres.url, blobs=outside.url)
    await put(again, BIG)
    await again.close()
    assert len(outside.objects()) == 1


async def test_a_store_that_was_begun_without_an_outside_goes_on_with_one(postgres: Postgres, outside: Outside) -> None:
    before = PostgresStore(postgres.empty())
    await put(before, BIG)
    after = PostgresStore(postgres.url, blobs=outside.url)
    other = blob(payload(2))
    await put(after, BIG, other)
    assert list(outside.objects().values()) == [other.data]
    assert [await after.blob(each.digest) for each in (BIG, other)] == [BIG, other]
    assert await before.blob(other.digest) == other, "who opened it before finds out"
    await before.close()
    await after.close()


async def test_an_older_holdfast_refuses_a_store_that_keeps_payloads_outside(
    store: PostgresStore, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.store import postgres_schema

    monkeypatch.setattr(postgres_schema, "MIGRATIONS", postgres_schema.MIGRATIONS[:2])
    with pytest.raises(Corrupt, match="this Holdfast knows up to 2"):
        PostgresStore(postgres.url)


@pytest.mark.parametrize(
    "url",
    ["", "blobs", "file://host/path", "file:relative", "s3:///prefix", "s3://key:hush@bucket/prefix",
     "s3://bucket?access_key_id=hush", "http://host/bucket", "gs://bucket"],
)  # fmt: skip
def test_a_url_that_names_no_outside_is_refused_without_a_secret(url: str) -> None:
    with pytest.raises(Misuse) as refused:
        open_depot(url)
    assert "hush" not in str(refused.value)


def test_the_option_of_the_url_names_the_outside(postgres: Postgres, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "blobs")
    url = postgres.empty()
    opening = open_url(f"{url}{'&' if '?' in url else '?'}blobs={directory.url}&key={tmp_path}/key")

    async def write() -> None:
        await opening.store.append(BRANCH, drafts("a"), epoch=0, barrier=True, blobs=[BIG])
        await opening.store.close()

    asyncio.run(write())
    assert list(directory.objects().values()) == [BIG.data]


def test_without_obstore_it_is_said_what_to_install() -> None:
    program = (
        "import sys; sys.modules['obstore'] = None\n"
        "from holdfast.store.depot import open_depot\n"
        "try: open_depot('s3://bucket/prefix')\n"
        "except Exception as error: print(type(error).__name__, error.fix)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == 'Misuse pip install "holdfast[s3]"\n'
