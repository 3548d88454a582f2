"""How often a property is tried: as often as the default run has time for, or more."""

from __future__ import annotations

import os

AT_LEAST = int(os.environ.get("HOLDFAST_EXAMPLES", "0"))  # what `make soak` asks for


def examples(usual: int) -> int:
    """So many examples of one property."""
    return max(usual, AT_LEAST)
