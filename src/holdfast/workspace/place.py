"""Steps inside a directory that cannot lead out of it.

Rules
1. Every step is one name below an open directory, and follows no symbolic link: whoever swaps a directory for a link
   while we work makes a step fail, and nothing outside is read or written.
2. A file that has names elsewhere too (hard links) is never changed where it lies: it is replaced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Callable, Generator
from typing import cast

from holdfast.errors import Unreadable

DEEPEST = 200  # directories within each other: each is one open file while we are below it
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def enter(name: str, parent: int) -> int:
    """A directory in an open directory, opened; whoever asks closes it."""
    return os.open(name, _FOLDER, dir_fd=parent)


@contextlib.contextmanager
def folder(name: str, parent: int) -> Generator[int]:
    """A directory in an open directory, opened."""
    fd = enter(name, parent)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def file(name: str, parent: int) -> Generator[int]:
    """A file in an open directory, opened to be read."""
    fd = os.open(name, _FILE, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def descend(root: int, path: str) -> Generator[int]:
    """The directory at `path` below an open directory, opened name by name; the root itself for no path."""
    fd = os.dup(root)
    try:
        for name in path.split("/") if path else ():
            assert name not in ("", ".", ".."), "paths are checked where they are read"
            below = enter(name, fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def child(path: str, name: str) -> str:
    """The path of `name` in the directory at `path`."""
    return f"{path}/{name}" if path else name


def not_too_deep(path: str) -> None:
    """Raises Unreadable for a path of more directories than we go down."""
    if path.count("/") >= DEEPEST:
        raise Unreadable(f"directories are nested deeper than {DEEPEST}", where=path, fix="ignore it, or flatten it")


def temporary() -> str:
    """A name that nobody has."""
    return f".holdfast-{secrets.token_hex(8)}"


def make(parent: int) -> tuple[int, str]:
    """A new file under a temporary name."""
    name = temporary()
    return os.open(name, _NEW, 0o600, dir_fd=parent), name


def put_in_place(temporary: str, name: str, parent: int) -> None:
    """Rename within a directory; whatever had the name and is no directory is gone."""
    try:
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=parent)
        raise


def unlock(name: str, parent: int) -> None:
    """Let the owner read, write and enter a directory that may not even be opened."""
    if sys.platform == "linux":
        fd = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)
        finally:
            os.close(fd)
    else:
        mode = stat.S_IMODE(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        os.chmod(name, mode | 0o700, dir_fd=parent, follow_symlinks=False)


@contextlib.contextmanager
def unlocked(name: str, parent: int) -> Generator[int]:
    """A directory opened so that it can be changed, whatever its mode was."""
    if os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode & 0o700 != 0o700:
        unlock(name, parent)
    with folder(name, parent) as fd:
        yield fd


def remove(name: str, parent: int) -> None:
    """Remove whatever has this name, and all that is in it. It may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return
        with unlocked(name, parent) as fd:
            for inside in os.listdir(fd):
                remove(inside, fd)
        os.rmdir(name, dir_fd=parent)


# --- extended attributes, where the system lets Python have them (Linux) ---

_list = cast("Callable[[int], list[str]] | None", getattr(os, "listxattr", None))
_KEPT = ("user.",)  # the others belong to the system, and need privileges


def attributes(fd: int) -> tuple[tuple[bytes, bytes], ...]:
    """The extended attributes of an open file that are its user's own, by name."""
    if _list is None:
        return ()
    try:
        names = sorted(os.fsencode(name) for name in _list(fd) if name.startswith(_KEPT))
    except OSError:  # a file system without any
        return ()
    return tuple((name, os.getxattr(fd, name)) for name in names)


def set_attributes(fd: int, wanted: tuple[tuple[bytes, bytes], ...]) -> None:
    """Make the user's extended attributes of an open file these and no others."""
    found = dict(attributes(fd))
    for name in found.keys() - dict(wanted).keys():
        os.removexattr(fd, name)
    for name, value in wanted:
        if found.get(name) != value:
            os.setxattr(fd, name, value)
