"""The recovery of a run, crashed again and again while it recovers, and carried out by several who come at once.

The kill matrix has one death in a recovery. Here each life that recovers dies in turn, at boundaries of its own; and a
worker that recovers is stopped in the middle, so that another takes the recovery over, and wakes late.
"""

from __future__ import annotations

import random
import signal
import time
from itertools import pairwise, permutations, product
from pathlib import Path

import pytest

from tests.crash.nursery import Nursery
from tests.crash.test_two_workers import LAPSING, Pair
from tests.crash.trial import KILLED, Trial

NAMES = ["a", "b"]
OF_A_REDO = ["before Attempt 1", "after Attempt 1", "in acted 1"]
OF_A_PROBE = ["in probing 1", "before Settled 1"]
OF_AN_UNDO = ["before Intent 1", "in undoing 1", "in undone 1", "before Seal 1", "before Attempt 1", "in acted 1"]
# The tool, where it dies first, and where those die who recover. A boundary that a life has behind it is not met again.
NESTED = [
    *(("put", "in acted 1", deaths) for deaths in permutations(OF_A_REDO)),
    *(("pay", "in acted 1", deaths) for deaths in product(OF_A_PROBE, repeat=3)),
    *(("pay", "after Intent 1", deaths) for deaths in product(["in probing 1", "after Attempt 1"], repeat=3)),
    *(("build", "in acted 1", deaths) for deaths in product(OF_A_PROBE, repeat=2)),
    *(("make", "in acted 1", deaths) for deaths in pairwise([*OF_AN_UNDO, OF_AN_UNDO[0]])),
    *(("make", "in acted 1", (death, death, death)) for death in OF_AN_UNDO),
]


@pytest.mark.parametrize(("tool", "first", "deaths"), NESTED)
def test_a_recovery_that_dies_again_and_again_comes_to_the_same_end(
    nursery: Nursery, ground: Path, tool: str, first: str, deaths: tuple[str, ...]
) -> None:
    trial = Trial(ground / "trial", nursery, "errand", {"tool": tool, "names": NAMES})
    trial.die(first)
    for death in deaths:
        trial.live(deaths=[death])
    answers = trial.finish()
    trial.census([tool], NAMES)
    assert answers == [trial.world.living(tool, name)[0] for name in NAMES]
    assert trial.deaths >= 2
    assert not trial.doubts


@pytest.mark.parametrize("crowd", [3])
@pytest.mark.parametrize(
    ("tool", "first", "death"),
    [
        ("put", "in acted 1", "after Attempt 1"),
        ("pay", "in acted 1", "in probing 1"),
        ("pay", "after Intent 1", "in acted 1"),
        ("build", "in acted 1", "before Settled 1"),
        ("make", "in acted 1", "in undone 1"),
        ("make", "in acted 1", "before Seal 2"),
        ("mail", "after Seal 1", "before Intent 1"),
    ],
)
def test_of_several_who_recover_at_once_any_may_die(
    nursery: Nursery, ground: Path, tool: str, first: str, death: str, crowd: int
) -> None:
    trial = Trial(ground / "trial", nursery, "errand", {"tool": tool, "names": NAMES})
    trial.die(first)
    dying = [trial.bear(deaths=[death], patience_s=5.0) for _ in range(crowd)]  # one after another, whoever is first
    ends = [nursery.wait(pid) for pid in dying]
    assert KILLED in {ended for ended, _ in ends}
    living = [nursery.wait(pid) for pid in [trial.bear(patience_s=20.0) for _ in range(crowd)]]
    results = [result for _, result in living if result]
    waits = {result["where"]: result for result in results if "waits" in result}
    for result in waits.values():
        trial.attend(result)
    answers = [result["answer"] for result in results if "answer" in result]
    assert answers == [trial.finish()] * len(answers)
    trial.census([tool], NAMES)


# --- a worker that is stopped while it recovers ---


@pytest.mark.parametrize(
    ("tool", "first", "stop"),
    [
        ("pay", "in acted 1", "in probing 1"),
        ("pay", "in acted 1", "before Settled 1"),
        ("build", "in acted 1", "in probing 1"),
        ("put", "in acted 1", "in acting 1"),
        ("put", "in acted 1", "before Seal 1"),
    ],
)
def test_a_recovery_that_was_taken_over_is_not_carried_on_by_who_wakes_late(
    nursery: Nursery, ground: Path, tool: str, first: str, stop: str
) -> None:
    """A probe changes nothing, and an idempotent effect may be sent twice: nobody has to wait for a person."""
    trial = Trial(ground / "trial", nursery, "errand", {"tool": tool, "names": NAMES}, LAPSING)
    trial.die(first)
    pair = Pair(trial, stop)
    answers = pair.take_over()["answer"]
    assert pair.wake()["raised"] == "Fenced"
    trial.census([tool], NAMES)
    assert trial.finish() == answers
    assert pair.late_entries() == []


@pytest.mark.parametrize("stop", ["in undoing 1", "in undone 1", "after Intent 1"])
def test_an_undo_that_may_still_be_running_waits_for_a_person(nursery: Nursery, ground: Path, stop: str) -> None:
    """Whoever wakes late may take back what was done again meanwhile."""
    trial = Trial(ground / "trial", nursery, "errand", {"tool": "make", "names": NAMES}, LAPSING)
    trial.die("in acted 1")
    pair = Pair(trial, stop)
    result = pair.take_over()
    assert result.get("waits") == "InDoubt", result
    assert "may still be running" in result["text"]
    assert pair.wake()["raised"] == "Fenced"
    node, there = result["where"], trial.world.living("make", "a")
    assert f"holdfast settle {node}" in result["fix"]
    trial.deed("settle", node=node, **({"did_not_happen": "it is there"} if there else {"happened": None}))
    trial.finish()
    trial.census(["make"], NAMES)
    assert pair.late_entries() == []


def recover_at_random(nursery: Nursery, folder: Path, seed: int) -> int:
    """A run that dies in a call, then crowds that recover, some of whom are killed at moments that the seed draws."""
    chance = random.Random(seed)
    tool = chance.choice(("put", "make", "build", "pay", "mail"))
    trial = Trial(folder, nursery, "errand", {"tool": tool, "names": NAMES, "slow_s": 0.003})
    trial.die(chance.choice(("after Intent 1", "in acted 1", "before Seal 1")))
    for _ in range(3):
        pids = [trial.bear() for _ in range(chance.randint(2, 3))]
        time.sleep(chance.uniform(0, 0.08))
        for pid in pids[: chance.randint(1, len(pids))]:
            nursery.signal(pid, signal.SIGKILL)
        ends = [nursery.wait(pid) for pid in pids]
        trial.deaths += sum(ended == KILLED for ended, _ in ends)
        waits = {result["where"]: result for ended, result in ends if ended != KILLED and "waits" in result}
        for result in waits.values():
            trial.attend(result)
    trial.finish()
    trial.census([tool], NAMES)
    return trial.deaths


def test_crowds_that_recover_come_to_the_same_end_whoever_is_killed(nursery: Nursery, ground: Path) -> None:
    assert sum(recover_at_random(nursery, ground / str(seed), seed) for seed in range(8)) > 8


@pytest.mark.soak
def test_crowds_that_recover_come_to_the_same_end_whoever_is_killed_for_long(nursery: Nursery, ground: Path) -> None:
    assert sum(recover_at_random(nursery, ground / str(seed), seed) for seed in range(8, 600)) > 592
