"""What is unlike in two values, told in a few short lines, and never a secret."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.canonical import canonical
from holdfast.core.change import LINES, changes

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ({"title": "Tide", "words": 3}, {"title": "Ebb", "words": 3}, ['title: "Tide" → "Ebb"']),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 5]}}, ["a.b[1]: 2 → 5"]),
        ({"a": 1}, {"b": 1}, ["a: 1 → (absent)", "b: (absent) → 1"]),
        ({"a": None}, {}, ["a: null → (absent)"]),
        ([1, 2, 3], [1, 2], ["3 items → 2 items"]),
        ("one", "other", ['"one" → "other"']),
        ([1], {"a": 1}, ['[1] → {"a": 1}']),
        ([True], [1], ["[0]: true → 1"]),
        ([1], [1.0], []),
        ([float("nan")], [float("nan")], []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
    ],
)
def test_each_place_is_told_with_both_values(then: Any, now: Any, told: list[str]) -> None:
    assert changes(then, now) == told


def test_of_many_places_a_few_are_told() -> None:
    then, now = {str(n): n for n in range(100)}, {str(n): n + 1 for n in range(100)}
    assert changes(then, now, most=2) == ["0: 0 → 1", "1: 1 → 2", "… and 98 more"]


@pytest.mark.parametrize("name", ["password", "apiKey", "api_key", "X-Auth-Token", "client_secret", "Set-Cookie"])
def test_what_stands_under_the_name_of_a_secret_is_not_shown(name: str) -> None:
    told = [
        *changes({name: "hunter1"}, {name: "hunter2"}),
        *changes({name: {"inner": "hunter1"}}, {name: {"inner": "hunter2"}}),
        *changes({}, {name: "hunter2"}),
        *changes({}, {"user": {name: "hunter2"}}),
        *changes({"users": [{name: "hunter1"}]}, {"users": [{name: "hunter2"}]}),
        *changes({name: [1]}, {name: [1, 2]}),
        *changes([], {"deep": [[{name: "hunter2"}]]}),
    ]
    assert len(told) == 7
    assert "hunter" not in " ".join(told)


def test_values_and_places_are_cut() -> None:
    (line,) = changes({"n" * 1000: "x" * 10_000}, {"n" * 1000: "y" * 10_000})
    assert len(line) < 250


def test_depth_has_no_end_that_harms() -> None:
    deep = json.loads("[" * 900 + "1" + "]" * 900)
    other = json.loads("[" * 900 + "2" + "]" * 900)
    (line,) = changes(deep, other)
    assert line.endswith("1 → 2")
    (line,) = changes(0, deep)
    assert "…" in line


@given(VALUES, VALUES)
def test_nothing_is_told_exactly_if_they_are_the_same_json(then: Any, now: Any) -> None:
    assert bool(changes(then, now)) is (canonical(then) != canonical(now))
    assert len(changes(then, now)) <= LINES + 1
