"""One thing that a directory can hold, or that can happen in it, for each test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from holdfast.errors import Misuse, Unreadable
from holdfast.workspace import Packs, Workspace
from tests.workspace.census import census
from tests.workspace.conftest import Place


def round_trip(place: Place) -> None:
    """Capture, ruin everything, restore, compare; and the same into an empty directory."""
    before = census(place.root)
    tree = place.files.capture().tree
    for entry in list(place.root.iterdir()):
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    place.files.restore(tree)
    assert census(place.root) == before
    elsewhere = place.folder / "elsewhere"
    place.again(root=elsewhere).restore(tree)
    assert census(elsewhere) == before


@pytest.mark.parametrize("mode", [0o400, 0o444, 0o600, 0o755, 0o2755, 0o6711])
def test_a_file_keeps_its_mode(place: Place, mode: int) -> None:
    (place.root / "file").write_text("text")
    (place.root / "file").chmod(mode)
    round_trip(place)


def test_a_directory_that_may_not_be_written_keeps_its_mode_and_what_is_in_it(place: Place) -> None:
    (place.root / "shut" / "inner").mkdir(parents=True)
    (place.root / "shut" / "inner" / "file").write_text("text")
    (place.root / "shut" / "inner").chmod(0o555)
    (place.root / "shut").chmod(0o555)
    before = census(place.root)
    tree = place.files.capture().tree
    place.again(root=place.folder / "elsewhere").restore(tree)
    assert census(place.folder / "elsewhere") == before


def test_times_are_kept_to_the_nanosecond(place: Place) -> None:
    (place.root / "file").write_text("text")
    os.utime(place.root / "file", ns=(1, 1_234_567_890_123_456_789))
    os.utime(place.root, ns=(1, 1_000_000_000_000_000_007))
    round_trip(place)


def test_a_symlink_is_kept_and_not_followed(place: Place) -> None:
    (place.folder / "secret").write_text("outside")
    (place.root / "out").symlink_to(place.folder / "secret")
    (place.root / "nowhere").symlink_to("does/not/exist")
    (place.root / "up").symlink_to("..")
    round_trip(place)
    assert b"outside" not in b"".join(path.read_bytes() for path in place.store.rglob("*.pack"))


def test_hard_links_are_one_file_again_across_directories(place: Place) -> None:
    (place.root / "a").mkdir()
    (place.root / "b").mkdir()
    (place.root / "b" / "first").write_text("one")
    os.link(place.root / "b" / "first", place.root / "a" / "second")
    os.link(place.root / "b" / "first", place.root / "third")
    round_trip(place)
    (place.root / "third").write_text("changed")
    assert (place.root / "a" / "second").read_text() == "changed"


def test_a_hard_link_that_is_cut_is_seen_though_no_byte_changed(place: Place) -> None:
    (place.root / "one").write_text("text")
    os.link(place.root / "one", place.root / "two")
    tied, before = place.files.capture().tree, census(place.root)
    shutil.copy2(place.root / "two", place.root / "copy")
    (place.root / "copy").rename(place.root / "two")
    assert place.files.capture().tree != tied
    place.files.restore(tied)
    assert census(place.root) == before


def test_the_first_name_of_a_file_may_move_where_nothing_else_shows_it(place: Place) -> None:
    """Its directory is renamed: in the other directory no time changes, and yet it tells another first name."""
    (place.root / "a").mkdir()
    (place.root / "b").mkdir()
    (place.root / "a" / "file").write_text("text")
    os.link(place.root / "a" / "file", place.root / "b" / "file")
    place.files.capture()
    (place.root / "a").rename(place.root / "z")
    tree, told = place.files.capture().tree, census(place.root)
    assert place.stranger().capture().tree == tree
    place.again(root=place.folder / "elsewhere").restore(tree)
    assert census(place.folder / "elsewhere") == told


def test_a_file_that_has_a_name_outside_is_not_changed_out_there(place: Place) -> None:
    outside = place.folder / "outside"
    outside.write_text("text")
    outside.chmod(0o600)
    os.link(outside, place.root / "inside")
    tree = place.files.capture().tree
    (place.root / "inside").chmod(0o777)
    os.utime(place.root / "inside", ns=(1, 1))
    place.files.restore(tree)
    assert (place.root / "inside").stat().st_mode & 0o777 == 0o600
    assert (outside.stat().st_mode & 0o777, outside.stat().st_mtime_ns) == (0o777, 1)


def test_empty_directories_and_empty_files_are_kept(place: Place) -> None:
    (place.root / "empty" / "deep" / "deeper").mkdir(parents=True)
    (place.root / "nothing").touch()
    round_trip(place)


def test_an_empty_workspace_is_one(place: Place) -> None:
    round_trip(place)


def test_a_pipe_is_kept_and_does_not_hold_up_the_capture(place: Place) -> None:
    os.mkfifo(place.root / "pipe", 0o640)
    round_trip(place)


def test_a_socket_is_neither_captured_nor_removed(place: Place) -> None:
    tree = place.files.capture().tree
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place.root / "socket"))
    os.utime(place.root, ns=(1, 1))
    place.files.restore(tree)
    assert (place.root / "socket").is_socket()


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"\xed\xa0\x80", b"new\nline", b"tab\t", b"\x01", b"-rf *", b"...", b" ", b"x" * 255]
)
def test_a_name_is_bytes(place: Place, name: bytes) -> None:
    try:
        with open(os.fsencode(place.root) + b"/" + name, "wb") as file:
            file.write(b"text")
        os.mkdir(os.fsencode(place.root) + b"/d" + name[:200])
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    round_trip(place)


def test_extended_attributes_are_kept(place: Place) -> None:
    if not hasattr(os, "setxattr"):
        pytest.skip("Python cannot set extended attributes on this system")
    (place.root / "file").write_text("text")
    (place.root / "folder").mkdir()
    try:
        os.setxattr(place.root / "file", "user.origin", b"\0\xffbytes")
        os.setxattr(place.root / "folder", "user.label", b"untrusted")
    except OSError as error:
        pytest.skip(f"this file system has no extended attributes: {error}")
    round_trip(place)
    tree = place.files.capture().tree
    os.setxattr(place.root / "file", "user.origin", b"other")
    os.setxattr(place.root / "file", "user.more", b"more")
    place.files.restore(tree)
    assert os.listxattr(place.root / "file") == ["user.origin"]
    assert os.getxattr(place.root / "file", "user.origin") == b"\0\xffbytes"


def test_a_sparse_file_of_gigabytes_costs_neither_time_nor_room(place: Place) -> None:
    """6 GB apparent: reading them, or writing them, would be told by the sizes below."""
    with (place.root / "sparse").open("wb") as file:
        file.truncate(6 << 30)
        file.seek(3 << 30)
        file.write(b"in the middle" * 10_000)
        file.seek((6 << 30) - 5)
        file.write(b"at end")
    tree = place.files.capture().tree
    elsewhere = place.folder / "elsewhere"
    place.again(root=elsewhere).restore(tree)
    made = (elsewhere / "sparse").stat()
    assert made.st_size == (6 << 30) + 1
    assert made.st_blocks * 512 < 1 << 20
    with (elsewhere / "sparse").open("rb") as file:
        file.seek(3 << 30)
        assert file.read(130_010) == b"in the middle" * 10_000 + bytes(10)
        file.seek((6 << 30) - 8)
        assert file.read() == b"\0\0\0at end"


SHUT = 0 if os.geteuid() == 0 else 0o500  # into a directory that may not be read only root can look
CHANGES = {
    "a file becomes a directory": lambda root: (root / "x").unlink() or (root / "x").mkdir(),
    "a file becomes a symlink": lambda root: (root / "x").unlink() or (root / "x").symlink_to("y"),
    "a file becomes a pipe": lambda root: (root / "x").unlink() or os.mkfifo(root / "x"),
    "a directory becomes a file": lambda root: shutil.rmtree(root / "d") or (root / "d").write_text("file"),
    "a directory becomes a symlink": lambda root: shutil.rmtree(root / "d") or (root / "d").symlink_to("e"),
    "a symlink becomes a file": lambda root: (root / "l").unlink() or (root / "l").write_text("file"),
    "a symlink points elsewhere": lambda root: (root / "l").unlink() or (root / "l").symlink_to("d"),
    "a file is renamed": lambda root: (root / "x").rename(root / "renamed"),
    "a directory is renamed": lambda root: (root / "d").rename(root / "e" / "d"),
    "two files change places": lambda root: (
        (root / "x").rename(root / "t"),
        (root / "y").rename(root / "x"),
        (root / "t").rename(root / "y"),
    ),
    "a tree is deleted": lambda root: shutil.rmtree(root / "d"),
    "a file of the same size and times": lambda root: forge(root / "x"),
    "everything is deleted": lambda root: [
        shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink() for one in root.iterdir()
    ],
    "a directory is shut": lambda root: (root / "d").chmod(SHUT),
}


def forge(path: Path) -> None:
    told = path.stat()
    path.write_text("eks")
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_was_changed_is_seen_and_can_be_taken_back(place: Place, change) -> None:
    (place.root / "d" / "inner").mkdir(parents=True)
    (place.root / "d" / "inner" / "file").write_text("deep")
    (place.root / "e").mkdir()
    (place.root / "x").write_text("ex.")
    (place.root / "y").write_text("why")
    (place.root / "l").symlink_to("x")
    first, before = place.files.capture().tree, census(place.root)
    change(place.root)
    after = census(place.root)
    second = place.again().capture().tree
    place.files.restore(first)
    assert census(place.root) == before
    place.files.restore(second)
    assert census(place.root) == after


def test_a_restore_touches_only_what_differs(place: Place) -> None:
    for name in "abc":
        (place.root / name).mkdir()
        (place.root / name / "file").write_text(name)
    tree = place.files.capture().tree

    def seen() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_ino, path.stat().st_ctime_ns)
            for path in [*(place.root / "a").rglob("*"), *(place.root / "c").rglob("*"), place.root / "a"]
        }

    untouched = seen()
    (place.root / "b" / "file").write_text("changed")
    (place.root / "b" / "more").write_text("new")
    assert sorted(place.files.restore(tree).touched) == ["b/file", "b/more"]
    assert seen() == untouched


def test_what_is_ignored_is_neither_captured_nor_touched(place: Place) -> None:
    files = place.again("*.pyc", "cache/", "/out")
    (place.root / "deep" / "cache").mkdir(parents=True)
    (place.root / "deep" / "cache" / "x").write_text("cached")
    (place.root / "deep" / "code.pyc").write_text("compiled")
    (place.root / "out").write_text("made")
    (place.root / "deep" / "out").write_text("kept")
    tree = files.capture().tree
    (place.root / "deep" / "cache" / "x").write_text("cached anew")
    (place.root / "deep" / "out").write_text("lost")
    assert files.restore(tree).touched == ("deep/out",)
    assert (place.root / "deep" / "cache" / "x").read_text() == "cached anew"
    assert (place.root / "deep" / "out").read_text() == "kept"
    elsewhere = place.folder / "elsewhere"
    place.again("*.pyc", "cache/", "/out", root=elsewhere).restore(tree)
    assert sorted(str(path.relative_to(elsewhere)) for path in elsewhere.rglob("*")) == ["deep", "deep/out"]


def test_a_capture_that_holds_what_is_ignored_now_is_not_restored(place: Place) -> None:
    (place.root / "file.pyc").write_text("compiled")
    tree = place.files.capture().tree
    with pytest.raises(Misuse, match=r"`file\.pyc`, which is ignored now"):
        place.again("*.pyc", root=place.folder / "elsewhere").restore(tree)


def test_a_store_inside_its_workspace_is_refused(place: Place) -> None:
    with pytest.raises(Misuse, match="lies inside the workspace"):
        Workspace(place.root, Packs(place.root / "store"))


def test_directories_deeper_than_can_be_gone_are_told(place: Place) -> None:
    fd = os.open(place.root, os.O_RDONLY)
    for _ in range(210):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(Unreadable, match="nested deeper than 200"):
        place.files.capture()


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from holdfast.errors import Unreadable
from holdfast.workspace import Packs, Workspace
if os.geteuid() == 0:
    os.chown(sys.argv[1], 65534, 65534)
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
base = Path(sys.argv[1])
(base / "tree" / "d").mkdir(parents=True)
(base / "tree" / "secret").write_text("text")
(base / "tree" / "d" / "file").write_text("text")
files = Workspace(base / "tree", Packs(base / "store"))
tree = files.capture().tree
for shut in ("secret", "d"):
    (base / "tree" / shut).chmod(0)
    try:
        files.capture()
    except Unreadable as error:
        print(error.where, "|", error)
    assert sorted(files.restore(tree).touched) == (["secret"] if shut == "secret" else []), shut
    assert (base / "tree" / "secret").read_text() == (base / "tree" / "d" / "file").read_text() == "text"
    assert files.capture().tree == tree
"""


def test_without_privileges_what_may_not_be_read_is_told_and_a_restore_opens_it() -> None:
    """In a process of its own, which gives up being root if it is; pytest's own folders are closed to others."""
    base = Path(tempfile.mkdtemp(prefix="holdfast-workspace-"))
    ran = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(base)], capture_output=True, text=True, check=False, timeout=60
    )
    shutil.rmtree(base)
    assert ran.returncode == 0, ran.stderr
    assert "secret | `secret` cannot be captured: Permission denied" in ran.stdout
    assert "d | `d` cannot be captured: Permission denied" in ran.stdout
