"""`list`, `show` and `log`: what waits for people comes first, JSON has stable keys, and hostile text is harmless."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.cli.keyboard import TROUPE, done, on_a_terminal, play, read, typed
from tests.cli.troupe import HOSTILE

LIST = {"run", "branch", "status", "about", "entries", "epoch", "newest_ms", "holder", "branches"}
SHOW = {
    "run", "branch", "status", "about", "agent", "input", "answer", "error", "entries", "epoch", "holder", "started_ms",
    "newest_ms", "wakes_ms", "counts", "resume", "needs", "effects", "line", "held", "branches",
    "counted_after",
}  # fmt: skip
NEED = {"why", "node", "what", "args", "about", "commands"}
EFFECT = {
    "node", "tool", "kind", "args", "outcome", "answer", "at_ms", "sent", "settled_by", "undone", "key", "inherited",
    "adopted", "capability", "policy", "rule",
}  # fmt: skip
LINE = {"node", "branch", "inherited", "seq", "at_ms", "epoch", "digest", "name", "words", "record"}
ENTRY = {"node", "seq", "at_ms", "epoch", "digest", "name", "words", "fields"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which a run of each kind has been; the tests of this file only look."""
    place = tmp_path_factory.mktemp("runs")
    with contextlib.chdir(place):
        play("dun", {"to": "ann"}, "dun-1")
        play("payer", {"cents": 5}, "pay-5")
        play("waiter", None, "w")
        play("sleeper", {"seconds": 3600}, "s")
        play("failing", None, "f")
        play("echo", HOSTILE, "hostile")
        play("waiter", None, "c")
        typed("cancel", "c", "--by", "ann", "--reason", "enough")
    return place


@pytest.fixture(autouse=True)
def at_the_store(store: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store)


