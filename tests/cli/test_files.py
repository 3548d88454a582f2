"""`files`: the files of checkpoints, looked at, compared, restored elsewhere, and collected."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.cli.keyboard import play, typed

STORE = Path("holdfast.db-files")


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
