"""What a capture, a restore and a fork of a workspace cost, beside one walk of the same tree, git, a copy, and restic.

    python -m bench.workspace        what a capture costs after 10 of 10 000 files changed

A walk is `os.scandir` and `stat` of every entry, which is the least that finds out what has changed. All sides take
turns, on the same changes. `warm`: the process has captured the tree before; `cold`: it has just begun, and first reads
what is known of it. A capture of ours is on the disk when it has returned; what the others do is not flushed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.spread import spread
from holdfast.workspace import Layers, Packs, Workspace
from holdfast.workspace.mount import mountable

ROOT = Path(__file__).parent.parent
BAR = 1.5
FILES = 10_000
PER_FOLDER = 20
CHANGED = 10
_GIT = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0")


def plant(root: Path, files: int, seed: random.Random) -> list[Path]:
    """A tree like a repository: `files` files of about 4 kB, 20 in a folder, folders in folders."""
    planted: list[Path] = []
    for number in range(files):
        folder = number // PER_FOLDER
        path = root / f"part{folder % 10}" / f"module{folder}" / f"file{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(seed.randbytes(2000).hex().encode())
        planted.append(path)
    return planted


def walk(path: str) -> int:
    """Stat everything below `path`, once."""
    seen = 0
    with os.scandir(path) as listed:
        for entry in listed:
            seen += 1
            entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                seen += walk(entry.path)
    return seen


def timed(work: Callable[[], object]) -> float:
    """How long `work` takes, in ms."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


