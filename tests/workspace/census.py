"""What is in a directory, asked of the system alone: the tests judge by this, never by what the product says.

Two names of one file (hard links) are told by the first of them; owners and the names of the order are left out.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TypeAlias

Census: TypeAlias = dict[bytes, tuple[object, ...]]


def census(root: Path, *, times: bool = True) -> Census:
    """Every path below `root`, and the root itself under the empty path, with all that a capture has to keep."""
    base = os.fsencode(root)
    found: Census = {}
    first: dict[tuple[int, int], bytes] = {}
    paths = [base, *sorted(_below(base))]
    for path in paths:
        name = path[len(base) + 1 :]
        told = os.lstat(path)
        mtime = told.st_mtime_ns if times else 0
        mode = stat.S_IMODE(told.st_mode)
        if stat.S_ISLNK(told.st_mode):
            found[name] = ("symlink", mtime, os.readlink(path))
        elif stat.S_ISDIR(told.st_mode):
            found[name] = ("folder", mode, mtime, _attributes(path))
        elif stat.S_ISFIFO(told.st_mode):
            found[name] = ("pipe", mode, mtime)
        elif stat.S_ISREG(told.st_mode):
            leader = first.setdefault((told.st_dev, told.st_ino), name)
            found[name] = ("file", mode, mtime, _attributes(path), told.st_size, _digest(path), leader)
    return found


def _below(path: bytes) -> list[bytes]:
    found: list[bytes] = []
    for entry in os.scandir(path):
        found.append(entry.path)
        if entry.is_dir(follow_symlinks=False):
            found += _below(entry.path)
    return found


def _attributes(path: bytes) -> tuple[tuple[str, bytes], ...]:
    if not hasattr(os, "listxattr"):
        return ()
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.")]
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))


def _digest(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