def steers(text: str) -> list[str]:
    """The signs of a text that could steer a terminal: every control but the line's end, every format sign."""
    return [sign for sign in text if sign != "\n" and unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


# --- list ---


def test_the_list_says_how_each_run_stands() -> None:
    assert {row["run"]: row["status"] for row in read("list")} == {
        "dun-1": "finished", "pay-5": "held", "w": "waiting", "s": "asleep", "f": "failed", "hostile": "finished",
        "c": "cancelled",
    }  # fmt: skip


def test_the_list_begins_with_the_newest_run() -> None:
    assert next(row["run"] for row in read("list")) == "c"


def test_the_keys_of_the_list_are_stable() -> None:
    assert all(set(row) == LIST for row in read("list"))


def test_the_list_hints_at_a_run_that_needs_a_person() -> None:
    assert "Hint: holdfast show pay-5 " in typed("list").stderr


def test_the_list_is_narrowed_by_status_and_number() -> None:
    assert {row["run"] for row in read("list", "--status", "held", "--status", "asleep")} == {"pay-5", "s"}
    assert len(read("list", "--limit", "2")) == 2
    second = read("list", "--limit", "2")[-1]["run"]
    assert f"Hint: holdfast list --after {second}" in typed("list", "--limit", "2").stderr


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("filters", [(), ("--status", "finished"), ("--status", "held", "--status", "waiting")])
def test_page_after_page_lists_each_run_once(limit: int, filters: tuple[str, ...]) -> None:
    found = read("list", *filters, "--limit", str(limit))
    while page := read("list", *filters, "--limit", str(limit), "--after", found[-1]["run"]):
        found += page
    assert [row["run"] for row in found] == [row["run"] for row in read("list", *filters)]


def test_there_is_no_page_after_a_run_that_is_not_there() -> None:
    result = typed("list", "--after", "nobody")
    assert (result.exit_code, result.stderr.split(":")[0]) == (2, "Unknown")


def test_a_list_without_runs_is_empty_on_stdout() -> None:
    result = typed("list", "--status", "doubt")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no runs of this status" in result.stderr
    assert read("list", "--status", "doubt") == []


# --- show ---


def test_the_keys_of_a_shown_run_are_stable() -> None:
    shown = read("show", "pay-5")
    assert set(shown) == SHOW
    assert [set(need) for need in shown["needs"]] == [NEED]
    assert [set(effect) for effect in shown["effects"]] == [EFFECT]


def test_a_hold_stands_above_everything_else_with_the_commands_that_end_it() -> None:
    text = done("show", "pay-5").splitlines()
    assert text[0] == "pay-5  held"
    assert text[2] == "HOLD  pay waits for approval  (irreversible, pay-5@3)"
    assert text[3] == '  args  {"cents":5}'
    assert text[5:7] == ["  holdfast approve pay-5@3", "  holdfast refuse pay-5@3 --reason '…'"]
    assert text.index("agent    tests.cli.troupe:payer") > 6


def test_a_shown_run_tells_its_effects_in_order() -> None:
    effects = read("show", "dun-1")["effects"]
    assert [(effect["tool"], effect["kind"], effect["outcome"]) for effect in effects] == [
        ("look", "read", "happened"), ("put", "idempotent", "happened"), ("mail", "irreversible", "happened"),
    ]  # fmt: skip


def test_at_most_so_many_effects_are_shown_and_those_are_the_newest() -> None:
    assert [effect["tool"] for effect in read("show", "dun-1", "--limit", "1")["effects"]] == ["mail"]
    assert read("show", "dun-1", "--limit", "0")["effects"] == []


@pytest.mark.parametrize(("run", "agent"), [("w", "waiter"), ("s", "sleeper"), ("f", "failing")])
def test_a_run_that_can_go_on_says_how(run: str, agent: str) -> None:
    assert f"Hint: holdfast resume {run} --agent {TROUPE}:{agent}" in typed("show", run).stderr


def test_what_is_suggested_speaks_of_the_same_store(tmp_path: Path) -> None:
    away = str(tmp_path / "a store.db")
    play("payer", {"cents": 5}, "p", "--store", away)
    assert f"holdfast approve p@3 --store '{away}'" in done("show", "p", "--store", away)


def test_one_entry_is_shown_whole() -> None:
    shown = read("show", "dun-1@7")
    assert set(shown) == ENTRY
    assert (shown["name"], shown["fields"]["tool"], shown["fields"]["kind"]) == ("intent", "mail", "irreversible")
    assert json.loads(shown["fields"]["args"]["text"]) == {"to": "ann"}
    assert set(shown["fields"]["args"]) == {"digest", "encoding", "size_bytes", "text", "cut"}


def test_every_entry_of_every_run_can_be_shown() -> None:
    for row in read("list"):
        for seq in range(1, row["entries"] + 1):
            assert done("show", f"{row['run']}@{seq}").startswith(f"{row['run']}@{seq}  ")


# --- log ---


def test_the_log_as_json_is_one_object_a_line_with_stable_keys() -> None:
    lines = [json.loads(line) for line in done("log", "dun-1", "--json").splitlines()]
    assert [line["name"] for line in lines] == [
        "claim", "started", "decision", "read", "intent", "seal", "intent", "seal", "finished",
    ]  # fmt: skip
    assert all(set(line) == LINE for line in lines)
    assert [line["seq"] for line in lines] == list(range(1, 10))


def test_the_log_in_words_has_one_line_for_each_entry() -> None:
    assert len(done("log", "hostile").splitlines()) == 1 + read("show", "hostile")["entries"]


# --- what a log says is data ---


@pytest.mark.parametrize("words", [["list"], ["show", "hostile"], ["show", "f"], ["show", "hostile@3"], ["log", "f"],
                                   ["log", "hostile"]])  # fmt: skip
@pytest.mark.parametrize("form", ["words", "json"])
def test_hostile_text_is_written_out_and_steers_nothing(words: list[str], form: str) -> None:
    result = typed(*words, *(["--json"] if form == "json" else []))
    assert result.exit_code == 0
    assert steers(result.stdout) == []
    assert steers(result.stderr) == []


def test_hostile_text_keeps_its_meaning_in_json() -> None:
    assert read("show", "f")["error"].startswith("ValueError: \x1b[31mred")
    assert json.loads(json.loads(done("show", "hostile", "--json"))["answer"]) == HOSTILE


def test_the_answer_of_a_hostile_agent_is_json_of_printable_signs() -> None:
    result = play("echo", HOSTILE, "hostile")
    assert steers(result.stdout) == []
    assert json.loads(result.stdout) == HOSTILE


def test_markup_is_shown_and_not_obeyed_on_a_terminal(store: Path) -> None:
    text = on_a_terminal("show", "f", cwd=store, NO_COLOR="1")
    assert "[red]markup[/red]" in text
    assert "\x1b[31m" not in text
    assert "\x1b]0;" not in text


# --- terminals ---


def test_on_80_columns_a_table_keeps_its_columns_and_cuts_only_the_last(store: Path) -> None:
    text = on_a_terminal("show", "hostile", cwd=store, NO_COLOR="1", TERM="dumb").splitlines()
    head = next(line for line in text if "OUTCOME" in line)
    assert head.split()[:4] == ["SEQ", "TOOL", "KIND", "OUTCOME"]
    row = text[text.index(head) + 1]
    assert row.split()[:4] == ["3", "put", "idempotent", "happened"]
    assert len(row) == 80
    assert row.endswith("…")


def test_in_a_pipe_nothing_is_cut_or_coloured(here: Path) -> None:
    assert json.dumps(HOSTILE)[1:40] in done("show", "hostile")
    assert "\x1b" not in done("list") + done("log", "dun-1") + done("show", "dun-1")


def test_no_color_turns_colours_off(store: Path) -> None:
    coloured, plain = (on_a_terminal("log", "dun-1", cwd=store, **more) for more in ({}, {"NO_COLOR": "1"}))
    assert "\x1b[32m" in coloured
    assert "\x1b[32m" not in plain


# --- what is not there, and what is not what it was ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "nobody"], "Unknown: there is no run `nobody`"),
        (["log", "nobody"], "Unknown: there is no run `nobody`"),
        (["show", "dun-1@99"], "Unknown: there is no entry 99 in `dun-1@main`"),
        (["show", "dun-1@0"], "Unknown: there is no entry 0 in `dun-1@main`"),
        (["log", "dun-1@3"], "Misuse: `dun-1@3` is not a run"),
        (["show", ""], "Misuse: `` is not a run"),
        (["list", "--status", "happy"], "Misuse: `happy` is no status"),
        (["list", "--store", "none.db"], "Unknown: there is no store here"),
        (["list", "--store", "memory://"], "Unknown: a store in memory ends with its process"),
    ],
)
def test_what_is_not_there_is_said_with_a_fix(words: list[str], said: str) -> None:
    result = typed(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(said)
    assert "\n  fix: " in result.stderr


@pytest.mark.parametrize("verb", ["list", "show", "log", "cancel", "approve", "anchor", "export"])
@pytest.mark.parametrize("content", [b"hello\n", bytes(range(256)) * 32])
def test_a_file_that_is_no_store_stops_with_5(tmp_path: Path, verb: str, content: bytes) -> None:
    (tmp_path / "x.db").write_bytes(content)
    about = {"list": [], "anchor": [], "approve": ["r@1"], "export": ["r", "-o", str(tmp_path / "b")]}
    result = typed(verb, *about.get(verb, ["r"]), "--store", str(tmp_path / "x.db"))
    assert result.exit_code == 5
    assert result.stderr.startswith("Corrupt: SQLite cannot read the store: file is not a database")
    assert "\n  fix: " in result.stderr


def _change(path: str, sql: str, *values: Any) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(sql, values)
        database.commit()


def test_a_log_is_shown_as_far_as_it_fits_its_chain(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    play("dun", {"to": "ann"}, "dun-1")
    _change("holdfast.db", "UPDATE entry SET at_ms = at_ms + 1 WHERE seq = 3")
    result = typed("log", "dun-1", "--json")
    assert result.exit_code == 5
    assert [json.loads(line)["seq"] for line in result.stdout.splitlines()] == [1, 2]
    assert "Corrupt: the log was changed: an entry does not fit the one before it [dun-1@main:3]" in result.stderr


def test_a_run_whose_log_was_changed_is_corrupt_in_the_list_beside_the_others(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    play("payer", {"cents": 5}, "pay-5")
    play("payer", {"cents": 6}, "pay-6")
    _change("holdfast.db", "UPDATE entry SET at_ms = at_ms + 1 WHERE id = 2")
    assert {row["run"]: row["status"] for row in read("list")} == {"pay-5": "corrupt", "pay-6": "held"}


def test_what_a_person_says_is_as_harmless_as_what_an_agent_says(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    play("waiter", None, "w")
    hostile = HOSTILE.replace("\x00", "")
    said = typed("signal", "w", hostile, '"x"', "--by", hostile)
    assert said.exit_code == 0
    ended = typed("cancel", "w", "--by", hostile, "--reason", hostile)
    for text in (said.output, ended.output, done("log", "w"), done("show", "w"), done("list")):
        assert steers(text) == []
