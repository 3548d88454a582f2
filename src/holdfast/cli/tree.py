"""The branches of a run as people see them: who came from whom, how each stands, and which is the run's line.

Rules
1. A run that was never forked has no tree to show.
2. RUN means the run's line, wherever its life is meant; RUN@BRANCH one branch of it. A branch of which the tree was not
   told does not exist.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.cli.options import branch_of
from holdfast.cli.terminal import styled, table
from holdfast.cli.view import Status, standing
from holdfast.core.codec import decode
from holdfast.core.log import Log
from holdfast.core.record import Forked, Override, Started
from holdfast.core.tree import MAIN, Tree
from holdfast.core.tree import Status as Standing
from holdfast.errors import Corrupt, Misuse, Unknown
from holdfast.gateway.family import TREE_KEY, read_tree
from holdfast.gateway.history import OVERRIDE_KEY, STARTED_KEY
from holdfast.gateway.line import node_of, read_payload
from holdfast.store import Branch, Readable
from holdfast.store.reader import Reader

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True, slots=True)
class Bough:
    """One branch as JSON. `parent` and `at`: the entry that it stands on (null for main). `line`: whether it is the
    run's line. `successor`: what took its place. `ended`: why it goes no further. `by`, `why`: who forked it, and what
    for."""

    branch: str
    parent: str | None
    at: int | None
    kind: str | None
    group: str | None
    status: str
    line: bool
    promoted: bool
    successor: str | None
    ended: str
    by: str
    why: str
    entries: int
    newest_ms: int


async def line_of(store: Readable, run: str) -> str:
    """The branch that RUN or RUN@BRANCH names: the run's line, or that one. Raises Misuse, Unknown."""
    branch = branch_of(run)
    name = branch.partition("@")[0]
    if not await store.read(f"{name}@{MAIN}", newest=1):
        raise Unknown(f"there is no run `{name}`", fix="holdfast list shows the runs")
    tree = await read_tree(store, name)
    if "@" not in run:
        return f"{name}@{tree.line}"
    if branch.partition("@")[2] not in tree.limbs:
        raise Unknown(
            f"there is no branch `{branch.partition('@')[2]}`",
            where=name,
            fix=f"holdfast show {name} shows its branches",
        )
    return branch


async def agent_of(store: Readable, branch: str) -> str:
    """The agent that a branch is advanced by, as its log has it: the one that started the run, or what a fork has put
    in its place (`code`). Raises Corrupt if the run has no beginning."""
    run, _, name = branch.partition("@")
    tree = await read_tree(store, run)
    for each, upto in reversed(tree.lineage(name)) if len(tree.limbs) > 1 else ():
        for entry in reversed(await store.read(f"{run}@{each}", key=OVERRIDE_KEY, upto=upto)):
            override = decode(entry.body)
            if isinstance(override, Override) and (override.target, override.name) == (0, "code"):
                payload = override.value
                return str(json.loads(await read_payload(store, payload)))
    for entry in await store.read(f"{run}@{MAIN}", key=STARTED_KEY, newest=1):
        record = decode(entry.body)
        if isinstance(record, Started):
            return record.agent
    raise Corrupt("the run has no beginning", where=branch, fix="run `holdfast verify`")


def check_open(tree: Tree, run: str, branch: str, instead: str) -> None:
    """Raise Misuse if a branch goes no further; `instead` is what can be done."""
    limb = tree.limbs.get(branch)
    if limb is not None and limb.status is not Standing.OPEN:
        raise Misuse(f"the branch `{branch}` is {limb.ended}", where=f"{run}@{branch}", fix=instead)


async def boughs(reader: Reader, run: str) -> list[Bough]:
    """The branches of a run, in the order of their forks: none if there is only one. Raises Corrupt."""
    tree = await read_tree(reader, run)
    if len(tree.limbs) == 1:
        return []
    forks: dict[str, Forked] = {}
    for entry in await reader.read(f"{run}@{MAIN}", key=TREE_KEY):
        record = decode(entry.body)
        if isinstance(record, Forked):
            forks[record.branch] = record
    stands = {found.name: found for found in await reader.branches(f"{run}@")}
    return [await _bough(reader, run, tree, name, forks.get(name), stands.get(f"{run}@{name}")) for name in tree.limbs]


