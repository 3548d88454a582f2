"""Holdfast: so many agents in one process, each of which makes idempotent calls.

python holdfast_steps.py URL RUNS SECONDS SERVER
"""

import asyncio
import time
from typing import Any

from window import LOOK_S, WARM, asked, text

from holdfast import agent, open_store, tool
from holdfast.cli.heap import for_many_runs

url, window = asked()


@tool(kind="idempotent")
async def put(number: int, body: str) -> str:
    """One step."""
    return text(number, 1000)


@agent
async def work(run: Any, task: Any) -> None:
    """Steps, as long as there is time."""
    for number in range(WARM):
        await put(number, text(number, 300))
    window.warm(task)
    while not window.opened:  # noqa: ASYNC110 - as the threads of the peers do
        await asyncio.sleep(LOOK_S)
    number = WARM
    while window.open():
        await put(number, text(number, 300))
        window.counts[task] += 1
        number += 1


async def all_of_them(house: Any, began: int) -> None:
    """Beside each other."""
    await asyncio.gather(*(house.arun(work, run, id=f"w-{began}-{run}") for run in range(window.runs)))


for_many_runs()  # as `holdfast worker` does
with open_store(url) as house:
    if window.runs == 1:
        house.run(work, 0, id=f"w-{time.time_ns()}")
    else:
        asyncio.run(all_of_them(house, time.time_ns()))
window.tell()
