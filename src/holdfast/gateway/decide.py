"""What a run is given besides its calls: model outputs, times, ids, random numbers, sleeps, signals, checkpoints.

Rules
1. A decision that has touched the world binds: it is returned even if the request's text has changed since.
2. Decisions are matched by request and occurrence first, then by their order within a lane. Where that is ambiguous, it
   is a divergence.
3. Nothing here is sent anywhere but the model's request: it costs no flush of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator

from holdfast.core.payload import Packed
from holdfast.core.record import Decision, Draw, Signal, Sleep
from holdfast.core.signals import sort_signals
from holdfast.core.slot import Decided
from holdfast.core.wake import SIGNAL
from holdfast.errors import AwaitingSignal, InDoubt, Ready, Waiting
from holdfast.gateway.closure import Closure
from holdfast.gateway.diverge import TURNS
from holdfast.gateway.line import Line, signal_key
from holdfast.gateway.mediate import Mediator
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.whole import whole


class Memory:
    """The decisions and draws of one life of a run. Shares the mediator's line and its parking."""

    def __init__(self, mediator: Mediator) -> None:
        self._mediator = mediator
        self._line: Line = mediator.line
        self._counts: dict[str, int] = {}
        self._counted_from = self._line.log.base
        self._asking: dict[str, int] = {}
        self._by_order: list[Decided] = []
        self._first: dict[str, int] = {}
        self._taken: set[int] = set()
        self._unmatched: dict[str, list[list[bool]]] = {}
        self._began = self._line.log.seq
        self._fresh = False  # whether this life was given something that the log did not know

    def next(self, name: str) -> int:
        """The number of what is asked for now, among those of this name."""
        n = self._counts.get(name, 0)
        self._counts[name] = n + 1
        return n

    def place(self, name: str) -> str:
        """What is asked for now, told apart from all others of this name on this line of history, however the run came
        here: from its beginning or from a checkpoint."""
        return f"{name}/{self._counted_from}/{self.next(name)}"

    # --- decisions ---

    async def decide(
        self,
        lane: str,
        name: str,
        asked: Packed,
        ask: Callable[[], Awaitable[Reply]],
        *,
        fresh: bool,
        right: str | None = None,
    ) -> tuple[Decided | None, Reply | None]:
        """The recorded decision for this request, or else the reply of `ask`, recorded. `fresh` asks anew where nothing
        binds. `right`: the capability by which it is asked."""
        self._mediator.enter()
        request = _request(name, asked)
        found = await self._recorded(lane, name, request)
        if found is not None and not (fresh and not self._line.log.binding(found)):
            return found, None
        self._asking[lane] = self._asking.get(lane, 0) + 1
        try:
            await self._mediator.divergences.before(f"a decision of `{name}`")
            reply = await ask()
        except BaseException:
            if found is not None:
                found.claimed = False  # it was not made anew: whoever asks next finds it
                self._first[lane] = 0
            raise
        finally:
            self._asking[lane] -= 1
        self._mediator.check()
        packed = self._mediator.sender.packed(reply)
        record = Decision(
            lane=lane,
            name=name,
            request=request,
            n=self._line.log.next_decision(lane, request) if found is None else found.decision.n,
            asked=asked.payload,
            answer=packed.payload,
            capability=right,
            cost=reply.cost,
        )
        self._fresh = True
        await self._line.write(record, blobs=(*asked.blobs, *packed.blobs))
        self._line.log.decided(record).claimed = True
        return None, reply

    def given(self, lane: str, name: str, asked: Packed, right: str | None) -> Decided | None:
        """The newest decision that this life was given for this request, by a capability if one is named; None where
        there is none."""
        request = _request(name, asked)
        for decided in reversed(self._line.log.lanes.get(lane, ())):
            if decided.claimed and decided.decision.request == request:
                return decided if right in (None, decided.decision.capability) else None
        return None

    async def _recorded(self, lane: str, name: str, request: str) -> Decided | None:
        for decided in self._unclaimed(lane):
            if decided.decision.request == request:
                decided.claimed = True
                return decided
        for decided in self._by_order:
            if (decided.decision.lane, decided.decision.request) == (lane, request):
                self._by_order.remove(decided)
                await self._mediator.divergences.record(
                    f"a decision of `{name}`", f"the decision at {decided.seq} was also given to another request", []
                )
                return decided
        if not any(self._line.log.binding(decided) for decided in self._unclaimed(lane)):
            return None
        if not await self._only_one(lane):
            await self._mediator.divergences.record(
                f"a decision of `{name}`", f"two requests in lane `{lane}` match no record: name their lanes", []
            )
            return None
        bound = [decided for decided in self._unclaimed(lane) if self._line.log.binding(decided)]
        if not bound:
            return None
        bound[0].claimed = True
        self._by_order.append(bound[0])
        await self._mediator.divergences.drifted(f"a decision of `{name}`", bound[0].seq)
        return bound[0]

    def _unclaimed(self, lane: str) -> Iterator[Decided]:
        """The decisions of a lane that nobody has asked for yet, in order. Those at its beginning that were asked for
        are not looked at again: a long run would look at them all for each decision."""
        decided, first = self._line.log.lanes.get(lane, ()), self._first.get(lane, 0)
        while first < len(decided) and decided[first].claimed:
            first += 1
        self._first[lane] = first
        return (decided[place] for place in range(first, len(decided)) if not decided[place].claimed)

    async def _only_one(self, lane: str) -> bool:
        """Whether one request alone waits to be answered by its order in a lane, after all that were started with it
        have asked."""
        beside = self._unmatched.setdefault(lane, [])
        mine = [True]
        beside.append(mine)
        for _ in range(TURNS):
            if len(beside) > 1 or self._asking.get(lane):
                for each in beside:
                    each[0] = False
            await asyncio.sleep(0)
        beside.remove(mine)
        return mine[0]

    # --- draws ---

    async def draw(self, name: str, make: Callable[[], str]) -> str:
        """The next recorded value of this name, or a new one from `make`, recorded."""
        self._mediator.enter()
        n = self.next(f"draw/{name}")
        known = self._line.log.draws.get((name, n))
        if known is not None:
            return known
        value, self._fresh = make(), True
        await self._line.write(Draw(name=name, n=n, value=value))
        return value

    # --- waiting ---

    async def sleep(self, seconds: float, now_ms: Callable[[], int]) -> None:
        """Return when `seconds` have passed since this sleep was first asked for. A long one frees the worker."""
        self._mediator.enter()
        n = self.next("sleep")
        until_ms = self._line.log.sleeps.get(("sleep", n))
        if until_ms is None:
            until_ms, self._fresh = now_ms() + int(max(0.0, seconds) * 1000), True
            await self._line.write(Sleep(name="sleep", n=n, until_ms=until_ms))
        await self._mediator.sender.until(until_ms, "the run sleeps")
        await self._line.refresh()  # it may have been cancelled in its sleep
        self._mediator.check()

    async def wait_for(self, name: str) -> Signal:
        """The next signal of this name that no earlier wait has taken. Parks the run until there is one."""
        self._mediator.enter()
        await self._line.refresh()
        self._mediator.check()
        taken = f"{SIGNAL}{name}"
        n = self.next(taken)
        place = self._line.log.draws.get((taken, n))
        while True:
            seen = self._line.seen
            signals, used = sort_signals(await self._line.read_back(signal_key(name)))
            free = [seq for seq in signals if seq not in used and seq not in self._taken]
            if place is not None:
                return signals[int(place)]
            if free:
                break
            if self._line.seen == seen:  # nobody has sent it while it was looked for
                raise await self._park(name, n)
        self._taken.add(free[0])  # at once: others may be waiting for the same name
        self._fresh = True
        await self._line.write(Draw(name=taken, n=n, value=str(free[0])))
        return signals[free[0]]

    async def _park(self, name: str, n: int) -> Waiting:
        """Let the run wait for a signal, and say so in the log, for whoever is to wake it."""
        self._mediator.check()
        waiting = self._mediator.park(
            AwaitingSignal(
                f"the run waits for the signal `{name}`",
                where=self._line.branch,
                fix=f"holdfast signal {self._line.branch.partition('@')[0]} {name} JSON",
            )
        )
        await self._line.write(Sleep(name=f"{SIGNAL}{name}", n=n, until_ms=0))
        return waiting

    # --- checkpoints ---

    async def checkpoint(self, closure: Closure) -> str | None:
        """Make state and files, with everything before them, a checkpoint; its node. None, and nothing is placed, while
        the program goes over what it did before it was stopped: that would be behind it, and done anew. Waits for calls
        in flight; refuses to stand on a doubt. Until it is placed the one before stays in force."""
        self._mediator.enter()
        async with closure.room.held():
            while True:
                await self._mediator.settled()
                if closure.restores and self._goes_over():
                    return None
                if closure.restores and self._mediator.plans:
                    raise self._mediator.park(
                        Ready(
                            "a checkpoint cannot stand on what is planned: nobody would do it who goes on from there",
                            where=self._line.branch,
                            fix=f"holdfast promote {self._line.branch.replace('@', ' ')}",
                        )
                    )
                doubts = self._line.log.doubts()
                if doubts:
                    raise self._mediator.park(
                        InDoubt(
                            f"`{doubts[0].tool}` may have happened, and a checkpoint cannot stand on a doubt",
                            where=self._line.node(doubts[0].intent_seq),
                            fix="settle it first",
                        )
                    )
                before = self._line.log.seq
                await closure.room.look()
                if self._line.log.seq != before:
                    continue  # the log holds what the files do not, or the other way round
                if await whole(self._close(closure)):
                    return self._line.node(self._line.log.checkpoint_seq)
                self._mediator.enter()  # what was placed before it would be behind it

    async def _close(self, closure: Closure) -> bool:
        """Place a checkpoint, and count from it: never the one without the other. False if the run has moved on."""
        if self._mediator.open:
            return False
        record, blobs = closure.close()
        if not await self._line.attempt(record, blobs=blobs):
            return False
        closure.room.placed(record.parcels or ())
        if closure.restores:  # from here on this life counts as one that is restored from here would
            self._counts.clear()
            self._counted_from = self._line.log.checkpoint_seq
            self._by_order.clear()
            self._first.clear()
            self._line.log.begin_anew()
        return True

    def _goes_over(self) -> bool:
        """Whether the log holds, after the base, what this life has not asked for and may yet ask for. What the world
        or people gave counts until a divergence says that it is asked for no more; what cost nothing, for as long as
        this life has not been given anything new either."""
        log, asked = self._line.log, self._counts
        left_behind = {seq for each in log.divergences for seq in each.unclaimed}
        if any(slot.first_seq not in left_behind for slot in log.unclaimed()):
            return True
        people = (slot for slot in log.slots.values() if slot.hold is not None and slot.intent is None)
        if any(not slot.claimed and slot.first_seq > log.base and slot.sealed_seq <= self._began for slot in people):
            return True
        draws = [(name if name.startswith(SIGNAL) else f"draw/{name}", n) for name, n in log.draws]
        if any(name.startswith(SIGNAL) and n >= asked.get(name, 0) for name, n in draws):
            return True
        searched = f"explore/{self._counted_from}/"  # what a search has chosen for this branch
        if f"{searched}{asked.get('explore', 0)}" in log.settings:
            return True
        if self._fresh or log.touched_seq > self._began:
            return False
        sleeps = [place for place in log.sleeps if place[0] == "sleep"]  # the others stand for waits
        return any(n >= asked.get(name, 0) for name, n in [*draws, *sleeps]) or any(
            not decided.claimed for lane in log.lanes.values() for decided in lane
        )


def _request(name: str, asked: Packed) -> str:
    """What tells a request apart from others (hex)."""
    return hashlib.sha256(f"{name}\0{asked.payload.digest}".encode()).hexdigest()
