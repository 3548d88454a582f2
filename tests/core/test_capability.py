"""Capabilities: what they cover, and that they can only be narrowed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.capability import Budget, Limit, Terms, Used, matches, narrow, terms_of
from holdfast.core.contract import Level
from holdfast.errors import Corrupt, Refused

NAMES = ["crm.send", "crm.read", "crm2.send", "sql.query", "mail.send"]
PATTERNS = st.sampled_from([*NAMES, "crm.*", "sql.*", "*"])
LIMITS = st.builds(
    Limit,
    tool=PATTERNS,
    argument=st.sampled_from(["amount", "to.address"]),
    most=st.none() | st.integers(0, 5),
    one_of=st.none() | st.lists(st.sampled_from(["a", "b", 1, True, None]), max_size=3).map(tuple),
    prefix=st.none() | st.sampled_from(["", "a", "ab"]),
)
AMOUNT = st.none() | st.integers(0, 9)
TERMS = st.builds(
    Terms,
    tools=st.lists(PATTERNS, max_size=3).map(tuple),
    limits=st.lists(LIMITS, max_size=3).map(tuple),
    budget=st.builds(Budget, calls=AMOUNT, money=AMOUNT, blast=AMOUNT),
    expires_ms=AMOUNT,
    level=st.sampled_from(Level),
    doors=st.lists(st.sampled_from(["native", "http"]), max_size=2, unique=True).map(tuple),
)
ARGS = st.fixed_dictionaries(
    {},
    optional={
        "amount": st.integers(-2, 9) | st.sampled_from(["a", True, None, 1.5]),
        "to": st.fixed_dictionaries({}, optional={"address": st.sampled_from(["a", "ab", "b", 1, True, 1.0])}),
    },
)


@pytest.mark.parametrize(
    ("pattern", "tool", "expected"),
    [
        ("crm.send", "crm.send", True),
        ("crm.send", "crm.sender", False),
        ("crm.*", "crm.send", True),
        ("crm.*", "crm.", False),
        ("crm.*", "crm2.send", False),
        ("crm.*", "crm", False),
        ("*", "anything.at all", True),
        ("cr*", "crm.send", False),
        ("*.send", "crm.send", False),
    ],
)
def test_a_star_stands_for_a_whole_part_only(pattern: str, tool: str, expected: bool) -> None:
    assert matches(pattern, tool) is expected


def test_silence_covers_nothing() -> None:
    assert Terms().covers("crm.send", {}) is not None


def test_an_argument_that_is_limited_must_be_there() -> None:
    terms = Terms(tools=("*",), limits=(Limit(tool="*", argument="to.address", prefix="a"),))
    assert terms.covers("crm.send", {"to": {"address": "ab"}}) is None
    for args in ({}, {"to": "ab"}, {"to": {}}, {"to": {"address": 1}}, {"to": {"address": "ba"}}):
        assert terms.covers("crm.send", args) is not None, args


@pytest.mark.parametrize("value", ["3", True, None, [1], float("nan"), 6])
def test_what_is_no_number_or_too_large_is_over_a_limit(value: object) -> None:
    terms = Terms(tools=("*",), limits=(Limit(tool="*", argument="amount", most=5),))
    assert terms.covers("crm.send", {"amount": 5}) is None
    assert terms.covers("crm.send", {"amount": value}) is not None


def test_a_choice_does_not_take_one_kind_of_value_for_another() -> None:
    terms = Terms(tools=("*",), limits=(Limit(tool="*", argument="n", one_of=(1, "true")),))
    assert terms.covers("t", {"n": 1}) is None
    for other in (True, 1.0, "1", True):
        assert terms.covers("t", {"n": other}) is not None, other


@given(TERMS, TERMS, st.sampled_from(NAMES), ARGS)
def test_what_is_narrowed_covers_nothing_that_its_parent_does_not(
    parent: Terms, wanted: Terms, tool: str, args: dict[str, object]
) -> None:
    try:
        made = narrow(parent, wanted)
    except Refused:
        return
    if made.covers(tool, args) is None:
        assert parent.covers(tool, args) is None
        assert wanted.covers(tool, args) is None
    for name in ("calls", "money", "blast"):
        given, got = getattr(parent.budget, name), getattr(made.budget, name)
        assert given is None or (got is not None and got <= given)
    assert parent.expires_ms is None or (made.expires_ms is not None and made.expires_ms <= parent.expires_ms)
    assert list(Level).index(made.level) >= list(Level).index(parent.level)
    assert not parent.doors or (made.doors and set(made.doors) <= set(parent.doors))


@given(TERMS)
def test_narrowing_to_the_same_changes_nothing_that_is_covered(terms: Terms) -> None:
    made = narrow(terms, terms)
    assert (made.tools, made.budget, made.expires_ms, made.level) == (
        terms.tools,
        terms.budget,
        terms.expires_ms,
        terms.level,
    )


@pytest.mark.parametrize(
    ("have", "wanted"), [("crm.send", "crm.*"), ("crm.*", "*"), ("crm.*", "crm2.*"), ("crm.send", "crm.read")]
)
def test_more_than_the_parent_has_is_refused(have: str, wanted: str) -> None:
    with pytest.raises(Refused, match="can only be narrowed"):
        narrow(Terms(tools=(have,)), Terms(tools=(wanted,)))


def test_a_narrower_one_of_a_door_cannot_get_all_doors_by_naming_none() -> None:
    assert narrow(Terms(tools=("*",), doors=("http",)), Terms(tools=("*",))).doors == ("http",)
    with pytest.raises(Refused):
        narrow(Terms(tools=("*",), doors=("http",)), Terms(tools=("*",), doors=("native",)))


@given(TERMS)
def test_terms_read_back_as_they_were_written(terms: Terms) -> None:
    assert terms_of(terms.text()) == terms


@given(TERMS, st.data())
def test_terms_with_anything_else_in_them_are_corrupt(terms: Terms, data: st.DataObject) -> None:
    found = json.loads(terms.text())
    name = data.draw(st.sampled_from(sorted(found)))
    change = data.draw(st.sampled_from(["drop", "add", "spoil"]))
    if change == "drop":
        del found[name]
    elif change == "add":
        found["more"] = 1
    else:
        found[name] = "spoilt" if not isinstance(found[name], str) else 7
    with pytest.raises(Corrupt):
        terms_of(json.dumps(found, separators=(",", ":"), sort_keys=True))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"tools": ["*"]}', "x" * 70_000, "[" * 5000])
def test_what_is_no_terms_is_corrupt(text: str) -> None:
    with pytest.raises(Corrupt):
        terms_of(text)


def test_another_spelling_of_terms_is_corrupt() -> None:
    text = Terms(tools=("a.b",)).text()
    with pytest.raises(Corrupt):
        terms_of(text.replace(":", ": ", 1))


@pytest.mark.parametrize("name", ["calls", "money", "blast"])
def test_a_budget_is_spent_to_its_last_unit_and_no_further(name: str) -> None:
    budget = Budget(**{name: 3})
    assert budget.over(Used(**{name: 3})) is None
    assert budget.over(Used(**{name: 4})) is not None


def test_what_was_used_up_adds_up() -> None:
    one, other = Used(calls=1, money=20, blast=300), Used(calls=4, money=5, blast=6)
    assert one + other == Used(calls=5, money=25, blast=306)
    assert one + other - other == one
