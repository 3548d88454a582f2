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
from dataclasses import replace
from typing import assert_never

from holdfast.core.contract import Contract, Repeat
from holdfast.core.effect import Call, Encoding, Happened, Kind, NotHappened, legible, undo_identity
from holdfast.core.log import Slot
from holdfast.core.record import Cancelled as WasCancelled
from holdfast.core.record import Hold, Refusal, Settled
from holdfast.core.recovery import AskPerson, Probe, Redo, UndoThenRedo, undo_remedy
from holdfast.core.step import Perform, Refuse, Replay, Settle, Step, Wait, next_step
from holdfast.errors import AnswerLost, Cancelled, Held, HoldfastError, InDoubt, Misuse, Refused, Waiting
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.diverge import TURNS, Divergences, OnDivergence
from holdfast.gateway.line import Line
from holdfast.gateway.send import Asked, Sender
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.upstreams.undoing import Undoing

MOST_ATTEMPTS = 5  # sendings of one effect in one life of the run, before it waits for a person
HOLD_MS = 7 * 24 * 3600 * 1000


class Mediator:
    """Carries out the calls of one run on one line. `now_ms` is the wall clock."""

    def __init__(self, line: Line, run: str, now_ms: Callable[[], int], on_divergence: OnDivergence) -> None:
        self.line = line
        self.parked: Waiting | None = None
        self.closed: HoldfastError | None = None
        self.sender = Sender(line, run, now_ms, self.park)
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
        await self.line.recall(identity)
        log = self.line.log
        behind = [n for n in range(log.counts.get(identity, 0)) if self._behind(identity, n)]
        self._counts.setdefault(identity, max(behind, default=-1) + 1)

    def _behind(self, identity: bytes, n: int) -> bool:
        slot = self.line.log.slot(identity, n)
        return slot is None or slot.first_seq <= self.line.log.base

    def count(self, identity: bytes) -> int:
        """The number of the call that is being made now, among those of its identity on this line."""
        n = self._counts.get(identity, 0)
        self._counts[identity] = n + 1
        return n

    # --- the loop ---

    async def call(self, asked: Asked) -> object:
        """The answer to a call, performed or recorded. Raises NotHappened, Refused and AnswerLost as outcomes; Waiting
        if the run cannot go on."""
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
        return reply.value

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
    def alone(self) -> bool:
        """Whether at most one call is between intent and seal."""
        return len(self._under_way) <= 1

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
        sendings, news = 0, asked.contract.kind is not Kind.READ
        while True:
            self.check()
            step = self._step(asked)
            if news and isinstance(step, Perform | Wait) and self.line.log.unclaimed():
                news = False
                if self.line.log.slot(step.call.identity, step.call.n) is None:
                    await self.divergences.before(f"`{step.call.tool}`")
                continue  # what runs beside this call has asked for its own meanwhile
            match step:
                case Replay():
                    return await self._replay(asked, step)
                case Perform():
                    reply = await self._perform(asked, step)
                case Settle():
                    sendings += 1
                    reply = await self._settle(asked, step, sendings)
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
        return self.closed

    def check(self) -> None:
        """Raise what keeps this run from going on."""
        if self.parked is not None:
            raise self.parked
        cancelled = self.line.log.cancelled
        if cancelled is not None:
            raise self.close(was_cancelled(cancelled, self.line.branch))

    def park(self, waiting: Waiting) -> Waiting:
        """From now on the whole run waits."""
        self.parked = self.parked or waiting
        return self.parked

    def _step(self, asked: Asked) -> Step:
        args_digest = asked.args.payload.digest
        return next_step(
            asked.call,
            args_digest,
            self.line.log,
            asked.contract,
            self._now_ms(),
            lambda slot: self._stopped(asked, slot),
        )

    def _stopped(self, asked: Asked, slot: Slot) -> bool:
        """Whether whoever sent it last is proven to have stopped: the worker, and the function that it left behind."""
        assert slot.intent is not None
        return self.line.owner_stopped(slot) and not asked.upstream.running(slot.intent.key)

    async def _replay(self, asked: Asked, step: Replay) -> Reply:
        self.line.log.claim(step.slot)
        match step.outcome:
            case NotHappened(reason):
                raise DidNotHappen(reason, where=self.line.node(step.slot.first_seq))
            case Happened(answer):
                return asked.upstream.read(await self.line.payload(answer), answer.encoding)

    async def _perform(self, asked: Asked, step: Perform) -> Reply | None:
        if asked.contract.kind is Kind.READ:
            return await self.sender.read(asked)
        if step.undo_first is not None:
            await self._undo(asked, step.undo_first)
        return await self.sender.first(asked, step.call, step.approval_seq)

    # --- doubt ---

    async def _settle(self, asked: Asked, step: Settle, sendings: int) -> Reply | None:
        """End a doubt by its contract; None: ask again what to do now."""
        slot = step.slot
        self.line.log.claim(slot)
        args = await self._sent_args(asked, slot)
        match step.remedy:
            case Redo(not_before_ms, refused):
                await self.sender.until(not_before_ms, f"`{slot.tool}` was refused for now")
                if not refused:
                    await self._pause(slot, sendings)
                reply = await self.sender.again(asked, slot, args, "refused" if refused else "doubt")
            case Probe(not_before_ms):
                await self.sender.until(not_before_ms, f"`{slot.tool}` may still be carried out late")
                await self._pause(slot, sendings)
                reply = await self._probe(asked, slot, args)
            case UndoThenRedo(not_before_ms):
                await self.sender.until(not_before_ms, f"`{slot.tool}` may still be carried out late")
                await self._pause(slot, sendings)
                await self._undo(asked, slot)
                slot.doubtful = False  # whatever was sent before this moment has been taken back
                reply = await self.sender.again(asked, slot, args, "absent")
            case AskPerson(why):
                raise self._doubt(slot, why)
            case _:
                assert_never(step.remedy)
        return reply if args is None else None  # an answer to other arguments: it has drifted

    async def _sent_args(self, asked: Asked, slot: Slot) -> bytes | None:
        """The arguments that were sent: those of the call, or, where it has drifted since, the recorded ones."""
        assert slot.intent is not None
        if slot.intent.args.digest == asked.args.payload.digest:
            return None
        if asked.contract.secret:
            raise self._doubt(slot, "its secret arguments are no longer known")
        return await self.line.payload(slot.intent.args)

    async def _pause(self, slot: Slot, sendings: int) -> None:
        """Between sendings of one life: longer each time, and after a few a person is asked."""
        if sendings > MOST_ATTEMPTS:
            raise self._doubt(slot, f"it was tried {sendings - 1} times; the last time: {slot.trouble or 'no answer'}")
        if sendings > 1 or slot.trouble:
            await asyncio.sleep(min(0.05 * 4 ** (sendings - 1), 5.0))

    async def _probe(self, asked: Asked, slot: Slot, args: bytes | None) -> Reply | None:
        assert slot.intent is not None
        try:
            found = await asked.upstream.probe(args, slot.intent.key)
        except Exception as failure:  # noqa: BLE001 - whatever a probe raises, it has not told
            slot.trouble = f"the probe failed: {type(failure).__name__}: {legible(failure, 300)}"
            return None
        match found:
            case Happened(answer, etag):
                packed = self.sender.packed(answer)
                record = Settled(intent=slot.intent_seq, outcome=Happened(packed.payload, etag), by="probe")
                return answer if await self.line.attempt(record, blobs=packed.blobs) else None
            case NotHappened():
                slot.doubtful = False  # proven: what was sent before this moment did not happen
                return await self.sender.again(asked, slot, args, "absent")
            case None:
                raise self._doubt(slot, "its probe cannot tell")

    def _doubt(self, slot: Slot, why: str) -> Waiting:
        node = self.line.node(slot.intent_seq)
        trouble = f" ({slot.trouble})" if slot.trouble and slot.trouble not in why else ""
        return self.park(
            InDoubt(
                f"`{slot.tool}` may have happened: {why}{trouble}",
                where=node,
                fix=f"holdfast settle {node} --happened '{{…}}' | --did-not-happen",
            )
        )

    async def _undo(self, asked: Asked, slot: Slot) -> None:
        """Take an effect back: an effect of its own, with intent, key and seal."""
        assert slot.intent is not None
        tool = f"{slot.tool}.undo"
        identity = undo_identity(slot.identity, slot.n)
        call = Call(tool, identity, slot.sent - 1, identity, None)
        answer = None
        if isinstance(slot.outcome, Happened):
            data = await self.line.payload(slot.outcome.answer)
            answer = asked.upstream.read(data, slot.outcome.answer.encoding)
        args = await self._sent_args(asked, slot)
        undo = replace(
            asked,
            contract=Contract(name=tool, kind=Kind.IDEMPOTENT, late_ms=asked.contract.late_ms),
            call=call,
            upstream=Undoing(asked.upstream, args, answer),
        )
        try:
            await self._answer_undo(undo, slot)
        except DidNotHappen as refusal:
            if slot.open:
                raise self._doubt(slot, f"its undo was refused: {refusal.what}") from refusal
            raise Refused(f"`{slot.tool}` could not be taken back: {refusal.what}", where=self.line.branch) from refusal

    async def _answer_undo(self, undo: Asked, slot: Slot) -> None:
        sendings = 0
        while True:
            self.check()
            known = self.line.log.slot(undo.call.identity, undo.call.n)
            if known is None:
                reply = await self.sender.first(undo, undo.call, undoes=slot.intent_seq)
            elif isinstance(known.outcome, NotHappened):
                raise DidNotHappen(known.outcome.reason)
            elif known.outcome is not None:
                return
            else:
                sendings += 1
                way = undo_remedy(undo.contract, known.last_sent_ms, owner_stopped=self._stopped(undo, known))
                if isinstance(way, AskPerson):
                    raise self._doubt(known, way.why)
                not_before_ms = max(way.not_before_ms, known.retry_ms or 0)
                await self.sender.until(not_before_ms, f"`{undo.call.tool}` must not be sent again yet")
                await self._pause(known, sendings)
                reply = await self.sender.again(undo, known, None, "doubt")
            if reply is not None:
                return

    # --- people ---

    async def _hold(self, asked: Asked, step: Wait) -> None:
        """Ask people, and let the whole run wait for them."""
        await self.line.refresh()
        if step.slot is None:
            await self._ask_people(asked, step)
            return
        if step.slot.last is not Hold:
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
            level="one",
            why=legible(step.why, 500),
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
        slot = self.line.log.slot(asked.call.identity, asked.call.n)
        if slot is not None:
            self.line.log.claim(slot)
        raise Refused(f"`{asked.call.tool}` was refused by {step.by}: {step.why}", where=self.line.branch)


def was_cancelled(record: WasCancelled, branch: str) -> Cancelled:
    """What a cancelled run is ended by."""
    return Cancelled(f"the run was cancelled by {record.by}: {record.reason}", where=branch)
