"""Write, then do, then seal: the only place where something is sent.

Rules
1. Nothing is sent before its intent is durable; no answer is given before its seal is written as its kind demands.
2. A refusal is an outcome only if no earlier sending may have happened. A timeout, a lost connection, any other error
   is doubt.
3. What an overtaken worker is told is no seal of its own any more. It says it as a verdict, which needs no claim.
4. A sending that was refused for now is written down as such, so that it is not taken for a doubt after a crash.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from holdfast.core.contract import Contract
from holdfast.core.effect import Call, Encoding, Happened, Kind, NotHappened, Outcome, key_of, legible
from holdfast.core.log import RETRY
from holdfast.core.payload import Blob, Packed, pack_bytes, pack_text
from holdfast.core.record import Attempt, Intent, Seal, Sleep
from holdfast.core.slot import Slot
from holdfast.errors import Asleep, Busy, Fenced, HoldfastError, RetryAfter, Waiting
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.desk import Desk
from holdfast.gateway.line import Line
from holdfast.gateway.receipt import Receipt, for_effect, for_read
from holdfast.gateway.upstreams import Declined, Reply, Upstream
from holdfast.gateway.warrant import Warrant
from holdfast.store.worker import here

PAUSE_S = 1.0  # a flush that takes longer was a pause; shorter than any claim may last
PATIENCE_S = 30.0  # longer waits free the worker
PUT_OFF_MS = 1000  # longer than that
ATTEST_S, ATTEST_EVERY_S = 10.0, 0.1  # for whoever has taken over to let go


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as a door hands it in: counted and written down, with its contract and its way to the outside. `warrant`:
    by what right it is made, where it comes from another process; `rule` is then the name of the rule that allowed it,
    and `why` what people are told if they must agree."""

    contract: Contract
    call: Call
    args: Packed
    blast: int | None
    upstream: Upstream
    warrant: Warrant | None = None
    rule: str | None = None
    why: str = ""

    @property
    def right(self) -> str | None:
        """The capability by which it is asked for."""
        return None if self.warrant is None else self.warrant.capability


