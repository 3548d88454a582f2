"""The server restarts in the middle, the way to it stalls or is cut: the fleet goes on, and nothing happens twice."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.fleet import crew
from tests.fleet.proxy import Proxy
from tests.fleet.yard import Fleet, soon


def errands(many: int, steps: int) -> dict[str, list[list[str]]]:
    """Runs that wire and put in turn."""
    tools = ["wire", "put"]
    return {f"r{number}": [[tools[step % 2], f"{number}-{step}"] for step in range(steps)] for number in range(many)}


def all_done(fleet: Fleet, tasks: dict[str, list[list[str]]]) -> bool:
    return fleet.finished() == len(tasks)


def finish(fleet: Fleet, tasks: dict[str, list[list[str]]], many: int) -> None:
    """Workers that have ended are started again, until all runs have come to an end."""
    until = time.monotonic() + 90
    while not all_done(fleet, tasks):
        assert time.monotonic() < until, [fleet.said(pid) for pid in fleet.workers]
        fleet.tend(many)
        fleet.attend(tasks)
        time.sleep(0.2)
    fleet.check()
    for steps in tasks.values():
        assert all(fleet.done(tool, name) >= 1 for tool, name in steps)


def test_a_server_that_is_killed_and_restarts_costs_nothing(fleet: Fleet) -> None:
    fleet.tend(2)
    tasks = errands(12, 24)
    fleet.begin(crew.errand, tasks)
    soon(lambda: len(fleet.book()) > 30, "they are in the middle")
    fleet.postgres.restart()
    assert not all_done(fleet, tasks), "it was all over before the server was killed"
    finish(fleet, tasks, 2)


@pytest.mark.parametrize("fleet", [2.0], indirect=True)
def test_connections_that_are_reset_or_stall_cost_nothing(fleet: Fleet) -> None:
    proxy = Proxy(fleet.postgres.socket)
    try:
        fleet.worker(url=fleet.url_by(proxy.folder))
        fleet.worker()
        tasks = errands(12, 24)
        fleet.begin(crew.errand, tasks)
        soon(lambda: len(fleet.book()) > 30, "they are in the middle")
        for _ in range(3):
            proxy.reset()
            time.sleep(0.1)
        proxy.flowing.clear()  # longer than a claim lasts: what it was doing is taken over
        soon(
            lambda: any(fleet.previous(run)[-1] == "unproven" for run in tasks) or all_done(fleet, tasks), "a take-over"
        )
        proxy.flowing.set()
        proxy.reset()
        finish(fleet, tasks, 2)
    finally:
        proxy.close()


@pytest.mark.soak
@pytest.mark.parametrize("fleet", [3.0], indirect=True)
@pytest.mark.parametrize("seed", range(10))
def test_random_faults_at_full_load_cost_nothing(fleet: Fleet, seed: int) -> None:
    drawn = random.Random(seed)
    tasks = errands(60, 60)
    fleet.tend(3)
    fleet.begin(crew.errand, tasks)
    stopped: list[int] = []
    until = time.monotonic() + 300
    while not all_done(fleet, tasks):
        assert time.monotonic() < until
        fleet.tend(3 + len(stopped))
        time.sleep(drawn.uniform(0.2, 1.5))
        living = [pid for pid in fleet.workers if fleet.code(pid) is None and pid not in stopped]
        match drawn.randrange(4):
            case 0 if living:
                fleet.kill(drawn.choice(living))
            case 1 if living:
                stopped.append(drawn.choice(living))
                fleet.kill(stopped[-1], signal.SIGSTOP)
            case 2 if stopped:
                fleet.kill(stopped.pop(0), signal.SIGCONT)
            case _:
                fleet.postgres.restart()
        if drawn.random() < 0.1 or all(fleet.ended(run) or fleet.open(run) for run in tasks):
            for pid in stopped:  # whoever settles must know that nothing is sent any more
                fleet.kill(pid)
            stopped.clear()
            fleet.attend(tasks)
    finish(fleet, tasks, 3)
