"""The life of one call, and one decision, as a log knows them.

Rules
1. These are what a fold over entries remembers; whoever folds them may change them, nobody else.
2. Nothing here decides whether a record may be written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.core.effect import Kind, Outcome, Payload
from holdfast.core.record import Adopted, Approval, Decision, Hold, Intent, Planned, Record, Refusal
from holdfast.errors import Corrupt

LONGEST_PLACE = 18  # digits

OVERRIDE = "override"
"""Who settled a read that somebody has put another answer in the place of."""


@dataclass(slots=True)
class Slot:
    """The life of one call: the `n`-th of its identity.
    `claimed`: the program now running has asked for it. `adopted`: another branch made it happen. `undone`: it happened
    and was taken back. `approvals`: of the newest hold, by whom. `sent`: how often it was sent, and when first and last
    (wall clock, ms). `doubtful`: an earlier sending may have happened, so that a later "no" proves nothing. `retry_ms`:
    the last sending was refused until then. `trouble`: what this process saw when it was sent last (not in the log).
    """

    identity: bytes
    n: int
    tool: str
    kind: Kind
    first_seq: int
    last: type[Record]
    args: str | None = None
    hold: Hold | None = None
    hold_seq: int = 0
    approvals: dict[str, Approval] = field(default_factory=dict[str, Approval])
    approval_seq: int = 0
    refusal: Refusal | None = None
    intent: Intent | None = None
    intent_seq: int = 0
    sent: int = 0
    first_sent_ms: int = 0
    last_sent_ms: int = 0
    doubtful: bool = False
    trouble: str = ""
    sent_epoch: int = 0
    retry_ms: int | None = None
    outcome: Outcome | None = None
    sealed_seq: int = 0
    settled_by: str | None = None
    claimed: bool = False
    undone: bool = False
    planned: Planned | None = None
    adopted: Adopted | None = None

    @property
    def asked(self) -> Payload | None:
        """The arguments of an effect, as they are written down; None for a read and for what only waits."""
        record = self.intent or self.adopted
        return None if record is None else record.args

    @property
    def waits(self) -> bool:
        """Whether not enough people have answered the newest hold."""
        if self.hold is None or self.last not in (Hold, Approval):
            return False
        return len(self.approvals) < people_for(self.hold)

    @property
    def open(self) -> bool:
        """An intent without an outcome: in doubt, unless its owner is alive."""
        return self.intent is not None and self.outcome is None


@dataclass(slots=True)
class Decided:
    """One recorded decision; `claimed` as for slots. `places`: where it stands, also as it was before it was made anew.
    `replaced`: a fork has put another answer in its place."""

    seq: int
    decision: Decision
    places: tuple[int, ...]
    claimed: bool = False
    replaced: bool = False


def people_for(hold: Hold) -> int:
    """How many different people must agree before the held call is carried out."""
    return 2 if hold.level == "two" else 1


def place_in(text: str) -> int:
    """The position that a name or a value speaks of. Raises Corrupt if it is not written as one."""
    if text.isascii() and text.isdigit() and len(text) <= LONGEST_PLACE:
        return int(text)
    raise Corrupt(f"`{text[:40]}` stands where a position must stand")
