"""The primary is killed in the middle and its standby promoted: the fleet goes on there, and nothing happens twice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import open_store
from holdfast.errors import RolledBack
from tests.cli.keyboard import surroundings
from tests.fleet import crew
from tests.fleet.nursery import Nursery
from tests.fleet.test_outages import errands, finish
from tests.fleet.yard import Fleet, freed, soon, stuck
from tests.postgres import Postgres
from tests.standby import Pair


def fleet_on(pair: Pair, nursery: Nursery, place: Path) -> Iterator[Fleet]:
    made = Fleet(nursery, pair, place, 15.0)
    try:
        yield made
    finally:
        made.close()
        pair.close()


@pytest.fixture
def paired(nursery: Nursery, postgres: Postgres, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on a primary whose flushes wait for its standby."""
    if postgres.data is None:
        pytest.skip("HOLDFAST_TEST_POSTGRES names a server, and a standby of it cannot be made here")
    yield from fleet_on(Pair(postgres, synchronous=True), nursery, tmp_path)


@pytest.fixture
def loose(nursery: Nursery, postgres: Postgres, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on a primary that waits for nobody."""
    if postgres.data is None:
        pytest.skip("HOLDFAST_TEST_POSTGRES names a server, and a standby of it cannot be made here")
    yield from fleet_on(Pair(postgres, synchronous=False), nursery, tmp_path)


def pair_of(fleet: Fleet) -> Pair:
    assert isinstance(fleet.postgres, Pair)
    return fleet.postgres


def mails(many: int, steps: int) -> dict[str, list[list[str]]]:
    """Runs that mail, wire and put in turn."""
    tools = ["mail", "wire", "put"]
    return {f"m{number}": [[tools[step % 3], f"m{number}-{step}"] for step in range(steps)] for number in range(many)}


def fail_over(fleet: Fleet, runs: int, steps: int, times: int) -> None:
    """The primary is killed while the fleet is in the middle; then it returns beside the new one, and everybody's
    connection is cut, `times` times."""
    pair = pair_of(fleet)
    fleet.tend(2)
    tasks = errands(runs, steps) | mails(runs // 2, steps)
    fleet.begin(crew.errand, tasks)
    soon(lambda: len(fleet.book()) > runs * 3, "they are in the middle")
    pair.fail_over()
    assert fleet.finished() < len(tasks), "it was all over before the server was killed"
    pair.a.set(synchronous_standby_names="")  # as if it would take whatever it is told
    pair.a.start()
    before = pair.a.says("SELECT max(lane) FROM holdfast.worker"), pair.a.says("SELECT count(*) FROM holdfast.entry")
    ours = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%%'"
    for _ in range(times):
        fleet.tend(2)
        pair.b.says(ours)
        time.sleep(0.3)
    finish(fleet, tasks, 2)
    after = pair.a.says("SELECT max(lane) FROM holdfast.worker"), pair.a.says("SELECT count(*) FROM holdfast.entry")
    assert after == before, "a server that was left behind was written to"
    wrong = "SELECT count(*) FROM holdfast.meta WHERE name = 'rolled_back'"
    assert pair.b.says(wrong) == 0, "something that was flushed is said to be gone"


def test_a_fleet_goes_on_at_the_standby_and_the_old_primary_is_not_written_to(paired: Fleet) -> None:
    fail_over(paired, 8, 16, 2)


@pytest.mark.soak
@pytest.mark.parametrize("_", range(10))
def test_a_fleet_goes_on_at_the_standby_at_full_load(paired: Fleet, _: int) -> None:
    fail_over(paired, 40, 40, 10)


def test_where_the_standby_lacks_what_was_flushed_nobody_goes_on_before_somebody_accepts(loose: Fleet) -> None:
    fleet, pair = loose, pair_of(loose)
    stuck(fleet, ["a"])
    first = fleet.worker()
    fleet.begin(crew.errand, {"r": [["mail", "a"], ["mail", "b"]]})
    fleet.begin(crew.waiter, {"w": "w"})
    soon(lambda: pair.b.says("SELECT count(*) FROM holdfast.branch WHERE name LIKE 'w%%'") == 1, "the standby has it")
    soon(lambda: fleet.done("mail", "a"), "the first is under way")
    pair.cut()
    freed(fleet, ["a"])
    soon(lambda: fleet.ended("r"), "both mails were sent, and the standby does not know of the second")
    pair.fail_over()
    soon(lambda: fleet.code(first) == 5, "it has written more than is there")
    assert "lost entries that were flushed" in fleet.said(first)
    refused = command(fleet, "worker")
    assert (refused.returncode, "lost entries that were flushed" in refused.stderr) == (5, True), refused.stderr
    with pytest.raises(RolledBack):
        say_a_word(fleet)
    assert fleet.done("mail", "b") == 1
    accepted = command(fleet, "anchor", "--accept", "--by", "eve")
    assert accepted.returncode == 0, accepted.stderr
    say_a_word(fleet)
    fleet.worker()
    soon(lambda: fleet.ended("w"), "they go on")


def say_a_word(fleet: Fleet) -> None:
    """Somebody tells the waiter to go on."""
    with open_store(fleet.url) as house:
        house.signal("w", "go")


def command(fleet: Fleet, *words: str) -> subprocess.CompletedProcess[str]:
    """A command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *words], cwd=fleet.place, text=True, capture_output=True, timeout=60,
        env=surroundings(HOLDFAST_STORE=fleet.url, HOLDFAST_AGENTS="tests.fleet.crew"), check=False,
    )  # fmt: skip
