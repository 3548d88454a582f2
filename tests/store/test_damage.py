"""Bytes that are not what was written: each damage is told before anything is dispatched, and `holdfast verify` names
the first bad entry.

A run has done half of its work when its store is damaged; whoever resumes it would do the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

from holdfast import Run, agent, errors, open_store
from holdfast.cli import main
from holdfast.store import Draft
from holdfast.store.sqlite import SqliteStore
from tests.crash.tools import carry_out, enter, world
from tests.crash.world import World
from tests.stage import Killed, life
from tests.store.shelf import ROOT

NAMES = ["a", "b", "c", "d"]
MEMORY = Path("/dev/shm")


async def think(about: str) -> str:
    """An answer of some length: that, too, can be damaged."""
    return f"{about}: " + " ".join(str(number) for number in range(400))


@agent
async def journey(run: Run, task: Any) -> list[str]:
    """A thought and two effects for each name; it dies before the name that `until` says."""
    answers: list[str] = []
    for name in NAMES:
        if name == world().path.with_name("until").read_text():
            raise Killed
        await run.decide(think, name)
        answers += [await carry_out("put", name), await carry_out("mail", name)]
    return answers


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one store, and the world outside."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "runs.db"

    @property
    def wal(self) -> Path:
        return self.folder / "runs.db-wal"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.database}?anchor={self.folder}/anchor"

    @property
    def world(self) -> World:
        return World(self.folder / "world")

    def copy(self, to: Path) -> Place:
        shutil.copytree(self.folder, to)
        return Place(to)

    def advance(self, until: str = "the end") -> Any:
        """One life of the run: its answer, or what it was ended by."""
        enter(self.world.path)
        self.folder.joinpath("until").write_text(until)
        with open_store(self.url) as house:
            return life(house, journey, {})

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        connection = apsw.Connection(str(self.database))
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def verdict(self) -> tuple[int, dict[str, Any] | None]:
        """What `holdfast verify` exits with, and the first fault that it names."""
        code, said, errors_said = holdfast("verify", self.url, "--json")
        assert said, errors_said
        return code, json.loads(said)["fault"]


def holdfast(*words: str) -> tuple[int, str, str]:
    """The command: its exit code, stdout and stderr."""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        return main(words), said.getvalue(), complained.getvalue()


@dataclass(frozen=True, slots=True)
class Stages:
    """The store after its first name, after its second, and the latter with everything still in the write-ahead log."""

    early: Place
    half: Place
    unmoved: Place


def held(place: Place) -> apsw.Connection:
    """While this is open, nobody else's closing moves the write-ahead log into the database."""
    connection = apsw.Connection(str(place.database), flags=apsw.SQLITE_OPEN_READONLY)
    connection.execute("SELECT count(*) FROM entry").fetchall()
    return connection


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-damage-", dir=MEMORY if MEMORY.is_dir() else None))
    place = Place(folder / "place")
    place.folder.mkdir()
    assert isinstance(place.advance("b"), Killed)
    early = place.copy(folder / "early")
    assert isinstance(place.advance("c"), Killed)
    half = place.copy(folder / "half")

    place = Place(folder / "other")
    place.folder.mkdir()
    with open_store(place.url):
        holding = held(place)
    assert isinstance(place.advance("c"), Killed)
    unmoved = place.copy(folder / "unmoved")
    holding.close()
    yield Stages(early, half, unmoved)
    shutil.rmtree(folder)


@pytest.fixture
def half(stages: Stages, tmp_path: Path) -> Place:
    return stages.half.copy(tmp_path / "half")


@pytest.fixture
def unmoved(stages: Stages, tmp_path: Path) -> Place:
    return stages.unmoved.copy(tmp_path / "unmoved")


def told_before_anything_is_sent(place: Place, kind: type[errors.HoldfastError], what: str) -> None:
    before = place.world.lines()
    try:
        ending = place.advance()
    except errors.HoldfastError as error:  # at the opening
        ending = error
    assert isinstance(ending, kind), f"the damage was not told: {ending!r}"
    assert what in str(ending)
    assert "\n  fix: " in str(ending), f"it does not say what to do: {ending}"
    assert place.world.lines() == before, "something was sent from a store that is damaged"


