"""What is judged about a call: levels only become stricter, and silence is no verdict."""

from __future__ import annotations

import itertools

import pytest

from holdfast.core.contract import Level, strictest
from holdfast.core.effect import Kind
from holdfast.core.policy import Allowed, Denied, Facts, Held

ORDER = [Level.NONE, Level.NOTIFY, Level.ONE, Level.TWO]  # by hand: each asks for more than the one before


@pytest.mark.parametrize(("one", "other"), list(itertools.product(ORDER, ORDER)))
def test_of_two_levels_the_stricter_counts(one: Level, other: Level) -> None:
    assert strictest(one, other) == ORDER[max(ORDER.index(one), ORDER.index(other))]


def test_of_no_levels_none_counts() -> None:
    assert strictest() is Level.NONE


def test_so_many_people_must_agree() -> None:
    assert {level: level.people for level in Level} == dict(zip(ORDER, (0, 0, 1, 2), strict=True))


def test_a_verdict_always_names_its_rule() -> None:
    for verdict in (Allowed("a"), Held("a", "why"), Denied("a", "why")):
        assert verdict.rule == "a"
    assert Allowed("a").level is Level.NONE
    assert Held("a", "why").level is Level.ONE


def test_what_nobody_said_about_a_call_is_nothing() -> None:
    facts = Facts(agent="a", run="r", capability="c", system="s", tool="s.t", kind=Kind.READ, args={})
    assert (facts.blast, facts.labels, facts.spent_calls, facts.spent_money, facts.spent_blast) == (
        None,
        frozenset(),
        0,
        0,
        0,
    )
