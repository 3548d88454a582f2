"""The clock of a store: the one by which its entries are placed, and all deadlines of its runs are counted.

Rules
1. Where a database has a clock of its own, that is it: those of workers may be hours apart, and they still agree on
   what has expired. Between two words of the database it goes on with the monotonic clock of this process.
2. Elsewhere it is the wall clock of the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast


def clock_of(store: object) -> Callable[[], int]:
    """The clock of a store (ms since 1970)."""
    own = getattr(store, "now_ms", None)
    return cast("Callable[[], int]", own) if callable(own) else wall_ms


def wall_ms() -> int:
    """The wall clock of this machine (ms since 1970)."""
    return time.time_ns() // 1_000_000
