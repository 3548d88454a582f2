"""World drift: what a branch relied on in the world, and whether the world still is so.

Rules
1. A branch relies on the newest answer to each reading, and on the effects that happened and were not taken back. An
   answer that somebody has put in the place of what was read says nothing of the world.
2. If both times a version was told, the versions decide; else the answers do. An effect without versions only has to be
   there still.
3. A difference that the run's own later write of the same thing explains is told apart. Where that write told a
   version, and one is told now, only the same one explains it.
4. What cannot be told is `unknown`, never `same`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, assert_never

from holdfast.core.canonical import JSON, canonical
from holdfast.core.contract import Contract
from holdfast.core.effect import Happened, Kind, Outcome, key_of
from holdfast.core.log import Log
from holdfast.core.slot import OVERRIDE, Slot

ALWAYS = 1 << 62  # after everything


class Fate(StrEnum):
    """How what was relied on stands now."""

    SAME = "same"
    OURS = "ours"  # it changed, and the run's own later write explains it
    MOVED = "moved"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """An effect of this run that happened, or may have. It explains what is unlike a reading sealed before `before`;
    `etag` is the version that it left, if it told one. `seq` is its place on `branch`."""

    branch: str
    seq: int
    tool: str
    args: str
    before: int
    etag: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relied:
    """One answer that a branch relies on. `seq` is its place, `sealed_seq` that of its seal; `args` the digest (hex) of
    the arguments; `key` is None for a reading. `agreed`: people agreed to the call. `undone_seq`: where the run took it
    back after all. `writes`: the run's newest later writes of the same thing, one of each branch. `seen_since`: the
    branch has read the same thing after it."""

    seq: int
    sealed_seq: int
    tool: str
    args: str
    outcome: Outcome
    key: str | None
    agreed: bool = False
    undone_seq: int | None = None
    writes: tuple[Write, ...] = ()
    seen_since: bool = False

    @property
    def etag(self) -> str | None:
        """The version that was told then."""
        return self.outcome.etag if isinstance(self.outcome, Happened) else None


@dataclass(frozen=True, slots=True)
class Seen:
    """It is there now, in this version, if one was told."""

    etag: str | None


@dataclass(frozen=True, slots=True)
class Absent:
    """The tool says that there is nothing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Untold:
    """It could not be asked, or did not tell."""

    why: str


Now: TypeAlias = Seen | Absent | Untold


def relied(log: Log, upto: int | None = None) -> list[Relied]:
    """What the branch relies on at `upto` (a seq; None: at its end), in order of the seals."""
    last = ALWAYS if upto is None else upto
    run = log.branch.partition("@")[0]
    undone = _undone(log.slots.values())
    newest: dict[bytes, Slot] = {}
    found: list[Relied] = []
    for slot in log.slots.values():
        if slot.outcome is None or not 0 < slot.sealed_seq <= last or slot.settled_by == OVERRIDE:
            continue
        if slot.kind is Kind.READ and slot.intent is None:
            known = newest.get(slot.identity)
            newest[slot.identity] = slot if known is None or known.sealed_seq < slot.sealed_seq else known
        elif _undoes(slot) is None and isinstance(slot.outcome, Happened):
            undone_seq = undone.get(slot.intent_seq)
            if undone_seq is None or undone_seq > last:
                found.append(_relied(slot, key_of(run, slot.identity, slot.n), undone_seq))
    found += [_relied(slot, None, None) for slot in newest.values()]
    return sorted(found, key=lambda one: one.sealed_seq)


def _relied(slot: Slot, key: str | None, undone_seq: int | None) -> Relied:
    assert slot.outcome is not None, "only what is sealed is relied on"
    return Relied(
        seq=slot.intent_seq or slot.sealed_seq,
        sealed_seq=slot.sealed_seq,
        tool=slot.tool,
        args=slot.args or "",
        outcome=slot.outcome,
        key=key,
        agreed=slot.hold is not None,
        undone_seq=undone_seq,
    )


def _undoes(slot: Slot) -> int | None:
    """The effect that this one takes back, here or on the branch that did so."""
    record = slot.intent or slot.adopted
    return None if record is None else record.undoes


def _undone(slots: Iterable[Slot], *, maybe: bool = False) -> dict[int, int]:
    """Where each effect that was taken back, or, with `maybe`, may have been, was taken back: by its own place."""
    return {
        undoes: ALWAYS if slot.open else slot.sealed_seq
        for slot in slots
        if (undoes := _undoes(slot)) is not None and (isinstance(slot.outcome, Happened) or (maybe and slot.open))
    }


