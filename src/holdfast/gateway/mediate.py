"""Carry out one call: ask the core what is to be done, and do it, until the core says what the answer is.

Rules
1. First call, retry, replay and recovery take the same way: `next_step` is asked again until it answers.
2. From its intent to its seal a call cannot be cancelled from outside: it runs in a piece of its own, which the run
   waits for.
3. A call that must wait parks the run: every later call waits with it, and nothing new is started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never

from holdfast.core.contract import Level, Repeat
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, legible
from holdfast.core.kin import Relative
from holdfast.core.record import Adopted, Hold, Planned, Refusal
from holdfast.core.record import Cancelled as WasCancelled
from holdfast.core.slot import Slot
from holdfast.core.step import Adopt, Await, Perform, Plan, Refuse, Replay, Settle, Standing, Step, Wait, next_step
from holdfast.core.tree import Status
from holdfast.errors import AnswerLost, Cancelled, Held, HoldfastError, InDoubt, Misuse, Refused, Superseded, Waiting
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.aside import Aside
from holdfast.gateway.diverge import TURNS, Divergences, OnDivergence
from holdfast.gateway.judge import judged
from holdfast.gateway.line import Line, node_of
from holdfast.gateway.pending import Pending
from holdfast.gateway.send import Asked, Sender
from holdfast.gateway.settle import Settler
from holdfast.gateway.turnstile import Entrance
from holdfast.gateway.upstreams import Declined, Reply

AWAITED = 10  # looks at a branch that has sent the same call, before the run waits
HOLD_MS = 7 * 24 * 3600 * 1000


class Mediator:
    """Carries out the calls of one run on one line. `now_ms` is the wall clock. `aside` opens a branch that was given
    up; without it this line is such a one, and nothing is done on it but taking back."""

    def __init__(
        self,
        line: Line,
        run: str,
        now_ms: Callable[[], int],
        on_divergence: OnDivergence,
        aside: Aside | None = None,
    ) -> None:
        self.line = line
        self.closing = aside is None
        self.held = line.family.held
        self._aside = aside
        self.parked: Waiting | None = None
        self.closed: HoldfastError | None = None
        self.entrance = Entrance()
        self.sender = Sender(line, run, now_ms, self.park)
        self.settler = Settler(self.sender, self.check, self.park, self._stopped)
        self.divergences = Divergences(line, on_divergence, self.park, self.close)
        self._now_ms = now_ms
        self._counts: dict[bytes, int] = {}
        self._last: dict[bytes, asyncio.Task[Reply]] = {}
        self._under_way: dict[asyncio.Task[Reply], bytes] = {}

    # --- counting ---

    def counted(self, identity: bytes) -> bool:
        """Whether `count` can tell at once."""
        return not self.line.log.base or identity in self._counts

    async def recall(self, identity: bytes) -> None:
        """Behind a checkpoint: learn how often this identity was called before."""
        self._counts.setdefault(identity, await self.line.made_behind(identity))

    def count(self, identity: bytes) -> int:
        """The number of the call that is being made now, among those of its identity on this line."""
        n = self._counts.get(identity, 0)
        self._counts[identity] = n + 1
        return n

    # --- the loop ---

    async def call(self, asked: Asked) -> object:
        """The answer to a call, performed or recorded. Raises NotHappened, Refused and AnswerLost as outcomes; Waiting
        if the run cannot go on."""
        return (await self.reply(asked)).value

    async def reply(self, asked: Asked) -> Reply:
        """As `call`, with the bytes that are sealed."""
        self.enter()
        known = self.line.log.slot(asked.call.identity, asked.call.n)
        if asked.contract.kind is Kind.READ or (known is not None and known.outcome is not None):
            reply = await self._answer(asked)
        else:
            reply = await asyncio.shield(self._piece(asked))
        if reply.encoding is Encoding.LOST:
            raise AnswerLost(
                f"`{asked.call.tool}` happened, but its answer could not be written down: {reply.value}",
                where=self.line.branch,
                fix="return JSON values, bytes, or a type that pydantic can dump by the annotation",
            )
        return reply

    def _piece(self, asked: Asked) -> asyncio.Task[Reply]:
        """Calls of one identity go one after another where a later one may be answered by an earlier one."""
        identity = asked.call.identity
        before = self._last.get(identity) if asked.contract.repeat is not Repeat.EACH else None
        if before is not None and before.get_loop() is not asyncio.get_running_loop():
            raise Misuse(f"`{asked.call.tool}` was called plainly while the same call is under way in the agent's loop",
                         where=self.line.branch, fix="await it: run.call(…)")  # fmt: skip
        piece = asyncio.create_task(self._answer(asked) if before is None else self._after(before, asked))
        self._last[identity] = piece
        self._under_way[piece] = identity
        piece.add_done_callback(self._done)
        return piece

    async def _after(self, before: asyncio.Task[Reply], asked: Asked) -> Reply:
        await asyncio.wait([before])
        return await self._answer(asked)

    @property
    def plans(self) -> bool:
        """Whether something waits for the promotion of this branch."""
        return self.held and any(slot.last is Planned for slot in self.line.log.slots.values())

    @property
    def open(self) -> int:
        """How many calls are between intent and seal."""
        return len(self._under_way)

    def _done(self, piece: asyncio.Task[Reply]) -> None:
        identity = self._under_way.pop(piece)
        if self._last.get(identity) is piece:
            del self._last[identity]
        if not piece.cancelled():
            piece.exception()  # whoever asked may be gone: then nobody else would look at it

    async def drain(self) -> None:
        """Wait until nothing is between intent and seal, and every seal has its place. Who is cancelled meanwhile is
        cancelled then."""
        cancelled = None
        while True:
            while self._under_way:
                try:
                    await asyncio.wait(list(self._under_way))
                except asyncio.CancelledError as error:
                    cancelled = error
            await self.line.flush()
            if not self._under_way:
                break
        if cancelled is not None:
            raise cancelled

    async def settled(self) -> None:
        """As `drain`; and whoever waited for those calls has heard what came of them."""
        await self.drain()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        await self.drain()

    async def _answer(self, asked: Asked) -> Reply:
        """The answer; where calls of its tool are counted, once there is room for one more that may be sent."""
        known = self.line.log.slot(asked.call.identity, asked.call.n)
        if not self.entrance.counts(asked.call) or (known is not None and known.outcome is not None):
            return await self._decided(asked)
        async with self.entrance.inside(asked.call, self.line, self.enter, self.sender.put_off):
            return await self._decided(asked)

    async def _decided(self, asked: Asked) -> Reply:
        sendings, news, unjudged = 0, asked.contract.kind is not Kind.READ, asked
        while True:
            self.check()
            step = self._step(asked)
            if asked.warrant is not None and not isinstance(step, Replay):
                slot = self.line.log.slot(asked.call.identity, asked.call.n)
                asked, step = judged(unjudged, step, sent=slot is not None and slot.open, again=self._step)
            if isinstance(step, Perform | Wait | Adopt | Plan) and await self.line.recall(step.call.identity):
                continue  # it stands under another identity, of which more was known behind the checkpoint
            if news and isinstance(step, Perform | Wait | Adopt | Plan) and self.line.log.unclaimed():
                news = False
                if self.line.log.slot(step.call.identity, step.call.n) is None:
                    await self.divergences.before(f"`{step.call.tool}`")
                continue  # what runs beside this call has asked for its own meanwhile
            match step:
                case Replay():
                    return await self._replay(asked, step)
                case Perform():
                    reply = await self._perform(asked, step)
                case Plan():
                    return await self._plan(asked, step)
                case Adopt():
                    reply = await self._adopt(asked, step)
                case Await():
                    reply = await self._await(asked, step.relative)
                case Settle():
                    sendings += 1
                    reply = await self.settler.settle(asked, step, sendings)
                case Wait():
                    reply = await self._hold(asked, step)
                case Refuse():
                    reply = await self._refuse(asked, step)
                case _:
                    assert_never(step)
            if reply is not None:
                return reply

    def enter(self) -> None:
        """Raise what keeps this run from asking for anything more."""
        if self.closed is not None:
            raise self.closed
        if self.line.broken is not None:
            raise self.line.broken  # it could not be written down
        self.check()

    def close(self, why: HoldfastError) -> HoldfastError:
        """From now on nothing new is asked for. What is under way is brought to its end."""
        self.closed = self.closed or why
        self.entrance.send_home()
        return self.closed

    def check(self) -> None:
        """Raise what keeps this run from going on."""
        if self.parked is not None:
            raise self.parked
        if self.closing:
            return
        cancelled = self.line.log.cancelled
        if cancelled is not None:
            raise self.close(was_cancelled(cancelled, self.line.branch))
        self.check_place()

    def check_place(self) -> None:
        """Raise where this branch has lost its place in the run, or has got another than it began with."""
        family = self.line.family
        if not family.tree.size:
            return
        limb = family.limb
        if limb.status is Status.ABANDONED:
            raise self.close(Cancelled(f"the branch `{limb.name}` is {limb.ended}", where=self.line.branch))
        if limb.status is Status.SUPERSEDED or self.held is not family.held:
            ended = limb.ended or "promoted: what it planned is now done"
            raise self.park(Superseded(f"the branch `{limb.name}` is {ended}", where=self.line.branch))

    def park(self, waiting: Waiting) -> Waiting:
        """From now on the whole run waits."""
        self.parked = self.parked or self.line.parks(waiting)
        self.entrance.send_home()
        return self.parked

    def unpark(self) -> None:
        """What it waited for may have come: whoever still waits asks again."""
        self.parked = self.line.heard = None

    def _step(self, asked: Asked) -> Step:
        standing = Standing(
            self.line.log,
            self._now_ms(),
            lambda slot: self._stopped(asked, slot),
            self.line.family.kin,
            self.held,
        )
        return next_step(asked.call, asked.args.payload.digest, asked.contract, standing)

    def _stopped(self, asked: Asked, slot: Slot) -> bool:
        """Whether whoever sent it last is proven to have stopped: the worker, and the function that it left behind."""
        assert slot.intent is not None
        return self.line.owner_stopped(slot) and not asked.upstream.running(slot.intent.key)

    async def _replay(self, asked: Asked, step: Replay) -> Reply:
        self.line.log.claim(step.slot)
        match step.outcome:
            case NotHappened(reason, said):
                node = self.line.node(step.slot.first_seq)
                if said is None:
                    raise DidNotHappen(reason, where=node)
                reply = asked.upstream.read(await self.line.payload(said), said.encoding)
                raise Declined(reason, reply, where=node)
            case Happened(answer):
                return asked.upstream.read(await self.line.payload(answer), answer.encoding)

    async def _perform(self, asked: Asked, step: Perform) -> Reply | None:
        if asked.contract.kind is Kind.READ:
            return await self.sender.read(asked)
        if step.undo_first is not None:
            first = step.undo_first
            if step.undo_on is None:
                await self.settler.undo(asked, first, unless=lambda: self.line.family.needed_beside(first.intent_seq))
            else:
                await self._undo_aside(asked, step.undo_on, first)
            return None  # there may be more of it, or another branch rests on it since a moment ago
        return await self.sender.first(asked, step.call, step.approval_seq)

    # --- other branches ---

    async def _plan(self, asked: Asked, step: Plan) -> Reply:
        """Write down what is asked for, and answer with something that stands for the answer."""
        call = step.call
        if step.slot is None:
            planned = Planned(
                tool=call.tool, kind=asked.contract.kind, identity=call.identity.hex(), n=call.n,
                args=asked.args.payload, blast=asked.blast,
            )  # fmt: skip
            await self.line.write(planned, blobs=asked.args.blobs)
        return Reply(b"", Encoding.JSON, Pending(call.tool, self.line.branch, self.park))

    async def _adopt(self, asked: Asked, step: Adopt) -> None:
        """Take over what another branch made happen; then it is in this log."""
        relative, call = step.relative, step.call
        assert relative.slot.outcome is not None
        adopted = Adopted(
            tool=call.tool, kind=relative.slot.kind, identity=call.identity.hex(), n=call.n, args=asked.args.payload,
            node=relative.node, undoes=None, outcome=relative.slot.outcome,
        )  # fmt: skip
        await self.line.attempt(adopted, blobs=asked.args.blobs)

    async def _await(self, asked: Asked, relative: Relative) -> None:
        """Another branch has sent it. While its owner lives, it will be sealed soon; else its doubt must be settled."""
        slot, branch, kin = relative.slot, relative.branch, self.line.family.kin
        for turn in range(AWAITED):
            await asyncio.sleep(min(0.02 * 2**turn, 0.5))
            await self.line.refresh()
            if kin is not None:
                kin.look(relative)
            if not slot.open:
                return
        undoes = None if slot.intent is None else slot.intent.undoes
        if kin is not None and undoes is not None and (undone := kin.at(branch, undoes)) is not None:
            await self._undo_aside(asked, branch, undone)  # which is going on with it
            return
        node = node_of(branch, slot.intent_seq)
        raise self.park(
            InDoubt(
                f"`{slot.tool}` may have happened: another branch has sent it, and it is not sealed",
                where=node,
                fix=f"holdfast settle {node} --happened '{{…}}' | --did-not-happen",
            )
        )

    async def _undo_aside(self, asked: Asked, branch: str, slot: Slot) -> None:
        """Take back what a branch did that was given up: on that branch, as an effect of its own."""
        assert self._aside is not None, "who is only taking back performs nothing"
        async with self._aside(branch) as other:
            there = other.line.log.at(slot.intent_seq)
            assert there is not None, "what is in the fold of its kin is in its own log"
            await other.settler.undo(asked, there, unless=lambda: other.line.family.needed(slot.intent_seq))
        await self.line.refresh()

    # --- people ---

    async def _hold(self, asked: Asked, step: Wait) -> None:
        """Ask people, and let the whole run wait for them."""
        await self.line.refresh()
        if step.slot is None:
            await self._ask_people(asked, step)
            return
        if not step.slot.waits:
            return  # somebody has answered meanwhile
        node = self.line.node(step.slot.hold_seq)
        raise self.park(
            Held(
                f"`{step.call.tool}` waits for approval: {step.why}",
                where=node,
                fix=f"holdfast approve {node} | holdfast refuse {node} --reason …",
            )
        )

    async def _ask_people(self, asked: Asked, step: Wait) -> None:
        hold = Hold(
            tool=step.call.tool,
            kind=asked.contract.kind,
            identity=step.call.identity.hex(),
            n=step.call.n,
            args=asked.args.payload,
            call=step.call.digest,
            contract=asked.contract.digest(),
            level=asked.contract.approval if asked.contract.approval.people else Level.ONE,
            why=legible(f"{step.why} ({asked.why})" if asked.why else step.why, 500),
            expires_ms=self._now_ms() + HOLD_MS,
        )
        await self.line.attempt(hold, blobs=asked.args.blobs)

    async def _refuse(self, asked: Asked, step: Refuse) -> None:
        if not step.recorded:
            call = asked.call
            refusal = Refusal(
                hold=None, tool=call.tool, identity=call.identity.hex(), n=call.n, by=step.by, reason=legible(step.why)
            )
            if self.line.log.slot(call.identity, call.n) is None and not await self.line.attempt(refusal):
                return
        if (slot := self.line.log.slot(asked.call.identity, asked.call.n)) is not None:
            self.line.log.claim(slot)
        fix = "it stands in the log and is said again: ask in a new run, or fork before it" if step.recorded else ""
        raise Refused(f"`{asked.call.tool}` was refused by {step.by}: {step.why}", where=self.line.branch, fix=fix)


def was_cancelled(record: WasCancelled, branch: str) -> Cancelled:
    """What a cancelled run is ended by."""
    return Cancelled(f"the run was cancelled by {record.by}: {record.reason}", where=branch)
