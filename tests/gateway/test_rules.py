"""Policy files: what they may say, and that what is wrong in them is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.core.contract import Level
from holdfast.errors import Misuse
from holdfast.gateway.cedar import Cedar
from holdfast.gateway.rules import statements

GOOD = '@id("good") permit (principal, action, resource);\n'
ARGUMENT = "the name of an argument is not written out"
WRONG = [
    ("permit (principal, action, resource);", "the rule has no name"),
    ('@id("") permit (principal, action, resource);', "the rule has no name"),
    ("@id permit (principal, action, resource);", "the rule has no name"),
    ('@id("two\\nlines") permit (principal, action, resource);', "the rule has no name"),
    ('@id("holdfast.default") permit (principal, action, resource);', "the rule has no name"),
    (f'@id("{"x" * 101}") permit (principal, action, resource);', "the rule has no name"),
    ('@id("good") permit (principal, action, resource);', "another rule is called `good` too, at rules.cedar:1"),
    ('@id("r") @level("three") permit (principal, action, resource);', "`three` is no level"),
    ('@id("r") @level permit (principal, action, resource);', "`` is no level"),
    ('@id("r") @levle("two") permit (principal, action, resource);', "`@levle` is no annotation"),
    ('@id("r") @level("two") forbid (principal, action, resource);', "who forbids asks nobody"),
    ('@id("r") permit (principal == ?principal, action, resource);', "no templates"),
    ('@id("r") permit (principal, action', "this is no rule of Cedar: unexpected end"),
    ('@id("r") permit (principal, action, resource)', "this is no rule of Cedar: unexpected end"),
    ('@id("r") permit (principal, action, resource) when { 1 + };', "this is no rule of Cedar: unexpected token"),
    ('@id("r") permit (principal, action, resource) when { context.nope == 1 };', "attribute `nope`"),
    ('@id("r") permit (principal, action, resource) when { context.blast > 1 };', "`blast`"),
    ('@id("r") permit (principal, action, resource) when { context.now == "x" };', "does not fit the schema"),
    ('@id("r") permit (principal, action == Action::"delete", resource);', 'unrecognized action `Action::"delete"`'),
    ('@id("r") permit (principal == User::"ann", action, resource);', "unrecognized entity type `User`"),
    ('@id("r") permit (principal, action, resource) when { context.text.getTag("to") == "x" };', "unable to guarantee"),
    ('@id("r") permit (principal, action, resource) when { context.text.hasTag(context.run) };', ARGUMENT),
    ('@id("r") permit (principal, action, resource) when { context.text.hasTag("") };', ARGUMENT),
    ('@id("r") permit (principal, action, resource) when { Texts::"x".hasTag("to") };', ARGUMENT),
    ('@id("r") permit (principal, action, resource) when { (if true then context.text else context.text).hasTag("") };',
     ARGUMENT),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "says"), WRONG)
def test_what_is_wrong_in_a_file_is_named_with_its_place(rule: str, says: str) -> None:
    with pytest.raises(Misuse) as wrong:
        Cedar([("rules.cedar", f"{GOOD}// a comment; with a sign\n\n  {rule}")])
    assert says in wrong.value.what
    assert wrong.value.where == "rules.cedar:4"
    assert wrong.value.fix


def test_the_rules_of_several_files_are_one_policy() -> None:
    cedar = Cedar([("a.cedar", GOOD), ("b.cedar", "\n" + GOOD.replace("good", "other"))])
    assert [(rule.name, rule.where) for rule in cedar.rules] == [("good", "a.cedar:1"), ("other", "b.cedar:2")]
    with pytest.raises(Misuse) as twice:
        Cedar([("a.cedar", GOOD), ("b.cedar", GOOD)])
    assert twice.value.where == "b.cedar:1"


def test_what_a_rule_says_of_itself_is_read() -> None:
    (rule,) = Cedar([("a.cedar", f'@level("two") @reason("it is; \\"much\\"") {GOOD}')]).rules
    assert (rule.name, rule.level, rule.reason, rule.permits) == ("good", Level.TWO, 'it is; "much"', True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \n// only; a comment", []),
        ("a;b;", [(1, "a;"), (1, "b;")]),
        ("\n a\n b;\n\nc;", [(2, "a\n b;"), (5, "c;")]),
        ('a "x;y" ;b;', [(1, 'a "x;y" ;'), (1, "b;")]),
        ('a "x\\";" ;b;', [(1, 'a "x\\";" ;'), (1, "b;")]),
        ('a "// no comment" ;b;', [(1, 'a "// no comment" ;'), (1, "b;")]),
        ('a // "\n;b;', [(1, 'a // "\n;'), (2, "b;")]),
        ("a; b", [(1, "a;"), (1, "b")]),
        ('a "x;', [(1, 'a "x;')]),
        ('a "x\\', [(1, 'a "x\\')]),
    ],
)
def test_a_file_is_cut_at_the_ends_of_its_rules(text: str, found: list[tuple[int, str]]) -> None:
    assert list(statements(text)) == found


def test_files_are_read_from_a_directory_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.cedar").write_text(GOOD)
    (tmp_path / "a.cedar").write_text(GOOD.replace("good", "first"))
    (tmp_path / "c.txt").write_text("no policy")
    assert [rule.name for rule in Cedar.load(tmp_path).rules] == ["first", "good"]
    assert [rule.name for rule in Cedar.load(tmp_path / "b.cedar", tmp_path / "a.cedar").rules] == ["good", "first"]


def test_files_that_are_not_there_or_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "odd.cedar").write_bytes(b"\xff")
    (tmp_path / "empty").mkdir()
    for place in ("none.cedar", "odd.cedar", "empty"):
        with pytest.raises(Misuse) as wrong:
            Cedar.load(tmp_path / place)
        assert wrong.value.where == str(tmp_path / place)
        assert wrong.value.fix
