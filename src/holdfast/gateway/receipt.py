"""The proof that a call may be sent: what a vault asks for before it gives a credential away.

Rules
1. Whoever writes intents makes receipts, after the intent is durable; nothing else does.
2. A receipt of an effect names its intent, which the vault looks up; one of a read names the call, and opens nothing
   else.
3. A receipt that this process did not make is worth nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

_SECRET = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A call that may be sent now. `seq`: where its intent stands on `branch` (`RUN@BRANCH`); 0 for a read, which has
    none. `key`: its idempotency key (32 hex digits), empty for a read. `mark`: 32 bytes that prove who made it."""

    branch: str
    seq: int
    tool: str
    key: str
    mark: bytes

    @property
    def read(self) -> bool:
        """Whether it allows a read only."""
        return self.seq == 0

    @property
    def genuine(self) -> bool:
        """Whether this process made it."""
        return hmac.compare_digest(self.mark, _mark(self.branch, self.seq, self.tool, self.key))


def for_effect(branch: str, seq: int, tool: str, key: str) -> Receipt:
    """The receipt of the durable intent at `seq`."""
    assert seq > 0, "an intent that is durable has a place"
    return Receipt(branch, seq, tool, key, _mark(branch, seq, tool, key))


def for_read(branch: str, tool: str) -> Receipt:
    """The receipt of a read."""
    return Receipt(branch, 0, tool, "", _mark(branch, 0, tool, ""))


def _mark(branch: str, seq: int, tool: str, key: str) -> bytes:
    text = "".join(f"{len(part)}:{part}" for part in (branch, str(seq), tool, key))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=_SECRET, digest_size=32).digest()
