"""What differs between two captures: only trees that differ are read.

Rules
1. A change is told for each path once: what came, what went, what became something else, what moved.
2. A file moved if what went and what came are equal in all but their names and the time of the last change; for more
   than one such pair, in the order of their paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from holdfast.workspace.manifest import Entry, File, Folder, Meta, Tree, decode


@dataclass(frozen=True, slots=True)
class Added:
    """A path that only the newer capture has."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Removed:
    """A path that only the older capture has."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Changed:
    """A path that both have, with other content, another kind, or only other attributes (mode, times, links)."""

    path: bytes
    content: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """A file that has another path now."""

    path: bytes
    to: bytes


Change: TypeAlias = Added | Removed | Changed | Moved
_NOTHING = Tree(Meta(0, 0), ())


def diff(get: Callable[[bytes], bytes], old: bytes, new: bytes) -> list[Change]:
    """The changes from one root tree to another, in the order of their paths. A folder that came or went is told with
    everything in it; the times of folders are not told."""
    came: dict[bytes, Entry] = {}
    went: dict[bytes, Entry] = {}
    changes: list[Change] = []
    for path, before, after in _pairs(get, old, new, b""):
        if before is None:
            assert after is not None
            came[path] = after
        elif after is None:
            went[path] = before
        elif isinstance(before, Folder) and isinstance(after, Folder):
            one, other = decode(get(before.tree)).meta, decode(get(after.tree)).meta
            if (one.mode, one.attributes) != (other.mode, other.attributes):
                changes.append(Changed(path, content=False))
        else:
            changes.append(Changed(path, content=_content(before) != _content(after)))
    changes += _moves(came, went)
    changes += [Added(path) for path in came] + [Removed(path) for path in went]
    return sorted(changes, key=lambda change: (change.path, type(change).__name__))


def _pairs(
    get: Callable[[bytes], bytes], old: bytes | None, new: bytes | None, path: bytes
) -> Iterator[tuple[bytes, Entry | None, Entry | None]]:
    before = {entry.name: entry for entry in (decode(get(old)) if old else _NOTHING).entries}
    after = {entry.name: entry for entry in (decode(get(new)) if new else _NOTHING).entries}
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one == other:
            continue
        here = path + b"/" + name if path else name
        yield here, one, other
        below = (one.tree if isinstance(one, Folder) else None, other.tree if isinstance(other, Folder) else None)
        if below != (None, None):
            yield from _pairs(get, *below, here)


def _content(entry: Entry) -> object:
    return (
        (entry.size_bytes, entry.content) if isinstance(entry, File) else (type(entry), getattr(entry, "target", None))
    )


def _moves(came: dict[bytes, Entry], went: dict[bytes, Entry]) -> list[Moved]:
    """Take out of both what is the same file under another path."""
    found: dict[File, list[bytes]] = {}
    for path, entry in went.items():
        if isinstance(entry, File):
            found.setdefault(_nameless(entry), []).append(path)
    moved: list[Moved] = []
    for path, entry in list(came.items()):
        if isinstance(entry, File) and (paths := found.get(_nameless(entry))):
            moved.append(Moved(paths[0], path))
            del went[paths.pop(0)], came[path]
    return moved


def _nameless(entry: File) -> File:
    return replace(entry, name=b"", link=b"", meta=replace(entry.meta, mtime_ns=0))
