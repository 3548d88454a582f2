"""`prune`: what it shows before, what it says afterwards, and what of it `verify`, `export` and `show` tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest

from holdfast import open_store
from holdfast.cli.prune import age_ms
from holdfast.store.url import postgres_address
from tests.cli.keyboard import done, play, read, typed
from tests.postgres import Postgres

STORE = "sqlite:///runs.db?anchor=anchor"
RESULT = {
    "dry_run", "runs", "left", "payloads", "bytes", "kept", "file_bytes", "free_bytes", "compacted", "objects",
}  # fmt: skip
MADE, COPY = "holdfast_made", "holdfast_copy"  # databases


def at(url: str) -> str:
    """A store there, whose key and anchor are in the directory that one stands in."""
    return f"{url}{'&' if '?' in url else '?'}key=log-key&anchor=anchor"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Postgres | None]:
    """A directory with a store (or its key and anchor) of three runs that have ended, and one that waits."""
    place = tmp_path_factory.mktemp("made")
    server: Postgres | None = request.getfixturevalue("postgres") if request.param == "postgres" else None
    store = STORE if server is None else at(server.copy("template0", MADE))
    with contextlib.chdir(place):
        play("dun", {"to": "ann"}, "dun-1", "--store", store)
        play("echo", "x" * 2000, "echo-1", "--store", store)
        play("echo", "x" * 2000, "echo-2", "--store", store)
        play("waiter", {}, "waiter-1", "--store", store)
    return place, server


@pytest.fixture(autouse=True)
def store(here: Path, made: tuple[Path, Postgres | None], monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of four runs, that every command of a test speaks of."""
    place, server = made
    shutil.copytree(place, here, dirs_exist_ok=True)
    store = STORE if server is None else at(server.copy(MADE, COPY))
    monkeypatch.setenv("HOLDFAST_STORE", store)
    return store


IN_A_FILE = pytest.mark.parametrize("made", ["sqlite"], indirect=True)
IN_A_DATABASE = pytest.mark.parametrize("made", ["postgres"], indirect=True)


def rows(sql: str, *values: bytes) -> list[Any]:
    store = os.environ["HOLDFAST_STORE"]
    if store != STORE:
        with psycopg.connect(postgres_address(store), autocommit=True, options="-c search_path=holdfast") as connection:
            found = connection.execute(sql.replace("?", "%s"), values or None)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []
    with contextlib.closing(sqlite3.connect("runs.db")) as database:
        found = database.execute(sql, values).fetchall()
        database.commit()
        return found


def digests() -> set[bytes]:
    return {digest for (digest,) in rows("SELECT digest FROM blob")}


# --- what would go, and what goes ---


def test_a_dry_run_shows_what_goes_of_each_run_and_changes_nothing() -> None:
    before = digests()
    shown = done("prune", "--older-than", "0s", "--dry-run").splitlines()
    assert [line.split()[:3] for line in shown[:-1]] == [
        ["RUN", "WHAT", "ENTRIES"],
        ["dun-1", "all", "9"],
        ["echo-1", "all", "5"],
        ["echo-2", "all", "5"],
    ]
    assert shown[-1].startswith("would prune ")
    assert digests() == before
    assert rows("SELECT count(*) FROM pruned") == [(0,)]


def test_what_a_dry_run_says_is_what_goes() -> None:
    said = read("prune", "--older-than", "0s", "--dry-run")
    assert set(said) == RESULT
    before = digests()
    went = read("prune", "--older-than", "0s")
    assert {**went, "dry_run": True, "file_bytes": 0, "free_bytes": 0} == {**said, "file_bytes": 0, "free_bytes": 0}
    assert len(before) - len(digests()) == went["payloads"] == sum(row["payloads"] for row in went["runs"])


def test_a_run_that_is_named_goes_and_what_others_share_with_it_stays() -> None:
    went = read("prune", "echo-1")
    assert [(row["run"], row["payloads"]) for row in went["runs"]] == [("echo-1", 0)], "echo-2 said the same"
    assert read("prune", "echo-2")["payloads"] > 0
    assert {row["run"]: row["status"] for row in read("list")}["echo-1"] == "finished"


