"""The power fails: a file system of its own is shut down under a run, and whatever was not flushed is gone.

A child runs on a loop-mounted image and, at a boundary of tests/crash/deaths.py, shuts that file system down
(FS_IOC_SHUTDOWN without flushing its journal) and kills itself. After unmounting and mounting again, what the file
system has kept is what a disk would have kept.

Rules
1. Mounts are made in a private mount namespace, so that nobody else can keep a dead file system alive, and that they
   are gone with the process that made them.
2. The world, the anchor and what the store acknowledged lie outside the file system that fails.
3. A child can be made to lie (`planted`): a proof that the tests see what a missing flush does.

`python -m tests.crash.power` is a nursery (tests/crash/nursery.py) whose children know these words beside those of
tests/crash/life.py: `{"command": […]}` runs a command; `cut`, `on` (the mount point), `told` (the file for what was
acknowledged) and `planted` make a life end with the power.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apsw

from holdfast import HoldfastError, Run, agent
from holdfast.core.entry import Entry
from holdfast.store import Draft
from holdfast.store.committer import Committer
from holdfast.store.sqlite import SqliteStore
from tests.crash import deaths, nursery
from tests.crash import life as ordinary
from tests.crash.programs import AGENTS, think
from tests.crash.tools import carry_out, world
from tests.crash.trial import KILLED, Trial

FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
IMAGE_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20}  # sparse; XFS refuses to be smaller than 300 MB

TOUR = [("look", "l"), ("put", "p"), ("mail", "m"), ("build", "b"), ("make", "k"), ("pay", "y"), ("ring", "r")]


@agent
async def tour(run: Run, task: Any) -> dict[str, Any]:
    """A tool of each kind, each after a thought. A thought may be lost with the power until an effect follows it; from
    then on it must never change."""
    answers: dict[str, Any] = {}
    for tool, name in TOUR:
        thought = await run.decide(think, name)
        answers[name] = world().saw(name, await carry_out(tool, name))
        if tool != "look":
            world().saw(f"thought on {name}", thought)
    return answers


AGENTS["tour"] = tour


# --- the children's side ---


@dataclass(frozen=True, slots=True)
class PowerCut(deaths.Boundary):
    """Where the power of the file system at `on` fails, and with it the process."""

    on: str = ""

    def reached(self) -> None:
        fcntl.ioctl(os.open(self.on, os.O_RDONLY), FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        deaths.Boundary.reached(self)


def tell(path: Path) -> None:
    """From now on, what this process's stores acknowledge as durable is told, a line each: branch, seq, digest."""
    honest, file = SqliteStore.append, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def append(
        self: SqliteStore, branch: str, drafts: Sequence[Draft], *, barrier: bool = False, **how: Any
    ) -> list[Entry]:
        placed = await honest(self, branch, drafts, barrier=barrier, **how)
        if barrier:
            lines = [json.dumps([entry.branch, entry.seq, entry.digest.hex()]) for entry in placed]
            os.write(file, "".join(f"{line}\n" for line in lines).encode())
        return placed

    SqliteStore.append = append


def plant_a_lie() -> None:
    """A disk that says that it has flushed, and has not, once the store is there: what is lost whole is seen by its
    key."""
    honest = SqliteStore.append

    def lie(_file: apsw.VFSFile, _flags: int) -> None:
        return None

    async def append(self: SqliteStore, branch: str, drafts: Sequence[Draft], **how: Any) -> list[Entry]:
        deaths._File.xSync = lie
        return await honest(self, branch, drafts, **how)

    SqliteStore.append = append


def plant_normal() -> None:
    """Barriers that are committed like anything else."""
    honest = Committer._fill

    def fill(self: Committer, jobs: Sequence[Any], barrier: bool) -> None:
        self.connection.execute("PRAGMA synchronous = NORMAL").fetchall()
        self._full = barrier
        honest(self, jobs, barrier)

    Committer._fill = fill


PLANTS = {"a lie": plant_a_lie, "synchronous=NORMAL": plant_normal}
_ordinarily = ordinary.live


def live(told: dict[str, Any]) -> dict[str, Any]:
    """A command, or a life that may end with the power."""
    if "command" in told:
        done = subprocess.run(told["command"], capture_output=True, text=True, check=False)
        return {"status": done.returncode, "text": done.stdout + done.stderr}
    if "cut" in told:
        tell(Path(told["told"]))
        deaths.arm(replace(PowerCut.of(told["cut"]), on=told["on"]))
    if "planted" in told:
        PLANTS[told["planted"]]()
    return _ordinarily(told)


# --- the tests' side ---


