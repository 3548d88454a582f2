"""Forks from the command line: seen before they are made, made, gone on with, compared, promoted and given up."""

from __future__ import annotations

import json
import subprocess
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.cli.keyboard import done, on_a_terminal, process, read, soon, start, typed
from tests.cli.troupe import HOSTILE

BAND = "tests.cli.travellers"
FORECAST = {
    "run", "node", "branch", "kind", "parent", "at", "line", "instead_of", "advanced_by", "overrides",
    "answered_decisions", "answered_reads", "answered", "again", "stranded", "resting", "people",
}  # fmt: skip
DEED = {"node", "tool", "kind", "args", "answer", "state", "why", "adoptable"}
BOUGH = {
    "branch", "parent", "at", "kind", "group", "status", "line", "promoted", "successor", "ended", "by", "why",
    "entries", "newest_ms",
}  # fmt: skip


def go(agent: str, task: object, run: str, *more: str) -> Result:
    return typed("run", f"{BAND}:{agent}", "--input", json.dumps(task), "--id", run, "--no-wait", *more)


def resume(run: str, agent: str, *more: str) -> Result:
    return typed("resume", run, "--agent", f"{BAND}:{agent}", "--no-wait", *more)


def world() -> list[str]:
    return Path("world").read_text().splitlines() if Path("world").exists() else []


@pytest.fixture
def trip() -> str:
    """A run that went to Paris: the decision is at 4, the room at 5, the mail at 8, its end at 10."""
    assert done("run", f"{BAND}:trip", "--input", '{"who": "ann"}', "--id", "t") == '"room in Paris"\n'
    assert [entry["name"] for entry in entries("t")] == [
        "claim", "started", "read", "decision", "intent", "seal", "decision", "intent", "seal", "finished",
    ]  # fmt: skip
    return "t"


def entries(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done("log", run, "--json").splitlines()]


# --- before it is made ---


def test_a_dry_run_tells_everything_and_writes_nothing(trip: str) -> None:
    before = len(entries(trip))
    told = read("fork", "t@4", "--set", '4.output="Rome"', "--dry-run")
    assert set(told) == FORECAST
    assert (told["branch"], told["line"], told["instead_of"]) == ("b2", True, ["main"])
    assert told["overrides"] == [
        {"node": "t@4", "name": f"decision {BAND}.choose", "before": '"Paris"', "after": '"Rome"'}
    ]
    assert (told["answered_decisions"], told["answered_reads"], told["answered"]) == (1, 1, [])
    assert [(each["node"], each["what"]) for each in told["again"]] == [("t@7", "decision")]
    assert [(each["node"], each["state"]) for each in told["stranded"]] == [("t@5", "undone"), ("t@8", "residue")]
    assert all(set(each) == DEED for each in told["stranded"])
    assert len(entries(trip)) == before
    assert read("show", trip)["branches"] == []


def test_a_dry_run_as_a_page_says_what_becomes_of_each_effect(trip: str) -> None:
    page = typed("fork", "t@4", "--set", '4.output="Rome"', "--dry-run")
    lines = page.stdout.splitlines()
    assert lines[0] == "t@4  a recovery fork: b2 becomes the run's line in place of main"
    assert next(line for line in lines if "trip.book" in line).split()[:5] == [
        "main:5",
        "trip.book",
        "taken",
        "back",
        "at",
    ]
    assert "stays; it is irreversible" in next(line for line in lines if "trip.mail" in line)
    assert page.stderr.startswith("nothing was written\nHint: ")


def test_what_rests_on_a_replaced_answer_is_named(trip: str) -> None:
    assert read("fork", "t@7", "--set", '4.output="Rome"', "--dry-run")["resting"] == ["t@5"]
    assert read("fork", "t@9", "--input", '{"who": "bob"}', "--dry-run")["resting"] == ["t@5", "t@8"]


