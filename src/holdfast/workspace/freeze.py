"""Holding processes still while their files are captured.

Rules
1. When the block begins, every process is stopped, with all that runs in it; when it ends, those that we stopped go on.
2. A process that has ended is no error. One that we may not stop is.
3. Should we die inside, a child of ours that waits for our end lets them go on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from pathlib import Path

from holdfast.errors import Busy

_STILL = frozenset("TtZX")


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
        for pid in moving:
            with contextlib.suppress(PermissionError):
                _send(pid, signal.SIGCONT)
        guard.kill()
        guard.communicate()


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
