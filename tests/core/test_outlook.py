"""What a fork means: each effect in the world is somewhere on the page, and it is said what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.effect import Kind
from holdfast.core.log import Log
from holdfast.core.outlook import Fate, Outlook, Prospect, left_behind, outlook
from holdfast.core.record import Abandoned, Forked, Promoted, Record
from holdfast.core.tree import Tree
from tests.core.lives import (
    ANSWER,
    CLAIM,
    DECISION,
    DID_NOT,
    OTHERS,
    adopted,
    approval,
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

STARTED = OTHERS[0]
A, B, C = (bytes([sign]) * 32 for sign in (1, 2, 3))


def forked(branch: str, parent: str, at: int, kind: str = "recovery", group: str | None = None) -> Forked:
    return Forked(branch=branch, parent=parent, at=at, digest="e5" * 32, kind=kind, group=group, by="ann", why="to see")


def tree(*records: Forked | Promoted | Abandoned) -> Tree:
    grown = Tree()
    for record in records:
        grown.fold(record)
    return grown


def own(branch: str, base: int, *records: Record) -> Log:
    """What another branch wrote of its own, after `base`."""
    log = Log(f"r@{branch}", base)
    for place, entry in enumerate(written(*records), base + 1):
        log.fold(replace(entry, seq=place, branch=log.branch))
    return log


def seen(
    records: Sequence[Record],
    at: int,
    *tree_records: Forked | Promoted | Abandoned,
    others: Mapping[str, Log] | None = None,
    targets: Sequence[int] = (),
    anew: bool = False,
) -> Outlook:
    """A recovery fork of main at `at`, unless other forks are told."""
    grown = tree(*(tree_records or (forked("b2", "main", at),)))
    return outlook(Prospect(folded(*records[:at]), folded(*records), grown, others or {}, targets, anew))


HISTORY: tuple[Record, ...] = (
    CLAIM,  # 1
    STARTED,
    read(A),  # 3
    DECISION,  # 4
    intent(B, kind=Kind.REVERSIBLE),  # 5
    seal(5, identity=B),
    replace(DECISION, n=1, name="g"),  # 7
    read(C),  # 8
    intent(),  # 9
    seal(9),
)


# --- what is answered, and what is made anew ---


def test_what_stands_before_the_place_is_answered_and_what_stands_after_it_is_made_anew() -> None:
    found = seen(HISTORY, 6)
    assert (found.decisions, found.reads, [each.node for each in found.effects]) == (1, 1, ["main:5"])
    assert [(each.node, each.what, each.name) for each in found.again] == [
        ("main:7", "decision", "g"), ("main:8", "read", "t"),
    ]  # fmt: skip


def test_a_fork_of_the_newest_entry_makes_nothing_anew_and_strands_nothing() -> None:
    found = seen(HISTORY, 10)
    assert (found.decisions, found.reads, len(found.effects)) == (2, 2, 2)
    assert (found.again, found.left, found.questions) == ((), (), ())


def test_an_effect_that_was_sealed_after_the_place_is_answered_and_says_where() -> None:
    found = seen((CLAIM, STARTED, intent(), read(A), seal(3)), 4)
    assert [(each.node, each.since) for each in found.effects] == [
        ("main:3", "sealed after this place, at main:5"),
    ]  # fmt: skip


def test_an_effect_that_was_taken_back_after_the_place_says_so() -> None:
    undo = intent(C, kind=Kind.IDEMPOTENT, undoes=3)
    found = seen((CLAIM, STARTED, intent(B, kind=Kind.REVERSIBLE), seal(3, identity=B), undo, seal(5, identity=C)), 4)
    assert [each.since for each in found.effects] == ["taken back after this place"]
    assert found.left == ()


def test_what_a_speculative_history_planned_is_still_planned() -> None:
    found = seen((CLAIM, STARTED, planned(), read(A)), 4, forked("b2", "main", 4, "speculative"))
    assert [(each.node, each.since) for each in found.effects] == [
        ("main:3", "it is planned, and waits for a promotion"),
    ]  # fmt: skip


# --- what stays in the world ---


@pytest.mark.parametrize(
    ("kind", "fate", "why"),
    [
        (Kind.REVERSIBLE, Fate.UNDONE, "it is reversible"),
        (Kind.IRREVERSIBLE, Fate.RESIDUE, "it is irreversible"),
        (Kind.IDEMPOTENT, Fate.RESIDUE, "it is idempotent"),
    ],
)
def test_what_becomes_of_an_effect_that_nobody_asks_for_again(kind: Kind, fate: Fate, why: str) -> None:
    (left,) = seen((CLAIM, STARTED, intent(kind=kind), seal(3)), 2).left
    assert (left.node, left.fate, left.why, left.adoptable) == ("main:3", fate, why, True)


def test_an_effect_that_did_not_happen_is_not_in_the_world() -> None:
    assert seen((CLAIM, STARTED, intent(), seal(3, DID_NOT)), 2).left == ()


def test_an_effect_of_which_nobody_knows_can_be_adopted_by_nobody_and_asks_a_person() -> None:
    found = seen((CLAIM, STARTED, intent()), 2)
    (left,), (question,) = found.left, found.questions
    assert (left.fate, left.adoptable) == (Fate.DOUBT, False)
    assert (question.node, question.certain) == ("main:3", False)


def test_an_effect_whose_undo_was_refused_stays() -> None:
    undo = (intent(C, kind=Kind.IDEMPOTENT, undoes=3), seal(5, DID_NOT, C))
    found = seen((CLAIM, STARTED, intent(kind=Kind.REVERSIBLE), seal(3), *undo), 2)
    assert [(each.fate, each.why) for each in found.left] == [(Fate.RESIDUE, "its undo was refused: declined")]


@pytest.mark.parametrize("kind", ["what-if", "speculative"])
def test_beside_an_alternative_the_line_keeps_what_it_did(kind: str) -> None:
    found = seen(HISTORY, 4, forked("b2", "main", 4, kind))
    assert [(each.fate, each.why) for each in found.left] == [(Fate.KEPT, "`main` goes on with it")] * 2


def test_what_an_open_branch_has_inherited_is_kept() -> None:
    found = seen(HISTORY, 4, forked("b2", "main", 6, "what-if"), forked("b3", "main", 4))
    assert [(each.node, each.fate) for each in found.left] == [("main:5", Fate.KEPT), ("main:9", Fate.RESIDUE)]
    assert found.left[0].why == "`b2` goes on with it"


def test_what_a_branch_that_goes_on_has_adopted_is_kept_and_no_longer_when_that_is_given_up() -> None:
    b2 = own("b2", 4, forked("b2", "main", 4, "what-if"), CLAIM, replace(adopted(B), node="main:5"))
    records = (forked("b2", "main", 4, "what-if"), forked("b3", "main", 4))
    (kept, _) = seen(HISTORY, 4, *records, others={"r@b2": b2}).left
    assert (kept.fate, kept.why) == (Fate.KEPT, "`b2` goes on with it")
    given_up = Abandoned(branch="b2", by="ann", reason="no")
    (undone, _) = seen(HISTORY, 4, *records, given_up, others={"r@b2": b2}).left
    assert undone.fate is Fate.UNDONE


def test_an_adoption_that_an_open_branch_has_inherited_keeps_too() -> None:
    b2 = own("b2", 4, forked("b2", "main", 4), CLAIM, replace(adopted(B), node="main:5"))
    records = (forked("b2", "main", 4), forked("b3", "b2", 7, "what-if"), forked("b4", "main", 4))
    (kept, _) = seen(HISTORY, 4, *records, others={"r@b2": b2}).left
    assert (kept.fate, kept.why) == (Fate.KEPT, "`b3` goes on with it")


def test_what_other_branches_did_is_stranded_too_but_not_what_the_history_has_adopted() -> None:
    b2 = own("b2", 2, forked("b2", "main", 2), CLAIM, intent(A), seal(5, identity=A), intent(B), seal(7, identity=B))
    line = folded(CLAIM, STARTED, replace(adopted(A), node="b2:5"))
    grown = tree(forked("b2", "main", 2, "what-if"), Abandoned(branch="b2", by="ann", reason="no"))
    assert [each.node for each in left_behind(line, grown, {"r@b2": b2})] == ["b2:7"]
    assert [each.node for each in left_behind(line, grown, {"r@b2": b2}, after=2)] == ["b2:5", "b2:7"]


# --- people ---


def test_a_hold_that_waits_is_met_on_the_new_branch() -> None:
    (question,) = seen((CLAIM, STARTED, hold(), approval(3)), 3).questions
    assert (question.node, question.certain) == ("main:3", True)


def test_a_hold_that_was_approved_and_done_after_the_place_asks_nobody() -> None:
    found = seen((CLAIM, STARTED, hold(), approval(3), intent(approval=4), seal(5)), 3)
    assert (found.questions, [each.node for each in found.left]) == ((), ["main:5"])


@pytest.mark.parametrize("answer", [(), (approval(3),), (refusal(3),)])
def test_an_answer_of_people_after_the_place_is_not_inherited(answer: tuple[Record, ...]) -> None:
    (question,) = seen((CLAIM, STARTED, hold(), *answer), 2).questions
    assert (question.node, question.certain) == ("main:3", False)


@pytest.mark.parametrize(
    ("kind", "resource", "asked"),
    [(Kind.IRREVERSIBLE, "x", 1), (Kind.IRREVERSIBLE, None, 0), (Kind.REVERSIBLE, "x", 0)],
)
def test_another_call_on_a_resource_that_cannot_be_put_back_asks_a_person(
    kind: Kind, resource: str | None, asked: int
) -> None:
    assert len(seen((CLAIM, STARTED, intent(kind=kind, resource=resource), seal(3)), 2).questions) == asked


# --- what is replaced ---


def test_a_replaced_answer_is_shown_with_what_it_was() -> None:
    found = seen(HISTORY, 6, targets=[3, 4])
    assert [(each.node, each.what, each.name, each.answer) for each in found.replaced] == [
        ("main:3", "read", "t", ANSWER), ("main:4", "decision", "f", ANSWER),
    ]  # fmt: skip


def test_inherited_effects_after_a_replaced_answer_rest_on_it() -> None:
    assert [each.node for each in seen(HISTORY, 6, targets=[4]).resting] == ["main:5"]
    assert seen(HISTORY, 7, targets=[7]).resting == ()
    assert seen(HISTORY, 6).resting == ()


def test_all_inherited_effects_rest_on_the_program_and_its_input() -> None:
    assert [each.node for each in seen(HISTORY, 10, anew=True).resting] == ["main:5", "main:9"]


# --- the law ---

CALLS = st.lists(
    st.tuples(st.sampled_from([Kind.IDEMPOTENT, Kind.REVERSIBLE, Kind.IRREVERSIBLE]), st.booleans()), max_size=8
)


@given(calls=CALLS, data=st.data())
def test_each_effect_in_the_world_is_either_inherited_or_stranded(
    calls: list[tuple[Kind, bool]], data: st.DataObject
) -> None:
    history: list[Record] = [CLAIM, STARTED]
    places: set[str] = set()
    for number, (kind, person) in enumerate(calls):
        identity = bytes([number + 1]) * 32
        history.append(intent(identity, kind=kind))
        places.add(f"main:{len(history)}")
        history.append(settled(len(history)) if person else seal(len(history), identity=identity))
    at = data.draw(st.integers(2, len(history)))
    found = seen(history, at)
    inherited, left = {each.node for each in found.effects}, {each.node for each in found.left}
    assert inherited | left == places
    assert not inherited & left
