"""Killed at uniformly random moments, again and again, while it lives and while it recovers; and at every write.

The run calls every kind of tool, in parallel, in an order and on by-ways that are other ones in each life. What is
counted is always the same: see trial.py.

Rules
1. A seed decides how often and when a trial's children are killed. What a machine does with a moment is its own: a
   failure names the seed, and its log and its world are kept.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.crash.nursery import ROOT, Nursery
from tests.crash.tools import ALL
from tests.crash.trial import KILLED, Trial

BATCH = 20
BATCHES = 10
SOAK_BATCHES = 150


@pytest.fixture(scope="module")
def nurseries() -> Iterator[list[Nursery]]:
    """Two, so that both cores have something to do."""
    found = [Nursery(), Nursery()]
    yield found
    for bearing in found:
        bearing.close()


class Pace:
    """How long a life takes on this machine at this moment, in seconds: learnt from who was killed and who got away."""

    def __init__(self) -> None:
        self.life_s = 0.1

    def learn(self, *, killed: bool) -> None:
        self.life_s *= 1.05 if killed else 0.9


class Fate:
    """What becomes of the children of one trial: drawn from its seed."""

    def __init__(self, seed: int, trial: Trial, pace: Pace) -> None:
        self.chance = random.Random(seed)
        self.trial = trial
        self.pace = pace
        self.tally: Counter[str] = Counter(trials=1)

    def strike(self) -> bool:
        """One life, killed at a moment that is uniform over its length, or two of one run, racing. True if the run
        ended."""
        crowd = 2 if self.chance.random() < 0.25 else 1
        pids = [self.trial.bear() for _ in range(crowd)]
        time.sleep(self.chance.uniform(0, self.pace.life_s * crowd))
        for pid in pids[: self.chance.randint(1, crowd)]:
            self.trial.nursery.signal(pid, 9)
        ends = [self.trial.nursery.wait(pid) for pid in pids]
        self.pace.learn(killed=ends[0][0] == KILLED)
        self.tally.update(lives=crowd, deaths=sum(ended == KILLED for ended, _ in ends), races=crowd - 1)
        waits = {result["where"]: result for ended, result in ends if ended != KILLED and "waits" in result}
        for result in waits.values():  # two that race may come to the same wait
            self.trial.attend(result)
        answers = [self.ended(result) for ended, result in ends if ended != KILLED]
        return any(answers)

    def ended(self, result: dict[str, Any]) -> bool:
        """Whether a life came to the end of the run; if not, it must say why."""
        self.tally["turned away"] += result.get("raised") == "Claimed"
        assert "answer" in result or "waits" in result or result["raised"] == "Claimed", result
        return "answer" in result


def suffer(seed: int, folder: Path, nursery: Nursery, pace: Pace) -> Counter[str]:
    """One trial: one to four strikes, then as many lives as it takes."""
    asked = [name for name in ALL if name != "alter" or seed % 4 == 0]
    trial = Trial(folder, nursery, "mixed", {"tools": asked, "each": 1, "slow_s": 0.003})
    fate = Fate(seed, trial, pace)
    try:
        for _ in range(fate.chance.randint(1, 4)):
            if fate.strike():
                break
        answers = trial.finish()
        trial.consistent()
        for tool in asked:
            if tool != "look":
                trial.census([tool], [f"{tool}-0"])
                assert answers[f"{tool}-0"] == trial.world.living(tool, f"{tool}-0")[0]
    except AssertionError as error:
        kept = shutil.move(folder, tempfile.mkdtemp(prefix=f"holdfast-seed-{seed}-"))
        raise AssertionError(f"seed {seed}, kept in {kept}: {error}") from error
    fate.tally["doubts"] += len(trial.doubts)
    shutil.rmtree(folder)
    return fate.tally


def suffer_all(seeds: range, ground: Path, nurseries: list[Nursery]) -> None:
    pace = Pace()
    with ThreadPoolExecutor(len(nurseries)) as pool:
        parts = [
            pool.submit(lambda at=at: [suffer(seed, ground / str(seed), nurseries[at], pace) for seed in seeds[at::2]])
            for at in range(len(nurseries))
        ]
        tally: Counter[str] = sum((each for part in parts for each in part.result()), Counter())
    print(dict(tally))
    assert tally["trials"] == len(seeds)
    assert tally["deaths"] > len(seeds) / 2, "the children were not killed"


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_run_survives_death_at_any_moment(nurseries: list[Nursery], ground: Path, batch: int) -> None:
    suffer_all(range(batch * BATCH, (batch + 1) * BATCH), ground, nurseries)


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(BATCHES, SOAK_BATCHES))
def test_a_run_survives_death_at_any_moment_for_long(nurseries: list[Nursery], ground: Path, batch: int) -> None:
    suffer_all(range(batch * BATCH, (batch + 1) * BATCH), ground, nurseries)


# --- at every write ---

WRITERS = ("put", "make", "mail", "pay", "alter", "order")
STEP = 7  # in CI every seventh write, from another one on for each tool; all of them in the soak
NAMES = ["a", "b"]


def die_at_writes(nursery: Nursery, ground: Path, tool: str, step: int) -> None:
    """A run killed at its n-th write, as are the two lives that recover: for n from the making of the store to the
    end."""
    task = {"tool": tool, "names": NAMES}
    _, whole = Trial(ground / "whole", nursery, "errand", task).live(census=True)
    assert whole["writes"] > 50, "the writes were not counted"
    deaths = 0
    for nth in range(1 + WRITERS.index(tool) % step, whole["writes"] + 1, step):
        trial = Trial(ground / str(nth), nursery, "errand", task)
        for _ in range(3):
            ended, result = trial.live(deaths=[f"before write {nth}"])
            if ended != KILLED and "waits" in result:
                trial.attend(result)
        trial.finish()
        trial.census([tool], NAMES)
        deaths += trial.deaths
        shutil.rmtree(ground / str(nth))
    assert deaths >= whole["writes"] // step, "the children were not killed"


@pytest.mark.parametrize("tool", WRITERS)
def test_a_run_survives_death_at_a_write_of_its_store(nursery: Nursery, ground: Path, tool: str) -> None:
    die_at_writes(nursery, ground, tool, STEP)


@pytest.mark.soak
@pytest.mark.parametrize("tool", WRITERS)
def test_a_run_survives_death_at_each_write_of_its_store(nursery: Nursery, ground: Path, tool: str) -> None:
    die_at_writes(nursery, ground, tool, 1)


# --- at system calls, as the system sees them ---

CALLS = "write,pwrite64,fdatasync,fsync,ftruncate,unlink,link"


def traced(life: dict[str, Any], heard: Path, inject: str = "") -> int:
    """One life in an interpreter of its own, under strace, which writes what it heard; how it ended."""
    how = ["-e", f"trace={CALLS}", *(["-e", inject] if inject else [])]
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(heard),
        *how,
        sys.executable,
        "-m",
        "tests.crash.life",
        json.dumps(life),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False).returncode


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def die_at_calls(nursery: Nursery, ground: Path, share: int) -> None:
    """A run killed at its n-th call; strace counts the calls of each thread for itself."""
    task, heard = {"tool": "mail", "names": NAMES}, ground / "heard"
    assert traced(Trial(ground / "whole", nursery, "errand", task).life, heard) == 0
    calls = max(Counter(line.split()[0] for line in heard.read_text().splitlines()).values())
    assert calls > 50, "the calls were not counted"
    killed = 0  # which thread makes a call is not the same each time: the last ones may not come
    for nth in range(1, calls, calls // share):
        trial = Trial(ground / str(nth), nursery, "errand", task)
        killed += traced(trial.life, heard, f"inject={CALLS}:signal=KILL:when={nth}") in {-9, 137}
        trial.finish()
        trial.census(["mail"], NAMES)
        shutil.rmtree(ground / str(nth))
    assert killed >= share // 2, "the children were not killed"


@pytest.mark.skipif(not can_trace(), reason="needs strace, and the right to trace")
def test_a_run_survives_death_at_a_system_call(nursery: Nursery, ground: Path) -> None:
    die_at_calls(nursery, ground, 8)


@pytest.mark.soak
@pytest.mark.skipif(not can_trace(), reason="needs strace, and the right to trace")
def test_a_run_survives_death_at_each_system_call(nursery: Nursery, ground: Path) -> None:
    die_at_calls(nursery, ground, 50)
