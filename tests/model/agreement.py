"""The model and the engine side by side: the same schedule, step for step, must leave the same world.

Rules
1. Nothing races here: one life goes on at a time, and may die at a boundary. What races is played by each for itself.
2. After each step both worlds are compared: what is there, and how often each thing was sent.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress

from holdfast.core.record import Abandoned, Promoted
from holdfast.core.tree import ForkKind, Status
from holdfast.embedded.explore import packed_json
from holdfast.embedded.house import House
from holdfast.errors import HoldfastError
from holdfast.gateway.fork import Cutting, Edit, change, fork
from holdfast.store import Store
from holdfast.store.url import Opening
from tests.model.life import live
from tests.model.play import RUN, Play
from tests.model.props import STAGE
from tests.model.rules import ALL
from tests.model.run import Run
from tests.model.tree import RECOVERY, SPECULATIVE, WHAT_IF, Decided
from tests.model.troupe import ON_STAGE, Actor
from tests.model.world import TOOLS, Ask

BOUNDARIES = {"before an intent": "before Intent", "after an intent": "before acting", "acted": "acted"}
KINDS = {RECOVERY: ForkKind.RECOVERY, WHAT_IF: ForkKind.WHAT_IF, SPECULATIVE: ForkKind.SPECULATIVE}
OPS = 12
NEVER = ("", 0)


class Pair:
    """One schedule on both. `story`: what was done, for whoever looks into a disagreement."""

    def __init__(self, seed: int, store: Store) -> None:
        self.chance = random.Random(f"pair {seed}")
        self.play = Play(seed, store)
        self.play.scene.pool = pool = self.pool()
        self.run = Run(seed, ALL, pool, budget=10**9, gentle=True)
        self.story: list[str] = []
        self.groups = 0
        self.tally: Counter[str] = Counter()

    def pool(self) -> list[Ask]:
        tools = self.chance.sample([name for name, tool in sorted(TOOLS.items()) if not tool.once], 3)
        asks = [Ask(t, name, size) for t in tools for name in "ab" for size in ((1, 2) if TOOLS[t].resource else (1,))]
        return self.chance.sample(asks, min(len(asks), self.chance.randint(2, 4)))

    async def go(self) -> None:
        STAGE.append(self.play.scene)
        try:
            await self.life("main", self.doom())
            for _ in range(OPS):
                await self.chance.choice((self.some_life, self.some_life, self.fork, self.group, self.end_one))()
                self.compare()
            await self.finish()
        finally:
            await self.play.troupe.curtain()
            STAGE.pop()

    # --- one life ---

    def doom(self) -> tuple[str, int]:
        """Where a life is to die: at the how many-eth boundary of a kind."""
        if self.chance.random() < 0.5:
            return NEVER
        return self.chance.choice(sorted(BOUNDARIES)), self.chance.randint(1, 4)

    async def some_life(self) -> None:
        await self.people()
        names = [branch.name for branch in self.run.tree.open() if not branch.finished]
        if names:
            await self.life(self.chance.choice(names), self.doom())

    async def life(self, name: str, doom: tuple[str, int]) -> None:
        """A life of a branch, which dies at `doom`, on both."""
        self.story.append(f"life of {name}, until {doom}")
        where, left = doom
        worker = self.run.claim(self.run.tree[name])
        worker.steps = live(self.run, worker)
        while worker.alive:
            worker.at = next(worker.steps, worker.at)
            left -= worker.at == where
            if where and left <= 0:
                worker.alive = False
        where, left = doom
        actor = self.play.live(name)
        while actor.alive:
            await actor.step()
            left -= actor.waits == BOUNDARIES.get(where)
            if where and left <= 0:
                actor.dead = True
        self.story.append(f"  the engine's life came to {actor.ending!r:.150}")
        if self.run.tree.line.name == name and isinstance(actor.ending, int):
            await self.clear()

    async def people(self) -> None:
        """They agree to what waits, and look into doubts."""
        self.run.grant()
        self.run.verdicts()
        await self.play.people()

    # --- the tree ---

    async def fork(self) -> None:
        kind = self.chance.choice((RECOVERY, WHAT_IF))
        parent = self.run.tree.line if kind == RECOVERY else self.chance.choice([*self.run.tree])
        await self.cut(parent.name, kind, None)

    async def group(self) -> None:
        self.groups += 1
        number = self.chance.randint(0, 5)
        for _ in range(2):
            await self.cut(self.run.tree.line.name, SPECULATIVE, self.groups, number)

    async def cut(self, name: str, kind: str, group: int | None, number: int | None = None) -> None:
        """Fork at a decision, some of them with another answer."""
        parent = self.run.tree[name]
        places = [at for at, record in enumerate(parent.lineage, 1) if isinstance(record, Decided)]
        log = await self.play.log(name)
        decisions = sorted(decided.seq for lane in log.lanes.values() for decided in lane)
        assert len(places) == len(decisions), f"{name} has decided {len(places)} and {len(decisions)} times"
        if not places:
            return
        which = (self.chance.randrange(len(places)) if number is None else number) % len(places)
        override = self.chance.choice(self.run.pool) if self.chance.random() < 0.5 else None
        edits = (
            [Edit(decisions[which], "", packed_json([override.tool, override.name, override.size]))] if override else []
        )
        cutting = Cutting(
            f"{RUN}@{name}", decisions[which], KINDS[kind], "ann", "", None if group is None else str(group), edits
        )
        child = self.run.fork(parent, places[which], kind, group, override)
        try:
            made = await fork(self.person().store, cutting)
        except HoldfastError as error:
            made = None
            self.story.append(f"  refused: {error}")
        self.story.append(f"fork {name} at decision {which}: {kind} {made} {override}")
        assert (None if child is None else child.name) == made, "one of them refuses the fork"
        self.tally[kind] += made is not None

    async def end_one(self) -> None:
        """Promote or abandon an alternative."""
        found = [
            b for b in self.run.tree.open() if b.kind in (WHAT_IF, SPECULATIVE) and b.name != "main" and not b.promoted
        ]
        if not found:
            return
        branch = self.chance.choice(found)
        group = None if branch.group is None else str(branch.group)
        if self.chance.random() < 0.7:
            done = self.run.promote(branch, self.run.version)
            record = Promoted(branch=branch.name, group=group, by="ann")
        else:
            done = branch is not self.run.tree.line
            self.run.abandon(branch)
            record = Abandoned(branch=branch.name, by="ann", reason="")
        try:
            await change(self.person().store, RUN, record)
            said = True
        except HoldfastError:
            said = False
        self.story.append(f"{type(record).__name__} {branch.name}: {done} {said}")
        assert done == said, "one of them refuses to change the tree"
        self.tally[type(record).__name__] += said

    def person(self) -> Actor:
        return Actor("people", self.play.troupe, free=True)

    # --- the end ---

    async def finish(self) -> None:
        """All alternatives are given up, the line is run to its end, and what is left is taken back."""
        line = self.run.tree.line.name
        for branch in [b for b in self.run.tree.open() if b.name != line]:
            self.run.abandon(branch)
        tree = await self.play.tree()
        assert tree.line == line, "they do not agree on the line"
        for limb in tree:
            if limb.status is Status.OPEN and limb.name != line:
                with suppress(HoldfastError):  # it has ended with another
                    await change(self.person().store, RUN, Abandoned(branch=limb.name, by="ann", reason=""))
        for _ in range(30):
            await self.people()
            self.run.tree.line.finished = False
            await self.life(line, NEVER)
            self.compare()
            if self.run.closed:
                break
        await self.clear()
        self.compare()

    async def clear(self) -> None:
        """The engine's line may have ended before, when there was less to take back."""
        house = House(Opening(self.person().store, b"\0" * 32))
        ON_STAGE.set(self.person())
        self.story.append(f"left: {await house.clear_up(f'{RUN}@{self.run.tree.line.name}')}")

    def compare(self) -> None:
        """The worlds are the same."""
        model, engine = self.run.world, self.play.scene.world
        there = Counter(deed.ask for deed in model.living()), Counter(deed.ask for deed in engine.living())
        assert there[0] == there[1], (
            f"there is {there[0] - there[1]} more in the model, {there[1] - there[0]} in the engine"
        )
        assert [deed.ask for deed in model.deeds] == [deed.ask for deed in engine.deeds], "they did other things"
        assert +self.run.sendings == +self.play.scene.sendings, "they sent other things"
