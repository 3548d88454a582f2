"""The command line in a process that kills itself at a chosen append to PostgreSQL.

python -m tests.cli.mortal SIDE NTH WORD…     SIDE: `before` it is sent, or `after` it was acknowledged
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from holdfast.cli import main
from holdfast.store.postgres import PostgresStore

side, nth = sys.argv[1], int(sys.argv[2])
append, seen = PostgresStore.append, 0


async def appending(store: PostgresStore, *args: Any, **named: Any) -> Any:
    global seen  # noqa: PLW0603 - one process, one count
    seen += 1
    if (side, nth) == ("before", seen):
        os.kill(os.getpid(), signal.SIGKILL)
    placed = await append(store, *args, **named)
    if (side, nth) == ("after", seen):
        os.kill(os.getpid(), signal.SIGKILL)
    return placed


PostgresStore.append = appending  # pyright: ignore[reportAttributeAccessIssue]
sys.argv[:] = ["holdfast", *sys.argv[3:]]
main()
