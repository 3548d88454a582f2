"""The n-th write, flush, truncation or read fails, once or from then on, through a whole run: G11.

Whatever fails, nothing that was acknowledged is lost, the database is whole, the error says what to do, no effect
starts afterwards, and whoever opens the store on a sound disk goes on with nothing done twice.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from holdfast import House, InDoubt, errors, open_store
from holdfast.core.record import Seal
from tests.crash.nursery import Nursery
from tests.crash.power import PowerNursery, cannot_mount
from tests.crash.tools import enter
from tests.crash.trial import Trial
from tests.crash.world import Line, World
from tests.store.faults import OPERATIONS, TOUR, Fault, FaultyDisk, FaultyNursery, Quiet, stubborn
from tests.store.shelf import assert_whole

MEMORY = Path("/dev/shm")
KINDS = [
    (operation, how, lasting)
    for operation in OPERATIONS
    for how in ("broken", "full", "torn")[: 3 if operation == "write" else 1]
    for lasting in ("once", "ever")
]
# Where a life begins: with no store at all, or with one that a death has left, with something to recover.
DEATHS = {"afresh": None, "in a recovery": "in acted 4"}
# So many places of one kind are tried by default, spread over the life; all of them in the soak.
SHARE = 4


@pytest.fixture(scope="module")
def faulty() -> Iterator[FaultyNursery]:
    bearing = FaultyNursery()
    yield bearing
    bearing.close()


@pytest.fixture
def ground() -> Iterator[Path]:
    """A directory, in memory where that is possible: what fails here fails on purpose."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-faults-", dir=MEMORY if MEMORY.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


def begun(folder: Path, nursery: FaultyNursery, death: str | None) -> Trial:
    trial = Trial(folder, nursery, "stubborn", {})
    if death is not None:
        trial.die(death)
    return trial


def places(nursery: FaultyNursery, ground: Path, death: str | None) -> dict[str, int]:
    """How many operations of each kind a life asks for on a sound disk."""
    ended, result = begun(ground / "sound", nursery, death).live()
    assert ended == "left"
    return result["operations"]


