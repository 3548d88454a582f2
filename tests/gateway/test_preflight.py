"""What is missing for confinement is said exactly, with what mends it."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.gateway.preflight import APPARMOR, CLONE, MOST, Missing, explained, preflight, version
from tests.gateway.cell import PATIENCE_S, ROOT, needed

NO_MAP = "setting up uid map: Permission denied"
NO_LOOPBACK = "loopback: Failed RTM_NEWADDR: Operation not permitted"
NO_NAMESPACE = "No permissions to create new namespace, likely because the kernel does not allow non-privileged ones"
NO_PROC = "Can't mount proc on /newroot/proc: Operation not permitted"

CASES = [
    (NO_MAP, {APPARMOR: "1", CLONE: "1", MOST: "63000"}, False, "AppArmor refuses", "apparmor_parser -r"),
    (NO_LOOPBACK, {APPARMOR: "1", MOST: "63000"}, False, "AppArmor refuses", "userns,"),
    (NO_NAMESPACE, {CLONE: "0", MOST: "63000"}, False, "for root only", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (NO_NAMESPACE, {MOST: "0"}, False, "switched off", "sudo sysctl -w user.max_user_namespaces=10000"),
    (NO_PROC, {APPARMOR: "0", MOST: "63000"}, True, "container", "--security-opt systempaths=unconfined"),
    (NO_NAMESPACE, {MOST: "63000"}, True, "container", "--security-opt seccomp=unconfined"),
    ("a riddle", {MOST: "63000"}, False, "a riddle", "/usr/bin/bwrap --ro-bind / / true"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "values", "container", "what", "fix"), CASES)
def test_what_bubblewrap_says_is_explained(
    said: str, values: dict[str, str], container: bool, what: str, fix: str
) -> None:
    found = explained(said, values, path="/usr/bin/bwrap", container=container)
    assert what in found.what
    assert fix in found.fix


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("bubblewrap 0.8.0\n", (0, 8, 0)), ("6.18.44-fc", (6, 18, 44)), ("bubblewrap 0.11", (0, 11, 0)), ("", (0, 0, 0))],
)
def test_versions_are_compared_by_their_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert version(text) == numbers


def elsewhere(path: str) -> list[dict[str, str]]:
    """What a process finds whose programs are looked for in `path`."""
    program = (
        "import dataclasses, json; from holdfast.gateway.preflight import preflight;"
        "print(json.dumps([dataclasses.asdict(one) for one in preflight()]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": path, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return json.loads(ran.stdout)


linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the first finding is that this is not Linux")


@linux
def test_without_bubblewrap_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    script(tmp_path / "apt-get", "")
    assert elsewhere(str(tmp_path)) == [
        {"what": "bubblewrap (bwrap) is not installed", "fix": "apt-get install bubblewrap"}
    ]


@linux
def test_a_bubblewrap_that_is_too_old_is_named(tmp_path: Path) -> None:
    script(tmp_path / "bwrap", "echo bubblewrap 0.4.1")
    assert elsewhere(str(tmp_path)) == [
        {"what": "bubblewrap 0.4.1 cannot forbid new namespaces inside", "fix": "use 0.8.0 or newer"}
    ]


@linux
def test_a_bubblewrap_that_fails_is_quoted(tmp_path: Path) -> None:
    tell = 'case "$1" in --version) echo bubblewrap 0.9.0;; *) echo "bwrap: no luck" >&2; exit 1;; esac'
    script(tmp_path / "bwrap", tell)
    (found,) = elsewhere(str(tmp_path))
    assert "no luck" in found["what"]


@linux
def test_in_a_loop_too_it_can_be_asked() -> None:
    """Whoever asks may be a gateway at work."""
    needed()

    async def ask() -> list[Missing]:
        return preflight()

    assert asyncio.run(ask()) == []


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
