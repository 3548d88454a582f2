"""A run whose program is another process: what it asks for at a door is counted, judged and carried out here.

Rules
1. A door counts a call when it comes. The same call by the same capability again, before its answer was delivered, is
   the same call: it joins, and there is no second effect.
2. A call that must wait for people keeps its door waiting for a while; then the door is told, and the program may be
   ended: when it is started again its calls are answered from the log.
3. A capability that was narrowed is told only what it may ask for itself, also where the answer is in the log.
4. What a program has been told by a system whose words others may write marks all that it asks for afterwards. What it
   was told is remembered in order, so that a policy can ask who has said an argument first.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar, cast

from holdfast.core.canonical import JSON, Uncanonical, canonical
from holdfast.core.capability import Used
from holdfast.core.effect import Call, identity_of, legible, resource_of
from holdfast.core.label import Heard, marked
from holdfast.core.payload import Packed, pack_text
from holdfast.core.policy import Denied, Facts, Policy
from holdfast.core.record import Refusal
from holdfast.errors import BadCall, Misuse, Refused, Waiting
from holdfast.gateway.call_warrant import CallWarrant
from holdfast.gateway.counted import Calls, Kept, failed
from holdfast.gateway.decide import Decided, Memory
from holdfast.gateway.mediate import Mediator
from holdfast.gateway.meters import Tally
from holdfast.gateway.order import Mark, Order
from holdfast.gateway.receipt import Receipt, for_read
from holdfast.gateway.rights import Right, Rights
from holdfast.gateway.send import Asked
from holdfast.gateway.upstreams import Declined, Prepared, Reply

LARGEST_ARGS = 16 << 20  # bytes
POLL_S = 0.5
MOST_REFUSALS, MOST_DENIED = 1000, 10_000  # of one life: at its doors, in the log; of calls that were judged
T = TypeVar("T")
_Question: TypeAlias = tuple[str, str, str, str]  # a capability, a lane, what is asked, and how


@dataclass(frozen=True, slots=True)
class Told:
    """The answer of a model; `recorded`: it was given before."""

    reply: Reply
    recorded: bool


@dataclass(slots=True)
class Ward:
    """One life of a run that a process outside advances. `agent` is the name under which it was started; `patience_s`:
    how long a door is kept waiting for people."""

    mediator: Mediator
    memory: Memory
    rights: Rights
    policy: Policy
    agent: str
    patience_s: float = 30.0
    tally: Tally = field(default_factory=Tally)
    labels: set[str] = field(default_factory=set[str])
    heard: Heard = field(default_factory=Heard)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _calls: Calls = field(default_factory=Calls)
    _asked: dict[_Question, asyncio.Task[Told] | None] = field(
        default_factory=dict[_Question, "asyncio.Task[Told] | None"]
    )
    _kept: Kept[_Question] = field(init=False)
    _order: Order = field(default_factory=Order)
    _refused: set[bytes] = field(default_factory=set[bytes])
    _denied: int = 0

    def __post_init__(self) -> None:
        self._kept = Kept(self._asked.pop)

    # --- calls ---

    async def call(
        self, right: Right, prepared: Prepared, *, resend: bool = False, again: str | None = None,
        mark: Mark | None = None,
    ) -> Reply:  # fmt: skip
        """The answer to a call at a door, performed or recorded. `resend`: the client says that it asks once more;
        `mark`: it tells its calls apart by itself. Raises Declined, NotHappened and Refused as outcomes, Waiting where
        people or time are waited for longer than the door's patience."""
        if self._denied >= MOST_DENIED:
            why = f"the run was refused {MOST_DENIED} times: nothing more of it is judged"
            await self.refuse("holdfast.flood", why, "ward", why)
            raise Refused(why, where=self.mediator.line.branch, fix="start its program again")
        name = prepared.contract.name
        if mark is not None:
            await self._order.turn(name, mark)
        try:
            replying = await self._counted(right, prepared, resend, again, mark)
        finally:
            if mark is not None:
                self._order.passed(name, mark)
        return await asyncio.shield(replying)

    def passed(self, tool: str, mark: Mark | None) -> None:
        """A marked call was turned away before it could be counted."""
        if mark is not None:
            self._order.passed(tool, mark)

    async def _counted(
        self, right: Right, prepared: Prepared, resend: bool, again: str | None, mark: Mark | None
    ) -> asyncio.Task[Reply]:
        """The answer, on its way, to a call with its number among those of its identity."""
        identity, args, packed = await self._written(prepared, again)
        if not self.mediator.counted(identity):
            await self.mediator.recall(identity)
        name, key, calls = prepared.contract.name, (right.id, identity, packed.payload.digest), self._calls
        known = calls.find(name, key, mark, resend=resend)
        replying = None if known is None else known.answering
        if known is None or replying is None:
            calls.check_room(known, len(args))
            known = known or calls.add(name, key, mark, self.mediator.count(identity))
            touches = prepared.touches
            resource = None if touches is None else resource_of(name, touches, sorted(touches))
            call = Call(name, identity, known.n, args, resource)
            replying = asyncio.ensure_future(self._carried_out(right, prepared, call, packed))
            replying.add_done_callback(partial(self.tally.count, "call"))
            calls.answer(known, replying, len(args))
        calls.made(prepared, known)
        return replying

    def delivered(self, prepared: Prepared) -> None:
        """The client has the whole answer (or refusal) to the call that it made by this: the same call is a new one
        from now on."""
        self._calls.delivered(prepared)

    async def _written(self, prepared: Prepared, again: str | None) -> tuple[bytes, bytes, Packed]:
        """The identity of a call, its arguments as they are written down, and as they are stored. Raises BadCall for
        those that cannot be written down, and the log says so."""
        try:
            args, chosen = _spelt(prepared)
        except BadCall as error:
            await self.refuse(prepared.contract.name, error.what, "ward", error.what)
            raise
        packed = pack_text(args, cast("JSON", dict(prepared.args)), self.mediator.line.knows)
        return identity_of(prepared.contract.name, chosen, again), args, packed

    async def _carried_out(self, right: Right, prepared: Prepared, call: Call, packed: Packed) -> Reply:
        warrant = CallWarrant(self, right, prepared)
        asked = Asked(prepared.contract, call, packed, prepared.blast, prepared.upstream, warrant)
        if marked(self.labels):
            self.heard.asked(prepared.args, len(call.args))
        said = None
        try:
            await self._check_own(right, prepared)
            said = await self._patiently(lambda: self.mediator.reply(asked))
            return said
        except Declined as error:
            said = error.reply
            raise
        except Refused:
            self._denied += 1
            raise
        finally:
            self._settle(call)
            self.labels |= prepared.labels
            if said is not None:
                self.heard.take(said.data, trusted=not marked(prepared.labels))

    async def _check_own(self, right: Right, prepared: Prepared) -> None:
        """Raise Refused where a capability that was narrowed does not cover what it asks for: the answer may be in the
        log, and then nobody else would look."""
        name = prepared.contract.name
        why = None if right.parent is None else right.terms.covers(name, prepared.args)
        if why is not None:
            await self.refuse(name, dict(prepared.args), "capability", why)
            raise Refused(f"`{name}` was refused by capability: {why}", where=self.mediator.line.branch)

    def _settle(self, call: Call) -> None:
        """What was set aside for a call is used up if it was sent, and free again if it was not."""
        slot = self.mediator.line.log.slot(call.identity, call.n)
        if slot is None or (slot.intent is None and slot.outcome is None):  # what was sent is kept already
            self.rights.release((call.identity, call.n))
        else:
            self.rights.keep((call.identity, call.n))

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """What comes of `work`, begun again whenever there is news of what it waits for."""
        until_s = time.monotonic() + self.patience_s
        while True:
            try:
                return await work()
            except Waiting as waiting:
                if not await self._news(waiting, until_s):
                    raise

    async def _news(self, waiting: Waiting, until_s: float) -> bool:
        """Whether something came, while the door still waits, that may end the wait."""
        line, now_ms = self.mediator.line, self.mediator.sender.now_ms
        while self.mediator.parked is not None:  # else another call of this run has seen it
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            if await line.store.read(line.branch, after=line.seen, unclaimed=True, newest=1):
                break
            if waiting.until_ms is not None:
                if now_ms() >= waiting.until_ms:
                    break
                left_s = min(left_s, max(0.001, (waiting.until_ms - now_ms()) / 1000))
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, POLL_S)):
                    await self.changed.wait()
        await line.refresh()
        self.mediator.unpark()
        return True

    async def refuse(self, tool: str, asked: object, by: str, reason: str) -> None:
        """Say in the log that a call was turned away before it could be judged. Of a flood only the first are told."""
        log = self.mediator.line.log
        text = hashlib.sha256(legible(asked, LARGEST_ARGS).encode()).hexdigest()
        identity = identity_of(legible(tool, 200), canonical(text), "refused at a door")
        if len(self._refused) >= MOST_REFUSALS or identity in self._refused or log.slot(identity, 0) is not None:
            return
        self._refused.add(identity)  # at once: the same may be asked twice in one moment
        record = Refusal(
            hold=None, tool=legible(tool, 200), identity=identity.hex(), n=0, by=by, reason=legible(reason)
        )
        await self.mediator.line.write(record)

    def facts(self, right: Right, prepared: Prepared) -> Facts:
        """What a policy may know of a call."""
        spent = self.rights.spent if right.parent is None else right.used
        return Facts(
            agent=self.agent,
            run=self.rights.run,
            capability=right.id,
            system=prepared.system,
            tool=prepared.contract.name,
            kind=prepared.contract.kind,
            args=prepared.args,
            blast=prepared.blast,
            labels=frozenset(self.labels),
            now_ms=self.mediator.sender.now_ms(),
            spent_calls=spent.calls,
            spent_money=spent.money,
            spent_blast=spent.blast,
            unvouched=lambda: self.heard.unvouched(prepared.args) if marked(self.labels) else frozenset(),
        )

    # --- decisions ---

    async def decide(
        self,
        right: Right,
        prepared: Prepared,
        ask: Callable[[Receipt], Awaitable[Reply]],
        *,
        lane: str = "main",
        resend: bool = False,
    ) -> Told:
        """The answer of a model: asked once, then always the same. `prepared` is what is asked for, and what it may
        cost. Raises Refused; Waiting as `call`."""
        _, args, packed = await self._written(prepared, None)
        key = (right.id, lane, prepared.contract.name, packed.payload.digest)
        known = self._asked.get(key) if resend else None
        if known is None or failed(known):  # whoever tries again after a failure wants an answer, not the failure
            self._calls.carried.check_room(len(args))
            given = None
            if resend and key not in self._asked:  # it may be one that was let go of
                own = None if right.parent is None else right.id
                given = self.memory.given(lane, prepared.contract.name, packed, own)
            known = asyncio.ensure_future(
                self._decided(right, prepared, ask, lane, args, packed) if given is None else self._recorded(given)
            )
            known.add_done_callback(partial(self.tally.count, "decision"))
            known.add_done_callback(partial(self._told, key))
            self._calls.carried.begin(known, len(args))
            self._kept.drop(key)
            self._asked[key] = known
        return await asyncio.shield(known)

    def _told(self, key: _Question, asked: asyncio.Task[Told]) -> None:
        """An answer is there, for who says that he asks once more; or there is none, and he asks anew."""
        if self._asked.get(key) is asked:
            self._asked[key] = None if failed(asked) else asked
            self._kept.add(key, 0 if failed(asked) else len(asked.result().reply.data))

    async def _decided(
        self, right: Right, prepared: Prepared, ask: Callable[[Receipt], Awaitable[Reply]], lane: str, args: bytes,
        packed: Packed,
    ) -> Told:  # fmt: skip
        name, told = prepared.contract.name, list[Reply]()
        await self._check_own(right, prepared)

        async def once() -> Reply:
            if not told:
                told.append(await self._asked_for(right, prepared, ask, args))
            return told[0]

        recorded, reply = await self._patiently(
            lambda: self.memory.decide(lane, name, packed, once, fresh=False, right=right.id)
        )
        self.labels |= prepared.labels
        if recorded is None:
            assert reply is not None, "what is not recorded was asked for"
            return Told(reply, recorded=False)
        return await self._recorded(recorded)

    async def _recorded(self, decided: Decided) -> Told:
        """A decision that was made before."""
        answer = decided.decision.answer
        data = await self.mediator.line.payload(answer)
        return Told(Reply(data, answer.encoding, data), recorded=True)

    async def _asked_for(
        self, right: Right, prepared: Prepared, ask: Callable[[Receipt], Awaitable[Reply]], args: bytes
    ) -> Reply:
        """Ask the model, if the right and the policy allow it now."""
        name, place = prepared.contract.name, object()
        warrant = CallWarrant(self, right, prepared)
        verdict = warrant.judge(Call(name, b"", 0, args, None), prepared.contract)
        by, why = "policy", None
        if isinstance(verdict, Denied):
            why = f"{verdict.rule}: {verdict.reason}"
        elif verdict.level.people:
            why = f"{verdict.rule}: nobody can be asked about each answer of a model"
        else:
            by, why = "budget", self.rights.reserve(right, place, Used(calls=1, money=prepared.money))
        if why is not None:
            await self.refuse(name, args, by, why)
            raise Refused(f"`{name}` was refused by {by}: {why}", where=self.mediator.line.branch)
        try:
            reply = await ask(for_read(self.mediator.line.branch, name))
        except BaseException as error:
            cost = error.reply.cost if isinstance(error, Declined) else None
            self.rights.settle(place, Used() if cost is None else Used(calls=1, money=cost))
            raise
        self.rights.settle(place, Used(calls=1, money=reply.cost or 0))
        return reply

    # --- the end ---

    async def close(self) -> None:
        """Bring what is under way to its end. Nothing new is asked for."""
        self.mediator.close(Misuse("the run's program has ended", fix="start it again"))
        await self.mediator.drain()


def _spelt(prepared: Prepared) -> tuple[bytes, bytes]:
    """The arguments of a call, and those of them by which it is the same as another one. Raises BadCall."""
    name = prepared.contract.name
    try:
        args = canonical(cast("JSON", dict(prepared.args)))
        chosen = args if prepared.chosen is None else canonical(cast("JSON", dict(prepared.chosen)))
    except Uncanonical as error:
        raise BadCall(f"the arguments of `{name}` cannot be written down: {error}", fix="send JSON") from None
    if len(args) > LARGEST_ARGS:
        raise BadCall(
            f"the arguments of `{name}` are {len(args)} bytes; at most {LARGEST_ARGS} are written down",
            fix="send less, or a reference",
        )
    return args, chosen
