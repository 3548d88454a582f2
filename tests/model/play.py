"""Random plays: the schedules of the model, on the real engine.

Rules
1. The same seed gives the same play. Lives, forks, promotions and verdicts are all actors that stop at boundaries, so
   that any two of them may race.
2. A play is brought to its end as a schedule of the model is; then the census is taken.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from holdfast.core.effect import Happened
from holdfast.core.log import Log
from holdfast.core.record import Abandoned
from holdfast.core.slot import Slot
from holdfast.core.tree import ForkKind, Status, Tree
from holdfast.embedded.explore import packed_json
from holdfast.embedded.house import House
from holdfast.errors import HoldfastError, NotHappened, Waiting
from holdfast.gateway.closing import Residue
from holdfast.gateway.desk import Desk
from holdfast.gateway.family import read_tree
from holdfast.gateway.fork import Cutting, Edit, change, fork
from holdfast.gateway.history import read_log
from holdfast.gateway.line import node_of
from holdfast.store import Store
from holdfast.store.url import Opening
from tests.model.props import STAGE, Scene, walker
from tests.model.troupe import ON_STAGE, Actor, Troupe
from tests.model.world import TOOLS, Ask

RUN = "r"
OPS = 40
ALTERNATIVES = (ForkKind.WHAT_IF, ForkKind.SPECULATIVE)
MOST_ROUNDS = 60
MOST_STEPS = 60


async def promotion(store: Store, branch: str) -> str:
    """As `House.promote`, to be awaited."""
    return await House(Opening(store, b"\0" * 32))._promote(RUN, branch, "ann", True)


class Play:
    """One random play on a store."""

    def __init__(self, seed: int, store: Store) -> None:
        self.chance = random.Random(f"play {seed}")
        self.scene = Scene(seed, self.pool())
        self.store = store
        self.troupe = Troupe(store)
        self.tally: Counter[str] = Counter()
        self.groups = 0
        self.residue: list[Residue] = []
        self.last = ""
        self.ops = (
            [self.steps] * 24
            + [self.begin] * 6
            + [self.recovery, self.what_if, self.what_if, self.kill, self.people, self.people]
            + [self.group, self.promote, self.promote, self.abandon, self.drift]
        )

    def pool(self) -> list[Ask]:
        """What the agent may think of: few things, so that branches want the same."""
        if self.chance.random() < 0.3:
            often = self.chance.choice(("make", "mend"))
            return [Ask(often, "a", 1), Ask(often, "a", 2), Ask("pay", "a", 1)]
        tools = self.chance.sample(sorted(TOOLS), 3)
        asks = [Ask(t, name, size) for t in tools for name in "ab" for size in ((1, 2) if TOOLS[t].resource else (1,))]
        return self.chance.sample(asks, min(len(asks), self.chance.randint(2, 4)))

    async def play(self) -> None:
        STAGE.append(self.scene)
        try:
            self.live("main")
            for _ in range(OPS):
                await self.chance.choice(self.ops)()
            await self.bring_to_its_end()
        finally:
            await self.troupe.curtain()
            STAGE.pop()

    # --- who may do what ---

    def live(self, branch: str | None) -> Actor:
        """A life of a branch, or of whatever is the run's line."""

        def work(actor: Actor) -> Coroutine[Any, Any, Any]:
            house = House(Opening(actor.store, b"\0" * 32))
            return house.arun(walker, None, id=RUN, wait=False, branch=branch)

        return self.troupe.actor(f"{branch} {len(self.troupe.actors)}", work)

    async def steps(self) -> None:
        """Some actor goes on for some boundaries."""
        if actors := self.troupe.alive():
            actor = self.chance.choice(actors)
            for _ in range(self.chance.randint(1, 24)):
                await actor.step()

    async def begin(self) -> None:
        """A worker begins on a branch; sometimes the claim of a paused one has run out."""
        tree = await self.tree()
        self.troupe.impatient = self.chance.random() < 0.2
        actor = self.live(self.chance.choice([limb.name for limb in tree if limb.status is Status.OPEN] or [None]))
        for _ in range(self.chance.randint(2, 16)):
            await actor.step()
        self.troupe.impatient = False

    async def kill(self) -> None:
        if actors := self.troupe.alive():
            self.chance.choice(actors).dead = True
            self.tally["crashes"] += 1

    async def tree(self) -> Tree:
        return await read_tree(self.store, RUN)

    async def log(self, branch: str) -> Log:
        return (await read_log(self.store, f"{RUN}@{branch}")).log

    async def cut(self, kind: ForkKind, names: list[str], group: str | None, times: int) -> None:
        """Fork somewhere, often at a decision, and often with another answer to it."""
        name = self.chance.choice(names)
        log = await self.log(name)
        if not log.seq:
            return
        decisions = [decided.seq for lane in log.lanes.values() for decided in lane]
        often = bool(decisions) and self.chance.random() < 0.6
        at = self.chance.choice(decisions) if often else self.chance.randint(1, log.seq)
        before = [seq for seq in decisions if seq <= at]
        edits: list[Edit] = []
        if before and self.chance.random() < 0.5:
            ask = self.chance.choice(self.scene.pool)
            target = max(before) if self.chance.random() < 0.7 else self.chance.choice(before)
            edits = [Edit(target, "", packed_json([ask.tool, ask.name, ask.size]))]
        for _ in range(times):
            cutting = Cutting(f"{RUN}@{name}", at, kind, "ann", "", group, edits)
            self.deed(f"fork {kind} {name}:{at}", lambda store, cutting=cutting: fork(store, cutting))
        await self.steps_of_deeds()

    def deed(self, name: str, work: Any) -> Actor:
        """An operator does something."""
        self.tally[name.split()[0] + (" " + name.split()[1] if name.startswith("fork") else "")] += 1
        return self.troupe.actor(name, lambda actor: work(actor.store))

    async def steps_of_deeds(self) -> None:
        """Those that were begun last go on, in any order, most of them to their end."""
        for _ in range(self.chance.choice((3, 30))):
            actors = [actor for actor in self.troupe.actors[-3:] if actor.alive]
            if actors:
                await self.chance.choice(actors).step()

    async def recovery(self) -> None:
        tree = await self.tree()
        names = [tree.line] * 3 + [limb.name for limb in tree]
        await self.cut(ForkKind.RECOVERY, names, None, 1)

    async def what_if(self) -> None:
        await self.cut(ForkKind.WHAT_IF, [limb.name for limb in await self.tree()], None, 1)

    async def group(self) -> None:
        self.groups += 1
        tree = await self.tree()
        names = [tree.line, tree.line, *(limb.name for limb in tree if limb.status is Status.OPEN)]
        await self.cut(ForkKind.SPECULATIVE, names, f"g{self.groups}", self.chance.randint(2, 3))

    async def promote(self) -> None:
        """One promotion, or two that race."""
        tree = await self.tree()
        found = [limb for limb in tree if limb.status is Status.OPEN and limb.kind in ALTERNATIVES]
        if not found:
            return
        first = self.chance.choice(found)
        rivals = [limb for limb in tree.members(first.group) if limb is not first]
        for limb in [first, *(rivals if self.chance.random() < 0.5 else [])]:
            self.deed(f"promote {limb.name}", lambda store, name=limb.name: promotion(store, name))
        await self.steps_of_deeds()

    async def drift(self) -> None:
        """Somebody else changes what a read tells."""
        self.scene.world.drift(self.chance.choice("ab"))

    async def abandon(self) -> None:
        tree = await self.tree()
        record = Abandoned(branch=self.chance.choice([limb.name for limb in tree]), by="ann", reason="")
        self.deed(f"abandon {record.branch}", lambda store: change(store, RUN, record))
        await self.steps_of_deeds()

    # --- people ---

    async def people(self) -> None:
        """Agree to what waits; look into what is in doubt and whose sender has stopped."""
        desk = Desk(Actor("people", self.troupe, free=True).store)
        tree = await self.tree()
        for limb in tree:
            log = await self.log(limb.name)
            for slot in log.holds():
                with suppress(HoldfastError):
                    await desk.approve(node_of(f"{RUN}@{limb.name}", slot.hold_seq), by="ann")
                    self.tally["approvals"] += 1
            for slot in log.doubts():
                home = next(name for name, upto in tree.lineage(limb.name) if upto is None or slot.intent_seq <= upto)
                if home == limb.name:
                    await self.verdict(desk, f"{RUN}@{home}", log, slot)

    async def verdict(self, desk: Desk, branch: str, log: Log, slot: Slot) -> None:
        assert slot.intent is not None
        sender = self.troupe.of_epoch.get((branch, slot.sent_epoch))
        if sender is not None and sender.alive:
            return
        if slot.intent.undoes is not None:
            undone = log.at(slot.intent.undoes)
            assert undone is not None, "what is taken back is of the same history"
            assert undone.intent is not None
            gone = isinstance(self.scene.find(undone.intent.key), NotHappened)
            outcome = packed_json("gone") if gone else "it is still there"
        else:
            there = self.scene.find(slot.intent.key)
            outcome = packed_json(there.answer) if isinstance(there, Happened) else "it is not there"
        with suppress(HoldfastError):
            await desk.settle(node_of(branch, slot.intent_seq), outcome, by="ann")
            self.tally["verdicts"] += 1

    # --- the end ---

    async def bring_to_its_end(self) -> None:
        """Some wake and go on, the others die; all branches but the line are given up, and it is run to its end."""
        for actor in self.troupe.alive():
            if self.chance.random() < 0.5:
                actor.dead = True
        for _ in range(MOST_STEPS):
            for actor in self.troupe.alive():
                await actor.step()
        for actor in self.troupe.alive():
            actor.dead = True
        person = Actor("people", self.troupe, free=True)
        tree = await self.tree()
        for limb in tree:
            if limb.status is Status.OPEN and limb.name != tree.line:
                with suppress(HoldfastError):  # it has ended with another
                    await change(person.store, RUN, Abandoned(branch=limb.name, by="ann", reason="the end"))
        await self.run_to_its_end()
        house = House(Opening(person.store, b"\0" * 32))
        ON_STAGE.set(person)
        self.residue = await house.clear_up(f"{RUN}@{(await self.tree()).line}")

    async def run_to_its_end(self) -> None:
        ending: Any = None
        for _ in range(MOST_ROUNDS):
            await self.people()
            actor = self.live(None)
            self.last = actor.name
            await actor.finish()
            ending = actor.ending
            if not isinstance(ending, BaseException):
                return
            assert isinstance(ending, Waiting), f"a life came to {ending!r}"
        raise AssertionError(f"the run does not come to its end, but to {ending!r}")