def test_on_80_columns_each_line_of_the_page_fits(trip: str, here: Path) -> None:
    text = on_a_terminal("fork", "t@4", "--set", '4.output="Rome"', "--dry-run", cwd=here, NO_COLOR="1", TERM="dumb")
    tables = [line for line in text.splitlines() if line.startswith(("main:", "NODE"))]
    assert tables
    assert max(len(line) for line in tables) <= 80


# --- made, and gone on with ---


def test_a_recovery_fork_goes_another_way_and_takes_back_what_nobody_asks_for(trip: str) -> None:
    made = typed("fork", "t@4", "--set", '4.output="Rome"', "--why", "Paris is full", "--by", "ann")
    assert made.stdout == "t@b2  a recovery fork of t@4, the run's line now\n"
    assert "stranded: 1 taken back at the end, 1 left in the world" in made.stderr
    assert f"Hint: holdfast resume t --agent {BAND}:trip" in made.stderr
    assert resume("t", "trip").stdout == '"room in Rome"\n'
    assert world() == ["book Paris", "mail ann", "book Rome", "unbook Paris"]  # the mail is not sent again
    assert done("verify").startswith("OK ")


def test_the_tree_tells_who_forked_what_and_why(trip: str) -> None:
    done("fork", "t@4", "--why", "Paris is full", "--by", "ann")
    done("fork", "t@3", "--what-if", "--by", "bob")
    main, b2, b3 = read("show", "t")["branches"]
    assert all(set(bough) == BOUGH for bough in (main, b2, b3))
    assert (main["status"], main["successor"], main["line"]) == ("superseded", "b2", False)
    assert (b2["parent"], b2["at"], b2["kind"], b2["line"], b2["why"]) == ("main", 4, "recovery", True, "Paris is full")
    assert (b3["parent"], b3["at"], b3["kind"], b3["line"], b3["by"]) == ("main", 3, "what-if", False, "bob")
    text = done("show", "t").splitlines()
    first = text.index(next(line for line in text if line.startswith("BRANCH")))
    assert [line.split()[:2] for line in text[first + 1 : first + 4]] == [
        ["main", "superseded"], ["|-", "b2"], ["`-", "b3"],
    ]  # fmt: skip


def test_on_a_terminal_the_tree_is_drawn(trip: str, here: Path) -> None:
    done("fork", "t@4", "--why", "Paris is full")
    assert "└─ b2" in on_a_terminal("show", "t", cwd=here, NO_COLOR="1", TERM="dumb", PYTHONIOENCODING="utf-8")
    assert "`- b2" in on_a_terminal("show", "t", cwd=here, NO_COLOR="1", TERM="dumb", PYTHONIOENCODING="ascii")


def test_the_log_of_a_branch_begins_with_what_it_stands_on(trip: str) -> None:
    done("fork", "t@4", "--set", '4.output="Rome"')
    shown = entries("t")
    assert [(entry["node"], entry["inherited"]) for entry in shown] == [
        ("t@1", True), ("t@2", True), ("t@3", True), ("t@4", True), ("t@b2:5", False), ("t@b2:6", False),
    ]  # fmt: skip
    assert [entry["name"] for entry in entries("t@main")][-2:] == ["finished", "forked"]
    for entry in shown:
        assert done("show", entry["node"]).startswith(f"{entry['node']}  ")
    assert done("show", "t@b2:3").startswith("t@3  read")


def test_the_list_has_one_row_for_a_run_and_counts_its_branches(trip: str) -> None:
    done("fork", "t@4")
    go("home", None, "h")
    assert [(row["run"], row["branch"], row["status"], row["branches"]) for row in read("list")] == [
        ("h", "main", "finished", 1), ("t", "b2", "waiting", 2),
    ]  # fmt: skip


def test_an_alternative_goes_on_beside_the_line(trip: str) -> None:
    assert done("fork", "t@4", "--what-if", "--prompt", ", or not").startswith("t@b2  a what-if fork of t@4")
    assert resume("t@b2", "trip").stdout == '"room in Paris, or not"\n'
    assert world() == ["book Paris", "mail ann"]  # the same calls are answered by the seals that are there
    assert [effect["adopted"] for effect in read("show", "t@b2")["effects"]] == [None, "main:5", "main:8"]
    assert read("show", "t")["answer"] == '"room in Paris"'


