"""How the gateway reaches a system: one seam, whatever the system is.

Rules
1. An upstream sends, asks and takes back; it never writes the log and never decides whether it may.
2. What it raises means: NotHappened, it certainly changed nothing; RetryAfter, the same and come back later; anything
   else, nobody knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from holdfast.core.canonical import JSON
from holdfast.core.effect import Encoding, Happened, NotHappened


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, as the bytes that are sealed, and as the value that the agent sees: the same that these bytes
    give back whenever they are read again. `woven` is the JSON value of the bytes, by which they are cut into
    pieces."""

    data: bytes
    encoding: Encoding
    value: object
    woven: JSON = None
    etag: str | None = None


class Upstream(Protocol):
    """One call's way to the outside. `args` is None for the arguments of the call as it was made, or a recorded
    canonical object."""

    async def perform(self, args: bytes | None, key: str) -> Reply:
        """Carry it out, with its idempotency key."""
        ...

    async def probe(self, args: bytes | None, key: str) -> Happened[Reply] | NotHappened | None:
        """Ask the world whether it happened; None if that cannot be told."""
        ...

    async def undo(self, args: bytes | None, answer: Reply | None, key: str) -> Reply:
        """Take it back, or make sure that it is not there (`answer` is None when nobody knows)."""
        ...

    def read(self, data: bytes, encoding: Encoding) -> Reply:
        """The reply that these sealed bytes stand for."""
        ...

    def running(self, key: str) -> bool:
        """Whether an earlier sending under this key, for which nobody waits any more, may still be at work here."""
        ...
