"""What a watcher has to do, and when: runs by the moment at which they may go on.

Rules
1. A run stands in it at most once: whoever puts it in anew takes it out of where it was.
2. Moments of a log are wall clock, and are compared with it; pauses are counted by a clock that nobody sets.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.core.wake import Ready
from holdfast.embedded.outlook import Seen

STALE = 1000  # moments of runs that have gone on meanwhile, before they are thrown out


@dataclass(frozen=True, slots=True)
class Due:
    """A run that may go on, and why."""

    seen: Seen
    ready: Ready


class Agenda:
    """Runs that may go on now, in the order in which that was found, and those that may later."""

    def __init__(self) -> None:
        self._ready: dict[str, Due] = {}
        self._waits: dict[str, tuple[int, Seen]] = {}
        self._moments: list[tuple[int, str]] = []
        self._paused: dict[str, tuple[float, Due]] = {}

    def __iter__(self) -> Iterator[Due]:
        return iter(self._ready.values())

    def drop(self, run: str) -> None:
        """Forget a run. No error if it is not here."""
        for part in (self._ready, self._waits, self._paused):
            part.pop(run, None)

    def put(self, due: Due) -> None:
        """A run that may go on now."""
        self.drop(due.seen.run)
        self._ready[due.seen.run] = due

    def put_at(self, seen: Seen, at_ms: int) -> None:
        """A run that may go on at a moment (wall clock)."""
        self.drop(seen.run)
        self._waits[seen.run] = (at_ms, seen)
        heapq.heappush(self._moments, (at_ms, seen.run))
        if len(self._moments) > 2 * len(self._waits) + STALE:
            self._moments = sorted((moment, run) for run, (moment, _) in self._waits.items())

    def put_after(self, due: Due, at_s: float) -> None:
        """A run that may go on after a pause (monotonic clock)."""
        self.drop(due.seen.run)
        self._paused[due.seen.run] = (at_s, due)

    def turn(self, now_ms: int, now_s: float) -> None:
        """Take up what may go on by now."""
        while self._moments and self._moments[0][0] <= now_ms:
            at_ms, run = heapq.heappop(self._moments)
            waits = self._waits.get(run)
            if waits is not None and waits[0] == at_ms:
                self.put(Due(waits[1], Ready("it is time")))
        for _, due in [paused for paused in self._paused.values() if paused[0] <= now_s]:
            self.put(due)

    def wait_s(self, now_ms: int, most_s: float) -> float:
        """How long nothing of this becomes due, at most `most_s`."""
        if not self._moments:
            return most_s
        return min(most_s, max(0.0, (self._moments[0][0] - now_ms) / 1000))
