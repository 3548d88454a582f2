"""Whether a checkpoint is made at the boundary of a turn.

Rules
1. A checkpoint is only ever made where the agent says so: a program that is restored begins at its top, so that in the
   middle of a turn its state would tell what is no longer, or not yet, so.
2. What nobody has named may be anything: a turn that names no tools may call an irreversible one.
3. Claims do not count: who only looks at a run again and again writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from holdfast.core.effect import Kind
from holdfast.core.log import Log


@dataclass(frozen=True, slots=True)
class Policy:
    """An agent's: after so many entries (None: never for that), and before a turn that may do what is of this kind."""

    every: int | None = None
    before: Kind | None = None

    def wants(self, log: Log, kinds: Collection[Kind]) -> bool:
        """Whether one is due before a turn that may call tools of these kinds (none: any)."""
        new = log.seq - log.checkpoint_seq
        if log.checkpoint_seq <= log.base:  # the claims of the lives since then; in this one there is no further
            new -= len(log.claims)
        if new <= 0:
            return False
        due = self.every is not None and new >= self.every
        return due or (self.before is not None and (not kinds or self.before in kinds))
