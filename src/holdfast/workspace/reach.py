"""What a capture stands on: every blob below a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from holdfast.errors import Corrupt
from holdfast.workspace.manifest import Entry, File, Folder, decode, decode_map


def mark(get: Callable[[bytes], bytes], trees: Iterable[bytes], found: set[bytes]) -> None:
    """Add to `found` every blob below these trees, and the trees. Raises Corrupt if a manifest cannot be read."""
    waiting = list(trees)
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        found.add(digest)
        for entry in decode(get(digest)).entries:
            match entry:
                case Folder():
                    waiting.append(entry.tree)
                case File() if entry.content not in found:
                    found.add(entry.content)
                    if entry.mapped:
                        found.update(part for _, part in decode_map(get(entry.content)) if part)
                case _:
                    pass


def walk(get: Callable[[bytes], bytes], tree: bytes, path: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
    """Every path below a tree and what is there, each folder before what is in it. Raises Corrupt."""
    for entry in decode(get(tree)).entries:
        here = path + b"/" + entry.name if path else entry.name
        yield here, entry
        if isinstance(entry, Folder):
            yield from walk(get, entry.tree, here)


class Whole:
    """Whether a tree, and all that is below it, is still kept."""

    def __init__(self, get: Callable[[bytes], bytes], has: Callable[[bytes], bool]) -> None:
        self._get = get
        self._has = has
        self._told: dict[bytes, bool] = {}

    def __call__(self, tree: bytes) -> bool:
        if tree not in self._told:
            self._told[tree] = self._has(tree) and self._below(tree)
        return self._told[tree]

    def _below(self, tree: bytes) -> bool:
        try:
            for entry in decode(self._get(tree)).entries:
                if isinstance(entry, Folder) and not self(entry.tree):
                    return False
                if isinstance(entry, File) and not (self._has(entry.content) and self._parts(entry)):
                    return False
        except Corrupt:
            return False
        return True

    def _parts(self, entry: File) -> bool:
        return not entry.mapped or all(
            part is None or self._has(part) for _, part in decode_map(self._get(entry.content))
        )
