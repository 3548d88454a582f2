"""The branches of one run: who came from whom, which of them goes on, and which has been given up.

Rules
1. The tree is a fold over the forks, promotions and abandonments that stand on `main`, in their order.
2. Of a group one branch is promoted, ever. A branch that is superseded or abandoned begins nothing new.
3. A branch is held while it, or a branch that it came from, is speculative and not promoted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from holdfast.core.record import Abandoned, Forked, Promoted
from holdfast.errors import Corrupt

MAIN = "main"


class ForkKind(StrEnum):
    """What a fork is for."""

    RECOVERY = "recovery"
    WHAT_IF = "what-if"
    SPECULATIVE = "speculative"


class Status(StrEnum):
    """Whether a branch may begin anything new: only an open one may."""

    OPEN = "open"
    SUPERSEDED = "superseded"
    ABANDONED = "abandoned"


@dataclass(slots=True)
class Limb:
    """One branch. `at` is the entry of `parent` that it stands on (0 for main). `successor`: the branch that took its
    place. `ended`: why it is not open, as people read it."""

    name: str
    parent: str
    at: int
    kind: ForkKind | None
    group: str | None
    status: Status = Status.OPEN
    promoted: bool = False
    successor: str | None = None
    ended: str = ""


TreeRecord = Forked | Promoted | Abandoned


class Tree:
    """What the tree records of a run, `size` in number, amount to. `line` is the branch that is the run's line now."""

    def __init__(self) -> None:
        self.limbs: dict[str, Limb] = {MAIN: Limb(MAIN, "", 0, None, None)}
        self.size = 0
        self._line = MAIN

    def __iter__(self) -> Iterator[Limb]:
        return iter(self.limbs.values())

    @property
    def line(self) -> str:
        """The branch that goes on when the run is resumed."""
        return self.last_of(self._line)

    def last_of(self, branch: str) -> str:
        """The branch that has taken the place of `branch`, or itself."""
        while (successor := self.limbs[branch].successor) is not None:
            branch = successor
        return branch

    def fold(self, record: TreeRecord) -> None:
        """Take up one record. Raises Corrupt if it may not stand there."""
        why = self.breach(record)
        if why is not None:
            raise Corrupt(f"a tree record may not stand here: {why}")
        self.size += 1
        match record:
            case Forked():
                self._fork(record)
            case Promoted(branch=branch):
                self._promote(self.limbs[branch])
            case Abandoned(branch=branch, by=by, reason=reason):
                self._give_up(self.limbs[branch], f"abandoned by {by}: {reason}")

    def breach(self, record: TreeRecord) -> str | None:
        """Why this record may not be placed now, or None."""
        if isinstance(record, Forked):
            if record.branch in self.limbs:
                return f"there is a branch `{record.branch}` already"
            if record.parent not in self.limbs:
                return f"there is no branch `{record.parent}`"
            if record.kind not in set(ForkKind):
                return f"there is no fork of the kind `{record.kind}`"
            if record.kind != ForkKind.SPECULATIVE and self.held(record.parent):
                return f"`{record.parent}` is speculative: promote it first, or fork it speculatively"
            return None
        limb = self.limbs.get(record.branch)
        if limb is None:
            return f"there is no branch `{record.branch}`"
        last = self.limbs[self.last_of(limb.name)] if isinstance(record, Promoted) else limb
        if last.status is not Status.OPEN:
            return f"`{last.name}` is {last.ended}"
        if isinstance(record, Promoted):
            return self._why_not_promoted(limb)
        if limb.name == self.line:
            return f"`{limb.name}` is the line of the run: promote another branch first, or cancel the run"
        return None

    def _why_not_promoted(self, limb: Limb) -> str | None:
        if limb.promoted or limb.kind not in (ForkKind.SPECULATIVE, ForkKind.WHAT_IF):
            return f"`{limb.name}` is no alternative that could be promoted"
        if self.limbs[self.last_of(limb.parent)].status is Status.ABANDONED:
            return f"the branch that it stands on is {self.limbs[self.last_of(limb.parent)].ended}"
        for other in self.members(limb.group):
            if other.promoted:
                return f"`{other.name}` of the same group was promoted"
        return None

    def members(self, group: str | None) -> list[Limb]:
        """The branches of a group, in the order of their forks."""
        return [limb for limb in self if group is not None and limb.group == group]

    def lineage(self, branch: str) -> list[tuple[str, int | None]]:
        """The stretches that a branch stands on, oldest first: each a branch and the last seq that belongs to it (None
        for its own, which has no end)."""
        stretches: list[tuple[str, int | None]] = []
        upto: int | None = None
        while True:
            limb = self.limbs[branch]
            stretches.append((branch, upto))
            if branch == MAIN:
                return stretches[::-1]
            branch, upto = limb.parent, limb.at if upto is None else min(limb.at, upto)

    def held(self, branch: str) -> bool:
        """Whether the effects of a branch wait for a promotion."""
        return any(
            self.limbs[name].kind is ForkKind.SPECULATIVE and not self.limbs[name].promoted
            for name, _ in self.lineage(branch)
        )

    def home(self, branch: str, seq: int) -> str:
        """The branch on which the entry at `seq` of the history of `branch` stands."""
        return next(name for name, upto in self.lineage(branch) if upto is None or seq <= upto)

    def heirs(self, branch: str, seq: int) -> set[str]:
        """The open branches to whose history the entry at `seq` belongs, which stands on `branch`."""
        return {
            limb.name
            for limb in self
            if limb.status is Status.OPEN
            and any(name == branch and (upto is None or seq <= upto) for name, upto in self.lineage(limb.name))
        }

    def survives(self, branch: str, seq: int) -> bool:
        """Whether the entry at `seq`, which stands on `branch`, belongs to a branch that is open."""
        return bool(self.heirs(branch, seq))

    # --- what the records do ---

    def _fork(self, record: Forked) -> None:
        kind = ForkKind(record.kind)
        self.limbs[record.branch] = Limb(record.branch, record.parent, record.at, kind, record.group)
        if kind is ForkKind.RECOVERY:
            for before in (self.limbs[self.line], self.limbs[record.parent]):
                self._replace(before, record.branch, f"superseded by its recovery fork `{record.branch}`")
            self._line = record.branch

    def _promote(self, limb: Limb) -> None:
        limb.promoted = True
        for other in self.members(limb.group):
            if other is not limb and other.status is not Status.ABANDONED:
                self._give_up(other, f"abandoned: `{limb.name}` of the same group was promoted")
        base = self.limbs[self.last_of(limb.parent)]
        if base.name not in (limb.name, self.last_of(limb.name)):
            self._replace(base, limb.name, f"superseded by `{limb.name}`, which was promoted")

    def _replace(self, before: Limb, successor: str, why: str) -> None:
        if before.status is Status.OPEN and before.name != successor:
            before.status, before.successor, before.ended = Status.SUPERSEDED, successor, why

    def _give_up(self, limb: Limb, why: str) -> None:
        """A branch ends, and with it whatever was forked from it and has not taken a place elsewhere."""
        if limb.status is Status.OPEN:
            limb.status, limb.ended = Status.ABANDONED, why
        for other in self:
            if other.parent == limb.name and other.status is Status.OPEN and other.name != self.line:
                self._give_up(other, f"abandoned with `{limb.name}`")
