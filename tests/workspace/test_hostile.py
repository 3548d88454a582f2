"""Somebody who wants a restore to write outside: by names in a manifest, and by swapping directories for links."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
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


STEPS = frozenset(
    "open os.mkdir os.rename os.remove os.rmdir os.symlink os.link os.utime os.chmod os.scandir os.listdir "
    "os.truncate os.setxattr os.removexattr".split()
)


def life(work: Callable[[], object], swap: Callable[[], object], at: int) -> int:
    """Do `work` in a child, and `swap` right before its step number `at`. Returns how many steps there were."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        os.waitpid(pid, 0)
        return int(told)
    steps = 0

    def hook(name: str, _: object) -> None:
        nonlocal steps
        if name in STEPS:
            steps += 1
            if steps == at:
                swap()

    try:
        sys.addaudithook(hook)
        with contextlib.suppress(HoldfastError):
            work()
    finally:
        os.write(writing, str(steps).encode())
        os._exit(0)


def sow(root: Path, seed: int) -> None:
    for folder in ("a", "a/deep", "b"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / f"only{seed}").write_text("removed by the other")
        (root / folder / "file").write_text(f"content {seed}")
        (root / folder / "mode").write_text("the same")
        (root / folder / "mode").chmod(0o600 + seed)
        (root / folder / f"d{seed}").mkdir(exist_ok=True)
        (root / folder / f"d{seed}" / "x").write_text("in a directory")
    (root / "b" / "tied").unlink(missing_ok=True)
    os.link(root / "a" / "file", root / "b" / "tied")


def swaps(place: Place, victim: str, first: int, every: int) -> None:
    """`victim` becomes a link to an outside that looks just like it, before each of these steps."""
    sow(place.root, 0)
    wanted = place.files.capture().tree
    shutil.rmtree(place.root)
    place.root.mkdir()
    sow(place.root, 1)
    now = place.files.capture().tree
    outside = place.folder / "outside"
    shutil.copytree(place.root, outside / "1")
    place.files.restore(wanted)
    shutil.copytree(place.root, outside / "1", dirs_exist_ok=True)
    place.files.restore(now)

    def told() -> object:
        return {str(path): (*os.lstat(path)[:4], os.lstat(path).st_ctime_ns) for path in outside.rglob("*")}

    def swap() -> None:
        with contextlib.suppress(OSError):
            (place.root / victim).rename(place.root / "aside")
            (place.root / victim).symlink_to(outside / "1" / victim)

    before = told()
    steps = life(lambda: place.again().restore(wanted), swap, -1)
    assert steps > 60
    place.files.restore(now)
    for step in range(first, steps + 1, every):
        life(lambda: place.again().restore(wanted), swap, step)
        assert told() == before, f"before step {step}"
        place.files.restore(now)
        assert told() == before, f"putting back what was done before step {step}"


VICTIMS = ["a", "a/deep", "b", "a/d1", "a/deep/d0", "a/mode"]


@pytest.mark.parametrize(("victim", "first"), [(victim, at + 1) for at, victim in enumerate(VICTIMS)])
def test_a_swap_right_before_a_step_leads_nothing_outside(place: Place, victim: str, first: int) -> None:
    """Every eighth step; each victim has other ones."""
    swaps(place, victim, first, 8)


@pytest.mark.soak
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_swap_right_before_any_step_leads_nothing_outside(place: Place, victim: str) -> None:
    swaps(place, victim, 1, 1)


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
    assert race(place, 2.0) > 2


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
