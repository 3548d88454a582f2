"""Agents whose transcripts are alike, so that runs share payloads and pieces; and processes that run them or prune.

    python -m tests.store.talkers talk URL SEED RUNS     so many runs, two at a time, in one process
    python -m tests.store.talkers prune                  for each line `URL BOUNDARY`, or `URL -`: a child that prunes,
                                                         and dies at that boundary (tests/crash/deaths.py)

The world is the file `told` in the directory that a process stands in.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Any

from holdfast import Run, agent, open_store, tool
from holdfast.cli import main
from holdfast.store import prune
from tests.crash.deaths import Boundary, arm

LONG = " ".join(f"{number} word" for number in range(150))


async def model(messages: list[Any]) -> dict[str, str]:
    """The same answer to the same transcript, whoever asks."""
    return {"role": "assistant", "content": f"answer {len(messages)}: {LONG}"}


@tool(kind="irreversible", name="tell", identity=["what"])
def tell(what: str, text: str) -> str:
    with Path("told").open("a") as told:
        told.write(f"{what}\n")
    return f"told {what}: {text}"


@tool(kind="read", name="look")
async def look(what: str) -> str:
    return f"{what}: {LONG}"


@agent
async def talker(run: Run, task: Any) -> int:
    """So many turns of a conversation, and what comes of each is told; with `waits`, half-way for a signal."""
    messages: list[Any] = [{"role": "user", "content": f"begin: {LONG}"}]
    for turn in range(task["turns"]):
        if task.get("waits") and turn == task["turns"] // 2:
            messages.append({"role": "user", "content": await run.wait_for("go")})
        messages.append(await run.decide(model, messages))
        messages.append({"role": "tool", "content": await look(str(turn))})
        await run.call(tell, what=f"{task['name']} {turn}", text=LONG)
    return len(messages)


@agent(state=list[int])
async def walker(run: Run, task: Any) -> list[int]:
    """It thinks, reads, acts and keeps where it is, turn by turn; with `stops`, it waits for a signal at that turn."""
    for turn in range(len(run.state), task["turns"]):
        if turn == task.get("stops"):
            await run.wait_for("go")
        await run.decide(model, [turn, LONG])
        await look(f"walk {turn}")
        await run.call(tell, what=f"walk {turn}", text=LONG)
        await run.call(tell, what="once", text=LONG)
        run.state.append(turn)
        await run.checkpoint()
    return run.state


@agent
async def quoter(run: Run, task: Any) -> str:
    """It is answered with what is stored already, and quotes that when the store was pruned meanwhile."""
    answer = await run.decide(model, [])
    await tidy(task["url"])
    await run.decide(model, [answer])
    return "quoted"


@agent
async def answerer(run: Run, task: Any) -> Any:
    return await model([])


@tool(kind="read", name="tidy")
async def tidy(url: str) -> int:
    """Somebody prunes the store at this moment."""
    return await asyncio.to_thread(main, ["prune", "--older-than", "1d", "--store", url])


async def talk(url: str, seed: int, runs: int) -> None:
    chance = random.Random(seed)
    async with open_store(url) as house:

        async def some(lane: int) -> None:
            for number in range(lane, runs, 2):
                name = f"s{seed}-{number}"
                await house.arun(talker, {"turns": chance.randint(1, 4), "name": name}, id=name)

        await asyncio.gather(some(0), some(1))


def prune_in_children() -> None:
    prune.MOST_BLOBS = 5
    for line in sys.stdin:
        url, _, boundary = line.strip().partition(" ")
        pid = os.fork()
        if pid == 0:
            if boundary != "-":
                arm(Boundary.of(boundary))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(main(["prune", "--older-than", "0s", "--store", url]))
        _, status = os.waitpid(pid, 0)
        print("killed" if os.WIFSIGNALED(status) else f"left {os.WEXITSTATUS(status)}", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["talk", url, seed, runs]:
            asyncio.run(talk(url, int(seed), int(runs)))
        case _:
            prune_in_children()
