"""Sandboxes for tests: what a program inside says, and who may start it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from holdfast.gateway.confinement import Confinement
from holdfast.gateway.preflight import preflight
from holdfast.gateway.sandbox import Doors, launch

ROOT = Path(__file__).parent.parent.parent
PYTHON = "/usr/bin/python3"  # of the system: seen in every sandbox
PATH = {"PATH": "/usr/bin:/bin"}
NOBODY = 65534
PATIENCE_S = 60.0


@cache
def missing() -> str:
    return "; ".join(f"{one.what} (fix: {one.fix})" for one in preflight())


def needed() -> None:
    """Skip what cannot run here, with the reason that `holdfast doctor` gives."""
    if missing():
        pytest.skip(f"this machine cannot confine a process: {missing()}")
    if not os.access(PYTHON, os.X_OK):
        pytest.skip(f"the programs of these tests need {PYTHON}, which every sandbox would see")


async def closed(doors: Doors) -> None:
    """For programs that need no door."""
    for some in doors.values():
        for door in some:
            door.close()


async def said(
    argv: list[str],
    *,
    confinement: Confinement | None = None,
    environment: Mapping[str, str] = PATH,
    listen: Callable[[Doors], Awaitable[None]] = closed,
    **options: Any,
) -> tuple[int, str]:
    """Exit code of a program in a sandbox, and all that it wrote."""
    read, write = os.pipe()
    try:
        confined = await launch(
            confinement or Confinement(), argv, environment, listen=listen, stdout=write, stderr=write, **options
        )
    finally:
        os.close(write)
    async with confined:
        async with asyncio.timeout(PATIENCE_S):
            text = await asyncio.to_thread(everything, read)
            return await confined.wait(), text


def everything(fd: int) -> str:
    with open(fd, errors="replace") as file:
        return file.read()


def python(program: str) -> list[str]:
    return [PYTHON, "-I", "-S", "-c", program]


def sleeper(mark: str) -> list[str]:
    """A program that does nothing for long, with a mark on its command line."""
    return [*python("import time; time.sleep(1000)"), mark]


def alive(mark: str) -> list[int]:
    """The processes of this machine on whose command line `mark` stands."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            state = path.with_name("stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in words and state != "Z":
            found.append(int(path.parent.name))
    return found


def of_process(pid: int, name: str) -> bytes:
    """A file of /proc about a process; empty if that has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def gone(mark: str) -> bool:
    """Wait until no process has this mark; False if that does not come."""
    return until(lambda: not alive(mark))


def until(true: Callable[[], object]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.01)
    return False


def gateway(program: str, *, ordinary: bool = False) -> subprocess.Popen[str]:
    """A process that imports Holdfast and launches sandboxes; as an ordinary user, if this one is root."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), sysconfig.get_path("purelib")])
    environment = {**PATH, "PYTHONPATH": path, "HOLDFAST_CANARY": "the-canary-of-the-host"}
    who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if ordinary else {}
    return subprocess.Popen(
        [ordinary_python() if ordinary else sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment,
        **who,
    )


@cache
def ordinary_python() -> str:
    """An interpreter like this one that an ordinary user can run, with this checkout. Skips if there is none."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), sysconfig.get_path("purelib")])
    program = f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}; import holdfast.gateway.sandbox"
    for python in (os.path.realpath(sys.executable), PYTHON):
        try:
            subprocess.run(
                [python, "-c", program], env={"PYTHONPATH": path}, cwd="/", user=NOBODY, group=NOBODY, extra_groups=[],
                capture_output=True, timeout=PATIENCE_S, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            continue
        return python
    pytest.skip("an ordinary user cannot read this checkout, or run a Python of this version")