def test_another_agent_goes_on_if_the_user_allows_it(trip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done("fork", "t@4", "--code", f"{BAND}:home")
    refused = typed("resume", "t")
    assert (refused.exit_code, f"--agent {BAND}:home" in refused.stderr) == (2, True)
    monkeypatch.setenv("HOLDFAST_AGENTS", BAND)
    assert done("resume", "t") == '"stays at home"\n'


def test_a_fork_is_made_and_run_in_one_command(trip: str) -> None:
    assert done("fork", "t@4", "--code", f"{BAND}:home", "--run").splitlines()[1] == '"stays at home"'
    assert world() == ["book Paris", "mail ann", "unbook Paris"]


def test_a_fork_of_a_fork_stands_on_both(trip: str) -> None:
    done("fork", "t@4", "--set", '4.output="Rome"')
    resume("t", "trip")
    done("fork", "t@b2:6", "--set", '4.output="Oslo"')
    assert resume("t", "trip").stdout == '"room in Oslo"\n'
    assert world() == ["book Paris", "mail ann", "book Rome", "unbook Paris", "book Oslo", "unbook Rome"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["t@99"], "Unknown: there is no entry at `t@99`"),
        (["t@0"], "Unknown: there is no entry at `t@0`"),
        (["nobody@1"], "Unknown: there is no run `nobody`"),
        (["t@b9:3"], "Unknown: there is no branch `b9`"),
        (["t"], "Misuse: `t` is not a place"),
        (["t@6", "--set", "5.output=1"], "BadCall: entry 5 is a `intent`"),
        (["t@4", "--set", "7.output=1"], "BadCall: entry 7 lies behind the place of the fork"),
        (["t@4", "--set", "0.output=1"], "BadCall: `0.output=1` sets nothing"),
        (["t@4", "--set", "x"], "BadCall: `x` sets nothing"),
        (["t@4", "--set", "4.output=Rome"], "BadCall: `--set 4.output` is not JSON"),
        (["t@4", "--set", "a=1", "--set", "a=2"], "BadCall: `a` is set twice"),
        (["t@4", "--input", "1", "--set", "input=2"], "BadCall: `input` is set twice"),
        (["t@4", "--what-if", "--speculative"], "BadCall: a fork is of one kind"),
        (["t@4", "--prompt", "@none"], "BadCall: `none` cannot be read"),
        (["t@4", "--code", "home"], "BadCall: `home` does not name an agent"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_fork_that_cannot_be_is_refused_with_a_fix_and_nothing_is_written(
    trip: str, words: list[str], said: str, dry: list[str]
) -> None:
    result = typed("fork", *words, *dry)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(said)
    assert "\n  fix: " in result.stderr
    assert read("show", trip)["branches"] == []


# --- people, on branches ---


def test_what_is_held_on_a_branch_is_answered_there() -> None:
    assert go("buyer", {"cents": 5}, "p").exit_code == 3
    done("fork", "p@3", "--input", '{"cents": 6}')
    assert resume("p", "buyer").exit_code == 3
    (need,) = read("show", "p")["needs"]
    assert (need["node"], need["args"]) == ("p@b2:7", '{"cents":6}')
    stale = typed("approve", "p@4")
    assert (stale.exit_code, "the branch `main` is superseded" in stale.stderr) == (2, True)
    assert done("approve", "p@b2:7", "--by", "ann") == "p@b2:8  p@b2:7 is approved by ann\n"
    assert resume("p", "buyer").stdout == '"paid"\n'
    assert world() == ["pay 6"]


def test_a_hold_that_was_inherited_is_answered_on_the_branch() -> None:
    go("buyer", {"cents": 5}, "p")
    done("fork", "p@4")
    assert [need["node"] for need in read("show", "p")["needs"]] == ["p@b2:4"]
    stale = typed("approve", "p@4")
    assert (stale.exit_code, "fix: say it to the line: p@b2:4" in stale.stderr) == (2, True)
    done("approve", "p@b2:4")
    assert resume("p", "buyer").stdout == '"paid"\n'


def test_a_branch_can_be_cancelled_by_its_name(trip: str) -> None:
    done("fork", "t@4", "--what-if")
    assert done("cancel", "t@b2", "--by", "ann") == "t@b2:6  t@b2 is cancelled by ann\n"
    assert resume("t@b2", "trip").exit_code == 1
    assert read("show", "t")["status"] == "finished"


@pytest.mark.parametrize(
    "words", [["signal", "t@main", "x"], ["cancel", "t@main"], ["resume", "t@main"], ["approve", "t@main:5"]]
)
def test_nothing_is_said_to_a_branch_that_goes_no_further(trip: str, words: list[str]) -> None:
    done("fork", "t@4")
    before = len(entries("t@main"))
    result = typed(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "Misuse: the branch `main` is superseded by its recovery fork `b2` [t@main]\n  fix:"
    )
    assert len(entries("t@main")) == before


@pytest.mark.parametrize("words", [["show", "t@b9"], ["log", "t@b9"], ["resume", "t@b9"], ["stranded", "t@b9"],
                                   ["diff", "t", "t@b9"], ["approve", "t@b9:1"], ["signal", "t@b9", "x"],
                                   ["cancel", "t@b9"], ["promote", "t", "b9"], ["abandon", "t", "b9"]])  # fmt: skip
def test_a_branch_that_is_not_there_is_named(trip: str, words: list[str]) -> None:
    result = typed(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no branch `b9`" in result.stderr
    assert "\n  fix: " in result.stderr


# --- alternatives ---


def test_a_speculative_branch_shows_what_it_would_do_and_does_it_once_it_is_promoted() -> None:
    go("offerer", {"who": "ann"}, "o")
    done("fork", "o@3", "--speculative", "--input", '{"who": "bob"}')
    ready = resume("o@b2", "offerer")
    assert (ready.exit_code, ready.stdout) == (3, "")
    assert 'it offers: {"would": "bob"}' in ready.stderr
    assert "fix: holdfast promote o b2" in ready.stderr
    assert [(each["tool"], each["outcome"]) for each in read("show", "o@b2")["effects"]][-1] == ("trip.mail", "planned")
    assert world() == ["mail ann"]
    assert done("promote", "o", "b2", "--by", "ann").endswith("b2 is promoted by ann\n")
    assert resume("o", "offerer").stdout == '"mail to bob"\n'
    assert world() == ["mail ann", "mail bob"]
    again = typed("promote", "o", "b2")
    assert (again.exit_code, again.stdout) == (2, "")


def test_a_branch_is_given_up_but_never_the_line(trip: str) -> None:
    done("fork", "t@4", "--what-if", "--set", '4.output="Rome"')
    resume("t@b2", "trip")
    given_up = typed("abandon", "t", "b2", "--reason", "too dear", "--by", "ann")
    assert given_up.stdout == "t@12  b2 is abandoned by ann\n"
    assert "Hint: holdfast stranded t" in given_up.stderr
    assert "abandoned by ann: too dear" in done("show", "t")
    line = typed("abandon", "t", "main")
    assert (line.exit_code, "is the line of the run" in line.stderr) == (2, True)


def test_a_search_leaves_a_tree_with_one_winner() -> None:
    assert go("searcher", None, "s").stdout == '"room in Oslo"\n'
    assert [(bough["branch"], bough["status"], bough["promoted"]) for bough in read("show", "s")["branches"]] == [
        ("main", "superseded", False), ("b2", "abandoned", False), ("b3", "finished", True),
    ]  # fmt: skip
    assert world() == ["book Oslo"]


# --- what is left in the world ---


def test_what_other_branches_did_is_listed_and_taken_back_on_demand(trip: str) -> None:
    done("fork", "t@4")
    assert [(each["node"], each["state"], each["adoptable"]) for each in read("stranded", "t")] == [
        ("t@5", "undone", True), ("t@8", "residue", True),
    ]  # fmt: skip
    assert typed("stranded", "t", "--undo").exit_code == 2  # the log alone does not say what is imported
    took = typed("stranded", "t", "--undo", "--agent", f"{BAND}:trip")
    assert took.stdout.splitlines()[0] == "t@5  trip.book is taken back"
    assert took.stderr == "1 effect taken back, 1 left in the world\n"
    assert world() == ["book Paris", "mail ann", "unbook Paris"]
    again = read("stranded", "t", "--undo", "--agent", f"{BAND}:trip")
    assert (again["taken_back"], [each["node"] for each in again["residue"]]) == ([], ["t@8"])
    assert world()[-1] == "unbook Paris"
    assert resume("t", "trip").stdout == '"room in Paris"\n'  # asked for again, it is done anew
    assert world() == ["book Paris", "mail ann", "unbook Paris", "book Paris"]


def test_only_what_the_line_left_is_taken_back(trip: str) -> None:
    done("fork", "t@4")
    for words in (["t@main", "--undo", "--agent", f"{BAND}:trip"], ["t", "--agent", f"{BAND}:trip"]):
        assert typed("stranded", *words).exit_code == 2
    assert world() == ["book Paris", "mail ann"]


# --- compared ---


def test_two_branches_are_compared_from_where_they_part(trip: str) -> None:
    done("fork", "t@4", "--set", '4.output="Rome"')
    resume("t", "trip")
    diff = read("diff", "t@main", "t")
    assert (diff["common"], diff["left"]["branch"], diff["right"]["branch"]) == ("t@4", "main", "b2")
    assert (diff["left"]["answer"], diff["right"]["answer"]) == ('"room in Paris"', '"room in Rome"')
    marks = [(step["mark"], (step["right"] or step["left"])["name"].rpartition(".")[2]) for step in diff["steps"]]
    assert ("same", "mail") in marks  # it was adopted
    assert ("left", "book") in marks
    assert ("right", "book") in marks
    (override,) = [step["right"] for step in diff["steps"] if step["right"] and step["right"]["what"] == "override"]
    assert (override["name"], override["content"]) == ("the answer of main:4", '"Rome"')
    said = [step["right"]["messages"] for step in diff["steps"] if step["right"] and step["right"]["messages"]]
    assert said == [[{"role": "assistant", "text": "Rome"}]]


def test_a_branch_is_not_compared_with_itself_or_with_another_run(trip: str) -> None:
    go("home", None, "h")
    for words in (["t", "t@main"], ["t", "h"]):
        result = typed("diff", *words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("BadCall: ")


# --- proof ---


def test_a_bundle_has_all_branches_of_its_run(trip: str) -> None:
    done("fork", "t@4", "--set", '4.output="Rome"')
    resume("t", "trip")
    done("export", "t", "-o", "t.jsonl")
    verdict = read("verify", "t.jsonl")
    assert (verdict["ok"], verdict["branches"]) == (True, 2)
    one = typed("export", "t@b2", "-o", "b2.jsonl")
    assert (one.exit_code, Path("b2.jsonl").exists()) == (2, False)


# --- hostile text ---


def test_hostile_names_and_answers_steer_nothing() -> None:
    hostile = HOSTILE.replace("\x00", "")
    assert go("strange", None, "x").exit_code == 0
    done("fork", "x@3", "--set", f"3.output={json.dumps(HOSTILE)}", "--why", hostile, "--by", hostile)
    resume("x", "strange")
    done("fork", "x@3", "--why", hostile, "--set", f"prompt={json.dumps(HOSTILE)}")
    for words in (["show", "x"], ["log", "x"], ["stranded", "x"], ["diff", "x@main", "x@b2"], ["list"],
                  ["fork", "x@3", "--set", f"3.output={json.dumps(HOSTILE)}", "--dry-run"],
                  ["abandon", "x", "b2", "--reason", hostile], ["promote", "x", hostile]):  # fmt: skip
        for form in ([], ["--json"]) if words[0] not in ("abandon", "promote") else ([],):
            shown = typed(*words, *form)
            steering = [sign for sign in shown.output if sign != "\n" and unicodedata.category(sign) in ("Cc", "Cf")]
            assert steering == [], f"{words[0]} {form}"


# --- processes ---


@pytest.fixture
def begun() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test began; what still lives at its end is ended."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for each in processes:
        if each.poll() is None:
            each.kill()
        each.communicate()


def test_a_fork_leaves_a_killed_worker_behind_and_its_doubt_is_settled_once(
    here: Path, begun: list[subprocess.Popen[str]]
) -> None:
    Path("stuck").touch()
    work = start("run", f"{BAND}:trip", "--input", '{"who": "ann"}', "--id", "t", cwd=here)
    begun.append(work)
    soon(lambda: "mail ann" in world(), "the mail is sent")

    # A place behind its intent cannot be forked; one before it can be looked at, beside the running worker.
    between = process("fork", "t@8", cwd=here)
    assert (between.returncode, between.stderr.startswith("InDoubt: `trip.mail` was sent before this place")) == (
        3,
        True,
    )
    told = json.loads(process("fork", "t@4", "--dry-run", "--json", cwd=here).stdout)
    assert told["advanced_by"].endswith(f":{work.pid}")
    assert [(each["tool"], each["state"]) for each in told["stranded"]] == [
        ("trip.book", "undone"),
        ("trip.mail", "doubt"),
    ]

    work.kill()
    work.wait()
    Path("stuck").unlink()
    assert process("fork", "t@4", cwd=here).returncode == 0
    waits = process("resume", "t", "--agent", f"{BAND}:trip", "--no-wait", cwd=here)
    assert (waits.returncode, waits.stderr.startswith("InDoubt: `trip.mail` may have happened")) == (3, True)
    assert [need["node"] for need in read("show", "t")["needs"]] == ["t@8"]
    assert process("settle", "t@8", "--happened", '"mail to ann"', cwd=here).returncode == 0
    assert process("resume", "t", "--agent", f"{BAND}:trip", cwd=here).stdout == '"room in Paris"\n'
    assert world() == ["book Paris", "mail ann"]


def test_a_process_that_waits_with_an_offer_goes_on_when_it_is_promoted(
    here: Path, begun: list[subprocess.Popen[str]]
) -> None:
    go("offerer", {"who": "ann"}, "o")
    done("fork", "o@3", "--speculative", "--input", '{"who": "bob"}')
    work = start("resume", "o@b2", "--agent", f"{BAND}:offerer", cwd=here)
    begun.append(work)
    soon(lambda: read("show", "o@b2")["about"] == "for its promotion", "the branch has shown what it has")
    done("promote", "o", "b2")
    stdout, _ = work.communicate(timeout=60)
    assert (work.returncode, stdout) == (0, '"mail to bob"\n')
    assert world() == ["mail ann", "mail bob"]


def test_a_worker_whose_branch_was_superseded_goes_on_with_the_line(
    here: Path, begun: list[subprocess.Popen[str]]
) -> None:
    Path("stuck").touch()
    work = start("run", f"{BAND}:tour", "--input", '{"who": "ann"}', "--id", "t", cwd=here)
    begun.append(work)
    soon(lambda: "mail ann" in world(), "the mail is sent")
    assert process("fork", "t@3", "--set", '3.output="Rome"', cwd=here).returncode == 0
    Path("stuck").unlink()
    stdout, stderr = work.communicate(timeout=60)
    assert (work.returncode, stdout) == (0, '"room in Rome"\n'), stderr
    assert world() == ["mail ann", "book Rome"]
