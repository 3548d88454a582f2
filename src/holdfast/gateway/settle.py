"""End a doubt by the contract, and take effects back.

Rules
1. An effect that may have happened is sent again, asked about or taken back only as `remedy` says.
2. An undo is an effect of its own: intent, key and seal. It is sent again until it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from holdfast.core.contract import Contract
from holdfast.core.effect import Call, Happened, Kind, NotHappened, legible, undo_identity
from holdfast.core.record import Settled
from holdfast.core.recovery import AskPerson, Probe, Redo, UndoThenRedo, undo_remedy
from holdfast.core.slot import Slot
from holdfast.core.step import Settle
from holdfast.errors import InDoubt, Refused, Waiting
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.line import Line
from holdfast.gateway.send import Asked, Sender
from holdfast.gateway.upstreams import Reply
from holdfast.gateway.upstreams.undoing import Undoing

MOST_ATTEMPTS = 5  # sendings of one effect in one life of the run, before it waits for a person


class Settler:
    """Settles the doubts of one line. `check` raises what keeps the run from going on; `stopped` tells whether whoever
    sent an effect last is proven to have stopped."""

    def __init__(
        self,
        sender: Sender,
        check: Callable[[], None],
        park: Callable[[Waiting], Waiting],
        stopped: Callable[[Asked, Slot], bool],
    ) -> None:
        self.line: Line = sender.line
        self.sender = sender
        self._check = check
        self._park = park
        self._stopped = stopped

    async def settle(self, asked: Asked, step: Settle, sendings: int) -> Reply | None:
        """End a doubt by its contract; None: ask again what to do now."""
        slot = step.slot
        self.line.log.claim(slot)
        args = await self._sent_args(asked, slot)
        if args is not None and asked.warrant is not None:
            raise self.doubt(slot, "it was sent with other arguments than the call has now, and only these were judged")
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
                await self.undo(asked, slot)
                slot.doubtful = False  # whatever was sent before this moment has been taken back
                reply = await self.sender.again(asked, slot, args, "absent")
            case AskPerson(why):
                raise self.doubt(slot, why)
            case _:
                assert_never(step.remedy)
        return reply if args is None else None  # an answer to other arguments: it has drifted

    async def _sent_args(self, asked: Asked, slot: Slot) -> bytes | None:
        """The arguments that were sent: those of the call, or, where it has drifted since, the recorded ones."""
        assert slot.intent is not None
        if slot.intent.args.digest == asked.args.payload.digest:
            return None
        if asked.contract.secret:
            raise self.doubt(slot, "its secret arguments are no longer known")
        return await self.line.payload(slot.intent.args)

    async def _pause(self, slot: Slot, sendings: int) -> None:
        """Between sendings of one life: longer each time, and after a few a person is asked."""
        if sendings > MOST_ATTEMPTS:
            raise self.doubt(slot, f"it was tried {sendings - 1} times; the last time: {slot.trouble or 'no answer'}")
        if sendings > 1 or slot.trouble:
            await asyncio.sleep(min(0.05 * 4 ** (sendings - 1), 5.0))

    async def _probe(self, asked: Asked, slot: Slot, args: bytes | None) -> Reply | None:
        assert slot.intent is not None
        try:
            found = await asked.upstream.probe(args, self.sender.receipt(slot))
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
                raise self.doubt(slot, "its probe cannot tell")

    def doubt(self, slot: Slot, why: str) -> Waiting:
        node = self.line.node(slot.intent_seq)
        trouble = f" ({slot.trouble})" if slot.trouble and slot.trouble not in why else ""
        return self._park(
            InDoubt(
                f"`{slot.tool}` may have happened: {why}{trouble}",
                where=node,
                fix=f"holdfast settle {node} --happened '{{…}}' | --did-not-happen",
            )
        )

    async def undo(self, asked: Asked, slot: Slot, unless: Callable[[], bool] = lambda: False) -> None:
        """Take an effect back: an effect of its own, with intent, key and seal. Nothing is begun if `unless` says so at
        the moment at which it would be."""
        assert slot.intent is not None
        tool = f"{slot.tool}.undo"
        identity = undo_identity(slot.identity, slot.n)
        call = Call(tool, identity, self._times_undone(slot, identity), identity, None)
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
            await self._answer_undo(undo, slot, unless)
        except DidNotHappen as refusal:
            if slot.open:
                raise self.doubt(slot, f"its undo was refused: {refusal.what}") from refusal
            raise Refused(f"`{slot.tool}` could not be taken back: {refusal.what}", where=self.line.branch) from refusal

    def _times_undone(self, slot: Slot, identity: bytes) -> int:
        """Which undo of `slot` this is. One of a doubt, after which somebody found that it had happened all the same,
        is not the one of what happened."""
        n = slot.sent - 1
        while (known := self.line.log.slot(identity, n)) is not None and known.intent_seq < slot.sealed_seq:
            n += 1
        return n

    async def _answer_undo(self, undo: Asked, slot: Slot, unless: Callable[[], bool]) -> None:
        sendings = 0
        while True:
            self._check()
            known = self.line.log.slot(undo.call.identity, undo.call.n)
            if known is None and unless():
                return
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
                    raise self.doubt(known, way.why)
                not_before_ms = max(way.not_before_ms, known.retry_ms or 0)
                await self.sender.until(not_before_ms, f"`{undo.call.tool}` must not be sent again yet")
                await self._pause(known, sendings)
                reply = await self.sender.again(undo, known, None, "doubt")
            if reply is not None:
                return
