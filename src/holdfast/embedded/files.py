"""Where the workspaces of a house are, and how they come back.

    work/RUN@BRANCH       the directory of a branch
    work/RUN@BRANCH.at    the path of the directory that its user named instead
    work/RUN@BRANCH.new   while it is being made
    work/RUN@BRANCH.MS    what a new run found in its place
    layers/, checkouts/   of directories that are shown only while somebody uses them (workspace/layers.py)
    kept/                 what was in a directory before files were put back there (workspace/kept.py)
    packs/, known/ …      the captures (workspace/pack.py)

Rules
1. A branch has one directory; nothing outside it is ever changed. A symbolic link in its place is refused.
2. Files are put back only after what is there has been captured, durably, and its place was told.
3. A directory that was still being made when its process died is made again.
4. Neither the store's own files nor these may lie in a workspace.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holdfast.agent.run import Agent, Run
from holdfast.core.effect import Parcel
from holdfast.core.log import Log
from holdfast.errors import BadCall, Busy, Misuse
from holdfast.gateway.closure import Capture, tree_of
from holdfast.gateway.line import node_of
from holdfast.gateway.parcels import Shipping, fetch
from holdfast.gateway.whole import whole
from holdfast.store.rope import Blobs
from holdfast.workspace import Budget, Kept, Layers, Packs, Workspace, frozen_below
from holdfast.workspace.disk import barrier_folder, storing
from holdfast.workspace.ignore import Ignore

_PATIENCE_S = 1.0  # for those who only look at a directory while its life ends
_told = logging.getLogger("holdfast")


class Grounds(Protocol):
    """Where files are: `workspaces` of runs (None: nowhere that lasts), the `own` files of the store, and, if new
    directories are to be overlays, from how many files on. `follow`: the `store` has them too. An `Opening` says so."""

    @property
    def workspaces(self) -> Path | None: ...

    @property
    def own(self) -> tuple[Path, ...]: ...

    @property
    def overlay_files(self) -> int | None: ...

    @property
    def store(self) -> Blobs | None: ...

    @property
    def follow(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """The files that a branch goes on with: of a checkpoint (digest and node), or none. `exactly`: also where there is
    a directory already. `new`: nothing was written about the run before."""

    branch: str
    new: bool
    tree: bytes | None
    node: str
    exactly: bool
    ignore: Sequence[str]
    parcels: Sequence[Parcel] = ()


class Files:
    """The workspaces of one house. `budget`: the most that any may hold; None: as much as there is room for."""

    def __init__(self, grounds: Grounds, budget: Budget | None = None) -> None:
        self._root = grounds.workspaces
        self._own = grounds.own
        self._store = grounds.store
        self._follow = grounds.follow
        self._least = grounds.overlay_files if grounds.workspaces else None
        self._budget = budget
        self._temporary = ""

    def checked(self, agent: Agent, at: str | os.PathLike[str] | None) -> Path | None:
        """The directory that a user names, if it can be a workspace. Raises BadCall, Misuse; nothing was done then."""
        Ignore(agent.ignore)
        if at is None:
            return None
        if not agent.workspace:
            raise BadCall("this agent has no workspace", where=agent.name, fix="declare it: @agent(workspace=True)")
        return self.fit(Path(at))

    def fit(self, at: Path) -> Path:
        """A directory that can be a workspace. Raises Misuse for any other."""
        path = at.resolve()
        if not path.is_dir():
            raise Misuse("the workspace is not there, or no directory", where=str(at), fix="name one: workspace=PATH")
        for own in (*self._own, *([self._root] if self._root else [])):
            if any(real.is_relative_to(path) for real in (own.resolve(), own.parent.resolve() / own.name)):
                raise Misuse(
                    f"the store's own `{own.name}` lies in the workspace, and would be captured and restored with it",
                    where=str(path),
                    fix="put the store elsewhere, or name a directory that does not hold it",
                )
        if self._root and path.is_relative_to(self._root.resolve()):
            raise Misuse(
                "this directory belongs to the store", where=str(path), fix="name one of your own, or none at all"
            )
        return path

    @contextlib.asynccontextmanager
    async def open(self, log: Log, agent: Agent, at: Path | None = None) -> AsyncGenerator[OpenRoom | None]:
        """The room of a branch for one life of it, with the files that it goes on with: those of the newest checkpoint
        of `log` (its whole lineage), if the agent goes on from there or the branch has no directory yet; else those
        that are there. None for an agent without files. Raises Busy, Unreadable, Unwritable, Corrupt: then nothing is
        lost."""
        if not agent.workspace:
            yield None
            return
        node = node_of(log.branch, log.checkpoint_seq)
        tree = None if log.checkpoint is None else tree_of(log.checkpoint, node)
        parcels = () if log.checkpoint is None else log.checkpoint.parcels or ()
        wanted = Wanted(log.branch, log.started is None, tree, node, agent.state is not None, agent.ignore, parcels)
        async with self.room(wanted, at) as room:
            yield room

    @contextlib.asynccontextmanager
    async def room(self, wanted: Wanted, at: Path | None) -> AsyncGenerator[OpenRoom]:
        """As `open`, for whoever knows of the branch by hearsay."""
        lost: list[OpenRoom] = []
        try:
            if wanted.tree is not None and wanted.parcels:
                assert self._store is not None, "only what a store has is fetched"
                root = await asyncio.to_thread(self._made_root)
                await fetch(self._store, root, wanted.tree, wanted.parcels)
            room = await whole(asyncio.to_thread(self._open, wanted, at), lost)
            lost.append(room)
            yield room
        finally:
            for each in lost:
                await whole(asyncio.to_thread(each.close))  # an overlay is flushed when it is unmounted

    def _open(self, wanted: Wanted, at: Path | None) -> OpenRoom:
        root = self._made_root()
        home = _Home(root / "work", wanted.branch)
        path = self.fit(at) if at else home.named()
        with contextlib.ExitStack() as undo:
            if path is not None:
                undo.callback(os.close, _hold(self.fit(path)))
            packs = Packs(root)
            undo.callback(packs.close)
            overlay = _Overlay(root, packs, wanted, undo)
            if path is None:
                overlay.again()
            fresh = home.begin(new_run=wanted.new) if path is None else home.named() != path
            if path is None and fresh and self._least is not None:
                overlay.spread(home.path, self._least)
            files = Workspace(path or home.path, packs, ignore=wanted.ignore)
            overlay.seed(files)
            if overlay.new and wanted.tree is not None:
                files.restore(wanted.tree)
            elif wanted.tree is not None and (fresh or wanted.exactly):
                self._check(path or home.path, wanted)
                _put_back(files, packs, root, wanted)
            home.done(path)
            shipping = Shipping(packs, wanted.parcels) if self._follow else None
            check = functools.partial(self._check, path or home.path, wanted)
            return OpenRoom(path or home.path, files, packs, shipping, undo.pop_all(), check)

    def _check(self, path: Path, wanted: Wanted) -> None:
        """Raises Misuse if there is more in a directory than may be."""
        if self._budget is not None:
            self._budget.check(path, Ignore(wanted.ignore))

    def _made_root(self) -> Path:
        if self._root is None:
            self._temporary = tempfile.mkdtemp(prefix="holdfast-files-")
            self._root = Path(self._temporary)
        with storing(self._root):
            (self._root / "work").mkdir(parents=True, exist_ok=True)
        return self._root

    def close(self) -> None:
        """Let go of what does not last: the workspaces of a store in memory."""
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)


class _Overlay:
    """The directory of a branch for one life of it, where it is an overlay. `new`: nobody has worked in it yet."""

    def __init__(self, root: Path, packs: Packs, wanted: Wanted, undo: contextlib.ExitStack) -> None:
        self._layers = Layers(root)
        self._packs = packs
        self._wanted = wanted
        self._undo = undo
        self._shown = False
        self.new = False

    def again(self) -> None:
        """Show it, if it is one. Raises Busy, Unwritable: then nothing is lost."""
        branch = self._wanted.branch
        if self._wanted.new and (aside := self._layers.aside(branch)):
            _told.warning("%s has files already, of a run that this log does not know: moved to %s", branch, aside)
        self._hold(self._layers.again(branch))

    def spread(self, path: Path, least: int) -> None:
        """Make it one, if it is empty, and is to have so many files, and overlays can be had here."""
        wanted = self._wanted
        if self._shown or wanted.tree is None or any(path.iterdir()):
            return
        with self._packs.writing():
            fd = self._layers.spread(wanted.branch, wanted.tree, self._packs, ignore=wanted.ignore, least=least)
        path.mkdir(exist_ok=True)
        self._hold(fd)
        self.new = self._shown

    def seed(self, files: Workspace) -> None:
        """Let `files` know what is known of what it stands on."""
        if self._shown:
            self._layers.seed(self._wanted.branch, files, self._packs, ignore=self._wanted.ignore)

    def _hold(self, fd: int | None) -> None:
        if fd is not None:
            self._shown = True
            self._undo.callback(self._layers.leave, self._wanted.branch, patience_s=_PATIENCE_S)
            self._undo.callback(os.close, fd)


class _Home:
    """The place of a branch's directory."""

    def __init__(self, work: Path, branch: str) -> None:
        self.path = work / branch
        self._at = work / f"{branch}.at"
        self._new = work / f"{branch}.new"

    def named(self) -> Path | None:
        """The directory that the user named when the run began, if it has one."""
        try:
            return Path(os.fsdecode(self._at.read_bytes()))
        except FileNotFoundError:
            return None

    def begin(self, *, new_run: bool) -> bool:
        """Whether the directory is new, or was never finished; it is there then. Raises Misuse for what is none."""
        if new_run and not self._new.exists() and self.path.is_dir() and any(self.path.iterdir()):
            aside = self.path.with_name(f"{self.path.name}.{time.time_ns() // 1_000_000}")
            self.path.rename(aside)
            _told.warning("%s has files already, of a run that this log does not know: moved to %s", self.path, aside)
        new = self._new.exists() or not os.path.lexists(self.path)
        with storing(self.path):
            if new:
                self._new.touch()
                barrier_folder(self._new.parent)
                self.path.mkdir(exist_ok=True)
        if self.path.is_symlink() or self.path.name not in os.listdir(self.path.parent):
            raise Misuse(
                "the workspace of this branch is a symbolic link, or has another's name in other letters",
                where=str(self.path),
                fix="move that away: what belongs there is restored from the newest checkpoint",
            )
        return new

    def done(self, path: Path | None) -> None:
        """It is made; or the branch works in the directory `path` from now on."""
        with storing(self.path):
            if path is None:
                self._new.unlink(missing_ok=True)
            elif self.named() != path:
                beside = self._at.with_name(f".{self._at.name}")
                beside.write_bytes(os.fsencode(path))
                beside.replace(self._at)


