"""Processes that prune a store on PostgreSQL, and die or stop at a statement that is named.

    python -m tests.store.mortal_pruner

For each line `URL SIGNAL NTH BRANCH`: a child prunes BRANCH, and sends itself SIGNAL after the NTH
statement; its number is said. Then `killed`, `left CODE`, or `stopped`; that one goes on with the next line, which
is empty.

The product knows nothing of it: the way to the database is wrapped in the child alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from holdfast.store import postgres_prune
from holdfast.store.postgres_prune import PostgresPruner
from tests.store.pruned import pruned
from tests.store.shelf import Shelf


def arm(number: int, nth: int) -> None:
    """After the n-th statement of this process, a signal."""
    ask, asked = PostgresPruner._ask, iter(range(1, 10_000))

    def wrapped(self: PostgresPruner, *said: Any) -> Any:
        rows = ask(self, *said)
        if next(asked) == nth:
            os.kill(os.getpid(), number)
        return rows

    PostgresPruner._ask = wrapped  # type: ignore[method-assign]


def main() -> None:
    postgres_prune.MOST_BLOBS = 2
    for line in sys.stdin:
        if not line.strip():
            continue
        url, number, nth, branch = line.split()
        pid = os.fork()
        if pid == 0:
            arm(int(number), int(nth))
            pruned(Shelf("postgres", Path(), url), branch)
            os._exit(0)
        print(pid, flush=True)
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                break
            print("stopped", flush=True)
        print("killed" if os.WIFSIGNALED(status) else f"left {os.WEXITSTATUS(status)}", flush=True)


if __name__ == "__main__":
    main()
