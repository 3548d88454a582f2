"""Which entry names which payload: so that a payload that is not here was pruned, or is a fault with a place.

Rules
1. What an entry names must be here, unless the entry is marked as pruned and nobody else needs it.
2. The first entry that needs a payload is named; an entry that cannot be read is somebody else's fault.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from holdfast.core.codec import decode
from holdfast.core.entry import Entry
from holdfast.core.retention import Mark, Marks, payloads_of
from holdfast.errors import Corrupt


@dataclass(frozen=True, slots=True)
class Place:
    """An entry: its index, and `RUN@BRANCH:SEQ`."""

    index: int
    node: str


class Naming:
    """Takes entries in order, and tells what they name."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._marks = Marks(marks)
        self._needed: dict[bytes, Place] = {}
        self._pruned: dict[bytes, Place] = {}

    def take(self, index: int, entry: Entry) -> None:
        """Take the next entry."""
        try:
            record = decode(entry.body)
        except Corrupt:
            return
        place = Place(index, f"{entry.branch}:{entry.seq}")
        needed = set(self._marks.needed(entry.branch, entry.seq, record))
        for payload in payloads_of(record):
            found = self._needed if payload in needed else self._pruned
            found.setdefault(bytes.fromhex(payload.digest), place)

    def place(self, digest: bytes) -> Place | None:
        """The first entry that needs a payload, or that named it before it was pruned."""
        return self._needed.get(digest) or self._pruned.get(digest)

    def lost(self, stored: set[bytes]) -> list[tuple[bytes, Place]]:
        """What is needed and not among what is stored."""
        return [(digest, place) for digest, place in self._needed.items() if digest not in stored]

    def pruned(self, stored: set[bytes]) -> int:
        """How many payloads are gone because they were pruned."""
        return len(self._pruned.keys() - self._needed.keys() - stored)


class Absent:
    """Takes the lines of a bundle, and counts the payloads that its entries name and it does not have."""

    def __init__(self) -> None:
        self._named: set[str] = set()
        self._here: set[str] = set()

    def take(self, line: bytes) -> None:
        """Take the next line. What is wrong with it, the verifier says."""
        if line.startswith(b'{"blob":{"digest":"'):
            self._here.add(line[19:83].decode("ascii", "replace"))
        elif line.startswith(b'{"entry":'):
            try:
                body = b64decode(cast("dict[str, dict[str, str]]", json.loads(line))["entry"]["body"])
                self._named.update(payload.digest for payload in payloads_of(decode(body)))
            except (ValueError, LookupError, TypeError, RecursionError, Corrupt):
                return

    @property
    def count(self) -> int:
        """So many are not here."""
        return len(self._named - self._here)