def _hold(path: Path) -> int:
    """The directory that a user named, held: for as long as it is open, no other run works in it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Busy("another run works in this directory", where=str(path), fix="wait for it, or name another") from None
    return fd


def _put_back(files: Workspace, packs: Packs, root: Path, wanted: Wanted) -> None:
    """Make the files those of the checkpoint; what is there, if it differs, is kept first."""
    assert wanted.tree is not None
    with packs.writing():
        found = files.capture().tree
        if found == wanted.tree:
            return
        if not files.empty():
            kept = Kept(root).keep(found, wanted.branch)
            _told.warning(
                "the files of %s were changed after its checkpoint %s and are put back to it; as they were until now "
                "they are kept: holdfast files kept:%s --into DIR",
                wanted.branch,
                wanted.node,
                kept.tree[:16],
            )
        files.restore(wanted.tree)


class OpenRoom:
    """The files of one life of a run. `path`: their directory. `check` raises if there is too much in it."""

    def __init__(
        self,
        path: Path,
        files: Workspace,
        packs: Packs,
        shipping: Shipping | None,
        undo: contextlib.ExitStack,
        check: Callable[[], None],
    ) -> None:
        self.path = path
        self._check = check
        self._files = files
        self._packs = packs
        self._shipping = shipping
        self._undo = undo
        self._writing = contextlib.ExitStack()
        self._one = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """As `Room.held`. What has never been captured is captured beforehand, in a thread, and so is what is to be
        packed for the store: the capture that counts, which nothing runs beside, then finds little to do."""
        async with self._one:
            try:
                await whole(asyncio.to_thread(self._hold))
                yield
            finally:
                self._writing.close()

    def _hold(self) -> None:
        self._writing.enter_context(self._packs.writing())
        if self._shipping is not None or not self._files.looked:
            self._check()
        if self._shipping is not None:
            self._shipping.pack(self._files.capture().tree)
        elif not self._files.looked:
            self._files.capture()

    async def look(self) -> None:
        """As `Room.look`: nothing, what is looked at is looked at when it counts."""

    def capture(self) -> Capture:
        """As `Room.capture`. All processes that this one has begun stand still meanwhile."""
        with frozen_below():
            self._check()
            tree = self._files.capture().tree
        return Capture(tree.hex(), None if self._shipping is None else self._shipping.pack(tree))

    def placed(self, parcels: Sequence[Parcel]) -> None:
        """As `Room.placed`."""
        if self._shipping is not None:
            self._shipping.placed(parcels)

    def close(self) -> None:
        """Let go of the directory and the store."""
        self._undo.close()


async def begin(run: Run, agent: Agent, log: Log) -> None:
    """Before the first step of a run that will go on from its checkpoints: one of how its files are now. Raises BadCall
    if there is no state yet."""
    untouched = not (log.slots or log.lanes or log.draws or log.sleeps)
    if agent.workspace and agent.state is not None and log.checkpoint is None and untouched:
        if run.state is None:
            raise BadCall(
                "the state of an agent with a workspace must be there from the beginning",
                where=agent.name,
                fix="let its type be made without arguments: give its fields defaults",
            )
        await run.checkpoint()
