"""An agent's own search: branches that try candidates, and one of which is promoted.

Rules
1. Each candidate has a branch of its own, from the same place; the program goes on there as if there were no other.
2. Nothing is done in the world by a branch that was not promoted: what it asks for is planned.
3. The branch that is promoted goes through its program once more, and does what it planned, in that order.
4. In a beam the branches of one depth are judged together, wherever they were forked from; those that are kept are
   forked where they stopped. One who searches a beam decides for all below it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from holdfast.agent.run import Attempt
from holdfast.core.canonical import JSON
from holdfast.core.effect import Encoding, legible
from holdfast.core.payload import Packed, pack_text
from holdfast.core.record import Abandoned, Promoted
from holdfast.core.tree import ForkKind, Limb, Status
from holdfast.embedded.door import EmbeddedDoor
from holdfast.embedded.drift import why_stale
from holdfast.errors import (
    Asleep,
    BadCall,
    Busy,
    Claimed,
    InDoubt,
    NoCandidate,
    Ready,
    Stopped,
    Superseded,
    Waiting,
)
from holdfast.gateway.decide import Memory
from holdfast.gateway.fork import Cutting, Edit, change, fork
from holdfast.gateway.history import read_log
from holdfast.gateway.line import read_payload
from holdfast.gateway.mediate import Mediator
from holdfast.gateway.pending import stop_at_pending
from holdfast.shape import Shape

BEAM = "/beam"  # ends the name of a group whose branches are judged with others
CLAIMED_MS = 1000  # after so long it is looked again whether a candidate that somebody else advances is free
AT_ONCE = 16  # branches that are advanced at the same time
PLAIN = Shape(object)
Score = Callable[[Attempt], object]


@dataclass(frozen=True, slots=True)
class Stop:
    """A place from which to explore: after entry `at` of `branch`, with the name that the choice goes by."""

    branch: str
    at: int
    setting: str
    candidates: Sequence[JSON]


@dataclass(frozen=True, slots=True)
class Found:
    """A branch that came to an end or to a stop, its score, and what is said about it."""

    branch: str
    points: float
    said: str


def ready(branch: str, offer: object, onward: tuple[str, list[JSON]] | None = None) -> Ready:
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
        onward=onward,
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

    async def explore(self, candidates: Sequence[JSON], score: Score | None, keep: int, so_far: object) -> JSON:
        """As `Branches.explore`."""
        self._mediator.enter()
        setting = self._memory.place("explore")
        if setting in self._line.log.settings:
            return await self.setting(setting, None)
        if not candidates:
            raise BadCall("there is nothing to explore", where=self._line.branch, fix="pass at least one candidate")
        if keep and score is None:
            raise BadCall("a beam keeps the best", where=self._line.branch, fix="pass a score")
        if keep and self._in_a_beam():
            await self._mediator.settled()
            raise self._mediator.park(ready(self._line.branch, so_far, (setting, list(candidates))))
        await self._at_rest()
        await self._line.refresh()
        start = Stop(self._family.name, self._line.log.seq, setting, candidates)
        ended, attempts = await self._search(start, score, keep)
        found, attempts = await self._fresh(ended, attempts)
        await self._promote(found, attempts)
        raise AssertionError("a branch whose candidate was promoted is superseded")

    async def _search(self, start: Stop, score: Score | None, keep: int) -> tuple[list[Found], list[Attempt]]:
        """What came to an end from `start` on, the best first, and all that was tried."""
        stops: list[Stop] = [start]
        ended: list[Found] = []
        tried: list[Attempt] = []
        while stops:
            members = [pair for stop in stops for pair in await self._forked(stop, keep)]
            reached = await self._attempts(members)
            tried += [attempt for attempt, _ in reached]
            ranked = await self._ranked(start.setting, reached, score)
            for found, _ in ranked[keep:] if keep else ():
                await self._abandon(found.branch, f"not among the {keep} best")
            kept = ranked[:keep] if keep else ranked
            ended += [found for found, onward in kept if onward is None]
            stops = [onward for _, onward in kept if onward is not None]
        return sorted(ended, key=_points, reverse=True), tried

    async def _fresh(self, ended: Sequence[Found], attempts: Sequence[Attempt]) -> tuple[Found | None, list[Attempt]]:
        """The first of the branches that does not stand on what has moved since it was read. The others before it are
        out of the race."""
        out: dict[str, str] = {}
        for found in ended:
            why = await why_stale(self._line.store, f"{self._family.run}@{found.branch}")
            if why is None:
                return found, list(attempts)
            out[found.branch] = why
        return None, [replace(each, error=out.get(each.branch, each.error)) for each in attempts]

    async def _promote(self, found: Found | None, attempts: Sequence[Attempt]) -> None:
        """Make what was found the line that goes on: the branches on the way to it, from the first on. Raises
        NoCandidate if nothing was."""
        if found is None:
            for attempt in attempts:
                await self._abandon(attempt.branch, attempt.error or "nothing was found from here")
            raise NoCandidate(
                "; ".join(f"{attempt.branch}: {attempt.error}" for attempt in attempts)[:1000],
                where=self._line.branch,
                fix="decide anew: none of the candidates can be promoted",
            )
        way = [name for name, _ in self._family.tree.lineage(found.branch)]
        for name in way[way.index(self._family.name) + 1 :]:
            limb = self._family.tree.limbs[name]
            if not limb.promoted:
                record = Promoted(branch=name, group=limb.group, by=legible(found.said, 200))
                await change(self._line.store, self._family.run, record)
        await self._line.refresh()
        self._mediator.check()

    async def _abandon(self, branch: str, reason: str) -> None:
        tree = await self._family.known.refresh()
        branch = tree.last_of(branch)
        if tree.limbs[branch].status is Status.OPEN:
            record = Abandoned(branch=branch, by="explore", reason=legible(reason, 300))
            await change(self._line.store, self._family.run, record)

    def _in_a_beam(self) -> bool:
        """Whether somebody above decides which of the branches here explore on."""
        tree = self._family.tree
        lineage = (tree.limbs[name] for name, _ in reversed(tree.lineage(self._family.name)))
        above = next((limb for limb in lineage if limb.kind is ForkKind.SPECULATIVE and not limb.promoted), None)
        return above is not None and above.group is not None and above.group.endswith(BEAM)

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

    async def _forked(self, stop: Stop, keep: int) -> list[tuple[Limb, JSON]]:
        """The branches of the candidates of a stop, in their order; those that a death left unborn are made now."""
        group, candidates = f"{stop.branch}/{stop.setting}{BEAM if keep else ''}", stop.candidates
        members = self._family.tree.members(group)
        at = members[0].at if members else stop.at
        for number, candidate in list(enumerate(candidates))[len(members) :]:
            edit = Edit(0, stop.setting, packed_json(candidate))
            why = f"candidate {number + 1} of {len(candidates)}"
            place = f"{self._family.run}@{stop.branch}"
            await fork(
                self._line.store,
                Cutting(place, at, ForkKind.SPECULATIVE, "agent", why, group, [edit]),
                self._family.known,
            )
        await self._line.refresh()
        self._mediator.check()
        return list(zip(self._family.tree.members(group), candidates, strict=False))

    async def _attempts(self, members: Sequence[tuple[Limb, JSON]]) -> list[tuple[Attempt, Stop | None]]:
        """What each candidate came to. Raises Waiting if one of them must wait."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(limb: Limb, candidate: JSON) -> tuple[Attempt, Stop | None] | Waiting:
            async with gate:
                return await self._attempt(limb, candidate)

        found = await asyncio.gather(*(one(*pair) for pair in members), return_exceptions=True)
        broken = [each for each in found if isinstance(each, BaseException) and not isinstance(each, Waiting)]
        if broken:
            raise broken[0]  # when all have come to rest: none goes on behind the back of this life
        await self._line.refresh()  # so that what they wrote is no news to who waits for them
        waiting = [each for each in found if isinstance(each, Waiting)]
        if waiting:
            raise self._mediator.park(waiting[0])
        return [each for each in found if isinstance(each, tuple)]

    async def _attempt(self, limb: Limb, candidate: JSON) -> tuple[Attempt, Stop | None] | Waiting:
        if limb.status is Status.ABANDONED:
            return Attempt(limb.name, candidate, None, (), limb.ended), None
        while True:
            name = self._family.tree.last_of(limb.name)
            try:
                offer = await self._advance(f"{self._family.run}@{name}")
            except Ready as shown:
                attempt = Attempt(limb.name, candidate, shown.offer, await self._planned(name), None)
                return attempt, await self._stop(name, shown)
            except Superseded:  # by the winner of a search of its own
                await self._family.refresh()
                continue
            except Waiting as waiting:
                return waiting
            except Claimed as claimed:  # by somebody who may be gone in a moment
                until_ms = self._mediator.sender.now_ms() + CLAIMED_MS
                return Asleep(claimed.what, where=f"{self._family.run}@{name}", until_ms=until_ms, fix=claimed.fix)
            except (Busy, Stopped):
                raise
            except Exception as failure:  # noqa: BLE001 - the candidate's own: it is out of the race
                error = f"{type(failure).__name__}: {legible(failure, 300)}"
                return Attempt(limb.name, candidate, None, (), error), None
            return Attempt(limb.name, candidate, offer, (), None), None

    async def _stop(self, name: str, shown: Ready) -> Stop | None:
        """Where a branch of a beam would explore on."""
        if shown.onward is None:
            return None
        (newest,) = await self._line.store.read(f"{self._family.run}@{name}", newest=1)
        return Stop(name, newest.seq, *shown.onward)

    async def _planned(self, name: str) -> tuple[dict[str, JSON], ...]:
        """The calls that a branch has planned, in order."""
        log = (await read_log(self._line.store, f"{self._family.run}@{name}")).log
        calls: list[dict[str, JSON]] = []
        for slot in log.slots.values():
            if slot.planned is not None and slot.outcome is None:
                arguments = PLAIN.read(await read_payload(self._line, slot.planned.args), Encoding.JSON).woven
                calls.append({"tool": slot.tool, "arguments": arguments})
        return tuple(calls)

    async def _ranked(
        self, lane: str, reached: Sequence[tuple[Attempt, Stop | None]], score: Score | None
    ) -> list[tuple[Found, Stop | None]]:
        """The branches that came to an end or to a stop, the highest score first, and of equals the first."""
        ranked: list[tuple[Found, Stop | None]] = []
        for attempt, onward in reached:
            if attempt.error is not None:
                continue
            if score is None:
                ranked.append((Found(attempt.branch, 0.0, "explore: the first that came to an end"), onward))
                continue
            points = await self._door.decide(score, (attempt,), {}, lane, False)
            if not isinstance(points, int | float) or points != points:
                raise BadCall(f"a score is a number, not {points!r}", where=attempt.branch, fix="return a number")
            ranked.append((Found(attempt.branch, float(points), f"explore: score {float(points):g}"), onward))
        return sorted(ranked, key=lambda each: -each[0].points)


def _points(found: Found) -> float:
    return found.points


def packed_json(value: JSON) -> Packed:
    """A JSON value as the payload that is recorded. Raises BadCall for any other."""
    written = PLAIN.write(value)
    if written.encoding is not Encoding.JSON:
        raise BadCall(f"this value cannot be written down: {written.value}", fix="pass a JSON value")
    return pack_text(written.data, written.woven, lambda _digest: False)
