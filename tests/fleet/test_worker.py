"""Workers share the runs of a store: each is advanced by one that may, in its turn, as soon as it can go on."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from holdfast import open_store
from holdfast.core.record import Sleep
from tests.cli.keyboard import surroundings
from tests.fleet import crew
from tests.fleet.yard import CREW, Fleet, freed, soon, stuck


def command(fleet: Fleet, *words: str) -> subprocess.CompletedProcess[str]:
    """A command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *words], cwd=fleet.place, env=surroundings(HOLDFAST_STORE=fleet.url),
        text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_detached_run_is_advanced_and_shown(fleet: Fleet) -> None:
    begun = command(fleet, "run", f"{CREW}:errand", "--input", '[["wire", "a"], ["put", "b"]]', "--id", "r", "--detach")
    assert (begun.returncode, begun.stdout) == (0, "r\n"), begun.stderr
    waiting = json.loads(command(fleet, "fleet", "--json").stdout)
    assert [(each["module"], each["ready"], each["workers"]) for each in waiting["backlog"]] == [(CREW, 1, 0)]
    fleet.worker()
    soon(lambda: fleet.ended("r"), "the run has ended")
    shown = json.loads(command(fleet, "fleet", "--json").stdout)
    assert [(each["state"], each["agents"], each["claims"]) for each in shown["workers"]] == [("up", [CREW], 0)]
    assert shown["claims"] == shown["people"] == shown["backlog"] == []
    fleet.check()


def test_sleeps_and_words_wake_runs_and_a_word_is_not_lost_while_nobody_works(fleet: Fleet) -> None:
    first = fleet.worker()
    moment = int(time.time() * 1000) + 2000
    fleet.plant(["s"], crew.sleeper, 3600, Sleep(name="sleep", n=0, until_ms=moment))
    fleet.begin(crew.waiter, {"w": "w", "x": "x"})
    soon(lambda: all(run in fleet.said(first) for run in ("w  waits", "x  waits")), "they wait")
    with open_store(fleet.url) as house:
        house.signal("w", "go")
    soon(lambda: fleet.ended("w") and fleet.ended("s"), "both have ended")
    ((woken,),) = fleet.rows("SELECT min(at_ms) FROM holdfast.entry WHERE epoch = 2 AND branch = 1")
    assert woken >= moment
    fleet.stop(first)
    with open_store(fleet.url) as house:
        house.signal("x", "go")
    fleet.worker()
    soon(lambda: fleet.ended("x"), "the third has ended")
    fleet.check()


def test_a_run_goes_to_a_worker_that_may_run_its_agent(fleet: Fleet) -> None:
    other = fleet.worker(agents="tests.cli.troupe")
    fleet.begin(crew.errand, {"r": [["put", "a"]]})
    soon(lambda: fleet.rows("SELECT 1 FROM holdfast_fleet.run WHERE agent <> ''"), "the other has moved it")
    assert not fleet.ended("r")
    assert fleet.code(other) is None
    fleet.worker()
    soon(lambda: fleet.ended("r"), "the run has ended")


def test_of_an_agent_with_a_limit_only_so_many_runs_are_at_work_in_the_whole_fleet(fleet: Fleet) -> None:
    (fleet.place / "thinking").touch()
    for _ in range(2):
        fleet.worker("--limit", f"{CREW}:thinker=2")
    fleet.begin(crew.thinker, {f"r{number}": number for number in range(5)})
    soon(lambda: fleet.rows("SELECT 1 FROM holdfast_fleet.seat WHERE worker IS NULL HAVING count(*) = 3"), "a line")
    soon(lambda: [what for what, *_ in fleet.book()] == ["begins"] * 2, "two are at work")
    (fleet.place / "thinking").unlink()
    soon(lambda: fleet.finished() == 5, "all have ended")
    at_work = most = 0
    for what, *_ in fleet.book():
        at_work += 1 if what == "begins" else -1
        most = max(most, at_work)
    assert most == 2
    soon(lambda: not fleet.rows("SELECT 1 FROM holdfast_fleet.seat"), "nobody stands in line")


def test_what_is_more_urgent_goes_first(fleet: Fleet) -> None:
    stuck(fleet, ["first"])
    fleet.worker("--at-once", "1")
    fleet.begin(crew.errand, {"first": [["put", "first"]]})
    soon(lambda: fleet.done("put", "first"), "the worker is busy")
    fleet.rows("INSERT INTO holdfast_fleet.run (run, priority) VALUES ('urgent', 5), ('idle', -5) RETURNING run")
    fleet.begin(crew.errand, {"idle": [["put", "idle"]]})
    fleet.begin(crew.errand, {"plain": [["put", "plain"]]})
    fleet.begin(crew.errand, {"urgent": [["put", "urgent"]]})
    freed(fleet, ["first"])
    soon(lambda: fleet.finished() == 4, "all have ended")
    assert [name for _, name, *_ in fleet.book()] == ["first", "urgent", "plain", "idle"]


def test_a_cancelled_run_ends_though_its_agent_asks_for_nothing(fleet: Fleet) -> None:
    (fleet.place / "thinking").touch()
    worker = fleet.worker()
    fleet.begin(crew.thinker, {"r": "r"})
    soon(fleet.book, "it thinks")
    with open_store(fleet.url) as house:
        house.cancel("r", by="eve")
    soon(lambda: "r  interrupted" in fleet.said(worker), "it was interrupted")
    assert fleet.rows("SELECT 1 FROM holdfast.branch WHERE worker IS NOT NULL") == []
    assert [what for what, *_ in fleet.book()] == ["begins"]


def test_a_run_that_was_there_before_the_fleet_is_found(fleet: Fleet) -> None:
    with fleet.postgres.connect() as connection:
        connection.execute("DROP SCHEMA holdfast_fleet CASCADE")
    fleet.begin(crew.errand, {"r": [["put", "a"]]})
    fleet.worker()
    soon(lambda: fleet.ended("r"), "the run has ended")


def test_a_worker_that_may_run_nothing_does_not_start(fleet: Fleet) -> None:
    refused = command(fleet, "worker")
    assert (refused.returncode, "no agent may be run" in refused.stderr) == (2, True)


def test_a_worker_that_nobody_knows_cannot_be_declared_dead(fleet: Fleet) -> None:
    refused = command(fleet, "fleet", "--declare-dead", "nobody")
    assert (refused.returncode, "there is no worker `nobody`" in refused.stderr) == (2, True)


@pytest.mark.parametrize("words", [["worker"], ["fleet"], ["run", f"{CREW}:errand", "--detach"]])
def test_a_fleet_needs_a_store_on_postgresql(fleet: Fleet, words: list[str]) -> None:
    refused = command(fleet, *words, "--store", "sqlite:///runs.db")
    assert (refused.returncode, "needs a store on PostgreSQL" in refused.stderr) == (2, True)
