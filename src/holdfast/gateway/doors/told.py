"""What a door tells about an error: one table for all doors that speak HTTP.

Rules
1. Whoever is refused is told what, by which rule and what to do; never a credential, never a traceback.
2. What waits is 503 with a time to come back; what certainly did not happen, and what was refused, is not.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from holdfast.core.canonical import JSON
from holdfast.errors import (
    AnswerLost,
    Asleep,
    BadCall,
    Busy,
    Cancelled,
    Held,
    HoldfastError,
    InDoubt,
    Misuse,
    NotHappened,
    Refused,
    RetryAfter,
    Stopped,
    Waiting,
)

_log = logging.getLogger("holdfast")
COME_BACK_S = 5


@dataclass(frozen=True, slots=True)
class Told:
    """An error as it goes out: HTTP status, what kind of error, its text."""

    status: int
    kind: str
    what: str
    where: str = ""
    fix: str = ""
    retry_s: int | None = None
    type: str = ""

    def body(self) -> dict[str, JSON]:
        """As JSON."""
        error: dict[str, JSON] = {"kind": self.kind, "what": self.what, "where": self.where, "fix": self.fix}
        if self.type:
            error["type"] = self.type
        return {"error": error}


_STATUS: tuple[tuple[type[BaseException], int, str], ...] = (
    (Refused, 403, "refused"),
    (BadCall, 400, "bad_call"),
    (RetryAfter, 503, "retry_after"),
    (NotHappened, 502, "not_happened"),
    (AnswerLost, 502, "answer_lost"),
    (Held, 503, "held"),
    (InDoubt, 503, "in_doubt"),
    (Asleep, 503, "asleep"),
    (Waiting, 503, "waiting"),
    (Cancelled, 410, "cancelled"),
    (Busy, 409, "busy"),
    (Stopped, 503, "stopped"),
    (Misuse, 409, "misuse"),
)


def told(error: BaseException) -> Told:
    """What a door says about an error. What is not an error of ours is told as such, and nothing more."""
    for kind, status, name in _STATUS:
        if isinstance(error, kind):
            assert isinstance(error, HoldfastError | Waiting)
            retry_s = COME_BACK_S if status == 503 else None
            return Told(status, name, error.what, error.where, error.fix, retry_s)
    _log.error("a door met an error of the gateway", exc_info=error)
    return Told(500, "internal", "the gateway has failed; nothing more was sent", fix="see the gateway's log")


def for_people(error: BaseException) -> Told:
    """What is said about an error to people and to those who start programs, who do by its class what is to be done."""
    return replace(told(error), type=type(error).__name__)
