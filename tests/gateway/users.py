"""Processes of other users, for tests that root runs.

Rules
1. A user is somebody of the system's own list who owns nothing here: `nobody`, `daemon`, `bin`, …
2. Where other users may not pass to this interpreter, the process has a mount namespace in which they may.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def needing_users() -> None:
    """Skip where processes of other users cannot be started."""
    if os.geteuid() != 0:
        pytest.skip("only root starts processes of other users")
    for tool in ("setpriv", "unshare", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no `{tool}`")
    closed = _closed(Path(sys.base_prefix).resolve())
    if closed is not None and (ROOT.is_relative_to(closed) or Path(sys.prefix).is_relative_to(closed)):
        pytest.skip(f"other users may not pass through {closed}, where this project is")


def start(
    user: str, group: str, *command: str, groups: str = "", folder: Path, environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    """A process of `user`, whose group is `group`, and who is in `groups` besides."""
    belongs = f"--groups={groups}" if groups else "--clear-groups"
    become = f"exec setpriv --reuid={user} --regid={group} {belongs} --inh-caps=-all --bounding-set=-all --no-new-privs"
    line = f"{_passage()}{become} {shlex.join(command)}"
    return subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", line], cwd=folder, env=dict(environment),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _passage() -> str:
    """Commands that open the way to this interpreter, in a mount namespace of one's own."""
    base = Path(sys.base_prefix).resolve()
    closed = _closed(base)
    if closed is None:
        return ""
    kept, target = "/mnt", shlex.quote(str(base))
    return (
        f"mount --bind {target} {kept}; mount -t tmpfs -o mode=755 none {shlex.quote(str(closed))}; "
        f"mkdir -p {target}; mount --bind {kept} {target}; umount {kept}; "
    )


def _closed(path: Path) -> Path | None:
    """The outermost directory of a path through which others may not pass."""
    return next((each for each in [*path.parents][::-1] if not each.stat().st_mode & 0o001), None)
