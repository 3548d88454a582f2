"""Holding processes still while their files are captured.

Rules
1. When the block begins, every process is stopped, with all that runs in it; when it ends, those that we stopped go on.
2. A process that has ended is no error. One that we may not stop is.
3. Should we die inside, a child of ours that waits for our end lets them go on.
4. Who watches others (a shell) is stopped before them, and goes on after them: it never learns of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable
from pathlib import Path

from holdfast.errors import Busy

_STILL = frozenset("TtZX")
_LOOKS = 20  # for processes that were begun while others were stopped
_guards: set[int] = set()  # the children of rule 3, which are nobody's work


@contextlib.contextmanager
def frozen(pids: Iterable[int], *, patience_s: float = 10.0) -> Generator[None]:
    """Processes `pids` do nothing inside this block. Raises Busy if one does not stop in time, PermissionError if we
    may not stop it."""
    moving = [pid for pid in dict.fromkeys(pids) if not _still(pid)]
    if not moving:
        yield
        return
    guard = subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill -CONT "$@" 2>/dev/null', "sh", *map(str, moving)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # what ends us with our group leaves it to do its work
    )
    _guards.add(guard.pid)
    try:
        for pid in moving:
            _send(pid, signal.SIGSTOP)
        until = time.monotonic() + patience_s
        while not all(_still(pid) for pid in moving):
            if time.monotonic() > until:
                raise Busy("a process does not stop", fix="try again")
            time.sleep(0.0005)
        yield
    finally:
        for pid in reversed(moving):
            with contextlib.suppress(PermissionError):
                _send(pid, signal.SIGCONT)
        guard.kill()
        guard.communicate()
        _guards.discard(guard.pid)


@contextlib.contextmanager
def frozen_below(*, patience_s: float = 10.0) -> Generator[None]:
    """All processes that this one has begun, and theirs, do nothing inside this block; but for those that we may not
    stop. Raises Busy if one does not stop in time."""
    with contextlib.ExitStack() as held:
        seen: set[int] = set()
        for _ in range(_LOOKS):
            new = [pid for pid in begun(os.getpid()) if pid not in seen and pid not in _guards]
            if not new:
                break
            seen.update(new)
            held.enter_context(frozen([pid for pid in new if _ours(pid)], patience_s=patience_s))
        else:
            raise Busy("processes are begun faster than they can be stopped", fix="try again")
        yield


def begun(pid: int) -> list[int]:
    """The living processes that `pid` has begun, and theirs: each before its own."""
    found: list[int] = []
    listed = Path(f"/proc/self/task/{threading.get_native_id()}/children").exists()
    all_ = {} if listed else _by_parent()
    waiting = [pid]
    while waiting:
        here = waiting.pop()
        inner = _listed(here) if listed else all_.get(here, [])
        found += inner
        waiting += inner
    return found


def _listed(pid: int) -> list[int]:
    """What a process has begun, by the system's own list (a Linux that has one)."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text().split())
    return found


def _by_parent() -> dict[int, list[int]]:
    asked = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
    found: dict[int, list[int]] = {}
    for line in asked.stdout.splitlines():
        pid, parent = map(int, line.split())
        found.setdefault(parent, []).append(pid)
    return found


def _ours(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _send(pid: int, number: int) -> None:
    assert pid > 1, "a group, or everybody, is not a process"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _still(pid: int) -> bool:
    """Whether nothing of a process runs: it is stopped, or has ended."""
    if sys.platform != "linux":
        asked = subprocess.run(["/bin/ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return asked.stdout.strip()[:1] in {"", *_STILL}
    try:
        return all(_state(task) in _STILL for task in Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return True


def _state(task: Path) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    return "X"
