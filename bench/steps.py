"""Our step: one tool call, or one decision, of 300 bytes of arguments and a 1 kB answer, through the log.

The tools answer at once: what is measured is Holdfast, and the flush of the disk.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from bench.clock import Clock
from bench.text import Texts
from holdfast import Run, agent, open_store, tool

NUMBERS = itertools.count()


@dataclass(slots=True)
class Shelf:
    """What the tools of this process answer with."""

    texts: Texts | None = None

    def answer(self, order: str) -> str:
        """The answer to an order: looked up, not made, so that it costs next to nothing."""
        assert self.texts is not None, "the texts are set before anything is called"
        return self.texts.answer(int(order))

    def body(self, number: int) -> str:
        """What the step of this number is given."""
        assert self.texts is not None, "the texts are set before anything is called"
        return self.texts.argument(number)


SHELF = Shelf()


@tool(kind="read")
async def look(order: str, body: str) -> str:
    return SHELF.answer(order)


@tool(kind="idempotent")
async def put(order: str, body: str) -> str:
    return SHELF.answer(order)


def give_back(order: str) -> None:
    """Never asked for here: nothing is taken back."""


@tool(kind="reversible", undo=give_back)
async def lend(order: str, body: str) -> str:
    return SHELF.answer(order)


@tool(kind="irreversible")
async def send(order: str, body: str) -> str:
    return SHELF.answer(order)


@tool(kind="idempotent")
def put_plainly(order: str, body: str) -> str:
    return SHELF.answer(order)


async def model(order: str, body: str) -> str:
    """Stands for a language model."""
    return SHELF.answer(order)


def step_of(run: Run, kind: str) -> Callable[[], Awaitable[object]]:
    """A function that makes the next step of this kind: a fresh order each time."""
    if kind == "decision":

        async def decide() -> object:
            number = next(NUMBERS)
            return await run.decide(model, str(number), SHELF.body(number))

        return decide
    called = {"read": look, "idempotent": put, "reversible": lend, "irreversible": send}[kind]

    async def call() -> object:
        number = next(NUMBERS)
        return await called(str(number), SHELF.body(number))

    return call


def measure(folder: Path, texts: Texts, kind: str, runs: int, seconds: float, warming: bool) -> dict[str, float]:
    """Steps of one kind in `runs` concurrent runs of one process, for about `seconds`. One run: through `house.run`;
    more: awaited together. `kind` may be `plain`: an idempotent step of functions without async."""
    SHELF.texts = texts
    path = folder / "ours.db"
    with open_store(f"sqlite:///{path}") as house:
        clock = Clock(path, runs, seconds, warming)
        if kind == "plain":
            house.run(_plainly(clock), id="bench-0")
        elif runs == 1:
            house.run(_timed(clock, kind), id="bench-0")
        else:
            timed = _timed(clock, kind)

            async def all_runs() -> None:
                await asyncio.gather(*(house.arun(timed, id=f"bench-{number}") for number in range(runs)))

            asyncio.run(all_runs())
    return clock.result()


def _timed(clock: Clock, kind: str):  # noqa: ANN202 - an agent, as the decorator returns it
    @agent
    async def stepping(run: Run, _task: object) -> None:
        step = step_of(run, kind)
        while clock.cold():
            await step()
        await clock.together()
        while clock.running():
            began = time.perf_counter()
            await step()
            clock.taken_s.append(time.perf_counter() - began)

    return stepping


def _plainly(clock: Clock):  # noqa: ANN202 - an agent, as the decorator returns it
    @agent
    def stepping(_run: Run, _task: object) -> None:
        while clock.cold():
            number = next(NUMBERS)
            put_plainly(str(number), SHELF.body(number))
        clock.ready()
        while clock.running():
            began = time.perf_counter()
            number = next(NUMBERS)
            put_plainly(str(number), SHELF.body(number))
            clock.taken_s.append(time.perf_counter() - began)

    return stepping


def take(folder: Path, texts: Texts, kind: str, runs: int, steps: int) -> dict[str, float]:
    """Exactly `steps` steps in each of `runs` runs, on a fresh store on which nothing periodic is done: to be counted
    from outside."""
    SHELF.texts = texts

    @agent
    async def counted(run: Run, _task: object) -> None:
        step = step_of(run, kind)
        for _ in range(steps):
            await step()

    with open_store(f"sqlite:///{folder / 'counted.db'}?flush_s=600&anchor={folder / 'anchor'}") as house:
        if runs == 1:
            house.run(counted, id="counted-0")
        else:

            async def all_runs() -> None:
                await asyncio.gather(*(house.arun(counted, id=f"counted-{number}") for number in range(runs)))

            asyncio.run(all_runs())
    return {"steps": steps * runs}


def pace(folder: Path, texts: Texts, kind: str, seconds: float) -> dict[str, float]:
    """Steps of one run for some seconds with the default settings: what is done beside them is counted from outside,
    between the two moments (seconds since 1970) that this returns."""
    SHELF.texts = texts
    steps, began, ended = 0, 0.0, 0.0

    @agent
    async def pacing(run: Run, _task: object) -> None:
        nonlocal steps, began, ended
        step = step_of(run, kind)
        await step()
        began = time.time()
        while (ended := time.time()) - began < seconds:
            await step()
            steps += 1

    with open_store(f"sqlite:///{folder / 'paced.db'}?anchor={folder / 'anchor'}") as house:
        house.run(pacing, id="paced-0")
    return {"steps": steps, "began": began, "ended": ended}
