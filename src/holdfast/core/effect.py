"""What an agent asks for, what came of it, and how two askings are known to be the same.

Rules
1. The identity of a call is its tool and the arguments that its contract names, never its place in the program.
2. A key is derived, not drawn: the same on every retry, resume, branch and machine.
3. "We do not know" is not an outcome: it is a missing seal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

from holdfast.core.canonical import JSON, canonical

Answer_co = TypeVar("Answer_co", covariant=True)


class Kind(StrEnum):
    """What repeating a call means for the world."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    REVERSIBLE = "reversible"
    IRREVERSIBLE = "irreversible"


class Encoding(StrEnum):
    """What the bytes of a payload are; see docs/log-format.md."""

    JSON = "json"
    BYTES = "bytes"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes by name: SHA-256 in hex (64 characters), encoding, size in bytes."""

    digest: str
    encoding: Encoding
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """Some blobs of a workspace, as a payload of the store. Those of one `tree` (digest, hex) follow each other in
    a checkpoint: with those before them they have all that this tree is made of."""

    tree: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class Happened(Generic[Answer_co]):
    """It happened; `answer` is what came back, `etag` the version of the resource if the system told one."""

    answer: Answer_co
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class NotHappened:
    """It certainly did not happen; `reason` is a person's or a tool's words (at most 4,000 characters), `answer` what
    the system said to it, where that is kept."""

    reason: str
    answer: Payload | None = None


Outcome: TypeAlias = Happened[Payload] | NotHappened


@dataclass(frozen=True, slots=True)
class Call:
    """One request of an agent: its `n`-th call of this identity on its line of history.

    `identity` is 32 bytes; `args` is the canonical JSON object of all arguments, as it is written to the log.
    `resource` is the digest (hex) of what the call touches, if the contract says.
    """

    tool: str
    identity: bytes
    n: int
    args: bytes
    resource: str | None

    @property
    def digest(self) -> str:
        """The name (hex) of this exact call: what an approval is bound to."""
        return hashlib.sha256(b"holdfast/call/1\0" + self.tool.encode() + b"\0" + self.args).hexdigest()


def identity_of(tool: str, chosen: bytes, again: str | None) -> bytes:
    """The identity (32 bytes) of a call. `chosen` is the canonical object of the arguments that the contract names;
    `again` the label of a deliberate repeat."""
    text = b"[" + canonical(tool) + b"," + chosen + b"," + canonical(again) + b"]"
    return hashlib.sha256(b"holdfast/identity/1\0" + text).digest()


def undo_identity(identity: bytes, n: int) -> bytes:
    """The identity (32 bytes) of taking back the `n`-th call of `identity`."""
    return hashlib.sha256(b"holdfast/undo/1\0" + identity + n.to_bytes(8, "big")).digest()


def redone_identity(identity: bytes, n: int) -> bytes:
    """The identity (32 bytes) of doing anew what was taken back: the `n`-th call of `identity`."""
    return hashlib.sha256(b"holdfast/redone/1\0" + identity + n.to_bytes(8, "big")).digest()


def resource_of(tool: str, arguments: Mapping[str, JSON], fields: Sequence[str] | None) -> str | None:
    """The resource (hex digest) that a call touches, or None where the contract names none."""
    if not fields:
        return None
    text = canonical([tool, {name: arguments[name] for name in fields}])
    return hashlib.sha256(b"holdfast/resource/1\0" + text).hexdigest()[:32]


def key_of(run: str, identity: bytes, n: int) -> str:
    """The idempotency key (32 hex digits) of the `n`-th effect of this identity in a run, on all its branches."""
    seed = b"holdfast/key/1\0" + run.encode() + b"\0" + identity + n.to_bytes(8, "big")
    return hashlib.sha256(seed).hexdigest()[:32]


def legible(what: object, most: int = 4000) -> str:
    """The text of `what` as it may stand in a record: valid Unicode, at most `most` characters. Total: never raises."""
    try:
        text = str(what)
    except Exception:  # noqa: BLE001 - somebody else's class: it may do anything
        text = f"(a {type(what).__name__} that has no text)"
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return cut.encode("utf-8", "replace").decode("utf-8")