def flip(path: Path, at: int) -> None:
    """Change one bit."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_sound_store_is_verified_and_resumed(half: Place) -> None:
    command = [sys.executable, "-m", "holdfast", "verify", half.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "OK")
    assert half.advance() == [
        answer for name in NAMES for tool in ("put", "mail") for answer in half.world.effects(tool, name)
    ]
    assert len(half.world.effects("mail", "d")) == 1


# --- the database file ---


SEQ = 5


def flip_where(place: Place, value: bytes, asked: str) -> None:
    """Change one bit of a value at that place of the file which changes the answer to `asked`: rows, indexes and
    forgotten pages may hold the same bytes."""
    before, data, at = place.rows(asked), place.database.read_bytes(), -1
    while (at := data.find(value, at + 1)) >= 0:
        flip(place.database, at + len(value) // 2)
        if place.rows(asked) != before:
            return
        flip(place.database, at + len(value) // 2)
    raise AssertionError("it is nowhere in the file")


@pytest.mark.parametrize("column", ["body", "digest", "key"])
def test_a_flipped_byte_in_a_row_is_told_and_its_entry_is_named(half: Place, column: str) -> None:
    asked = f"SELECT {column} FROM entry NOT INDEXED WHERE seq = {SEQ}"  # noqa: S608
    flip_where(half, half.rows(asked)[0][0], asked)
    told_before_anything_is_sent(half, errors.Corrupt, f"r@main:{SEQ}")
    code, fault = half.verdict()
    assert fault is not None
    assert (code, fault["rule"], fault["index"], fault["node"]) == (1, "chain", SEQ - 1, f"r@main:{SEQ}")


def test_a_run_that_its_index_has_lost_is_not_begun_anew(half: Place) -> None:
    flip_where(half, b"r@main", "SELECT id FROM branch INDEXED BY sqlite_autoindex_branch_1 WHERE name = 'r@main'")
    told_before_anything_is_sent(half, errors.Corrupt, "r@main")
    assert half.verdict()[0] == 1


LONGEST = "SELECT digest, data, id FROM blob ORDER BY length(data) DESC LIMIT 1"


def test_a_flipped_byte_in_a_payload_is_told_and_it_is_named(half: Place) -> None:
    ((digest, data, _),) = half.rows(LONGEST)
    flip(half.database, half.database.read_bytes().index(data) + len(data) // 2)
    told_before_anything_is_sent(half, errors.Corrupt, "payload")
    code, fault = half.verdict()
    assert (code, fault and fault["rule"]) == (1, "blob")
    assert digest.hex() in str(fault)


def test_a_removed_payload_is_told(half: Place) -> None:
    ((digest, _, number),) = half.rows(LONGEST)
    half.rows(f"DELETE FROM blob WHERE id = {number}")  # noqa: S608
    half.rows(f"DELETE FROM blob_place WHERE id = {number}")  # noqa: S608
    told_before_anything_is_sent(half, errors.Unknown, digest.hex())


@pytest.mark.parametrize("seq", [1, SEQ])
def test_a_removed_row_is_told_and_its_place_is_named(half: Place, seq: int) -> None:
    half.rows(f"DELETE FROM entry WHERE seq = {seq}")  # noqa: S608
    told_before_anything_is_sent(half, errors.Stopped, "missing" if seq > 1 else "r@main:1")
    code, fault = half.verdict()
    assert (code, fault and fault["index"], fault and fault["rule"]) == (1, seq - 1, "place")


def test_a_removed_last_row_is_told_by_the_anchor(half: Place) -> None:
    ((entries,),) = half.rows("SELECT count(*) FROM entry")
    half.rows(f"DELETE FROM entry WHERE id = {entries}")  # noqa: S608
    told_before_anything_is_sent(half, errors.RolledBack, f"its anchor knows of {entries}")
    code, fault = half.verdict()
    assert (code, fault and fault["index"], fault and fault["rule"]) == (1, entries - 1, "shorter")


def test_a_page_that_was_overwritten_is_told(half: Place) -> None:
    ((page,),) = half.rows("SELECT rootpage FROM sqlite_schema WHERE name = 'entry'")
    with half.database.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    told_before_anything_is_sent(half, errors.Corrupt, "SQLite cannot read the store")
    code, fault = half.verdict()
    assert (code, fault and fault["rule"], fault and fault["index"]) == (1, "file", 0)


# --- the write-ahead log ---


def frames(wal: Path) -> list[int]:
    """Where the frames of the newest generation begin (those with the salt of the file's head)."""
    data = wal.read_bytes()
    salt, size = data[16:24], 24 + int.from_bytes(data[8:12], "big")
    found: list[int] = []
    while data[32 + len(found) * size :][8:16] == salt:
        found.append(32 + len(found) * size)
    return found


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_a_flipped_byte_in_the_write_ahead_log_is_told(unmoved: Place, share: float) -> None:
    found = frames(unmoved.wal)
    assert len(found) > 20
    flip(unmoved.wal, found[int(share * (len(found) - 1))] + 24 + 100)
    told_before_anything_is_sent(unmoved, errors.RolledBack, "" if share == 0.0 else "its anchor knows of")
    assert holdfast("verify", unmoved.url)[0] != 0


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_write_ahead_log_that_was_torn_is_told_and_the_first_missing_entry_is_named(
    unmoved: Place, share: float
) -> None:
    found = frames(unmoved.wal)
    ((entries,),) = unmoved.copy(unmoved.folder.with_name("whole")).rows("SELECT count(*) FROM entry")
    with unmoved.wal.open("r+b") as file:
        file.truncate(found[int(share * (len(found) - 1))] + 1000)
    told_before_anything_is_sent(unmoved, errors.RolledBack, f"its anchor knows of {entries}")
    ((kept,),) = unmoved.copy(unmoved.folder.with_name("torn")).rows("SELECT count(*) FROM entry")
    assert kept < entries
    code, fault = unmoved.verdict()
    assert (code, fault and fault["rule"], fault and fault["index"]) == (1, "anchor", kept)


def test_what_was_torn_behind_the_last_transaction_was_never_promised(unmoved: Place) -> None:
    end = frames(unmoved.wal)[-1] + 24 + 4096
    with unmoved.wal.open("r+b") as file:
        first = file.read(32)
        file.seek(end)
        file.write(bytes(8) + first[16:24] + os.urandom(3000))
    assert unmoved.verdict() == (0, None)
    assert len(unmoved.advance()) == 2 * len(NAMES)


@pytest.mark.parametrize("moved", [False, True], ids=["before anything was moved out of it", "afterwards"])
def test_a_write_ahead_log_that_was_deleted_is_told(unmoved: Place, moved: bool) -> None:
    if moved:
        unmoved.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        holding = held(unmoved)
        assert isinstance(unmoved.advance("d"), Killed)
        unmoved = unmoved.copy(unmoved.folder.with_name("later"))
        holding.close()
    assert unmoved.wal.stat().st_size > 0
    unmoved.wal.unlink()
    unmoved.folder.joinpath("runs.db-shm").unlink(missing_ok=True)
    told_before_anything_is_sent(unmoved, errors.RolledBack, "its anchor knows of" if moved else "the log is gone")
    assert holdfast("verify", unmoved.url)[0] != 0


def test_an_empty_store_beside_the_key_of_a_log_is_told_with_the_anchor_at_its_usual_place(
    unmoved: Place,
) -> None:
    """Such an anchor goes by the id of the log, and the id is gone with the log: only the key is left to tell."""
    unmoved.wal.unlink()
    with pytest.raises(errors.RolledBack, match="the log is gone") as told, open_store(f"sqlite:///{unmoved.database}"):
        pass
    assert "move the key away" in told.value.fix
    with pytest.raises(errors.RolledBack), open_store(f"sqlite:///{unmoved.database}"):
        pass
    unmoved.folder.joinpath("runs.db-key").rename(unmoved.folder / "old-key")
    with open_store(f"sqlite:///{unmoved.database}"):
        pass


# --- an older copy ---


def test_an_older_copy_is_read_only_until_somebody_accepts_it(stages: Stages, half: Place) -> None:
    shutil.copyfile(stages.early.database, half.database)
    ((old,),) = stages.early.copy(half.folder.with_name("older")).rows("SELECT count(*) FROM entry")
    ((new,),) = stages.half.copy(half.folder.with_name("newer")).rows("SELECT count(*) FROM entry")
    told_before_anything_is_sent(half, errors.RolledBack, f"the log has {old} entries, its anchor knows of {new}")
    with open_store(half.url) as house, pytest.raises(errors.RolledBack):
        house.cancel("r", by="ann")
    with open_store(half.url) as house:
        assert [entry.seq for entry in asyncio.run(house.store.read("r@main"))] == list(range(1, old + 1))
    code, fault = half.verdict()
    assert (code, fault and fault["rule"], fault and fault["index"]) == (1, "anchor", old)

    code, _, complained = holdfast("anchor", "--store", half.url)
    assert code == 5
    assert "holdfast anchor --accept" in complained
    code, _, complained = holdfast("anchor", "--accept", "--by", "ann", "--store", half.url)
    assert code == 0, complained
    assert len(half.advance()) == 2 * len(NAMES)
    assert holdfast("anchor", "--store", half.url)[0] == 0
    assert half.verdict() == (0, None)


# --- a record that we do not know ---


FUTURE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a future version": (lambda record: record.update(v=2), "2"),
    "a future type": (lambda record: record.update(t="dream"), "dream"),
}


