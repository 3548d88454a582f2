"""One run and two workers: one that is stopped and wakes late, one that lives and is left alone, two that come at once.

The first is stopped with SIGSTOP at a boundary, so that to all the world it looks dead but for its process; the second
takes the run over when the claim has lapsed. Then the first is woken, and must find that nothing is its own any more.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.record import Claim
from tests.crash.nursery import Nursery
from tests.crash.trial import KILLED, Trial

NAMES = ["a", "b"]
LAPSING = "flush_s=0.05&claim_ttl_s=0.4"
ASLEEP_S = 1.2  # longer than what a sender takes for a slow flush, see PAUSE_S in send.py


class Pair:
    """A worker that is stopped, and those who come after it."""

    def __init__(self, trial: Trial, stop: str) -> None:
        self.trial = trial
        self.first = trial.bear(stops=[stop])
        ended, result = trial.nursery.wait(self.first)
        assert ended == "stopped", f"the first worker did not stop at {stop}, but: {ended} {result}"
        self.stopped_at = time.monotonic()

    def take_over(self) -> dict[str, Any]:
        """The second worker comes as soon as the claim has lapsed; what it comes to."""
        ended, result = self.trial.live(patience_s=20.0)
        assert ended == "left"
        return result

    def wake(self) -> dict[str, Any]:
        """Wake the first worker; what it comes to."""
        time.sleep(max(0.0, ASLEEP_S - (time.monotonic() - self.stopped_at)))
        self.trial.nursery.signal(self.first, signal.SIGCONT)
        ended, result = self.trial.nursery.wait(self.first)
        assert ended == "left"
        return result

    def late_entries(self) -> list[int]:
        """What was written under an epoch after a higher one was taken: nothing, ever."""
        highest, late = 0, []
        for entry in self.trial.entries():
            highest = max(highest, entry.epoch)
            late += [entry.seq] if 0 < entry.epoch < highest else []
        return late


@pytest.fixture
def trial(nursery: Nursery, ground: Path, request: pytest.FixtureRequest) -> Trial:
    tool = request.node.callspec.params["tool"]
    return Trial(ground / "trial", nursery, "errand", {"tool": tool, "names": NAMES}, LAPSING)


BETWEEN = ["after Intent 1", "in acting 1", "in acted 1", "before Seal 1"]
IDLE = ["after Decision 1", "after Seal 1", "before Intent 1", "before Intent 2", "before Finished 1"]


@pytest.mark.parametrize("stop", ["after Intent 1", "in acted 1", "before Seal 1"])
@pytest.mark.parametrize("tool", ["mail", "ring", "pay", "build", "make"])
def test_an_open_effect_of_a_stopped_worker_waits_for_a_person(trial: Trial, tool: str, stop: str) -> None:
    pair = Pair(trial, stop)
    doubt = pair.take_over()
    assert doubt["waits"] == "InDoubt"
    assert "may still be running" in doubt["text"], "a person is not told that the other worker was not proven dead"
    trial.attend(doubt)
    answers = trial.finish()
    before = len(trial.world.lines())
    late = pair.wake()
    assert late["raised"] == "Fenced"
    if stop != "after Intent 1":
        assert f"`{tool}`, which it had sent, happened; but `trial@4` is settled already" in late["text"]
    assert [line for line in trial.world.lines()[before:] if "did" in line] == [], "one that was fenced has sent"
    trial.census([tool], NAMES)
    assert answers == trial.finish() == [trial.world.living(tool, name)[0] for name in NAMES]
    assert pair.late_entries() == []
    assert trial.doubts == [tool]


@pytest.mark.parametrize("stop", ["in acting 1", "in acted 1", "before Seal 1"])
@pytest.mark.parametrize("tool", ["mail", "pay"])
def test_what_an_overtaken_worker_is_told_ends_the_doubt(trial: Trial, tool: str, stop: str) -> None:
    pair = Pair(trial, stop)
    assert pair.take_over()["waits"] == "InDoubt"
    assert pair.wake()["raised"] == "Fenced"
    answers = trial.finish()
    assert trial.doubts == [], "a person was asked for what is known"
    trial.census([tool], NAMES)
    assert answers == [trial.world.living(tool, name)[0] for name in NAMES]
    assert pair.late_entries() == []


@pytest.mark.parametrize("stop", BETWEEN)
@pytest.mark.parametrize("tool", ["put", "store"])
def test_an_idempotent_effect_of_a_stopped_worker_is_sent_again_with_its_key(
    trial: Trial, tool: str, stop: str
) -> None:
    pair = Pair(trial, stop)
    answers = pair.take_over()["answer"]
    assert pair.wake()["raised"] == "Fenced"
    trial.census([tool], NAMES)
    assert answers == [trial.world.living(tool, name)[0] for name in NAMES]
    assert len(set(trial.world.sendings(tool, "a"))) == 1
    assert pair.late_entries() == []


@pytest.mark.parametrize("stop", IDLE)
@pytest.mark.parametrize("tool", ["mail", "put"])
def test_a_worker_that_is_stopped_while_idle_writes_and_sends_nothing_when_it_wakes(
    trial: Trial, tool: str, stop: str
) -> None:
    pair = Pair(trial, stop)
    answers = pair.take_over()["answer"]
    sent = len(trial.world.lines())
    late = pair.wake()
    assert late["raised"] == "Fenced"
    assert [line for line in trial.world.lines()[sent:] if "did" in line] == []
    trial.census([tool], NAMES)
    assert trial.finish() == answers
    assert pair.late_entries() == []


@pytest.mark.parametrize("tool", ["mail"])
def test_a_stopped_worker_that_is_killed_is_proven_dead_and_its_effect_is_asked_about(trial: Trial, tool: str) -> None:
    pair = Pair(trial, "in acted 1")
    trial.nursery.signal(pair.first, signal.SIGKILL)
    assert trial.nursery.wait(pair.first)[0] == KILLED
    doubt = pair.take_over()
    assert "may still be running" not in doubt["text"]
    trial.attend(doubt)
    trial.finish()
    trial.census([tool], NAMES)


@pytest.mark.parametrize("tool", ["mail"])
def test_a_living_worker_is_left_alone_however_long_it_takes(trial: Trial, tool: str) -> None:
    trial.life["task"]["slow_s"] = 1.5  # several times the claim's life, in which it shows that it lives
    first = trial.bear()
    while not trial.world.lines():
        time.sleep(0.005)
    turned_away = []
    while trial.nursery.wait(first, 0.0)[0] is None:
        ended, result = trial.live()
        if "answer" in result:
            break
        assert ended == "left"
        assert result["raised"] == "Claimed", result
        turned_away.append(result)
    assert turned_away
    assert "already advancing it" in turned_away[0]["text"]
    trial.finish()
    trial.census([tool], NAMES)
    claims = [record for _, record in trial.records(Claim) if isinstance(record, Claim)]
    assert [claim.previous for claim in claims] == ["none"], "a living worker was overtaken"


@pytest.mark.parametrize("death", ["in acted 1", "before Seal 1", "after Seal 1", "after Decision 1"])
@pytest.mark.parametrize("tool", ["pay", "put", "mail"])
def test_of_two_who_resume_a_run_at_once_one_is_turned_away(trial: Trial, tool: str, death: str) -> None:
    trial.die(death)
    pids = [trial.bear(patience_s=0.0) for _ in range(3)]
    results = [trial.nursery.wait(pid)[1] for pid in pids]
    waits = {result["where"]: result for result in results if "waits" in result}
    assert all("answer" in result or "waits" in result or result["raised"] == "Claimed" for result in results), results
    assert len(waits) <= 1
    for doubt in waits.values():
        trial.attend(doubt)
    trial.finish()
    trial.census([tool], NAMES)


def test_processes_that_make_a_store_together_make_one(nursery: Nursery, ground: Path) -> None:
    for number in range(20):
        trial = Trial(ground / str(number), nursery, "errand", {"tool": "put", "names": NAMES})
        pids = [trial.bear(patience_s=20.0) for _ in range(3)]
        answers = [trial.nursery.wait(pid)[1].get("answer") for pid in pids]
        assert answers == [answers[0]] * 3
        trial.census(["put"], NAMES)