class Sender:
    """Sends the calls of one run on one line. `now_ms` is the wall clock; `park` makes the whole run wait."""

    def __init__(self, line: Line, run: str, now_ms: Callable[[], int], park: Callable[[Waiting], Waiting]) -> None:
        self.line = line
        self.run = run
        self.now_ms = now_ms
        self._park = park

    async def first(
        self, asked: Asked, call: Call, approval: int | None = None, undoes: int | None = None
    ) -> Reply | None:
        """Write the intent of `call` and send it. None if the log moved on before the intent was written, or if nobody
        knows what came of the sending: the log says which. Raises NotHappened for a proven refusal."""
        intent = Intent(
            tool=call.tool,
            kind=asked.contract.kind,
            identity=call.identity.hex(),
            n=call.n,
            args=asked.args.payload,
            key=key_of(self.run, call.identity, call.n),
            contract=asked.contract.digest(),
            level=asked.contract.approval,
            resource=call.resource,
            blast=asked.blast,
            approval=approval,
            undoes=undoes,
            capability=asked.right,
            policy=None if asked.warrant is None else asked.warrant.policy,
            rule=asked.rule,
        )
        if not await self._written(intent, asked.args.blobs):
            return None
        if asked.warrant is not None:
            asked.warrant.sent(asked.call)
        slot = self.line.log.slot(call.identity, call.n)
        assert slot is not None, "an intent that was written is in the log"
        kin = self.line.family.kin
        slot.doubtful = kin is not None and kin.find(call.identity, call.n) is not None  # sent there under the same key
        return await self._send(asked, slot, None)

    async def again(self, asked: Asked, slot: Slot, args: bytes | None, why: str) -> Reply | None:
        """Send an open effect once more: same key, same bytes; `why` as in `Attempt`. As `first` otherwise."""
        record = Attempt(intent=slot.intent_seq, number=slot.sent + 1, why=why)
        if not await self._written(record, ()):
            return None
        return await self._send(asked, slot, args)

    async def _written(self, record: Intent | Attempt, blobs: Sequence[Blob]) -> bool:
        """Make it durable. Where that took so long that the claim may have been taken over meanwhile (a paused
        process), the claim is looked at once more: raises Fenced, and nothing is sent (G6)."""
        before_s = time.monotonic()
        written = await self.line.attempt(record, blobs=blobs)
        while written and time.monotonic() - before_s > PAUSE_S:
            before_s = time.monotonic()
            await self.line.write()
        return written

    async def _send(self, asked: Asked, slot: Slot, args: bytes | None) -> Reply | None:
        assert slot.intent is not None
        self.line.log.claim(slot)
        try:
            self._may_be_sent(asked)
            reply = await self._within(asked.contract, asked.upstream.perform(args, self.receipt(slot)))
        except RetryAfter as later:
            await self._come_back(slot, later.seconds)
            return None
        except DidNotHappen as refusal:
            if slot.doubtful:
                slot.trouble = legible(refusal.what, 300)
                return None
            reason = legible(refusal.what)
            node = self.line.node(slot.first_seq)
            if isinstance(refusal, Declined):
                packed = self.packed(refusal.reply)
                await self.seal(slot, NotHappened(reason, packed.payload), packed)
                raise Declined(reason, refusal.reply, where=node) from refusal
            await self.seal(slot, NotHappened(reason))
            raise DidNotHappen(reason, where=node) from refusal  # as a replay says it
        except Exception as failure:  # noqa: BLE001 - whatever it is, nobody knows what came of the sending
            slot.doubtful = True
            slot.trouble = f"{type(failure).__name__}: {legible(failure, 300)}"
            return None
        packed = self.packed(reply)
        await self.seal(slot, Happened(packed.payload, reply.etag), packed)
        return reply

    async def _within(self, contract: Contract, sending: Awaitable[Reply]) -> Reply:
        if contract.timeout_ms is None:
            return await sending
        async with asyncio.timeout(contract.timeout_ms / 1000):
            return await sending

    async def seal(self, slot: Slot, outcome: Outcome, packed: Packed | None = None) -> None:
        """Write what came of an effect; durable before it returns, unless a lost seal only means the same call
        again."""
        record = Seal(
            intent=slot.intent_seq, tool=slot.tool, identity=slot.identity.hex(), n=slot.n, args=None, outcome=outcome
        )
        blobs = packed.blobs if packed else ()
        if slot.kind is Kind.IDEMPOTENT:
            self.line.later(record, blobs)
            return
        sent = slot.sent
        try:
            await self.line.write(record, blobs=blobs, barrier=True)
        except Fenced as fenced:
            untold = await self._attest(slot, outcome, packed, sent)
            raise Fenced(fenced.what + untold, where=fenced.where, fix=fenced.fix) from fenced

    async def _attest(self, slot: Slot, outcome: Outcome, packed: Packed | None, sent: int) -> str:
        """This worker was overtaken while it sent: it writes nothing under its claim any more, but what it was told is
        the best that anybody can know. It is placed as a verdict; where it cannot be, it is for people to read."""
        until_s, me = time.monotonic() + ATTEST_S, here()
        by = f"process {me.pid} on {me.host}, which sent it"
        while True:
            try:
                await Desk(self.line.store).attest(self.line.node(slot.intent_seq), outcome, packed, sent=sent, by=by)
            except Busy:  # whoever has taken over looks at it just now
                if time.monotonic() < until_s:
                    await asyncio.sleep(ATTEST_EVERY_S)
                    continue
            except HoldfastError as error:
                happened = "happened" if isinstance(outcome, Happened) else f"did not happen: {outcome.reason}"
                return f"; `{slot.tool}`, which it had sent, {happened}; but {error.what}"
            return ""

    def receipt(self, slot: Slot) -> Receipt:
        """The proof that the intent of `slot` is durable."""
        assert slot.intent is not None, "only what was written down is sent"
        return for_effect(self.line.branch, slot.intent_seq, slot.intent.tool, slot.intent.key)

    def read_receipt(self, asked: Asked) -> Receipt:
        """The proof that a call is a read, by its contract."""
        assert asked.contract.kind is Kind.READ, "an effect has an intent"
        return for_read(self.line.branch, asked.call.tool)

    @staticmethod
    def _may_be_sent(asked: Asked) -> None:
        """The last look before anything leaves. Raises NotHappened where the right has gone since."""
        lapsed = None if asked.warrant is None else asked.warrant.lapsed()
        if lapsed is not None:
            raise DidNotHappen(f"it was not sent: {lapsed}")

    def packed(self, reply: Reply) -> Packed:
        """A reply as the payload that is sealed."""
        if reply.encoding is Encoding.JSON:
            return pack_text(reply.data, reply.woven, self.line.knows)
        return pack_bytes(reply.data, reply.encoding)

    async def read(self, asked: Asked) -> Reply:
        """A read: no intent, one seal, and no answer before it is committed. Every failure is an outcome: nothing has
        changed."""
        refused = f"read/{asked.call.digest[:16]}"
        await self.until(self.line.log.sleeps.get((refused, 0), 0), f"`{asked.call.tool}` was refused for now")
        try:
            self._may_be_sent(asked)
            reply = await self._within(asked.contract, asked.upstream.perform(None, self.read_receipt(asked)))
        except RetryAfter as later:
            await self._wait_out(later.seconds, refused)
            return await self.read(asked)
        except Exception as failure:
            told = isinstance(failure, DidNotHappen)
            reason = legible(failure.what if told else f"{type(failure).__name__}: {legible(failure)}")
            await self._seal_read(asked, NotHappened(reason), ())
            slot = self.line.log.slot(asked.call.identity, asked.call.n)
            assert slot is not None, "a seal that was written is in the log"
            raise DidNotHappen(reason, where=self.line.node(slot.first_seq)) from failure
        packed = self.packed(reply)
        await self._seal_read(asked, Happened(packed.payload, reply.etag), (packed,))
        return reply

    async def _seal_read(self, asked: Asked, outcome: Outcome, answers: tuple[Packed, ...]) -> None:
        call = asked.call
        seal = Seal(
            intent=None,
            tool=call.tool,
            identity=call.identity.hex(),
            n=call.n,
            args=asked.args.payload,
            outcome=outcome,
            capability=asked.right,
        )
        await self.line.write(seal, blobs=[blob for packed in (asked.args, *answers) for blob in packed.blobs])

    # --- refused for now ---

    async def _come_back(self, slot: Slot, seconds: float) -> None:
        await self._wait_out(seconds, f"{RETRY}{slot.intent_seq}")

    async def _wait_out(self, seconds: float, name: str) -> None:
        """Write down until when, then wait: here if it is short, else with the whole run."""
        seconds = min(max(0.0, seconds), 366 * 86_400.0)  # in this order, NaN is 0
        until_ms = self.now_ms() + int(seconds * 1000)
        await self.line.write(Sleep(name=name, n=0, until_ms=until_ms))
        await self.until(until_ms, f"`{name}` was refused for now")

    async def put_off(self, why: str) -> None:
        """Park the run for some time. Raises Asleep."""
        await self.until(self.now_ms() + int(PATIENCE_S * 1000) + PUT_OFF_MS, why)

    async def until(self, until_ms: int, why: str) -> None:
        """Wait until a moment (wall clock): here if it is near, else park the run."""
        seconds = (until_ms - self.now_ms()) / 1000
        if seconds > PATIENCE_S:
            if until_ms not in self.line.log.sleeps.values():  # whoever looks is to know it, too
                await self.line.write(Sleep(name=f"late/{until_ms}", n=0, until_ms=until_ms))
            raise self._park(
                Asleep(
                    f"{why}; sleeping {seconds:.0f} s",
                    where=self.line.branch,
                    until_ms=until_ms,
                    fix="nothing: it wakes by itself",
                )
            )
        if seconds > 0:
            await asyncio.sleep(seconds)
