"""Payloads put together from their pieces.

Rules
1. What is stored may be damaged or made by somebody: a payload that would hold itself, or be longer than it may, is
   `Corrupt`, and found out without end or harm.
"""

from __future__ import annotations

from typing import Protocol

from holdfast.core.payload import Blob, pieces
from holdfast.errors import Corrupt

FIX = "run `holdfast verify`; restore a backup"


class Blobs(Protocol):
    """Where payloads and their pieces are looked up."""

    async def blob(self, digest: bytes) -> Blob:
        """The stored payload of this digest (32 bytes). Raises Unknown if it is not here."""
        ...


async def gather(blobs: Blobs, digest: bytes, most_bytes: int) -> bytes:
    """The bytes that `digest` (32 bytes) stands for, unchecked. Raises Unknown where a piece is not here, Corrupt where
    one cannot be read or all of them are more than `most_bytes`."""
    found: list[bytes] = []
    size = 0
    inside: set[bytes] = set()
    waiting: list[tuple[bool | None, bytes]] = [(True, digest)]
    while waiting:
        refers, data = waiting.pop()
        if refers is None:  # all pieces of this rope are behind us
            inside.discard(data)
            continue
        if refers:
            blob = await blobs.blob(data)
            if blob.rope:
                if data in inside:
                    raise Corrupt("a payload is a piece of itself", where=data.hex(), fix=FIX)
                inside.add(data)
                waiting.append((None, data))
                waiting.extend(reversed(_pieces(blob)))
                continue
            data = blob.data
        size += len(data)
        if size > most_bytes:
            raise Corrupt("a payload is longer than it may be", where=digest.hex(), fix=FIX)
        found.append(data)
    return b"".join(found)


def _pieces(blob: Blob) -> list[tuple[bool, bytes]]:
    try:
        return list(pieces(blob.data))
    except ValueError as error:
        raise Corrupt(f"a payload cannot be read: {error}", where=blob.digest.hex(), fix=FIX) from error
