"""What people say to a run: each word is placed once, and its place is told."""

from __future__ import annotations

import contextlib
import getpass
from pathlib import Path

import pytest

from tests.cli.keyboard import TROUPE, done, play, read, typed


@pytest.fixture
def held() -> str:
    play("payer", {"cents": 5}, "pay-5")
    return "pay-5@3"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a held run that is the same for many words, since none of them changes it."""
    place = tmp_path_factory.mktemp("standing")
    with contextlib.chdir(place):
        play("payer", {"cents": 5}, "pay-5")
    return place


def test_an_approval_tells_its_place_and_how_the_run_goes_on(held: str) -> None:
    result = typed("approve", held, "--by", "ann")
    assert (result.exit_code, result.stdout) == (0, "pay-5@4  pay-5@3 is approved by ann\n")
    assert f"holdfast resume pay-5 --agent {TROUPE}:payer" in result.stderr


def test_who_says_so_is_the_login_name_unless_it_is_told(held: str) -> None:
    assert done("approve", held) == f"pay-5@4  pay-5@3 is approved by {getpass.getuser()}\n"


def test_what_two_must_agree_to_is_listed_until_both_have() -> None:
    play("wirer", {"cents": 5}, "w")
    assert read("list")[0]["status"] == "held"
    assert "two people must agree" in done("show", "w")
    first = typed("approve", "w@3", "--by", "ann")
    assert (first.exit_code, first.stdout) == (0, "w@4  w@3 is approved by ann\n")
    assert "Hint: another person must agree too" in first.stderr
    assert "resume" not in first.stderr
    assert read("list")[0]["status"] == "held"
    assert "ann has agreed, another must" in done("show", "w")
    again = typed("approve", "w@3", "--by", "ann")
    assert (again.exit_code, again.stdout) == (2, "")
    assert again.stderr.startswith("Misuse: ann has agreed already; a second person must")
    second = typed("approve", "w@3", "--by", "bob")
    assert (second.exit_code, second.stdout) == (0, "w@5  w@3 is approved by bob\n")
    assert "resume w" in second.stderr
    assert read("list")[0]["status"] != "held"
    assert done("resume", "w", "--agent", f"{TROUPE}:wirer") == '"wired 5"\n'
    assert Path("paid").read_text() == "5\n"


@pytest.mark.parametrize("second", ["approve", "refuse"])
def test_a_hold_is_answered_once(held: str, second: str) -> None:
    done("approve", held)
    result = typed(second, held)
    assert result.exit_code == 2
    assert "`pay-5@3` was answered already" in result.stderr


def test_a_refusal_reaches_the_agent_with_its_reason(held: str) -> None:
    done("refuse", held, "--by", "ann", "--reason", "over budget")
    answer = done("resume", "pay-5", "--agent", f"{TROUPE}:asker")
    assert "ann" in answer
    assert "over budget" in answer
    assert not Path("paid").exists()


def test_a_signal_carries_its_value_to_who_waits_for_it() -> None:
    play("waiter", None, "w")
    assert done("signal", "w", "paid", '{"cents": 900}') == "w@4  paid is sent to w\n"
    assert done("resume", "w", "--agent", f"{TROUPE}:waiter") == '{"cents": 900}\n'


def test_a_cancelled_run_is_cancelled_once_and_promises_no_way_on() -> None:
    play("waiter", None, "w")
    result = typed("cancel", "w", "--by", "ann")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "w@4  w is cancelled by ann\n", "")
    again = typed("cancel", "w")
    assert again.exit_code == 2
    assert "the run has ended already" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["approve", "nobody@1"], "Unknown: there is no run `nobody`"),
        (["refuse", "nobody@1"], "Unknown: there is no run `nobody`"),
        (["settle", "nobody@1", "--did-not-happen"], "Unknown: there is no run `nobody`"),
        (["signal", "nobody", "x"], "Unknown: there is no run `nobody`"),
        (["cancel", "nobody"], "Unknown: there is no run `nobody`"),
        (["approve", "pay-5"], "Misuse: `pay-5` is not a place"),
        (["approve", "pay-5@x"], "Misuse: `pay-5@x` is not a place"),
        (["approve", "pay-5@-1"], "Misuse: `pay-5@-1` is not a place"),
        (["approve", "pay-5@99999999999999999999"], "Misuse: `pay-5@99999999999999999999` is not a place"),
        (["approve", "pay-5@1"], "Unknown: nothing is held at `pay-5@1`"),
        (["settle", "pay-5@3", "--did-not-happen"], "Unknown: there is no intent at `pay-5@3`"),
        (["settle", "pay-5@3"], "BadCall: say one of --happened JSON and --did-not-happen"),
        (["settle", "pay-5@3", "--happened", "1", "--did-not-happen"], "BadCall: say one of"),
        (["settle", "pay-5@3", "--happened", "1", "--reason", "x"], "BadCall: --reason belongs to"),
        (["settle", "pay-5@3", "--happened", "mail-1"], "BadCall: `--happened` is not JSON"),
        (["signal", "pay-5", "x", "@none"], "BadCall: `none` cannot be read"),
    ],
)
def test_a_word_that_is_about_nothing_is_refused_and_changes_nothing(
    standing: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(standing)
    before = read("show", "pay-5")["entries"]
    result = typed(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(said)
    assert "\n  fix: " in result.stderr
    assert read("show", "pay-5")["entries"] == before


def test_a_word_of_a_person_makes_no_store() -> None:
    assert typed("cancel", "x", "--store", "none.db").exit_code == 2
    assert not Path("none.db").exists()
