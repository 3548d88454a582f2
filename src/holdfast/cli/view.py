"""A run as people look at it: its status, what it waits for, what it has done. A fold over its entries, like all else.

Rules
1. A status is read from the log and from who holds the claim, never kept.
2. An open effect is in doubt only if nobody living can still seal it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from holdfast.cli.ahead import base_of, owner_of
from holdfast.core.codec import decode
from holdfast.core.effect import Kind, Payload
from holdfast.core.entry import Entry, check_chain, origin
from holdfast.core.log import Log
from holdfast.core.record import (
    Adopted,
    Claim,
    Finished,
    Forked,
    Intent,
    Issued,
    Planned,
    Record,
    Revoked,
    Seal,
    Started,
)
from holdfast.core.slot import Slot
from holdfast.core.tree import MAIN, Limb, Tree, TreeRecord
from holdfast.core.tree import Status as Standing
from holdfast.core.wake import Owner, Quarantined, Rest
from holdfast.errors import Corrupt, Unknown
from holdfast.gateway.family import read_tree
from holdfast.gateway.history import FINISHED_KEY, Lineage, check_places
from holdfast.gateway.line import node_of, read_payload
from holdfast.store import Branch
from holdfast.store.reader import Reader
from holdfast.store.url import gateway_socket, needing_psycopg, postgres_address, shown, sqlite_files
from holdfast.store.worker import dead


class Status(StrEnum):
    """How a run stands."""

    RUNNING = "running"  # a living process advances it
    HELD = "held"  # a call waits for people
    DOUBT = "doubt"  # an effect may have happened, and nobody living can tell
    ASLEEP = "asleep"  # until a moment
    WAITING = "waiting"  # for a signal, or for whoever resumes it
    QUARANTINED = "quarantined"  # its processes have died too often without having done anything
    STOPPED = "stopped"  # its process has died; it goes on when it is resumed
    FAILED = "failed"  # the agent raised; running it again goes on from the log
    FINISHED = "finished"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"  # another branch has taken its place
    ABANDONED = "abandoned"  # given up; what it did is taken back when the run ends
    CORRUPT = "corrupt"  # its log is not what was written: `holdfast verify` tells more


@dataclass(slots=True)
class Looked:
    """One branch, folded with all that it stands on (`lineage`). `digest` is that of the newest entry. `holder`
    advances it now; `died` held it when it died. `answered`: its newest entry was placed by somebody else. `records`
    and `times` are by place."""

    branch: str
    log: Log
    digest: bytes
    tree: Tree
    lineage: Lineage
    holder: str = ""
    died: str = ""
    claim_seq: int = 0
    finished_seq: int = 0
    started_ms: int = 0
    newest_ms: int = 0
    answered: bool = False
    counts: Counter[str] = field(default_factory=Counter[str])
    records: dict[int, Record] = field(default_factory=dict[int, Record])
    times: dict[int, int] = field(default_factory=dict[int, int])
    rest: Rest = field(default_factory=Rest)

    def restore(self, checkpoint: Entry) -> None:
        """Begin behind a checkpoint that the run goes on from: nothing before it is open, or waited for."""
        self.log = Log(self.branch, checkpoint.seq)
        self.log.fold(checkpoint)
        self.log.epoch = checkpoint.epoch
        self.digest, self.claim_seq = checkpoint.digest, checkpoint.seq
        self.started_ms = self.newest_ms = checkpoint.at_ms
        self.rest.restored(checkpoint)

    def take(self, entries: Sequence[Entry]) -> list[tuple[Entry, Record]]:
        """Take up what comes next, checked. Raises Corrupt at the first entry that does not fit."""
        check_places(entries, self.log.seq)
        taken: list[tuple[Entry, Record]] = []
        for entry in entries:
            self.digest = check_chain(self.digest, [entry])
            record = self.log.fold(entry)
            self._note(entry, record)
            taken.append((entry, record))
        return taken

    def _note(self, entry: Entry, record: Record) -> None:
        self.rest.take(record, entry)
        self.started_ms = self.started_ms or entry.at_ms
        self.newest_ms = entry.at_ms
        self.times[entry.seq] = entry.at_ms
        self.answered = entry.epoch == 0 and not isinstance(record, TreeRecord | Issued | Revoked)
        self.counts[type(record).__name__.lower()] += 1
        match record:
            case Claim():
                self.claim_seq = entry.seq
            case Finished():
                self.finished_seq = entry.seq
            case Seal(intent=None):
                self.counts["reads"] += 1
                self.records[entry.seq] = record
            case Intent() | Started() | Adopted() | Planned():
                self.records[entry.seq] = record
            case Forked() if entry.branch.endswith(f"@{record.branch}"):
                self.claim_seq = self.finished_seq = 0  # nobody has advanced this branch yet
            case _:
                pass

    def doubts(self) -> list[Slot]:
        """Open effects whose process is gone, and which were not refused for now: those that must not be repeated
        blindly come first."""
        if self.holder:
            return []
        open_ = [slot for slot in self.log.doubts() if slot.retry_ms is None]
        return sorted(open_, key=lambda slot: slot.kind is Kind.IDEMPOTENT)

    def status(self, now_ms: int) -> Status:
        """How the run stands at this moment."""
        log, ended = self.log, self.limb.status is not Standing.OPEN
        if log.finished is not None and log.finished.error is None and not ended:
            return Status.FINISHED
        if self.holder:
            return Status.RUNNING
        if log.cancelled is not None and not ended:
            return Status.CANCELLED
        if self.quarantined(now_ms) is not None:
            return Status.QUARANTINED
        if any(slot.kind is not Kind.IDEMPOTENT for slot in self.doubts()):
            return Status.DOUBT
        if ended:
            return Status(self.limb.status.value)
        if log.holds():
            return Status.HELD
        if self.finished_seq > self.claim_seq:
            return Status.FAILED
        if self.wakes_ms(now_ms) is not None:
            return Status.ASLEEP
        return Status.STOPPED if self.died else Status.WAITING

    def wakes_ms(self, now_ms: int) -> int | None:
        """When the run's sleep ends, if it sleeps."""
        until_ms = self.rest.wakes_ms(now_ms)
        return until_ms if until_ms is not None and until_ms > now_ms else None

    def quarantined(self, now_ms: int) -> int | None:
        """After how many deaths the run is left alone by those who watch the store, if it is."""
        outlook = self.rest.outlook(Owner.DEAD, now_ms) if self.died else None
        return outlook.deaths if isinstance(outlook, Quarantined) else None

    @property
    def limb(self) -> Limb:
        """Its place in the tree of its run."""
        return self.tree.limbs[self.branch.partition("@")[2]]

    @property
    def name(self) -> str:
        """The branch as it is typed: RUN for the run's line, else RUN@BRANCH."""
        run, _, name = self.branch.partition("@")
        return run if name == self.tree.line else self.branch

    def home(self, seq: int) -> str:
        """The branch (`RUN@BRANCH`) of this history on which the entry at `seq` stands."""
        return next((name for name, upto in self.lineage if upto is None or seq <= upto), self.branch)

    def node(self, seq: int) -> str:
        """The place of an entry of this history, as people write it."""
        return node_of(self.home(seq), seq)

    def here(self, seq: int) -> str:
        """The same place, seen from this branch: what is said about it there is said to this branch."""
        return node_of(self.branch, seq)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `holdfast list`: a run, as its line (`branch`) stands. Times are ms since 1970 UTC; `branches` is how
    many it has."""

    run: str
    branch: str
    status: str
    about: str
    entries: int
    epoch: int
    newest_ms: int
    holder: str | None
    branches: int


def reader_of(url: str) -> Reader:
    """The reading side of a store. Raises Unknown, Corrupt. Those of PostgreSQL and of a gateway have what looking
    at runs needs; what needs more asks for the store's files first, and is refused."""
    if url.startswith(("postgresql:", "postgres:")):
        with needing_psycopg():
            from holdfast.store.postgres_reader import PostgresReader
        return cast(Reader, PostgresReader(postgres_address(url)))
    if url.startswith("gateway:"):
        from holdfast.store.remote import RemoteReader

        return cast(Reader, RemoteReader(gateway_socket(url)))
    if not url.startswith("sqlite:"):
        raise Unknown(
            "this store cannot be read by itself", where=shown(url), fix="name a file: --store sqlite:///runs.db"
        )
    return Reader(sqlite_files(url).path)


