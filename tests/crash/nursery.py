"""A process in which everything is imported and nothing is open: it bears the children that the tests kill.

Starting an interpreter for each trial would cost a second; a fork of this one costs milliseconds. It opens no store,
starts no thread and no event loop, so that a child inherits nothing but code.

    {"bear": LIFE} → {"pid": PID}            LIFE: see `live` in life.py, or in the module that is named
    {"wait": PID, "seconds": S} → {"ended": "killed by 9" | "left" | "stopped" | null, "result": …}
    {"signal": PID, "number": N} → {}

Rules
1. One line in, one line out, on standard input and output. When the input ends, so does whatever still lives.
2. A child is not reaped before `wait` has told of its end, so that a signal never reaches somebody else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


# --- the tests' side ---


class Nursery:
    """The process, as its owner sees it. `lives`: the module whose `live` its children do."""

    def __init__(self, lives: str = "tests.crash.life") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery", lives],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery has died"
        return json.loads(answer)

    def bear(self, **life: Any) -> int:
        """A new child's pid."""
        return self._ask({"bear": life})["pid"]

    def wait(self, pid: int, seconds: float = 60.0) -> tuple[str | None, Any]:
        """How a child ended (`left`, `killed by N`, `stopped`; None: it has not), and its result."""
        answer = self._ask({"wait": pid, "seconds": seconds})
        return answer["ended"], answer.get("result")

    def signal(self, pid: int, number: int) -> None:
        self._ask({"signal": pid, "number": number})

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


# --- the process's side ---


class _Children:
    def __init__(self) -> None:
        self._results: dict[int, int] = {}

    def bear(self, life: dict[str, Any]) -> dict[str, Any]:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os.dup2(2, 1)
            os.closerange(3, writing)
            _be_born(life, writing)
        os.close(writing)
        self._results[pid] = reading
        return {"pid": pid}

    def wait(self, pid: int, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while True:
            found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if found:
                return {"ended": "stopped"} if os.WIFSTOPPED(status) else self._told(pid, status)
            if time.monotonic() >= until:
                return {"ended": None}
            time.sleep(0.001)

    def _told(self, pid: int, status: int) -> dict[str, Any]:
        with os.fdopen(self._results.pop(pid), "rb") as pipe:
            told = pipe.read()
        ended = f"killed by {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "left"
        return {"ended": ended, "result": json.loads(told) if told else None}

    def signal(self, pid: int, number: int) -> dict[str, Any]:
        if pid in self._results:
            os.kill(pid, number)
        return {}

    def end(self) -> None:
        for pid in list(self._results):
            self.signal(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _lives() -> str:
    """The module of the lives that are led here."""
    return sys.argv[1] if len(sys.argv) > 1 else "tests.crash.life"


def _be_born(life: dict[str, Any], writing: int) -> None:
    """Live, tell the result, and never come back."""
    try:
        lives = import_module(_lives())
        os.write(writing, json.dumps(lives.live(life)).encode())
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        os._exit(0)


def main() -> None:
    import_module(_lives())  # so that no child has to import anything
    children = _Children()
    answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "bear": lambda question: children.bear(question["bear"]),
        "wait": lambda question: children.wait(question["wait"], question["seconds"]),
        "signal": lambda question: children.signal(question["signal"], question["number"]),
    }
    try:
        for line in sys.stdin:
            question = json.loads(line)
            print(json.dumps(answers[next(iter(question))](question)), flush=True)
    finally:
        children.end()


if __name__ == "__main__":
    main()
