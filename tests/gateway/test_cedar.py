"""Rules in Cedar: what passes, what does not, and that nothing passes because it could not be judged."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from cedarpy import Decision, PolicySet, Schema, is_authorized
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.contract import Level, strictest
from holdfast.core.effect import Kind
from holdfast.core.policy import Allowed, Denied, Facts, Held, Verdict
from holdfast.gateway.cedar import MOST_ITEMS, MOST_SIGNS, Cedar
from holdfast.gateway.rules import schema_text
from tests.examples import examples

ALL = '@id("all") permit (principal, action, resource);'
MAIL = """
@id("all") permit (principal, action, resource);
@id("inside") @reason("only to our own")
forbid (principal, action, resource == Tool::"mail.send")
unless { context.text.hasTag("to") && context.text.getTag("to") like "*@example.com" };
"""
LATE_MS = int(datetime(2025, 11, 26, 23, 59, tzinfo=UTC).timestamp() * 1000)  # a Wednesday
SUM = """
@id("all") permit (principal, action, resource);
@id("dear") forbid (principal, action, resource)
when { context.number.hasTag("sum") && context.number.getTag("sum") > 100 };
"""


def policy(rules: str) -> Cedar:
    return Cedar([("test.cedar", rules)])


def facts(args: Mapping[str, Any] | None = None, **more: Any) -> Facts:
    known = {"agent": "m:clerk", "run": "r", "capability": "c1", "system": "mail", "tool": "mail.send"}
    return Facts(**{**known, "kind": Kind.IRREVERSIBLE, "args": args or {}, **more})


def said(rules: str, args: Mapping[str, Any] | None = None, **more: Any) -> Verdict:
    return policy(rules).judge(facts(args, **more))


# --- what passes ---


def test_silence_denies() -> None:
    assert said("") == Denied("holdfast.default", "no rule allows it")
    assert said("// nothing\n") == Denied("holdfast.default", "no rule allows it")
    assert said('@id("reads") permit (principal, action == Action::"read", resource);') == Denied(
        "holdfast.default", "no rule allows it"
    )


def test_who_forbids_wins_and_is_named() -> None:
    assert said(MAIL, {"to": "ann@example.com"}) == Allowed("all")
    assert said(MAIL, {"to": "eve@evil.test"}) == Denied("inside", "only to our own")
    assert said(MAIL) == Denied("inside", "only to our own")


@pytest.mark.parametrize("kind", Kind)
def test_a_write_is_each_kind_but_a_read(kind: Kind) -> None:
    verdict = said('@id("w") permit (principal, action in Action::"write", resource);', kind=kind)
    assert isinstance(verdict, Denied if kind is Kind.READ else Allowed)
    only = said(f'@id("k") permit (principal, action == Action::"{kind}", resource);', kind=kind)
    assert only == Allowed("k")


def test_a_rule_speaks_of_who_asks_and_of_what_system() -> None:
    rules = '@id("one") permit (principal == Agent::"m:clerk", action, resource in System::"mail");'
    assert said(rules) == Allowed("one")
    assert isinstance(said(rules, agent="m:other"), Denied)
    assert isinstance(said(rules, system="web", tool="web.send"), Denied)
    assert isinstance(said(rules, system="web"), Denied)


@pytest.mark.parametrize(
    ("condition", "true", "false"),
    [
        ("context has blast && context.blast > 10", {"blast": 11}, {"blast": 10}),
        ("context has blast", {"blast": 0}, {}),
        ('context.labels.contains("untrusted")', {"labels": frozenset({"untrusted:email"})}, {}),
        ('context.labels.contains("untrusted:web")', {"labels": frozenset({"untrusted:web"})},
         {"labels": frozenset({"untrusted:email"})}),
        ("context.spent.calls >= 3", {"spent_calls": 3}, {"spent_calls": 2}),
        ("context.spent.money >= 3", {"spent_money": 3}, {"spent_calls": 9}),
        ("context.spent.blast >= 3", {"spent_blast": 3}, {"spent_money": 9}),
        ('context.run == "r" && context.capability == "c1"', {}, {"run": "other"}),
        ("context.hour == 23 && context.weekday == 3", {"now_ms": LATE_MS}, {"now_ms": LATE_MS + 3600_000}),
        ("context.now == 5", {"now_ms": 5}, {"now_ms": 6}),
    ],
)  # fmt: skip
def test_a_rule_speaks_of_what_is_known_of_a_call(condition: str, true: dict[str, Any], false: dict[str, Any]) -> None:
    rules = f'@id("r") permit (principal, action, resource) when {{ {condition} }};'
    assert said(rules, **true) == Allowed("r")
    assert isinstance(said(rules, **false), Denied)


# --- levels ---


@pytest.mark.parametrize("level", Level)
def test_a_level_says_how_many_people_must_agree(level: Level) -> None:
    verdict = said(f'@id("r") @level("{level}") @reason("why") permit (principal, action, resource);')
    assert verdict == (Held("r", "why", level) if level.people else Allowed("r", "why", level))


def test_a_hold_always_says_why() -> None:
    for level in ("one", "two"):
        verdict = said(f'@id("r") @level("{level}") permit (principal, action, resource);')
        assert isinstance(verdict, Held)
        assert verdict.reason


@given(st.lists(st.sampled_from(Level), min_size=1, max_size=6))
@settings(max_examples=examples(40))
def test_of_all_permits_that_hold_the_strictest_counts(levels: list[Level]) -> None:
    rules = [f'@id("r{n}") @level("{level}") permit (principal, action, resource);' for n, level in enumerate(levels)]
    verdict = said("\n".join(rules))
    assert isinstance(verdict, Allowed | Held)
    assert verdict.level == strictest(*levels)
    assert verdict.rule == f"r{levels.index(strictest(*levels))}", "the first of them"


@given(st.lists(st.sampled_from(Level), min_size=1, max_size=3), st.sampled_from(Level))
@settings(max_examples=examples(40))
def test_a_further_permit_never_makes_a_level_looser(levels: list[Level], more: Level) -> None:
    rules = "\n".join(
        f'@id("r{n}") @level("{level}") permit (principal, action, resource);' for n, level in enumerate(levels)
    )
    before = said(rules)
    after = said(f'@id("more") @level("{more}") permit (principal, action, resource);\n{rules}')
    assert isinstance(before, Allowed | Held)
    assert isinstance(after, Allowed | Held)
    assert strictest(before.level, after.level) == after.level


# --- traps of the engine ---

BROKEN = """
@id("all") permit (principal, action, resource);
@id("never") forbid (principal, action, resource)
when { context.number.hasTag("sum") && context.number.getTag("sum") + 9223372036854775807 > 100 };
"""


def test_a_rule_that_forbids_and_fails_is_skipped_by_the_engine_and_not_by_us() -> None:
    cedar = policy(BROKEN)
    request, entities = asked(cedar, facts({"sum": 101}))
    trap = is_authorized(request, PolicySet.from_str(BROKEN), entities, Schema.from_str(schema_text()))
    assert trap.decision is Decision.Allow, "the engine has mended it: what is told of it here is out of date"
    assert trap.diagnostics.errors
    verdict = cedar.judge(facts({"sum": 101}))
    assert isinstance(verdict, Denied)
    assert verdict.rule == "never"
    assert "it could not be judged" in verdict.reason


def asked(cedar: Cedar, about: Facts) -> tuple[dict[str, Any], str]:
    """What `cedar` asks the engine."""
    seen: list[tuple[dict[str, Any], str]] = []
    module = Cedar._verdict.__globals__
    real = module["_is_authorized"]

    def listening(request: dict[str, Any], rules: Any, entities: str, schema: Any) -> Any:
        seen.append((request, entities))
        return real(request, rules, entities, schema)

    module["_is_authorized"] = listening
    try:
        cedar.judge(about)
    finally:
        module["_is_authorized"] = real
    return seen[0]


def test_the_text_of_an_error_shows_no_argument() -> None:
    verdict = said(BROKEN, {"sum": 7770777})
    assert isinstance(verdict, Denied)
    assert "7770777" not in verdict.reason


def test_what_the_engine_has_no_answer_to_is_denied() -> None:
    for about in (facts(agent="\ud800"), facts(labels=frozenset({"\udfff"})), facts({"to": "\ud800@example.com"})):
        verdict = policy(MAIL).judge(about)
        assert isinstance(verdict, Denied)
        assert verdict.rule.startswith("holdfast.")


def test_an_engine_that_breaks_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        """As the engine's, which is no Exception."""

    cedar = policy(ALL)
    for error in (Panic, MemoryError, RecursionError, ValueError):

        def breaks(*_: Any, error: type[BaseException] = error) -> Any:
            raise error("secret")

        monkeypatch.setitem(Cedar._verdict.__globals__, "_is_authorized", breaks)
        assert cedar.judge(facts()) == Denied("holdfast.error", f"it could not be judged ({error.__name__})")


