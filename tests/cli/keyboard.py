"""How the tests type commands: in this process for the many small cases, in a real one where that matters."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from holdfast.cli.app import VERBS, program

ROOT = Path(__file__).parent.parent.parent
TROUPE = "tests.cli.troupe"


def typed(*words: str, input: str | None = None) -> Result:
    """A command, carried out in this process and in its directory."""
    verbs = [word for word in words[:1] if word in VERBS] or VERBS  # as the command itself does
    return CliRunner().invoke(program(verbs), list(words), input=input, prog_name="holdfast")


def done(*words: str) -> str:
    """The result of a command that must succeed."""
    result = typed(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def read(*words: str) -> Any:
    """What a reading command says as JSON."""
    return json.loads(done(*words, "--json"))


def play(agent: str, task: object, run: str, *more: str) -> Result:
    """Run one of the troupe's agents; it never waits."""
    return typed("run", f"{TROUPE}:{agent}", "--input", json.dumps(task), "--id", run, "--no-wait", *more)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "holdfast", *words]


def surroundings(**more: str) -> dict[str, str]:
    """The environment of a real command: it is the checkout's, the troupe can be imported, and nothing else is said."""
    said = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    return {**said, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "TERM": "xterm-256color", **more}


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    return subprocess.Popen(
        command(*words), cwd=cwd, env=surroundings(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def process(*words: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, to its end."""
    return subprocess.run(
        command(*words), cwd=cwd, env=surroundings(), text=True, capture_output=True, timeout=60, check=False, **more
    )


def on_a_terminal(*words: str, cwd: Path, columns: int = 80, **more: str) -> str:
    """What a command writes to a terminal of so many columns, stdout and stderr as they come."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        os.execve(sys.executable, command(*words), surroundings(**more))
    seen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # how Linux says that the other side has gone
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    os.waitpid(pid, 0)
    return seen.decode().replace("\r\n", "\n")


def soon(is_true: Callable[[], bool], what: str) -> None:
    """Wait until something holds; what takes a minute never comes."""
    until = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < until, f"it never came to this: {what}"
        time.sleep(0.02)
