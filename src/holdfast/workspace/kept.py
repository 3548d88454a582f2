"""Captures that are kept for people: what was in a directory before something else was put there.

    kept/TREE      JSON: {"at_ms": …, "name": …}       TREE: the digest of the capture, 64 hex digits

Rules
1. A capture is kept while its file is there. Whoever keeps one holds `packs.writing()` from the capture on.
2. Files come and go whole. What cannot be read as one of these counts, as far as its name is a digest: what is kept is
   not collected because of damage beside it.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from holdfast.workspace.disk import barrier, barrier_folder, storing

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Keepsake:
    """A capture that is kept: the digest of its tree (hex), when it was taken (ms since 1970), and of what."""

    tree: str
    at_ms: int
    name: str


class Kept:
    """The captures that are kept in the store of packs at `root`."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "kept"

    def keep(self, tree: bytes, name: str) -> Keepsake:
        """Keep a capture, durably. One that is kept already is kept as of now."""
        made = Keepsake(tree.hex(), time.time_ns() // 1_000_000, name)
        with storing(self._folder):
            self._folder.mkdir(exist_ok=True)
            beside = self._folder / f".{secrets.token_hex(8)}"
            with beside.open("xb") as file:
                file.write(json.dumps({"at_ms": made.at_ms, "name": name}).encode())
                file.flush()
                barrier(file.fileno())
            beside.replace(self._folder / made.tree)
            barrier_folder(self._folder)
        return made

    def all(self) -> list[Keepsake]:
        """What is kept, the newest first."""
        return sorted(self._found(), key=lambda each: -each.at_ms)

    def drop(self, tree: str) -> None:
        """Keep it no longer."""
        with storing(self._folder):
            (self._folder / tree).unlink(missing_ok=True)

    def _found(self) -> Iterator[Keepsake]:
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if len(path.name) == 64 and _HEX.issuperset(path.name):
                yield Keepsake(path.name, *_told(path))


def _told(path: Path) -> tuple[int, str]:
    try:
        told = cast(object, json.loads(path.read_bytes()))
    except (OSError, ValueError):
        told = None
    match told:
        case {"at_ms": int(at_ms), "name": str(name)}:
            return at_ms, name
        case _:
            return os.lstat(path).st_mtime_ns // 1_000_000, "?"
