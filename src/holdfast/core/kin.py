"""What the other branches of a run have done in the world: one world, many histories.

Rules
1. Only what is not of this branch's own history is here. An adopted effect belongs to the branch that made it happen.
2. What happened and was not taken back may be adopted. What is open may have happened: it is waited for. What did not
   happen, or was taken back, has used up its key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.core.effect import Happened, Kind, redone_identity
from holdfast.core.entry import Entry
from holdfast.core.log import Log
from holdfast.core.record import Planned, Record
from holdfast.core.slot import Slot


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
    """The effects of the other branches of one run: a fold over what each of them wrote of its own. `open`: those that
    still go on."""

    def __init__(self) -> None:
        self.logs: dict[str, Log] = {}
        self.open: set[str] = set()

    def begin(self, branch: str, base: int) -> None:
        """From now on entries of `branch` after `base` are taken up."""
        self.logs[branch] = Log(branch, base)

    def fold(self, entry: Entry) -> Record:
        """Take up an entry of a branch that was begun. Raises Corrupt if its record may not stand there."""
        return self.logs[entry.branch].fold(entry)

    def __iter__(self) -> Iterator[Relative]:
        """All effects that were sent, by branch and in order of intent."""
        for branch, log in self.logs.items():
            for slot in log.effects:
                if slot.intent is not None:
                    yield Relative(branch, slot)

    def find(self, identity: bytes, n: int) -> Relative | None:
        """The effect that another branch made of the `n`-th call of an identity: one that happened, else one that may
        have."""
        found: Relative | None = None
        for branch, log in self.logs.items():
            slot = log.slot(identity, n)
            if slot is None or slot.intent is None or slot.kind is Kind.READ or slot.undone:
                continue
            if isinstance(slot.outcome, Happened):
                return Relative(branch, slot)
            if slot.open:
                found = Relative(branch, slot)
        return found

    def used_up(self, identity: bytes, n: int) -> bool:
        """Whether another branch has sent this call, and it did not happen or was taken back."""
        return self.find(identity, n) is None and any(
            (slot := log.slot(identity, n)) is not None and slot.intent is not None and slot.kind is not Kind.READ
            for log in self.logs.values()
        )

    def adopters(self, node: str) -> list[str]:
        """The branches that go on and have adopted the effect at `node` (`BRANCH:SEQ`)."""
        return [
            branch
            for branch, log in self.logs.items()
            if branch in self.open
            and any(slot.adopted is not None and slot.adopted.node == node for slot in log.effects)
        ]

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
