"""One server of the world: a process of its own, on a loopback port, that never outlives its owner.

Rules
1. A server draws a free port, serves on it, and says `ready PORT` on its standard output once it can be reached.
2. A server whose standard input ends leaves at once: its owner is gone, even by SIGKILL.
3. An owner ends the servers that it started, by their process id, and no others.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 60.0
LEAVE_TIMEOUT_S = 5.0


class WorldBroken(Exception):
    """A server of the demo did not start. The text says which, why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server: where it listens and which process it is."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def leave(self) -> None:
        """End this server's process and wait until it is gone. Never raises for a server that is gone already."""
        end(self.process)


def start(name: str, module: str, *arguments: str, directory: Path, environment: Mapping[str, str]) -> Server:
    """Start `python -m module arguments` and wait until it is ready. Its errors go to `directory/NAME.err`.

    Raises WorldBroken, with the last lines the server wrote, if it is not ready within a minute.
    """
    errors = directory / f"{name}.err"
    process = launch(["-m", module, *arguments], errors=errors, environment=environment, answers=True)
    try:
        port = _await_ready(process)
    except WorldBroken as problem:
        end(process)
        raise WorldBroken(
            f"the demo's server `{name}` did not start: {problem}\n{_last_lines(errors)}\n"
            f"  fix: read {errors}; `pip install 'holdfast[demo]'` brings what the servers need"
        ) from None
    except BaseException:
        end(process)
        raise
    return Server(name=name, port=port, process=process)


def launch(
    arguments: Sequence[str], *, errors: Path, environment: Mapping[str, str], answers: bool
) -> subprocess.Popen[bytes]:
    """A Python process with a group of its own (so that Ctrl-C reaches only its owner), tied to us by its input."""
    with errors.open("ab") as written:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if answers else written,
            stderr=written,
            env=dict(environment),
            process_group=0,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """End one process by its id: asked first, then killed. Returns when it is gone."""
    with suppress(OSError):
        process.terminate()
    try:
        process.wait(LEAVE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def ready(port: int) -> None:
    """Said by the server's own process: it can be reached at `port`, and it leaves when its owner does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_leave_with_owner, daemon=True).start()
    sys.stdout.write(f"ready {port}\n")
    sys.stdout.flush()


def _leave_with_owner() -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(0)


def _await_ready(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    until = time.monotonic() + START_TIMEOUT_S
    said, waiting = b"", select.poll()  # which, unlike select, knows no largest descriptor
    waiting.register(process.stdout, select.POLLIN)
    while not said.endswith(b"\n"):
        left_s = until - time.monotonic()
        if left_s <= 0 or not waiting.poll(left_s * 1000):
            raise WorldBroken(f"not ready after {START_TIMEOUT_S:.0f} s")
        byte = os.read(process.stdout.fileno(), 1)
        if not byte:
            raise WorldBroken(f"it ended with status {process.wait()}")
        said += byte
    word, _, port = said.decode(errors="replace").strip().partition(" ")
    if word != "ready" or not port.isdecimal():
        raise WorldBroken(f"it said `{said!r}`")
    return int(port)


def _last_lines(path: Path, count: int = 5) -> str:
    with suppress(OSError):
        return "\n".join(f"  | {line}" for line in path.read_text(errors="replace").splitlines()[-count:])
    return ""
