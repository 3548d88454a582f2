"""Runs taken up for programs outside this process, and let go of.

Rules
1. A run is claimed before its program starts, and given back when the program has ended or its starter is gone.
2. Its containment stands in the log before anything that it asks for; its capability is a fresh one.
3. A program that ends by itself with an error can be started again: the run goes on from its log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.core.canonical import JSON, canonical
from holdfast.core.capability import Terms
from holdfast.core.contract import Contract
from holdfast.core.effect import Call, Encoding, Happened, identity_of, legible
from holdfast.core.label import LARGEST, Heard, marked
from holdfast.core.payload import Packed, pack_bytes, pack_text
from holdfast.core.policy import Policy
from holdfast.core.record import Claim, Finished, Intent, Record, Seal, Started
from holdfast.errors import BadCall, Claimed, Corrupt, Misuse, Unknown, Waiting
from holdfast.gateway.closing import Closer, worker_name
from holdfast.gateway.closure import Room, Roomless
from holdfast.gateway.decide import Memory
from holdfast.gateway.diverge import OnDivergence
from holdfast.gateway.family import Family, read_tree
from holdfast.gateway.history import Opened, read_log
from holdfast.gateway.line import Line, read_payload
from holdfast.gateway.mediate import Mediator, was_cancelled
from holdfast.gateway.meters import Tally
from holdfast.gateway.rights import Right, Rights
from holdfast.gateway.send import Asked
from holdfast.gateway.upstreams import Upstream
from holdfast.gateway.ward import Ward
from holdfast.gateway.whole import whole
from holdfast.store import Grant, Store
from holdfast.store.clock import clock_of

CONTAINMENT = "holdfast.containment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A run that somebody wants to take up. `agent`: the name under which it was started; `input`: what it is given
    (None: what it was given before); `containment`: what was proven about the place where its program runs."""

    run: str
    agent: str
    terms: Terms
    by: str
    input: JSON = None
    containment: JSON = None
    on_divergence: OnDivergence = OnDivergence.BRIEF
    restore: bool = False


@dataclass(slots=True)
class Taken:
    """A run that was taken up: its ward, its right, and the handle that proves it (shown this once). `restores`: its
    program goes on from its checkpoints; `answer`: what it says that it came to, `error`: why it says that it failed;
    `waits`: it is to be started again later; `over`: it has said one of these. `begun`: the name (or none) by which it
    has asked for what it begins with. `deciding`: what it decides now. `room`: its files, for its
    checkpoints."""

    ward: Ward
    right: Right
    handle: str
    opened: Opened
    grant: Grant
    restores: bool
    room: Room = field(default_factory=Roomless)
    answer: Packed | None = None
    error: str | None = None
    begun: str | None = None
    waits: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    deciding: dict[str, asyncio.Task[dict[str, JSON]]] = field(
        default_factory=dict[str, "asyncio.Task[dict[str, JSON]]"]
    )

    @property
    def waits_for(self) -> Waiting | None:
        """What the run waits for, if it does."""
        return self.ward.mediator.parked