def cannot_mount() -> str:
    """Why no private mounts can be had here, or nothing."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    done = subprocess.run(["unshare", "--mount", "--propagation", "private", "true"], capture_output=True, check=False)
    return f"no mounts of our own can be had here: {done.stderr.decode().strip()}" if done.returncode else ""


class PowerNursery(nursery.Nursery):
    """Where children are born that see mounts which nobody else sees; `module` is the nursery that bears them."""

    def __init__(self, module: str = "tests.crash.power") -> None:
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", module],
            cwd=nursery.ROOT,
            env={**os.environ, "PATH": SYSTEM_PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: object) -> str:
        """Run a command where the mounts are; why it failed, or nothing."""
        ended, result = self.wait(self.bear(command=[str(part) for part in command]))
        assert ended == "left"
        return "" if result["status"] == 0 else result["text"].strip() or f"{command[0]} failed"


class FileSystem:
    """One file system of `kind` on an image in `folder`, seen by the children of `power` alone."""

    def __init__(self, folder: Path, power: PowerNursery, kind: str) -> None:
        self.power = power
        self.kind = kind
        self.image, self.point = folder / f"{kind}.img", folder / kind
        self.point.mkdir()
        with self.image.open("wb") as file:
            file.truncate(IMAGE_BYTES[kind])

    def make(self) -> str:
        """Make it and mount it; why that cannot be done here, or nothing."""
        mkfs = shutil.which(f"mkfs.{self.kind}", path=SYSTEM_PATH)
        if mkfs is None:
            return f"mkfs.{self.kind} is not installed"
        return self.power.run(mkfs, "-q", self.image) or self.power.run("mount", "-o", "loop", self.image, self.point)

    def unmount(self) -> None:
        self._certainly("umount", self.point)

    def restart(self) -> None:
        """The power is back: what was flushed is there."""
        self.unmount()
        self._certainly("mount", "-o", "loop", self.image, self.point)

    def fetch(self, name: str, into: Path) -> None:
        """Take a directory away from it, as it is."""
        self._certainly("cp", "-a", f"{self.point / name}/.", into)
        self._certainly("rm", "-r", self.point / name)

    def place_for(self, name: str) -> Path:
        """A directory that is there to stay."""
        place = self.point / name
        self._certainly("sh", "-c", 'mkdir -p "$0" && sync -f "$0"', place)
        return place

    def _certainly(self, *command: object) -> None:
        failed = self.power.run(*command)
        if failed:
            raise OSError(f"{command}: {failed}")


class PowerTrial(Trial):
    """A run of `tour` whose first lives are led on a file system that fails; the later ones on what it has kept."""

    def __init__(self, folder: Path, disk: FileSystem, options: str = "flush_s=0.2") -> None:
        super().__init__(folder, disk.power, "tour", {}, options)
        self.disk = disk
        self.told = folder / "told"
        self.place = folder.name

    def _faulty(self, **more: Any) -> tuple[str | None, Any]:
        store = self.disk.place_for(self.place)
        options = self.url.partition("?")[2]
        life = {**self.life, "url": f"sqlite:///{store}/runs.db?{options}", **more}
        return self.disk.power.wait(self.disk.power.bear(**life))

    def boundaries(self) -> int:
        """How many writes and flushes the next life asks for, if nothing happens to it."""
        ended, result = self._faulty(census=True)
        assert ended == "left"
        return result["writes"]

    def cut(self, boundary: str, **more: Any) -> bool:
        """One life whose power fails at a boundary; whether it came to it."""
        ended, result = self._faulty(cut=boundary, on=str(self.disk.point), told=str(self.told), **more)
        if ended == KILLED:
            self.disk.restart()
        assert ended == KILLED or result is not None, "a life ended with an error of the test"
        return ended == KILLED

    def wrong(self) -> list[str]:
        """What is wrong with what the file system has kept: nothing, if a run goes on from it without doing anything
        twice."""
        self.disk.fetch(self.place, self.folder)
        found: list[str] = []
        for look in (self._lost, self.finish, self._counted):
            try:
                look()
            except (AssertionError, HoldfastError) as error:
                found.append(f"{type(error).__name__}: {error}")
        return found

    def _lost(self) -> None:
        kept = {(entry.branch, entry.seq, entry.digest.hex()) for entry in self.entries()}
        told = [json.loads(line) for line in self.told.read_text().splitlines()] if self.told.exists() else []
        lost = [entry for entry in told if tuple(entry) not in kept]
        assert not lost, f"acknowledged as durable, and lost: {lost}"

    def _counted(self) -> None:
        counted = {tool: len(self.world.living(tool, name)) for tool, name in TOUR if tool != "look"}
        assert set(counted.values()) == {1}, f"not once in the world: {counted}"
        self.consistent()

    @property
    def folder(self) -> Path:
        return self.world.path.parent


if __name__ == "__main__":
    ordinary.live = live
    nursery.main()
