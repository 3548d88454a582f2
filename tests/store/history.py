"""What processes asked of a store, and what they were told, held against a simple model: for each branch a claim that
only grows, and a list to which things are only added.

The order in which appends took effect is the log's own. So a history is right exactly if the log has what was
acknowledged, has nothing twice and nothing that nobody asked for, and its order contradicts neither the claims nor what
was over before something else began.

Rules
1. A process may die between asking and being told: what became of that is unknown, and may be either, once.
2. Times are of one monotonic clock, which all processes of the machine share. An answer is noted after it came, and a
   question before it was sent: so an overlap is assumed rather than an order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from holdfast.core.entry import Entry

NEVER = 2**63


@dataclass(frozen=True)
class Asked:
    """One question: of `who`, what (`claim`, `append`, `read`) of which branch; `epoch`: under which it appended, or
    which it was granted; `bodies`: what it appended, or read. `told`: `ok`, `no` (nothing was done) or `unknown`.
    `first`: the position of what it appended; `barrier`: the answer meant that it was flushed."""

    who: str
    what: str
    branch: str
    begun: int
    ended: int = NEVER
    told: str = "unknown"
    epoch: int = 0
    first: int = 0
    bodies: tuple[str, ...] = ()
    barrier: bool = False


def histories(files: Iterable[Path]) -> list[Asked]:
    """The questions that processes have noted, each in its file: `{"op": N, "t": NS, …}` twice, or once."""
    found: list[Asked] = []
    for path in files:
        asked: dict[int, dict[str, Any]] = {}
        for line in path.read_bytes().splitlines():
            try:
                noted = json.loads(line)
            except json.JSONDecodeError:
                continue  # whoever wrote it was killed in the middle
            number, moment = noted.pop("op"), noted.pop("t")
            one = asked.setdefault(number, {"begun": moment})
            one |= noted if moment == one["begun"] else {**noted, "ended": moment}
        found += [
            Asked(who=path.name, **{**one, "bodies": tuple(one.get("bodies", ()))})
            for one in asked.values()
            if "what" in one
        ]
    return found


def wrong(history: Sequence[Asked], logs: Mapping[str, Sequence[Entry]], kills: Sequence[int] = ()) -> list[str]:
    """What contradicts the model; empty if nothing does. `kills`: when the server was killed without a flush."""
    found: list[str] = []
    for branch in sorted({asked.branch for asked in history} | set(logs)):
        mine = [asked for asked in history if asked.branch == branch]
        found += [f"{branch}: {what}" for what in _branch(mine, list(logs.get(branch, ())), kills)]
    return found


def _branch(history: list[Asked], log: list[Entry], kills: Sequence[int]) -> list[str]:
    appends = [asked for asked in history if asked.what == "append"]
    lossy = {id(asked) for asked in appends if _may_be_lost(asked, appends, kills)}
    return [
        *_positions(log), *_presence(appends, log, lossy), *_epochs(history, log),
        *_order([asked for asked in appends if id(asked) not in lossy], log), *_reads(history, log, lossy),
    ]  # fmt: skip


def _may_be_lost(asked: Asked, appends: list[Asked], kills: Sequence[int]) -> bool:
    """Acknowledged without a flush, and the server was killed before anything flushed came after it."""
    if asked.told != "ok" or asked.barrier:
        return False
    return any(
        kill > asked.begun
        and not any(
            later.barrier and later.told == "ok" and later.first > asked.first and later.ended < kill
            for later in appends
        )
        for kill in kills
    )


def _positions(log: list[Entry]) -> list[str]:
    gaps = [entry.seq for number, entry in enumerate(log, 1) if entry.seq != number]
    return [f"the log has a gap before {gaps[0]}"] if gaps else []


def _presence(appends: list[Asked], log: list[Entry], lossy: set[int]) -> list[str]:
    """What was acknowledged is there once, where it was said to be; what was refused is not; nothing else is."""
    found: list[str] = []
    counted = Counter(entry.body.decode() for entry in log)
    at = {entry.body.decode(): entry for entry in log}
    known = {body for asked in appends for body in asked.bodies}
    found += [f"`{body}` is there, and nobody asked for it" for body in counted if body not in known]
    found += [f"`{body}` is there {times} times" for body, times in counted.items() if times > 1]
    for asked in appends:
        places = [at[body] for body in asked.bodies if body in at]
        if places and len(places) != len(asked.bodies):
            found.append(f"of {asked.bodies} only a part is there")
        elif places and [entry.seq for entry in places] != list(range(places[0].seq, places[0].seq + len(places))):
            found.append(f"{asked.bodies} are not side by side")
        if asked.told == "no" and places:
            found.append(f"{asked.bodies} was refused, and is there")
        if asked.told == "ok" and not places and id(asked) not in lossy:
            found.append(f"{asked.bodies} was acknowledged, and is gone")
        if asked.told == "ok" and places and places[0].seq != asked.first:
            found.append(f"{asked.bodies} is at {places[0].seq}, and was said to be at {asked.first}")
        found += [f"{entry.body!r} is under epoch {entry.epoch}" for entry in places if entry.epoch != asked.epoch]
    return found


def _epochs(history: list[Asked], log: list[Entry]) -> list[str]:
    """Each claim is above all that were granted before; nothing is written below one."""
    found: list[str] = []
    claims = sorted((asked for asked in history if asked.what == "claim" and asked.told == "ok"), key=lambda c: c.epoch)
    found += [f"epoch {a.epoch} was granted twice" for a, b in pairwise(claims) if a.epoch == b.epoch]
    for lower, higher in _pairs(claims):
        if higher.ended < lower.begun and higher.epoch > lower.epoch:
            found.append(f"epoch {lower.epoch} was granted after {higher.epoch}")
    newest = 0
    for entry in log:
        if 0 < entry.epoch < newest:
            found.append(f"{entry.seq} is under epoch {entry.epoch}, after one under {newest}")
        newest = max(newest, entry.epoch)
    owners = {claim.epoch: claim.who for claim in claims}
    there = {entry.body.decode() for entry in log}
    for asked in history:
        if asked.what == "append" and asked.epoch and (asked.told == "ok" or there.intersection(asked.bodies)):
            if owners.get(asked.epoch, asked.who) != asked.who:
                found.append(f"{asked.bodies} was written under a claim of somebody else")
            over = [claim.epoch for claim in claims if claim.epoch > asked.epoch and claim.ended < asked.begun]
            if over:
                found.append(f"{asked.bodies} was written under {asked.epoch}, after {over[0]} was granted")
    return found


def _pairs(claims: list[Asked]) -> Iterable[tuple[Asked, Asked]]:
    return ((lower, higher) for number, lower in enumerate(claims) for higher in claims[number + 1 :])


def _order(appends: list[Asked], log: list[Entry]) -> list[str]:
    """What was over before something else began comes before it."""
    at = {entry.body.decode(): entry.seq for entry in log}
    there = [(at[asked.bodies[0]], asked) for asked in appends if asked.bodies and asked.bodies[0] in at]
    found: list[str] = []
    latest_begin, who = -1, None
    for seq, asked in sorted(
        there, key=lambda one: one[0]
    ):  # an append that ended before an earlier one began should have stood before that
        if asked.ended < latest_begin and asked.told == "ok":
            found.append(f"{asked.bodies} at {seq} was over before {who} began")
        if asked.begun > latest_begin:
            latest_begin, who = asked.begun, asked.bodies
    return found


def _reads(history: list[Asked], log: list[Entry], lossy: set[int]) -> list[str]:
    """Who reads sees what was acknowledged before it asked, in the log's order, and nothing that is not there."""
    found: list[str] = []
    final = [entry.body.decode() for entry in log]
    lost = {body for asked in history if id(asked) in lossy for body in asked.bodies}
    unsure = {body for asked in history if asked.what == "append" and asked.told != "ok" for body in asked.bodies}
    for read in history:
        if read.what != "read" or read.told != "ok":
            continue
        seen = list(read.bodies)
        if not lost and seen != final[: len(seen)]:
            found.append(f"a read saw {len(seen)} entries that are not the first of the log")
        for asked in history:
            if asked.what == "append" and asked.told == "ok" and asked.ended < read.begun and id(asked) not in lossy:
                found += [f"a read did not see `{body}`" for body in asked.bodies if body not in seen]
            if asked.what == "append" and asked.begun > read.ended:
                found += [f"a read saw `{body}` before it was asked for" for body in asked.bodies if body in seen]
        phantoms = [body for body in seen if body not in final and body not in lost and body not in unsure]
        found += [f"a read saw `{body}`, which is not there" for body in phantoms]
    return found
