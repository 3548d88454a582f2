"""The garbage collector, in a process that is ours alone.

With hundreds of runs under way, what they hold for a moment makes Python look for cycles again and again, through
everything that is alive: a quarter of all computing, measured. A step leaves no cycles behind.
"""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 100)


def for_many_runs() -> None:
    """Look for cycles less often, and never among what is there already: imported modules."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
