"""One workspace: a directory, the packs its captures go to, and what is ignored in it.

Rules
1. A capture is durable when it returns, and stays so as long as somebody refers to it when something is collected. The
   captures before it are never touched: a crash at any moment leaves them as they were.
2. A restore returns only when the directory, looked at again, has the digest of the capture; else it fails.
3. Owners are not captured: giving files away needs privileges.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import Busy, Misuse, Unwritable
from holdfast.workspace.capture import Eye, Look
from holdfast.workspace.diff import diff
from holdfast.workspace.ignore import Ignore
from holdfast.workspace.known import Known, Memory
from holdfast.workspace.pack import Packs, digest_of
from holdfast.workspace.reach import Whole
from holdfast.workspace.restore import Hand

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Captured:
    """A capture: the digest of its root tree, and what had to be read for it."""

    tree: bytes
    files_read: int
    bytes_read: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore touched, by path from the root."""

    touched: tuple[str, ...]


class Workspace:
    """The files below `root`, except for those that the patterns `ignore` cover (see ignore.py)."""

    def __init__(self, root: Path, packs: Packs, *, ignore: Sequence[str] = ()) -> None:
        self._root = root.resolve()
        self._packs = packs
        self._ignore = Ignore(ignore)
        self._memory: Memory | None = None
        self._identity = (-1, -1)
        if packs.root.resolve().is_relative_to(self._root):
            raise Misuse(
                "the store of a workspace lies inside the workspace",
                where=str(packs.root),
                fix="put it beside the workspace",
            )

    @property
    def looked(self) -> bool:
        """Whether this object has looked at the directory: then it knows what has changed without reading it all."""
        return self._memory is not None

    def empty(self) -> bool:
        """Whether nothing at all is in the directory."""
        with os.scandir(self._root) as found:
            return next(found, None) is None

    def knowledge(self) -> dict[str, Known]:
        """What is known of the directory. Nothing, if nobody has looked at it since the machine began."""
        with self._opened() as (_, memory), self._packs.writing():
            return dict(self._known(memory))

    def adopt(self, known: dict[str, Known]) -> None:
        """Know this of the directory, if nothing is known of it: it was seen in another one that has the same files.
        What has other signs here is read all the same."""
        with self._opened() as (_, memory), self._packs.writing():
            if not self._known(memory):
                memory.keep(known, set(known))

    def forget(self) -> None:
        """Know nothing of the directory any more, which may be gone already."""
        if self._memory is not None:
            self._memory.drop()
            self._memory = None

    def capture(self) -> Captured:
        """What is in the directory now, durably. Raises Unreadable or Busy, with nothing captured; Stopped if the packs
        cannot be written."""
        with self._opened() as (root, memory), self._packs.writing():
            eye = Eye(root, known=self._known(memory), ignore=self._ignore, put=self._packs.put, get=self._packs.get)
            look = eye.look()
            self._packs.flush()
            memory.keep(look.changed, look.paths)
            return Captured(look.tree, look.files_read, look.bytes_read)

    def restore(self, tree: bytes) -> Restored:
        """Make the directory what it was when `tree` was captured. Raises Corrupt if the capture is damaged or gone,
        Busy if somebody else works in the directory, Unwritable if it cannot be made equal: the capture is as it was,
        and the restore can be done again."""
        with self._opened() as (root, memory), self._packs.writing():
            touched: list[str] = []
            glance = _Glance(self._packs)
            known = dict(self._known(memory))
            changed: dict[str, Known] = {}
            for _ in range(_TRIES):
                look = self._look(root, known, glance)
                known.update(look.changed)
                changed.update(look.changed)
                if look.tree == tree:
                    memory.keep({path: changed[path] for path in changed.keys() & look.paths}, look.paths)
                    return Restored(tuple(dict.fromkeys(touched)))
                touched += self._change(root, glance, look.tree, tree)
            look = self._look(root, known, glance)
            raise self._unequal(glance, look.tree, tree)

    def _look(self, root: int, known: dict[str, Known], glance: _Glance) -> Look:
        return Eye(root, known=known, ignore=self._ignore, put=glance.put, get=glance.get, forgiving=True).look()

    def _change(self, root: int, glance: _Glance, now: bytes, wanted: bytes) -> list[str]:
        hand = Hand(root, ignore=self._ignore, get=glance.get)
        try:
            hand.change(now, wanted)
        except OSError as error:
            where = hand.touched[-1] if hand.touched else ""
            what = f"`{where}` cannot be restored: {error.strerror or error}"
            raise Unwritable(
                what, where=str(self._root), fix="let the workspace be written, and restore again"
            ) from error
        return hand.touched

    def _unequal(self, glance: _Glance, now: bytes, wanted: bytes) -> Exception:
        if now == wanted:
            return Busy(
                "the workspace changed while it was restored", where=str(self._root), fix="freeze what works in it"
            )
        first = next((os.fsdecode(change.path) for change in diff(glance.get, wanted, now)), "a folder")
        return Unwritable(
            f"the workspace is not what was captured: `{first}` differs",
            where=str(self._root),
            fix="freeze what works in it; a file system that cannot hold these files cannot be a workspace",
        )

    def _known(self, memory: Memory) -> dict[str, Known]:
        return memory.load(self._packs.generation(), Whole(self._packs.get, self._packs.has))

    @contextmanager
    def _opened(self) -> Generator[tuple[int, Memory]]:
        try:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            what = f"the workspace cannot be opened: {error.strerror or error}"
            raise Misuse(what, where=str(self._root), fix="name a directory that can be read") from error
        try:
            found = os.fstat(root)
            identity = (found.st_dev, found.st_ino)
            if self._memory is None or self._identity != identity:
                head = repr((os.fsencode(self._root), identity, self._ignore.patterns)).encode()
                name = digest_of(head).hex()[:32]
                self._memory, self._identity = Memory(self._packs.root / "known" / name, digest_of(head)), identity
            yield root, self._memory
        finally:
            os.close(root)


class _Glance:
    """Takes the place of the packs for a look that keeps nothing: it remembers trees, and of other blobs the digest."""

    def __init__(self, packs: Packs) -> None:
        self._packs = packs
        self._trees: dict[bytes, bytes] = {}

    def put(self, data: bytes) -> bytes:
        digest = digest_of(data)
        if data.startswith(b"hf-tree/1"):
            self._trees[digest] = data
        return digest

    def get(self, digest: bytes) -> bytes:
        return self._trees.get(digest) or self._packs.get(digest)
