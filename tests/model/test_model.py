"""The rules of forks, explored: with all of them nothing breaks in any schedule; without any one of them something
does."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.model.__main__ import SCHEDULES, row
from tests.model.checks import INVARIANTS
from tests.model.rules import ALL, BREAKS, NAMES, TEXT, without
from tests.model.schedule import explore, tally

PAGE = Path(__file__).parent.parent.parent / "docs" / "fork-model.md"
HAPPENS = (
    "adopted", "crashes", "fenced", "held", "lost promotions", "promoted", "recovery", "refused forks", "residue",
    "speculative", "stale promotions", "undone", "verdicts", "waits", "what-if",
)  # fmt: skip
FEW = 400
ENOUGH = 4000  # schedules in which a rule that is left out must have been missed


def judge(seeds: range) -> Counter[str]:
    happened: Counter[str] = Counter()
    for seed in seeds:
        ending = explore(seed)
        assert not ending.found, f"schedule {seed}: {ending.found}"
        happened += ending.tally
    return happened


def test_with_all_rules_nothing_breaks() -> None:
    happened = judge(range(FEW))
    assert not [what for what in HAPPENS if not happened[what]], "the schedules do not come to everything"


@pytest.mark.soak
@pytest.mark.parametrize("batch", range(20))
def test_with_all_rules_nothing_breaks_for_long(batch: int) -> None:
    judge(range(batch * 1000, batch * 1000 + 1000))


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_that_is_left_out_is_missed(name: str) -> None:
    rules = without(name)
    for seed in range(ENOUGH):
        found = explore(seed, rules).found
        if found and found[0][0] in BREAKS[name]:
            return
    raise AssertionError(f"nobody misses the rule: {TEXT[name]}")


def test_a_schedule_is_the_same_each_time() -> None:
    assert [explore(seed).tally for seed in range(20)] == [explore(seed).tally for seed in range(20)]


def test_what_is_said_to_break_is_an_invariant() -> None:
    assert BREAKS.keys() == TEXT.keys() == set(NAMES)
    assert not [which for broken in BREAKS.values() for which in broken if which not in INVARIANTS]


def rows() -> list[tuple[str, str, str]]:
    """The table of the page: rule, count, what broke first."""
    return re.findall(r"^\| ([^|]+) \| ([\d,]+) \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_tells_of_every_rule_and_every_invariant() -> None:
    assert [text for text, _, _ in rows()] == [TEXT[name] for name in NAMES]
    for name, (_, _, first) in zip(NAMES, rows(), strict=True):
        assert BREAKS[name] & set(first.split(", "))
    section = PAGE.read_text(encoding="utf-8").partition("## What must hold")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| (I\d+|[a-z]+) \| ([^|]+) \|$", section, re.MULTILINE))
    assert {name: words for name, words in told.items() if name != "invariant"} == INVARIANTS


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_the_page_tells_what_was_counted(name: str) -> None:
    assert row(name, SCHEDULES) in PAGE.read_text(encoding="utf-8")


def test_without_violations_the_tally_says_so() -> None:
    first, broken, _ = tally(range(50), ALL)
    assert not first
    assert broken == 0
