"""The only question, as a table: what the log says of a call, and what is to be done about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.core.contract import Contract, Drift, Level, Repeat
from holdfast.core.effect import Call, Encoding, Happened, Kind, NotHappened, Payload
from holdfast.core.log import Log
from holdfast.core.record import Divergence, Hold, Record, Sleep
from holdfast.core.recovery import AskPerson, Probe, Redo, UndoThenRedo
from holdfast.core.step import Perform, Refuse, Replay, Settle, Standing, Step, Wait, next_step
from tests.core.lives import (
    ANSWER,
    ARGS,
    CLAIM,
    DID_NOT,
    IDENTITY,
    approval,
    attempt,
    folded,
    hold,
    intent,
    read,
    refusal,
    seal,
    settled,
)

NOW_MS = 100
CALL = Call("t", IDENTITY, 0, b"{}", None)
NEXT = replace(CALL, n=1)
READ = Contract(name="t", kind=Kind.READ, repeat=Repeat.EACH, drift=Drift.ADOPT)
PUT = Contract(name="t", kind=Kind.IDEMPOTENT, repeat=Repeat.EACH)
MAKE = Contract(name="t", kind=Kind.REVERSIBLE, repeat=Repeat.EACH, undo=True)
POST = Contract(name="t", kind=Kind.IRREVERSIBLE, repeat=Repeat.ASK)
HELD = replace(POST, approval=Level.ONE)
WRITES = [PUT, MAKE, POST]
ALL = [READ, *WRITES]


def kinds(contract: Contract) -> str:
    return contract.kind.value


def step(
    log: Log,
    contract: Contract = POST,
    call: Call = CALL,
    *,
    args: Payload = ARGS,
    now_ms: int = NOW_MS,
    stopped: bool = True,
) -> Step:
    return next_step(call, args.digest, contract, Standing(log, now_ms, lambda _slot: stopped))


# --- a call that the log does not know ---


@pytest.mark.parametrize("contract", ALL, ids=kinds)
def test_what_the_log_does_not_know_is_performed(contract: Contract) -> None:
    assert step(folded(CLAIM), contract) == Perform(CALL)


@pytest.mark.parametrize("contract", ALL, ids=kinds)
def test_what_needs_people_waits_for_them_first(contract: Contract) -> None:
    waits = step(folded(CLAIM), replace(contract, approval=Level.ONE))
    assert isinstance(waits, Wait)
    assert (waits.call, waits.slot) == (CALL, None)


# --- a call whose end is known: the same for every kind ---


@pytest.mark.parametrize("contract", WRITES, ids=kinds)
@pytest.mark.parametrize("end", [seal(2), settled(2)], ids=["sealed", "settled"])
def test_what_happened_answers_from_the_log(contract: Contract, end: Record) -> None:
    log = folded(CLAIM, intent(kind=contract.kind), end)
    assert step(log, contract) == Replay(Happened(ANSWER), log.slots[IDENTITY, 0])


@pytest.mark.parametrize("contract", WRITES, ids=kinds)
@pytest.mark.parametrize("end", [seal(2, DID_NOT), settled(2, DID_NOT)], ids=["sealed", "settled"])
def test_what_did_not_happen_answers_its_own_call(contract: Contract, end: Record) -> None:
    log = folded(CLAIM, intent(kind=contract.kind), end)
    assert step(log, contract) == Replay(NotHappened("declined"), log.slots[IDENTITY, 0])


def test_a_read_answers_from_the_log() -> None:
    log = folded(CLAIM, read())
    assert step(log, READ) == Replay(Happened(ANSWER), log.slots[IDENTITY, 0])


@pytest.mark.parametrize("placed", [[hold(), refusal(2)], [refusal(None)]], ids=["by a person", "by a rule"])
@pytest.mark.parametrize("contract", WRITES, ids=kinds)
def test_what_was_refused_stays_refused(contract: Contract, placed: list[Record]) -> None:
    assert step(folded(CLAIM, *placed), contract) == Refuse("no", "ann", recorded=True)


# --- a further call of the same identity ---


@pytest.mark.parametrize("contract", WRITES, ids=kinds)
@pytest.mark.parametrize("repeat", Repeat)
def test_what_a_further_call_means_is_for_the_contract_to_say(contract: Contract, repeat: Repeat) -> None:
    log = folded(CLAIM, intent(kind=contract.kind), seal(2))
    found = step(log, replace(contract, repeat=repeat), NEXT)
    match repeat:
        case Repeat.ONCE:
            assert found == Replay(Happened(ANSWER), log.slots[IDENTITY, 0])
        case Repeat.ASK:
            assert isinstance(found, Wait)
            assert (found.call, found.slot) == (NEXT, None)
        case Repeat.EACH:
            assert found == Perform(NEXT)


@pytest.mark.parametrize("repeat", Repeat)
def test_after_what_did_not_happen_a_further_call_is_a_new_attempt(repeat: Repeat) -> None:
    assert step(folded(CLAIM, intent(), seal(2, DID_NOT)), replace(POST, repeat=repeat), NEXT) == Perform(NEXT)


def test_after_a_refusal_a_further_call_is_a_new_one() -> None:
    assert step(folded(CLAIM, refusal(None)), POST, NEXT) == Perform(NEXT)


@pytest.mark.parametrize("repeat", Repeat)
def test_a_further_read_reads_again(repeat: Repeat) -> None:
    assert step(folded(CLAIM, read()), replace(READ, repeat=repeat), NEXT) == Perform(NEXT)


# --- drift: the same identity, other remaining arguments ---

OTHER = Payload("e5" * 32, Encoding.JSON, 3)


@pytest.mark.parametrize("drift", Drift)
def test_what_drifted_is_adopted_asked_about_or_refused(drift: Drift) -> None:
    log = folded(CLAIM, intent(), seal(2))
    found = step(log, replace(POST, drift=drift), args=OTHER)
    match drift:
        case Drift.ADOPT:
            assert found == Replay(Happened(ANSWER), log.slots[IDENTITY, 0])
        case Drift.ASK:
            assert isinstance(found, Wait)
            assert found.slot is None
            assert found.call.identity != IDENTITY, "what people approve becomes an effect of its own"
        case Drift.REFUSE:
            assert isinstance(found, Refuse)
            assert not found.recorded


def test_what_drifted_is_another_effect_for_each_of_its_arguments() -> None:
    log = folded(CLAIM, intent(), seal(2))
    asked = [step(log, POST, args=args) for args in (OTHER, OTHER, Payload("f6" * 32, Encoding.JSON, 3))]
    identities = [found.call.identity for found in asked if isinstance(found, Wait)]
    assert len(identities) == 3
    assert identities[0] == identities[1] != identities[2]


def test_what_did_not_happen_does_not_drift() -> None:
    log = folded(CLAIM, intent(), seal(2, DID_NOT))
    assert step(log, POST, args=OTHER) == Replay(NotHappened("declined"), log.slots[IDENTITY, 0])


# --- an effect that may have happened ---

SENT_MS = 5  # when `lives.written` places everything


@pytest.mark.parametrize(
    ("contract", "remedy"),
    [
        (PUT, Redo()),
        (replace(PUT, probe=True), Redo()),
        (replace(PUT, key_ttl_ms=50, probe=True), Probe(SENT_MS)),
        (MAKE, UndoThenRedo(SENT_MS)),
        (replace(MAKE, probe=True), Probe(SENT_MS)),
        (replace(MAKE, late_ms=70), UndoThenRedo(SENT_MS + 70)),
        (replace(POST, probe=True), Probe(SENT_MS)),
        (replace(POST, probe=True, late_ms=70), Probe(SENT_MS + 70)),
    ],
)
@pytest.mark.parametrize("again", [[], [attempt(2)]], ids=["sent once", "sent twice"])
def test_a_doubt_is_settled_by_its_contract(contract: Contract, remedy: object, again: list[Record]) -> None:
    log = folded(CLAIM, intent(kind=contract.kind), *again)
    assert step(log, contract) == Settle(log.slots[IDENTITY, 0], remedy)  # type: ignore[arg-type]


@pytest.mark.parametrize("contract", [POST, replace(PUT, key_ttl_ms=50)], ids=kinds)
def test_a_doubt_that_nothing_can_settle_is_for_a_person(contract: Contract) -> None:
    found = step(folded(CLAIM, intent(kind=contract.kind)), contract)
    assert isinstance(found, Settle)
    assert isinstance(found.remedy, AskPerson)


@pytest.mark.parametrize("contract", [MAKE, POST, replace(MAKE, probe=True), replace(POST, probe=True)])
def test_a_sender_that_may_still_run_is_for_a_person_too(contract: Contract) -> None:
    found = step(folded(CLAIM, intent(kind=contract.kind)), contract, stopped=False)
    assert isinstance(found, Settle)
    assert isinstance(found.remedy, AskPerson)
    assert "may still be running" in found.remedy.why


@pytest.mark.parametrize("contract", WRITES, ids=kinds)
def test_what_was_only_ever_refused_for_now_is_sent_again_when_it_is_time(contract: Contract) -> None:
    log = folded(CLAIM, intent(kind=contract.kind), Sleep(name="retry/2", n=0, until_ms=400))
    assert step(log, contract) == Settle(log.slots[IDENTITY, 0], Redo(400, refused=True))


def test_a_refusal_for_now_of_a_second_sending_says_nothing_of_the_first() -> None:
    log = folded(CLAIM, intent(kind=Kind.IDEMPOTENT), attempt(2), Sleep(name="retry/2", n=0, until_ms=400))
    assert step(log, PUT) == Settle(log.slots[IDENTITY, 0], Redo(400))


def test_a_refusal_for_now_makes_no_probe_earlier_than_it_may_be() -> None:
    contract = replace(POST, probe=True, late_ms=900)
    log = folded(CLAIM, intent(), attempt(2), Sleep(name="retry/2", n=0, until_ms=400))
    assert step(log, contract) == Settle(log.slots[IDENTITY, 0], Probe(SENT_MS + 900))


# --- people ---


def waiting(*, expires_ms: int = 1_000, contract: Contract = HELD, call: Call = CALL, level: str = "one") -> Hold:
    return hold(call=call.digest, contract=contract.digest(), expires_ms=expires_ms, level=level)


def agreed(*, expires_ms: int = 1_000, by: str = "ann") -> Record:
    return approval(2, call=CALL.digest, expires_ms=expires_ms, by=by)


def test_who_was_asked_is_waited_for() -> None:
    log = folded(CLAIM, waiting())
    assert step(log, HELD) == Wait(CALL, log.slots[IDENTITY, 0], "asked")


def test_a_hold_that_has_expired_is_asked_again() -> None:
    log = folded(CLAIM, waiting(expires_ms=NOW_MS))
    assert step(log, HELD) == Wait(CALL, None, "asked")
    assert step(log, HELD, now_ms=NOW_MS - 1) == Wait(CALL, log.slots[IDENTITY, 0], "asked")


def test_what_was_approved_is_performed_with_its_approval() -> None:
    assert step(folded(CLAIM, waiting(), agreed()), HELD) == Perform(CALL, approval_seq=3)


@pytest.mark.parametrize("changed", ["arguments", "contract"])
def test_an_approval_is_for_the_exact_call_and_contract(changed: str) -> None:
    call = replace(CALL, args=b'{"sum":900}') if changed == "arguments" else CALL
    contract = replace(HELD, timeout_ms=1) if changed == "contract" else HELD
    found = step(folded(CLAIM, waiting(), agreed()), contract, call)
    assert isinstance(found, Wait)
    assert (found.call, found.slot) == (call, None)


def test_an_approval_of_another_call_is_none() -> None:
    log = folded(CLAIM, waiting(), approval(2, call="9" * 64))
    found = step(log, HELD)
    assert isinstance(found, Wait)
    assert found.slot is None


def test_an_approval_expires() -> None:
    log = folded(CLAIM, waiting(), agreed(expires_ms=NOW_MS))
    found = step(log, HELD)
    assert isinstance(found, Wait)
    assert found.slot is None
    assert isinstance(step(log, HELD, now_ms=NOW_MS - 1), Perform)


@pytest.mark.parametrize("repeat", [Repeat.ASK, Repeat.EACH])
@pytest.mark.parametrize("end", [seal(4), seal(4, DID_NOT), settled(4)], ids=["sealed", "not happened", "settled"])
def test_an_approval_is_used_once(repeat: Repeat, end: Record) -> None:
    log = folded(CLAIM, waiting(), agreed(), intent(approval=3), end)
    found = step(log, replace(HELD, repeat=repeat), NEXT)
    assert isinstance(found, Wait)
    assert (found.call, found.slot) == (NEXT, None)


def test_an_approval_that_was_used_settles_no_doubt() -> None:
    found = step(folded(CLAIM, waiting(), agreed(), intent(approval=3)), HELD)
    assert isinstance(found, Settle)
    assert isinstance(found.remedy, AskPerson)


def test_a_hold_that_was_asked_again_needs_an_approval_of_its_own() -> None:
    log = folded(CLAIM, waiting(), agreed(), waiting())
    assert step(log, HELD) == Wait(CALL, log.slots[IDENTITY, 0], "asked")


BOTH = replace(POST, approval=Level.TWO)


def asked_of_two(*given: Record) -> Log:
    return folded(CLAIM, waiting(contract=BOTH, level="two"), *given)


def test_what_two_must_agree_to_waits_until_both_have() -> None:
    for log in (asked_of_two(), asked_of_two(agreed()), asked_of_two(agreed(), agreed())):
        assert step(log, BOTH) == Wait(CALL, log.slots[IDENTITY, 0], "asked")
    assert step(asked_of_two(agreed(), agreed(by="bob")), BOTH) == Perform(CALL, approval_seq=4)


@pytest.mark.parametrize("first", [True, False])
def test_if_one_of_two_approvals_has_expired_both_are_asked_for_anew(*, first: bool) -> None:
    ann = agreed(expires_ms=NOW_MS if first else 1_000)
    bob = agreed(expires_ms=1_000 if first else NOW_MS, by="bob")
    log = asked_of_two(ann, bob)
    found = step(log, BOTH)
    assert isinstance(found, Wait)
    assert found.slot is None
    assert found.why.endswith("the approval has expired")
    assert isinstance(step(log, BOTH, now_ms=NOW_MS - 1), Perform)


def test_a_refusal_counts_for_more_than_one_of_two_approvals() -> None:
    found = step(asked_of_two(agreed(), refusal(2)), BOTH)
    assert found == Refuse("no", "ann", recorded=True)


def test_who_is_only_told_is_not_waited_for() -> None:
    told = replace(POST, approval=Level.NOTIFY)
    assert isinstance(step(folded(CLAIM), told), Perform)
    assert isinstance(step(folded(CLAIM), replace(told, kind=Kind.READ)), Perform)


@pytest.mark.parametrize("kind", Kind)
def test_what_two_must_agree_to_is_never_done_unasked(kind: Kind) -> None:
    found = step(folded(CLAIM), replace(BOTH, kind=kind, undo=kind is Kind.REVERSIBLE))
    assert isinstance(found, Wait)
    assert found.slot is None


# --- after a divergence: the same resource as an effect that nobody has asked for ---

ELSE = bytes([8]) * 32
DIVERGED = Divergence(asked="t", why="new", unclaimed=(2,))
NEAR = replace(CALL, resource="net")


@pytest.mark.parametrize("contract", WRITES, ids=kinds)
def test_beside_a_stranded_effect_it_is_taken_back_or_people_are_asked(contract: Contract) -> None:
    log = folded(CLAIM, intent(ELSE, kind=contract.kind, resource="net"), seal(2, identity=ELSE), DIVERGED)
    found = step(log, contract, NEAR)
    if contract.kind is Kind.REVERSIBLE:
        assert found == Perform(NEAR, undo_first=log.slots[ELSE, 0])
    else:
        assert isinstance(found, Wait)
        assert found.slot is None


def test_beside_a_stranded_effect_in_doubt_people_are_asked() -> None:
    log = folded(CLAIM, intent(ELSE, kind=Kind.REVERSIBLE, resource="net"), DIVERGED)
    assert isinstance(step(log, MAKE, NEAR), Wait)


@pytest.mark.parametrize(
    ("resource", "end", "diverged"),
    [
        ("another", seal(2, identity=ELSE), True),
        ("net", seal(2, DID_NOT, identity=ELSE), True),
        ("net", seal(2, identity=ELSE), False),
    ],
    ids=["another resource", "it did not happen", "no divergence"],
)
def test_what_is_not_near_is_performed(resource: str, end: Record, *, diverged: bool) -> None:
    log = folded(CLAIM, intent(ELSE, resource=resource), end, *([DIVERGED] if diverged else []))
    assert step(log, POST, NEAR) == Perform(NEAR)


# --- what was taken back ---


def test_what_was_taken_back_is_when_asked_for_again_an_effect_of_its_own() -> None:
    undo = bytes([5]) * 32
    taken_back = [intent(kind=Kind.REVERSIBLE), seal(2), intent(undo, undoes=2), seal(4, identity=undo)]
    found = step(folded(CLAIM, *taken_back), MAKE)
    assert isinstance(found, Perform)
    assert found.call.identity != IDENTITY
    redone = found.call
    log = folded(
        CLAIM, *taken_back, intent(redone.identity, redone.n, kind=Kind.REVERSIBLE), seal(6, identity=redone.identity)
    )
    assert step(log, MAKE) == Replay(Happened(ANSWER), log.slots[redone.identity, redone.n])


@pytest.mark.parametrize("contract", ALL, ids=kinds)
@pytest.mark.parametrize(
    "placed",
    [
        [],
        [intent()],
        [intent(), seal(2)],
        [intent(), seal(2, DID_NOT)],
        [hold()],
        [hold(), approval(2)],
        [refusal(None)],
    ],
    ids=lambda placed: " ".join(type(record).__name__ for record in placed),
)
def test_asking_changes_nothing(contract: Contract, placed: list[Record]) -> None:
    log = folded(CLAIM, *placed)
    first = step(log, contract)
    assert step(log, contract) == first
    assert vars(log) == vars(folded(CLAIM, *placed))
