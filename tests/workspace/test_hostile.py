"""Somebody who wants a restore to write outside: by names in a manifest, and by swapping directories for links."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast.errors import Busy, Corrupt, HoldfastError, Unreadable, Unwritable
from holdfast.workspace import Packs, Workspace
from holdfast.workspace.manifest import File, Folder, Meta, Symlink, Tree, encode
from tests.workspace.census import census
from tests.workspace.conftest import Place

OUT = [b"", b".", b"..", b"/", b"/etc/passwd", b"../outside", b"a/../../outside", b"a\0b", b"a/", b"//", b"a/b"]
META = Meta(0o755, 0)


def plant(place: Place, *entries: File | Symlink | Folder) -> bytes:
    """A capture that no capture would have made."""
    with place.packs.writing():
        return place.packs.put(encode(Tree(META, tuple(entries))))


def content(place: Place) -> bytes:
    with place.packs.writing():
        return place.packs.put(b"written outside")


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("kind", ["file", "symlink", "folder"])
def test_a_name_that_leads_out_is_corrupt_and_nothing_is_written(place: Place, name: bytes, kind: str) -> None:
    (place.root / "inside").write_text("mine")
    before = census(place.folder)
    match kind:
        case "file":
            tree = plant(place, File(name, Meta(0o644, 0), 15, False, content(place)))
        case "symlink":
            tree = plant(place, Symlink(name, 0, b"/etc"))
        case _:
            tree = plant(place, Folder(name, plant(place, File(b"x", Meta(0o644, 0), 15, False, content(place)))))
    with pytest.raises(Corrupt, match="not one step down"):
        place.files.restore(tree)
    after = census(place.folder)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} <= {
        path for path in after if path.startswith(b"store")
    } | {b""}


def test_a_symlink_and_a_folder_of_the_same_name_cannot_both_be(place: Place) -> None:
    """The way out of many an archive: a link first, then a file through it."""
    inside = plant(place, File(b"x", Meta(0o644, 0), 15, False, content(place)))
    for entries in (
        (Symlink(b"d", 0, os.fsencode(place.folder)), Folder(b"d", inside)),
        (Folder(b"d", inside), Symlink(b"d", 0, os.fsencode(place.folder))),
    ):
        with pytest.raises(Corrupt):
            place.files.restore(plant(place, *entries))
    assert not (place.folder / "x").exists()


@pytest.mark.parametrize("leader", [b"../outside", b"/etc/passwd", b"d/../../outside", b"link/outside", b"missing"])
def test_a_hard_link_to_the_outside_is_not_made(place: Place, leader: bytes) -> None:
    (place.folder / "outside").write_text("written outside")
    tree = plant(
        place,
        File(b"file", Meta(0o644, 0), 15, False, content(place), leader),
        Symlink(b"link", 0, os.fsencode(place.folder)),
    )
    with pytest.raises(HoldfastError):
        place.files.restore(tree)
    outside = place.folder / "outside"
    assert outside.stat().st_nlink == 1


def test_a_symlink_where_a_directory_shall_be_is_replaced_and_not_followed(place: Place) -> None:
    (place.root / "d").mkdir()
    (place.root / "d" / "file").write_text("mine")
    tree = place.files.capture().tree
    (place.root / "d" / "file").unlink()
    (place.root / "d").rmdir()
    outside = place.folder / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    (place.root / "d").symlink_to(outside)
    before = census(outside)
    place.files.restore(tree)
    assert census(outside) == before
    assert not (place.root / "d").is_symlink()
    assert (place.root / "d" / "file").read_text() == "mine"


def test_a_removed_directory_takes_nothing_with_it_that_its_links_point_to(place: Place) -> None:
    empty = place.files.capture().tree
    outside = place.folder / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    (place.root / "d").mkdir()
    (place.root / "d" / "link").symlink_to(outside)
    (place.root / "link").symlink_to(outside)
    before = census(outside)
    place.files.restore(empty)
    assert census(outside) == before
    assert list(place.root.iterdir()) == []


# Swaps a directory with a link to the outside, as fast as it can, by renames alone.
SWAPPER = """
import os, sys
root, outside = sys.argv[1:]
os.chdir(root)
print("begun", flush=True)
while True:
    for name in ("a", "b", "c"):
        try:
            os.rename(name, name + ".aside")
            os.symlink(outside, name)
        except OSError:
            pass
        try:
            os.unlink(name)
        except OSError:
            pass
        try:
            os.rename(name + ".aside", name)
        except OSError:
            pass
"""


def race(place: Place, seconds: float) -> int:
    """Restore two captures in turns while somebody swaps their directories; how often it was tried."""
    outside = place.folder / "outside"
    trees = []
    for seed in range(2):
        roll = random.Random(seed)
        for folder in ("a", "b", "c"):
            for inner in ("", "deep", "deep/er"):
                (place.root / folder / inner).mkdir(parents=True, exist_ok=True)
                for number in range(6):
                    (place.root / folder / inner / f"file{number}").write_bytes(roll.randbytes(200))
        trees.append(place.files.capture().tree)
    for inner in (
        "",
        "deep",
        "deep/er",
    ):  # outside there is the same, so that a step through the link would find its way
        (outside / inner).mkdir(parents=True, exist_ok=True)
        for number in range(6):
            (outside / inner / f"file{number}").write_text("precious")
    before = (census(outside), {path: os.lstat(path).st_ctime_ns for path in sorted(outside.rglob("*"))})
    swapper = subprocess.Popen(
        [sys.executable, "-c", SWAPPER, str(place.root), str(outside)], stdout=subprocess.PIPE, text=True
    )
    tried = 0
    try:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(Busy, Unwritable, Unreadable):
                place.files.restore(trees[tried % 2])
            with contextlib.suppress(Busy, Unreadable):
                trees.append(place.files.capture().tree)
            tried += 1
    finally:
        swapper.kill()
        swapper.communicate()
    assert before == (census(outside), {path: os.lstat(path).st_ctime_ns for path in sorted(outside.rglob("*"))})
    packs = b"".join(place.packs.get(digest) for digest in place.packs.places())
    assert b"precious" not in packs, "a capture has read outside"
    place.files.restore(trees[0])
    fresh = place.folder / "fresh"
    fresh.mkdir()
    Workspace(fresh, Packs(place.store)).restore(trees[0])
    assert census(fresh) == census(place.root)
    return tried


def test_swapped_directories_lead_no_restore_and_no_capture_outside(place: Place) -> None:
    assert race(place, 4.0) > 3


@pytest.mark.soak
def test_swapped_directories_lead_nothing_outside_for_a_minute(place: Place) -> None:
    assert race(place, 60.0) > 50


def test_the_store_itself_is_not_found_through_a_link_in_the_workspace(place: Place) -> None:
    (place.root / "store").symlink_to(place.store)
    tree = place.files.capture().tree
    (place.root / "store").unlink()
    place.files.restore(tree)
    assert os.readlink(place.root / "store") == str(place.store)
    assert Path(place.store / "packs").is_dir()
