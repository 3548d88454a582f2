"""Which runs may lose their payloads, and why the others may not.

Rules
1. A run whose payloads may still be asked for keeps them: one that somebody advances, one that has not ended (nor any
   branch of it), one in which an effect may have happened and nobody has said so.
2. A run that goes on from a checkpoint may lose what it has thought and read before it, never what it has done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from holdfast.core.codec import decode
from holdfast.core.effect import Kind
from holdfast.core.entry import Entry
from holdfast.core.record import Finished
from holdfast.core.retention import Extent, Mark, Marks, payloads_of
from holdfast.core.tree import Status
from holdfast.errors import Unknown
from holdfast.gateway.family import Family, read_tree
from holdfast.gateway.history import FINISHED_KEY, read_log
from holdfast.store import Branch
from holdfast.store.reader import Reader
from holdfast.store.worker import dead

STATELESS = hashlib.sha256(b"null").hexdigest()  # the state of an agent that declares none: it begins from the start


@dataclass(frozen=True, slots=True)
class Kept:
    """A run that keeps its payloads: why, and what would change that."""

    run: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """What may be pruned: marks, by run, oldest run first; and what may not."""

    marks: dict[str, list[Mark]]
    kept: list[Kept]


async def choose(reader: Reader, runs: Iterable[str], before_ms: int | None, *, behind: bool) -> Chosen:
    """Of `runs` (all, if none is named), those whose newest entry is older than `before_ms` and that may lose their
    payloads; with `behind`, also those that have not ended, up to their newest checkpoint. Raises Unknown."""
    wanted = set(runs)
    branches: dict[str, list[Branch]] = {}
    for branch in reversed(await reader.branches()):
        branches.setdefault(branch.name.partition("@")[0], []).append(branch)
    for run in sorted(wanted - branches.keys()):
        raise Unknown(f"there is no run `{run}`", where=str(reader.path), fix="holdfast list shows the runs")
    owners = {name: owner for name, owner in reader.owners().items() if not dead(owner)}
    chosen, marks = Chosen({}, []), Marks(reader.marks())
    for run, lines in branches.items():
        if (wanted and run not in wanted) or all(marks.covers(line.name, line.seq) for line in lines):
            continue
        owned = [owners[line.name] for line in lines if line.name in owners]
        if before_ms is not None and max(line.at_ms for line in lines) >= before_ms:
            chosen.kept.append(Kept(run, "it is not that old", "--older-than with less, or leave it out"))
        elif owned:
            who = f"{owned[0].host}:{owned[0].pid}"
            chosen.kept.append(Kept(run, f"it is being advanced by {who}", "wait for it to end, or end it"))
        else:
            found = await _of_run(reader, run, lines, behind=behind, asked_for=bool(wanted))
            if isinstance(found, Kept):
                chosen.kept.append(found)
            elif fresh := [mark for mark in found if not marks.covers(mark.branch, mark.upto, mark.extent)]:
                chosen.marks[run] = fresh
    return chosen


async def _of_run(reader: Reader, run: str, lines: list[Branch], *, behind: bool, asked_for: bool) -> list[Mark] | Kept:
    """The marks of a run that nobody advances, or why it has none. All of it goes, or nothing: branches stand on each
    other."""
    tree = await read_tree(reader, run)
    for line in lines:
        limb = tree.limbs[line.name.partition("@")[2]]
        if len(lines) == 1 and await _finished(reader, line.name):
            break
        log = (await read_log(reader, line.name)).log
        if log.doubts():
            return Kept(run, "an effect may have happened, and nobody has said so", f"holdfast show {run}")
        if log.cancelled is not None or limb.status is not Status.OPEN or await _finished(reader, line.name):
            continue
        if behind and len(tree.limbs) == 1:
            if log.checkpoint is None or log.checkpoint.state.digest == STATELESS:
                return Kept(run, "it has no checkpoint to go on from", f"resume it, or holdfast cancel {run}")
            return [Mark(line.name, log.checkpoint_seq - 1, Extent.BEHIND)]
        if limb.name == tree.line:
            return Kept(run, "it has not ended", f"resume it, or holdfast cancel {run}")
        return Kept(run, f"its branch `{limb.name}` has not ended", f"promote it, or abandon it: {line.name}")
    if not asked_for and await _left_behind(reader, f"{run}@{tree.line}"):
        fix = "house.clear(RUN) takes it back; a run that is named is pruned all the same"
        return Kept(run, "what a branch did that was given up could be taken back", fix)
    return [Mark(line.name, line.seq, Extent.ALL) for line in lines]


async def _finished(reader: Reader, branch: str) -> bool:
    for entry in await reader.read(branch, key=FINISHED_KEY, newest=1):
        ended = decode(entry.body)
        return isinstance(ended, Finished) and ended.answer is not None
    return False


async def _left_behind(reader: Reader, branch: str) -> bool:
    """Whether a branch that was given up did what can be taken back, and what no branch that goes on has made its
    own."""
    family = Family(reader, branch)
    await family.refresh()
    if family.kin is None:
        return False
    for relative in family.kin.stranded((await read_log(reader, branch)).log):
        name, seq = relative.branch.partition("@")[2], relative.slot.intent_seq
        goes_on = family.tree.survives(name, seq) or family.kin.needed(relative.branch, seq)
        if relative.slot.kind is Kind.REVERSIBLE and not goes_on:
            return True
    return False


def named(entry: Entry) -> Iterator[bytes]:
    """The digests (32 bytes) of the payloads that an entry names. Raises Corrupt if it cannot be read."""
    return (bytes.fromhex(payload.digest) for payload in payloads_of(decode(entry.body)))


class Needs:
    """What entries must still have, as far as `marks` say that they were not pruned."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._marks = Marks(marks)

    def __call__(self, entry: Entry) -> Iterator[bytes]:
        """The digests (32 bytes). Raises Corrupt if the entry cannot be read."""
        if self._marks.covers(entry.branch, entry.seq):
            return iter(())
        record = decode(entry.body)
        return (bytes.fromhex(payload.digest) for payload in self._marks.needed(entry.branch, entry.seq, record))
