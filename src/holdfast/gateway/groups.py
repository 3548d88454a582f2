"""Control groups, where they may be used: limits of a whole sandbox that no process of it can slip.

Rules
1. Without them a limit of memory is one of each process; and for root there is no limit of processes at all: the kernel
   exempts whoever is root outside (`RLIMIT_NPROC`, measured), whatever they are inside. So root needs them.
2. A group is made beside or below the one that this process is in, where it may write, and is removed with its sandbox.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from holdfast.gateway.confinement import OWN_PROCESSES, Confinement


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Where groups may be made: a directory for processes and one for memory (the same in version 2), or None."""

    processes: Path | None
    memory: Path | None

    def limits(self, confinement: Confinement) -> list[tuple[str, dict[str, str]]]:
        """The groups of one sandbox: in which directory each is made, and what is written into which of its files."""
        made: dict[Path, dict[str, str]] = {}
        if self.processes is not None:
            made.setdefault(self.processes, {})["pids.max"] = str(confinement.processes + OWN_PROCESSES)
        if self.memory is not None:
            files = made.setdefault(self.memory, {})
            if (self.memory / "memory.limit_in_bytes").exists():
                files["memory.limit_in_bytes"] = str(confinement.memory_bytes)
            else:
                files["memory.max"] = str(confinement.memory_bytes)
                if (self.memory / "memory.swap.max").exists():
                    files["memory.swap.max"] = "0"
        return [(str(path), files) for path, files in made.items()]


@cache
def groups() -> Groups:
    """What this process may use, found once."""
    return found(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mounts").read_text())


def found(own: str, mounts: str) -> Groups:
    """What may be used, from the texts of `/proc/self/cgroup` and `/proc/self/mounts`."""
    paths: dict[str, str] = {}
    for line in own.splitlines():
        _number, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    roots: dict[str, Path] = {}
    for line in mounts.splitlines():
        _device, place, kind, options, *_rest = line.split(" ")
        if kind == "cgroup2":
            roots.setdefault("", Path(place))
        elif kind == "cgroup":
            for name in set(options.split(",")) & {"pids", "memory"}:
                roots.setdefault(name, Path(place))
    return Groups(processes=_place("pids", paths, roots), memory=_place("memory", paths, roots))


def _place(controller: str, paths: dict[str, str], roots: dict[str, Path]) -> Path | None:
    """The directory in which a group with this controller may be made by this process."""
    if controller in roots and controller in paths:  # version 1: a hierarchy of its own
        root = roots[controller]
        inner = root / paths[controller].lstrip("/")
        place = inner if inner.is_dir() else root
        return place if _may_write(place) else None
    if "" not in roots or "" not in paths:
        return None
    place = roots[""] / paths[""].lstrip("/")
    while place != roots[""].parent:
        if _passes_on(controller, place):
            return place if _may_write(place) else None
        place = place.parent
    return None


def _passes_on(controller: str, place: Path) -> bool:
    """Version 2: do groups in this directory have the controller?"""
    try:
        return controller in (place / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False


def _may_write(place: Path) -> bool:
    return os.access(place, os.W_OK | os.X_OK) and os.access(place / "cgroup.procs", os.W_OK)
