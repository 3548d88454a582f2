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

from holdfast.core.contract import Contract, Drift, Repeat
from holdfast.core.effect import Call, Happened, Kind, Outcome
from holdfast.core.kin import Kin, Relative, place_of
from holdfast.core.log import Log
from holdfast.core.record import Planned
from holdfast.core.recovery import AskPerson, Attempts, Redo, Remedy, remedy
from holdfast.core.slot import Slot, people_for


@dataclass(frozen=True, slots=True)
class Replay:
    """Answer from the log."""

    outcome: Outcome
    slot: Slot


@dataclass(frozen=True, slots=True)
class Perform:
    """Carry `call` out. `approval_seq` is the approval that allows it; `undo_first` an effect to take back before, of
    the branch `undo_on` if that is another."""

    call: Call
    approval_seq: int | None = None
    undo_first: Slot | None = None
    undo_on: str | None = None


@dataclass(frozen=True, slots=True)
class Adopt:
    """Another branch of the run made it happen: its seal is the answer to `call`."""

    call: Call
    relative: Relative


@dataclass(frozen=True, slots=True)
class Await:
    """Another branch of the run has sent it, and nobody knows yet what came of it."""

    relative: Relative


@dataclass(frozen=True, slots=True)
class Plan:
    """The branch is speculative: the effect is held until it is promoted. `slot`: it is written down already."""

    call: Call
    slot: Slot | None


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


Step: TypeAlias = Replay | Perform | Adopt | Await | Plan | Settle | Wait | Refuse


@dataclass(frozen=True, slots=True)
class Standing:
    """What a call is judged by, besides its contract: the log of its own branch, the wall clock, whether the sender of
    an open effect is proven to have stopped, what the other branches did, and whether this one is held."""

    log: Log
    now_ms: int
    stopped: Callable[[Slot], bool]
    kin: Kin | None = None
    held: bool = False


def always(_slot: Slot) -> bool:
    """Whoever sent it last has stopped."""
    return True


def next_step(call: Call, args_digest: str, contract: Contract, at: Standing) -> Step:
    """What to do about `call`. `args_digest` (hex) names its arguments as the log writes them."""
    log, asked = at.log, call
    identity, n = place_of(log, at.kin, call.identity, call.n)
    slot = log.slot(identity, n)
    if identity != call.identity:
        call = replace(call, identity=identity, n=n)
    if slot is not None:
        if isinstance(slot.outcome, Happened):
            return _adopt(call, args_digest, slot, contract, at)
        if _over(slot):
            return _known(call, slot, contract, at)
    if at.held and contract.kind is not Kind.READ:
        return Plan(call, slot)
    untouched = slot is None or slot.last is Planned
    repeats = contract.repeat is Repeat.EACH or contract.kind is Kind.READ
    earlier = _earlier(asked, at) if untouched and not repeats else None
    if earlier is not None and contract.repeat is Repeat.ONCE:
        return _adopt(call, args_digest, earlier, contract, at)
    if at.kin is not None and contract.kind is not Kind.READ:
        elsewhere = at.kin.find(call.identity, call.n) or at.kin.unheld(log, asked.identity)
        if elsewhere is not None:
            return _elsewhere(call, args_digest, elsewhere, contract, at)
    if slot is not None and not untouched:
        return _known(call, slot, contract, at)
    return _new(call, earlier, contract, at)


def _over(slot: Slot) -> bool:
    """Whether the log alone says what is to be done about a call: it has an end, or may have."""
    return slot.outcome is not None or slot.open or slot.refusal is not None


def _earlier(call: Call, at: Standing) -> Slot | None:
    """The newest earlier call of this identity that is known to have happened on this line."""
    for n in range(call.n - 1, -1, -1):
        slot = at.log.slot(*place_of(at.log, at.kin, call.identity, n))
        if slot is not None and isinstance(slot.outcome, Happened):
            return slot
    return at.log.happened(call.identity)


def _new(call: Call, earlier: Slot | None, contract: Contract, at: Standing) -> Step:
    """A call that nobody has made before. `earlier`: another of its identity happened."""
    if contract.kind is Kind.READ:
        return Wait(call, None, "the contract asks for approval") if contract.approval.people else Perform(call)
    if earlier is not None and contract.repeat is Repeat.ASK:
        return Wait(call, None, f"the same call happened before, at {earlier.first_seq}")
    beside = _beside_stranded(call, at)
    if isinstance(beside, Perform) and contract.approval.people:
        return Wait(call, None, "the contract asks for approval")
    return beside


def _elsewhere(call: Call, args_digest: str, relative: Relative, contract: Contract, at: Standing) -> Step:
    """Another branch has made this call. An idempotent effect of which nobody knows may be sent again: same key, same
    bytes."""
    slot = relative.slot
    if slot.open:
        same = (slot.identity, slot.n) == (call.identity, call.n) and slot.args == args_digest
        return Perform(call) if same and _may_be_sent_again(slot, contract, at) else Await(relative)
    found = _adopt(call, args_digest, slot, contract, at, relative.node)
    return Adopt(call, relative) if isinstance(found, Replay) and found.slot is slot else found


