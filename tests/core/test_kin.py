"""What other branches did, and what follows for a call on this one: the laws of forks, and the table of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.codec import encode
from holdfast.core.contract import Contract, Drift, Level, Repeat
from holdfast.core.effect import (
    Call,
    Encoding,
    Happened,
    Kind,
    Payload,
    identity_of,
    key_of,
    redone_identity,
    undo_identity,
)
from holdfast.core.entry import Entry
from holdfast.core.kin import Kin, Lineage, place_of
from holdfast.core.log import Log
from holdfast.core.record import Adopted, Claim, Divergence, Intent, Planned, Record, Seal, Settled
from holdfast.core.step import (
    Adopt,
    Await,
    Perform,
    Plan,
    Refuse,
    Replay,
    Settle,
    Standing,
    Step,
    Wait,
    drifted_identity,
    next_step,
)  # fmt: skip
from tests.core.lives import (
    ANSWER,
    ARGS,
    CLAIM,
    DID_NOT,
    HAPPENED,
    IDENTITY,
    adopted,
    approval,
    hold,
    intent,
    planned,
    seal,
)

CUT = 10  # where the own branch and the others parted
OTHER = Payload("e5" * 32, Encoding.JSON, 3)
ELSE = bytes([8]) * 32
SENT_MS = 5
CALL = Call("t", IDENTITY, 0, b"{}", None)
PUT = Contract(name="t", kind=Kind.IDEMPOTENT, repeat=Repeat.EACH)
MAKE = Contract(name="t", kind=Kind.REVERSIBLE, repeat=Repeat.EACH, undo=True)
POST = Contract(name="t", kind=Kind.IRREVERSIBLE, repeat=Repeat.ASK)
READ = Contract(name="t", kind=Kind.READ, repeat=Repeat.EACH, drift=Drift.ADOPT)
WRITES = [PUT, MAKE, POST]


def kinds(contract: Contract) -> str:
    return contract.kind.value


def key(record: Record, before: Sequence[Record]) -> bytes:
    """What an entry is looked up by: the identity of its call."""
    if isinstance(record, Seal | Settled) and record.intent is not None:
        record = before[record.intent - CUT - 1]
    return bytes.fromhex(record.identity) if isinstance(record, Intent | Planned | Adopted | Seal) else b""


def entries(branch: str, *records: Record) -> list[Entry]:
    """The entries of a branch after the place where it parted."""
    return [
        Entry(branch, CUT + number, 1, SENT_MS, key(record, records), encode(record), bytes(32))
        for number, record in enumerate(records, 1)
    ]


def own(*records: Record) -> Log:
    """The log of the own branch: CUT entries that are beside the point, then these."""
    log = Log("r@b2")
    for seq in range(1, CUT + 1):
        log.take(Claim(worker="w", previous="none"), Entry("r@main", seq, seq, SENT_MS, b"", b"", bytes(32)))
    for entry, record in zip(entries("r@b2", *records), records, strict=True):
        log.take(record, entry)
    return log


def kin(*records: Record, open_: bool = False, others: dict[str, list[Record]] | None = None) -> Kin:
    """The others: main with these records, and more."""
    found = Kin()
    branches = {"r@main": [*records]} | (others or {})
    lineages: dict[str, Lineage] = {"r@main": [("r@main", None)], "r@b2": [("r@main", CUT), ("r@b2", None)]}
    for branch, theirs in branches.items():
        lineages.setdefault(branch, [("r@main", CUT), (branch, None)])
        found.begin(branch, CUT)
        for entry in entries(branch, *theirs):
            found.fold(entry)
    found.lineages = lineages
    found.open = {branch for branch in branches if open_ or branch != "r@main"}
    return found


def step(
    theirs: Kin,
    contract: Contract = POST,
    call: Call = CALL,
    *,
    log: Log | None = None,
    args: Payload = ARGS,
    now_ms: int = 100,
    held: bool = False,
) -> Step:
    standing = Standing(log or own(), now_ms, lambda _slot: True, None if held else theirs, held)
    return next_step(call, args.digest, contract, standing)


INTENT, SEAL = CUT + 1, CUT + 2  # where main has sent the call, and sealed it


def made(contract: Contract, *more: Record, args: Payload = ARGS, resource: str | None = None) -> list[Record]:
    return [intent(kind=contract.kind, args=args, resource=resource), *more]


# --- the table: what the others did, and what is to be done ---


@pytest.mark.parametrize("open_", [True, False], ids=["of a living branch", "of one given up"])
@pytest.mark.parametrize("contract", WRITES, ids=kinds)
def test_what_another_branch_made_happen_is_adopted(contract: Contract, *, open_: bool) -> None:
    found = step(kin(*made(contract, seal(INTENT)), open_=open_), contract)
    assert isinstance(found, Adopt)
    assert (found.call.identity, found.call.n) == (IDENTITY, 0)
    assert found.relative.slot.outcome == HAPPENED
    assert found.relative.node == f"main:{INTENT}"


@pytest.mark.parametrize("contract", WRITES, ids=kinds)
def test_what_may_have_happened_elsewhere_is_waited_for(contract: Contract) -> None:
    found = step(kin(*made(contract)), contract)
    if contract.kind is Kind.IDEMPOTENT:
        assert found == Perform(CALL), "the same key, the same bytes"
    else:
        assert isinstance(found, Await)
        assert found.relative.node == f"main:{INTENT}"


@pytest.mark.parametrize(
    ("contract", "args", "now_ms"),
    [(PUT, OTHER, 100), (replace(PUT, key_ttl_ms=50), ARGS, SENT_MS + 50)],
    ids=["other bytes", "a key that is dead"],
)
def test_an_idempotent_effect_is_sent_beside_another_only_as_its_key_allows(
    contract: Contract, args: Payload, now_ms: int
) -> None:
    assert isinstance(step(kin(*made(contract)), contract, args=args, now_ms=now_ms), Await)


def test_an_idempotent_effect_is_sent_beside_another_while_its_key_lives() -> None:
    contract = replace(PUT, key_ttl_ms=50)
    assert step(kin(*made(contract)), contract, now_ms=SENT_MS + 49) == Perform(CALL)


@pytest.mark.parametrize("contract", WRITES, ids=kinds)
def test_what_did_not_happen_elsewhere_is_done_under_another_key(contract: Contract) -> None:
    found = step(kin(*made(contract, seal(INTENT, DID_NOT))), contract)
    assert isinstance(found, Perform)
    assert (found.call.identity, found.call.n) == (redone_identity(IDENTITY, 0), 0)


def undone(contract: Contract) -> list[Record]:
    undo = undo_identity(IDENTITY, 0)
    return made(contract, seal(INTENT), intent(undo, undoes=INTENT), seal(CUT + 3, identity=undo))


def test_what_was_taken_back_elsewhere_is_done_under_another_key() -> None:
    found = step(kin(*undone(MAKE)), MAKE)
    assert isinstance(found, Perform)
    assert found.call.identity == redone_identity(IDENTITY, 0)


def test_what_was_done_anew_elsewhere_is_adopted() -> None:
    again = redone_identity(IDENTITY, 0)
    found = step(kin(*undone(MAKE), intent(again, kind=Kind.REVERSIBLE), seal(CUT + 5, identity=again)), MAKE)
    assert isinstance(found, Adopt)
    assert found.call.identity == again
    assert found.relative.node == f"main:{CUT + 5}"


@pytest.mark.parametrize("repeat", Repeat)
def test_what_the_second_call_means_does_not_hang_on_the_key_of_the_first(repeat: Repeat) -> None:
    """The first was done under another identity, since its key was used up elsewhere."""
    again = redone_identity(IDENTITY, 0)
    log = own(intent(again, kind=Kind.REVERSIBLE), seal(INTENT, identity=again))
    contract = replace(MAKE, repeat=repeat)
    theirs = kin(*made(contract, seal(INTENT, DID_NOT)))
    assert isinstance(step(theirs, contract, log=log), Replay)
    found = step(theirs, contract, replace(CALL, n=1), log=log)
    match repeat:
        case Repeat.ONCE:
            assert isinstance(found, Replay)
        case Repeat.ASK:
            assert isinstance(found, Wait)
        case Repeat.EACH:
            assert isinstance(found, Perform)


def test_a_read_of_another_branch_is_nobodys() -> None:
    assert step(kin(), READ) == Perform(CALL)


def test_what_the_own_line_knows_comes_first() -> None:
    theirs = kin(*made(POST, seal(INTENT)))
    log = own(intent(), seal(INTENT, DID_NOT))
    assert isinstance(step(theirs, log=log), Replay)
    assert isinstance(step(theirs, log=own(intent())), Settle)


def test_a_hold_gives_way_to_a_seal() -> None:
    log = own(hold(call=CALL.digest, contract=POST.digest()))
    assert isinstance(step(kin(*made(POST, seal(INTENT))), log=log), Adopt)


@pytest.mark.parametrize("level", Level)
def test_what_has_happened_needs_no_approval(level: Level) -> None:
    assert isinstance(step(kin(*made(POST, seal(INTENT))), replace(POST, approval=level)), Adopt)


# --- drift ---


@pytest.mark.parametrize("drift", Drift)
def test_what_another_branch_made_with_other_arguments(drift: Drift) -> None:
    found = step(kin(*made(POST, seal(INTENT))), replace(POST, drift=drift), args=OTHER)
    match drift:
        case Drift.ADOPT:
            assert isinstance(found, Adopt)
        case Drift.ASK:
            assert isinstance(found, Wait)
            assert found.call.identity == drifted_identity(IDENTITY, OTHER.digest)
            assert f"main:{INTENT}" in found.why
        case Drift.REFUSE:
            assert isinstance(found, Refuse)


def test_what_drifted_on_two_branches_happens_on_one() -> None:
    drifted = drifted_identity(IDENTITY, OTHER.digest)
    theirs = kin(*made(POST, seal(INTENT)), intent(drifted, args=OTHER), seal(CUT + 3, identity=drifted))
    found = step(theirs, args=OTHER)
    assert isinstance(found, Adopt)
    assert found.relative.node == f"main:{CUT + 3}"
    approved = own(hold(drifted, call=CALL.digest, contract=POST.digest()), approval(INTENT, call=CALL.digest))
    assert isinstance(step(theirs, args=OTHER, log=approved), Adopt), "people said yes, and it has been done"


# --- speculation ---


@pytest.mark.parametrize("contract", WRITES, ids=kinds)
def test_a_held_branch_plans_whatever_is_no_read(contract: Contract) -> None:
    assert step(kin(), contract, held=True) == Plan(CALL, None)
    log = own(planned(kind=contract.kind))
    assert step(kin(), contract, held=True, log=log) == Plan(CALL, log.slots[IDENTITY, 0])
    asked = own(hold(call=CALL.digest, contract=contract.digest()), approval(INTENT, call=CALL.digest))
    assert step(kin(), contract, held=True, log=asked) == Plan(CALL, asked.slots[IDENTITY, 0])


def test_a_held_branch_reads() -> None:
    assert step(kin(), READ, held=True) == Perform(CALL)


def test_a_held_branch_is_answered_by_its_history() -> None:
    assert isinstance(step(kin(), held=True, log=own(intent(), seal(INTENT))), Replay)


def test_what_drifted_on_a_held_branch_is_planned() -> None:
    found = step(kin(), held=True, log=own(intent(), seal(INTENT)), args=OTHER)
    assert isinstance(found, Plan)
    assert found.call.identity == drifted_identity(IDENTITY, OTHER.digest)
    assert found.slot is None
    drifted = drifted_identity(IDENTITY, OTHER.digest)
    approved = own(
        intent(), seal(INTENT), hold(drifted, call=CALL.digest, contract=POST.digest()),
        approval(CUT + 3, call=CALL.digest),
    )  # fmt: skip
    assert isinstance(step(kin(), held=True, log=approved, args=OTHER), Plan)


@pytest.mark.parametrize("contract", WRITES, ids=kinds)
def test_what_was_planned_is_performed_after_the_promotion(contract: Contract) -> None:
    assert step(kin(), contract, log=own(planned(kind=contract.kind))) == Perform(CALL)


def test_what_was_planned_and_meanwhile_done_elsewhere_is_adopted() -> None:
    assert isinstance(step(kin(*made(POST, seal(INTENT))), log=own(planned())), Adopt)


# --- near-duplicates ---

NEAR = replace(CALL, resource="net")


def beside(contract: Contract, *more: Record) -> list[Record]:
    return [intent(ELSE, kind=contract.kind, resource="net"), *more]


def test_beside_an_effect_of_a_branch_that_was_given_up_that_is_taken_back_first() -> None:
    theirs = kin(*beside(MAKE, seal(INTENT, identity=ELSE)))
    found = step(theirs, MAKE, NEAR)
    assert isinstance(found, Perform)
    assert found.undo_on == "r@main"
    assert found.undo_first is not None
    assert found.undo_first.intent_seq == INTENT


@pytest.mark.parametrize(
    ("contract", "ends", "open_"),
    [(POST, True, False), (PUT, True, False), (MAKE, True, True), (MAKE, False, False)],
    ids=["irreversible", "idempotent", "of a living branch", "in doubt"],
)
def test_beside_what_cannot_be_taken_back_people_are_asked(contract: Contract, *, ends: bool, open_: bool) -> None:
    theirs = kin(*beside(contract, *([seal(INTENT, identity=ELSE)] if ends else [])), open_=open_)
    found = step(theirs, MAKE, NEAR)
    assert isinstance(found, Wait)
    assert "r@main" in found.why


def test_beside_what_a_living_branch_has_adopted_people_are_asked() -> None:
    also = Adopted(
        tool="t", kind=Kind.REVERSIBLE, identity=ELSE.hex(), n=0, args=ARGS, node=f"main:{INTENT}", undoes=None,
        outcome=HAPPENED,
    )  # fmt: skip
    theirs = kin(*beside(MAKE, seal(INTENT, identity=ELSE)), others={"r@b3": [also]})
    assert isinstance(step(theirs, MAKE, NEAR), Wait)


def test_what_was_adopted_here_is_in_nobodys_way_until_it_is_left() -> None:
    also = replace(adopted(ELSE, kind=Kind.REVERSIBLE), node=f"main:{INTENT}")
    theirs = kin(*beside(MAKE, seal(INTENT, identity=ELSE)))
    assert step(theirs, MAKE, NEAR, log=own(also)) == Perform(NEAR)
    left = own(also, Divergence(asked="t", why="new", unclaimed=(INTENT,)))
    assert isinstance(step(theirs, MAKE, NEAR, log=left), Wait)


@pytest.mark.parametrize("needed", [True, False])
def test_what_another_branch_has_inherited_of_ours_is_not_taken_back(*, needed: bool) -> None:
    log = own(intent(ELSE, kind=Kind.REVERSIBLE, resource="net"), seal(INTENT, identity=ELSE),
              Divergence(asked="t", why="new", unclaimed=(INTENT,)))  # fmt: skip
    theirs = kin()
    theirs.open = {"r@b3"} if needed else set()
    theirs.lineages |= {"r@b3": [("r@main", CUT), ("r@b2", CUT + 2), ("r@b3", None)]}
    found = step(theirs, MAKE, NEAR, log=log)
    if needed:
        assert isinstance(found, Wait)
    else:
        assert found == Perform(NEAR, undo_first=log.slots[ELSE, 0])


# --- laws ---

TEXT = st.sampled_from(["a", "b", "c"])
CALLS = st.lists(st.tuples(TEXT, st.sampled_from([None, "reminder"])), max_size=8)


def called(theirs: Sequence[tuple[str, str | None]]) -> list[Call]:
    """Calls as a program makes them: the n-th of each identity."""
    counts: dict[bytes, int] = {}
    calls: list[Call] = []
    for text, again in theirs:
        identity = identity_of("t", f'{{"to":"{text}"}}'.encode(), again)
        calls.append(Call("t", identity, counts.get(identity, 0), b"{}", None))
        counts[identity] = counts.get(identity, 0) + 1
    return calls


def sealed(calls: Sequence[Call]) -> list[Record]:
    records: list[Record] = []
    for call in calls:
        records += [
            intent(call.identity, call.n), seal(CUT + len(records) + 1, identity=call.identity, n=call.n),
        ]  # fmt: skip
    return records


@given(CALLS, CALLS, st.integers(0, 8), st.sampled_from([Repeat.EACH]))
def test_what_any_branch_sealed_answers_the_same_call_and_no_other(
    parents: list[tuple[str, str | None]], own_calls: list[tuple[str, str | None]], shared: int, repeat: Repeat
) -> None:
    """The own branch shares the first calls with its parent, then goes its own way. Whatever its parent or its sibling
    sealed under the same identity and number is taken over under the same key; everything else is sent, once."""
    history = called(parents)
    shared = min(shared, len(history))
    mine = called([*parents[:shared], *own_calls])
    log = own(*sealed(history[:shared]))
    split = (len(history) - shared) // 2 + shared
    main, sibling = sealed(history[shared:split]), sealed(history[split:])
    theirs = kin(*main, others={"r@b3": sibling})
    elsewhere = {(call.identity, call.n) for call in history[shared:]}
    for number, call in enumerate(mine):
        found = step(theirs, replace(POST, repeat=repeat), call, log=log)
        if number < shared:
            assert isinstance(found, Replay)
        elif (call.identity, call.n) in elsewhere:
            assert isinstance(found, Adopt)
            assert key_of("r", found.call.identity, found.call.n) == key_of("r", call.identity, call.n)
            taken = found.relative
            over = Adopted(
                tool="t", kind=Kind.IRREVERSIBLE, identity=call.identity.hex(), n=call.n, args=ARGS, node=taken.node,
                undoes=None, outcome=Happened(ANSWER),
            )  # fmt: skip
            log.take(over, Entry("r@b2", log.seq + 1, 1, SENT_MS, b"", b"", bytes(32)))
        else:
            assert isinstance(found, Perform), "nobody has done it"
    nodes = [slot.adopted.node for slot in log.effects if slot.adopted is not None]
    assert len(nodes) == len(set(nodes)), "one effect answers one call of a line"


@given(CALLS)
def test_a_deliberate_second_one_is_no_other_branchs(parents: list[tuple[str, str | None]]) -> None:
    theirs = kin(*sealed(called(parents)))
    for text in "abc":
        call = Call("t", identity_of("t", f'{{"to":"{text}"}}'.encode(), "another"), 0, b"{}", None)
        assert step(theirs, POST, call) == Perform(call)


def test_asking_the_kin_changes_nothing() -> None:
    theirs = kin(*made(MAKE, seal(INTENT)))
    assert step(theirs, MAKE) == step(theirs, MAKE)
    assert place_of(own(), theirs, IDENTITY, 0) == (IDENTITY, 0)
    assert [relative.node for relative in theirs] == [relative.node for relative in theirs] == [f"main:{INTENT}"]
    assert CLAIM.worker
