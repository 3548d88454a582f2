"""The tools and the agent of the plays: the model's world, behind tools of the real engine.

Rules
1. Every tool stops at a boundary before it touches the world and after it has; what becomes of a sending, and what the
   model of the agent says, are drawn as in the model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from holdfast import Happened, NotHappened, Refused, agent, key, tool
from tests.model.run import LOST, LOST_BEFORE, REFUSED, fortune, irrevocable, thought_of
from tests.model.troupe import ON_STAGE
from tests.model.world import TOOLS, Ask, Deed, World


@dataclass(frozen=True, slots=True)
class Act:
    """Something that reached the world. `branch`: of the worker; `at`: how much the run had written then; `beside`: the
    keys of what stood on the same resource."""

    actor: str
    branch: str
    ask: Ask
    key: str
    at: int
    beside: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Undo:
    """Something that was taken back."""

    actor: str
    deed: Deed
    at: int


class Scene:
    """What a play is played on: a world, a seed, and what everybody was told: `told[branch, turn]`, each time.
    `looks[actor, name]`: what the last look of somebody at something told."""

    def __init__(self, seed: int, pool: list[Ask]) -> None:
        self.seed = seed
        self.pool = pool
        self.world = World()
        self.sendings: Counter[Ask] = Counter()
        self.acts: list[Act] = []
        self.undos: list[Undo] = []
        self.looks: dict[tuple[str, str], int] = {}
        self.told: dict[tuple[str, int], list[int]] = {}

    def thought(self, branch: str, turn: int) -> list[Any] | None:
        ask = thought_of(self.seed, branch, turn, self.pool)
        return None if ask is None else [ask.tool, ask.name, ask.size]

    def luck(self, ask: Ask) -> str:
        self.sendings[ask] += 1
        return fortune(self.seed, ask, self.sendings[ask])

    def find(self, of_key: str) -> Any:
        there = [deed for deed in self.world.of_key[of_key] if deed.living]
        return Happened(there[0].number) if there else NotHappened("it is not there")

    def take_back(self, ask: Ask, answer: int | None) -> None:
        """What was answered; or, where nobody knows, everything of this kind that no log holds as done."""
        actor = ON_STAGE.get()
        done = actor.troupe.keys_done() if answer is None else set[object]()
        for deed in self.world.deeds:
            if deed.ask == ask and deed.living and (deed.key not in done if answer is None else deed.number == answer):
                deed.living = False
                self.undos.append(Undo(actor.name, deed, len(actor.troupe.written)))

    def act(self, ask: Ask, of_key: str) -> int:
        actor = ON_STAGE.get()
        beside = tuple(
            deed.key
            for deed in self.world.living()
            if TOOLS[ask.tool].resource and (deed.ask.tool, deed.ask.name) == (ask.tool, ask.name) and deed.ask != ask
        )
        self.acts.append(Act(actor.name, actor.branch, ask, of_key, len(actor.troupe.written), beside))
        return self.world.act(ask, of_key)


STAGE: list[Scene] = []
"""The scene that is played now: tools are found by their names, so there is one set of them."""


async def act(name_of_tool: str, name: str, size: int) -> int:
    """Carry it out, or not, as luck has it."""
    scene, actor, of_key = STAGE[-1], ON_STAGE.get(), key()
    await actor.gate("before acting")
    luck = scene.luck(Ask(name_of_tool, name, size))
    number = -1
    if luck not in (REFUSED, LOST_BEFORE):
        number = scene.act(Ask(name_of_tool, name, size), of_key)
    await actor.gate("acted")
    if luck == REFUSED:
        raise NotHappened("refused")
    if luck in (LOST, LOST_BEFORE):
        raise ConnectionError("no answer")
    return number


async def find(name: str, size: int) -> Any:
    return STAGE[-1].find(key())


def _undo_of(name_of_tool: str) -> Any:
    async def undo(name: str, size: int, answer: int | None) -> str:
        actor = ON_STAGE.get()
        await actor.gate("before an undo")
        if answer is not None and irrevocable(STAGE[-1].seed, answer):
            raise NotHappened("it cannot be taken back")
        STAGE[-1].take_back(Ask(name_of_tool, name, size), answer)
        await actor.gate("undone")
        return "gone"

    return undo


@tool(kind="read", name="play.look")
async def look(name: str, size: int) -> Any:
    actor = ON_STAGE.get()
    await actor.gate("looks")
    etag = STAGE[-1].world.etags[name]
    STAGE[-1].looks[actor.name, name] = etag
    return Happened(etag, f"version {etag}")


@tool(kind="idempotent", name="play.put", repeat="each")
async def put(name: str, size: int) -> int:
    return await act("put", name, size)


@tool(kind="reversible", name="play.make", repeat="each", resource=["name"], undo=_undo_of("make"))
async def make(name: str, size: int) -> int:
    return await act("make", name, size)


@tool(kind="reversible", name="play.mend", identity=["name", "size"], resource=["name"], undo=_undo_of("mend"))
async def mend(name: str, size: int) -> int:
    return await act("mend", name, size)


@tool(kind="reversible", name="play.build", repeat="each", probe=find, undo=_undo_of("build"))
async def build(name: str, size: int) -> int:
    return await act("build", name, size)


@tool(kind="irreversible", name="play.pay", repeat="each", probe=find)
async def pay(name: str, size: int) -> int:
    return await act("pay", name, size)


@tool(kind="irreversible", name="play.order", repeat="each", resource=["name"], probe=find)
async def order(name: str, size: int) -> int:
    return await act("order", name, size)


@tool(kind="irreversible", name="play.mail", repeat="each")
async def mail(name: str, size: int) -> int:
    return await act("mail", name, size)


@tool(kind="irreversible", name="play.wire", repeat="each", probe=find, approval="one")
async def wire(name: str, size: int) -> int:
    return await act("wire", name, size)


TOOLBOX: dict[str, Any] = {
    made.holdfast.contract.name.removeprefix("play."): made
    for made in (look, put, make, mend, build, pay, order, mail, wire)
}
ONCE = {"mend"}


@agent
async def walker(run: Any, task: Any) -> int:
    """At each turn a thought, and what the thought says; until it says that it is enough."""
    scene = STAGE[-1]

    async def think(turn: int) -> list[Any] | None:
        return scene.thought(run.branch, turn)

    for turn in range(100):
        thought = await run.decide(think, turn)
        if thought is None:
            return turn
        name_of_tool, name, size = thought
        try:
            answer = await run.call(TOOLBOX[name_of_tool], name=name, size=size)
        except (NotHappened, Refused):
            continue
        if isinstance(answer, int) and name_of_tool != "look":
            scene.told.setdefault((run.branch, turn), []).append(answer)
    return -1
