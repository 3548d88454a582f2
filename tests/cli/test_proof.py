"""`verify`, `anchor`, `export`: proof of a log, from its store and from a bundle far away from it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.cli.keyboard import done, on_a_terminal, play, process, read, typed

VERDICT = {
    "ok", "kind", "path", "entries", "branches", "payloads", "pruned", "heads", "unsigned", "vkey", "key_from",
    "anchor", "fault", "proven",
}  # fmt: skip
ANCHORED = {"log", "vkey", "entries", "head_size", "head_root", "anchor", "anchor_size", "agrees", "why"}
STORE = "sqlite:///runs.db?anchor=anchor"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store of two runs, its key and its anchor."""
    place = tmp_path_factory.mktemp("made")
    with contextlib.chdir(place):
        play("dun", {"to": "ann"}, "dun-1", "--store", STORE)
        play("echo", "x", "echo-1", "--store", STORE)
    return place


@pytest.fixture(autouse=True)
def two_runs(here: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a copy of its own, to look at or to damage."""
    shutil.copytree(made, here, dirs_exist_ok=True)
    monkeypatch.setenv("HOLDFAST_STORE", STORE)


def change(sql: str) -> None:
    with contextlib.closing(sqlite3.connect("runs.db")) as database:
        database.execute(sql)
        database.commit()


def contents(place: Path) -> dict[str, bytes]:
    """What the files of a directory say. To read, SQLite may open an empty write-ahead log."""
    said = {path.name: path.read_bytes() for path in place.iterdir() if not path.name.endswith("-shm")}
    return {name: data for name, data in said.items() if data or not name.endswith("-wal")}


def roll_back() -> None:
    """The store as it was, after a further run that its anchor has seen."""
    names = [name for name in ("runs.db", "runs.db-wal") if Path(name).exists()]
    for name in names:
        shutil.copy(name, f"old-{name}")
    play("echo", "y", "echo-2")
    for name in ("runs.db", "runs.db-wal", "runs.db-shm"):
        Path(name).unlink(missing_ok=True)
    for name in names:
        os.replace(f"old-{name}", name)


# --- verify ---


def test_a_store_that_nobody_touched_is_good() -> None:
    verdict = read("verify")
    assert set(verdict) == VERDICT
    assert (verdict["ok"], verdict["kind"], verdict["fault"]) == (True, "store", None)
    assert (verdict["branches"], verdict["entries"]) == (2, 9 + 5)
    assert verdict["anchor"] == "anchor"


@pytest.mark.parametrize("name", ["runs.db", STORE])
def test_a_store_is_named_by_its_file_or_its_url(name: str) -> None:
    assert done("verify", name, "--anchor", "anchor").startswith("OK   runs.db\n")


def test_without_a_key_from_elsewhere_the_verdict_says_how_little_it_proves() -> None:
    assert "only a key that you kept elsewhere: --vkey" in typed("verify").stderr
    assert typed("verify", "--vkey", read("anchor")["vkey"]).stderr == ""


@pytest.mark.parametrize(
    ("sql", "rule", "node"),
    [
        ("UPDATE entry SET at_ms = at_ms + 1 WHERE id = 3", "chain", "dun-1@main:3"),
        ("DELETE FROM entry WHERE id = 4", "place", None),
        ("UPDATE entry SET body = x'7b7d' WHERE id = 2", "chain", "dun-1@main:2"),
    ],
)
def test_the_first_bad_entry_of_a_store_is_named(sql: str, rule: str, node: str | None) -> None:
    change(sql)
    result = typed("verify", "--json")
    fault = json.loads(result.stdout)["fault"]
    assert result.exit_code == 1
    assert fault["rule"] == rule
    assert node is None or fault["node"] == node
    assert set(fault) == {"rule", "what", "index", "node"}


def test_a_bad_store_is_told_in_words_with_what_to_do() -> None:
    change("UPDATE entry SET at_ms = at_ms + 1 WHERE id = 3")
    result = typed("verify")
    assert result.exit_code == 1
    assert result.stdout.startswith("BAD  runs.db: entry 2 (dun-1@main:3): ")
    assert "Hint: keep the file as it is" in result.stderr


def test_verifying_changes_nothing(here: Path) -> None:
    before = contents(here)
    done("verify")
    assert contents(here) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.db"], "Unknown: it cannot be read: No such file or directory [none.db]"),
        (["."], "Unknown: it cannot be read: Is a directory [.]"),
        (["runs.db", "--vkey", "x"], "Misuse: `x` is no verifier key"),
        (["runs.db", "--anchor", "none.txt"], "Misuse: there is no anchor here [none.txt]"),
    ],
)
def test_what_cannot_be_verified_is_said_with_a_fix(words: list[str], said: str) -> None:
    result = typed("verify", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(said)
    assert "\n  fix: " in result.stderr


# --- export ---


def test_a_bundle_is_good_anywhere_with_a_key_from_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    vkey = read("anchor")["vkey"]
    away = tmp_path_factory.mktemp("away")
    result = typed("export", "--all", "-o", str(away / "all.jsonl"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"Hint: holdfast verify {away}/all.jsonl --vkey {vkey}" in result.stderr
    there = process("verify", "all.jsonl", "--vkey", vkey, "--anchor", "none", "--json", cwd=away)
    verdict = json.loads(there.stdout)
    assert (there.returncode, verdict["ok"], verdict["kind"], verdict["key_from"]) == (0, True, "bundle", "given")
    assert verdict["entries"] == 14


def test_one_run_is_exported_without_the_others() -> None:
    text = done("export", "echo-1", "-o", "-")
    assert '"branch":"echo-1@main"' in text
    assert "dun-1" not in text
    Path("one.jsonl").write_text(text)
    assert read("verify", "one.jsonl")["entries"] == 5


def test_a_bundle_in_which_a_sign_was_changed_is_bad() -> None:
    text = done("export", "--all", "-o", "-")
    Path("b.jsonl").write_text(text.replace('"at_ms":17', '"at_ms":18', 1))
    result = typed("verify", "b.jsonl", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["fault"]["index"] == 0


def test_an_export_replaces_no_file_unless_it_is_told_to() -> None:
    Path("b.jsonl").write_text("mine")
    result = typed("export", "--all", "-o", "b.jsonl")
    assert result.exit_code == 2
    assert "Misuse: the file exists [b.jsonl]" in result.stderr
    assert Path("b.jsonl").read_text() == "mine"
    done("export", "--all", "-o", "b.jsonl", "--force")
    assert read("verify", "b.jsonl")["ok"]


def test_an_export_that_fails_leaves_nothing_behind(here: Path) -> None:
    before = contents(here)
    assert typed("export", "nobody", "-o", "b.jsonl").exit_code == 2
    assert contents(here) == before


@pytest.mark.parametrize("words", [["-o", "b"], ["dun-1", "--all", "-o", "b"]])
def test_an_export_is_of_one_run_or_of_all(words: list[str]) -> None:
    result = typed("export", *words)
    assert result.exit_code == 2
    assert "BadCall: say either RUN or --all" in result.stderr


# --- anchor ---


def test_the_anchor_knows_the_whole_log() -> None:
    anchored = read("anchor")
    assert set(anchored) == ANCHORED
    assert (anchored["agrees"], anchored["entries"], anchored["anchor_size"]) == (True, 14, 14)


def test_a_log_that_was_rolled_back_is_read_but_starts_nothing() -> None:
    roll_back()
    assert len(read("list")) == 2
    result = play("echo", "z", "echo-3")
    assert result.exit_code == 5
    assert result.stderr.startswith("RolledBack: the log has 14 entries, its anchor knows of 19")
    assert "fix: restore the newer log; or, if this one is right, holdfast anchor --accept" in result.stderr


def test_a_log_that_was_rolled_back_is_bad_in_every_place_that_looks() -> None:
    roll_back()
    anchored = typed("anchor", "--json")
    assert (anchored.exit_code, json.loads(anchored.stdout)["agrees"]) == (5, False)
    assert typed("verify").exit_code == 1
    doctor = typed("doctor", "--json")
    assert doctor.exit_code == 1
    assert [check["name"] for check in json.loads(doctor.stdout)["checks"] if check["state"] == "fail"] == ["anchor"]


def test_somebody_who_accepts_a_rolled_back_log_is_named_and_keeps_the_old_anchor(here: Path) -> None:
    roll_back()
    result = typed("anchor", "--accept", "--by", "ann")
    assert (result.exit_code, result.stdout) == (
        0, "acknowledged by ann: the log has 14 entries, its anchor knows of 19\n",
    )  # fmt: skip
    kept = [path for path in here.iterdir() if path.name.startswith("anchor.")]
    assert len(kept) == 1
    assert str(kept[0].name) in result.stderr
    assert play("echo", "z", "echo-3").exit_code == 0
    assert typed("verify").exit_code == 0


def test_there_is_nothing_to_accept_where_all_agrees() -> None:
    result = typed("anchor", "--accept")
    assert result.exit_code == 2
    assert "there is nothing to acknowledge" in result.stderr


def test_long_work_shows_how_far_it_is_on_a_terminal_and_only_there(here: Path) -> None:
    assert "100%" in on_a_terminal("verify", "--store", STORE, cwd=here)
    assert "%" not in typed("verify").output


# --- proofs ---


@pytest.fixture(params=["sqlite", "postgres"])
def either(request: pytest.FixtureRequest, here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The verifier key of a store of either kind, in which two runs stand, one of them forked."""
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").empty()
        monkeypatch.setenv(
            "HOLDFAST_STORE", f"{url}{'&' if '?' in url else '?'}key={here}/pg-key&anchor={here}/anchor-pg"
        )
        play("dun", {"to": "ann"}, "dun-1")
        play("echo", "x", "echo-1")
    assert typed("fork", "dun-1@5").exit_code == 0
    return str(read("anchor")["vkey"])


def test_each_entry_is_proven_by_a_file_of_its_own(either: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away") / "entry.tlog-proof"
    for node in [*[f"dun-1@{seq}" for seq in range(1, 10)], "echo-1@1", "dun-1@b2:6", "dun-1@b2:3"]:
        assert typed("export", "--proof", node, "-o", str(away), "--force").exit_code == 0
        shown = read("verify", str(away), "--vkey", either)
        run, _, seq = node.replace("b2:", "").rpartition("@")
        branch = "b2" if node == "dun-1@b2:6" else "main"
        assert (shown["ok"], shown["kind"]) == (True, "proof")
        assert shown["proven"].startswith(f"{run}@{branch}:{seq} is entry ")


def test_the_same_entry_has_the_same_proof_however_long_its_log_has_grown(either: str) -> None:
    before = done("export", "--proof", "dun-1@4", "-o", "-")
    play("echo", "y", "echo-2")
    assert done("export", "--proof", "dun-1@4", "-o", "-") == before


def test_a_log_that_has_grown_is_shown_to_have_only_grown(either: str, here: Path) -> None:
    old = read("anchor")["anchor_size"]
    kept = next(path for path in (here / "anchor-pg", here / "anchor") if path.exists()).read_bytes()
    (here / "kept").write_bytes(kept)
    play("echo", "y", "echo-2")
    (here / "growth").write_text(done("anchor", "--since", str(old)))
    shown = read("verify", "growth", "--vkey", either, "--anchor", "kept")
    assert (shown["ok"], shown["kind"]) == (True, "growth")
    assert shown["proven"].startswith(f"the first {old} of ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "--proof", "dun-1@99", "-o", "x"], "Unknown: there is no such entry [dun-1@main:99]"),
        (["export", "dun-1", "--proof", "dun-1@1", "-o", "x"], "BadCall: say either RUN or --all, or --proof NODE"),
        (["anchor", "--since", "1000"], "Misuse: the newest head covers 14 entries"),
    ],
)
def test_what_cannot_be_proven_is_said(words: list[str], said: str) -> None:
    result = typed(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(said)


def test_a_proof_is_judged_by_a_key_and_a_growth_by_an_anchor() -> None:
    vkey = read("anchor")["vkey"]
    done("export", "--proof", "dun-1@4", "-o", "entry")
    Path("growth").write_text(done("anchor", "--since", "14"))
    assert "give it: --vkey KEY" in typed("verify", "entry").stderr
    assert "leave out --anchor" in typed("verify", "entry", "--vkey", vkey, "--anchor", "anchor").stderr
    assert "fix: --anchor FILE" in typed("verify", "growth", "--vkey", vkey).stderr
    Path("entry").write_text(Path("entry").read_text().replace("index 3", "index 2"))
    bad = typed("verify", "entry", "--vkey", vkey)
    assert (bad.exit_code, bad.stdout.startswith("BAD  entry: entry 2 (dun-1@main:4): ")) == (1, True)
