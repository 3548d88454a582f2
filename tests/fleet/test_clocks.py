"""Workers whose clocks are hours apart, jump while they work, or run at another speed (libfaketime): nothing happens
twice, and a deadline is one of the database's clock, whatever the worker's says."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import open_store
from holdfast.core.record import Hold, Intent, Sleep
from holdfast.store.worker import here
from tests.fleet import crew
from tests.fleet.nursery import ROOT, Nursery
from tests.fleet.test_outages import errands, finish
from tests.fleet.yard import Fleet, freed, soon, stuck
from tests.postgres import Postgres

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
AHEAD, BEHIND = "+5h", "-3h"


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Where workers come from that believe what a file says of their clock."""
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed (Debian: apt-get install faketime)")
    clock = tmp_path_factory.mktemp("clock") / "true"
    clock.write_text("+0")
    made = Nursery(
        LD_PRELOAD=str(LIBRARIES[0]), FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_NO_CACHE="1",
        DONT_FAKE_MONOTONIC="1",
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def fleet(shifted: Nursery, postgres: Postgres, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    made = Fleet(shifted, postgres, tmp_path, getattr(request, "param", 1.0))
    yield made
    made.close()


def worker(fleet: Fleet, shift: str) -> int:
    """One whose clock is so far off."""
    path = clock(fleet, len(fleet.workers), shift)
    return fleet.worker(FAKETIME_TIMESTAMP_FILE=str(path))


def clock(fleet: Fleet, number: int, shift: str) -> Path:
    """Set the clock of a worker."""
    path = fleet.place / f"clock-{number}"
    fresh = path.with_suffix(".new")
    fresh.write_text(shift)
    fresh.rename(path)
    return path


def jump(fleet: Fleet, tasks: dict[str, list[list[str]]], seed: int) -> None:
    """Clocks that jump, forwards and backwards, and run faster, while workers are killed and stopped."""
    drawn = random.Random(seed)
    stopped: list[int] = []
    until = time.monotonic() + 900
    while fleet.finished() < len(tasks):
        assert time.monotonic() < until
        living = [pid for pid in fleet.workers if fleet.code(pid) is None and pid not in stopped]
        while len(living) < 2:
            living.append(worker(fleet, drawn.choice([AHEAD, BEHIND, "+0 x50"])))
        clock(fleet, fleet.workers.index(drawn.choice(living)), drawn.choice([AHEAD, BEHIND, "+300d", "+0 x50", "+0"]))
        match drawn.randrange(4):
            case 0:
                fleet.kill(drawn.choice(living))
            case 1 if not stopped:
                stopped.append(drawn.choice(living))
                fleet.kill(stopped[-1], signal.SIGSTOP)
            case 2 if stopped:
                fleet.kill(stopped.pop(), signal.SIGCONT)
            case _:
                time.sleep(drawn.uniform(0.1, 0.5))
        if all(fleet.ended(run) or fleet.open(run) for run in tasks):
            for pid in stopped:  # whoever settles must know that nothing is sent any more
                fleet.kill(pid)
            stopped.clear()
            fleet.attend(tasks)
    for pid in stopped:
        fleet.kill(pid, signal.SIGCONT)
    finish(fleet, tasks, 0)


def test_clocks_that_jump_cost_nothing(fleet: Fleet) -> None:
    tasks = errands(4, 10)
    worker(fleet, AHEAD)
    worker(fleet, BEHIND)
    fleet.begin(crew.errand, tasks)
    soon(fleet.book, "they are in the middle")
    jump(fleet, tasks, 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 10))
def test_clocks_that_jump_cost_nothing_whatever_comes(fleet: Fleet, seed: int) -> None:
    tasks = errands(16, 24)
    worker(fleet, AHEAD)
    worker(fleet, BEHIND)
    fleet.begin(crew.errand, tasks)
    jump(fleet, tasks, seed)


def overtaken(fleet: Fleet, tool: str, shift: str) -> int:
    """A worker is stopped in the middle of an effect; another, whose clock is off, takes over. Its pid."""
    stuck(fleet, ["a"])
    first = worker(fleet, "+0")
    fleet.begin(crew.errand, {"r": [[tool, "a"]]})
    soon(lambda: fleet.done("wire", "a"), "it is under way")
    fleet.kill(first, signal.SIGSTOP)
    freed(fleet, ["a"])
    second = worker(fleet, shift)
    soon(lambda: fleet.previous("r")[-1] == "unproven", "it was taken over")
    return second


def test_a_late_bound_is_waited_for_by_a_worker_whose_clock_is_ahead(fleet: Fleet) -> None:
    overtaken(fleet, "post", AHEAD)
    soon(lambda: fleet.done("asked", "a"), "the world was asked")
    ((now_ms,),) = fleet.rows("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    (seq,) = [seq for seq, record in enumerate(fleet.records("r"), 1) if isinstance(record, Intent)]
    ((sent_ms,),) = fleet.rows("SELECT at_ms FROM holdfast.entry WHERE seq = %s", seq)
    assert now_ms - sent_ms >= 2000, "it was asked while it might still arrive"
    soon(lambda: fleet.ended("r"), "it goes on")
    fleet.check()


@pytest.mark.parametrize("fleet", [2.0], indirect=True)
def test_a_key_does_not_outlive_itself_for_a_worker_whose_clock_is_behind(fleet: Fleet) -> None:
    second = overtaken(fleet, "brief", "-1.9s")
    soon(lambda: "r  waits" in fleet.said(second) or fleet.ended("r"), "it was looked at")
    assert fleet.done("wire", "a") == 1, "a key that nobody remembers was sent again"


def test_a_sleep_lasts_as_long_by_the_databases_clock(fleet: Fleet) -> None:
    pid = worker(fleet, BEHIND)
    fleet.begin(crew.sleeper, {"s": 1.5})
    soon(lambda: fleet.ended("s"), "it woke")
    assert any(isinstance(record, Sleep) for record in fleet.records("s"))
    ((lasted_ms,),) = fleet.rows("SELECT max(at_ms) - min(at_ms) FROM holdfast.entry")
    assert lasted_ms >= 1500, "it was cut short"
    assert fleet.said(pid).count("s  waits") <= 2, "it was looked at again and again"


def test_an_approval_has_expired_for_a_worker_whose_clock_is_behind(fleet: Fleet) -> None:
    first = worker(fleet, "+0")
    fleet.begin(crew.errand, {"r": [["grave", "a"]]})
    soon(lambda: "r  waits" in fleet.said(first), "somebody must agree")
    fleet.stop(first)
    (seq,) = [seq for seq, record in enumerate(fleet.records("r"), 1) if isinstance(record, Hold)]

    async def agreed() -> None:
        async with open_store(fleet.url) as house:
            await house.desk.approve(f"r@{seq}", by="eve", expires_ms=200)

    asyncio.run(agreed())
    fleet.rows("SELECT 1 FROM pg_sleep(0.3)")
    second = worker(fleet, BEHIND)
    soon(lambda: "r  waits" in fleet.said(second) or fleet.book(), "it was looked at")
    assert fleet.book() == []


@pytest.mark.root
def test_who_counts_from_another_start_of_the_machine_takes_nobody_for_dead() -> None:
    if shutil.which("unshare") is None or not Path("/proc/self/ns/time").exists():
        pytest.skip("this system has no time namespaces")
    me = here()
    program = (
        "import sys\nfrom holdfast.store.worker import Worker, dead\n"
        "print(dead(Worker(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])))"
    )
    done = subprocess.run(
        ["unshare", "-T", "--monotonic", "100000", "--boottime", "100000", "--fork", sys.executable, "-c", program,
         me.id, me.place, str(me.pid), me.born, me.host],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, text=True, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n", "a living process is taken for dead"
