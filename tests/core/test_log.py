"""What may follow what, who may write it, and what it all amounts to."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.effect import Kind
from holdfast.core.log import FOLLOWS, Log
from holdfast.core.record import RECORDS, Claim, Finished, Intent, Record, Seal, Settled
from holdfast.errors import Corrupt
from tests.core import lives
from tests.core.lives import (
    ANSWER,
    BRANCH,
    CLAIM,
    DECISION,
    DID_NOT,
    DRAW,
    IDENTITY,
    OTHERS,
    adopted,
    approval,
    attempt,
    folded,
    hold,
    intent,
    planned,
    read,
    refusal,
    seal,
    settled,
    written,
)

# --- the life of one call ---

# The lives of a call after a claim (at 1) up to some record, and the position of the newest hold and intent in them.
BEFORE: dict[str, tuple[list[Record], int, int]] = {
    "nothing": ([], 2, 2),
    "hold": ([hold()], 2, 2),
    "approval": ([hold(), approval(2)], 2, 2),
    "second approval": ([hold(level="two"), approval(2), approval(2, by="bob")], 2, 2),
    "intent": ([intent()], 2, 2),
    "approved intent": ([hold(), approval(2), intent(approval=3)], 2, 4),
    "attempt": ([intent(), attempt(2)], 2, 2),
    "seal": ([intent(), seal(2)], 2, 2),
    "settled": ([intent(), settled(2)], 2, 2),
    "refusal of a hold": ([hold(), refusal(2)], 2, 2),
    "refusal by a rule": ([refusal(None)], 2, 2),
    "read": ([read()], 2, 2),
    "planned": ([planned()], 2, 2),
    "adopted": ([adopted()], 2, 2),
}
AFTER = (
    "hold", "approval", "refusal of a hold", "refusal by a rule", "intent", "attempt", "seal", "read", "settled",
    "planned", "adopted",
)  # fmt: skip
# By hand, from what the records mean. A call begins as a read, with an intent, held or refused. People answer a hold,
# one after another, or it is asked again; what they approved is sent (a read is read), held or refused after all. An
# effect that was sent is sent again, sealed or settled. After a seal, a verdict or a refusal nothing more is said of a
# call. A speculative branch plans first; another branch may have made it happen, as long as it was not sent here.
LEGAL: dict[str, set[str]] = {
    "nothing": {"hold", "refusal by a rule", "intent", "read", "planned", "adopted"},
    "planned": {"hold", "refusal by a rule", "intent", "adopted"},
    "adopted": set(),
    "hold": {"approval", "refusal of a hold", "refusal by a rule", "hold", "adopted"},
    "approval": {"approval", "intent", "read", "refusal of a hold", "refusal by a rule", "hold", "adopted"},
    "second approval": {"approval", "intent", "read", "refusal of a hold", "refusal by a rule", "hold", "adopted"},
    "intent": {"attempt", "seal", "settled"},
    "approved intent": {"attempt", "seal", "settled"},
    "attempt": {"attempt", "seal", "settled"},
    "seal": set(),
    "settled": set(),
    "refusal of a hold": set(),
    "refusal by a rule": set(),
    "read": set(),
}


def following(after: str, held_at: int, sent_at: int) -> Record:
    match after:
        case "hold":
            return hold()
        case "approval":
            return approval(held_at)
        case "refusal of a hold":
            return refusal(held_at)
        case "refusal by a rule":
            return refusal(None)
        case "intent":
            return intent()
        case "attempt":
            return attempt(sent_at)
        case "seal":
            return seal(sent_at)
        case "read":
            return read()
        case "settled":
            return settled(sent_at)
        case "planned":
            return planned()
        case "adopted":
            return adopted()
        case _:
            raise AssertionError(after)


@pytest.mark.parametrize(
    ("before", "after"), [pytest.param(before, after, id=f"{before}-{after}") for before in BEFORE for after in AFTER]
)
def test_what_may_follow_what_in_the_life_of_a_call(before: str, after: str) -> None:
    life, held_at, sent_at = BEFORE[before]
    history = [CLAIM, *life, following(after, held_at, sent_at)]
    if after in LEGAL[before]:
        folded(*history)
        return
    *legal, last = written(*history)
    log = Log(BRANCH)
    for entry in legal:
        log.fold(entry)
    with pytest.raises(Corrupt) as corrupt:
        log.fold(last)
    assert corrupt.value.where == f"r@main:{last.seq}"


def test_the_table_speaks_of_each_record_of_a_call_and_of_no_other() -> None:
    of_a_call = {kind for kind in RECORDS if kind not in {type(other) for other in (CLAIM, *OTHERS)}}
    assert FOLLOWS.keys() == of_a_call | {None}
    assert set().union(*FOLLOWS.values()) == of_a_call


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("other", OTHERS, ids=lambda other: type(other).__name__)
def test_a_record_of_no_call_may_stand_anywhere(before: str, other: Record) -> None:
    folded(CLAIM, *BEFORE[before][0], other)


@pytest.mark.parametrize("before", BEFORE)
def test_the_life_of_a_call_is_its_own(before: str) -> None:
    """Calls of another identity, and the next call of the same one, begin anew."""
    life, _, _ = BEFORE[before]
    for identity, n in ((bytes([7]) * 32, 0), (IDENTITY, 1)):
        for first in (hold(identity, n), refusal(None, identity, n), intent(identity, n), read(identity, n)):
            folded(CLAIM, *life, first)


@pytest.mark.parametrize("at", [0, 1, 2, 4, 99])
@pytest.mark.parametrize("about", [approval, refusal, attempt, seal, settled], ids=lambda about: about.__name__)
def test_a_record_speaks_of_a_hold_or_an_intent_that_is_there(about: object, at: int) -> None:
    """At 1 is a claim, at 2 a time, at 3 a read, and nothing at the other places."""
    with pytest.raises(Corrupt):
        folded(CLAIM, DRAW, read(), about(at))  # type: ignore[operator]


@pytest.mark.parametrize("identity", ["zz", "0", "0x"])
def test_an_identity_that_is_not_hexadecimal_is_corrupt(identity: str) -> None:
    with pytest.raises(Corrupt, match="hexadecimal"):
        folded(CLAIM, replace(intent(), identity=identity))


# --- who may write ---

# docs/log-format.md: what may be placed without a claim.
WITHOUT_A_CLAIM = {
    "Approval", "Refusal", "Settled", "Signal", "Cancelled", "Issued", "Revoked", "Forked", "Promoted", "Abandoned",
}  # fmt: skip
ONE_OF_EACH: list[tuple[list[Record], Record]] = [
    ([], CLAIM),
    *(([], other) for other in OTHERS),
    ([], hold()),
    ([hold()], approval(2)),
    ([hold()], refusal(2)),
    ([], intent()),
    ([intent()], attempt(2)),
    ([intent()], seal(2)),
    ([intent()], settled(2)),
    ([], planned()),
    ([], adopted()),
]


def test_one_of_each_is_one_of_each() -> None:
    assert {type(record) for _, record in ONE_OF_EACH} == set(RECORDS)
    assert len(ONE_OF_EACH) == len(RECORDS)


@pytest.mark.parametrize(("before", "record"), ONE_OF_EACH, ids=lambda case: type(case).__name__)
def test_without_a_claim_only_people_write(before: list[Record], record: Record) -> None:
    history = [CLAIM, *before, (record, 0)]
    if type(record).__name__ in WITHOUT_A_CLAIM:
        folded(*history)
    else:
        with pytest.raises(Corrupt, match="claim"):
            folded(*history)


@pytest.mark.parametrize(("before", "record"), ONE_OF_EACH, ids=lambda case: type(case).__name__)
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_record_under_another_claim_than_the_branchs_is_corrupt(
    before: list[Record], record: Record, epoch: int
) -> None:
    history = [CLAIM, *before, (CLAIM, 2), (record, epoch)]
    if isinstance(record, Claim) and epoch == 3:
        assert folded(*history).epoch == 3
    else:
        with pytest.raises(Corrupt, match="claim"):
            folded(*history)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_claim_raises_the_epoch(epoch: int) -> None:
    with pytest.raises(Corrupt, match="does not raise"):
        folded((CLAIM, 2), (CLAIM, epoch))


@pytest.mark.parametrize(("before", "record"), ONE_OF_EACH, ids=lambda case: type(case).__name__)
def test_after_an_answer_the_owner_writes_nothing_more(before: list[Record], record: Record) -> None:
    finished = Finished(answer=ANSWER, error=None)
    if isinstance(record, Claim):
        folded(CLAIM, *before, finished, (record, 2))
        return
    with pytest.raises(Corrupt, match="ended"):
        folded(CLAIM, *before, finished, record)
    if type(record).__name__ in WITHOUT_A_CLAIM:
        folded(CLAIM, *before, finished, (record, 0))


def test_an_agent_that_failed_goes_on_under_a_new_claim() -> None:
    failed = Finished(answer=None, error="ValueError")
    log = folded(CLAIM, intent(), failed, (CLAIM, 2), (seal(2), 2), (intent(n=1), 2))
    assert [slot.open for slot in log.effects] == [False, True]


# --- what it amounts to ---

IDENTITIES = (IDENTITY, bytes([1]) * 32)
MOVES = st.lists(
    st.tuples(st.sampled_from(IDENTITIES), st.integers(0, 1), st.integers(0, 50), st.booleans()), max_size=20
)


def legal_history(moves: list[tuple[bytes, int, int, bool]]) -> list[Record]:
    """Calls that go on side by side: each move takes one of them (identity, n) a legal step further."""
    history: list[Record] = [CLAIM]
    stands: dict[tuple[bytes, int], tuple[str, int, int]] = {}
    for identity, n, choice, happened in moves:
        state, held_at, sent_at = stands.get((identity, n), ("nothing", 0, 0))
        choices = sorted(LEGAL[state])
        if not choices:
            history.append(OTHERS[choice % len(OTHERS)])
            continue
        after, seq = choices[choice % len(choices)], len(history) + 1
        outcome = lives.HAPPENED if happened else DID_NOT
        made: dict[str, Record] = {
            "hold": hold(identity, n),
            "approval": approval(held_at),
            "refusal of a hold": refusal(held_at, identity, n),
            "refusal by a rule": refusal(None, identity, n),
            "intent": intent(identity, n),
            "attempt": attempt(sent_at),
            "seal": seal(sent_at, outcome, identity, n),
            "read": read(identity, n, outcome),
            "settled": settled(sent_at, outcome),
            "planned": planned(identity, n),
            "adopted": adopted(identity, n),
        }
        history.append(made[after])
        stands[identity, n] = after, seq if after == "hold" else held_at, seq if after == "intent" else sent_at
    return history


@given(MOVES)
def test_the_same_entries_give_the_same_log(moves: list[tuple[bytes, int, int, bool]]) -> None:
    history = legal_history(moves)
    assert vars(folded(*history)) == vars(folded(*history))


@given(MOVES, st.data())
def test_every_beginning_of_a_log_is_a_log_and_goes_on_to_the_same(
    moves: list[tuple[bytes, int, int, bool]], data: st.DataObject
) -> None:
    history = legal_history(moves)
    cut = data.draw(st.integers(1, len(history)))
    entries = written(*history)
    log = Log(BRANCH)
    for entry in entries[:cut]:
        log.fold(entry)
    assert vars(log) == vars(folded(*history[:cut]))
    for entry in entries[cut:]:
        log.fold(entry)
    assert vars(log) == vars(folded(*history))


@given(MOVES)
def test_the_doubts_are_the_intents_without_an_outcome(moves: list[tuple[bytes, int, int, bool]]) -> None:
    history = legal_history(moves)
    sent = {seq for seq, record in enumerate(history, 1) if isinstance(record, Intent)}
    ended = {record.intent for record in history if isinstance(record, Seal | Settled)}
    assert [slot.intent_seq for slot in folded(*history).doubts()] == sorted(sent - ended)


@given(MOVES)
def test_a_call_counts_however_its_life_went(moves: list[tuple[bytes, int, int, bool]]) -> None:
    history = legal_history(moves)
    log = folded(*history)
    for identity, n in log.slots:
        assert log.counts[identity] > n
    for identity, count in log.counts.items():
        assert (identity, count - 1) in log.slots


def test_what_happened_is_the_newest_that_happened() -> None:
    log = folded(CLAIM, intent(), seal(2), intent(n=1), seal(4, n=1), intent(n=2), seal(6, DID_NOT, n=2), intent(n=3))
    found = log.happened(IDENTITY)
    assert found is not None
    assert found.n == 1
    assert log.happened(bytes([9]) * 32) is None


def test_what_was_taken_back_has_not_happened_any_more() -> None:
    undo = bytes([5]) * 32
    log = folded(
        CLAIM,
        intent(kind=Kind.REVERSIBLE),
        seal(2),
        intent(undo, kind=Kind.IDEMPOTENT, undoes=2),
        seal(4, identity=undo),
    )
    assert log.at(2) is not None
    assert log.slots[IDENTITY, 0].undone
    assert log.happened(IDENTITY) is None


def test_an_undo_that_did_not_happen_takes_nothing_back() -> None:
    undo = bytes([5]) * 32
    log = folded(CLAIM, intent(kind=Kind.REVERSIBLE), seal(2), intent(undo, undoes=2), seal(4, DID_NOT, identity=undo))
    assert not log.slots[IDENTITY, 0].undone
    assert log.happened(IDENTITY) is log.slots[IDENTITY, 0]


TOUCHING: list[tuple[str, list[Record], bool]] = [
    ("nothing", [], False),
    ("a read", [read()], False),
    ("a hold", [hold()], False),
    ("an approval", [hold(), approval(3)], False),
    ("a refusal", [refusal(None)], False),
    ("an intent", [intent()], True),
    ("an effect that happened", [intent(), seal(3)], True),
    ("an effect that may have happened", [intent(), attempt(3)], True),
]


@pytest.mark.parametrize(("name", "after", "binds"), TOUCHING)
def test_a_decision_binds_when_an_effect_follows_it(name: str, after: list[Record], *, binds: bool) -> None:
    log = folded(CLAIM, DECISION, *after)
    (decided,) = log.lanes["main"]
    assert log.binding(decided) is binds, name


def test_an_effect_before_a_decision_does_not_make_it_bind() -> None:
    log = folded(CLAIM, intent(), DECISION, seal(2))
    (decided,) = log.lanes["main"]
    assert not log.binding(decided)


def test_a_decision_that_is_made_anew_stands_in_the_place_of_the_one_before() -> None:
    log = folded(CLAIM, DECISION, DECISION)
    (decided,) = log.lanes["main"]
    assert decided.seq == 3


def test_an_honest_log_folds() -> None:
    log = folded(CLAIM, DRAW)
    assert (log.seq, log.epoch, log.draws) == (2, 1, {("now", 0): "1"})