# --- arguments ---


@pytest.mark.parametrize(
    ("args", "passes"),
    [
        ({"sum": 100}, True),
        ({"sum": 101}, False),
        ({"sum": 101.0}, False),
        ({"sum": 1e2}, True),
        ({"sum": -1}, True),
        ({}, True),
        ({"sum": None}, True),
        ({"sum": 100.5}, False),
        ({"sum": "99"}, False),
        ({"sum": True}, False),
        ({"sum": [1]}, False),
        ({"sum": []}, False),
        ({"sum": {"of": 1}}, False),
        ({"sum": 10**30}, False),
        ({"sum": -(10**30)}, False),
        ({"sum": float("nan")}, False),
        ({"sum": float("inf")}, False),
        ({"sum": 2**63 - 1}, False),
        ({"sum": 2.0**63}, False),
    ],
)
def test_a_number_does_not_pass_by_a_rule_as_something_else(args: dict[str, Any], *, passes: bool) -> None:
    verdict = said(SUM, args)
    assert isinstance(verdict, Allowed if passes else Denied), verdict


@pytest.mark.parametrize(
    "args",
    [
        {"to": ["ann@example.com", "eve@evil.test"]},
        {"to": {"address": "ann@example.com"}},
        {"to": 7},
        {"to": False},
        {"to": "x" * (MOST_SIGNS + 1) + "@example.com"},
        {"to": [["ann@example.com"]]},
    ],
    ids=lambda args: str(args)[:40],
)
def test_a_text_that_is_none_is_denied_and_says_why(args: dict[str, Any]) -> None:
    verdict = said(MAIL, args)
    assert isinstance(verdict, Denied)
    assert verdict.rule == "holdfast.arguments"
    assert "`to`" in verdict.reason


