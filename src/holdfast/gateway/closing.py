"""Take back what branches did that were given up: at the end of a run, or when somebody asks for it.

Rules
1. Last first; never what a branch that goes on has inherited or adopted. Each undo is an effect of its own, on the
   branch that it clears up, so that a crash half-way resumes.
2. What cannot be taken back is residue: it is told, never hidden, and keeps nobody waiting.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from holdfast.core.effect import Kind
from holdfast.core.kin import Relative, in_the_world
from holdfast.core.record import Claim, Intent
from holdfast.core.slot import Slot
from holdfast.core.tree import Status
from holdfast.errors import Busy, HoldfastError, Misuse, NotHappened, Waiting
from holdfast.gateway.diverge import OnDivergence
from holdfast.gateway.family import Family
from holdfast.gateway.history import read_log
from holdfast.gateway.line import Line, node_of
from holdfast.gateway.mediate import Mediator
from holdfast.gateway.send import Asked
from holdfast.store import Grant, Store

Finder = Callable[[Intent], Asked | None]
"""How the call of a recorded intent is made again, to be taken back; None where its tool is not known here."""


@dataclass(frozen=True, slots=True)
class Residue:
    """An effect of a branch that was given up, which is still in the world; `why`: it could not be taken back."""

    node: str
    tool: str
    why: str


def worker_name() -> str:
    """This process, as a claim names it."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Closer:
    """Clears up after the branches of one store that were given up. `now_ms` is the wall clock."""

    def __init__(self, store: Store, now_ms: Callable[[], int], find: Finder) -> None:
        self._store = store
        self._now_ms = now_ms
        self._find = find

    @asynccontextmanager
    async def open(self, branch: str) -> AsyncGenerator[Mediator]:
        """A branch that was given up, claimed. Raises Claimed while somebody else is at it."""
        grant = await self._store.claim(branch)
        line: Line | None = None
        try:
            line = await self._line(branch, grant)
            mediator = Mediator(line, branch.partition("@")[0], self._now_ms, OnDivergence.BRIEF)
            try:
                yield mediator
            finally:
                await mediator.drain()  # also after a refusal, which must not be left as a doubt
        finally:
            if line is None or line.broken is None:
                with suppress(HoldfastError):
                    await self._store.append(branch, [], epoch=grant.epoch, release=True)

    async def _line(self, branch: str, grant: Grant) -> Line:
        opened = await read_log(self._store, branch)
        family = Family(self._store, branch)
        await family.refresh()
        line = Line(self._store, opened, grant.epoch, family)
        await line.write(Claim(worker=worker_name(), previous=grant.previous))
        return line

    async def close(self, family: Family, kept: Callable[[Relative], bool]) -> list[Residue]:
        """Take back what the branches of `family` did that were given up and what is not `kept`; what is left."""
        residue: list[Residue] = []
        stranded = [each for each in family.kin or () if in_the_world(each.slot) and not kept(each)]
        stranded.sort(key=lambda each: (each.slot.first_sent_ms, each.slot.intent_seq), reverse=True)
        stuck: dict[str, str] = {}
        for each in stranded:
            limb = family.tree.limbs[each.branch.partition("@")[2]]
            if limb.status is Status.OPEN:
                continue
            why = stuck.get(each.branch) or _never(each.slot)
            if why is None and family.kin is not None and family.kin.needed(each.branch, each.slot.intent_seq):
                why = "another branch, which goes on, rests on it"
            elif why is None:
                why = await self._take_back(each)
                if why is not None:
                    stuck[each.branch] = f"what came after it could not be taken back: {why}"
            if why is not None:
                residue.append(Residue(node_of(each.branch, each.slot.intent_seq), each.slot.tool, why))
        await family.refresh()
        return residue

    async def _take_back(self, relative: Relative) -> str | None:
        """Why it could not be done, or None."""
        slot = relative.slot
        assert slot.intent is not None
        try:
            asked = self._find(slot.intent)
            if asked is None:
                return f"the tool `{slot.tool}` is not known here"
            async with self.open(relative.branch) as other:
                there = other.line.log.at(slot.intent_seq)
                if there is not None and there.open:
                    return "it may have happened, and nobody has settled it"
                if there is not None and not there.undone:
                    family = other.line.family
                    await other.settler.undo(asked, there, unless=lambda: family.needed(slot.intent_seq))
        except (NotHappened, Busy, Waiting, Misuse) as error:
            return error.what
        return None


def _never(slot: Slot) -> str | None:
    """Why an effect cannot be taken back at all, or None."""
    if slot.open:
        return "it may have happened, and nobody has settled it"
    return None if slot.kind is Kind.REVERSIBLE else f"it is {slot.kind}"