async def look(reader: Reader, branch: str, *, behind: int | None = None) -> Looked:
    """A branch with all that it stands on, read and folded; or (`behind`) only what lies behind the newest checkpoint
    that has so many entries after it. Raises Unknown if there is none, Corrupt if it does not hold."""
    found = await look_from(reader, branch)
    base = None if behind is None else await base_of(reader, found.lineage, behind)
    if base is not None:
        found.restore(base)
    found.take(await further(reader, found))
    await refresh(reader, found)
    return found


async def look_from(reader: Reader, branch: str) -> Looked:
    """A branch of which nothing has been taken up yet. Raises Unknown if there is none."""
    run, _, name = branch.partition("@")
    if not await reader.read(f"{run}@{MAIN}", newest=1):
        raise Unknown(f"there is no run `{run}`", where=str(reader.path), fix="holdfast list shows the runs")
    tree = await read_tree(reader, run)
    if name not in tree.limbs:
        raise Unknown(f"there is no branch `{name}`", where=run, fix=f"holdfast show {run} shows its branches")
    lineage = [(f"{run}@{each}", upto) for each, upto in tree.lineage(name)]
    return Looked(branch, Log(branch), origin(lineage[0][0]), tree, lineage)


async def further(reader: Reader, looked: Looked) -> list[Entry]:
    """What comes after what was taken up."""
    after = looked.log.seq
    return [
        entry
        for name, upto in looked.lineage
        if upto is None or upto > after
        for entry in await reader.read(name, after=after, upto=upto)
    ]


