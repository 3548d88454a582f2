"""`files`: the files of checkpoints, looked at, compared, restored elsewhere, and collected."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.cli.keyboard import play, typed

STORE = Path("holdfast.db-files")


@pytest.fixture(autouse=True, params=["sqlite", pytest.param("postgres", marks=pytest.mark.soak), "outside"])
def kind(request: pytest.FixtureRequest, here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """In which store the runs are; `outside`: one that has their files too."""
    if request.param != "sqlite":
        url = request.getfixturevalue("postgres").empty()
        url += f"{'&' if '?' in url else '?'}key=log-key&anchor=anchor&workspaces={STORE}"
        if request.param == "outside":
            (here / "blobs").mkdir()
            url += f"&blobs=file://{here}/blobs"
        monkeypatch.setenv("HOLDFAST_STORE", url)
    return str(request.param)


IN_A_FILE = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
IN_A_DATABASE = pytest.mark.parametrize("kind", ["postgres"], indirect=True)
OUTSIDE = pytest.mark.parametrize("kind", ["outside"], indirect=True)


def built() -> None:
    """A run of three parts that broke after its second, and was run again."""
    Path("broken").touch()
    assert play("builder", {"parts": 3}, "b").exit_code == 1
    Path("broken").unlink()
    assert play("builder", {"parts": 3}, "b").stdout == "3\n"


def kept() -> str:
    (copy,) = json.loads(typed("files", "--json").stdout)["kept"]
    return copy["place"]


def test_a_runs_checkpoints_and_the_copies_of_its_files_are_told() -> None:
    built()
    told = json.loads(typed("files", "b", "--json").stdout)
    assert [each["services"] for each in told["checkpoints"]] == [[], ["serve 0"], ["serve 1"], ["serve 2"]]
    assert [each["branch"] for each in told["kept"]] == ["b@main"]
    shown = typed("files", "b")
    assert [row.split()[0] for row in shown.stdout.splitlines()[1:]] == [
        *(each["node"] for each in told["checkpoints"]),
        told["kept"][0]["place"][: len("kept:") + 16],
    ]
    assert "Hint: holdfast files kept:" in shown.stderr


def test_a_copy_brings_back_what_was_there_before_files_were_put_back() -> None:
    built()
    assert typed("files", kept(), "--into", "copy").exit_code == 0
    names = sorted(path.name for path in Path("copy").iterdir())
    assert len(names) == 2
    assert names[1] == "part 1"
    assert Path("copy", names[0]).read_text() == "an hour of work"
    assert typed("files", kept()[: len("kept:") + 8], "--into", "again").exit_code == 0


def test_the_files_at_a_node_are_those_of_the_checkpoint_at_or_before_it() -> None:
    built()
    nodes = [each["node"] for each in json.loads(typed("files", "b", "--json").stdout)["checkpoints"]]
    for number, node in enumerate(nodes):
        assert typed("files", node, "--into", f"at {number}").exit_code == 0
        assert sorted(path.name for path in Path(f"at {number}").iterdir()) == [f"part {n}" for n in range(number)]
    between = f"b@{int(nodes[2].partition('@')[2]) + 1}"
    assert typed("files", between, "--list").stdout.split("\n")[0].split() == ["644", "1", "part", "0"]
    assert len(typed("files", "b", "--list").stdout.splitlines()) == 3
    early = typed("files", "b@2", "--list")
    assert early.exit_code == 2
    assert "no checkpoint at or before `b@2` has files" in early.stderr


def test_what_differs_between_two_places_is_told() -> None:
    built()
    nodes = [each["node"] for each in json.loads(typed("files", "b", "--json").stdout)["checkpoints"]]
    changes = [json.loads(line) for line in typed("files", nodes[1], "--diff", "b", "--json").stdout.splitlines()]
    assert changes == [{"change": "added", "path": f"part {n}", "to": None} for n in (1, 2)]
    shown = typed("files", nodes[2], "--diff", kept()).stdout
    assert sorted(line.split()[0] for line in shown.splitlines()) == ["added", "removed"]


def test_names_of_files_are_shown_and_never_obeyed() -> None:
    built()
    for told in (typed("files", kept(), "--list"), typed("files", kept(), "--list", "--json")):
        assert "\x1b" not in told.stdout
        assert "\u202e" not in told.stdout
        assert "forged line" in told.stdout
    assert len(typed("files", kept(), "--list").stdout.splitlines()) == 2


def test_files_are_only_restored_where_nothing_is() -> None:
    built()
    Path("full").mkdir()
    Path("full", "mine").write_text("mine")
    Path("file").write_text("mine")
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    for target in ("full", "file", "link", str(STORE / "work" / "b@main"), str(STORE / "new")):
        told = typed("files", "b", "--into", target)
        assert told.exit_code == 2
        assert "new or empty directory" in told.stderr
    assert os.listdir("full") == ["mine"]
    assert os.listdir("empty") == []
    assert typed("files", "b", "--into", "empty").exit_code == 0
    assert len(os.listdir("empty")) == 3


@IN_A_FILE
@pytest.mark.parametrize(
    "words",
    [
        ["b", "--list", "--into", "x"],
        ["--list"],
        ["--into", "x"],
        ["b", "--collect"],
        ["b", "--dry-run"],
        ["nobody"],
        ["nobody@3", "--list"],
        ["kept:00000000", "--list"],
        ["kept:", "--list"],
        ["b@x:y", "--list"],
    ],
)
def test_what_cannot_be_understood_or_found_is_refused(words: list[str]) -> None:
    built()
    assert typed("files", *words).exit_code == 2


def test_a_store_without_files_says_so() -> None:
    play("echo", "x", "e")
    assert "no files" in typed("files").stderr
    assert "no files" in typed("files", "e").stderr
    assert typed("files", "e", "--list").exit_code == 2
    assert json.loads(typed("files", "--collect", "--json").stdout)["packs_removed"] == 0
    assert not STORE.exists()


def test_a_collection_leaves_every_checkpoint_and_every_copy() -> None:
    built()
    place = kept()
    assert typed("files", "--collect").exit_code == 0
    assert typed("files", place, "--into", "copy").exit_code == 0
    for each in json.loads(typed("files", "b", "--json").stdout)["checkpoints"]:
        assert typed("files", each["node"], "--into", each["node"]).exit_code == 0


def test_copies_are_collected_when_they_are_old_enough() -> None:
    built()
    path = STORE / "kept" / kept().removeprefix("kept:")
    told = json.loads(path.read_text())
    for days, dropped in ((29, 0), (31, 1)):
        path.write_text(json.dumps({**told, "at_ms": int((time.time() - days * 24 * 3600) * 1000)}))
        dry = json.loads(typed("files", "--collect", "--dry-run", "--json").stdout)
        assert (dry["dry_run"], dry["copies_dropped"]) == (True, dropped)
        assert path.exists()
        assert json.loads(typed("files", "--collect", "--json").stdout)["copies_dropped"] == dropped
    assert not path.exists()


def test_a_run_works_in_the_directory_that_is_named() -> None:
    Path("checkout").mkdir()
    refused = play("builder", {"parts": 2}, "b", "--workspace", ".")
    assert refused.exit_code == 2
    assert "lies in the workspace" in refused.stderr
    assert play("builder", {"parts": 2}, "b", "--workspace", "checkout").exit_code == 0
    assert sorted(os.listdir("checkout")) == ["part 0", "part 1"]


def test_the_files_of_two_branches_are_compared_with_the_branches() -> None:
    assert play("builder", {"parts": 3}, "b").stdout == "3\n"
    told = json.loads(typed("files", "b", "--json").stdout)["checkpoints"]
    typed("fork", f"{told[1]['node']}", "--what-if", "--by", "ann")
    assert typed("diff", "b@main", "b@b2").exit_code == 0
    found = json.loads(typed("diff", "b@main", "b@b2", "--json").stdout)["files"]
    assert found == [
        {"change": "removed", "path": "part 1", "to": None},
        {"change": "removed", "path": "part 2", "to": None},
    ]
    shown = typed("diff", "b@b2", "b@main").stdout
    assert [row.split(maxsplit=1) for row in shown.splitlines() if row.startswith("added")] == [
        ["added", "part 1"], ["added", "part 2"],
    ]  # fmt: skip


def test_branches_without_files_are_compared_all_the_same() -> None:
    assert play("failing", None, "m").exit_code == 1
    typed("fork", "m@2", "--what-if", "--by", "ann")
    assert json.loads(typed("diff", "m@main", "m@b2", "--json").stdout)["files"] == []


# --- where the store has the files too, or other machines have some ---


def nodes() -> list[str]:
    return [each["node"] for each in json.loads(typed("files", "b", "--json").stdout)["checkpoints"]]


@OUTSIDE
def test_what_is_missing_here_is_fetched(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built()
    shutil.rmtree(STORE)
    second = nodes()[2]
    assert typed("files", second, "--into", "then").exit_code == 0
    assert sorted(path.name for path in Path("then").iterdir()) == ["part 0", "part 1"]
    assert (STORE / "packs").is_dir(), "it is kept for the next time"
    shutil.rmtree(STORE)
    monkeypatch.setenv("HOLDFAST_STORE", os.environ["HOLDFAST_STORE"].replace(f"&workspaces={STORE}", ""))
    shown = typed("files", second, "--diff", "b", "--json")
    assert [json.loads(line)["path"] for line in shown.stdout.splitlines()] == ["part 2"]
    assert not STORE.exists(), "this machine keeps none"


@OUTSIDE
def test_an_entry_shows_where_its_files_are() -> None:
    built()
    shown = typed("show", nodes()[1])
    assert shown.exit_code == 0, shown.output
    assert "parcels" in shown.stdout
    ((tree, _, _), *_) = json.loads(typed("show", nodes()[1], "--json").stdout)["fields"]["parcels"]
    assert len(tree) == 64


@OUTSIDE
def test_the_files_of_a_pruned_run_are_gone_here_too() -> None:
    built()
    assert typed("files", "--collect", "--json").exit_code == 0
    before = sum(path.stat().st_size for path in STORE.glob("packs/*.pack"))
    shutil.rmtree(STORE / "kept")
    assert typed("prune", "b").exit_code == 0
    assert json.loads(typed("files", "--collect", "--json").stdout)["packs_removed"] > 0
    assert sum(path.stat().st_size for path in STORE.glob("packs/*.pack")) < before
    gone = typed("files", "b", "--into", "then")
    assert gone.exit_code == 2
    assert "it was pruned, or lost" in gone.stderr


@IN_A_DATABASE
def test_a_collection_here_does_not_miss_the_files_of_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    built()
    monkeypatch.setenv("HOLDFAST_STORE", os.environ["HOLDFAST_STORE"].replace(f"={STORE}", "=elsewhere"))
    assert play("builder", {"parts": 1}, "c").exit_code == 0
    assert typed("files", "--collect").exit_code == 0
    assert typed("files", "c", "--into", "mine").exit_code == 0
    there = typed("files", "b", "--into", "theirs")
    assert there.exit_code == 5
    assert "a blob of the workspace is missing" in there.stderr


@IN_A_DATABASE
def test_a_machine_without_files_says_where_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    built()
    monkeypatch.setenv("HOLDFAST_STORE", os.environ["HOLDFAST_STORE"].replace(f"&workspaces={STORE}", ""))
    assert "b@" in typed("files", "b").stdout
    result = typed("files", "b", "--list")
    assert result.exit_code == 2
    assert "they may be on the machine that it ran on" in result.stderr
