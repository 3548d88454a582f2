"""An agent's own search: branches that try candidates, and one of which is promoted.

Rules
1. Each candidate has a branch of its own, from the same place; the program goes on there as if there were no other.
2. Nothing is done in the world by a branch that was not promoted: what it asks for is planned.
3. The branch that is promoted goes through its program once more, and does what it planned, in that order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from holdfast.agent.run import Attempt
from holdfast.core.canonical import JSON
from holdfast.core.effect import Encoding, legible
from holdfast.core.payload import Packed, pack_text
from holdfast.core.record import Abandoned, Promoted
from holdfast.core.tree import ForkKind, Limb, Status
from holdfast.embedded.door import EmbeddedDoor
from holdfast.embedded.drift import why_stale
from holdfast.errors import BadCall, Busy, InDoubt, NoCandidate, Ready, Stopped, Superseded, Waiting
from holdfast.gateway.decide import Memory
from holdfast.gateway.fork import Cutting, Edit, change, fork
from holdfast.gateway.line import read_log, read_payload
from holdfast.gateway.mediate import Mediator
from holdfast.gateway.pending import stop_at_pending
from holdfast.shape import Shape

AT_ONCE = 16  # branches that are advanced at the same time
PLAIN = Shape(object)
Score = Callable[[Attempt], object]


def ready(branch: str, offer: object) -> Ready:
    """What ends a life of a speculative branch that has something to show; what holds an answer that is still held
    shows nothing."""
    try:
        stop_at_pending(offer)
    except Ready:
        offer = None
    return Ready(
        "this branch waits for its promotion",
        where=branch,
        fix=f"holdfast promote {branch.replace('@', ' ')}",
        offer=offer,
    )


class Explorer:
    """The branches that one life of a run makes. `advance` lives one life of another branch of the run."""

    def __init__(
        self, mediator: Mediator, memory: Memory, door: EmbeddedDoor, advance: Callable[[str], Awaitable[object]]
    ) -> None:
        self._mediator = mediator
        self._memory = memory
        self._door = door
        self._advance = advance
        self._line = mediator.line
        self._family = mediator.line.family

    # --- what the agent asks for ---

    async def explore(self, candidates: Sequence[JSON], score: Score | None) -> JSON:
        """As `Branches.explore`."""
        self._mediator.enter()
        setting = self._memory.place("explore")
        if setting in self._line.log.settings:
            return await self.setting(setting, None)
        if not candidates:
            raise BadCall("there is nothing to explore", where=self._line.branch, fix="pass at least one candidate")
        group = f"{self._family.name}/{setting}"
        members = await self._forked(group, setting, candidates)
        attempts = await self._attempts(members, candidates)
        ranked = await self._ranked(setting, attempts, score)
        winner, by, attempts = await self._fresh(ranked, attempts)
        for attempt in attempts if winner is None else ():
            if self._family.tree.limbs[attempt.branch].status is not Status.ABANDONED:
                record = Abandoned(branch=attempt.branch, by="explore", reason=legible(attempt.error or "", 300))
                await change(self._line.store, self._family.run, record)
        if winner is None:
            raise NoCandidate(
                "; ".join(f"{attempt.branch}: {attempt.error}" for attempt in attempts)[:1000],
                where=self._line.branch,
                fix="decide anew: none of the candidates can be promoted",
            )
        record = Promoted(branch=winner, group=group, by=legible(by, 200))
        await change(self._line.store, self._family.run, record)
        await self._line.refresh()
        self._mediator.check()
        raise AssertionError("a branch whose candidate was promoted is superseded")

    async def offer(self, value: object) -> None:
        """As `Branches.offer`."""
        self._mediator.enter()
        if self._mediator.held:
            await self._mediator.settled()
            raise self._mediator.park(ready(self._line.branch, value))

    async def fork(self, seq: int, why: str, settings: Mapping[str, JSON]) -> None:
        """As `Branches.fork`."""
        self._mediator.enter()
        await self._at_rest()
        edits = [Edit(0, name, packed_json(value)) for name, value in settings.items()]
        cutting = Cutting(self._line.branch, seq, ForkKind.RECOVERY, "agent", why, edits=edits)
        await fork(self._line.store, cutting, self._family.known)
        await self._line.refresh()
        self._mediator.check()

    async def setting(self, name: str, default: JSON) -> JSON:
        """As `Branches.setting`."""
        payload = self._line.log.settings.get(name)
        if payload is None:
            return default
        return PLAIN.read(await read_payload(self._line, payload), payload.encoding).woven

    # --- candidates ---

    async def _at_rest(self) -> None:
        """Nothing is in flight, and nothing in doubt."""
        await self._mediator.settled()
        doubts = self._line.log.doubts()
        if doubts:
            raise self._mediator.park(
                InDoubt(
                    f"`{doubts[0].tool}` may have happened, and no branch can stand on a doubt",
                    where=self._line.node(doubts[0].intent_seq),
                    fix="settle it first",
                )
            )

    async def _forked(self, group: str, setting: str, candidates: Sequence[JSON]) -> list[Limb]:
        """The branches of the candidates, in their order; those that a death left unborn are made now."""
        await self._at_rest()
        await self._line.refresh()
        members = self._family.tree.members(group)
        at = members[0].at if members else self._line.log.seq
        for number, candidate in list(enumerate(candidates))[len(members) :]:
            edit = Edit(0, setting, packed_json(candidate))
            why = f"candidate {number + 1} of {len(candidates)}"
            await fork(
                self._line.store,
                Cutting(self._line.branch, at, ForkKind.SPECULATIVE, "agent", why, group, [edit]),
                self._family.known,
            )
        await self._line.refresh()
        self._mediator.check()
        return self._family.tree.members(group)[: len(candidates)]

    async def _attempts(self, members: Sequence[Limb], candidates: Sequence[JSON]) -> list[Attempt]:
        """What each candidate came to. Raises Waiting if one of them must wait."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(limb: Limb, candidate: JSON) -> Attempt | Waiting:
            async with gate:
                return await self._attempt(limb, candidate)

        found = await asyncio.gather(*(one(*pair) for pair in zip(members, candidates, strict=False)))
        waiting = [each for each in found if isinstance(each, Waiting)]
        if waiting:
            raise self._mediator.park(waiting[0])
        return [each for each in found if isinstance(each, Attempt)]

    async def _attempt(self, limb: Limb, candidate: JSON) -> Attempt | Waiting:
        if limb.status is Status.ABANDONED:
            return Attempt(limb.name, candidate, None, (), limb.ended)
        while True:
            name = self._family.tree.last_of(limb.name)
            try:
                offer = await self._advance(f"{self._family.run}@{name}")
            except Ready as shown:
                return Attempt(limb.name, candidate, shown.offer, await self._planned(name), None)
            except Superseded:  # by the winner of a search of its own
                await self._family.refresh()
                continue
            except Waiting as waiting:
                return waiting
            except (Busy, Stopped):
                raise
            except Exception as failure:  # noqa: BLE001 - the candidate's own: it is out of the race
                return Attempt(limb.name, candidate, None, (), f"{type(failure).__name__}: {legible(failure, 300)}")
            return Attempt(limb.name, candidate, offer, (), None)

    async def _planned(self, name: str) -> tuple[dict[str, JSON], ...]:
        """The calls that a branch has planned, in order."""
        log = (await read_log(self._line.store, f"{self._family.run}@{name}")).log
        calls: list[dict[str, JSON]] = []
        for slot in log.slots.values():
            if slot.planned is not None and slot.outcome is None:
                arguments = PLAIN.read(await read_payload(self._line, slot.planned.args), Encoding.JSON).woven
                calls.append({"tool": slot.tool, "arguments": arguments})
        return tuple(calls)

    async def _ranked(self, lane: str, attempts: Sequence[Attempt], score: Score | None) -> list[tuple[str, str]]:
        """The branches that came to an end, the highest score first (the first of equals), and what is said of each."""
        found: list[tuple[float, str, str]] = []
        for attempt in attempts:
            if attempt.error is not None:
                continue
            if score is None:
                found.append((0.0, attempt.branch, "explore: the first that came to an end"))
                continue
            points = await self._door.decide(score, (attempt,), {}, lane, False)
            if not isinstance(points, int | float) or points != points:
                raise BadCall(f"a score is a number, not {points!r}", where=attempt.branch, fix="return a number")
            found.append((float(points), attempt.branch, f"explore: score {float(points):g}"))
        found.sort(key=lambda each: -each[0])
        return [(branch, said) for _, branch, said in found]

    async def _fresh(
        self, ranked: Sequence[tuple[str, str]], attempts: Sequence[Attempt]
    ) -> tuple[str | None, str, list[Attempt]]:
        """The first of the branches that does not stand on what has moved since it was read. The others before it are
        out of the race."""
        out: dict[str, str] = {}
        for branch, said in ranked:
            why = await why_stale(self._line.store, f"{self._family.run}@{branch}")
            if why is None:
                return branch, said, list(attempts)
            out[branch] = why
        return None, "", [replace(each, error=out.get(each.branch, each.error)) for each in attempts]


def packed_json(value: JSON) -> Packed:
    """A JSON value as the payload that is recorded. Raises BadCall for any other."""
    written = PLAIN.write(value)
    if written.encoding is not Encoding.JSON:
        raise BadCall(f"this value cannot be written down: {written.value}", fix="pass a JSON value")
    return pack_text(written.data, written.woven, lambda _digest: False)
