"""Flushes, counted at the system call by strace: exact, whatever else the machine does.

A step's flushes are (count at 2N steps - count at N steps) / N, with everything periodic put off (`flush_s=600`), so
that what opening, ending and closing cost falls out. What is done about once a second whatever the number of steps
(flushing what needed no flush of its own, the signed head, its anchor) and what is done every few hundred steps (moving
the write-ahead log into the database) is counted apart, over a time, with the default settings.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = "fsync,fdatasync,sync_file_range,msync,sync,syncfs"
_CALL = re.compile(
    r"^\d+ +(?P<at>[\d.]+) (?:fsync|fdatasync|sync_file_range|msync|sync|syncfs)\((?:\d+<(?P<path>[^>]*)>)?"
)
KINDS = ("read", "decision", "idempotent", "reversible", "irreversible")

Child = Callable[..., dict[str, Any]]
"""Runs a measurement of bench.child: its name, what stands before the command, and what it is given."""


def why_not(folder: Path) -> str | None:
    """Why flushes cannot be counted here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    trace = folder / "probe.strace"
    tried = subprocess.run([*strace(trace), "true"], capture_output=True, text=True, check=False, timeout=60)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()[:200]}"


def strace(trace: Path, calls: str = CALLS) -> list[str]:
    """The command that writes every one of these `calls`, of all threads and children, to the file `trace`."""
    return [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-y",
        "-ttt",
        "-qq",
        "-e",
        f"trace={calls}",
        "-e",
        "signal=none",
        "-o",
        str(trace),
    ]


def counted(trace: Path, since: float = 0.0, until: float = float("inf")) -> Counter[str]:
    """The flushes that began in a span of time, by what they flushed: `wal`, `database`, `anchor`, or another file."""
    found: Counter[str] = Counter()
    for line in trace.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        if call is not None and since <= float(call["at"]) <= until:
            found[_what(call["path"] or "everything")] += 1
    return found


def _what(path: str) -> str:
    name = Path(path).name
    if name.endswith("-wal"):
        return "wal"
    if name.endswith(".db"):
        return "database"
    return "anchor" if name == "anchor" else name


def measure(child: Child, folder: Path, *, steps: int, seconds: float) -> dict[str, Any]:
    """The rows of `fsyncs per step`."""
    why = why_not(folder)
    if why is not None:
        return {"skipped": why}
    rows: dict[str, Any] = {kind: _each(child, folder, kind, 1, steps) for kind in KINDS}
    rows["idempotent, 32 runs"] = _each(child, folder, "idempotent", 32, max(1, steps // 8))
    rows["counted"] = f"(flushes at {2 * steps} steps - flushes at {steps} steps) / {steps}"
    rows["beside the steps"] = {kind: _beside(child, folder, kind, seconds) for kind in ("read", "idempotent")}
    return rows


def _each(child: Child, folder: Path, kind: str, runs: int, steps: int) -> float:
    """Flushes per step: the difference between a run of `2 * steps` and one of `steps`."""
    totals: list[int] = []
    for number in (steps, 2 * steps):
        trace = folder / f"{kind}-{runs}-{number}.strace"
        child("take", before=strace(trace), kind=kind, runs=runs, steps=number)
        totals.append(counted(trace).total())
    return (totals[1] - totals[0]) / (steps * runs)


def _beside(child: Child, folder: Path, kind: str, seconds: float) -> dict[str, float]:
    """With the default settings, for some seconds: flushes of the write-ahead log beyond those of the steps, of the
    anchor, and of the database (a transfer of the write-ahead log, before and after which the log is flushed too)."""
    trace = folder / f"{kind}-beside.strace"
    done = child("pace", before=strace(trace), kind=kind, seconds=seconds)
    found = counted(trace, done["began"], done["ended"])
    owed = done["steps"] if kind == "idempotent" else 0
    return {
        "seconds": round(done["ended"] - done["began"], 2),
        "steps": done["steps"],
        "wal, beyond the steps": found["wal"] - owed,
        "database": found["database"],
        "anchor": found["anchor"],
        "other": found.total() - found["wal"] - found["database"] - found["anchor"],
    }
