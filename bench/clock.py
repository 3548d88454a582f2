"""When a measurement begins and ends: not before everything is warm, and at one moment for all runs of a process.

Warm means: the write-ahead log has been moved into the database at least once, so that from then on it is written over
from its beginning. The database file grows at that moment, which can be seen from outside, alike for both sides.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.spread import quantile

LOOK_EVERY = 32  # steps
PATIENCE_S = 30.0


@dataclass(slots=True)
class Clock:
    """Times the steps of `runs` concurrent runs for about `seconds`. `warming` is False where times do not matter."""

    path: Path
    runs: int
    seconds: float
    warming: bool = True
    taken_s: list[float] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)
    _size: int | None = None
    _looked: int = 0
    _warm: bool = False
    _ready: int = 0
    _left: int = 0
    _gate: asyncio.Event = field(default_factory=asyncio.Event)
    _start_s: float = 0.0
    _start_cpu_s: float = 0.0
    _wall_s: float = 0.0
    _cpu_s: float = 0.0

    def cold(self) -> bool:
        """Whether a further step is needed to be warm. Asked before each."""
        self._looked += 1
        if not self._warm and self._looked % LOOK_EVERY == 1:
            size = self.path.stat().st_size
            self._size = size if self._size is None else self._size
            late = time.perf_counter() - self._began > PATIENCE_S
            self._warm = size > self._size or late or (self._looked > 1 and not self.warming)
        return not self._warm

    async def together(self) -> None:
        """Wait until every run is warm; the measurement begins then."""
        if self.ready():
            self._gate.set()
        await self._gate.wait()

    def ready(self) -> bool:
        """One more run is warm; whether it was the last, with which the measurement begins."""
        self._ready += 1
        if self._ready == self.runs:
            self._start_s, self._start_cpu_s = time.perf_counter(), time.process_time()
        return self._ready == self.runs

    def running(self) -> bool:
        """Whether there is time for one more step. The last run to be told no ends the measurement."""
        if time.perf_counter() - self._start_s < self.seconds:
            return True
        self._left += 1
        if self._left == self.runs:
            self._wall_s = time.perf_counter() - self._start_s
            self._cpu_s = time.process_time() - self._start_cpu_s
        return False

    def result(self) -> dict[str, float]:
        """What was measured: steps a second, percentiles and CPU of one step in ms."""
        steps = len(self.taken_s)
        return {
            "steps": steps,
            "per_s": steps / self._wall_s,
            "p50_ms": quantile(self.taken_s, 0.50) * 1000,
            "p99_ms": quantile(self.taken_s, 0.99) * 1000,
            "cpu_ms": self._cpu_s / steps * 1000,
        }
