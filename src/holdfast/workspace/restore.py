"""Making a directory tree what a capture says, by touching only what differs.

Rules
1. Whatever is done is one step inside an open directory (place.py): nothing outside the root is written, whoever swaps
   directories for links meanwhile.
2. A file is made beside its place and renamed into it: it is the old one or the new one, whole. What only differs in
   mode, times or attributes is changed where it lies, unless it has names elsewhere.
3. First what must go, goes; then what differs is made; then hard links are tied; at last directories get their modes
   and times, the deepest first. A crash anywhere is mended by the same restore.
4. What is ignored is not touched; but a directory that the capture does not have goes with all that is in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from holdfast.errors import Misuse
from holdfast.workspace import chunks, place
from holdfast.workspace.ignore import Ignore
from holdfast.workspace.manifest import Entry, File, Folder, Meta, Pipe, Symlink, Tree, decode, decode_map

_NOTHING = Tree(Meta(0, 0), ())
_PRIVATE = 0o700


class Hand:
    """Changes the tree below an open directory from one root tree to another. `get` reads blobs."""

    def __init__(self, root: int, *, ignore: Ignore, get: Callable[[bytes], bytes]) -> None:
        self._root = root
        self._ignore = ignore
        self._get = get
        self._ties: list[tuple[str, File]] = []
        self._folders: list[tuple[str, Meta]] = []
        self.touched: list[str] = []

    def change(self, now: bytes, wanted: bytes) -> None:
        """Raises OSError where the system refuses, or where somebody else changes what we work on."""
        if now == wanted:
            return
        with place.descend(self._root, "") as fd:
            self._folder(fd, "", self._tree(now), self._tree(wanted))
        for path, entry in self._ties:
            self._tie(path, entry)
        for path, meta in reversed(self._folders):
            with place.descend(self._root, path) as fd:
                self._finish(fd, meta)

    def _tree(self, digest: bytes) -> Tree:
        return decode(self._get(digest))

    def _folder(self, fd: int, path: str, now: Tree, wanted: Tree) -> None:
        self._folders.append((path, wanted.meta))
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & _PRIVATE != _PRIVATE:
            os.fchmod(fd, mode | _PRIVATE)
        before = {entry.name: entry for entry in now.entries}
        after = {entry.name: entry for entry in wanted.entries}
        for raw in before.keys() - after.keys():
            name = os.fsdecode(raw)
            self.touched.append(place.child(path, name))
            place.remove(name, fd)
        for raw, entry in after.items():
            if before.get(raw) != entry:
                self._entry(fd, path, before.get(raw), entry)

    def _entry(self, fd: int, path: str, now: Entry | None, wanted: Entry) -> None:
        name = os.fsdecode(wanted.name)
        here = place.child(path, name)
        if self._ignore.covers(here, folder=isinstance(wanted, Folder)):
            raise Misuse(
                f"the capture holds `{here}`, which is ignored now", where=here, fix="ignore what was ignored then"
            )
        if not isinstance(wanted, Folder):
            self.touched.append(here)
        if isinstance(now, Folder) and not isinstance(wanted, Folder):
            place.remove(name, fd)
        match wanted:
            case Folder():
                self._inside(fd, name, here, now, wanted)
            case File() if wanted.link and wanted.link != os.fsencode(here):
                self._ties.append((here, wanted))
            case File():
                if not (isinstance(now, File) and self._adjusted(fd, name, now, wanted)):
                    self._file(fd, name, wanted)
            case Symlink(_, mtime_ns, target):
                made = place.temporary()
                os.symlink(os.fsdecode(target), made, dir_fd=fd)
                os.utime(made, ns=(mtime_ns, mtime_ns), dir_fd=fd, follow_symlinks=False)
                place.put_in_place(made, name, fd)
            case Pipe(_, meta):
                self._pipe(fd, name, meta)

    def _inside(self, parent: int, name: str, path: str, now: Entry | None, wanted: Folder) -> None:
        place.not_too_deep(path)
        if not isinstance(now, Folder):
            place.remove(name, parent)
            self.touched.append(path)
            os.mkdir(name, _PRIVATE, dir_fd=parent)
        with place.unlocked(name, parent) as fd:
            before = self._tree(now.tree) if isinstance(now, Folder) else _NOTHING
            self._folder(fd, path, before, self._tree(wanted.tree))

    # --- files ---

    def _adjusted(self, parent: int, name: str, now: File, wanted: File) -> bool:
        """Whether the file that lies there could be made right without writing it anew."""
        same = (now.content, now.size_bytes, now.link) == (wanted.content, wanted.size_bytes, wanted.link)
        if not same:
            return False
        try:
            with place.file(name, parent) as fd:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_size != wanted.size_bytes:
                    return False
                self._finish(fd, wanted.meta)
        except OSError:
            return False
        return True

    def _file(self, parent: int, name: str, wanted: File) -> None:
        fd, made = place.make(parent)
        try:
            if wanted.mapped:
                chunks.write(fd, decode_map(self._get(wanted.content)), self._get)
            else:
                chunks.write_sparse(fd, self._get(wanted.content), 0)
                os.ftruncate(fd, wanted.size_bytes)
            self._finish(fd, wanted.meta)
        except BaseException:
            os.unlink(made, dir_fd=parent)
            raise
        finally:
            os.close(fd)
        self._clear(parent, name)
        place.put_in_place(made, name, parent)

    def _pipe(self, parent: int, name: str, meta: Meta) -> None:
        made = place.temporary()
        os.mkfifo(made, meta.mode, dir_fd=parent)
        with place.file(made, parent) as fd:
            self._finish(fd, meta)
        self._clear(parent, name)
        place.put_in_place(made, name, parent)

    def _clear(self, parent: int, name: str) -> None:
        """A directory in the way, of which the capture knew nothing, goes; a rename could not replace it."""
        try:
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                place.remove(name, parent)
        except FileNotFoundError:
            pass

    def _finish(self, fd: int, meta: Meta) -> None:
        """Attributes, then mode, then times: each would change, or forbid, the ones before."""
        place.set_attributes(fd, meta.attributes)
        if stat.S_IMODE(os.fstat(fd).st_mode) != meta.mode:
            os.fchmod(fd, meta.mode)
        os.utime(fd, ns=(meta.mtime_ns, meta.mtime_ns))

    def _tie(self, path: str, wanted: File) -> None:
        """Make `path` another name of the first file of its group."""
        folder, _, name = path.rpartition("/")
        first, _, leader = os.fsdecode(wanted.link).rpartition("/")
        made = place.temporary()
        with place.descend(self._root, first) as source, place.descend(self._root, folder) as fd:
            os.link(leader, made, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
            place.remove(name, fd)  # a rename of one name of a file onto another name of it would do nothing
            place.put_in_place(made, name, fd)