@pytest.mark.parametrize("what", FUTURE)
def test_a_record_from_the_future_is_told_and_named(half: Place, what: str) -> None:
    """Chained and signed like any other: a newer Holdfast has written it."""
    change, word = FUTURE[what]
    (claim,), _, (body,) = half.rows("SELECT body FROM entry WHERE seq <= 3 ORDER BY seq")
    ((entries,),) = half.rows("SELECT count(*) FROM entry")
    record = json.loads(body)
    change(record)
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    async def place() -> None:
        store = SqliteStore(half.database, anchor=half.folder / "anchor")
        grant = await store.claim("r@main")
        said = [Draft(b"", claim), Draft(b"", text.encode())]
        await store.append("r@main", said, epoch=grant.epoch, barrier=True, release=True)
        await store.close()

    asyncio.run(place())
    told_before_anything_is_sent(half, errors.Corrupt, word)
    code, fault = half.verdict()
    assert (code, fault and fault["index"], fault and fault["rule"]) == (1, entries + 1, "record")


# --- any byte ---


def told_or_harmless(half: Place, at: int) -> None:
    flip(half.database, at)
    holdfast("verify", half.url)  # whatever it finds, it does not fall over
    try:
        ending = half.advance()
    except errors.HoldfastError as error:
        ending = error
    if isinstance(ending, errors.HoldfastError):  # `verify` does not judge claims
        assert "\n  fix: " in str(ending)
    else:
        assert ending == [f"{tool}/{name}/{NAMES.index(name) + 1}" for name in NAMES for tool in ("put", "mail")]
    twice = [name for name in NAMES if len(half.world.effects("mail", name)) > 1]
    assert not twice, f"byte {at}: sent twice: {twice}"


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_anywhere_is_told_or_harmless(half: Place, seed: int) -> None:
    told_or_harmless(half, random.Random(seed).randrange(half.database.stat().st_size))


