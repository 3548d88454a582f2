"""One run of everything: rounds of ours, floor, ours, floor, …, and what is counted after them.

Rules
1. Between two of our measurements stands one of the floor: ours is divided by the two floors that stand beside it.
2. Each round begins at another place, so that nothing is always measured first.
3. Every measurement is a process of its own, bounded in time, in a folder of its own on the disk that is measured.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import bars, closing, flushes, importing, machine, slowdisk, text
from bench.spread import spread

ROOT = Path(__file__).resolve().parent.parent
LONGEST_S = 300.0  # of one measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One way of taking steps: the kind of step, and how many runs take them side by side."""

    name: str
    kind: str
    runs: int


LEGS = (
    Leg(name="idempotent, 1 run", kind="idempotent", runs=1),
    Leg(name="idempotent, 32 runs", kind="idempotent", runs=32),
    Leg(name="idempotent, 256 runs", kind="idempotent", runs=256),
    Leg(name="irreversible, 1 run", kind="irreversible", runs=1),
    Leg(name="read, 1 run", kind="read", runs=1),
    Leg(name="decision, 1 run", kind="decision", runs=1),
    Leg(name="idempotent, 1 run without async", kind="plain", runs=1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured. `lengths`: steps of the logs that are resumed; `talks`: turns of growing conversations;
    `trees`: files of workspaces, how many of them change, and how often that is measured."""

    rounds: int
    seconds: float
    floor_seconds: float
    warming: bool
    lengths: tuple[int, ...]
    talks: tuple[int, ...]
    imports: int
    flush_steps: int
    beside_seconds: float
    slow_rounds: int
    trees: tuple[tuple[int, int, int], ...]
    closings: int


FULL = Size(
    rounds=6, seconds=1.2, floor_seconds=0.7, warming=True, lengths=(100, 1000, 10_000), talks=(100, 300, 1000),
    imports=3, flush_steps=100, beside_seconds=5.0, slow_rounds=3,
    trees=((200, 10, 5), (10_000, 1, 3), (10_000, 10, 7), (10_000, 1000, 2), (50_000, 10, 2)), closings=100,
)  # fmt: skip
QUICK = Size(
    rounds=1, seconds=0.25, floor_seconds=0.25, warming=False, lengths=(100, 300), talks=(100, 300),
    imports=1, flush_steps=20, beside_seconds=1.5, slow_rounds=1, trees=((200, 10, 1), (1000, 10, 1)), closings=20,
)  # fmt: skip


class Bench:
    """One run in `folder`, which is on the disk to be measured. `say` is told what is being done."""

    def __init__(self, folder: Path, size: Size, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._size = size
        self._say = say
        self._texts = folder / "texts"
        self._steps: dict[str, list[dict[str, float]]] = defaultdict(list)
        self._against: dict[str, list[float]] = defaultdict(list)
        self._resumes: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
        self._imports: list[dict[str, float]] = []
        self._slow: dict[str, list[float]] = defaultdict(list)

    def run(self) -> dict[str, Any]:
        """Measure everything; the rows as they stand in `build/bench.json`."""
        began, state, load = time.monotonic(), machine.state(ROOT), machine.load()
        text.write(self._texts, 8 << 20)
        self._say("logs to be resumed")
        for way, steps in self._trips():
            self._grow(way, steps)
        for number in range(self._size.rounds):
            self._round(number)
        slowly = self._slowly()
        self._say("flushes, under strace")
        traces = self._fresh("traces")
        counted = flushes.measure(self.child, traces, steps=self._size.flush_steps, seconds=self._size.beside_seconds)
        self._say("checkpoints of files that did not change")
        closed = closing.measure(self.child, traces, self._size.closings)
        rows = {
            **self._rows(counted),
            "slower flush": slowly,
            "workspace": self._trees(),
            "unchanged checkpoint": closed,
        }
        rows["bars"] = bars.judged(rows)
        loads = {"load before": load, "load after": machine.load(), "seconds": round(time.monotonic() - began)}
        return {
            "run": {**state, **loads, "rounds": self._size.rounds},
            "machine": machine.machine(self._folder),
            **rows,
        }

    def _trips(self) -> list[tuple[str, int]]:
        return [(way, steps) for steps in self._size.lengths for way in ("restore", "replay")]

    # --- one measurement ---

    def _fresh(self, name: str) -> Path:
        folder = self._folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def child(
        self,
        name: str,
        *,
        folder: Path | None = None,
        before: Sequence[str] = (),
        killed: bool = False,
        preload: str = "",
        **given: object,
    ) -> dict[str, Any]:
        """The result of a measurement of bench.child in a process of its own. `before` stands before its command;
        `killed`: it has to end by SIGKILL, and has no result; `preload`: a library that is loaded before all others."""
        told = json.dumps({"folder": str(folder or self._fresh("leg")), "texts": str(self._texts), **given})
        ran = subprocess.run(
            [*before, sys.executable, "-m", "bench.child", name, told],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_S,
            env={
                **os.environ,
                "HOLDFAST_HOME": str(self._folder / "home"),
                **({"LD_PRELOAD": preload} if preload else {}),
            },
        )
        if ran.returncode != (-signal.SIGKILL if killed else 0):
            raise RuntimeError(f"`{name}` {given} ended with {ran.returncode}:\n{ran.stderr[-2000:]}")
        return {} if killed else json.loads(ran.stdout)

    # --- the rounds ---

    def _round(self, number: int) -> None:
        size = self._size
        self._say(f"round {number + 1} of {size.rounds}")
        turn = number * 3 % len(LEGS)
        before = self._floor()
        for leg in LEGS[turn:] + LEGS[:turn]:
            ours = self.child("steps", kind=leg.kind, runs=leg.runs, seconds=size.seconds, warming=size.warming)
            after = self._floor()
            self._steps[leg.name].append(ours)
            self._against[leg.name].append(ours["per_s"] / ((before + after) / 2))
            before = after
        for way, steps in self._trips():
            self._come_back(way, steps)
        self._imports += [importing.measure(ROOT) for _ in range(size.imports)]

    def _floor(self) -> float:
        found = self.child("floor", seconds=self._size.floor_seconds, warming=self._size.warming)
        self._steps["floor"].append(found)
        return found["per_s"]

    def _slowly(self) -> dict[str, Any]:
        """The steps against the floor where each flush takes a millisecond longer."""
        library = slowdisk.made(self._folder)
        if isinstance(library, str):
            return {"skipped": library}
        size, preload = self._size, str(library)
        for number in range(size.slow_rounds):
            self._say(f"slower flush, round {number + 1} of {size.slow_rounds}")
            before = self._floor_slowly(preload)
            for leg in LEGS:
                ours = self.child("steps", kind=leg.kind, runs=leg.runs, seconds=size.seconds, warming=size.warming,
                                  preload=preload)  # fmt: skip
                after = self._floor_slowly(preload)
                self._slow[leg.name].append(ours["per_s"] / ((before + after) / 2))
                before = after
        floor = self._slow.pop("floor")
        return {
            "more per flush, ms": slowdisk.DELAY_MS,
            "floor, steps/s": spread(floor, 0),
            "steps/s against the floor": {name: spread(found) for name, found in self._slow.items()},
        }

    def _floor_slowly(self, preload: str) -> float:
        size = self._size
        found = self.child("floor", seconds=size.floor_seconds, warming=size.warming, preload=preload)
        self._slow["floor"].append(found["per_s"])
        return found["per_s"]

    def _grow(self, way: str, steps: int) -> None:
        self.child("grow", folder=self._fresh(f"{way}-{steps}"), killed=True, way=way, steps=steps)

    def _come_back(self, way: str, steps: int) -> None:
        from bench.resume import copied

        copy = self._folder / "copy"
        copied(self._folder / f"{way}-{steps}", copy)
        self._resumes[way, steps].append(self.child("come_back", folder=copy, way=way, steps=steps))

    # --- the rows ---

    def _rows(self, counted: dict[str, Any]) -> dict[str, Any]:
        def each(field: str, digits: int) -> dict[str, Any]:
            return {name: spread([one[field] for one in found], digits) for name, found in self._steps.items()}

        return {
            "steps/s": each("per_s", 0),
            "steps/s against the floor": {name: spread(found) for name, found in self._against.items()},
            "p50/p99": {
                name: {
                    "p50 ms": spread([one["p50_ms"] for one in found]),
                    "p99 ms": spread([one["p99_ms"] for one in found]),
                }
                for name, found in self._steps.items()
            },
            "CPU per step": each("cpu_ms", 3),
            "fsyncs per step": counted,
            "resume time": self._resumed("ms", 1),
            "RSS": self._resumed("rss_mb", 1),
            "bytes on disk per step": {str(turns): self._talk(turns) for turns in self._size.talks},
            "import time": self._imported(),
        }

    def _trees(self) -> dict[str, Any]:
        """Times in ms, by the size of the tree and what was done."""
        rows: dict[str, Any] = {}
        for files, changed, rounds in self._size.trees:
            self._say(f"a workspace of {files} files, {changed} of them changed")
            found = self.child("files", files=files, changed=changed, rounds=rounds)
            rows[f"{files} files, {changed} changed"] = {name: spread(values, 2) for name, values in found.items()}
        return rows

    def _resumed(self, field: str, digits: int) -> dict[str, Any]:
        rows: dict[str, Any] = {"restore": {}, "replay": {}}
        for (way, steps), found in self._resumes.items():
            rows[way][str(steps)] = spread([one[field] for one in found], digits)
        return rows

    def _talk(self, turns: int) -> dict[str, float]:
        self._say(f"a conversation of {turns} turns")
        found = self.child("talk", steps=turns)
        return {
            "bytes": round(found["bytes"] / turns),
            "payload": round(found["payload_bytes"] / turns),
            "times the payload": round(found["bytes"] / found["payload_bytes"], 3),
            "times the messages alone": round(found["bytes"] / found["messages_bytes"], 3),
            "messages": found["messages"],
            "CPU ms": round(found["cpu_ms_per_step"], 2),
        }

    def _imported(self) -> dict[str, Any]:
        ours, python = "holdfast", "asyncio, sqlite3"
        rows: dict[str, Any] = {
            f"{name} ms": spread([one[name] for one in self._imports], 1) for name in importing.IMPORTS
        }
        rows["holdfast / (asyncio, sqlite3)"] = spread([one[ours] / one[python] for one in self._imports], 2)
        return rows
