"""The branches of a run as a fold: one line, one winner of a group, nothing that was given up comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.record import Abandoned, Forked, Promoted
from holdfast.core.tree import MAIN, Status, Tree, TreeRecord
from holdfast.errors import Corrupt

OPEN, SUPERSEDED, ABANDONED = Status.OPEN, Status.SUPERSEDED, Status.ABANDONED


def forked(branch: str, parent: str = MAIN, at: int = 10, kind: str = "recovery", group: str | None = None) -> Forked:
    return Forked(branch=branch, parent=parent, at=at, digest="e5" * 32, kind=kind, group=group, by="ann", why="")


def promoted(branch: str, group: str | None = None) -> Promoted:
    return Promoted(branch=branch, group=group, by="ann")


def abandoned(branch: str) -> Abandoned:
    return Abandoned(branch=branch, by="ann", reason="no")


def tree(*records: TreeRecord) -> Tree:
    grown = Tree()
    for record in records:
        grown.fold(record)
    return grown


def statuses(grown: Tree) -> dict[str, Status]:
    return {limb.name: limb.status for limb in grown}


GROUP = [forked("b2", kind="speculative", group="g"), forked("b3", kind="speculative", group="g")]


# --- what becomes of whom ---


@pytest.mark.parametrize(
    ("records", "line", "expected"),
    [
        ([], MAIN, {MAIN: OPEN}),
        ([forked("b2")], "b2", {MAIN: SUPERSEDED, "b2": OPEN}),
        ([forked("b2"), forked("b3", "b2", 15)], "b3", {MAIN: SUPERSEDED, "b2": SUPERSEDED, "b3": OPEN}),
        ([forked("b2"), forked("b3", MAIN, 5)], "b3", {MAIN: SUPERSEDED, "b2": SUPERSEDED, "b3": OPEN}),
        ([forked("b2", kind="what-if")], MAIN, {MAIN: OPEN, "b2": OPEN}),
        ([forked("b2", kind="what-if"), forked("b3", "b2", 15)], "b3",
         {MAIN: SUPERSEDED, "b2": SUPERSEDED, "b3": OPEN}),
        ([forked("b2", kind="what-if"), promoted("b2")], "b2", {MAIN: SUPERSEDED, "b2": OPEN}),
        ([forked("b2", kind="what-if"), abandoned("b2")], MAIN, {MAIN: OPEN, "b2": ABANDONED}),
        (GROUP, MAIN, {MAIN: OPEN, "b2": OPEN, "b3": OPEN}),
        ([*GROUP, promoted("b3", "g")], "b3", {MAIN: SUPERSEDED, "b2": ABANDONED, "b3": OPEN}),
        ([*GROUP, forked("b4", "b2", 15, "speculative"), promoted("b3", "g")], "b3",
         {MAIN: SUPERSEDED, "b2": ABANDONED, "b3": OPEN, "b4": ABANDONED}),
        ([*GROUP, forked("b4", "b2", 15, "speculative"), abandoned("b2")], MAIN,
         {MAIN: OPEN, "b2": ABANDONED, "b3": OPEN, "b4": ABANDONED}),
        ([*GROUP, forked("b4", "b2", 15, "speculative", "h"), promoted("b4", "h")], MAIN,
         {MAIN: OPEN, "b2": SUPERSEDED, "b3": OPEN, "b4": OPEN}),
        ([*GROUP, forked("b4", "b2", 15, "speculative", "h"), promoted("b4", "h"), promoted("b2", "g")], "b4",
         {MAIN: SUPERSEDED, "b2": SUPERSEDED, "b3": ABANDONED, "b4": OPEN}),
        ([forked("b2", kind="what-if"), forked("b3"), promoted("b2")], "b2",
         {MAIN: SUPERSEDED, "b2": OPEN, "b3": SUPERSEDED}),
    ],
)  # fmt: skip
def test_what_becomes_of_the_branches(records: list[TreeRecord], line: str, expected: dict[str, Status]) -> None:
    grown = tree(*records)
    assert grown.line == line
    assert statuses(grown) == expected
    assert all(bool(limb.ended) == (limb.status is not OPEN) for limb in grown)


@pytest.mark.parametrize(
    ("records", "wrong", "why"),
    [
        ([], forked("b2", "b7"), "no branch `b7`"),
        ([], forked(MAIN), "branch `main` already"),
        ([forked("b2")], forked("b2"), "branch `b2` already"),
        ([], forked("b2", kind="odd"), "no fork of the kind"),
        (GROUP, forked("b4", "b2"), "speculative"),
        (GROUP, forked("b4", "b2", kind="what-if"), "speculative"),
        ([], promoted("b2"), "no branch `b2`"),
        ([], abandoned("b2"), "no branch `b2`"),
        ([], promoted(MAIN), "no alternative"),
        ([], abandoned(MAIN), "the line of the run"),
        ([forked("b2")], promoted("b2"), "no alternative"),
        ([forked("b2")], promoted(MAIN), "no alternative"),
        ([forked("b2")], abandoned(MAIN), "superseded"),
        ([forked("b2")], abandoned("b2"), "the line of the run"),
        ([*GROUP, promoted("b2", "g")], promoted("b3", "g"), "abandoned"),
        ([*GROUP, promoted("b2", "g")], promoted("b2", "g"), "no alternative"),
        ([*GROUP, promoted("b2", "g")], abandoned("b2"), "the line of the run"),
        ([*GROUP, promoted("b2", "g")], abandoned("b3"), "abandoned"),
        ([*GROUP, abandoned("b2")], promoted("b2", "g"), "abandoned"),
    ],
)
def test_what_may_not_be(records: list[TreeRecord], wrong: TreeRecord, why: str) -> None:
    grown = tree(*records)
    before = statuses(grown)
    assert why in (grown.breach(wrong) or "")
    with pytest.raises(Corrupt):
        grown.fold(wrong)
    assert statuses(grown) == before


# --- histories ---


@pytest.mark.parametrize(
    ("records", "branch", "lineage"),
    [
        ([], MAIN, [(MAIN, None)]),
        ([forked("b2")], "b2", [(MAIN, 10), ("b2", None)]),
        ([forked("b2")], MAIN, [(MAIN, None)]),
        ([forked("b2"), forked("b3", "b2", 15)], "b3", [(MAIN, 10), ("b2", 15), ("b3", None)]),
        ([forked("b2"), forked("b3", MAIN, 5)], "b3", [(MAIN, 5), ("b3", None)]),
    ],
)
def test_what_a_branch_stands_on(records: list[TreeRecord], branch: str, lineage: list[tuple[str, int | None]]) -> None:
    assert tree(*records).lineage(branch) == lineage


@pytest.mark.parametrize(
    ("records", "held"),
    [
        ([forked("b2", kind="what-if"), forked("b3")], set[str]()),
        (GROUP, {"b2", "b3"}),
        ([*GROUP, forked("b4", "b2", 15, "speculative")], {"b2", "b3", "b4"}),
        ([*GROUP, promoted("b2", "g")], {"b3"}),
        ([*GROUP, forked("b4", "b2", 15, "speculative", "h"), promoted("b4", "h")], {"b2", "b3", "b4"}),
        ([*GROUP, forked("b4", "b2", 15, "speculative", "h"), promoted("b4", "h"), promoted("b2", "g")], {"b3"}),
        ([*GROUP, promoted("b2", "g"), forked("b4", "b2", 15)], {"b3"}),
    ],
)
def test_who_is_held(records: list[TreeRecord], held: set[str]) -> None:
    grown = tree(*records)
    assert {limb.name for limb in grown if grown.held(limb.name)} == held


@pytest.mark.parametrize(
    ("seq", "branch", "survives"),
    [(10, MAIN, True), (11, MAIN, False), (15, "b2", True), (16, "b2", False), (16, "b3", True), (12, "b4", False)],
)
def test_what_survives_is_in_the_history_of_an_open_branch(seq: int, branch: str, *, survives: bool) -> None:
    grown = tree(forked("b4", kind="what-if"), abandoned("b4"), forked("b2"), forked("b3", "b2", 15))
    assert grown.survives(branch, seq) is survives


# --- laws, over any tree ---

NAMES = [MAIN, *(f"b{number}" for number in range(2, 9))]


@st.composite
def histories(draw: st.DrawFn) -> list[TreeRecord]:
    """Whatever may be written, and much that may not."""
    records: list[TreeRecord] = []
    for _ in range(draw(st.integers(0, 14))):
        kind, name = draw(st.sampled_from(["fork", "fork", "promote", "abandon"])), draw(st.sampled_from(NAMES))
        if kind == "fork":
            how = draw(st.sampled_from(["recovery", "what-if", "speculative"]))
            group = draw(st.sampled_from([None, "g", "h"])) if how != "recovery" else None
            records.append(forked(name, draw(st.sampled_from(NAMES)), draw(st.integers(1, 30)), how, group))
        else:
            records.append(promoted(name) if kind == "promote" else abandoned(name))
    return records


@given(histories())
def test_the_laws_of_a_tree(records: list[TreeRecord]) -> None:
    grown, ended, revisited = Tree(), dict[str, Status](), set[str]()
    for record in records:
        if grown.breach(record) is None:
            if isinstance(record, Forked) and grown.limbs[record.parent].status is ABANDONED:
                revisited.add(record.branch)  # somebody went back to what had been given up: that is no mistake
            grown.fold(record)
        assert grown.limbs[grown.line].status is OPEN, "a run has a line, and it goes on"
        for limb in grown:
            assert limb.name not in ended or limb.status is not OPEN, "what was given up does not come back"
            if limb.status is not OPEN:
                ended[limb.name] = limb.status
            assert (limb.status is SUPERSEDED) == (limb.successor is not None and limb.status is not ABANDONED)
            assert grown.last_of(limb.name) in grown.limbs
            lineage = grown.lineage(limb.name)
            assert lineage[0][0] == MAIN
            assert lineage[-1] == (limb.name, None)
            uptos = [upto for _, upto in lineage[:-1] if upto is not None]
            assert uptos == sorted(uptos)
            assert len(uptos) == len(lineage) - 1
        for group in ("g", "h"):
            assert sum(limb.promoted for limb in grown.members(group)) <= 1, "a group has one winner"
        for limb in grown:
            if limb.status is OPEN:
                assert grown.survives(limb.name, 1_000), "a branch that goes on rests on itself"
                above = grown.limbs.get(limb.parent)
                kept = limb.name == grown.line or limb.name in revisited
                assert above is None or above.status is not ABANDONED or kept, "with a branch goes what it bore"


@given(histories())
def test_the_same_records_give_the_same_tree(records: list[TreeRecord]) -> None:
    first, second, kept = Tree(), Tree(), list[TreeRecord]()
    for record in records:
        if first.breach(record) is None:
            first.fold(record)
            kept.append(record)
    for record in kept:
        second.fold(record)
    assert statuses(first) == statuses(second)
    assert (first.line, first.size) == (second.line, len(kept))