class Wards:
    """The runs of one store that programs outside advance. `find`: what a tool of this name (`SYSTEM.OPERATION`)
    promises, and the way to take back what it did; None where that cannot be."""

    def __init__(
        self,
        store: Store,
        policy: Callable[[], Policy],
        *,
        patience_s: float = 30.0,
        find: Callable[[str], tuple[Contract, Upstream] | None] = lambda _tool: None,
    ) -> None:
        self.store = store
        self.now_ms = clock_of(store)
        self.by_run: dict[str, Taken] = {}
        self.tally = Tally()
        self._policy = policy
        self._patience_s = patience_s
        self._closer = Closer(store, self.now_ms, lambda intent: _to_undo(intent, find(intent.tool)))

    async def open(self, wanted: Wanted) -> Taken:
        """Take a run up. Raises Claimed while another has it, Misuse if it has ended, Cancelled."""
        if wanted.run in self.by_run:
            raise Claimed("the run has a program already", where=wanted.run, fix="wait for it, or end it first")
        branch = f"{wanted.run}@{(await read_tree(self.store, wanted.run)).line}"
        lost: list[Grant] = []
        try:
            grant = await whole(self.store.claim(branch), lost)
        finally:
            for each in lost:
                await self._give_back(branch, each.epoch)
        try:
            taken = await self._taken(wanted, branch, grant)
        except BaseException:
            await self._give_back(branch, grant.epoch)
            raise
        self.by_run[wanted.run] = taken
        return taken

    async def _taken(self, wanted: Wanted, branch: str, grant: Grant) -> Taken:
        opened = await read_log(self.store, branch, restore=wanted.restore)
        log = opened.log
        if log.cancelled is not None:
            raise was_cancelled(log.cancelled, branch)
        if log.finished is not None and log.finished.answer is not None:
            raise Misuse("the run has ended", where=branch, fix=f"holdfast show {wanted.run} shows how; use a new id")
        family = Family(self.store, branch)
        await family.refresh()
        line = Line(self.store, opened, grant.epoch, family)
        await line.recall_adopted()
        await self._begin(line, opened, wanted, grant)
        mediator = Mediator(line, family.run, self.now_ms, wanted.on_divergence, self._closer.open)
        line.lost = mediator.close
        rights = Rights(self.store, wanted.run, self.now_ms)
        await rights.read()
        right, handle = await rights.issue(wanted.terms, by=wanted.by)
        await line.refresh()
        agent = opened.started.agent if opened.started is not None else wanted.agent
        ward = Ward(mediator, Memory(mediator), rights, self._policy(), agent, self._patience_s, self.tally)
        ward.labels |= set(opened.restored.labels) if opened.restored is not None else set()
        ward.heard = Heard(whole=not marked(ward.labels))  # the words before a checkpoint are not here
        ward.heard.begin(await _task(line, opened))
        return Taken(ward, right, handle, opened, grant, wanted.restore)

    async def _begin(self, line: Line, opened: Opened, wanted: Wanted, grant: Grant) -> None:
        """Write the claim; for a new run its start; and what was proven about where its program runs."""
        records: list[Record] = [Claim(worker=worker_name(), previous=grant.previous)]
        given, blobs = _packed(wanted.input), list[Packed]()
        if opened.started is None:
            records.append(Started(agent=legible(wanted.agent, 200), input=given.payload))
            blobs.append(given)
        elif wanted.input is not None and opened.started.input.digest != given.payload.digest:
            raise BadCall("this run exists, with another input", where=line.branch, fix="leave the input out")
        elif opened.started.agent != wanted.agent:
            raise BadCall(f"this run is one of `{opened.started.agent}`", where=line.branch, fix="choose another id")
        if wanted.containment is not None:
            life: JSON = {"branch": line.family.name, "epoch": grant.epoch}  # a branch inherits what was proven before
            asked, proven = _packed(life), _packed(wanted.containment)
            identity = identity_of(CONTAINMENT, canonical(life), None)
            records.append(
                Seal(
                    intent=None, tool=CONTAINMENT, identity=identity.hex(), n=0, args=asked.payload,
                    outcome=Happened(proven.payload),
                )
            )  # fmt: skip
            blobs += [asked, proven]
        await line.write(*records, blobs=[blob for each in blobs for blob in each.blobs], barrier=True)

    async def close(self, run: str, *, answer: JSON = None, error: str | None = None, ended: bool = True) -> None:
        """Let go of a run. `ended`: its program has ended, with `answer` or an `error`; else it may be started again,
        as after a crash."""
        taken = self.by_run.pop(run, None)
        if taken is None:
            return
        line = taken.ward.mediator.line
        packed = taken.answer or _packed(answer)
        for deciding in taken.deciding.values():
            deciding.cancel()
        try:
            await taken.ward.close()
            parked = taken.ward.mediator.parked is not None
            open_ = line.broken is None and not line.released and line.log.cancelled is None
            if ended and not parked and open_:
                await self._finish(line, packed, error and (taken.error or error))
        finally:
            if not line.released:
                await self._give_back(line.branch, line.epoch)

    async def _finish(self, line: Line, answer: Packed, error: str | None) -> None:
        if error is not None:
            failed = Finished(answer=None, error=legible(error))
            await line.write(failed, barrier=True, release=True)
            return
        if line.family.kin is not None and line.family.tree.line == line.family.name:
            adopted = {slot.adopted.node for slot in line.log.effects if slot.adopted is not None}
            await self._closer.close(line.family, lambda relative: relative.node in adopted)
        done = Finished(answer=answer.payload, error=None)
        await line.write(done, blobs=answer.blobs, barrier=True, release=True)

    async def _give_back(self, branch: str, epoch: int) -> None:
        with contextlib.suppress(Exception):  # the store is gone, or somebody has taken it over: it is not ours
            await self.store.append(branch, [], epoch=epoch, release=True)


async def _task(line: Line, opened: Opened) -> bytes:
    """What a run was given, as far as it is looked at."""
    started = opened.started or line.log.started
    given = line.log.settings.get("input", None if started is None else started.input)
    if given is None or given.size_bytes > LARGEST:
        return b""
    with contextlib.suppress(Unknown, Corrupt):
        return await read_payload(line, given)
    return b""


def _packed(value: JSON) -> Packed:
    return pack_text(canonical(value), value, _nothing)


def _nothing(_digest: bytes) -> bool:
    return False


def _to_undo(intent: Intent, found: tuple[Contract, Upstream] | None) -> Asked | None:
    """The call of a recorded intent, as far as it must be known to be taken back."""
    if found is None:
        return None
    contract, upstream = found
    call = Call(intent.tool, bytes.fromhex(intent.identity), intent.n, b"", intent.resource)
    return Asked(contract, call, pack_bytes(b"", Encoding.JSON), None, upstream)
