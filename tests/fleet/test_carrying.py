"""The files of a run follow it: another machine (here: another worker, with a directory of its own) goes on with them,
exactly as they were at the checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import open_store
from holdfast.core.record import Checkpoint
from tests.fleet import carriers
from tests.fleet.nursery import ROOT
from tests.fleet.yard import Fleet, soon
from tests.store.bucket import Bucket, Directory, Outside

CARRIERS = "tests.fleet.carriers"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    yield bucket
    bucket.close()


@pytest.fixture(params=["file", "s3"])
def outside(request: pytest.FixtureRequest, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Outside:
    """Where the store of the fleet keeps what is large."""
    if request.param == "file":
        found: Outside = Directory(fleet.place / "blobs")
    else:
        found = bucket = request.getfixturevalue("bucket")
        bucket.empty()
        fleet.surroundings.update(bucket.environment)
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
    fleet.url += f"&blobs={found.url}"
    return found


IN_A_DIRECTORY = pytest.mark.parametrize("outside", ["file"], indirect=True)


def worker(fleet: Fleet, machine: str) -> int:
    """A worker whose files are in a directory of its own."""
    return fleet.worker(agents=CARRIERS, url=f"{fleet.url}&workspaces={fleet.place}/{machine}")


def stop(fleet: Fleet, part: int) -> Path:
    """Whoever is to build this part, waits."""
    path = fleet.place / f"stop-{part}"
    path.touch()
    return path


def read(fleet: Fleet, name: str) -> str:
    return (fleet.place / name).read_text()


def checkpoints(fleet: Fleet, run: str) -> list[Checkpoint]:
    return [record for record in fleet.records(run) if isinstance(record, Checkpoint)]


# --- a worker dies ---


def test_a_run_that_is_taken_over_elsewhere_goes_on_with_its_files_exactly_as_they_were(
    fleet: Fleet, outside: Outside
) -> None:
    held = stop(fleet, 3)
    first = worker(fleet, "one")
    fleet.begin(carriers.builder, {"r": 5})
    soon(lambda: ["at", "3"] in fleet.book(), "three parts are built")
    worker(fleet, "two")
    fleet.kill(first, signal.SIGKILL)
    held.unlink()
    soon(lambda: fleet.ended("r"), "the other one goes on")
    assert fleet.previous("r")[-1] == "dead"
    assert read(fleet, "found-3") == read(fleet, "kept-3"), "the files are others"
    assert "half" not in read(fleet, "found-3")
    assert [line for line in fleet.book() if line == ["at", "0"]] == [["at", "0"]], "it was begun anew"
    assert (fleet.place / "two" / "work" / "r@main" / "part-0").is_file()
    assert any(len(data) > carriers.SIZE for data in outside.objects().values())


@IN_A_DIRECTORY
def test_a_run_that_comes_back_to_a_machine_that_knew_it_goes_on_with_the_newest_files(
    fleet: Fleet, outside: Outside
) -> None:
    held = [stop(fleet, part) for part in (1, 3)]
    first = worker(fleet, "one")
    fleet.begin(carriers.builder, {"r": 4})
    soon(lambda: ["at", "1"] in fleet.book(), "one part is built here")
    second = worker(fleet, "two")
    fleet.kill(first)
    held[0].unlink()
    soon(lambda: ["at", "3"] in fleet.book(), "two more are built there")
    worker(fleet, "one")
    fleet.kill(second)
    held[1].unlink()
    soon(lambda: fleet.ended("r"), "it comes back")
    assert read(fleet, "found-3") == read(fleet, "kept-3")


@IN_A_DIRECTORY
def test_whoever_dies_between_its_files_and_their_entry_leaves_the_checkpoint_before_in_force(
    fleet: Fleet, outside: Outside
) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    life = [sys.executable, "-m", CARRIERS, f"{fleet.url}&workspaces={fleet.place}/one", "r"]
    died = subprocess.run(life, cwd=fleet.place, env=environment, capture_output=True, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    named = {parcel.payload.digest for made in checkpoints(fleet, "r") for parcel in made.parcels or ()}
    assert len({name.rpartition("/")[2] for name in outside.objects()} - named) == 1, "its files were not outside yet"
    worker(fleet, "two")
    soon(lambda: fleet.ended("r"), "another one goes on")
    assert read(fleet, "found-1") == read(fleet, "kept-1")


@IN_A_DIRECTORY
def test_while_the_outside_is_away_the_worker_and_its_other_runs_go_on(fleet: Fleet, outside: Outside) -> None:
    held = stop(fleet, 1)
    pid = worker(fleet, "one")
    fleet.begin(carriers.builder, {"r": 2})
    soon(lambda: ["at", "1"] in fleet.book(), "one part is built")
    outside.away()
    held.unlink()
    soon(lambda: "it is tried again" in fleet.said(pid), "its files cannot be kept")
    fleet.begin(carriers.idler, {"small": 0})
    soon(lambda: fleet.ended("small"), "what needs nothing of it goes on")
    outside.back()
    soon(lambda: fleet.ended("r"), "it goes on when it is back")
    assert fleet.code(pid) is None


# --- what it costs, and what goes ---


@IN_A_DIRECTORY
def test_a_checkpoint_carries_what_is_new_and_many_of_them_name_few_parcels(fleet: Fleet, outside: Outside) -> None:
    worker(fleet, "one")
    fleet.begin(carriers.builder, {"r": 24})
    soon(lambda: fleet.ended("r"), "all is built")
    sizes = {parcel.payload.digest: parcel.payload.size_bytes for made in checkpoints(fleet, "r") for parcel in
             made.parcels or ()}  # fmt: skip
    built = 24 * carriers.SIZE
    assert sum(sizes.values()) < 5 * built, "what was there was carried again and again"
    assert max(len(made.parcels or ()) for made in checkpoints(fleet, "r")) <= 10
    newest = checkpoints(fleet, "r")[-1].parcels or ()
    assert sum(parcel.payload.size_bytes for parcel in newest) < 2 * built


@IN_A_DIRECTORY
def test_a_second_run_with_the_same_files_carries_nothing(fleet: Fleet, outside: Outside) -> None:
    worker(fleet, "one")
    fleet.begin(carriers.builder, {"r": 1})
    soon(lambda: fleet.ended("r"), "it is built")
    before = set(outside.objects())
    fleet.begin(carriers.builder, {"again": 1})
    soon(lambda: fleet.ended("again"), "it is built once more")
    large = {parcel.payload.digest for made in checkpoints(fleet, "r") for parcel in made.parcels or ()}
    assert {parcel.payload.digest for made in checkpoints(fleet, "again") for parcel in made.parcels or ()} & large
    assert set(outside.objects()) == before, "only what is small, and has times, is stored once more"


@IN_A_DIRECTORY
def test_a_fork_on_another_machine_has_the_files_of_its_node(
    fleet: Fleet, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(fleet, "one")
    fleet.begin(carriers.builder, {"r": 3})
    soon(lambda: fleet.ended("r"), "all is built")
    second = [seq for seq, record in enumerate(fleet.records("r"), 1) if isinstance(record, Checkpoint)][2]

    monkeypatch.chdir(fleet.place)
    with open_store(f"{fleet.url}&workspaces={fleet.place}/two") as house:
        branch = house.fork(f"r@{second}", by="ann")
        assert house.run(carriers.builder, id="r", branch=branch) == 3
    assert read(fleet, "found-2") == read(fleet, "kept-2")


# --- without an outside ---


def test_a_worker_whose_files_stay_with_it_says_so(fleet: Fleet) -> None:
    pid = worker(fleet, "one")
    soon(lambda: "files of agents stay on the machine that made them" in fleet.said(pid), "it is said")


def test_a_worker_whose_files_follow_has_nothing_to_say_of_it(fleet: Fleet, outside: Outside) -> None:
    pid = worker(fleet, "one")
    soon(lambda: "at a time" in fleet.said(pid), "it works")
    assert "files of agents" not in fleet.said(pid)
