"""Coming back: from opening a store that a killed process left behind to the first new step.

Rules
1. The log is made by a real process that dies by SIGKILL: its claim is not given back, its write-ahead log lies there.
2. Each coming back is a fresh process on a fresh copy of what was left. Its clock starts after everything is imported,
   before `open_store`, and stops in the body of the first tool that is really called: its intent is durable by then.
3. A sealed step that is called again would be a wrong result, not a slow one: it ends the measurement with an error.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from bench.importing import NEEDED
from bench.text import Texts
from holdfast import Run, agent, open_store, tool

EVERY = 100  # steps from checkpoint to checkpoint
BEHIND = 10  # steps after the last one


@dataclass(slots=True)
class Trip:
    """What one process is to do: `steps` that the log holds, or will; `on_new` when a step beyond them is called."""

    texts: Texts
    steps: int
    on_new: Callable[[], None]
    performed: list[int] = field(default_factory=list)


TRIP: list[Trip] = []


@tool(kind="idempotent")
async def put(order: str, body: str) -> str:
    trip, number = TRIP[0], int(order)
    if number >= trip.steps:
        trip.on_new()
    trip.performed.append(number)
    return trip.texts.answer(number)


@agent
async def replayed(run: Run, _task: object) -> None:
    """Keeps no state: its calls are answered from the log."""
    trip = TRIP[0]
    for number in range(trip.steps + 1):
        await _step(trip, number)


@agent(state=dict)
async def restored(run: Run, _task: object) -> None:
    """Goes on from its newest checkpoint."""
    trip = TRIP[0]
    for number in range(run.state.get("done", 0), trip.steps + 1):
        if number % EVERY == EVERY - BEHIND:
            run.state = {"done": number}
            await run.checkpoint()
        await _step(trip, number)


async def _step(trip: Trip, number: int) -> None:
    if number == trip.steps:
        await asyncio.sleep(0.1 if trip.performed else 0)  # in the first life: until the last seal has its place
        if trip.performed:
            os.kill(os.getpid(), signal.SIGKILL)
    await put(str(number), trip.texts.argument(number))


WAYS = {"restore": restored, "replay": replayed}


def url(folder: Path) -> str:
    """The store of a folder; its anchor is there too, so that a copy has one of its own."""
    return f"sqlite:///{folder / 'runs.db'}?anchor={folder / 'anchor'}"


def grow(folder: Path, texts: Texts, way: str, steps: int) -> None:
    """Take `steps` steps, then die."""
    TRIP.append(Trip(texts, steps, on_new=_never))
    with open_store(url(folder)) as house:
        house.run(WAYS[way], id="long")


def _never() -> None:
    raise AssertionError("the first life dies before its first new step")


def come_back(folder: Path, texts: Texts, way: str, steps: int) -> dict[str, float]:
    """Seconds from `open_store` to the first new step, and the memory of the process at that moment."""
    for name in NEEDED:
        import_module(name)
    seen: dict[str, float] = {}
    known = len(sys.modules)
    before = _resident("VmRSS")

    def arrived() -> None:
        seen["ms"] = (time.perf_counter() - began) * 1000
        seen["rss_mb"], seen["peak_mb"] = _resident("VmRSS"), _resident("VmHWM")
        seen["imported"] = len(sys.modules) - known

    TRIP.append(Trip(texts, steps, on_new=arrived))
    began = time.perf_counter()
    with open_store(url(folder)) as house:
        house.run(WAYS[way], id="long")
    assert TRIP[0].performed == [steps], f"called again: {TRIP[0].performed}"
    return {**seen, "rss_before_mb": before}


def _resident(field_name: str) -> float:
    """Memory of this process in MB, as Linux counts it; elsewhere its greatest use so far."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field_name + ":"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def copied(source: Path, target: Path) -> None:
    """A copy of what a dead process left behind, flushed, so that the copying is not measured."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    for path in target.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