def writes(branch: str, slots: Iterable[Slot], shared: int | None = None) -> list[Write]:
    """The effects of a branch that happened or may have, in order. `shared`: it is another branch of the run than the
    one that is looked at, and the two have the entries up to there in common: only what is its own counts, and it
    explains what was read before the two parted."""
    known = sorted(slots, key=lambda slot: slot.intent_seq)
    undone = _undone(known, maybe=True)
    found: list[Write] = []
    for slot in known:
        happened = slot.outcome if isinstance(slot.outcome, Happened) else None
        if slot.intent is None or _undoes(slot) is not None or slot.intent_seq <= (shared or 0):
            continue  # what was adopted is another branch's
        if not slot.open and happened is None:
            continue
        last_seq = undone.get(slot.intent_seq, ALWAYS if slot.open else slot.sealed_seq)
        found.append(
            Write(
                branch=branch,
                seq=slot.intent_seq,
                tool=slot.tool,
                args=slot.args or "",
                before=last_seq if shared is None else shared + 1,
                etag=happened.etag if happened is not None and slot.intent_seq not in undone else None,
            )
        )
    return found


def thing(contract: Contract, arguments: Mapping[str, JSON]) -> bytes | None:
    """What a call reads or writes, by a name that a reading and a writing tool share: the contract's `resource` with
    its values, in the namespace of the tool (its name up to the last dot). None where the contract names none."""
    fields = contract.resource
    if not fields or not arguments.keys() >= set(fields):
        return None
    return canonical([contract.name.rpartition(".")[0], {name: arguments[name] for name in fields}])


def told_apart(
    found: Iterable[Relied], written: Sequence[Write], things: Mapping[str, Mapping[str, bytes | None]]
) -> list[Relied]:
    """What is relied on, with the run's own later writes of the same things. `things` are their names, as `thing` makes
    them, by tool and digest of the arguments."""

    def name(one: Relied | Write) -> bytes | None:
        return things.get(one.tool, {}).get(one.args)

    by_name: dict[bytes, list[Write]] = {}
    for write in written:
        known = name(write)
        if known is not None:
            by_name.setdefault(known, []).append(write)
    each = [(one, name(one)) for one in found]
    read_at = {known: one.sealed_seq for one, known in each if known is not None and one.key is None}
    told: list[Relied] = []
    for one, known in each:
        if known is None:
            told.append(one)
            continue
        later = {write.branch: write for write in by_name.get(known, ()) if one.sealed_seq < write.before}
        seen_since = one.key is not None and read_at.get(known, 0) > one.sealed_seq
        told.append(replace(one, writes=tuple(later.values()), seen_since=seen_since))
    return told


def by_version(then: Relied, now: Now) -> Fate | None:
    """How it stands, if that can be said without a look at the answers; else None."""
    if then.undone_seq is not None:
        return Fate.GONE
    match now:
        case Untold():
            return Fate.UNKNOWN
        case Absent():
            return _absent(then)
        case Seen(etag) if not isinstance(then.outcome, Happened):
            return _unlike(then, etag)
        case Seen(etag):
            return _seen(then, etag)
        case _:
            assert_never(now)


def _absent(then: Relied) -> Fate:
    if then.writes and all(write.etag is not None for write in then.writes):
        return Fate.GONE  # the run itself has left it there
    if not isinstance(then.outcome, Happened):
        return Fate.SAME
    return Fate.OURS if then.writes else Fate.GONE


def _seen(then: Relied, etag: str | None) -> Fate | None:
    effect = then.key is not None
    if effect and then.seen_since:
        return Fate.SAME
    if etag is not None and then.writes and all(write.etag is not None for write in then.writes):
        return _unlike(then, etag)
    if etag is not None and then.etag is not None and not (effect and then.writes):
        return Fate.SAME if same_version(etag, then.etag) else _unlike(then, etag)
    return Fate.SAME if effect else None


def by_answer(then: Relied, alike: bool | None) -> Fate:
    """How a reading stands whose versions say nothing. `alike`: whether both answers are; None if that cannot be
    told."""
    if alike is None:
        return Fate.UNKNOWN
    return Fate.SAME if alike else _unlike(then, None)


def _unlike(then: Relied, etag: str | None) -> Fate:
    """It is unlike what was sealed: the run's own later write explains that, or somebody else does."""
    explained = any(etag is None or write.etag is None or same_version(etag, write.etag) for write in then.writes)
    return Fate.OURS if explained else Fate.MOVED


def same_version(one: str, other: str) -> bool:
    """Whether two versions are the same, by HTTP's weak comparison: `W/"x"` is `"x"`. Source: RFC 9110, 8.8.3.2."""
    return _opaque(one) == _opaque(other)


def _opaque(etag: str) -> str:
    return etag[2:] if etag.startswith('W/"') and etag.endswith('"') and len(etag) > 3 else etag