def test_there_is_no_second_time() -> None:
    read("prune", "--older-than", "0s")
    assert read("prune", "--older-than", "0s")["runs"] == []
    assert done("prune", "--older-than", "0s") == "nothing to prune\n"


def test_it_says_what_was_kept_and_why() -> None:
    assert "Hint: there is no way back but a backup" in typed("prune", "--older-than", "0s", "--dry-run").stderr
    result = typed("prune", "--older-than", "0s")
    assert "1 run kept: it has not ended" in result.stderr
    (kept,) = read("prune", "--older-than", "0s")["kept"]
    assert kept == {"run": "waiter-1", "why": "it has not ended", "fix": "resume it, or holdfast cancel waiter-1"}


def test_who_pruned_is_written_down() -> None:
    done("prune", "dun-1", "--by", "ann")
    assert rows("SELECT by, extent, upto FROM pruned") == [("ann", "all", 9)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "BadCall: nothing says what may go"),
        (["--older-than", "soon"], "BadCall: `soon` is no age"),
        (["--older-than", "-1d"], "BadCall: `-1d` is no age"),
        (["nobody"], "Unknown: there is no run `nobody`"),
        (["waiter-1"], "Misuse: `waiter-1` keeps its payloads: it has not ended"),
        (["waiter-1", "--before-checkpoint"], "Misuse: `waiter-1` keeps its payloads: it has no checkpoint"),
        (["dun-1", "--older-than", "30d"], "Misuse: `dun-1` keeps its payloads: it is not that old"),
    ],
)
def test_what_cannot_be_pruned_is_refused_and_nothing_is_done(words: list[str], said: str) -> None:
    before = digests()
    result = typed("prune", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith(said)
    assert "\n  fix: " in result.stderr
    assert digests() == before


@pytest.mark.parametrize(
    ("age", "ms"),
    [("30d", 2_592_000_000), ("12h", 43_200_000), ("90min", 5_400_000), ("4w", 2_419_200_000), ("5s", 5000)],
)
def test_an_age_is_written_as_people_write_it(age: str, ms: int) -> None:
    assert age_ms(age) == ms


@IN_A_FILE
def test_a_log_that_is_not_the_one_its_anchor_knows_is_not_pruned() -> None:
    before = digests()
    rows("DELETE FROM entry WHERE id > 20")
    result = typed("prune", "--older-than", "0s")
    assert result.exit_code == 5
    assert result.stderr.startswith("RolledBack: ")
    assert digests() == before


def test_a_damaged_store_is_not_pruned() -> None:
    rows("UPDATE entry SET at_ms = at_ms + 1 WHERE seq = 3")
    before = digests()
    result = typed("prune", "echo-1", "--store", os.environ["HOLDFAST_STORE"].replace("anchor=anchor", "anchor=none"))
    assert result.exit_code == 5
    assert result.stderr.startswith("Corrupt: the log was changed")
    assert digests() == before


def test_a_mark_that_nobody_understands_is_a_fault_and_nothing_is_pruned_by_it() -> None:
    rows("INSERT INTO pruned (branch, upto, extent, at_ms, by) VALUES (1, 9, 'everything', 0, 'eve')")
    assert json.loads(typed("verify", "--json").stdout)["fault"]["what"].startswith("what was pruned cannot be read")
    before = digests()
    result = typed("prune", "--older-than", "0s")
    assert (result.exit_code, result.stderr.partition(":")[0]) == (5, "Corrupt")
    assert digests() == before


# --- what others tell of it ---


def test_a_pruned_store_verifies_and_says_how_much_was_pruned() -> None:
    whole = read("verify")
    assert whole["pruned"] == 0
    read("prune", "dun-1")
    verdict = read("verify")
    assert (verdict["ok"], verdict["entries"], verdict["heads"]) == (True, whole["entries"], whole["heads"])
    assert verdict["pruned"] > 3
    assert f" payloads ({verdict['pruned']} more pruned), " in done("verify")


def lose(digest: str) -> None:
    """Take a payload away, as a damage would."""
    assert rows("SELECT count(*) FROM blob WHERE digest = ?", bytes.fromhex(digest)) == [(1,)]
    rows("DELETE FROM blob WHERE digest = ?", bytes.fromhex(digest))
    if os.environ["HOLDFAST_STORE"] == STORE:
        rows("DELETE FROM blob_place WHERE digest = ?", bytes.fromhex(digest))


def field(node: str, name: str) -> str:
    """The digest of a payload that an entry names."""
    return read("show", node)["fields"][name]["digest"]


def test_a_payload_that_was_lost_and_not_pruned_is_a_fault_and_the_entry_that_names_it_is_told() -> None:
    read("prune", "echo-1")
    digest = field("dun-1@3", "asked")
    lose(digest)
    fault = json.loads(typed("verify", "--json").stdout)["fault"]
    assert fault["what"] == f"payload {digest} is missing, and was not pruned"
    assert (fault["rule"], fault["node"]) == ("blob", "dun-1@main:3")
    said = typed("verify").stdout
    assert said.startswith("BAD  ")
    assert f": entry 2 (dun-1@main:3): payload {digest}" in said


def test_a_payload_that_a_pruned_run_shared_is_missed_when_it_is_lost() -> None:
    read("prune", "echo-1")
    lose(field("echo-2@2", "input"))
    verdict = json.loads(typed("verify", "--json").stdout)
    assert verdict["ok"] is False
    assert verdict["fault"]["node"] == "echo-2@main:2"


def test_a_payload_that_was_changed_is_told_with_the_entry_that_names_it() -> None:
    digest = field("dun-1@3", "asked")
    rows("UPDATE blob SET data = ?, form = 0 WHERE digest = ?", b"\0", bytes.fromhex(digest))
    fault = json.loads(typed("verify", "--json").stdout)["fault"]
    assert (fault["rule"], fault["what"]) == ("blob", f"payload {digest} has other bytes")
    assert fault["node"] == "dun-1@main:3"


def test_a_pruned_run_can_be_exported_and_its_bundle_verifies() -> None:
    read("prune", "dun-1")
    for words in (["dun-1"], ["--all"]):
        done("export", *words, "-o", "bundle.jsonl", "--force")
        verdict = read("verify", "bundle.jsonl", "--vkey", read("anchor")["vkey"])
        assert verdict["ok"]
        assert verdict["pruned"] == read("verify")["pruned"]
    assert typed("export", "echo-1", "-o", "echo.jsonl").exit_code == 0
    assert read("verify", "echo.jsonl")["pruned"] == 0


def test_a_pruned_run_is_still_shown() -> None:
    done("prune", "dun-1")
    assert "(pruned)" in done("log", "dun-1")
    assert "dun-1" in done("show", "dun-1")
    assert "(pruned, too large to be shown, or not what was sealed" in done("show", "dun-1@2")


def test_a_pruned_run_is_not_begun_anew() -> None:
    done("prune", "dun-1")
    result = play("dun", {"to": "ann"}, "dun-1")
    assert result.exit_code == 2
    assert result.stderr.startswith("Unknown: a payload is not in the store: it was pruned, or lost")
    assert Path("mails").read_text() == "ann\n"


# --- the file ---


@IN_A_FILE
def test_compacting_gives_back_what_is_free() -> None:
    play("echo", os.urandom(300_000).hex(), "large")
    before = read("prune", "large")
    assert before["free_bytes"] > 300_000
    assert "holdfast prune --compact" in typed("prune", "--older-than", "0s").stderr
    after = read("prune", "--compact")
    assert (after["compacted"], after["free_bytes"]) == (True, 0)
    assert Path("runs.db").stat().st_size == after["file_bytes"] < before["file_bytes"] - 300_000
    assert read("verify")["ok"]


@IN_A_FILE
def test_while_a_run_is_being_advanced_nothing_is_compacted() -> None:
    with open_store(STORE) as house:
        asyncio.run(house.store.claim("waiter-1@main"))
        before = digests()
        result = typed("prune", "dun-1", "--compact")
        assert result.exit_code == 4
        assert result.stderr.startswith("Busy: `waiter-1` is being advanced by ")
        assert digests() == before
        assert typed("prune", "dun-1").exit_code == 0


@IN_A_DATABASE
def test_a_database_is_not_compacted_and_it_is_said_who_gives_room_back() -> None:
    before = digests()
    result = typed("prune", "dun-1", "--compact")
    assert result.exit_code == 2
    assert "autovacuum" in result.stderr
    assert digests() == before
