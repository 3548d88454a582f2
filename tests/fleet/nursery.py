"""A process in which everything is imported and nothing is open: it bears the workers that the tests kill.

Rules
1. One line in, one line out, on standard input and output. When the input ends, so does whatever still lives.
2. A child is not reaped before `poll` has told of its end, so that a signal never reaches somebody else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


class Nursery:
    """The process, as its owner sees it. `more`: variables of its environment."""

    def __init__(self, **more: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fleet.nursery"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **more},
        )  # fmt: skip

    def _ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery has died"
        return json.loads(answer)

    def bear(self, words: list[str], cwd: Path, speech: Path, **more: str) -> int:
        """A command in a child; its pid. It stands in `cwd`, speaks into `speech`, and knows `more` variables."""
        return self._ask(words=words, cwd=str(cwd), speech=str(speech), more=more)

    def poll(self, pid: int) -> int | None:
        """The exit code of a child that has ended; -N if by signal N."""
        return self._ask(poll=pid)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _bear(question: dict[str, Any], children: dict[int, int | None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            speech = os.open(question["speech"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(speech, 1)
            os.dup2(speech, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.chdir(question["cwd"])
            os.environ.update(question["more"])
            from holdfast.cli.app import main

            code = main(question["words"])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    children[pid] = None
    return pid


def _poll(pid: int, children: dict[int, int | None]) -> int | None:
    if pid in children and children[pid] is None:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children[pid] = os.waitstatus_to_exitcode(status)
    return children.get(pid)


def main() -> None:
    """Answer until the input ends."""
    import holdfast.cli.app
    import holdfast.embedded
    import holdfast.fleet.worker
    import holdfast.store.postgres_key  # noqa: F401
    import tests.fleet.crew  # noqa: F401 - so that no child has to import anything

    children: dict[int, int | None] = {}
    try:
        for line in sys.stdin:
            question = json.loads(line)
            answer = _poll(question["poll"], children) if "poll" in question else _bear(question, children)
            print(json.dumps(answer), flush=True)
    finally:
        for pid in [pid for pid, code in children.items() if code is None]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
