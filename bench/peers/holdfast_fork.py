"""Holdfast: an agent of `steps` steps, with a checkpoint after each `every` of them (0: none, it is replayed), forked
at one of them with another answer of its model.

python holdfast_fork.py FOLDER STEPS AT EVERY
"""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from holdfast import agent, open_store, tool
from holdfast.core.codec import decode
from holdfast.core.record import Decision

folder, steps, at, every = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
url = f"sqlite:///{folder}/runs.db?anchor={folder}/anchor"
first: list[float] = []


class Enough(Exception):
    """One new step has been taken."""


@tool(kind="idempotent")
def put(k: int, text: str) -> str:
    """One step."""
    if k >= at:
        first.append(time.perf_counter())
    return f"ok {k}"


async def think(k: int) -> str:
    """A model, of sorts."""
    return "x" * 200


async def work(run: Any, task: Any) -> str:
    """The agent: think, do, and the same again."""
    state = run.state if every else None
    for k in range(int(state) if state else 0, steps):
        text = await run.decide(think, k)
        await run.call(put, k=k, text=text)
        if first and run.branch != "main":
            raise Enough
        if every and (k + 1) % every == 0:
            run.state = k + 1
            await run.checkpoint()
    return "done"


forker = agent(work, state=int) if every else agent(work)


def size(house: Any) -> int:
    """The bytes that its tables hold."""
    rows = house.store.committer.connection.execute(
        "SELECT (SELECT sum(length(body) + length(ifnull(key, x'')) + length(digest)) FROM entry)"
        " + (SELECT sum(length(data) + length(digest)) FROM blob)"
    )
    return int(rows.fetchall()[0][0])


async def node(store: Any) -> int:
    """Where the decision of step `at` stands."""
    seqs = [each.seq for each in await store.read("w@main") if isinstance(decode(each.body), Decision)]
    return int(seqs[at])


def fork(house: Any, seq: int, number: int) -> tuple[float, int]:
    """How long it took to the first new step (ms), and how many bytes the fork alone has added."""
    first.clear()
    before = size(house)
    began = time.perf_counter()
    branch = house.fork(f"w@{seq}", kind="what-if", answers={seq: f"other {number}"}, by="bench")
    paused = time.perf_counter()
    grown = size(house) - before
    began += time.perf_counter() - paused
    with contextlib.suppress(Enough):
        house.run(forker, id="w", branch=branch)
    return 1000 * (first[0] - began), grown


with open_store(url) as house:
    began = time.perf_counter()
    house.run(forker, None, id="w")
    making = time.perf_counter() - began
    seq = asyncio.run(node(house.store))
with open_store(url) as house:
    first.clear()
    forks = [fork(house, seq, number) for number in range(3)]
    began = time.perf_counter()
    found = asyncio.run(house.store.read("w@main", after=seq - 1, upto=seq))
    finding = 1000 * (time.perf_counter() - began)
assert len(found) == 1
result = {
    "ms": [ms for ms, _ in forks],
    "bytes": max(grown for _, grown in forks),
    "find_ms": finding,
    "making_s": making,
}
sys.stdout.write(json.dumps(result) + "\n")
