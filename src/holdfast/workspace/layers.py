"""Directories that stand on one checkout together: each shows its files, and keeps only what is changed in it.

    checkouts/TREE/     the files of a capture, made once, never written to again
    checkouts/.NAME/    while it is made
    layers/NAME/base    the TREE on which the directory NAME stands
    layers/NAME/upper   what was changed in it         layers/NAME/work   the kernel's own
    work/NAME           where it is shown, while somebody uses it

Rules
1. A checkout, and the layers of a directory, come into being by a rename: whole, or not at all.
2. What is shown is believed as little as any directory: whoever begins in it looks at it, and makes it what it has to
   be. What is known of a checkout only spares reading files whose signs are those that were seen there.
3. A checkout that this boot has not seen whole is read through before anybody stands on it.
4. Who uses a directory has it open; who shows it or takes it away holds the lock on its layers. So it is never taken
   from anybody. A crash leaves it shown, or not: the next one goes on with the same layers.
5. A checkout stays as long as the layers of any directory name it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import secrets
import shutil
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from holdfast.errors import Busy, HoldfastError, Unwritable
from holdfast.workspace import place
from holdfast.workspace.disk import barrier_folder, storing
from holdfast.workspace.files import Workspace
from holdfast.workspace.mount import PROBE, mount, mountable, mounted, unmount
from holdfast.workspace.pack import Packs
from holdfast.workspace.reach import walk

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_told = logging.getLogger("holdfast")


class Layers:
    """The overlays in the store of packs at `root`, shown in `root/work`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._checkouts = root / "checkouts"
        self._layers = root / "layers"

    # --- a directory that has layers ---

    def again(self, name: str) -> int | None:
        """Show the directory `name`, if it has layers: it, opened; for as long as it is open it is shown. Raises Busy
        if it is shown where this process cannot see it, Unwritable if it cannot be shown."""
        if not (self._layers / name).is_dir():
            return None
        try:
            with self._locked(name) as layers, self._opened(self._root / "work") as work:
                if not mounted(name, work):
                    self._clear(name, work)
                    with self._opened(name, work) as target:
                        self._mount(layers, target)
                return os.open(name, _FOLDER, dir_fd=work)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Busy(
                    "the files of this branch are in use where this process cannot see them",
                    where=str(self._root / "work" / name),
                    fix="end what uses them, in another container for instance",
                ) from error
            raise Unwritable(
                f"the files of this branch are an overlay that cannot be mounted: {error.strerror or error}",
                where=str(self._layers / name),
                fix="run it where overlays may be mounted; or move that away: the newest checkpoint is restored then",
            ) from error

    def _clear(self, name: str, work: int) -> None:
        """The place where it will be shown: what somebody left there meanwhile is moved aside."""
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=work)
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=work, follow_symlinks=False)
            aside = f"{name}.{time.time_ns() // 1_000_000}"
            os.rename(name, aside, src_dir_fd=work, dst_dir_fd=work)
            _told.warning("%s has files that are none of its branch: moved to %s", self._root / "work" / name, aside)
        os.mkdir(name, 0o700, dir_fd=work)

    def _mount(self, layers: int, target: int) -> None:
        with self._opened("base", layers, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC) as fd:
            base = os.read(fd, 65).decode("ascii", "replace")
        if len(base) != 64 or not set(base) <= set("0123456789abcdef"):
            raise OSError(errno.EINVAL, "its `base` names no checkout")
        with (
            self._opened(self._checkouts) as checkouts,
            self._opened(base, checkouts) as lower,
            self._opened("upper", layers) as upper,
            self._opened("work", layers) as work,
        ):
            mount(lower, upper, work, target)

    def leave(self, name: str, *, patience_s: float = 0.0) -> bool:
        """Show it no longer, unless somebody uses it for longer than `patience_s`; whether it is gone from sight. What
        is in it stays. Whoever only looks at a process of ours, in /proc, uses it too, for a moment."""
        until, pause = time.monotonic() + patience_s, 0.001
        while True:
            try:
                return self._hidden(name)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() >= until:
                    return False
            time.sleep(pause)
            pause = min(2 * pause, 0.1)

    def _hidden(self, name: str) -> bool:
        """Take it from sight; False if it was not shown. Raises OSError."""
        with self._locked(name), self._opened(self._root / "work") as work:
            if not mounted(name, work):
                return False
            unmount(name, work)
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=work)
            return True

    def aside(self, name: str) -> Path | None:
        """Keep the layers under another name, if there are any: the directory `name` begins anew."""
        if not (self._layers / name).is_dir():
            return None
        to = self._layers / f"{name}.{time.time_ns() // 1_000_000}"
        with storing(self._layers), self._locked(name), self._opened(self._root / "work") as work:
            if mounted(name, work):
                unmount(name, work)
                os.rmdir(name, dir_fd=work)
            (self._layers / name).rename(to)
        return to

    # --- a directory that is to have some ---

    def spread(self, name: str, tree: bytes, packs: Packs, *, ignore: Sequence[str], least: int) -> int | None:
        """Show the files of a capture in the empty directory `name`, if they are at least so many: it, opened. None
        if that cannot be done here: then nothing has been done. Whoever calls holds `packs.writing()`."""
        if not mountable(self._root):
            return None
        try:
            if next(itertools.islice(walk(packs.get, tree), max(0, least - 1), None), None) is None:
                return None
            self._stand(name, self._checkout(tree, packs, ignore))
        except (OSError, HoldfastError):
            return None
        try:
            return self.again(name)
        except HoldfastError:
            self._drop(name)
            return None

    def _drop(self, name: str) -> None:
        """Away with layers in which nobody has worked yet."""
        self.leave(name)
        with contextlib.suppress(OSError), self._locked(name), self._opened(self._root / "work") as work:
            if not mounted(name, work):
                beside = self._layers / f".{secrets.token_hex(8)}"
                (self._layers / name).rename(beside)
                _remove(beside)

    def seed(self, name: str, files: Workspace, packs: Packs, *, ignore: Sequence[str]) -> None:
        """Let `files`, the directory `name`, know what is known of the checkout that it stands on."""
        base = self.base(name)
        path = self._checkouts / (base.hex() if base else "none")
        if path.is_dir():
            files.adopt(Workspace(path, packs, ignore=ignore).knowledge())

    def base(self, name: str) -> bytes | None:
        """The tree on which a directory stands."""
        try:
            return bytes.fromhex((self._layers / name / "base").read_text("ascii"))
        except (OSError, ValueError):
            return None

    def _stand(self, name: str, checkout: Path) -> None:
        """Make the layers of a directory. The upper one shows the mode, times and attributes of the root."""
        beside = self._layers / f".{secrets.token_hex(8)}"
        try:
            for part in ("", "upper", "work"):
                (beside / part).mkdir(parents=True)
            (beside / "base").write_text(checkout.name, "ascii")
            shutil.copystat(checkout, beside / "upper")
            barrier_folder(beside)
            beside.rename(self._layers / name)
            barrier_folder(self._layers)
        except OSError:
            _remove(beside)
            raise

    def _checkout(self, tree: bytes, packs: Packs, ignore: Sequence[str]) -> Path:
        path = self._checkouts / tree.hex()
        if path.is_dir():
            found = Workspace(path, packs, ignore=ignore)
            if not found.knowledge() and found.capture().tree != tree:
                raise OSError(errno.EIO, "a checkout is not what it was")
            return path
        beside = self._checkouts / f".{secrets.token_hex(8)}"
        beside.mkdir(parents=True)
        made = Workspace(beside, packs, ignore=ignore)
        try:
            made.restore(tree)
            known = made.knowledge()
            with contextlib.suppress(OSError):  # somebody else has made it meanwhile
                beside.rename(path)
                barrier_folder(self._checkouts)
                Workspace(path, packs, ignore=ignore).adopt(known)
        finally:
            made.forget()
            _remove(beside)
        return path

    # --- collection ---

    def collect(self, packs: Packs, *, patience_s: float = 60.0) -> int:
        """Show nothing that nobody uses, and remove the checkouts on which nothing stands: how many. Raises Busy."""
        if not any(self._root.glob(f"{PROBE}*")) and not self._layers.is_dir() and not self._checkouts.is_dir():
            return 0
        with packs.alone(patience_s), storing(self._root):
            for path in self._root.glob(f"{PROBE}*"):
                with contextlib.suppress(OSError), self._opened(path) as fd:
                    if mounted("shown", fd):
                        unmount("shown", fd)
                    _remove(path)
            for path in self._layers.iterdir() if self._layers.is_dir() else ():
                if path.name.startswith("."):
                    _remove(path)
                else:
                    self.leave(path.name, patience_s=0.1)
            dead = self.dead()
            for path in dead:
                beside = path.with_name(f".{secrets.token_hex(8)}")
                path.rename(beside)
            for path in self._checkouts.glob(".*"):
                _remove(path)
        return len(dead)

    def dead(self) -> list[Path]:
        """The checkouts on which nothing stands."""
        named = {self.base(path.name) for path in self._layers.iterdir()} if self._layers.is_dir() else set[bytes]()
        alive = {tree.hex() for tree in named if tree}
        found = self._checkouts.iterdir() if self._checkouts.is_dir() else ()
        return [path for path in found if not path.name.startswith(".") and path.name not in alive]

    # --- the parts ---

    @contextlib.contextmanager
    def _locked(self, name: str) -> Generator[int]:
        with self._opened(self._layers) as layers, self._opened(name, layers) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if not os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=layers, follow_symlinks=False)):
                raise OSError(errno.ESTALE, "its layers were moved")
            yield fd

    @contextlib.contextmanager
    def _opened(self, path: str | Path, parent: int | None = None, how: int = _FOLDER) -> Generator[int]:
        fd = os.open(path, how, dir_fd=parent)
        try:
            yield fd
        finally:
            os.close(fd)


def _remove(path: Path) -> None:
    """Remove a directory of ours, whatever modes are in it, if it is there."""
    with contextlib.suppress(OSError):
        parent = os.open(path.parent, _FOLDER)
        try:
            place.remove(path.name, parent)
        finally:
            os.close(parent)
