"""The agent's processes: started like a user would start them, killed like a machine would kill them.

Rules
1. The kill comes from outside and is SIGKILL. It comes when the legacy database says that it has been altered, while
   its answer is still on the way: the agent has acted, and neither it nor the log knows.
2. A process that ends by itself before that, or fails after it, is a broken story; its own words are shown.
"""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.demo.server import end, launch
from holdfast.demo.world import World

LOOK_S = 0.02
AGENT_TIMEOUT_S = 120.0


class StoryBroken(Exception):
    """The demo did not go as it must; the text says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """A process that was killed: its id, and its status (minus the signal)."""

    pid: int
    status: int


def kill_once_altered(arguments: Sequence[str], world: World, errors: Path, look: Callable[[], None]) -> Killed:
    """Start an agent and kill it in the middle of the alteration. `look` is called again and again meanwhile.

    Raises StoryBroken if it ends before."""
    process = launch(arguments, errors=errors, environment=world.environment, answers=False)
    try:
        until = time.monotonic() + AGENT_TIMEOUT_S
        while not world.alterations():
            if process.poll() is not None:
                raise StoryBroken(
                    f"the agent ended with status {process.returncode} before it was killed\n{said(errors)}"
                )
            if time.monotonic() > until:
                raise StoryBroken(
                    f"the agent did not reach the alteration within {AGENT_TIMEOUT_S:.0f} s\n{said(errors)}"
                )
            look()
            time.sleep(LOOK_S)
        process.send_signal(signal.SIGKILL)
        status = process.wait()
        look()
        return Killed(pid=process.pid, status=status)
    finally:
        end(process)


def let_finish(arguments: Sequence[str], world: World, errors: Path, look: Callable[[], None], status: int = 0) -> int:
    """Start an agent and wait until it has ended with `status`; its process id. Raises StoryBroken if it does not."""
    process = launch(arguments, errors=errors, environment=world.environment, answers=False)
    try:
        until = time.monotonic() + AGENT_TIMEOUT_S
        while process.poll() is None and time.monotonic() < until:
            look()
            time.sleep(LOOK_S)
        if process.poll() != status:
            state = "did not finish" if process.poll() is None else f"ended with status {process.returncode}"
            raise StoryBroken(f"the agent {state}\n{said(errors)}")
        look()
        return process.pid
    finally:
        end(process)


def said(errors: Path, lines: int = 12) -> str:
    """The last lines that a process wrote."""
    return "\n".join(f"  | {line}" for line in errors.read_text(errors="replace").splitlines()[-lines:])
