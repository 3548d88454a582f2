"""What one process takes for stored in a database on PostgreSQL, so that it is not sent again.

Rules
1. It is believed by a count of deletions, which the transaction that rests on it compares (postgres_pruning.py). With
   another count all of it is forgotten.
2. What an append does not send itself, and nobody here has stored by this count, is told to the database, which looks
   whether it is there: pieces of ropes, and what is stored outside already. That is needed only while something is
   pruned, or if something was since this process began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from holdfast.core.payload import Blob, pieces
from holdfast.errors import Conflict
from holdfast.store.postgres_batch import Row
from holdfast.store.postgres_depot import PostgresDepot

COMPRESS_FROM = 256  # bytes
REMEMBERED = 100_000  # digests of payloads that are known to be stored


@dataclass(frozen=True, slots=True)
class Load:
    """What an append sends (`rows`), and what it names or refers to besides, by digest (`relied`). `count`: of
    deletions, by which it holds; None if it names nothing. `stored`: what is to be remembered once it stands."""

    rows: list[Row]
    relied: frozenset[bytes]
    count: int | None
    named: tuple[bytes, ...]
    stored: set[bytes] = field(repr=False)

    def remember(self) -> None:
        """It stands. (Nobody looks into the set any more, if it was by another count.)"""
        if len(self.stored) > REMEMBERED:
            self.stored.clear()
        self.stored.update(self.named, self.relied)


class Belief:
    """What is taken for stored, by `count` deletions. `pack` compresses."""

    def __init__(self, count: int, pack: Callable[[bytes], bytes]) -> None:
        self._count = count
        self._stored: set[bytes] = set()  # another set for each count
        self._unsure = False
        self._pack = pack

    def told(self, count: int) -> None:
        """Something was pruned, or is to be."""
        if count != self._count:
            self._count, self._stored, self._unsure = count, set(), True

    async def load(self, blobs: Sequence[Blob], depot: PostgresDepot | None, *, whole: bool = False) -> Load:
        """What must be sent of `blobs`, after what is large was put outside. `whole`: it rests on nothing else. Raises
        Stopped; Conflict if it cannot be whole."""
        if not blobs:
            return Load([], frozenset(), None, (), self._stored)
        count, stored = self._count, self._stored
        fresh = [blob for blob in blobs if blob.digest not in stored]
        relied = set[bytes]()
        if self._unsure or count % 2:
            rests = {blob.digest: _rests(blob, stored, blobs) for blob in fresh if blob.rope}
            if whole:
                fresh = [_whole(blob) if rests.get(blob.digest) else blob for blob in fresh]
            else:
                relied.update(*rests.values())
        rows = [self._form(blob) for blob in fresh]
        if depot is not None and rows:
            sent = await depot.put(rows, all_of_them=whole)
            relied.update({row[0] for row in rows} - {row[0] for row in sent})
            rows = sent
        return Load(rows, frozenset(relied), count, tuple(blob.digest for blob in fresh), stored)

    def _form(self, blob: Blob) -> Row:
        """A payload as a row."""
        form, data = (2 if blob.rope else 0), blob.data
        if len(data) >= COMPRESS_FROM:
            small = self._pack(data)
            if len(small) < len(data):
                return blob.digest, form + 1, small
        return blob.digest, form, data


def _rests(rope: Blob, stored: set[bytes], sent: Iterable[Blob]) -> set[bytes]:
    """The pieces of a rope that are not sent with it, and that nobody here has stored."""
    here = {blob.digest for blob in sent}
    return {piece for refers, piece in pieces(rope.data) if refers and piece not in here and piece not in stored}


def _whole(rope: Blob) -> Blob:
    """A rope, not cut. Raises Conflict where nobody knows what it was cut from."""
    if not rope.whole:
        raise Conflict("a piece of a payload was pruned", where=rope.digest.hex(), fix="give all of its pieces")
    return Blob(rope.digest, rope.whole)
