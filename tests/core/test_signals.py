"""The signals of one name: which came, which were taken; in any order of branches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.record import Draw, Record, Signal
from holdfast.core.signals import sort_signals
from holdfast.errors import Corrupt
from tests.core.lives import ANSWER, CLAIM, written


def signal(by: str = "ann") -> Signal:
    return Signal(name="go", value=ANSWER, by=by)


def taken(seq: int, n: int = 0) -> Draw:
    return Draw(name="signal/go", n=n, value=str(seq))


def test_what_came_is_known_by_its_place_and_what_was_taken_too() -> None:
    signals, used = sort_signals(written(signal("a"), signal("b"), taken(1), signal("c")))
    assert {seq: record.by for seq, record in signals.items()} == {1: "a", 2: "b", 4: "c"}
    assert used == {1}


def test_of_no_entries_there_is_nothing() -> None:
    assert sort_signals([]) == ({}, set())


def test_what_is_no_signal_is_told_with_its_place() -> None:
    with pytest.raises(Corrupt) as corrupt:
        sort_signals(written(signal(), CLAIM))
    assert corrupt.value.where == "r@main:2"


@given(st.lists(st.booleans(), max_size=12))
def test_every_signal_is_taken_once(plan: list[bool]) -> None:
    """True: one comes; False: the oldest that is free is taken."""
    records: list[Record] = []
    free: list[int] = []
    gone: set[int] = set()
    for comes in plan:
        if comes:
            free.append(len(records) + 1)
            records.append(signal())
        elif free:
            gone.add(free[0])
            records.append(taken(free.pop(0), len(gone)))
    signals, used = sort_signals(written(*records))
    assert used == gone
    assert sorted(signals.keys() - used) == free
