"""Looking at many runs, and at long ones: by pages, read ahead, from a checkpoint on. It tells what looking at all of
it tells, on a store in a file and on PostgreSQL."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import ahead
from tests.cli.keyboard import TROUPE, done, play, read, typed
from tests.postgres import Postgres

RUNS = {
    "dun-1": ("dun", {"to": "ann"}, "finished"),
    "pay-5": ("payer", {"cents": 5}, "held"),
    "w": ("waiter", None, "waiting"),
    "s": ("sleeper", {"seconds": 3600}, "asleep"),
    "f": ("failing", None, "failed"),
    "walk-0": ("walker", {"steps": 120, "cents": 0}, "finished"),
    "walk-9": ("walker", {"steps": 120, "cents": 9}, "held"),
    "rec": ("recorder", {"cents": 7}, "held"),
    "c": ("waiter", None, "cancelled"),
    "forked": ("dun", {"to": "bob"}, "waiting"),
    "e": ("echo", "x", "finished"),
}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A directory and a store in which a run of each kind has been; the tests of this file only look."""
    folder, url = tmp_path_factory.mktemp("runs"), "runs.db"
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.empty()
        url += f"{'&' if '?' in url else '?'}key={folder}/log-key"
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_STORE", url)
        for run, (agent, task, _) in RUNS.items():
            play(agent, task, run)
        typed("resume", "rec", "--agent", f"{TROUPE}:recorder", "--no-wait")
        done("cancel", "c", "--by", "ann", "--reason", "enough")
        done("fork", "forked@4")
    return folder, url


@pytest.fixture(autouse=True)
def at_the_store(place: tuple[Path, str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place[0])
    monkeypatch.setenv("HOLDFAST_STORE", place[1])


def listed(*words: str) -> list[str]:
    return [row["run"] for row in read("list", *words)]


def test_each_run_is_listed_as_it_stands() -> None:
    found = read("list")
    assert {row["run"]: row["status"] for row in found} == {run: status for run, (_, _, status) in RUNS.items()}
    assert {row["run"]: row["branches"] for row in found if row["branches"] > 1} == {"forked": 2}
    assert [row["newest_ms"] for row in found] == sorted((row["newest_ms"] for row in found), reverse=True)


def test_what_waits_is_told_with_its_place() -> None:
    about = {row["run"]: row["about"] for row in read("list")}
    assert about["pay-5"] == "pay-5@3 pay"
    assert about["walk-9"] == f"walk-9@{read('show', 'walk-9')['entries']} pay"
    assert about["rec"] == "rec@4 pay"
    assert about["c"] == "by ann: enough"


def test_a_hold_before_the_checkpoint_of_an_agent_that_is_replayed_is_seen() -> None:
    names = [json.loads(line)["name"] for line in done("log", "rec", "--json").splitlines()]
    assert names.index("hold") < names.index("checkpoint"), names
    assert listed("--status", "held") == ["rec", "walk-9", "pay-5"]
    assert [need["why"] for need in read("show", "rec")["needs"]] == ["hold"]


@pytest.mark.parametrize("first", [1, 4])
@pytest.mark.parametrize("limit", [1, 3])
def test_page_after_page_lists_each_run_once(limit: int, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "FIRST", first)
    for filters in ((), ("--status", "finished"), ("--status", "held", "--status", "waiting"), ("--status", "failed")):
        found = listed(*filters, "--limit", str(limit))
        while page := listed(*filters, "--limit", str(limit), "--after", found[-1]):
            found += page
        assert found == listed(*filters)
        statuses = set(filters[1::2])
        assert set(found) == {run for run, (_, _, status) in RUNS.items() if not statuses or status in statuses}


def test_there_is_no_page_after_a_run_that_is_not_there() -> None:
    result = typed("list", "--after", "nobody")
    assert (result.exit_code, result.stderr.split(":")[0]) == (2, "Unknown")


# --- one long run ---


def apart(shown: dict[str, Any]) -> dict[str, Any]:
    """What `show` tells of a run, but for what it counts."""
    return {name: value for name, value in shown.items() if name not in ("counts", "counted_after", "effects")}


@pytest.mark.parametrize("run", ["walk-0", "walk-9"])
def test_a_long_run_is_shown_from_a_checkpoint_on(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read("show", run)
    monkeypatch.setattr("holdfast.cli.show.LOOKED_AT", 30)
    shown = read("show", run, "--limit", "6")
    assert (whole["counted_after"], whole["counts"]["checkpoint"]) == (0, 2)
    assert shown["entries"] - shown["counted_after"] >= 30
    assert (shown["counts"]["intent"], whole["counts"]["intent"]) == (21, 120)
    assert shown["effects"] == whole["effects"][-6:]
    assert apart(shown) == apart(whole)
    assert f"of the newest {shown['entries'] - shown['counted_after']}" in typed("show", run, "--limit", "6").stdout


def test_a_run_that_is_replayed_from_its_beginning_is_shown_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.cli.show.LOOKED_AT", 1)
    assert read("show", "rec", "--limit", "0")["counted_after"] == 0


def test_whoever_wants_more_effects_is_shown_them() -> None:
    assert len(read("show", "walk-0", "--limit", "1000")["effects"]) == 120
