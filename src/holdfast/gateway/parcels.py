"""Files that follow their run: what a checkpoint carries of them in the store, where every machine finds it.

Rules
1. Parcels are payloads: they are durable before the entry that names them is placed, or with it, and are pruned, moved
   and verified as all others are.
2. A parcel that a checkpoint in this branch's history names need not be sent again: what it names stays.
3. The packs of a machine are a cache of them. What is not there is fetched; what is there is not asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from holdfast.core.effect import Encoding, Parcel, Payload
from holdfast.core.payload import Blob
from holdfast.gateway.line import read_payload
from holdfast.gateway.whole import whole
from holdfast.store.rope import Blobs
from holdfast.workspace import Packs
from holdfast.workspace.parcel import Freight, Layer, lacking, take_in


@dataclass(frozen=True, slots=True)
class Cargo:
    """The files of a checkpoint as it carries them: all its parcels, and what must be stored of them."""

    parcels: tuple[Parcel, ...]
    blobs: tuple[Blob, ...]


class Shipping:
    """Makes the cargo of one life's checkpoints. `parcels`: of the checkpoint that it began with."""

    def __init__(self, packs: Packs, parcels: Sequence[Parcel]) -> None:
        self._freight = Freight(packs)
        self._parcels = tuple(parcels)
        self._made: tuple[bytes, Cargo] | None = None

    def pack(self, tree: bytes) -> Cargo:
        """The cargo of a checkpoint with these files; that of the same files is made once. Raises Corrupt."""
        if self._made is None or self._made[0] != tree:
            self._made = (tree, self._packed(tree))
        return self._made[1]

    def _packed(self, tree: bytes) -> Cargo:
        grouped = [(name, list(layer)) for name, layer in groupby(self._parcels, lambda parcel: parcel.tree)]
        layers = [Layer(bytes.fromhex(name), sum(each.payload.size_bytes for each in layer)) for name, layer in grouped]
        packing = self._freight.pack(tree, layers)
        blobs = [Blob(hashlib.sha256(data).digest(), data) for data in packing.parcels]
        stay = [parcel for _, layer in grouped[: packing.stay] for parcel in layer]
        fresh = [Parcel(tree.hex(), Payload(each.digest.hex(), Encoding.BYTES, len(each.data))) for each in blobs]
        return Cargo((*stay, *fresh), tuple(blobs))

    def placed(self, parcels: Sequence[Parcel]) -> None:
        """A checkpoint stands that names these."""
        self._parcels, self._made = tuple(parcels), None


async def fetch(store: Blobs, root: Path, tree: bytes, parcels: Sequence[Parcel]) -> int:
    """Bring what is missing of a checkpoint's files into the packs at `root`; how many parcels were asked for. Raises
    Unknown where one was pruned or lost, Corrupt where it is not what it was, Stopped."""
    packs = Packs(root)
    with contextlib.ExitStack() as undo:
        undo.callback(packs.close)
        await whole(asyncio.to_thread(undo.enter_context, packs.writing()))  # half of a tree would be collected
        trees = [bytes.fromhex(parcel.tree) for parcel in parcels]
        wanted = await whole(asyncio.to_thread(lacking, packs, tree, trees))
        for number in wanted:
            data = await read_payload(store, parcels[number].payload)
            await whole(asyncio.to_thread(take_in, packs, data))
        return len(wanted)
