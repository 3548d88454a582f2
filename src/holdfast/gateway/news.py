"""When a run that waits may be started again: what it has not heard yet.

Rules
1. How far it has heard is told to whoever will start it again, and comes back from there: nothing of it is kept here.
2. One wake-up too many costs a life in which nothing is done; one too few costs the run. So in doubt there is news.
3. A moment is never slept towards in one piece: the clock may be set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import cast

from holdfast.core.canonical import JSON
from holdfast.core.codec import decode
from holdfast.core.record import Approval, Claim, Sleep
from holdfast.core.tree import MAIN
from holdfast.errors import BadCall, Waiting
from holdfast.gateway.family import read_tree
from holdfast.gateway.history import FINISHED_KEY, read_log
from holdfast.gateway.line import Line
from holdfast.store import Readable

POLL_S = (0.05, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A run that waits on `branch`, which had heard all that others had placed there up to `seen`. `beside`: another
    branch that it waits for (else empty), heard up to `beside_seen`. `until_ms`: when it goes on by itself."""

    branch: str
    seen: int
    beside: str = ""
    beside_seen: int = 0
    until_ms: int | None = None

    def told(self) -> dict[str, JSON]:
        """As JSON."""
        return cast("dict[str, JSON]", asdict(self))


def heard_by(line: Line, waiting: Waiting) -> Heard:
    """How far a line had heard when it was parked."""
    seen, kin = line.heard or (line.seen, dict(line.family.seen))
    run, at, place = waiting.where.rpartition("@")
    name, _, _ = place.partition(":")
    other = f"{run}@{MAIN if name.isdigit() else name}"
    beside = other if at and run == line.family.run and other != line.branch else ""
    return Heard(
        branch=line.branch, seen=seen, beside=beside, beside_seen=kin.get(beside, 0), until_ms=waiting.until_ms
    )


def heard_in(asked: Mapping[str, JSON]) -> Heard:
    """What `Heard.told` gave. Raises BadCall for anything else."""
    try:
        found = Heard(**cast("dict[str, int]", dict(asked)))  # type: ignore[arg-type]
    except TypeError:
        raise _not_understood() from None
    places = (found.seen, found.beside_seen, 0 if found.until_ms is None else found.until_ms)
    names = cast("tuple[object, ...]", (found.branch, found.beside))
    if not all(isinstance(name, str) and len(name) <= 300 for name in names) or "@" not in found.branch:
        raise _not_understood()
    if not all(type(place) is int and 0 <= place < 1 << 63 for place in places):
        raise _not_understood()
    return found


def _not_understood() -> BadCall:
    return BadCall("what the run had heard is not understood", fix="use the Holdfast that the gateway is of")


async def news(store: Readable, heard: Heard, now_ms: Callable[[], int]) -> None:
    """Return when the run may go on: somebody has placed a word that may end its wait, the branch that it waits for has
    moved, another branch is the run's line now, it has come to an end elsewhere, or it is time. Costs no claim."""
    run = heard.branch.partition("@")[0]
    delay, most = POLL_S
    known: dict[str, int] = {}
    while True:
        there = {found.name: found.seq for found in await store.branches(f"{run}@")}
        if there != known and await _is_news(store, heard, run):
            return
        known = there
        left_s = most if heard.until_ms is None else (heard.until_ms - now_ms()) / 1000
        if left_s <= 0:
            return
        await asyncio.sleep(min(delay, left_s))
        delay = min(delay * 1.5, most)


async def _is_news(store: Readable, heard: Heard, run: str) -> bool:
    if f"{run}@{(await read_tree(store, run)).line}" != heard.branch:
        return True
    ended = await store.read(heard.branch, key=FINISHED_KEY, newest=1)
    if ended and ended[0].seq > heard.seen:
        return True
    words = [decode(entry.body) for entry in await store.read(heard.branch, after=heard.seen, unclaimed=True)]
    if any(not isinstance(word, Approval) for word in words):
        return True
    if words:
        log = (await read_log(store, heard.branch)).log
        slots = [log.at(word.hold) for word in words if isinstance(word, Approval)]
        if any(slot is None or not slot.waits for slot in slots):
            return True  # else another person must agree, too
    beside = await store.read(heard.beside, after=heard.beside_seen) if heard.beside else []
    return any(not isinstance(decode(entry.body), Claim | Sleep) for entry in beside)
