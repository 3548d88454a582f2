"""What the other branches of a run have done in the world: one world, many histories.

Rules
1. Only what is not of this branch's own history is here. An adopted effect belongs to the branch that made it happen.
2. What happened and was not taken back may be adopted. What is open may have happened: it is waited for. What did not
   happen, or was taken back, has used up its key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from holdfast.core.codec import decode
from holdfast.core.effect import Happened, Kind, redone_identity, undo_identity
from holdfast.core.entry import Entry
from holdfast.core.log import Log
from holdfast.core.record import Planned
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


class Kin:
    """The effects of the other branches of one run: a fold over what each of them wrote of its own. `survives` tells
    whether the entry at a seq of a branch belongs to the history of one that goes on. Entries are taken up when
    somebody asks for their call, since most are never asked for."""

    def __init__(self, survives: Callable[[str, int], bool]) -> None:
        self._survives = survives
        self._logs: dict[str, Log] = {}
        self._waiting: dict[str, dict[bytes, list[Entry]]] = {}

    def begin(self, branch: str, base: int) -> None:
        """From now on entries of `branch` after `base` are taken up."""
        self._logs[branch] = Log(branch, base)
        self._waiting[branch] = {}

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
        """All effects that were sent, by branch and in order of intent."""
        for branch, log in self._logs.items():
            for key in list(self._waiting[branch]):
                self._take(branch, key)
            for slot in sorted(log.effects, key=lambda slot: slot.intent_seq):
                if slot.intent is not None:
                    yield Relative(branch, slot)

    def find(self, identity: bytes, n: int) -> Relative | None:
        """The effect that another branch made of the `n`-th call of an identity: one that happened, else one that may
        have."""
        found: Relative | None = None
        for branch in self._logs:
            slot = self._slot(branch, identity, n)
            if slot is None or slot.undone:
                continue
            if isinstance(slot.outcome, Happened):
                return Relative(branch, slot)
            if slot.open:
                found = Relative(branch, slot)
        return found

    def used_up(self, identity: bytes, n: int) -> bool:
        """Whether another branch has sent this call, and it did not happen or was taken back."""
        sent = [slot for branch in self._logs if (slot := self._slot(branch, identity, n)) is not None]
        return bool(sent) and not any(in_the_world(slot) for slot in sent)

    def needed(self, branch: str, seq: int) -> bool:
        """Whether a branch that goes on has the effect whose intent stands at `seq` of `branch` in its history, or an
        adoption of it."""
        if self._survives(branch, seq):
            return True
        node = f"{branch.partition('@')[2]}:{seq}"
        for _ in self:  # which takes up everything
            pass
        return any(
            slot.adopted is not None and slot.adopted.node == node and self._survives(adopter, slot.intent_seq)
            for adopter, log in self._logs.items()
            for slot in log.effects
        )

    def stranded(self, own: Log) -> list[Relative]:
        """What other branches did, or may have done, that is in the world, was not adopted by `own`, and is no undo."""
        adopted = {slot.adopted.node for slot in own.effects if slot.adopted is not None}
        return [relative for relative in self if in_the_world(relative.slot) and relative.node not in adopted]


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
        begun = slot is not None and slot.last is not Planned
        if begun or kin is None or not kin.used_up(identity, n):
            return identity, n
        identity, n = redone_identity(identity, n), 0
