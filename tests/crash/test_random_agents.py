"""An agent whose own code is random, killed at random moments: it takes another way in each life, and is never told
that it may not.

Each life does its errands in an order, in groups and with looks at the clock that are its own, and goes one of several
by-ways. What an earlier life did on another by-way is not undone, not repeated and not hidden: `run.stranded()` tells.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.record import Divergence, Finished
from tests.crash.nursery import Nursery
from tests.crash.trial import KILLED, Trial

TOOLS = ["look", "put", "make", "build", "pay", "ring", "mail", "order", "book"]
BY = ["put", "pay", "build"]
WAYS = [f"way-{number}" for number in range(6)]


def wander(nursery: Nursery, folder: Path, seed: int) -> Counter[str]:
    """One run of the wanderer, killed at up to four moments that the seed draws, then judged."""
    chance = random.Random(seed)
    task = {"tools": TOOLS, "each": 1, "slow_s": 0.003, "by": BY, "ways": WAYS}
    trial = Trial(folder, nursery, "wanderer", task)
    for _ in range(4):
        pid = trial.bear()
        time.sleep(chance.uniform(0.005, 0.08))
        nursery.signal(pid, 9)
        ended, result = nursery.wait(pid)
        trial.deaths += ended == KILLED
        if ended == KILLED:
            continue
        assert "answer" in result or "waits" in result, f"a life came to {result}"
        if "answer" in result:
            break
        trial.attend(result)
    told = trial.finish()
    judge(trial, told)
    return Counter(trials=1, deaths=trial.deaths, stranded=len(told["stranded"]))


def judge(trial: Trial, told: dict[str, Any]) -> None:
    trial.consistent()
    for tool in TOOLS[1:]:
        trial.census([tool], [f"{tool}-0"])
    asked = {(tool, name) for tool, name in told["asked"]}
    stranded = {(tool, name): (happened, answer) for tool, name, happened, answer in told["stranded"]}
    assert not asked & stranded.keys(), "what the program has asked for is no longer stranded"
    there = {(tool, name): trial.world.living(tool, name) for tool in BY for name in WAYS}
    assert max(map(len, there.values())) <= 1
    done = {each for each, answers in there.items() if answers}
    assert done <= asked | stranded.keys(), "something was done that nobody is told of"
    for each, (happened, answer) in stranded.items():
        if happened:
            assert there[each] == [answer], "a stranded effect is told with another answer"
    assert len(done & asked) == 1, "a life goes one by-way"
    diverged = [
        record for _, record in trial.records(Divergence) if isinstance(record, Divergence) and record.unclaimed
    ]
    assert diverged or not stranded, "a program took another way, and nobody wrote it down"
    ends = [record for _, record in trial.records(Finished) if isinstance(record, Finished)]
    assert [record.error for record in ends] == [None], "a life died of being another than the one before"


@pytest.mark.parametrize("batch", range(4))
def test_an_agent_that_decides_differently_in_each_life_does_nothing_twice(
    nursery: Nursery, ground: Path, batch: int
) -> None:
    tally = sum((wander(nursery, ground / str(seed), seed) for seed in range(batch * 6, batch * 6 + 6)), Counter[str]())
    assert tally["deaths"] > 3, "the children were not killed"


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(4, 100))
def test_an_agent_that_decides_differently_in_each_life_does_nothing_twice_for_long(
    nursery: Nursery, ground: Path, batch: int
) -> None:
    tally = sum((wander(nursery, ground / str(seed), seed) for seed in range(batch * 6, batch * 6 + 6)), Counter[str]())
    assert tally["deaths"] > 3, "the children were not killed"


# The seal of an idempotent effect leaves with what comes next: after a crash it is not known whether it happened.
@pytest.mark.parametrize(("tool", "known"), [("put", False), ("pay", True), ("build", True)])
def test_what_an_earlier_life_did_on_another_way_is_told_and_written_down(
    nursery: Nursery, ground: Path, tool: str, *, known: bool
) -> None:
    """The first life goes one way and is killed when it has done two things there; the second goes another."""
    trial = Trial(ground / "trial", nursery, "turncoat", {"by": [tool]})
    trial.die("before Intent 3")
    told = trial.finish()
    first, second = (trial.world.living(tool, name)[0] for name in ("left 1", "left 2"))
    left = [[tool, "left 1", True, first], [tool, "left 2", known, second if known else None]]
    assert told == {"answer": trial.world.living(tool, "right")[0], "stranded": left}
    (divergence,) = [record for _, record in trial.records(Divergence) if isinstance(record, Divergence)]
    assert len(divergence.unclaimed) == 2
    trial.consistent()
