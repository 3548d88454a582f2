"""One branch being advanced: its log in memory, its claim, and the only way to write to it.

Rules
1. What is written is taken up into the log at once, in the order in which it was placed.
2. A failed write breaks the line: nothing later of this branch is written by this owner.
3. What may be lost in a crash (the seal of an idempotent effect: it means the same call with the same key) is placed
   together with what comes next, or after `LATER_S`. It is never placed after anything that rests on it.
4. An intent is written only if nobody has placed anything (a cancellation, a refusal, a verdict) that we have not taken
   up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Sequence

from holdfast.core.codec import encode
from holdfast.core.effect import Kind, Payload, redone_identity, undo_identity
from holdfast.core.entry import Entry
from holdfast.core.log import Log
from holdfast.core.payload import Blob
from holdfast.core.record import (
    Abandoned,
    Adopted,
    Approval,
    Attempt,
    Checkpoint,
    Draw,
    Finished,
    Forked,
    Hold,
    Intent,
    Override,
    Planned,
    Promoted,
    Record,
    Refusal,
    Seal,
    Settled,
    Signal,
    Started,
)
from holdfast.core.slot import Slot
from holdfast.errors import Conflict, Corrupt, Fenced, HoldfastError, Stopped, Unknown, Waiting
from holdfast.gateway.family import TREE_KEY, Family
from holdfast.gateway.history import CHECKPOINT_KEY, FINISHED_KEY, OVERRIDE_KEY, STARTED_KEY, Opened, least
from holdfast.store import NOTHING, Draft, Store
from holdfast.store.rope import Blobs, gather

LATER_S = 0.1
RECALL = 256  # entries of one identity that are looked at behind a checkpoint


def signal_key(name: str) -> bytes:
    """What the signals of a name, and the draws that took them, are looked up by."""
    return hashlib.sha256(b"holdfast/signal/1\0" + name.encode()).digest()[:16]


def key_for(record: Record, log: Log) -> bytes:
    """What a record is looked up by."""
    match record:
        case Intent() | Hold() | Seal() | Refusal() | Planned() | Adopted():
            return bytes.fromhex(record.identity)
        case Attempt(intent=seq) | Settled(intent=seq) | Approval(hold=seq):
            slot = log.at(seq)
            return slot.identity if slot is not None else b""
        case Checkpoint():
            return CHECKPOINT_KEY
        case Started():
            return STARTED_KEY
        case Finished():
            return FINISHED_KEY
        case Forked() | Promoted() | Abandoned():
            return TREE_KEY
        case Override():
            return OVERRIDE_KEY
        case Signal(name=name):
            return signal_key(name)
        case Draw(name=name) if name.startswith("signal/"):
            return signal_key(name.removeprefix("signal/"))
        case _:
            return b""


class Line:
    """A branch that this process advances under `epoch`; `family`: the other branches of its run."""

    def __init__(self, store: Store, opened: Opened, epoch: int, family: Family) -> None:
        self.store = store
        self.log = opened.log
        self.family = family
        self.epoch = epoch
        self.broken: HoldfastError | None = None
        self.released = False
        self.alone: Callable[[], bool] = lambda: False
        self.lost: Callable[[HoldfastError], object] = lambda _why: None
        self.seen = opened.log.seq
        self.heard: tuple[int, dict[str, int]] | None = None
        self._recalled: set[bytes] = set()
        self._behind: list[Entry] | None = None
        self._known: set[bytes] = set()
        self._later: deque[tuple[Record, Sequence[Blob]]] = deque()
        self._unplaced: dict[bytes, Blob] = {}  # payloads of what waits, or is on its way
        self._writing = 0
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Future[None] | None = None

    @property
    def branch(self) -> str:
        """`RUN@BRANCH`."""
        return self.log.branch

    def knows(self, digest: bytes) -> bool:
        """Whether a payload (32-byte digest) is known to be stored: written by this life of the run."""
        return digest in self._known

    def node(self, seq: int) -> str:
        """A place on this branch, as people write it: `RUN@SEQ` on main, else `RUN@BRANCH:SEQ`."""
        return node_of(self.branch, seq)

    async def write(
        self,
        *records: Record,
        blobs: Sequence[Blob] = (),
        barrier: bool = False,
        guarded: bool = False,
        release: bool = False,
    ) -> list[Entry]:
        """Place records. `guarded`: raises Conflict, and writes nothing, if somebody has placed what we have not taken
        up."""
        if self.broken is not None:
            raise self.broken
        drafts = [self._draft(record) for record in records]
        after, watch = (self.seen, self.family.watch) if guarded else (None, NOTHING)
        waiting = self._waiting() if self._later else []
        if waiting:
            drafts = [*(self._draft(record) for record, _ in waiting), *drafts]
            blobs = [*(blob for _, theirs in waiting for blob in theirs), *blobs]
        self._writing += 1
        try:
            placed = await self.store.append(
                self.branch, drafts, epoch=self.epoch, after=after, barrier=barrier, release=release,
                alone=barrier and self.alone(), blobs=blobs, watch=watch,
            )  # fmt: skip
        except Conflict:
            self._later.extendleft(reversed(waiting))
            raise
        except (Stopped, Fenced) as error:
            self.broken = error
            raise
        finally:
            self._writing -= 1
        self.released = self.released or release
        self._known.update([blob.digest for blob in blobs])
        passed = bool(placed) and placed[0].seq > self.log.seq + 1
        for (record, theirs), entry in zip(waiting, placed, strict=False):
            self.log.placed(record, entry)
            for blob in theirs:
                self._unplaced.pop(blob.digest, None)
        placed = placed[len(waiting) :]
        for record, entry in zip(records, placed, strict=True):
            self.log.take(record, entry)
        if passed:  # somebody has placed something (a cancellation) before it
            await self.refresh()
        return placed

    @property
    def settled(self) -> bool:
        """Whether everything that was taken up has its place, and nothing is on its way to one."""
        return not self._later and not self._writing

    def _draft(self, record: Record) -> Draft:
        return Draft(key_for(record, self.log), encode(record), type(record) is Checkpoint)

    def _waiting(self) -> list[tuple[Record, Sequence[Blob]]]:
        """Take what waits for its place. One by one: a tool that is called plainly writes from a loop of its own, and a
        seal must not be placed twice."""
        taken: list[tuple[Record, Sequence[Blob]]] = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._later.popleft())
        return taken

    def later(self, record: Seal, blobs: Sequence[Blob]) -> None:
        """Take a seal up now, and place it with whatever is written next."""
        if self.broken is not None:
            raise self.broken
        self.log.take(record, Entry(self.branch, 0, self.epoch, 0, b"", b"", b""))
        self._later.append((record, blobs))
        self._unplaced.update({blob.digest: blob for blob in blobs})
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LATER_S, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self._later:
            self._flushing = asyncio.ensure_future(self.flush())

    async def flush(self) -> None:
        """Place what waits. A failure is remembered: the next write raises it."""
        if self._later:
            with contextlib.suppress(HoldfastError):
                await self.write()

    def parks(self, waiting: Waiting) -> Waiting:
        """The run waits from now on: what others place on this branch or another from now on, it has not `heard`."""
        self.heard = self.heard or (self.seen, dict(self.family.seen))
        return waiting

    async def refresh(self) -> None:
        """Take up what others have placed, here and on the other branches."""
        for entry in await self.store.read(self.branch, after=self.seen, unclaimed=True):
            if entry.seq > self.seen:  # else another call of this run has taken it up meanwhile
                self.log.fold(entry)
                self.seen = entry.seq
        await self.family.refresh()

    async def read_back(self, key: bytes, newest: int | None = None) -> list[Entry]:
        """The entries of this branch's whole history that are looked up by `key`, in order; of each branch in it only
        the `newest` so many if given."""
        return [
            entry
            for name, upto in self.family.tree.lineage(self.family.name)
            for entry in await self.store.read(f"{self.family.run}@{name}", key=key, upto=upto, newest=newest)
        ]

    async def _unlisted(self) -> list[Entry]:
        """What lies behind the checkpoint of this life on branches that this one came from, after the last checkpoint
        that they have: no store looks that up by identity, so it is read, once."""
        if self._behind is None:
            self._behind = []
            for name, upto in self.family.tree.lineage(self.family.name):
                place = f"{self.family.run}@{name}"
                listed = await self.store.read(place, key=CHECKPOINT_KEY, newest=1)
                last, most = listed[0].seq if listed else 0, least(upto, self.log.base)
                if most is not None and last < most:
                    self._behind += await self.store.read(place, after=last, upto=most)
        return self._behind

    async def recall(self, identity: bytes) -> bool:
        """Behind a checkpoint: bring in what the log knows of this identity. Costs one look-up per identity and
        life. False if there was nothing to look up."""
        if self.log.base == 0 or identity in self._recalled:
            return False
        self._recalled.add(identity)
        found = {entry.seq: entry for entry in await self.read_back(identity, RECALL) if entry.seq <= self.log.base}
        found.update({entry.seq: entry for entry in await self._unlisted() if entry.key == identity})
        for _, entry in sorted(found.items()):
            self.log.fold(entry)
        for n in range(self.log.counts.get(identity, 0)):
            slot = self.log.slot(identity, n)
            if slot is not None and slot.kind is Kind.REVERSIBLE:  # which may have been taken back, and done anew
                await self.recall(undo_identity(identity, n))
                if slot.undone:
                    await self.recall(redone_identity(identity, n))
        return True

    async def made_behind(self, identity: bytes) -> int:
        """How often this identity was called behind the checkpoint."""
        await self.recall(identity)
        made = n = 0
        while (slot := await self._stands(identity, n)) is not None or n < self.log.counts.get(identity, 0):
            n += 1
            if slot is None or slot.first_seq <= self.log.base:
                made = n
        return made

    async def _stands(self, identity: bytes, n: int) -> Slot | None:
        """What stands for a call: where another branch has used up its key, under another identity."""
        kin = self.family.kin
        while (slot := self.log.slot(identity, n)) is None and kin is not None and kin.used_up(self.log, identity, n):
            identity, n = redone_identity(identity, n), 0
            await self.recall(identity)
        return slot

    async def recall_adopted(self) -> None:
        """Behind a checkpoint: bring in what was adopted there of what the other branches did."""
        kin = self.family.kin
        if not self.log.base or kin is None:
            return
        lineage = self.family.tree.lineage(self.family.name)
        behind = lineage[: 1 + sum(upto is not None and upto < self.log.base for _, upto in lineage)]
        alone = f"{self.family.run}@{behind[0][0]}" if len(behind) == 1 else ""  # which has adopted nothing of its own
        if kin.branches - {alone}:
            for relative in kin.stranded(self.log):
                if relative.branch != alone:
                    await self.recall(relative.slot.identity)

    async def payload(self, payload: Payload) -> bytes:
        """The bytes of a payload, put together from its pieces and checked against its digest. If they cannot be had,
        `lost` is told: a run that does not know what it did must not go on, whatever its agent makes of the error."""
        await self.flush()
        try:
            return await read_payload(self, payload)
        except (Unknown, Corrupt) as error:
            error.where = f"{self.branch}, payload {payload.digest}"
            self.lost(error)
            raise

    async def blob(self, digest: bytes) -> Blob:
        """As `Store.blob`; also what was taken up and is still on its way to the store."""
        return self._unplaced.get(digest) or await self.store.blob(digest)

    async def attempt(self, *records: Record, blobs: Sequence[Blob] = ()) -> bool:
        """Write guarded and durable; False (after taking up what is new) if the log had moved on."""
        try:
            await self.write(*records, blobs=blobs, barrier=True, guarded=True)
        except Conflict:
            await self.refresh()
            return False
        return True

    def owner_stopped(self, slot: Slot) -> bool:
        """Whether whoever last sent this effect is proven to have stopped sending (G6)."""
        later = [epoch for epoch in self.log.claims if epoch > slot.sent_epoch]
        return not later or self.log.claims[min(later)] != "unproven"


def node_of(branch: str, seq: int) -> str:
    """A place, as people write it."""
    run, _, line = branch.partition("@")
    return f"{run}@{seq}" if line == "main" else f"{run}@{line}:{seq}"


async def read_payload(store: Blobs, payload: Payload) -> bytes:
    """The bytes of a payload. Raises Corrupt if they are not what the digest says, Unknown if they were pruned."""
    whole = await gather(store, bytes.fromhex(payload.digest), payload.size_bytes)
    if len(whole) != payload.size_bytes or hashlib.sha256(whole).hexdigest() != payload.digest:
        raise Corrupt(
            "a payload is not what was sealed", where=payload.digest, fix="run `holdfast verify`; restore a backup"
        )
    return whole
