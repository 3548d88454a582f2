"""Workers that die, that are stopped and wake late, that take long to end: others go on with their runs, and nothing
happens twice."""

from __future__ import annotations

import signal

import pytest

from holdfast import open_store
from holdfast.core.record import Settled
from holdfast.fleet.standing import declare_dead
from holdfast.store.postgres_reader import PostgresReader
from holdfast.store.url import postgres_address
from tests.fleet import crew
from tests.fleet.yard import Fleet, freed, soon, stuck

TOOLS = ["mail", "wire", "put"]
TASKS = {tool: [[tool, f"{tool}-1"], [tool, f"{tool}-2"]] for tool in TOOLS}


def begun(fleet: Fleet) -> int:
    """A worker that is in the middle of one effect of each kind."""
    stuck(fleet, [f"{tool}-1" for tool in TOOLS])
    worker = fleet.worker()
    fleet.begin(crew.errand, dict(TASKS))
    soon(lambda: len(fleet.book()) == 3, "all are under way")
    return worker


def settle(fleet: Fleet) -> None:
    """A person looks into the book."""
    with open_store(fleet.url) as house:
        house.settle("mail@4", happened="mail mail-1", by="eve")


def in_doubt(fleet: Fleet, worker: int) -> bool:
    return "mail  waits" in fleet.said(worker)


def test_the_runs_of_a_killed_worker_go_on_elsewhere_and_nothing_happens_twice(fleet: Fleet) -> None:
    first = begun(fleet)
    second = fleet.worker()
    fleet.kill(first)
    freed(fleet, [f"{tool}-1" for tool in TOOLS])
    soon(lambda: in_doubt(fleet, second) and fleet.ended("wire") and fleet.ended("put"), "they were taken over")
    assert [fleet.previous(tool)[-1] for tool in TOOLS] == ["dead"] * 3
    settle(fleet)
    soon(lambda: fleet.ended("mail"), "a person's word lets it go on")
    fleet.check()
    assert [fleet.done(tool, f"{tool}-2") for tool in TOOLS] == [1, 1, 1]


@pytest.mark.parametrize("fleet", [1.0], indirect=True)
def test_a_worker_that_was_stopped_and_wakes_finds_that_nothing_is_its_own(fleet: Fleet) -> None:
    first = begun(fleet)
    second = fleet.worker()
    fleet.kill(first, signal.SIGSTOP)
    soon(lambda: fleet.previous("put")[-1] == "unproven", "it was taken over")
    soon(lambda: in_doubt(fleet, second) and "wire  waits" in fleet.said(second), "effects without proof wait")
    freed(fleet, [f"{tool}-1" for tool in TOOLS])
    soon(lambda: fleet.ended("put"), "the same key was sent again")
    fleet.kill(first, signal.SIGCONT)
    soon(lambda: len(fleet.rows("SELECT 1 FROM holdfast_fleet.member")) == 2, "it is one of the fleet again")
    soon(lambda: fleet.ended("mail") and fleet.ended("wire"), "what it was told has ended the doubts")
    for tool in ("mail", "wire"):
        (settled,) = [record for record in fleet.records(tool) if isinstance(record, Settled)]
        assert f"process {first} " in settled.by
    fleet.stop(second)
    fleet.begin(crew.errand, {"later": [["wire", "later"]]})
    soon(lambda: fleet.ended("later"), "the one that woke works on")
    fleet.check()


@pytest.mark.parametrize("fleet", [1.0], indirect=True)
def test_a_worker_that_takes_longer_to_end_than_a_claim_lasts_is_waited_for(fleet: Fleet) -> None:
    first = begun(fleet)
    second = fleet.worker()
    fleet.kill(first, signal.SIGTERM)
    soon(lambda: fleet.rows("SELECT 1 FROM holdfast_fleet.member WHERE draining"), "it takes nothing more")
    lapsed = "SELECT 1 FROM pg_sleep(2.5)"  # more than twice the claim's life, by the database's clock
    fleet.rows(lapsed)
    assert [fleet.previous(tool) for tool in TOOLS] == [["none", "released"]] * 3, "it was overtaken"
    freed(fleet, [f"{tool}-1" for tool in TOOLS])
    soon(lambda: fleet.code(first) == 0, "it has ended")
    soon(lambda: fleet.finished() == 3, "the other goes on")
    assert [fleet.previous(tool) for tool in TOOLS] == [["none", "released", "released"]] * 3
    assert "mail  waits" not in fleet.said(second)
    fleet.check()
    assert len(fleet.book()) == 6


def test_a_run_that_kills_its_workers_is_left_alone_after_five_deaths_and_takes_no_other_with_it(fleet: Fleet) -> None:
    (fleet.place / "deadly").touch()
    (fleet.place / "thinking").touch()
    fleet.begin(crew.deadly, {"deadly": "deadly"})
    workers = [fleet.worker()]
    while "left alone" not in fleet.said(workers[-1]):
        soon(lambda: fleet.code(workers[-1]) is not None or "left alone" in fleet.said(workers[-1]), "it ends")
        if fleet.code(workers[-1]) is not None:
            workers.append(fleet.worker())
    assert [line[0] for line in fleet.book()] == ["dies"] * 5
    assert fleet.code(workers[-1]) is None
    fleet.begin(crew.errand, {"r": [["put", "a"]]})
    soon(lambda: fleet.ended("r"), "the last worker goes on with others")


def test_a_death_that_somebody_vouches_for_lets_others_ask_about_effects_at_once(fleet: Fleet) -> None:
    first = begun(fleet)
    fleet.kill(first, signal.SIGSTOP)
    ((worker,),) = fleet.rows("SELECT id FROM holdfast.worker WHERE pid = %s", first)
    with PostgresReader(postgres_address(fleet.url)) as reader:
        assert declare_dead(reader, worker)
        assert not declare_dead(reader, "nobody")
    fleet.worker()
    soon(lambda: fleet.previous("wire")[-1] == "dead", "it is believed")
    freed(fleet, [f"{tool}-1" for tool in TOOLS])
    fleet.kill(first)
    soon(lambda: fleet.ended("wire") and fleet.ended("put"), "what can be asked about goes on")
    fleet.check()
