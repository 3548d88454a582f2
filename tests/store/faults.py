"""Storage that fails: stands between SQLite and the system in a child of a test, and fails at a place that is named.

A fault is written `OPERATION NTH HOW LASTING`:

    write 7 full once       the seventh write that SQLite asks for finds no space; the eighth does
    sync 3 broken ever      the third flush fails, and every later one
    write 7 torn ever       half of the seventh write is made before it fails; the later ones fail wholly

Rules
1. The product knows nothing of this: only SQLite's own VFS is wrapped, in the process that armed the fault.
2. What a child's store has acknowledged is in its result, so that the parent can look for it.

`python -m tests.store.faults` is a nursery (tests/crash/nursery.py) whose children know some words more than those of
tests/crash/power.py: `fault`; `user`, as whom they live; and in the result `acknowledged`, `operations` (how many of
each were asked for) and `failures`.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from holdfast import Run, agent, key, tool
from holdfast.core.entry import Entry
from holdfast.errors import Stopped
from holdfast.store import Draft
from holdfast.store.sqlite import SqliteStore
from tests.crash import life as ordinary
from tests.crash import nursery, power
from tests.crash.programs import AGENTS, think
from tests.crash.tools import ALL, carry_out, world
from tests.store.shelf import ROOT

OPERATIONS = ("write", "sync", "truncate", "read")
CODES = {
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "read": apsw.SQLITE_IOERR_READ,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Which operation fails, from which one on, and how: `broken`, `full` or `torn`."""

    operation: str
    nth: int
    how: str
    lasting: str

    @classmethod
    def of(cls, text: str) -> Fault:
        operation, nth, how, lasting = text.split()
        assert operation in OPERATIONS
        assert how in {"broken", "full", "torn"}
        assert lasting in {"once", "ever"}
        return cls(operation, int(nth), how, lasting)

    def hits(self, operation: str, number: int) -> bool:
        if operation != self.operation:
            return False
        return number == self.nth or (self.lasting == "ever" and number > self.nth)

    def error(self) -> apsw.Error:
        if self.how == "full":
            return apsw.FullError("the fault: no space is left")
        error = apsw.IOError("the fault: the device has failed")
        error.extendedresult = CODES[self.operation]
        return error


class Quiet(apsw.Connection):
    """SQLite keeps silent about a checkpoint that fails while it closes; the error of a VFS in Python would not."""

    def close(self, force: bool = False) -> None:
        with contextlib.suppress(apsw.IOError, apsw.FullError):
            super().close(force)


_standing: list[apsw.VFS] = []


class FaultyDisk(apsw.VFS):
    """The way to the system of every connection that this process opens, until it stands aside."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.system = apsw.vfs_names()[0]
        self.name = f"faulty-{os.getpid()}-{len(_standing)}"
        super().__init__(self.name, self.system)
        self.fault = fault
        self.operations: Counter[str] = Counter(dict.fromkeys(OPERATIONS, 0))
        self.failures = 0

    def stand_in(self) -> FaultyDisk:
        _standing.append(self)  # SQLite forgets it with the last reference
        apsw.set_default_vfs(self.name)
        return self

    def stand_aside(self) -> None:
        apsw.set_default_vfs(self.system)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - the name is SQLite's
        return _File(self, name, flags)

    def asked(self, operation: str) -> Fault | None:
        """Count an operation; the fault, if it fails."""
        self.operations[operation] += 1
        fault = self.fault
        if fault is None or not fault.hits(operation, self.operations[operation]):
            return None
        self.failures += 1
        return fault


class _File(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, name: Any, flags: list[int]) -> None:
        super().__init__(disk.system, name, flags)
        self._disk = disk

    def excepthook(self, *_: object) -> None:
        """The error has reached SQLite: that is where it is meant to be seen."""

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - the name is SQLite's
        fault = self._disk.asked("write")
        if fault is None:
            super().xWrite(data, offset)
            return
        if fault.how == "torn" and self._disk.failures == 1:
            super().xWrite(bytes(data)[: len(data) // 2], offset)
        raise fault.error()

    def xSync(self, flags: int) -> None:  # noqa: N802 - the name is SQLite's
        self._or_fail("sync", lambda: super(_File, self).xSync(flags))

    def xTruncate(self, size: int) -> None:  # noqa: N802 - the name is SQLite's
        self._or_fail("truncate", lambda: super(_File, self).xTruncate(size))

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - the name is SQLite's
        return self._or_fail("read", lambda: super(_File, self).xRead(amount, offset))

    def _or_fail(self, operation: str, work: Callable[[], Any]) -> Any:
        fault = self._disk.asked(operation)
        if fault is not None:
            raise fault.error()
        return work()


# --- the life of a child ---

TOUR = [("look", "l"), ("put", "p"), ("mail", "m"), ("build", "b"), ("store", "s"), ("pay", "y"), ("ring", "r")]


@agent
async def stubborn(run: Run, task: Any) -> dict[str, Any]:
    """A tool of each kind, one after another; where the store has stopped, it tries the next one all the same."""
    answers: dict[str, Any] = {}
    for called, name in TOUR:
        try:
            answers[f"thought on {name}"] = world().saw(f"thought on {name}", await run.decide(think, name))
            answers[name] = world().saw(name, await carry_out(called, name))
        except Stopped:
            world().meet("stopped", name)
    return answers


@tool(kind="irreversible", name="parcel", identity=["name"])
async def parcel(name: str, size_bytes: int) -> str:
    """Changes the world, and answers at length; no compression makes less than `size_bytes` of it."""
    answer = world().act("parcel", name, key())
    return f"{answer} {random.Random(name).randbytes(size_bytes).hex()}"


@agent
async def hoarder(run: Run, task: Any) -> int:
    """One parcel after another; where the store has stopped, it tries the next one all the same."""
    for number in range(task["parcels"]):
        try:
            answer = await parcel(str(number), task["size_bytes"])
            world().saw(f"parcel {number}", answer.partition(" ")[0])
        except Stopped:
            world().meet("stopped", str(number))
    return task["parcels"]


AGENTS |= {"stubborn": stubborn, "hoarder": hoarder}
assert {called for called, _ in TOUR} <= ALL.keys()


def note_acknowledged(noted: list[list[Any]]) -> None:
    """From now on, whatever a store of this process acknowledges is noted: branch, position and digest."""
    honest = SqliteStore.append

    async def append(self: SqliteStore, branch: str, drafts: Sequence[Draft], **how: Any) -> list[Entry]:
        placed = await honest(self, branch, drafts, **how)
        noted.extend([entry.branch, entry.seq, entry.digest.hex()] for entry in placed)
        return placed

    SqliteStore.append = append


def live(told: dict[str, Any]) -> dict[str, Any]:
    """A life on a disk that fails if `fault` says so."""
    if "command" in told:
        return power.live(told)
    if "user" in told:
        os.setgroups([])
        os.setuid(told["user"])
    acknowledged: list[list[Any]] = []
    note_acknowledged(acknowledged)
    apsw.Connection = Quiet
    disk = FaultyDisk(Fault.of(told["fault"]) if "fault" in told else None).stand_in()
    result = power.live(told)
    return {**result, "acknowledged": acknowledged, "operations": disk.operations, "failures": disk.failures}


class FaultyNursery(nursery.Nursery):
    """Where children with faulty disks come from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.faults"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


if __name__ == "__main__":
    ordinary.live = live
    nursery.main()
