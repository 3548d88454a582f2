"""One record at its place, and how it proves the ones before it.

Rules
1. An entry carries the digest of the entry before it, so a log can be checked by anyone who has it.
2. The digest is over the bytes of the record as they are: nothing is decoded to check a chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.errors import Corrupt


@dataclass(frozen=True, slots=True)
class Entry:
    """One record at its place: `seq` ≥ 1 on the branch, `at_ms` wall clock, `epoch` 0 if placed without a claim."""

    branch: str
    seq: int
    epoch: int
    at_ms: int
    key: bytes
    body: bytes
    digest: bytes


def origin(branch: str) -> bytes:
    """The digest (32 bytes) that a branch's first entry stands on."""
    return hashlib.sha256(b"holdfast/branch/1\0" + branch.encode()).digest()


def chain(previous: bytes, seq: int, epoch: int, at_ms: int, key: bytes, body: bytes) -> bytes:
    """The digest (32 bytes) of an entry; see docs/log-format.md."""
    place = seq.to_bytes(8, "big") + epoch.to_bytes(8, "big") + at_ms.to_bytes(8, "big") + bytes((len(key),))
    return hashlib.sha256(b"holdfast/entry/1\0" + previous + place + key + body).digest()


def check_chain(previous: bytes, entries: Iterable[Entry]) -> bytes:
    """The digest after `entries`, which stand on `previous`. Raises Corrupt at the first that does not fit."""
    for entry in entries:
        previous = chain(previous, entry.seq, entry.epoch, entry.at_ms, entry.key, entry.body)
        if previous != entry.digest:
            raise Corrupt(
                "the log was changed: an entry does not fit the one before it",
                where=f"{entry.branch}:{entry.seq}",
                fix="run `holdfast verify`, restore a backup, and compare it with the anchor",
            )
    return previous
