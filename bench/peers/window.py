"""The time in which steps are counted, alike for Holdfast and its peers. Only the standard library: each runs this with
the Python of its own environment.

Rules
1. It opens when the last of the runs has taken `WARM` steps: connecting and beginning are none of a step's.
2. What a step costs is what this process and the server have used while it was open.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

WARM = 4
LOOK_S = 0.002


def used_s(server: int) -> float:
    """What this process and the server (its parent's pid; all of its backends; 0: there is none) have used so far."""
    mine = resource.getrusage(resource.RUSAGE_SELF)
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat") if server else ():
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == server:  # with what its own children, who have ended, have used
            ticks += int(fields[11]) + int(fields[12])
        elif int(path.parent.name) == server:
            ticks += sum(map(int, fields[11:15]))
    return mine.ru_utime + mine.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Window:
    """Of so many runs, in threads or in one loop, for some seconds."""

    runs: int
    seconds: float
    server: int
    counts: list[int] = field(default_factory=list)
    _warm: set[int] = field(default_factory=set)
    _began: float = 0.0
    _ended: float = 0.0
    _from_s: float = 0.0
    _to_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * self.runs

    def warm(self, run: int) -> None:
        """This run has taken its first steps."""
        self._warm.add(run)
        if len(self._warm) == self.runs and not self._began:
            self._from_s, self._began = used_s(self.server), time.perf_counter()

    @property
    def opened(self) -> bool:
        """Whether all are warm. Looked at every `LOOK_S`."""
        return self._began > 0

    def open(self) -> bool:
        """Whether there is time for one more step."""
        if self._ended:
            return False
        now = time.perf_counter()
        if now - self._began < self.seconds:
            return True
        self._ended, self._to_s = now, used_s(self.server)
        return False

    def wait(self, run: int) -> None:
        """In a thread: be warm, and return when all are."""
        self.warm(run)
        while not self.opened:
            time.sleep(LOOK_S)

    def tell(self) -> None:
        """Print what was found, as one line of JSON."""
        count, wall_s = sum(self.counts), self._ended - self._began
        found = {"per_s": count / wall_s, "cpu_ms": (self._to_s - self._from_s) / max(count, 1) * 1000}
        sys.stdout.write(json.dumps(found) + "\n")


def text(number: int, length: int) -> str:
    """So many characters, which differ from step to step."""
    return f"{number:012d}".ljust(length, "x")


def asked() -> tuple[str, Window]:
    """The arguments of a script: URL RUNS SECONDS SERVER."""
    url, runs, seconds, server = sys.argv[1:5]
    return url, Window(int(runs), float(seconds), int(server))
