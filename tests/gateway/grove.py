"""What the tests of forks stand on: a world that counts, tools of all kinds that act on it, and an agent whose steps
are data.

Rules
1. The world deduplicates nothing but keys of idempotent tools: whatever is sent twice is there twice.
2. The agent does what `steps` says: the run's setting of that name, else its task. A step is `VERB NAME` or a list of
   them, done in parallel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from holdfast import NotHappened, Run, agent, key, tool
from holdfast.agent.run import Agent
from holdfast.core.codec import decode
from holdfast.core.record import Record
from holdfast.embedded import House
from holdfast.gateway.family import read_tree
from holdfast.gateway.history import Opened, read_log
from tests.stage import RUN, Killed


@dataclass
class World:
    """What was sent (`deeds`, in order: verb, name, key) and what is there now (`living`: verb and name, with the
    answers). `before` and `after` are called around each deed, with its verb and name."""

    deeds: list[tuple[str, str, str]] = field(default_factory=list)
    living: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    by_key: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    undone: list[tuple[str, str]] = field(default_factory=list)
    declines: set[str] = field(default_factory=set)
    before: Callable[[str, str], object] = lambda verb, name: None
    after: Callable[[str, str], object] = lambda verb, name: None

    def act(self, verb: str, name: str, once: bool = False) -> str:
        self.before(verb, name)
        if name in self.declines:
            raise NotHappened(f"{name} is declined")
        known = self.by_key.get(key()) if once else None
        self.deeds.append((verb, name, key()))
        answer = known or f"{verb} {name} {len(self.deeds)}"
        if known is None:
            self.living.setdefault((verb, name), []).append(answer)
        self.by_key[key()] = answer
        self.after(verb, name)
        return answer

    def take_back(self, verb: str, name: str, answer: str | None) -> None:
        self.before(f"un{verb}", name)
        self.undone.append((verb, name))
        there = self.living.get((verb, name), [])
        there[:] = [] if answer is None else [each for each in there if each != answer]
        self.after(f"un{verb}", name)

    def there(self) -> dict[tuple[str, str], int]:
        """How often each thing is there."""
        return {thing: len(answers) for thing, answers in self.living.items() if answers}

    def answer(self, prompt: str) -> str:
        self.asked.append(prompt)
        return f"{prompt}? {len(self.asked)}"


_worlds: list[World] = [World()]


def world() -> World:
    return _worlds[0]


def new_world() -> World:
    _worlds[:] = [World()]
    return _worlds[0]


@tool(kind="read", name="grove.look")
async def look(name: str) -> str:
    await asyncio.sleep(0)
    return world().answer(f"look {name}")


@tool(kind="idempotent", name="grove.put", identity=["name"])
async def put(name: str, size: int = 1) -> str:
    await asyncio.sleep(0)
    return world().act("put", name, once=True)


@tool(kind="reversible", name="grove.make", identity=["name"], undo=lambda name, answer: unmake("make", name, answer))
async def make(name: str, size: int = 1) -> str:
    await asyncio.sleep(0)
    return world().act("make", name)


@tool(kind="irreversible", name="grove.mail", identity=["name"])
async def mail(name: str, size: int = 1) -> str:
    await asyncio.sleep(0)
    return world().act("mail", name)


@tool(kind="irreversible", name="grove.ask", identity=["name"], approval="one")
async def ask(name: str) -> str:
    await asyncio.sleep(0)
    return world().act("ask", name)


@tool(kind="irreversible", name="grove.ring", repeat="ask")
async def ring(name: str) -> str:
    await asyncio.sleep(0)
    return world().act("ring", name)


@tool(kind="idempotent", name="grove.drop", repeat="each")
async def drop(name: str) -> str:
    await asyncio.sleep(0)
    return world().act("drop", name, once=True)


# Two ways to the same resource: the name before the dot.
@tool(
    kind="reversible", name="grove.build", resource=["place"],
    undo=lambda place, how, answer: unmake("build", f"{place}.{how}", answer),
)  # fmt: skip
async def build(place: str, how: str) -> str:
    await asyncio.sleep(0)
    return world().act("build", f"{place}.{how}")


@tool(kind="irreversible", name="grove.carve", resource=["place"])
async def carve(place: str, how: str) -> str:
    await asyncio.sleep(0)
    return world().act("carve", f"{place}.{how}")


def unmake(verb: str, name: str, answer: str | None) -> None:
    world().take_back(verb, name, answer)


TOOLS: dict[str, Any] = {
    "look": look, "put": put, "make": make, "mail": mail, "ask": ask, "ring": ring, "drop": drop,
}  # fmt: skip
PLACES: dict[str, Any] = {"build": build, "carve": carve}


async def think(prompt: str) -> str:
    await asyncio.sleep(0)
    return world().answer(prompt)


async def do(run: Run, step: str | list[Any]) -> Any:
    """Carry out one step."""
    if isinstance(step, list):
        return await asyncio.gather(*(do(run, each) for each in step))
    verb, _, name = step.partition(" ")
    match verb:
        case "think":
            return await run.decide(think, name)
        case "now":
            return await run.now()
        case "wait":
            return await run.wait_for(name)
        case "die":
            raise Killed
        case "fail":
            raise ValueError(name)
        case "again":
            return await mail.again(f"a second {name}")(name)
        case "try":
            try:
                return await do(run, name)
            except NotHappened as refusal:
                return f"no: {refusal.what}"
        case "checkpoint":
            return await run.checkpoint()
        case "build" | "carve":
            place, _, how = name.partition(".")
            return await run.call(PLACES[verb], place=place, how=how)
        case _:
            tool_name, _, size = name.partition("=")
            return await run.call(TOOLS[verb], name=tool_name, **({"size": int(size)} if size else {}))


@agent
async def walk(run: Run, task: Any) -> list[Any]:
    """The steps, one after another; their answers."""
    return [await do(run, step) for step in await run.setting("steps", task)]


@agent(state=list)
async def stages(run: Run, task: Any) -> list[Any]:
    """The same, going on from its state: a checkpoint after each step that says so."""
    steps = await run.setting("steps", task)
    while len(run.state) < len(steps):
        step = steps[len(run.state)]
        if step == "checkpoint":
            run.state.append("checkpoint")
            await run.checkpoint()
        else:
            run.state.append(await do(run, step))
    return list(run.state)


def log_of(house: House, branch: str = "main", run: str = RUN) -> Opened:
    """The log of a branch with all that it stands on."""
    return asyncio.run(read_log(house.store, f"{run}@{branch}"))


def tree_of(house: House, run: str = RUN) -> Any:
    return asyncio.run(read_tree(house.store, run))


def records(house: House, branch: str = "main", run: str = RUN) -> list[tuple[int, Record]]:
    """The records of a branch itself, with their places."""
    return [(entry.seq, decode(entry.body)) for entry in asyncio.run(house.store.read(f"{run}@{branch}"))]


def places(house: House, kind: type[Any], branch: str = "main", run: str = RUN) -> list[int]:
    """Where the records of a kind stand."""
    return [seq for seq, record in records(house, branch, run) if isinstance(record, kind)]


def last(house: House, branch: str = "main", run: str = RUN) -> int:
    return records(house, branch, run)[-1][0]


def begun(house: House, steps: Any, *, agent: Agent = walk, id: str = RUN) -> Any:
    """A run of `steps` to its end, its wait or its death."""
    from tests.stage import life

    return life(house, agent, steps, id=id)