class Sides:
    """One tree of `files` files, and everybody who keeps it. `times`: in ms, by what was done."""

    def __init__(self, folder: Path, files: int, seed: random.Random) -> None:
        self._folder = folder
        self._seed = seed
        self._root = folder / "tree"
        self._planted = plant(self._root, files, seed)
        self._store = folder / "store"
        self._warm = Workspace(self._root, Packs(self._store))
        self.times: dict[str, list[float]] = defaultdict(list)

    def first(self) -> bytes:
        """Everybody keeps the tree; the digest of ours."""
        self._took("first capture", self._warm.capture)
        if self._has("git"):
            self._git("init", "-q")
            self._took("git: first commit", self._git_commit)
        if self._has("restic"):
            self._restic("init")
            self._took("restic: first backup", lambda: self._restic("backup", str(self._root)))
        return self._warm.capture().tree

    def round(self, changed: int, tree: bytes) -> None:
        """Change so many files, let everybody keep that, and put the tree back to what it was."""
        self._took("walk", lambda: walk(str(self._root)))
        self._took("capture, unchanged", self._warm.capture)
        for name in ("warm", "cold"):
            chosen = self._change(changed)
            ours = self._warm if name == "warm" else Workspace(self._root, Packs(self._store))
            self._took(f"capture, {name}", ours.capture)
            self._took("reading what changed", lambda chosen=chosen: [path.read_bytes() for path in chosen])
            self._warm.capture()
            if name == "warm":
                self._others()
        self._warm.restore(tree)
        self._change(changed)
        self._took("restore", lambda: self._warm.restore(tree))
        if self._has("git"):
            self._git_commit()
            self._change(changed)
            self._took("git: restore", lambda: self._git("checkout", "-q", "--", "."))
        self._warm.restore(tree)

    def _others(self) -> None:
        if self._has("git"):
            self._took("git: commit", self._git_commit)
        if self._has("restic"):
            self._took("restic: backup", lambda: self._restic("backup", str(self._root)))

    def forks(self, tree: bytes) -> None:
        """The whole tree in a new directory, by each. An overlay is made twice: the first makes what both stand on."""
        self._overlays(tree)
        for name, work in self._ways(tree):
            target = self._folder / "fork"
            target.mkdir()
            self._took(name, lambda work=work, target=target: work(target))
            shutil.rmtree(target)
        if self._has("git"):
            self._git("worktree", "prune")

    def _ways(self, tree: bytes) -> Iterator[tuple[str, Callable[[Path], object]]]:
        yield "fork", lambda target: Workspace(target, Packs(self._store)).restore(tree)
        if self._has("git"):
            yield (
                "git: fork (worktree)",
                lambda target: self._git("worktree", "add", "-q", "-f", "--detach", str(target)),
            )
        if self._has("cp"):
            yield "copy: fork (cp -a)", lambda target: _run("cp", "-a", f"{self._root}/.", str(target))

    def _overlays(self, tree: bytes) -> None:
        if not mountable(self._store):
            return
        work, layers = self._store / "work", Layers(self._store)
        work.mkdir(exist_ok=True)
        for name in ("fork, overlay: the first", "fork, overlay"):
            (work / name).mkdir()
            held: list[int] = []
            self._took(name, lambda name=name, held=held: held.extend(self._shown(layers, name, tree)))
            for fd in held:
                os.close(fd)
            self._took("out of sight", lambda name=name: layers.leave(name))
            shutil.rmtree(self._store / "layers" / name, ignore_errors=True)
        layers.collect(Packs(self._store))

    def _shown(self, layers: Layers, name: str, tree: bytes) -> list[int]:
        """A directory on a checkout, as a house begins in it; none where overlays cannot be mounted."""
        packs = Packs(self._store)
        with packs.writing():
            fd = layers.spread(name, tree, packs, ignore=(), least=0)
            if fd is None:
                return []
            files = Workspace(self._store / "work" / name, packs)
            layers.seed(name, files, packs, ignore=())
            files.restore(tree)
            return [fd]

    # --- the parts ---

    def _took(self, name: str, work: Callable[[], object]) -> None:
        self.times[name].append(timed(work))

    def _has(self, name: str) -> bool:
        return shutil.which(name) is not None

    def _change(self, changed: int) -> list[Path]:
        chosen = self._seed.sample(self._planted, min(changed, len(self._planted)))
        for path in chosen:
            path.write_bytes(self._seed.randbytes(2000).hex().encode())
        return chosen

    def _git(self, *words: str) -> None:
        repository = ("--git-dir", str(self._folder / "repository"), "--work-tree", str(self._root))
        _run("git", *_GIT, *repository, *words)

    def _git_commit(self) -> None:
        self._git("add", "-A")
        self._git("commit", "-q", "--allow-empty", "-m", "bench")

    def _restic(self, *words: str) -> None:
        _run("restic", "-q", "-r", str(self._folder / "restic"), "--insecure-no-password", *words)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def compare(folder: Path, files: int, changed: int, rounds: int) -> dict[str, list[float]]:
    """Times in ms, by what was done, for a tree of `files` files of which `changed` change."""
    sides = Sides(folder, files, random.Random(files + changed))
    tree = sides.first()
    for _ in range(rounds):
        sides.round(changed, tree)
    for _ in range(min(rounds, 2)):
        sides.forks(tree)
    return dict(sides.times)


def walks(times: dict[str, list[float]], name: str) -> float:
    """How many walks a capture takes besides reading what changed, at the medians."""
    middle = {each: spread(values)["median"] for each, values in times.items()}
    return (middle[name] - middle["reading what changed"]) / middle["walk"]


def main() -> None:
    """Measure in a folder of its own, print, and say whether the bar is reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.workspace", description=__doc__)
    parser.add_argument("--dir", type=Path, default=ROOT / "build", help="a folder on the disk to be measured (build/)")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--changed", type=int, default=CHANGED)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-workspace-", dir=options.dir))
    try:
        times = compare(folder, options.files, options.changed, options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({name: spread(values) for name, values in times.items()}, indent=2))
    for name in ("capture, unchanged", "capture, warm", "capture, cold"):
        found = walks(times, name)
        print(f"{name}: {found:.2f} walks besides reading: {'reached' if found <= BAR else 'MISSED'} ({BAR})")


if __name__ == "__main__":
    main()