def test_what_a_rule_does_not_speak_of_is_not_looked_at() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    more = {"body": deep, "x": float("nan"), "y": object(), "large": "z" * 5_000_000}
    assert said(MAIL, {"to": "ann@example.com", **more}) == Allowed("all")


def test_an_argument_is_looked_at_for_the_calls_that_its_rule_is_about() -> None:
    """Another tool may mean something else by that name."""
    assert said(MAIL, {"to": 7}, tool="mail.move") == Allowed("all")
    assert isinstance(said(MAIL, {"to": 7}), Denied)


@pytest.mark.parametrize(
    ("args", "passes"),
    [
        ({"to": ["a@x.test", "b@x.test"]}, True),
        ({"to": "a@x.test"}, True),
        ({"to": ["a@x.test", "eve@evil.test"]}, False),
        ({"to": [["eve@evil.test"]]}, False),
        ({"to": ["a@x.test", 7]}, False),
        ({"to": ["a@x.test"] * (MOST_ITEMS + 1)}, False),
        ({"to": []}, True),
        ({}, False),
    ],
    ids=lambda args: str(args)[:40],
)
def test_lists_of_texts_are_judged_whole(args: dict[str, Any], *, passes: bool) -> None:
    rules = """@id("known") permit (principal, action, resource)
    when { context.texts.hasTag("to") && ["a@x.test", "b@x.test"].containsAll(context.texts.getTag("to")) };"""
    assert isinstance(said(rules, args), Allowed if passes else Denied)


@pytest.mark.parametrize(
    ("args", "passes"),
    [
        ({"message": {"to": "ann"}}, True),
        ({"message": {"to": "eve"}}, False),
        ({"message": {"to": "ann"}, "message.to": "eve"}, True),
        ({"message": [{"to": "ann"}]}, False),
        ({"message": "ann"}, False),
        ({"message": {}}, False),
        ({"message": None}, False),
    ],
    ids=str,
)
def test_a_part_of_an_object_is_named_with_a_dot(args: dict[str, Any], *, passes: bool) -> None:
    rules = """@id("r") permit (principal, action, resource)
    when { context.text.hasTag("message.to") && context.text.getTag("message.to") == "ann" };"""
    assert isinstance(said(rules, args), Allowed if passes else Denied)


