"""A directory tree as it is now: its Merkle tree, made by reading only what has changed since it was last looked at.

Rules
1. A directory is looked at first, files are read afterwards. A file that changes while it is read is read again; a tree
   whose names move under us is looked at again; what does not come to rest is Busy, and nothing was captured.
2. A file that was changed a moment ago is read only when a further change would show in its times.
3. What may not be read is Unreadable: nothing is left out silently. Sockets and devices are no files of a workspace:
   they are neither captured nor touched.
4. Two writes show in no time of the file: one through a memory map that was written to before, and the rest of a single
   long `write` that had begun before we looked. Against the second it is enough to freeze the processes (freeze.py: it
   ends first); those that do the first have to close or sync the file before they are captured.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import cast

from holdfast.errors import Busy, Unreadable
from holdfast.workspace import chunks, place
from holdfast.workspace.ignore import Ignore
from holdfast.workspace.known import CTIME, INODE, LINKS, MODE, MTIME, Known, Links, Sign, sign
from holdfast.workspace.manifest import Entry, File, Folder, Meta, Pipe, Symlink, Tree, decode, encode, encode_map
from holdfast.workspace.pack import digest_of

_TRIES = 8
_FINE_NS = 20_000_000  # within this time two changes may bear the same moment
_COARSE_NS = 2_000_000_000  # the same, where the file system counts whole seconds
_MOVED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE)
_NOWHERE = bytes(32)  # the digest of no content


class _Moved(Exception):
    """What we had seen is not there any more."""


@dataclass(slots=True)
class _Seen:
    path: str
    device: int
    own: Sign
    names: list[str]
    signs: list[int]
    folders: list[str]
    inside: dict[str, _Seen]
    last: Known | None
    same: bool
    entries: dict[str, Entry]
    attributes: tuple[tuple[bytes, bytes], ...] = ()
    links: Links = ()

    def sign(self, at: int) -> Sign:
        """What was seen of the entry number `at`."""
        return cast(Sign, tuple(self.signs[6 * at : 6 * at + 6]))

    def each(self) -> Iterator[tuple[int, str, Sign]]:
        """Number, name and sign of every entry."""
        return zip(itertools.count(), self.names, cast("Iterator[Sign]", zip(*[iter(self.signs)] * 6)))  # noqa: B905


@dataclass(slots=True)
class Look:
    """One capture: the root's digest, what is now known of each directory that had changed, and what it cost."""

    tree: bytes = b""
    changed: dict[str, Known] = field(default_factory=dict[str, Known])
    paths: set[str] = field(default_factory=set[str])
    files_read: int = 0
    bytes_read: int = 0


