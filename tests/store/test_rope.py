"""Payloads from pieces, also from such as nobody honest has stored."""

import hashlib

import pytest

from holdfast.core.payload import Blob
from holdfast.errors import Corrupt, Unknown
from holdfast.store.rope import gather

A, B, C = (hashlib.sha256(name).digest() for name in (b"a", b"b", b"c"))


class Shelf:
    def __init__(self, *blobs: Blob) -> None:
        self._blobs = {blob.digest: blob for blob in blobs}

    async def blob(self, digest: bytes) -> Blob:
        if digest not in self._blobs:
            raise Unknown("not here")
        return self._blobs[digest]


def rope(name: bytes, *parts: bytes) -> Blob:
    """A rope of references (32 bytes) and literals (any other length)."""
    data = b"".join(b"\1" + part if len(part) == 32 else b"\0" + len(part).to_bytes(4, "big") + part for part in parts)
    return Blob(name, data, rope=True)


async def test_the_same_piece_may_stand_twice() -> None:
    shelf = Shelf(rope(A, B, b"-", B), rope(B, C, C), Blob(C, b"c"))
    assert await gather(shelf, A, 100) == b"cc-cc"


@pytest.mark.parametrize(
    "blobs", [[rope(A, A)], [rope(A, b"x", A)], [rope(A, B), rope(B, A)], [rope(A, B, B), rope(B, C), rope(C, A)]]
)
async def test_a_payload_that_would_hold_itself_is_corrupt(blobs: list[Blob]) -> None:
    with pytest.raises(Corrupt, match="piece of itself"):
        await gather(Shelf(*blobs), A, 1 << 30)


async def test_a_payload_that_is_too_long_is_not_put_together() -> None:
    with pytest.raises(Corrupt, match="longer"):
        await gather(Shelf(rope(A, B, B), Blob(B, b"12345")), A, 9)
    assert await gather(Shelf(rope(A, B, B), Blob(B, b"12345")), A, 10) == b"1234512345"


async def test_a_rope_that_is_none_and_a_piece_that_is_not_here_are_told_apart() -> None:
    with pytest.raises(Corrupt, match="cannot be read"):
        await gather(Shelf(Blob(A, b"\7", rope=True)), A, 10)
    with pytest.raises(Unknown):
        await gather(Shelf(rope(A, B)), A, 10)