def through(nursery: FaultyNursery, ground: Path, kind: tuple[str, str, str], death: str | None, share: int) -> None:
    operation, how, lasting = kind
    count = places(nursery, ground, death)[operation]
    assert count, f"a life that never asks for a {operation} proves nothing"
    met = 0
    for n in range(1 + (len(how) + len(lasting)) % max(1, count // share), count + 1, max(1, count // share)):
        fault = f"{operation} {n} {how} {lasting}"
        trial = begun(ground / fault.replace(" ", "-"), nursery, death)
        try:
            ended, result = trial.live(fault=fault)
            assert ended == "left", f"the process did not outlive the fault: {ended}"
            met += result["failures"]
            ended_well(result, how)
            nothing_starts_after_a_stop(trial.world.lines())
            resumes(trial, result["acknowledged"])
        except AssertionError as error:
            error.add_note(f"the fault: {fault}")
            raise
    assert met, "no fault was ever met"


def ended_well(result: dict[str, Any], how: str) -> None:
    """The run came to its end, waits for a person, or stopped with an error that says what to do."""
    if "raised" in result:
        kind = getattr(errors, result["raised"])
        assert issubclass(kind, errors.Stopped)
        assert how != "full" or kind is errors.StoreFull
        assert "\n  fix: " in result["text"], result["text"]


def nothing_starts_after_a_stop(lines: list[Line]) -> None:
    stops = [number for number, line in enumerate(lines) if line.get("met") == "stopped"]
    if stops:
        begun_after = [line for line in lines[stops[0] :] if "did" in line or "asked" in line]
        assert not begun_after, f"the store had stopped, and yet: {begun_after}"


def resumes(trial: Trial, acknowledged: list[list[Any]]) -> None:
    """On a sound disk: the same run ends, nothing twice, and what was acknowledged is in its log."""
    trial.finish()
    for tool, name in TOUR[1:]:
        trial.census([tool], [name])
    entries = trial.entries()
    assert_whole("trial@main", entries)
    kept = {(entry.branch, entry.seq, entry.digest.hex()) for entry in entries}
    lost = [entry for entry in acknowledged if tuple(entry) not in kept]
    assert not lost, f"acknowledged, and lost: {lost}"
    path = trial.url.removeprefix("sqlite:///").partition("?")[0]
    connection = apsw.Connection(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.parametrize("beginning", DEATHS)
@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_a_failing_operation_loses_nothing_and_starts_nothing(
    faulty: FaultyNursery, ground: Path, kind: tuple[str, str, str], beginning: str
) -> None:
    through(faulty, ground, kind, DEATHS[beginning], SHARE)


@pytest.mark.soak
@pytest.mark.parametrize("beginning", DEATHS)
@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_every_operation_may_fail(
    faulty: FaultyNursery, ground: Path, kind: tuple[str, str, str], beginning: str
) -> None:
    through(faulty, ground, kind, DEATHS[beginning], 1 << 30)


# --- a full disk, a read-only one ---


@pytest.fixture(scope="module")
def private() -> Iterator[PowerNursery]:
    """Where children come from that see mounts of their own."""
    if why_not := cannot_mount():
        pytest.skip(why_not)
    bearing = PowerNursery("tests.store.faults")
    yield bearing
    bearing.close()


@pytest.fixture
def small(ground: Path, private: PowerNursery) -> Iterator[Path]:
    """A disk of 8 MB."""
    point = ground / "small"
    point.mkdir()
    why_not = private.run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", point)
    if why_not:
        pytest.skip(f"no tmpfs can be mounted here: {why_not}")
    yield point
    assert not private.run("umount", point)


class Removal(Trial):
    """Its store is kept on `place`; when it has moved away from there, its later lives see the copy."""

    def __init__(self, folder: Path, nursery: Nursery, agent: str, task: Any, place: Path) -> None:
        super().__init__(folder, nursery, agent, task)
        self.place = place
        self.home = self.life["url"]
        self.life["url"] = f"sqlite:///{place}/runs.db?anchor={folder}/anchor"

    def move(self, nursery: PowerNursery) -> None:
        failed = nursery.run("cp", "-a", f"{self.place}/.", self.world.path.parent)
        assert not failed, failed
        self.life["url"] = self.home


def sealed(trial: Trial) -> int:
    return sum(isinstance(seal, Seal) for _, seal in trial.records(Seal))


@pytest.mark.root
@pytest.mark.parametrize(
    ("size_bytes", "parcels", "in_doubt"), [(300_000, 40, 0), (3_000_000, 5, 1)], ids=["sealed", "left in doubt"]
)
def test_on_a_full_disk_calls_in_flight_are_sealed_from_reserved_space_or_left_in_doubt(
    ground: Path, private: PowerNursery, small: Path, size_bytes: int, parcels: int, in_doubt: int
) -> None:
    trial = Removal(ground / "trial", private, "hoarder", {"parcels": parcels, "size_bytes": size_bytes}, small)
    ended, result = trial.live()
    assert (ended, result["raised"]) == ("left", "StoreFull")
    assert "fix: make room" in result["text"]
    nothing_starts_after_a_stop(trial.world.lines())
    sent = sum("did" in line for line in trial.world.lines())
    assert 0 < sent < parcels

    trial.move(private)
    assert sealed(trial) == sent - in_doubt
    kept = {(entry.branch, entry.seq, entry.digest.hex()) for entry in trial.entries()}
    assert {tuple(entry) for entry in result["acknowledged"]} <= kept
    assert trial.finish() == parcels
    assert trial.doubts == ["parcel"] * in_doubt
    trial.census(["parcel"], [str(number) for number in range(parcels)])


@pytest.mark.root
def test_a_store_that_finds_no_room_at_its_opening_starts_nothing(
    ground: Path, private: PowerNursery, small: Path
) -> None:
    trial = Removal(ground / "trial", private, "stubborn", {}, small)
    private.run("dd", "if=/dev/zero", f"of={small}/ballast", "bs=64k")
    ended, result = trial.live()
    assert (ended, result["raised"]) == ("left", "StoreFull")
    assert "fix: make room" in result["text"]
    assert not trial.world.lines()
    assert not private.run("rm", f"{small}/ballast")
    trial.finish()
    trial.move(private)
    resumes(trial, [])


READ_ONLY = {
    "a read-only mount": [["mount", "--bind", "{store}", "{store}"], ["mount", "-o", "remount,ro,bind", "{store}"]],
    "an immutable file": [["chattr", "+i", "{store}/runs.db"]],
    "somebody else's": [],
}
AND_BACK = {"a read-only mount": ["umount", "{store}"], "an immutable file": ["chattr", "-i", "{store}/runs.db"]}
NOBODY = 65534


@contextmanager
def read_only(private: PowerNursery, how: str, store: Path) -> Iterator[None]:
    try:
        for command in READ_ONLY[how]:
            why_not = private.run(*(part.format(store=store) for part in command))
            if why_not:
                pytest.skip(f"{how} cannot be had here: {why_not}")
        yield
    finally:
        private.run(*(part.format(store=store) for part in AND_BACK.get(how, ["true"])))


@pytest.mark.root
@pytest.mark.parametrize("how", READ_ONLY)
def test_a_store_that_is_read_only_says_so_and_starts_nothing(ground: Path, private: PowerNursery, how: str) -> None:
    ground.chmod(0o755)
    store = ground / "store"
    store.mkdir()
    trial = Removal(ground / "trial", private, "stubborn", {}, store)
    trial.die("in acted 4")
    before = trial.world.lines()
    trial.world.path.chmod(0o666)
    with read_only(private, how, store):
        ended, result = trial.live(**({"user": NOBODY} if how == "somebody else's" else {}))
        looked = private.run(sys.executable, "-m", "holdfast", "verify", f"{store}/runs.db")
    assert (ended, result["raised"]) == ("left", "Unwritable")
    assert "\n  fix: " in result["text"]
    assert trial.world.lines() == before
    assert not looked, f"a store that is read-only can be verified: {looked}"
    trial.finish()
    trial.move(private)
    resumes(trial, [])


# --- the process lives on ---


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyDisk]:
    """Whatever this process opens lies on it; it is sound until a test says otherwise."""
    monkeypatch.setattr(apsw, "Connection", Quiet)
    standing = FaultyDisk().stand_in()
    yield standing
    standing.stand_aside()


def failing(disk: FaultyDisk, operation: str, how: str, after: int) -> None:
    disk.fault = Fault(operation, disk.operations[operation] + after, how, "ever")


def stopped(house: House, run: str) -> errors.Stopped:
    with pytest.raises(errors.Stopped) as raised:
        house.run(stubborn, {}, id=run, wait=False)
    return raised.value


def effects(world: World) -> int:
    return sum("did" in line for line in world.lines())


@pytest.mark.parametrize(("operation", "how"), [("write", "broken"), ("write", "torn"), ("sync", "broken")])
def test_after_a_failed_write_the_process_starts_nothing_until_it_opens_the_store_anew(
    ground: Path, disk: FaultyDisk, operation: str, how: str
) -> None:
    world = enter(ground / "world")
    with open_store(f"sqlite:///{ground}/runs.db?anchor={ground}/anchor") as house:
        failing(disk, operation, how, after=4)
        stopped(house, "first")
        disk.fault = None
        before = effects(world)
        for run in ("first", "second"):
            assert isinstance(stopped(house, run), errors.Unwritable)
        assert effects(world) == before


@pytest.mark.parametrize("after", [1, 2, 12, 40, 60])
def test_once_there_is_room_again_the_same_process_goes_on(ground: Path, disk: FaultyDisk, after: int) -> None:
    world = enter(ground / "world")
    with open_store(f"sqlite:///{ground}/runs.db?anchor={ground}/anchor") as house:
        failing(disk, "write", "full", after)
        assert isinstance(stopped(house, "first"), errors.StoreFull)
        before = effects(world)
        assert isinstance(stopped(house, "second"), errors.StoreFull)
        assert effects(world) == before, "an effect was started on a full disk"
        disk.fault = None
        try:
            answers = house.run(stubborn, {}, id="first", wait=False)
        except InDoubt as doubt:
            house.settle(str(doubt.where), happened=world.living("mail", "m")[0], by="ann")
            answers = house.run(stubborn, {}, id="first", wait=False)
        assert {name: answers[name] for tool, name in TOUR[1:]} == {
            name: world.living(tool, name)[0] for tool, name in TOUR[1:]
        }
        assert not world.beside_itself()
