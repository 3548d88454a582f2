"""What has to be reached, and whether it was: judged by the medians of one run, and printed either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

FLUSHES = {"read": 0, "idempotent": 1, "irreversible": 2}
FLAT = 1.5  # the greatest growth of the time of a restore, from 1000 steps to 10 000, that still counts as flat
LONG, SHORT = "10000", "1000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One line of the table. `met` is None where it was not measured, for the reason in `measured`."""

    what: str
    bar: str
    measured: str
    met: bool | None


def judged(rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Each bar with what was measured. `rows` as in `build/bench.json`."""
    return [asdict(bar) for bar in _bars(rows)]


def _bars(rows: dict[str, Any]) -> Iterator[Bar]:
    yield _flushes(rows["fsyncs per step"])
    cpu = rows["CPU per step"]
    yield _at_most(
        "client CPU per idempotent step", 0.4, cpu["idempotent, 1 run"], "ms", f" (floor: {cpu['floor']['median']} ms)"
    )
    against = rows["steps/s against the floor"]
    yield _at_least("idempotent steps/s, one run", 0.5, against["idempotent, 1 run"])
    yield _at_least("idempotent steps/s, 256 runs in one process", 1.5, against["idempotent, 256 runs"])
    yield _at_least("reads, one run", 4.0, against["read, 1 run"])
    yield _at_least("decisions, one run", 4.0, against["decision, 1 run"])
    yield from _resumes(rows["resume time"])
    yield _bytes(rows["bytes on disk per step"])
    yield from _files(rows)
    imports = rows["import time"]
    yield _at_most("`import holdfast`", 100.0, imports["holdfast ms"], "ms")
    yield _at_most("`import holdfast` / `import asyncio, sqlite3`", 3.0, imports["holdfast / (asyncio, sqlite3)"], "×")


def _flushes(found: dict[str, Any]) -> Bar:
    what = "fsyncs per step, counted"
    bar = ", ".join(f"{kind} {count}" for kind, count in FLUSHES.items()) + ", exactly"
    if "skipped" in found:
        return Bar(what=what, bar=bar, measured=found["skipped"], met=None)
    measured = ", ".join(f"{kind} {found[kind]:g}" for kind in FLUSHES)
    return Bar(what=what, bar=bar, measured=measured, met=all(found[kind] == FLUSHES[kind] for kind in FLUSHES))


def _at_most(what: str, most: float, found: dict[str, float], unit: str, more: str = "") -> Bar:
    return _judge(what, f"≤ {most:g} {unit}", found, unit, lambda value: value <= most, more)


def _at_least(what: str, least: float, found: dict[str, float]) -> Bar:
    return _judge(what, f"≥ {least:g} × the floor", found, "×", lambda value: value >= least)


def _judge(
    what: str, bar: str, found: dict[str, float], unit: str, holds: Callable[[float], bool], more: str = ""
) -> Bar:
    measured = f"{found['median']:g} {unit} ({found['min']:g}–{found['max']:g}){more}"
    return Bar(what=what, bar=bar, measured=measured, met=holds(found["median"]))


def _resumes(found: dict[str, Any]) -> Iterator[Bar]:
    names = ("restore of a run of 10 000 steps", "the same, flat in N", "replay of a run of 10 000 steps")
    if LONG not in found["restore"]:
        for name in names:
            yield Bar(what=name, bar="", measured="not measured at this length", met=None)
        return
    long, short = found["restore"][LONG], found["restore"][SHORT]
    yield _at_most(names[0], 100.0, long, "ms")
    growth = long["median"] / short["median"]
    yield Bar(what=names[1], bar=f"≤ {FLAT} × that of 1000 steps", measured=f"{growth:.2f} ×", met=growth <= FLAT)
    yield _at_most(names[2], 1500.0, found["replay"][LONG], "ms")


def _bytes(found: dict[str, Any]) -> Bar:
    turns = max(found, key=int)
    times, alone = found[turns]["times the payload"], found[turns]["times the messages alone"]
    return Bar(
        what=f"bytes on disk, growing transcript of {found[turns]['messages']} messages",
        bar="≤ 1.5 × the payload",
        measured=f"{times} × ({alone} × the messages alone)",
        met=times <= 1.5,
    )


def _files(rows: dict[str, Any]) -> Iterator[Bar]:
    what = "capture of 10 000 files after 10 changed, besides reading these"
    found = rows["workspace"].get("10000 files, 10 changed")
    if found is None:
        yield Bar(what=what, bar="", measured="not measured at this size", met=None)
    else:
        middle = {name: each["median"] for name, each in found.items()}
        ratio = (middle["capture, warm"] - middle["reading what changed"]) / middle["walk"]
        yield Bar(what=what, bar="≤ 1.5 × one walk of the tree", measured=f"{ratio:.2f} ×", met=ratio <= 1.5)
    closed = rows["unchanged checkpoint"]
    what, bar = "checkpoint whose files did not change, counted", "1 flush, nothing written but the log"
    if "skipped" in closed:
        yield Bar(what=what, bar=bar, measured=closed["skipped"], met=None)
        return
    flushes, elsewhere = closed["flushes"], closed["writes elsewhere"]
    measured = f"{flushes:g} flushes, {elsewhere:g} writes elsewhere, {closed['ms']:g} ms"
    yield Bar(what=what, bar=bar, measured=measured, met=flushes <= 1 and elsewhere == 0)
