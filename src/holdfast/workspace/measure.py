"""How much is in a workspace that somebody else fills: more than was agreed on is not captured.

Rules
1. It is looked at before anything of it is read or kept, and no further than until there is too much.
2. A hole in a file costs nothing to keep, unless the file is small enough to be read in one piece.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import Misuse, Unreadable
from holdfast.workspace import chunks, place
from holdfast.workspace.ignore import Ignore

_MOVED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
_BLOCK = 512  # bytes, whatever the file system's own blocks are


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most that a workspace may hold: `entries` (files, directories, links) and `size_bytes`."""

    entries: int
    size_bytes: int

    def check(self, root: Path, ignore: Ignore) -> None:
        """Raises Misuse if there is more below `root`, of what is not ignored, Unreadable where that cannot be seen."""
        tally = _Tally(self, root, ignore)
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            tally.folder(fd, "")
        finally:
            os.close(fd)


class _Tally:
    def __init__(self, most: Budget, root: Path, ignore: Ignore) -> None:
        self._most = most
        self._root = root
        self._ignore = ignore
        self._entries = self._size_bytes = 0

    def folder(self, fd: int, path: str) -> None:
        folders: list[str] = []
        with os.scandir(fd) as listed:
            for one in listed:
                try:
                    found = one.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                inner = stat.S_ISDIR(found.st_mode)
                if self._ignore.covers(place.child(path, one.name), folder=inner):
                    continue
                self._add(found)
                if inner:
                    folders.append(one.name)
        for name in folders:
            self._inside(fd, name, place.child(path, name))

    def _inside(self, parent: int, name: str, path: str) -> None:
        place.not_too_deep(path)
        try:
            fd = place.enter(name, parent)
        except OSError as error:
            if error.errno in _MOVED:
                return
            what = f"`{path}` cannot be captured: {error.strerror or error}"
            raise Unreadable(what, where=path, fix="let it be read, or ignore it") from error
        try:
            self.folder(fd, path)
        finally:
            os.close(fd)

    def _add(self, found: os.stat_result) -> None:
        self._entries += 1
        if stat.S_ISREG(found.st_mode):
            whole = found.st_size if found.st_size <= chunks.LARGE_BYTES else 0
            self._size_bytes += max(found.st_blocks * _BLOCK, whole)
        most = self._most
        if self._entries > most.entries or self._size_bytes > most.size_bytes:
            raise Misuse(
                f"the workspace holds more than {most.entries} entries or {most.size_bytes} bytes",
                where=str(self._root),
                fix="clear it up, ignore what need not be kept, or allow more: `workspace_entries` and"
                " `workspace_bytes` under [sandbox]",
            )
