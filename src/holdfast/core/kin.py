"""What the other branches of a run have done in the world: one world, many histories.

Rules
1. Only what is not of this branch's own history is here. An adopted effect belongs to the branch that made it happen.
2. What happened and was not taken back may be adopted, once by each branch. What is open may have happened: it is
   waited for. What did not happen, or was taken back, has used up its key.
3. What was refused does not count: where one branch was refused and then did it, and another asks for the first time,
   they mean the same effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from holdfast.core.codec import decode
from holdfast.core.effect import Happened, Kind, redone_identity, undo_identity
from holdfast.core.entry import Entry
from holdfast.core.log import Log
from holdfast.core.record import Approval, Hold, Planned
from holdfast.core.slot import Slot

IDENTITY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Relative:
    """An effect of another branch (`RUN@BRANCH`)."""

    branch: str
    slot: Slot

    @property
    def node(self) -> str:
        """Where it stands, within the run: `BRANCH:SEQ`."""
        return f"{self.branch.partition('@')[2]}:{self.slot.intent_seq}"


Lineage: TypeAlias = Sequence[tuple[str, int | None]]
"""The stretches of a history, oldest first: `RUN@BRANCH`, and the last seq of it that belongs to it (None: all)."""


class Kin:
    """The effects of the other branches of one run: a fold over what each of them wrote of its own. `lineages`: what
    every branch stands on; `open`: those of the others that still go on. Entries are taken up when somebody asks for
    their call, since most are never asked for."""

    def __init__(self) -> None:
        self.lineages: dict[str, Lineage] = {}
        self.open: set[str] = set()
        self._logs: dict[str, Log] = {}
        self._waiting: dict[str, dict[bytes, list[Entry]]] = {}

    def begin(self, branch: str, base: int) -> None:
        """From now on entries of `branch` after `base` are taken up."""
        self._logs[branch] = Log(branch, base)
        self._waiting[branch] = {}

    @property
    def branches(self) -> set[str]:
        """The branches that were begun."""
        return set(self._logs)

    def fold(self, entry: Entry) -> None:
        """Take up an entry of a branch that was begun."""
        if len(entry.key) == IDENTITY_BYTES:
            self._waiting[entry.branch].setdefault(entry.key, []).append(entry)

    def _take(self, branch: str, key: bytes) -> None:
        for entry in self._waiting[branch].pop(key, ()):
            self._logs[branch].take(decode(entry.body), entry)

    def _slot(self, branch: str, identity: bytes, n: int) -> Slot | None:
        """The effect that a branch made of a call, if it made one."""
        self._take(branch, identity)
        slot = self._logs[branch].slot(identity, n)
        if slot is None or slot.intent is None or slot.kind is Kind.READ:
            return None
        self._take(branch, undo_identity(identity, n))
        return slot

    def __iter__(self) -> Iterator[Relative]:
        """All effects that were sent and that nobody took back, by branch and in order of intent."""
        return (relative for relative, gone in self._all() if not gone)

    def undone(self) -> Iterator[Relative]:
        """All effects that were sent and that somebody took back, in the same order."""
        return (relative for relative, gone in self._all() if gone)

    def _all(self) -> Iterator[tuple[Relative, bool]]:
        """All effects that were sent, and whether somebody took them back."""
        self._take_all()
        gone = self._taken_back()
        for branch, log in self._logs.items():
            for slot in sorted(log.effects, key=lambda slot: slot.intent_seq):
                if slot.intent is not None:
                    yield Relative(branch, slot), slot.undone or (branch, slot.intent_seq) in gone

    def _take_all(self) -> None:
        for branch, waiting in self._waiting.items():
            for key in list(waiting):
                self._take(branch, key)

    def find(self, identity: bytes, n: int) -> Relative | None:
        """The effect that another branch made of the `n`-th call of an identity: one that happened, else one that may
        have. While it is being taken back, that undo."""
        found: Relative | None = None
        for relative in self._sent(identity, n):
            if isinstance(relative.slot.outcome, Happened):
                return self._undo_of(relative, undo_identity(identity, n)) or relative
            if relative.slot.open:
                found = relative
        return found

    def look(self, relative: Relative) -> None:
        """Take up what is new about an effect that was found here."""
        self._slot(relative.branch, relative.slot.identity, relative.slot.n)

    def _sent(self, identity: bytes, n: int) -> list[Relative]:
        """What other branches sent of a call, and nobody has taken back."""
        found = [(branch, slot) for branch in self._logs if (slot := self._slot(branch, identity, n)) is not None]
        for branch in self._logs if found else ():
            self._take(branch, undo_identity(identity, n))
        gone = self._taken_back()
        return [Relative(b, slot) for b, slot in found if not slot.undone and (b, slot.intent_seq) not in gone]

    def used_up(self, own: Log, identity: bytes, n: int) -> bool:
        """Whether another branch has sent this call, and it did not happen, was taken back, or answers another call of
        `own`."""
        found = self.find(identity, n)
        if found is not None:
            return found.node in _adopted(own)
        return any(self._slot(branch, identity, n) is not None for branch in self._logs)

    def unheld(self, own: Log, identity: bytes) -> Relative | None:
        """The first effect that other branches made of this identity, whatever its number, and that answers no call of
        `own`."""
        for branch in self._logs:
            self._take(branch, identity)
        for n in range(max(log.counts.get(identity, 0) for log in (own, *self._logs.values()))):
            place = identity, n
            while place in own.slots or any(self._slot(branch, *place) is not None for branch in self._logs):
                found, slot = self.find(*place), own.slot(*place)
                if found is not None and found.node not in _adopted(own) and not (slot and in_the_world(slot)):
                    return found
                place = redone_identity(*place), 0
        return None

    def _taken_back(self) -> set[tuple[str, int]]:
        """The effects that a branch has taken back which it had inherited, by branch and seq of their intents."""
        return {
            (self.home(branch, seq), seq)
            for branch, log in self._logs.items()
            for seq in log.taken_back
            if seq <= log.base
        }

    def _undo_of(self, relative: Relative, identity: bytes) -> Relative | None:
        """The undo (of this identity) of an effect, while it is under way or in doubt."""
        for branch, log in self._logs.items():
            for n in range(log.counts.get(identity, 0)):
                slot = log.slot(identity, n)
                seq = relative.slot.intent_seq
                undoes = slot is not None and slot.intent is not None and slot.intent.undoes == seq
                if slot is not None and undoes and slot.open and self.home(branch, seq) == relative.branch:
                    return Relative(branch, slot)
        return None

    def home(self, branch: str, seq: int) -> str:
        """On which branch the entry at `seq` of the history of `branch` stands."""
        return next((name for name, upto in self.lineages.get(branch, ()) if upto is None or seq <= upto), branch)

    def at(self, branch: str, seq: int) -> Slot | None:
        """The effect whose intent stands at `seq` of another branch, if it was taken up."""
        return self._logs[branch].at(seq)

    def needed(self, branch: str, seq: int) -> bool:
        """Whether another branch that goes on has inherited or adopted the effect whose intent stands at `seq` in the
        history of `branch`, or inherited that it was adopted."""
        self._take_all()
        branch = self.home(branch, seq)
        node = f"{branch.partition('@')[2]}:{seq}"
        return any(
            (name == branch and (upto is None or seq <= upto)) or self._has_adopted(name, upto, node)
            for other in self.open
            for name, upto in self.lineages[other]
        )

    def _has_adopted(self, branch: str, upto: int | None, node: str) -> bool:
        log = self._logs.get(branch)
        return log is not None and any(
            slot.adopted is not None and slot.adopted.node == node and (upto is None or slot.sealed_seq <= upto)
            for slot in log.effects
        )

    def stranded(self, own: Log, left: Collection[str] = ()) -> list[Relative]:
        """What other branches did, or may have done, that is in the world, was not adopted by `own` (or was, but is
        `left`: its program no longer asks for it), and is no undo."""
        adopted = _adopted(own).difference(left)
        return [relative for relative in self if in_the_world(relative.slot) and relative.node not in adopted]


def _adopted(own: Log) -> set[str]:
    """Where the effects stand that `own` has adopted (`BRANCH:SEQ`)."""
    return {slot.adopted.node for slot in own.effects if slot.adopted is not None}


def in_the_world(slot: Slot) -> bool:
    """Whether an effect happened, or may have, and was not taken back. An undo is no effect that stands for itself."""
    if slot.intent is None or slot.intent.undoes is not None or slot.undone:
        return False
    return slot.open or isinstance(slot.outcome, Happened)


def place_of(own: Log, kin: Kin | None, identity: bytes, n: int) -> tuple[bytes, int]:
    """Under what the `n`-th call of an identity stands now. What was taken back, or has used up its key on another
    branch, is an effect of its own when it is asked for again."""
    while True:
        identity, n = own.newest_of(identity, n)
        slot = own.slot(identity, n)
        begun = slot is not None and slot.last not in (Planned, Hold, Approval)
        if begun or kin is None or not kin.used_up(own, identity, n):
            return identity, n
        identity, n = redone_identity(identity, n), 0