def test_texts_in_a_list_of_objects_are_one_list() -> None:
    rules = """@id("r") permit (principal, action, resource)
    when { context.texts.hasTag("mails.to") && ["ann"].containsAll(context.texts.getTag("mails.to")) };"""
    assert said(rules, {"mails": [{"to": "ann"}, {"to": ["ann"]}]}) == Allowed("r")
    assert isinstance(said(rules, {"mails": [{"to": "ann"}, {"to": "eve"}]}), Denied)


def test_a_dot_that_belongs_to_a_name_is_written_out() -> None:
    rules = """@id("r") permit (principal, action, resource)
    when { context.flag.hasTag("a~1b~0") && context.flag.getTag("a~1b~0") };"""
    assert said(rules, {"a.b~": True}) == Allowed("r")
    assert isinstance(said(rules, {"a": {"b": True}}), Denied)


@pytest.mark.parametrize("field", ["blast", "spent_calls", "spent_money", "spent_blast"])
def test_what_is_counted_is_never_too_large_to_be_compared(field: str) -> None:
    told = "context has blast && context.blast" if field == "blast" else f"context.spent.{field.removeprefix('spent_')}"
    rules = f'{ALL} @id("much") forbid (principal, action, resource) when {{ {told} > 1000 }};'
    assert said(rules, **{field: 10**40}) == Denied("much", "a rule forbids it")


class Word(enum.StrEnum):
    EVE = "eve@evil.test"


@pytest.mark.parametrize("to", [Word.EVE])
def test_a_value_of_a_subclass_is_judged_as_what_is_written_down(to: str) -> None:
    assert said(MAIL, {"to": to}) == Denied("inside", "only to our own")


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1)))  # noqa: DTZ001 - made aware below
@settings(max_examples=examples(30))
def test_the_hour_and_the_day_are_those_of_the_calendar(moment: datetime) -> None:
    now_ms = int(moment.replace(tzinfo=UTC).timestamp() * 1000)
    then = datetime.fromtimestamp(now_ms / 1000, tz=UTC)
    rules = f"""@id("r") permit (principal, action, resource)
    when {{ context.hour == {then.hour} && context.weekday == {then.isoweekday()} }};"""
    assert said(rules, now_ms=now_ms) == Allowed("r")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("to"), inner, max_size=3),
    max_leaves=8,
)
EVERY = policy(
    MAIL
    + """
@id("n") permit (principal, action, resource)
when { context.number.hasTag("a.b") && context.number.getTag("a.b") > 1 };
@id("t") permit (principal, action, resource)
when { context.texts.hasTag("c") && context.texts.getTag("c").isEmpty() };
@id("f") permit (principal, action, resource)
when { context.flag.hasTag("d") && context.flag.getTag("d") };
"""
)


@given(
    st.dictionaries(st.sampled_from(["to", "a", "c", "d"]) | st.text(max_size=3), ANY, max_size=5),
    st.text(max_size=5), st.frozensets(st.text(max_size=5), max_size=3), st.none() | st.integers(), st.integers(),
)  # fmt: skip
@settings(max_examples=examples(300))
def test_no_arguments_whatever_make_it_raise_or_pass_by_a_rule(
    args: dict[str, Any], name: str, labels: frozenset[str], blast: int | None, number: int
) -> None:
    about = facts(args, agent=name, labels=labels, blast=blast, now_ms=number, spent_calls=number)
    verdict = EVERY.judge(about)
    assert isinstance(verdict, Allowed | Held | Denied)
    to = args.get("to")
    if not (isinstance(to, str) and to.endswith("@example.com")):
        assert isinstance(verdict, Denied)


# --- the digest ---


def test_another_byte_of_a_rule_or_of_the_schema_is_another_digest() -> None:
    rules, schema = ALL + "\n", schema_text()
    same = Cedar([("a.cedar", rules)]).digest
    assert same == Cedar([("b.cedar", rules)]).digest, "the name of a file says nothing"
    assert len(same) == 32
    digests = {same, Cedar([("a.cedar", rules)], schema + " ").digest}
    digests |= {Cedar([("a.cedar", rules[:at] + " " + rules[at:])]).digest for at in (0, 18, len(rules))}
    digests |= {Cedar([("a.cedar", rules), ("b.cedar", "")]).digest, Cedar([("a.cedar", rules + "// x\n")]).digest}
    assert len(digests) == 7