async def _bough(
    reader: Reader, run: str, tree: Tree, name: str, forked: Forked | None, stands: Branch | None
) -> Bough:
    limb = tree.limbs[name]
    status = Status(limb.status.value) if limb.status is not Standing.OPEN else Status.CORRUPT
    if status is Status.CORRUPT and stands is not None:
        with contextlib.suppress(Corrupt):
            status = await _open(reader, stands, line=name == tree.line)
    return Bough(
        branch=name,
        parent=limb.parent or None,
        at=limb.at or None,
        kind=limb.kind.value if limb.kind else None,
        group=limb.group,
        status=status.value,
        line=name == tree.line,
        promoted=limb.promoted,
        successor=limb.successor,
        ended=limb.ended,
        by=forked.by if forked else "",
        why=forked.why if forked else "",
        entries=stands.seq if stands else 0,
        newest_ms=stands.at_ms if stands else 0,
    )


async def others_of(store: Readable, branch: str, tree: Tree) -> dict[str, Log]:
    """What each other branch of the run wrote of its own, as far as it is not in the history of `branch`."""
    run, _, name = branch.partition("@")
    own = dict(tree.lineage(name))
    logs: dict[str, Log] = {}
    for limb in tree:
        if limb.name != name:
            other = f"{run}@{limb.name}"
            log = logs[other] = Log(other, own.get(limb.name) or limb.at)
            for entry in await store.read(other, after=log.base):
                log.fold(entry)
    return logs


def full(run: str, place: str) -> str:
    """A place within a run (`BRANCH:SEQ`), as it is typed."""
    branch, _, seq = place.partition(":")
    return node_of(f"{run}@{branch}", int(seq))


def short(node: str) -> str:
    """A place without its run: `BRANCH:SEQ`."""
    place = node.rpartition("@")[2]
    return place if ":" in place else f"{MAIN}:{place}"


async def _open(reader: Reader, stands: Branch, *, line: bool) -> Status:
    """How a branch stands that goes on. One that nobody has advanced yet is not read for that: there may be many."""
    if stands.holder:
        return Status.RUNNING
    if not (stands.epoch or line):
        return Status.WAITING
    return (await standing(reader, stands))[0]


# --- on the screen ---

_SIGNS, _PLAIN = ("├─ ", "└─ ", "│  "), ("|- ", "`- ", "|  ")


def print_tree(found: Sequence[Bough]) -> None:
    """The branches as a tree, one a line; the run's line is marked."""
    from holdfast.cli.list import STYLES

    rows: list[tuple[Text, ...]] = []
    for bough, stem in _grown(found):
        bold = "bold" if bough.line else "" if not bough.ended else "dim"
        status = styled("the line, ", "bold") if bough.line else styled("")
        instead = f" by {bough.successor}" if bough.successor else ""
        status += styled(bough.status + instead, STYLES[Status(bough.status)])
        status += styled(", promoted" if bough.promoted and not bough.line else "", "green")
        origin = "" if bough.parent is None else f"{bough.parent}:{bough.at}"
        rows.append(
            (
                styled(stem, "dim") + styled(bough.branch, bold),
                styled(origin),
                styled(bough.kind or "", "dim"),
                status,
                styled(str(bough.entries)),
                styled(_about(bough), "dim"),
            )
        )
    table(("BRANCH", "FROM", "KIND", "STATUS", "#SEQ", "WHY"), rows)


def _about(bough: Bough) -> str:
    """Why a branch is there, and why it was given up."""
    began = f"{bough.by}: {bough.why}" if bough.why else bough.by and f"by {bough.by}"
    ended = bough.ended.replace("abandoned: ", "", 1) if bough.status == Status.ABANDONED else ""
    return f"{began}; {ended}" if ended and began else ended or began


def _grown(found: Sequence[Bough]) -> Iterator[tuple[Bough, str]]:
    """Each branch after the one it came from, with what is drawn before its name."""
    fork, last, bar = _SIGNS if _draws() else _PLAIN
    by_parent: dict[str | None, list[Bough]] = {}
    for bough in found:
        by_parent.setdefault(bough.parent, []).append(bough)
    waiting: list[tuple[Bough, str, str]] = [(bough, "", "") for bough in by_parent.get(None, [])]
    while waiting:
        bough, stem, below = waiting.pop()
        yield bough, stem
        children = by_parent.get(bough.branch, [])
        grown = [
            (
                child,
                below + (last if child is children[-1] else fork),
                below + ("   " if child is children[-1] else bar),
            )
            for child in children
        ]
        waiting.extend(reversed(grown))


def _draws() -> bool:
    """Whether the signs of a tree can be shown: on a terminal that knows them."""
    return sys.stdout.isatty() and (sys.stdout.encoding or "").lower().startswith("utf")
