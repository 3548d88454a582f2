"""The only question: what is to be done about this call, given what the log says?

Rules
1. The same function answers for a first call, a retry, a replay after a crash and a replay on a fork. There is no
   recovery mode.
2. Only `Happened` is adopted. What did not happen answers its own call; a later call of that identity is a new attempt.
3. An approval is for the exact call (arguments and contract) that people saw, expires, and is used once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from holdfast.core.contract import Contract, Drift, Level, Repeat
from holdfast.core.effect import Call, Happened, Kind, Outcome
from holdfast.core.log import Log, Slot
from holdfast.core.recovery import AskPerson, Attempts, Redo, Remedy, remedy


@dataclass(frozen=True, slots=True)
class Replay:
    """Answer from the log."""

    outcome: Outcome
    slot: Slot


@dataclass(frozen=True, slots=True)
class Perform:
    """Carry `call` out. `approval_seq` is the approval that allows it; `undo_first` an effect to take back before."""

    call: Call
    approval_seq: int | None = None
    undo_first: Slot | None = None


@dataclass(frozen=True, slots=True)
class Settle:
    """It may have happened: end the doubt first."""

    slot: Slot
    remedy: Remedy


@dataclass(frozen=True, slots=True)
class Wait:
    """People must agree to `call`. `slot` is the hold that waits already; None: ask them now, for the reason `why`."""

    call: Call
    slot: Slot | None
    why: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """No. `recorded`: the log says so already."""

    why: str
    by: str
    recorded: bool


Step: TypeAlias = Replay | Perform | Settle | Wait | Refuse


def always(_slot: Slot) -> bool:
    """Whoever sent it last has stopped."""
    return True


def next_step(
    call: Call, args_digest: str, log: Log, contract: Contract, now_ms: int, stopped: Callable[[Slot], bool] = always
) -> Step:
    """What to do about `call`. `args_digest` (hex) names its arguments as the log writes them; `stopped` tells whether
    the sender of an open effect is proven to have stopped."""
    identity, n = log.newest_of(call.identity, call.n)
    slot = log.slot(identity, n)
    if identity != call.identity:
        call = replace(call, identity=identity, n=n)
    if slot is not None:
        if isinstance(slot.outcome, Happened):
            return _adopt(call, args_digest, slot, log, contract, now_ms, stopped)
        return _known(call, slot, log, contract, now_ms, stopped)
    if contract.kind is Kind.READ:
        return Perform(call) if contract.approval is Level.NONE else Wait(call, None, "the contract asks for approval")
    earlier = log.happened(call.identity)
    if earlier is not None and contract.repeat is Repeat.ONCE:
        return _adopt(call, args_digest, earlier, log, contract, now_ms, stopped)
    if earlier is not None and contract.repeat is Repeat.ASK:
        return Wait(call, None, f"the same call happened before, at {earlier.first_seq}")
    beside = _beside_stranded(call, log)
    if isinstance(beside, Perform) and contract.approval is not Level.NONE:
        return Wait(call, None, "the contract asks for approval")
    return beside


def _known(call: Call, slot: Slot, log: Log, contract: Contract, now_ms: int, stopped: Callable[[Slot], bool]) -> Step:
    if slot.outcome is not None:
        return Replay(slot.outcome, slot)
    if slot.refusal is not None:
        return Refuse(slot.refusal.reason, slot.refusal.by, recorded=True)
    if slot.open:
        return Settle(slot, _way_out(slot, contract, now_ms, stopped))
    return _held(call, slot, log, contract, now_ms)


def _way_out(slot: Slot, contract: Contract, now_ms: int, stopped: Callable[[Slot], bool]) -> Remedy:
    """How an open effect is settled. One that was only ever refused is not in doubt; a refusal of a later sending says
    nothing of the earlier ones, but when to come back."""
    if slot.retry_ms is not None and not slot.doubtful:
        return Redo(slot.retry_ms, refused=True)
    attempts = Attempts(slot.sent, slot.first_sent_ms, slot.last_sent_ms)
    found = remedy(contract, attempts, now_ms, owner_stopped=stopped(slot))
    if slot.retry_ms is None or isinstance(found, AskPerson):
        return found
    return replace(found, not_before_ms=max(found.not_before_ms, slot.retry_ms))


def _held(call: Call, slot: Slot, log: Log, contract: Contract, now_ms: int) -> Step:
    hold, approval = slot.hold, slot.approval
    assert hold is not None, "a slot without outcome, refusal and intent is a hold"
    if hold.call != call.digest or hold.contract != contract.digest():
        return Wait(call, None, _once_more(hold.why, "the call has changed since people were asked"))
    if approval is None:
        expired = now_ms >= hold.expires_ms
        return Wait(call, None, hold.why) if expired else Wait(call, slot, hold.why)
    if approval.call != hold.call or now_ms >= approval.expires_ms:
        return Wait(call, None, _once_more(hold.why, "the approval has expired"))
    beside = _beside_stranded(call, log)
    return Perform(
        call, approval_seq=slot.approval_seq, undo_first=beside.undo_first if isinstance(beside, Perform) else None
    )


def _once_more(why: str, news: str) -> str:
    return why if why.endswith(news) else f"{why}; {news}"


def _adopt(
    call: Call,
    args_digest: str,
    slot: Slot,
    log: Log,
    contract: Contract,
    now_ms: int,
    stopped: Callable[[Slot], bool],
) -> Step:
    """The same call happened. With other remaining arguments it has drifted, and may become an effect of its own."""
    assert slot.outcome is not None
    if slot.args == args_digest or contract.drift is Drift.ADOPT:
        return Replay(slot.outcome, slot)
    why = f"the same call was made with other arguments at {slot.first_seq}"
    if contract.drift is Drift.REFUSE:
        return Refuse(f"{why}, and the contract refuses drift", "contract", recorded=False)
    drifted = replace(call, identity=drifted_identity(call.identity, args_digest), n=0)
    known = log.slot(drifted.identity, 0)
    if known is None:
        return Wait(drifted, None, why)
    return _known(drifted, known, log, contract, now_ms, stopped)


def drifted_identity(identity: bytes, args_digest: str) -> bytes:
    """The identity (32 bytes) under which people are asked about a call that differs only in its remaining
    arguments."""
    return hashlib.sha256(b"holdfast/drift/1\0" + identity + bytes.fromhex(args_digest)).digest()


def _beside_stranded(call: Call, log: Log) -> Perform | Wait:
    """After a divergence, the same tool on the same resource as an effect that nobody has asked for: undo that one, or
    ask."""
    if call.resource is None or not log.diverged:
        return Perform(call)
    for slot in log.unclaimed():
        if slot.intent is None or slot.intent.resource != call.resource:
            continue
        if slot.kind is Kind.REVERSIBLE and not slot.open:
            return Perform(call, undo_first=slot)
        was = "may have been" if slot.open else "was"
        why = f"the same resource {was} changed at {slot.first_seq}, which the program no longer asks for"
        return Wait(call, None, why)
    return Perform(call)
