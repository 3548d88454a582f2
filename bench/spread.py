"""Repeated measurements of one thing: the median, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """`values` as they stand in `build/bench.json`. Raises ValueError if there are none."""
    if not values:
        raise ValueError("nothing was measured")
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "of": len(values),
    }


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of `values` lie: one of them, never something between two."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