class Eye:
    """Looks at the tree below an open directory. `put` keeps a blob and answers its digest, `get` is its inverse for
    trees. `forgiving`: what may not be read is taken as different from everything, instead of being an error."""

    def __init__(
        self,
        root: int,
        *,
        known: dict[str, Known],
        ignore: Ignore,
        put: Callable[[bytes], bytes],
        get: Callable[[bytes], bytes],
        forgiving: bool = False,
    ) -> None:
        self._root = root
        self._known = known
        self._ignore = ignore
        self._put = put
        self._get = get
        self._forgiving = forgiving
        self._look = Look()
        self._late: list[tuple[_Seen, str, int]] = []
        self._linked: dict[tuple[int, int], tuple[Sign, File]] = {}

    def look(self) -> Look:
        """Raises Unreadable, or Busy if the tree does not come to rest."""
        where = ""
        for attempt in range(_TRIES):
            time.sleep(0.005 * attempt)
            self._look, self._late = Look(), []
            try:
                seen = self._see(self._root, "")
                self._read(seen)
                self._link(seen)
                self._look.tree = self._build(seen)
            except _Moved as moved:
                where = str(moved)
                continue
            return self._look
        raise Busy("files of the workspace are moved while it is captured", where=where, fix="freeze what works in it")

    # --- first: what is there ---

    def _see(self, fd: int, path: str) -> _Seen:
        self._look.paths.add(path)
        own = os.fstat(fd)
        try:
            names: list[str] = []
            signs: list[int] = []
            with os.scandir(fd) as listed:
                for one in listed:  # flat, and no more than this: it is done for every file of the workspace
                    names.append(one.name)
                    signs += sign(one.stat(follow_symlinks=False))
        except OSError as error:
            raise self._said(error, path) from error
        last = self._known.get(path)
        owns = sign(own)
        same = last is not None and last.signs == signs and last.names == names and last.own == owns
        folders = last.folders if same and last else self._folders(path, names, signs)
        seen = _Seen(path, own.st_dev, owns, names, signs, folders, {}, last, same, {})
        for name in folders:
            seen.inside[name] = self._see_inside(fd, name, f"{path}/{name}" if path else name)
        return seen

    def _folders(self, path: str, names: list[str], signs: list[int]) -> list[str]:
        found = [name for name, mode in zip(names, signs[MODE::6], strict=True) if stat.S_ISDIR(mode)]
        return [name for name in found if not self._ignore.covers(place.child(path, name), folder=True)]

    def _see_inside(self, parent: int, name: str, path: str) -> _Seen:
        if path.count("/") >= place.DEEPEST:
            place.not_too_deep(path)
        try:
            if self._forgiving and not os.access(name, os.R_OK | os.X_OK, dir_fd=parent):
                place.unlock(name, parent)
            fd = place.enter(name, parent)
            try:
                return self._see(fd, path)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._said(error, path) from error

    def _said(self, error: OSError, path: str) -> Exception:
        if error.errno in _MOVED:
            return _Moved(path)
        return Unreadable(
            f"`{path}` cannot be captured: {error.strerror or error}", where=path, fix="let it be read, or ignore it"
        )

    # --- then: what has changed ---

    def _read(self, root: _Seen) -> None:
        changed = [seen for seen in _all(root) if not seen.same]
        for seen in changed:
            try:
                with place.descend(self._root, seen.path) as fd:
                    self._read_folder(fd, seen)
            except OSError as error:
                raise self._said(error, seen.path) from error
        if self._late:
            time.sleep(self._rest_s())
        for seen, name, at in self._late:
            try:
                with place.descend(self._root, seen.path) as fd:
                    self._take(fd, seen, name, at, patient=False)
            except OSError as error:
                raise self._said(error, place.child(seen.path, name)) from error

    def _rest_s(self) -> float:
        """How long until the times of all that was put off can tell one change from the next."""
        now, longest = time.time_ns(), 0
        for seen, _, at in self._late:
            one = seen.sign(at)
            longest = max(longest, min(_slack(one), one[CTIME] + _slack(one) - now))
        return longest / 1e9

    def _read_folder(self, fd: int, seen: _Seen) -> None:
        tree = decode(self._get(seen.last.tree)) if seen.last else Tree(Meta(0, 0), ())
        before = {os.fsdecode(entry.name): entry for entry in tree.entries}
        last = seen.last.signs if seen.last else []
        signs = {name: tuple(last[6 * at : 6 * at + 6]) for at, name in enumerate(seen.last.names if seen.last else ())}
        own = seen.last is not None and seen.last.own == seen.own
        seen.attributes = tree.meta.attributes if own else place.attributes(fd)
        for at, name, one in seen.each():
            if stat.S_ISDIR(one[MODE]):
                continue
            if self._ignore and self._ignore.covers(place.child(seen.path, name), folder=False):
                continue
            entry = before.get(name)
            if entry is not None and not isinstance(entry, Folder) and signs.get(name) == one:
                seen.entries[name] = entry
            else:
                self._take(fd, seen, name, at, patient=True)

    def _take(self, fd: int, seen: _Seen, name: str, at: int, *, patient: bool) -> None:
        """Read one entry that is new or changed; a fresh one later, if we are patient."""
        one, raw = seen.sign(at), os.fsencode(name)
        kind = stat.S_IFMT(one[MODE])
        try:
            if kind == stat.S_IFREG:
                if patient and _fresh(one, time.time_ns()):
                    self._late.append((seen, name, at))
                else:
                    seen.entries[name] = self._file(fd, seen, name, at)
            elif kind == stat.S_IFLNK:
                seen.entries[name] = Symlink(raw, one[MTIME], os.fsencode(os.readlink(name, dir_fd=fd)))
            elif kind == stat.S_IFIFO:
                seen.entries[name] = Pipe(raw, Meta(stat.S_IMODE(one[MODE]), one[MTIME]))
        except OSError as error:
            path = place.child(seen.path, name)
            if error.errno == errno.EINVAL and kind == stat.S_IFLNK:
                raise _Moved(path) from error
            if not self._forgiving or error.errno in _MOVED:
                raise self._said(error, path) from error
            seen.entries[name] = File(raw, Meta(stat.S_IMODE(one[MODE]), one[MTIME]), one[2], False, _NOWHERE)

    def _file(self, parent: int, seen: _Seen, name: str, at: int) -> File:
        path = place.child(seen.path, name)
        with place.file(name, parent) as fd:
            for _ in range(_TRIES):
                began = time.time_ns()
                before = os.fstat(fd)
                if not stat.S_ISREG(before.st_mode):
                    raise _Moved(path)
                one = sign(before)
                known = self._linked.get((before.st_dev, before.st_ino))
                if known and known[0] == one:
                    entry = replace(known[1], name=os.fsencode(name))
                else:
                    entry = self._content(fd, os.fsencode(name), before)
                if sign(os.fstat(fd)) == one:
                    if before.st_nlink > 1:
                        self._linked[before.st_dev, before.st_ino] = (one, entry)
                    seen.signs[6 * at : 6 * at + 6] = one
                    if _fresh(one, began):
                        seen.signs[6 * at + CTIME] = -1
                    return entry
        raise Busy(f"`{path}` keeps changing while it is captured", where=path, fix="freeze what writes it")

    def _content(self, fd: int, name: bytes, found: os.stat_result) -> File:
        meta = Meta(stat.S_IMODE(found.st_mode), found.st_mtime_ns, place.attributes(fd))
        size = found.st_size
        self._look.files_read += 1
        self._look.bytes_read += size
        if size > chunks.LARGE_BYTES:
            return File(name, meta, size, True, self._put(encode_map(chunks.parts(fd, size, self._put))))
        data = bytearray()
        while part := os.pread(fd, size + 1 - len(data), len(data)):
            data += part
            if len(data) > size:
                break  # it grows: its times will tell, and it is read again
        return File(name, meta, size, False, self._put(bytes(data)))

    # --- then: which names are one file ---

    def _link(self, root: _Seen) -> None:
        names: dict[tuple[int, int], list[str]] = {}
        for seen in _all(root):
            if seen.same and seen.last:
                seen.links = seen.last.links
            else:
                seen.links = tuple(
                    (name, one[INODE], "")
                    for _, name, one in seen.each()
                    if one[LINKS] > 1 and isinstance(seen.entries.get(name), File)
                )
            for name, inode, _ in seen.links:
                names.setdefault((seen.device, inode), []).append(place.child(seen.path, name))
        leaders = {key: min(paths, key=os.fsencode) for key, paths in names.items() if len(paths) > 1}
        for seen in _all(root):
            if seen.links:
                seen.links = tuple(
                    (name, inode, leaders.get((seen.device, inode), "")) for name, inode, _ in seen.links
                )

    # --- at last: the tree, from below ---

    def _build(self, seen: _Seen) -> bytes:
        trees = {name: self._build(inside) for name, inside in seen.inside.items()}
        last = seen.last
        below = digest_of(b"".join(trees.values())) if trees else b""
        if seen.same and last and last.links == seen.links and last.below == below:
            return last.tree
        if seen.same and last:
            before = decode(self._get(last.tree))
            seen.attributes = before.meta.attributes
            seen.entries = {os.fsdecode(one.name): one for one in before.entries if not isinstance(one, Folder)}
        leaders = {name: os.fsencode(leader) for name, _, leader in seen.links}
        entries: list[Entry] = [Folder(os.fsencode(name), tree) for name, tree in trees.items()]
        for name, entry in seen.entries.items():
            tied = isinstance(entry, File) and entry.link != leaders.get(name, b"")
            entries.append(replace(entry, link=leaders.get(name, b"")) if tied else entry)
        entries.sort(key=lambda entry: entry.name)
        meta = Meta(stat.S_IMODE(seen.own[MODE]), seen.own[MTIME], seen.attributes)
        tree = self._put(encode(Tree(meta, tuple(entries))))
        self._look.changed[seen.path] = Known(seen.own, seen.names, seen.signs, seen.folders, tree, seen.links, below)
        return tree


def _all(root: _Seen) -> Iterator[_Seen]:
    waiting = [root]
    while waiting:
        seen = waiting.pop()
        yield seen
        waiting.extend(seen.inside.values())


def _slack(one: Sign) -> int:
    return _FINE_NS if one[CTIME] % 1_000_000_000 else _COARSE_NS


def _fresh(one: Sign, now_ns: int) -> bool:
    """Whether a further change could bear the same moment as the last."""
    return one[CTIME] > now_ns - _slack(one)
