"""Looking at many runs of a large store: page by page, and with what they will be asked read ahead.

Rules
1. Only a store that is far away (PostgreSQL) has pages and is read ahead; any other is read as it is asked.
2. A run whose program goes on from its checkpoints is looked at from the newest one on: no effect is open before it,
   and nothing is waited for (docs/decisions/0013). One that is replayed from its beginning is read from there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from holdfast.core.codec import decode
from holdfast.core.effect import Payload
from holdfast.core.entry import Entry
from holdfast.core.record import Checkpoint, Finished
from holdfast.core.tree import MAIN
from holdfast.errors import Corrupt, Unknown
from holdfast.gateway.family import TREE_KEY, read_tree
from holdfast.gateway.history import CHECKPOINT_KEY, FINISHED_KEY, NO_STATE, Lineage, newest_checkpoint
from holdfast.store import Branch
from holdfast.store.reader import Reader
from holdfast.store.worker import Worker

if TYPE_CHECKING:
    from holdfast.store.postgres_ahead import Question

FIRST, MOST = 60, 480  # branches of a page: what a screen shows, then more and more
TAIL, ROOM = 500, 30_000  # entries that are read ahead: of one branch, and of all
PAYLOADS = 1_000  # that are read ahead
SMALL = 16 << 10  # bytes of a payload that is read ahead
FAMILY = 4  # branches of one run that are read ahead


@runtime_checkable
class Ahead(Protocol):
    """As `store.postgres_ahead.PostgresAhead`."""

    async def page(self, most: int, *, after: Branch | None = None, open_only: bool = False) -> list[Branch]: ...
    async def members(self, runs: Sequence[str]) -> dict[str, list[Branch]]: ...
    async def foresee(self, asked: Sequence[Question]) -> None: ...
    async def foresee_blobs(self, digests: Sequence[bytes]) -> None: ...
    def forget(self) -> None: ...
    async def owner(self, branch: str) -> Worker | None: ...


@dataclass(frozen=True, slots=True)
class Met:
    """A run, met by one of its branches. `members`: all of them, the newest first."""

    run: str
    branch: Branch
    members: list[Branch]


async def runs(reader: Reader, *, after: str | None, open_only: bool, tails: bool = True) -> AsyncGenerator[Met]:
    """The runs of a store, each once, by their newest branch, newest first; those that come after the run `after`.
    `open_only`: each time that a branch of one is met which has not come to an end, by that branch. `tails`: it will be
    asked for what lies behind their checkpoints. Raises Unknown."""
    if isinstance(reader, Ahead):
        async for met in _by_page(reader, after, open_only=open_only, tails=tails):
            yield met
        return
    grown: dict[str, list[Branch]] = {}
    for branch in await reader.branches():
        grown.setdefault(branch.name.partition("@")[0], []).append(branch)
    if after is not None and after not in grown:
        raise _no_run(after)
    passed = after is None
    for run, members in grown.items():
        if passed:
            for branch in members if open_only else members[:1]:
                yield Met(run, branch, members)
        passed = passed or run == after


async def _by_page(reader: Ahead, after: str | None, *, open_only: bool, tails: bool) -> AsyncGenerator[Met]:
    last = await _place(reader, after, open_only=open_only) if after is not None else None
    most = FIRST
    while page := await reader.page(most, after=last, open_only=open_only):
        last, most = page[-1], min(2 * most, MOST)
        families = await reader.members([_run(branch) for branch in page])
        await foresee_runs(reader, families, tails=tails)
        for branch in page:
            members = families[_run(branch)]
            if open_only or branch.name == members[0].name:
                yield Met(_run(branch), branch, members)


async def _place(reader: Ahead, run: str, *, open_only: bool) -> Branch:
    """The branch by which a run stands where it does."""
    members = (await reader.members([run]))[run]
    if not members:
        raise _no_run(run)
    if not open_only:
        return members[0]
    try:
        line = (await read_tree(cast(Reader, reader), run)).line
    except Corrupt:
        line = MAIN
    return next((each for each in members if each.name == f"{run}@{line}"), members[0])


async def foresee_runs(reader: Ahead, families: Mapping[str, list[Branch]], *, tails: bool = True) -> None:
    """Read ahead what a list asks of these branches, by run, and forget what was read ahead before."""
    from holdfast.store.postgres_ahead import Question

    reader.forget()
    asked = [Question(f"{run}@{MAIN}", 0, TREE_KEY) for run in families]
    near = [branch for members in families.values() for branch in members[:FAMILY]]
    for branch in near:
        asked += [Question(branch.name, 0, key, 1) for key in (FINISHED_KEY, CHECKPOINT_KEY)]
    await reader.foresee(asked)
    if not tails:
        return
    further, room = [Question(f"{run}@{MAIN}", 0, None, 1) for run in families], ROOM
    for branch in near:
        store = cast(Reader, reader)
        if not await has_ended(store, branch):
            found = await store.read(branch.name, key=CHECKPOINT_KEY, newest=1)
            base = found[0].seq if found and _behind(found[0]) else 0
            entries = branch.seq - base
            if entries <= min(TAIL, room):
                further.append(Question(branch.name, base))
                room -= entries
    await reader.foresee(further)


async def has_ended(reader: Reader, branch: Branch) -> bool:
    """Whether the end of a branch says how it stands, so that nothing else of it need be read."""
    ended = await reader.read(branch.name, key=FINISHED_KEY, newest=1)
    try:
        finished = decode(ended[0].body) if ended else None
    except Corrupt:
        return True  # whoever looks at it says so
    return isinstance(finished, Finished) and (finished.error is None or ended[0].seq == branch.seq)


async def base_of(reader: Reader, lineage: Lineage, behind: int) -> Entry | None:
    """The newest checkpoint of a history that has at least so many entries after it, if the run goes on from it."""
    most = None
    if behind:
        newest = await reader.read(lineage[-1][0], newest=1)
        most = newest[0].seq - behind if newest else 0
        if most <= 0:
            return None
    found = await newest_checkpoint(reader, lineage, most)
    return found if found is not None and _behind(found) else None


def _behind(checkpoint: Entry) -> bool:
    """Whether a run goes on from this, and not from its beginning."""
    try:
        record = decode(checkpoint.body)
    except Corrupt:
        return False  # whoever reads all of it says so
    return isinstance(record, Checkpoint) and record.state.digest != NO_STATE


async def owner_of(reader: Reader, branch: str) -> Worker | None:
    """Who has claimed a branch and not given it back: alive or not."""
    return await reader.owner(branch) if isinstance(reader, Ahead) else reader.owners().get(branch)


async def foresee_payloads(reader: Reader, payloads: Iterable[Payload]) -> None:
    """Read ahead what will be shown of these."""
    if isinstance(reader, Ahead):
        small = [bytes.fromhex(each.digest) for each in payloads if each.size_bytes <= SMALL]
        await reader.foresee_blobs(small[-PAYLOADS:])


def _run(branch: Branch) -> str:
    return branch.name.partition("@")[0]


def _no_run(run: str) -> Unknown:
    return Unknown(f"there is no run `{run}`", fix="holdfast list shows the runs")
