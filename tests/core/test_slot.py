"""What a log remembers of one call, and of one decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.core.effect import Happened, Kind, Payload
from holdfast.core.entry import Entry
from holdfast.core.record import Draw, Override, Record, Sleep
from holdfast.core.signals import sort_signals
from holdfast.core.slot import Slot, place_in
from holdfast.errors import Corrupt
from tests.core.lives import (
    ANSWER,
    ARGS,
    CLAIM,
    DECISION,
    DID_NOT,
    IDENTITY,
    adopted,
    approval,
    folded,
    hold,
    intent,
    planned,
    read,
    refusal,
    seal,
    written,
)

OTHER = Payload("f6" * 32, ANSWER.encoding, 9)


def entry(seq: int) -> Entry:
    return Entry("r@main", seq, 0, 5, b"", b"", bytes(32))


def slot(*placed: Record) -> Slot:
    return folded(CLAIM, *placed).slots[IDENTITY, 0]


@pytest.mark.parametrize(
    ("placed", "open_"),
    [
        ([intent()], True),
        ([intent(), seal(2)], False),
        ([intent(), seal(2, DID_NOT)], False),
        ([hold()], False),
        ([planned()], False),
        ([adopted()], False),
        ([read()], False),
    ],
)
def test_what_is_open_was_sent_and_has_no_end(placed: list[Record], *, open_: bool) -> None:
    assert slot(*placed).open is open_


@pytest.mark.parametrize(
    ("placed", "asked"),
    [([intent()], ARGS), ([adopted()], ARGS), ([hold()], None), ([planned()], None), ([read()], None)],
)
def test_what_was_asked_for_is_known_of_effects_alone(placed: list[Record], asked: Payload | None) -> None:
    assert slot(*placed).asked == asked


def test_an_adopted_call_has_the_kind_and_the_answer_of_the_one_that_happened() -> None:
    found = slot(adopted(kind=Kind.REVERSIBLE))
    assert (found.kind, found.outcome, found.intent) == (Kind.REVERSIBLE, Happened(ANSWER), None)
    assert (found.intent_seq, found.sealed_seq) == (2, 2)


def test_an_adopted_call_can_have_been_taken_back() -> None:
    undo = bytes([5]) * 32
    log = folded(CLAIM, adopted(kind=Kind.REVERSIBLE), adopted(undo, undoes=2))
    assert log.slots[IDENTITY, 0].undone
    assert [each.first_seq for each in log.unclaimed()] == []


def test_a_decision_that_was_made_anew_stands_in_the_place_of_the_one_before() -> None:
    log = folded(CLAIM, DECISION, replace(DECISION, answer=OTHER))
    (decided,) = log.lanes["main"]
    assert (decided.seq, decided.places, decided.decision.answer) == (3, (2, 3), OTHER)


TWO = hold(level="two")


@pytest.mark.parametrize(
    ("placed", "waits"),
    [
        ([hold()], True),
        ([hold(), approval(2)], False),
        ([TWO], True),
        ([TWO, approval(2)], True),
        ([TWO, approval(2), approval(2)], True),
        ([TWO, approval(2), approval(2, by="bob")], False),
        ([TWO, approval(2), TWO], True),
        ([TWO, approval(2), TWO, approval(4, by="bob")], True),
        ([TWO, approval(2), refusal(2)], False),
        ([TWO, approval(2), approval(2, by="bob"), intent(approval=4)], False),
        ([intent()], False),
        ([read()], False),
    ],
)
def test_a_held_call_waits_until_as_many_people_have_agreed_as_must(placed: list[Record], *, waits: bool) -> None:
    log = folded(CLAIM, *placed)
    assert log.slots[IDENTITY, 0].waits is waits
    assert [each.hold_seq for each in log.holds()] == ([max(2, log.slots[IDENTITY, 0].hold_seq)] if waits else [])


@pytest.mark.parametrize("target", [2, 3])
def test_an_answer_is_replaced_wherever_it_stood(target: int) -> None:
    log = folded(CLAIM, DECISION, DECISION)
    (decided,) = log.lanes["main"]
    assert not log.binding(decided)
    log.take(Override(target=target, name="", value=OTHER), entry(4))
    assert decided.decision.answer == OTHER
    assert log.binding(decided), "somebody has put it there: it is not asked for anew"


def test_the_answer_of_a_read_that_people_allowed_can_be_replaced() -> None:
    log = folded(CLAIM, hold(kind=Kind.READ), approval(2), read())
    log.take(Override(target=4, name="", value=OTHER), entry(5))
    assert log.slots[IDENTITY, 0].outcome == Happened(OTHER)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", " 1", "1_0", "\u0661", "9" * 19, "9" * 5000])
def test_what_is_no_position_is_corrupt_wherever_one_must_stand(text: str) -> None:
    with pytest.raises(Corrupt, match="where a position must stand"):
        place_in(text)
    with pytest.raises(Corrupt, match="where a position must stand"):
        folded(CLAIM, Sleep(name=f"retry/{text}", n=0, until_ms=1))
    with pytest.raises(Corrupt, match="where a position must stand"):
        sort_signals(written(CLAIM, Draw(name="signal/go", n=0, value=text))[1:])


def test_a_position_reads_as_it_is_written() -> None:
    assert [place_in(text) for text in ("0", "7", "9" * 18)] == [0, 7, 10**18 - 1]
