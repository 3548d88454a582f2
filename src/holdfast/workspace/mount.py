"""Overlays (Linux): two directories shown as one, of which the lower is never written to.

Rules
1. Every directory is given open, and mounted by its descriptor: no path is looked up, so no link can lead elsewhere.
2. With `index` and `redirect_dir`, or not at all: hard links stay one file when it is changed, directories can be
   renamed. `metacopy` is off: what is in the upper directory is whole.
3. What is mounted bears our name. What does not is left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import cast

PROBE = ".overlay-"  # what the names of the directories begin with in which it is tried out
_SOURCE = "holdfast"
_HOW = "index=on,redirect_dir=on,metacopy=off"
_NOFOLLOW = 8  # UMOUNT_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _call(name: str, *arguments: object) -> None:
    """Call the C library. Raises OSError."""
    work = cast("Callable[..., int]", getattr(ctypes.CDLL(None, use_errno=True), name))
    if work(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def mount(lower: int, upper: int, work: int, target: int) -> None:
    """Show `lower` under `upper` at `target`; `work` is for the kernel. All are open directories. Raises OSError."""
    layers = f"lowerdir=/proc/self/fd/{lower},upperdir=/proc/self/fd/{upper},workdir=/proc/self/fd/{work}"
    _call(
        "mount",
        _SOURCE.encode(),
        f"/proc/self/fd/{target}".encode(),
        b"overlay",
        ctypes.c_ulong(0),
        f"{layers},{_HOW}".encode(),
    )


def unmount(name: str, parent: int) -> None:
    """Take away what `mount` made at `name` in an open directory. Raises OSError: EBUSY while anybody uses it."""
    _call("umount2", os.fsencode(f"/proc/self/fd/{parent}/{name}"), ctypes.c_int(_NOFOLLOW))


def mounted(name: str, parent: int) -> bool:
    """Whether something that `mount` made is at `name` in an open directory. Raises OSError if what is there is no
    directory, or is mounted by somebody else."""
    try:
        fd = os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        return False
    try:
        here, there = _mount_of(fd), _mount_of(parent)
        if here == there:
            return False
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            words = line.split(b" ")
            if words[0] == here:
                kind, source = words[words.index(b"-") + 1 :][:2]
                if (kind, source) == (b"overlay", _SOURCE.encode()):
                    return True
        raise OSError(0, "something else is mounted there")
    finally:
        os.close(fd)


def _mount_of(fd: int) -> bytes:
    told = Path(f"/proc/self/fdinfo/{fd}").read_bytes().split()
    return told[told.index(b"mnt_id:") + 1]


@cache
def mountable(folder: Path) -> bool:
    """Whether this process can mount overlays below `folder`: found out by doing it once."""
    if sys.platform != "linux":
        return False
    try:
        place = Path(tempfile.mkdtemp(prefix=PROBE, dir=folder))
    except OSError:
        return False
    try:
        return _tried(place)
    except (OSError, AttributeError, ValueError):
        return False
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _exact(lower: Path, shown: Path) -> bool:
    """Whether the kernel does what rule 2 wants; on some file systems it mounts, and does less. Raises OSError."""
    same = os.lstat(lower / "one").st_ino == os.lstat(shown / "one").st_ino
    (shown / "one").write_bytes(b"after")
    (shown / "folder").rename(shown / "moved")
    told = [path.read_bytes() for path in (lower / "one", shown / "one", shown / "moved" / "two")]
    return same and told == [b"before", b"after", b"after"]


def _tried(place: Path) -> bool:
    with contextlib.ExitStack() as undo:
        opened: dict[str, int] = {}
        for name in ("lower", "upper", "work", "shown"):
            (place / name).mkdir()
            opened[name] = os.open(place / name, _FOLDER)
            undo.callback(os.close, opened[name])
        parent = os.open(place, _FOLDER)
        undo.callback(os.close, parent)
        (place / "lower" / "folder").mkdir()
        (place / "lower" / "one").write_bytes(b"before")
        os.link(place / "lower" / "one", place / "lower" / "folder" / "two")
        mount(opened["lower"], opened["upper"], opened["work"], opened["shown"])
        try:
            return mounted("shown", parent) and _exact(place / "lower", place / "shown")
        finally:
            unmount("shown", parent)
