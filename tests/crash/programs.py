"""The agents of these tests. What an agent is given it shows to the world (`saw`), so that two lives can be
compared."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from holdfast import Run, agent
from tests.crash.tools import ALL, EACH, carry_out, slowness, world

Task = dict[str, Any]


async def think(prompt: str) -> str:
    """The model: it never says the same twice."""
    await asyncio.sleep(0)
    return world().answer(prompt)


@agent
async def errand(run: Run, task: Task) -> list[Any]:
    """A thought, then the tool on each of `names`, one after another."""
    slowness.most_s = task.get("slow_s", 0.0)
    world().saw("thought", await run.decide(think, task["tool"]))
    answers = [world().saw(name, await carry_out(task["tool"], name)) for name in task["names"]]
    world().saw("clock", await run.now())
    return answers


@agent
def plain_errand(run: Any, task: Task) -> list[Any]:
    """The same, by a synchronous agent that calls with `run.call`."""
    world().saw("thought", run.decide(think, task["tool"]))
    answers = [world().saw(name, run.call(ALL[task["tool"]], name=name)) for name in task["names"]]
    world().saw("clock", run.now())
    return answers


@agent(state=dict)
async def stages(run: Run, task: Task) -> dict[str, Any]:
    """The same in stages: a checkpoint after each, from which it goes on."""
    world().begins(sorted(run.state))
    for name in task["names"]:
        if name not in run.state:
            thought = await run.decide(think, name)
            run.state[name] = [thought, await run.now(), await carry_out(task["tool"], name)]
            world().saw(f"in stage {name}", run.state[name])
            world().saw(f"checkpoint {name}", await run.checkpoint())
    return run.state


@agent
async def mixed(run: Run, task: Task) -> dict[str, Any]:
    """Every tool on names of its own: in an order, in groups and on by-ways that are another each time it lives."""
    chance = random.SystemRandom()
    slowness.most_s = task["slow_s"]
    todo = [(tool, f"{tool}-{number}") for number in range(task["each"]) for tool in task["tools"]]
    chance.shuffle(todo)
    answers: dict[str, Any] = {}

    async def one(tool: str, name: str) -> None:
        if chance.random() < 0.2:
            await run.now()
        answers[name] = world().saw(f"{tool} {name}", await carry_out(tool, name))

    while todo:
        group = [todo.pop() for _ in range(min(len(todo), chance.randint(1, 4)))]
        if chance.random() < 0.3:
            way = chance.choice(("left", "right"))
            group.append((chance.choice(("put", "mail", "build")), f"{way}-{len(todo)}"))
        if chance.random() < 0.2:
            await run.decide(think, f"before {sorted(name for _, name in group)}", lane=f"{chance.random()}")
        await asyncio.gather(*(one(tool, name) for tool, name in group))
    return answers


@agent
async def wanderer(run: Run, task: Task) -> dict[str, Any]:
    """What is to be done, in any order, and on the way something that another life would not do: one of `ways`. It
    tells what it has asked for, and what it is told that others have left behind."""
    chance = random.SystemRandom()
    slowness.most_s = task["slow_s"]
    todo = [(tool, f"{tool}-{number}") for number in range(task["each"]) for tool in task["tools"]]
    todo.append((chance.choice(task["by"]), chance.choice(task["ways"])))
    chance.shuffle(todo)
    asked: list[list[str]] = []

    async def one(tool: str, name: str) -> None:
        await asyncio.sleep(chance.uniform(0, slowness.most_s))
        for look_around in chance.sample((run.now, run.random, run.uuid), chance.randint(0, 3)):
            await look_around()
        if chance.random() < 0.3:
            await run.decide(think, f"{chance.random()}", lane=name)
        asked.append([tool, name])
        world().saw(f"{tool} {name}", await carry_out(tool, name))

    while todo:
        await asyncio.gather(*(one(*todo.pop()) for _ in range(min(len(todo), chance.randint(1, 4)))))
    left = [[each.tool, each.arguments["name"], each.happened, each.answer] for each in await run.stranded()]
    return {"asked": asked, "stranded": left}


@agent
async def turncoat(run: Run, task: Task) -> dict[str, Any]:
    """Its first life goes to the left, twice; every later one to the right."""
    (tool,) = task["by"]
    if world().meet("a crossing", "here") == 0:
        await carry_out(tool, "left 1")
        await carry_out(tool, "left 2")
    answer = await carry_out(tool, "right")
    left = [[each.tool, each.arguments["name"], each.happened, each.answer] for each in await run.stranded()]
    return {"answer": answer, "stranded": left}


@agent
async def crowd(run: Run, task: Task) -> list[str]:
    """Many calls of a tool at once, on `names`, which may be equal: each is told an answer, and shows it as its own."""
    slowness.most_s = task["slow_s"]

    async def one(number: int, name: str) -> str:
        answer = await run.call(EACH[task["tool"]], name=name)
        return str(world().saw(f"call {number}", answer))

    answers = await asyncio.gather(*(one(number, name) for number, name in enumerate(task["names"])))
    await run.decide(think, "the end")
    return answers


@agent
async def wayfarer(run: Run, task: Task) -> list[Any]:
    """A thought that it keeps to itself, since another branch has another; then the tool on each of `names`."""
    slowness.most_s = task.get("slow_s", 0.0)
    await run.decide(think, task["tool"])
    answers = [await carry_out(task["tool"], name) for name in task["names"]]
    await run.offer(task["names"])
    return [world().saw(name, answer) for name, answer in zip(task["names"], answers, strict=True)]


@agent
async def prospector(run: Run, task: Task) -> list[Any]:
    """The tool before a search, on what the best of `ways` says, and after it."""
    before = await carry_out(task["tool"], "before")
    way = await run.explore(task["ways"], score=weigh)
    names = [*way, "after"]
    answers = [await carry_out(task["tool"], name) for name in names]
    await run.offer(way)  # before that, the answers are not there yet
    return [world().saw(name, answer) for name, answer in zip(["before", *names], [before, *answers], strict=True)]


async def weigh(attempt: Any) -> float:
    """The model that judges: the way with most names, and it never says the same twice."""
    await asyncio.sleep(0)
    return len(attempt.candidate) + len(world().answer("weigh")) / 1_000


AGENTS = {
    "wayfarer": wayfarer,
    "prospector": prospector,
    "errand": errand,
    "plain_errand": plain_errand,
    "stages": stages,
    "mixed": mixed,
    "wanderer": wanderer,
    "turncoat": turncoat,
    "crowd": crowd,
}
