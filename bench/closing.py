"""What a checkpoint costs whose files did not change: counted at the system call, as flushes are (see flushes.py).

The files are 1000, in a workspace; the state is the number of the checkpoint. What opening, ending and the first
captures cost falls out of the difference between 2N and N checkpoints.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.flushes import CALLS, Child, strace, why_not
from holdfast import Run, agent, open_store

WRITES = "write,pwrite64,pwritev,writev,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,ftruncate,fallocate"
_CALL = re.compile(r"^\d+ +[\d.]+ (?P<name>\w+)\((?:\d+<(?P<path>[^>]*)>)?(?P<rest>.*)")
FILES = 1000


def close(folder: Path, checkpoints: int) -> dict[str, float]:
    """Make so many checkpoints of a workspace in which nothing changes; how long one takes, in ms, at the median."""

    @agent(state=int, workspace=True)
    async def closes(run: Run, task: object) -> list[float]:
        for number in range(FILES):
            path = run.workspace / f"d{number // 50}" / f"f{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"%d" % number * 500)
        await run.checkpoint()
        time.sleep(0.1)  # noqa: ASYNC251 - what changed a moment ago is read once more
        await run.checkpoint()
        times: list[float] = []
        for number in range(checkpoints):
            run.state = number
            began = time.perf_counter()
            await run.checkpoint()
            times.append((time.perf_counter() - began) * 1000)
        return times

    with open_store(f"sqlite:///{folder / 'ours.db'}?anchor=none&flush_s=600") as house:
        times = sorted(house.run(closes, id="bench"))
    return {"ms": times[len(times) // 2]}


def measure(child: Child, folder: Path, checkpoints: int) -> dict[str, Any]:
    """The rows of `checkpoint of unchanged files`."""
    timed = child("close", steps=checkpoints)
    why = why_not(folder)
    if why is not None:
        return {"ms": round(timed["ms"], 2), "skipped": why}
    totals: list[Counter[str]] = []
    for number in (checkpoints, 2 * checkpoints):
        trace = folder / f"close-{number}.strace"
        child("close", before=strace(trace, f"{CALLS},{WRITES}"), steps=number)
        totals.append(_counted(trace))
    each = {what: (totals[1][what] - totals[0][what]) / checkpoints for what in ("flushes", "log", "elsewhere")}
    return {"ms": round(timed["ms"], 2), "flushes": each["flushes"], "writes to the log": each["log"],
            "writes elsewhere": each["elsewhere"]}  # fmt: skip


def _counted(trace: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in trace.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        if call is None:
            continue
        path = call["path"] or call["rest"]
        if call["name"] in CALLS.split(","):
            found["flushes"] += 1
        elif "ours.db-wal" in path or path.endswith(("ours.db", "ours.db-shm")):
            found["log"] += 1
        elif not path.startswith(("pipe:", "socket:", "anon_inode:", "UNIX", "/dev/")):
            found["elsewhere"] += 1
    return found