@pytest.mark.soak
def test_each_of_many_flipped_bits_is_told_or_harmless(stages: Stages, tmp_path: Path) -> None:
    chance = random.Random()
    for number in range(2000):
        half = stages.half.copy(tmp_path / f"{number}")
        told_or_harmless(half, chance.randrange(half.database.stat().st_size))
        shutil.rmtree(half.folder)


def test_a_text_that_is_none_is_told(half: Place) -> None:
    """SQLite gives out whatever bytes stand where a text must stand."""
    half.rows("UPDATE branch SET name = CAST(x'8000' AS TEXT)")
    assert holdfast("verify", half.url)[0] == 1
    with pytest.raises(errors.Corrupt, match="cannot read the store"), open_store(half.url):
        pass


async def test_a_worker_whose_name_is_no_text_stops_the_store(half: Place) -> None:
    half.rows("INSERT INTO worker VALUES ('w', '', 1, '', CAST(x'8000' AS TEXT), 0)")
    half.rows("UPDATE claim SET worker = 'w'")
    store = SqliteStore(half.database, anchor=None)
    with pytest.raises(errors.Corrupt, match="cannot read the store"):
        await store.claim("r@main")
    with pytest.raises(errors.Corrupt):
        await store.append("s@main", [Draft(b"", b"{}")], epoch=0)
    await store.close()
