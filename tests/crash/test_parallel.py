"""Calls that are under way together: each is given its own answer in each life, in whatever order they end.

A native call is counted when it is made. So the third of five equal calls is the third in every life, whichever of them
was carried out first.
"""

from __future__ import annotations

import asyncio
import random
import time
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from holdfast import agent, key, open_store, tool
from holdfast.core.record import Intent
from tests.crash.nursery import Nursery
from tests.crash.trial import Trial
from tests.stage import Killed, life, of

EQUAL = ["a"] * 4
MIXED = ["a", "b", "a", "c", "b"]
CROWDS = {"equal": EQUAL, "mixed": MIXED}
BOUNDARIES = [f"{side} {nth}" for side in ("in acted", "before Seal", "after Seal") for nth in (1, 2, 4)]
OF_A_WRITE = [*BOUNDARIES, "after Intent 1", "before Intent 3", "after Intent 4"]


def counted(trial: Trial, tool_: str, names: list[str], answers: list[str]) -> None:
    """As many effects as calls, every call with one of its own, told the same in all lives."""
    assert not trial.world.changed_minds()
    assert len(set(answers)) == len(names), "two calls were given one answer"
    if tool_ == "gauge":
        return
    for name in set(names):
        assert len(trial.world.living(tool_, name)) == names.count(name)
    assert not trial.world.done_twice()
    assert [answer.split("/")[1] for answer in answers] == names, "a call was given the answer of another"
    intents = [record for _, record in trial.records(Intent) if isinstance(record, Intent)]
    assert len({intent.key for intent in intents}) == len(intents) == len(names)


@pytest.mark.parametrize("crowd", CROWDS)
@pytest.mark.parametrize(
    ("tool_", "boundary"),
    [("gauge", where) for where in BOUNDARIES]
    + [
        (each, where)
        for each in ("drop", "chime", "knock")
        for where in OF_A_WRITE
        if each != "drop" or "Seal" not in where
    ],
)
def test_parallel_calls_keep_their_answers_when_the_process_is_killed(
    nursery: Nursery, ground: Path, tool_: str, crowd: str, boundary: str
) -> None:
    names = CROWDS[crowd]
    trial = Trial(ground / "trial", nursery, "crowd", {"tool": tool_, "names": names, "slow_s": 0.002})
    trial.die(boundary)
    answers = trial.finish()
    counted(trial, tool_, names, answers)
    assert trial.finish() == answers


def suffer(nursery: Nursery, folder: Path, tool_: str, seed: int) -> int:
    """One trial, killed up to three times at a moment that the seed draws; how often it was."""
    chance = random.Random(seed)
    names = [chance.choice("abc") for _ in range(8)]
    trial = Trial(folder, nursery, "crowd", {"tool": tool_, "names": names, "slow_s": 0.004})
    for _ in range(3):
        pid = trial.bear()
        time.sleep(chance.uniform(0, 0.06))
        nursery.signal(pid, 9)
        ended, _ = nursery.wait(pid)
        trial.deaths += ended == "killed by 9"
    answers = trial.finish()
    counted(trial, tool_, names, answers)
    return trial.deaths


@pytest.mark.parametrize("tool_", ["gauge", "drop", "chime", "knock"])
def test_parallel_calls_keep_their_answers_whenever_the_process_is_killed(
    nursery: Nursery, ground: Path, tool_: str
) -> None:
    assert sum(suffer(nursery, ground / str(seed), tool_, seed) for seed in range(6)) > 0


@pytest.mark.soak
@pytest.mark.parametrize("tool_", ["gauge", "drop", "chime", "knock"])
def test_parallel_calls_keep_their_answers_whenever_the_process_is_killed_for_long(
    nursery: Nursery, ground: Path, tool_: str
) -> None:
    assert sum(suffer(nursery, ground / str(seed), tool_, seed) for seed in range(6, 300)) > 100


# --- every order ---


class Harbour:
    """Ships leave together and come back in an order that is given; after `most` of them the process dies."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.answers: dict[str, str] = {}

    def open(self, order: tuple[int, ...], most: int) -> None:
        """A life begins."""
        self.free = [asyncio.Event() for _ in order]
        self.order, self.most, self.back = order, most, 0
        self.free[order[0]].set()

    def open_again(self) -> None:
        """Another life begins, in which they come back as the sea will have it."""
        self.most = 99
        for each in self.free:
            each.set()

    async def sail(self, cargo: str) -> str:
        """One ship; it is known by its key in all lives."""
        number = self.numbers.setdefault(key(), len(self.numbers))
        await self.free[number].wait()
        if self.back >= self.most:
            for each in self.free:
                each.set()
            raise Killed
        self.back += 1
        if self.back < len(self.order):
            self.free[self.order[self.back]].set()
        return self.answers.setdefault(key(), f"{cargo} {len(self.answers)}")


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("most", [0, 1, 2, 3])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_each_call_is_given_its_own_answer_in_every_order_of_ending(
    order: tuple[int, ...], most: int, *, equal: bool
) -> None:
    harbour, told = Harbour(), dict[int, str]()

    @tool(kind="idempotent", repeat="each", name="ship")
    async def ship(cargo: str) -> str:
        return await harbour.sail(cargo)

    @agent
    async def sends(run: Any, task: Any) -> list[str]:
        if harbour.numbers:
            harbour.open_again()
        else:
            harbour.open(order, most)

        async def one(number: int) -> str:
            answer = await ship("tea" if equal else f"tea {number}")
            assert told.setdefault(number, answer) == answer, f"call {number} was answered anew"
            return answer

        return list(await asyncio.gather(*(one(number) for number in range(3))))

    with open_store("memory://") as house:
        ending = life(house, sends)
        assert isinstance(ending, Killed) == (most < 3)
        before = dict(told)
        answers = life(house, sends)
        assert before.items() <= dict(enumerate(answers)).items()
        assert sorted(answers) == sorted(harbour.answers.values())
        assert len(of(Intent, house)) == len(set(answers)) == 3
