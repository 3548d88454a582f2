"""What a checkpoint is made of besides the log before it: the agent's state, its files, and what is said of them.

Rules
1. Files are durable first, then the entry that names them; between the two nothing of them is collected.
2. State and files are of one moment: nothing that this loop runs goes on between the one and the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from holdfast.core.codec import decode
from holdfast.core.effect import Parcel
from holdfast.core.payload import Blob, Packed
from holdfast.core.record import Checkpoint
from holdfast.errors import Corrupt
from holdfast.gateway.history import CHECKPOINT_KEY, lineage_of
from holdfast.gateway.line import node_of
from holdfast.gateway.parcels import Cargo
from holdfast.store import Readable


@dataclass(frozen=True, slots=True)
class Capture:
    """A run's files at a moment: the digest of their tree (hex), and what the store is to have of them, if anything."""

    tree: str
    cargo: Cargo | None = None


class Room(Protocol):
    """A run's files, as a checkpoint takes them."""

    def held(self) -> AbstractAsyncContextManager[None]:
        """While the block lasts, nothing is collected of what is captured in it."""
        ...

    async def look(self) -> None:
        """Let whoever holds the files take them, if that is not this process. What is done meanwhile is done before:
        then they are looked at again. Raises as `capture`."""
        ...

    def capture(self) -> Capture | None:
        """The files as they are now, durably; None where there are none. Raises Unreadable, Busy, Stopped, with nothing
        captured."""
        ...

    def placed(self, parcels: Sequence[Parcel]) -> None:
        """A checkpoint stands that names these."""
        ...


class Roomless:
    """The room of a run without files."""

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """As `Room.held`."""
        yield

    async def look(self) -> None:
        """As `Room.look`."""

    def capture(self) -> None:
        """As `Room.capture`."""
        return

    def placed(self, parcels: Sequence[Parcel]) -> None:
        """As `Room.placed`."""
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """A checkpoint to be made. `state` gives what the state is when it is called; `restores`: the program goes on from
    here after a crash, so what it is given is counted from here too. `capability`: the terms of the right that the
    agent has, where it has one."""

    state: Callable[[], Packed]
    room: Room
    services: tuple[str, ...]
    labels: tuple[str, ...]
    restores: bool
    capability: str | None = None

    def close(self) -> tuple[Checkpoint, tuple[Blob, ...]]:
        """State and files of this moment: the record, and the payloads that it names."""
        files = self.room.capture()
        packed = self.state()
        cargo = None if files is None else files.cargo
        return Checkpoint(
            state=packed.payload, workspace=None if files is None else files.tree, services=self.services,
            labels=self.labels, capability=self.capability, parcels=None if cargo is None else cargo.parcels,
        ), (*packed.blobs, *(cargo.blobs if cargo else ()))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Made:
    """A checkpoint in the log: where it stands, and when it was made (ms since 1970)."""

    branch: str
    seq: int
    at_ms: int
    record: Checkpoint

    @property
    def tree(self) -> bytes | None:
        """The digest of its files, if it has any. Raises Corrupt if it is no digest."""
        return tree_of(self.record, node_of(self.branch, self.seq))


async def checkpoints(store: Readable, branch: str) -> list[Made]:
    """The checkpoints of a branch and of what it stands on, oldest first. Raises Unknown if there is no such branch."""
    return [made for name, upto in await lineage_of(store, branch) for made in await _own(store, name, upto)]


async def _own(store: Readable, branch: str, upto: int | None) -> list[Made]:
    found: list[Made] = []
    for entry in await store.read(branch, key=CHECKPOINT_KEY, upto=upto):
        record = decode(entry.body)
        if not isinstance(record, Checkpoint):
            raise Corrupt("a checkpoint was expected", where=f"{branch}:{entry.seq}", fix="run `holdfast verify`")
        found.append(Made(branch, entry.seq, entry.at_ms, record))
    return found


def tree_of(record: Checkpoint, where: str) -> bytes | None:
    """The digest of a checkpoint's files. Raises Corrupt if it is none."""
    if record.workspace is None:
        return None
    try:
        tree = bytes.fromhex(record.workspace)
    except ValueError:
        tree = b""
    if len(tree) != 32 or tree.hex() != record.workspace:
        raise Corrupt("the files of a checkpoint are named by no digest", where=where, fix="run `holdfast verify`")
    return tree


async def all_checkpoints(store: Readable) -> list[Made]:
    """Those of all branches of a store."""
    return [made for branch in await store.branches() for made in await _own(store, branch.name, None)]