def _may_be_sent_again(slot: Slot, contract: Contract, at: Standing) -> bool:
    """Whether sending it once more, with its key, changes nothing, even while another sends it: its key lives."""
    attempts = Attempts(slot.sent, slot.first_sent_ms, slot.last_sent_ms)
    return isinstance(remedy(contract, attempts, at.now_ms, owner_stopped=False), Redo)


def _known(call: Call, slot: Slot, contract: Contract, at: Standing) -> Step:
    if slot.outcome is not None:
        return Replay(slot.outcome, slot)
    if slot.refusal is not None:
        return Refuse(slot.refusal.reason, slot.refusal.by, recorded=True)
    if slot.open:
        return Settle(slot, _way_out(slot, contract, at))
    return _held(call, slot, contract, at)


def _way_out(slot: Slot, contract: Contract, at: Standing) -> Remedy:
    """How an open effect is settled. One that was only ever refused is not in doubt; a refusal of a later sending says
    nothing of the earlier ones, but when to come back."""
    if slot.retry_ms is not None and not slot.doubtful:
        return Redo(slot.retry_ms, refused=True)
    attempts = Attempts(slot.sent, slot.first_sent_ms, slot.last_sent_ms)
    found = remedy(contract, attempts, at.now_ms, owner_stopped=at.stopped(slot))
    if slot.retry_ms is None or isinstance(found, AskPerson):
        return found
    return replace(found, not_before_ms=max(found.not_before_ms, slot.retry_ms))


def _held(call: Call, slot: Slot, contract: Contract, at: Standing) -> Step:
    hold, given = slot.hold, slot.approvals.values()
    assert hold is not None, "a slot without outcome, refusal and intent is a hold"
    if hold.call != call.digest or hold.contract != contract.digest():
        return Wait(call, None, _once_more(hold.why, "the call has changed since people were asked"))
    valid = sum(each.call == hold.call and at.now_ms < each.expires_ms for each in given)
    if valid < len(given):
        return Wait(call, None, _once_more(hold.why, "the approval has expired"))
    if valid < people_for(hold):
        expired = at.now_ms >= hold.expires_ms
        return Wait(call, None, hold.why) if expired else Wait(call, slot, hold.why)
    beside = _beside_stranded(call, at)
    if isinstance(beside, Perform):
        return replace(beside, approval_seq=slot.approval_seq)
    return Perform(call, approval_seq=slot.approval_seq)


def _once_more(why: str, news: str) -> str:
    return why if why.endswith(news) else f"{why}; {news}"


def _adopt(call: Call, args_digest: str, slot: Slot, contract: Contract, at: Standing, node: str | None = None) -> Step:
    """The same call happened (at `node` of another branch). With other remaining arguments it has drifted, and may
    become an effect of its own."""
    assert slot.outcome is not None
    if slot.args == args_digest or contract.drift is Drift.ADOPT:
        return Replay(slot.outcome, slot)
    why = f"the same call was made with other arguments at {node or slot.first_seq}"
    if contract.drift is Drift.REFUSE:
        return Refuse(f"{why}, and the contract refuses drift", "contract", recorded=False)
    place = place_of(at.log, at.kin, drifted_identity(call.identity, args_digest), 0)
    drifted, known = replace(call, identity=place[0], n=place[1]), at.log.slot(*place)
    if known is not None and _over(known):
        return _known(drifted, known, contract, at)
    if at.held:
        return Plan(drifted, known)
    elsewhere = None if at.kin is None else at.kin.find(*place)
    if elsewhere is not None:
        return _elsewhere(drifted, args_digest, elsewhere, contract, at)
    if known is None or known.last is Planned:
        return Wait(drifted, None, why)
    return _known(drifted, known, contract, at)


def drifted_identity(identity: bytes, args_digest: str) -> bytes:
    """The identity (32 bytes) under which people are asked about a call that differs only in its remaining
    arguments."""
    return hashlib.sha256(b"holdfast/drift/1\0" + identity + bytes.fromhex(args_digest)).digest()


def _beside_stranded(call: Call, at: Standing) -> Perform | Wait:
    """The same tool on the same resource as an effect that nobody has asked for, after a divergence, or that another
    branch made: undo that one, or ask."""
    if call.resource is None:
        return Perform(call)
    own = at.log.unclaimed() if at.log.diverged else []
    left = {slot.adopted.node for slot in own if slot.adopted is not None}
    strangers = [] if at.kin is None else at.kin.stranded(at.log, left)
    beside = [*((None, "", slot) for slot in own), *((each.branch, each.node, each.slot) for each in strangers)]
    for branch, node, slot in beside:
        if slot.intent is None or slot.intent.resource != call.resource:
            continue
        needed = at.kin is not None and (node in left or at.kin.needed(branch or at.log.branch, slot.intent_seq))
        if slot.kind is Kind.REVERSIBLE and not slot.open and not needed:
            return Perform(call, undo_first=slot, undo_on=branch)
        was = "may have been" if slot.open else "was"
        where = "which the program no longer asks for" if branch is None else f"on the branch {branch}"
        return Wait(call, None, f"the same resource {was} changed at {slot.first_seq}, {where}")
    return Perform(call)
