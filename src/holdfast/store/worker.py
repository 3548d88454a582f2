"""Who holds a claim, and whether that process is known to be dead.

Rules
1. Death is proven, never guessed from a clock: the process is gone, or its machine has started anew.
2. What cannot be asked about (another machine, another pid namespace) is not proven dead, unless somebody who could ask
   has put it down.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FIRST_TIME = 0xEFFFFFFA  # the number of the time namespace that a machine starts with
GONE = 0  # no process has this pid: whoever could ask has found that it is dead


@dataclass(frozen=True, slots=True)
class Worker:
    """A process: `place` (start of the machine, pid namespace, and a time namespace of its own), pid, `born` (its start
    time, as the system writes it), host."""

    id: str
    place: str
    pid: int
    born: str
    host: str


def here() -> Worker:
    """This process, under a fresh id."""
    pid = os.getpid()
    return Worker(secrets.token_hex(8), _place(), pid, _born(pid) or "", socket.gethostname())


def dead(worker: Worker) -> bool:
    """Whether `worker` is proven to have stopped."""
    if worker.pid == GONE:
        return True
    place = _place()
    if worker.place != place:
        ours, theirs = place.split("/", 1), worker.place.split("/", 1)
        return worker.host == socket.gethostname() and ours[0] != theirs[0]  # the machine has started anew since
    return _born(worker.pid) != worker.born


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}{_own_time()}"
    except OSError:
        return f"{_ask('sysctl', '-n', 'kern.bootsessionuuid') or 'unknown'}/0"


def _own_time() -> str:
    """What tells of a time namespace of its own: there, processes seem to have been born at other times."""
    try:
        found = os.stat("/proc/self/ns/time").st_ino
    except OSError:
        return ""  # this kernel has none
    return "" if found == FIRST_TIME else f".{found}"


def _born(pid: int) -> str | None:
    """When a living process started; None if there is none, or it is only waiting to be reaped."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    return _ask("ps", "-o", "lstart=", "-p", str(pid))


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
