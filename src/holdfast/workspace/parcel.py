"""Captures on the move: their blobs in parcels, from which another store of packs takes them.

    parcel := frame*        as in a pack (pack.py), by digest; trees apart from all else, since trees have times: so the
                            same files make the same parcels wherever they are

Rules
1. Parcels lie in layers, each named by a tree: it and the layers below it have all blobs of that tree. So what is new
   in a tree is one more layer.
2. A layer is at least twice as large as the one above it, or they become one: there are never many. Once more than half
   of all of them is of no use any more, they begin anew.
3. What is taken from a parcel is checked, frame by frame, by its digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from holdfast.errors import Corrupt
from holdfast.workspace.pack import FRAME, Packs
from holdfast.workspace.reach import Whole, mark

PARCEL_BYTES = 16 << 20  # a parcel ends with the blob that makes it so large
_SPARE_BYTES = 1 << 20  # of no use, that nothing is done about


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of parcels: its tree, and the size of all its parcels (bytes)."""

    tree: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Packing:
    """What has all blobs of a tree: the lowest `stay` layers that there are, and these new parcels above them."""

    stay: int
    parcels: tuple[bytes, ...]


class Freight:
    """Makes parcels of what is in `packs`. Used by one thread at a time, inside `packs.writing()`."""

    def __init__(self, packs: Packs) -> None:
        self._packs = packs
        self._below: dict[bytes, set[bytes]] = {}

    def pack(self, tree: bytes, layers: Sequence[Layer]) -> Packing:
        """What is to be added to `layers` (from below) so that they have all of `tree`. Raises Corrupt where a blob of
        it is damaged, or not here."""
        if layers and layers[-1].tree == tree:
            return Packing(len(layers), ())
        self._below = {each.tree: found for each in layers if (found := self._below.get(each.tree))}
        alive = self._of(tree)
        places = self._packs.places()
        stay, fresh = self._fitting(alive, layers, {digest: places[digest][2] for digest in alive})
        return Packing(stay, tuple(self._parcels(sorted(fresh))))

    def _fitting(self, alive: set[bytes], layers: Sequence[Layer], sizes: dict[bytes, int]) -> tuple[int, set[bytes]]:
        if sum(layer.size for layer in layers) > 2 * sum(sizes.values()) + _SPARE_BYTES:
            return 0, alive
        try:
            below = [self._of(layer.tree) for layer in layers]
        except Corrupt:  # nobody has them here any more
            return 0, alive
        stay = len(layers)
        while True:
            fresh = alive.difference(*below[:stay])
            if not stay or not fresh or layers[stay - 1].size >= 2 * sum(sizes[digest] for digest in fresh):
                return stay, fresh
            stay -= 1

    def _of(self, tree: bytes) -> set[bytes]:
        """All blobs below a tree, and it."""
        if tree not in self._below:
            found = set[bytes]()
            mark(self._packs.get, [tree], found)
            if not all(map(self._packs.has, found)):
                raise Corrupt("a blob of the workspace is missing", where=tree.hex(), fix="restore the store's files")
            self._below[tree] = found
        return self._below[tree]

    def _parcels(self, digests: Sequence[bytes]) -> Iterator[bytes]:
        parcels = (bytearray(), bytearray())
        for digest in digests:
            data = self._packs.get(digest)  # read, or what is damaged here would be taken for kept there
            parcel = parcels[data.startswith(b"hf-tree/1")]
            parcel += self._packs.frame(digest)
            if len(parcel) >= PARCEL_BYTES:
                yield bytes(parcel)
                parcel.clear()
        yield from (bytes(parcel) for parcel in parcels if parcel)


def lacking(packs: Packs, tree: bytes, trees: Sequence[bytes]) -> list[int]:
    """Of parcels whose layers have these `trees`, from below: the numbers of those that must be taken so that all of
    `tree` is here."""
    with packs.writing():
        whole = Whole(packs.get, packs.has)
        return [] if whole(tree) else [number for number, each in enumerate(trees) if not whole(each)]


def take_in(packs: Packs, parcel: bytes) -> None:
    """Keep the blobs of a parcel, durably. Raises Corrupt where one is not what it is named by."""
    at = 0
    with packs.writing():
        while at < len(parcel):
            size = FRAME.size + int.from_bytes(parcel[at + 4 : at + 8], "big")
            if not packs.take(parcel[at : at + size]):
                raise Corrupt("a parcel of files is damaged", where=f"byte {at}", fix="run `holdfast verify`")
            at += size
        packs.flush()