async def refresh(reader: Reader, looked: Looked) -> None:
    """Who holds the branch now, or died holding it."""
    owner = await owner_of(reader, looked.branch)
    looked.holder = looked.died = ""
    if owner is not None and dead(owner):
        looked.died = f"{owner.host}:{owner.pid}"
    elif owner is not None:
        looked.holder = f"{owner.host}:{owner.pid}"


async def row(reader: Reader, branch: Branch, newest_ms: int, branches: int) -> Row:
    """How a run stands, whose line is `branch`, read no further than needed."""
    run, _, line = branch.name.partition("@")
    try:
        status, about = await standing(reader, branch)
    except Corrupt as error:
        status, about = Status.CORRUPT, f"{error.what} [{error.where}]"
    holder = branch.holder or None
    return Row(run, line, status.value, about, branch.seq, branch.epoch, newest_ms, holder, branches)


async def standing(reader: Reader, branch: Branch) -> tuple[Status, str]:
    """How a branch stands that goes on, and what about it, read no further than needed. Raises Corrupt."""
    ended = await reader.read(branch.name, key=FINISHED_KEY, newest=1)
    finished = decode(ended[0].body) if ended else None
    if isinstance(finished, Finished) and (finished.error is None or ended[0].seq == branch.seq):
        return (Status.FINISHED, "") if finished.error is None else (Status.FAILED, finished.error)
    now_ms = time.time_ns() // 1_000_000
    found = await look(reader, branch.name, behind=0)
    return found.status(now_ms), about_of(found, now_ms)


def about_of(looked: Looked, now_ms: int) -> str:
    """What a run waits for, or died of, in a few words."""
    log = looked.log
    match looked.status(now_ms):
        case Status.RUNNING:
            return f"by {looked.holder}"
        case Status.HELD:
            return ", ".join(f"{looked.here(slot.hold_seq)} {slot.tool}" for slot in log.holds())
        case Status.DOUBT:
            return ", ".join(f"{looked.here(slot.intent_seq)} {slot.tool}" for slot in looked.doubts())
        case Status.ASLEEP:
            return f"until {when(looked.wakes_ms(now_ms) or 0)}"
        case Status.WAITING:
            return _awaited(looked)
        case Status.QUARANTINED:
            return f"its process has died {looked.quarantined(now_ms)} times in a row; to be resumed by a person"
        case Status.STOPPED:
            return f"process {looked.died} has died"
        case Status.FAILED:
            return (log.finished.error if log.finished else None) or ""
        case Status.CANCELLED:
            return f"by {log.cancelled.by}: {log.cancelled.reason}" if log.cancelled else ""
        case Status.SUPERSEDED | Status.ABANDONED as status:
            return looked.limb.ended.removeprefix(status).lstrip(": ")
        case Status.FINISHED | Status.CORRUPT:
            return ""


def _awaited(looked: Looked) -> str:
    if not looked.claim_seq:
        return NEW
    if looked.tree.held(looked.limb.name):
        return "for its promotion"
    if any(slot.last is Planned for slot in looked.log.slots.values()):
        return "promoted; what it planned is done when it is resumed"
    if looked.answered:
        return "answered; to be resumed"
    return "to be resumed" if looked.rest.signal is None else f"for the signal `{looked.rest.signal}`"


def when(at_ms: int) -> str:
    """A moment, in local time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"


def age(at_ms: int, now_ms: int) -> str:
    """How long ago, in one unit."""
    seconds = max(0, now_ms - at_ms) // 1000
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


async def excerpt(reader: Reader, payload: Payload, most: int) -> str:
    """The beginning of a payload as text, at most `most` signs; its size where it is too large to be looked at."""
    if payload.size_bytes > LOOKED_INTO:
        return f"({size_text(payload.size_bytes)} of {payload.encoding.value})"
    try:
        data = await read_payload(reader, payload)
    except Unknown:
        return "(pruned)"
    except Corrupt:
        return "(not what was sealed: run `holdfast verify`)"
    if payload.encoding.value == "bytes":
        return f"({size_text(len(data))}: {data[:16].hex()}…)" if len(data) > 16 else f"({data.hex()})"
    text = data.decode("utf-8", "replace")
    return text if len(text) <= most else text[: max(0, most - 1)] + "…"


LOOKED_INTO = 1 << 20  # bytes
NEW = "new; to be resumed"


def size_text(size_bytes: int) -> str:
    """A size in one unit."""
    for size, unit in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes} bytes"


def many(number: int, word: str) -> str:
    """So many of something."""
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}es" if word.endswith("ch") else f"{word}s"
    return f"{number:,} {word if number == 1 else plural}"
