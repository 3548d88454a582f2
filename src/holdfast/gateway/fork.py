"""Change the tree of a run: fork, promote, abandon.

Rules
1. A branch is born first, with what has become of its history since; then the tree is told. One of which the tree was
   not told does not exist.
2. A history is never forked between an intent and the seal that nobody has yet.
3. The tree is changed only as it was when the change was judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.core.codec import decode, encode
from holdfast.core.effect import Happened, legible
from holdfast.core.entry import Entry
from holdfast.core.log import Log
from holdfast.core.payload import Packed
from holdfast.core.record import (
    Abandoned,
    Adopted,
    Decision,
    Forked,
    Override,
    Promoted,
    Record,
    Seal,
    Settled,
)
from holdfast.core.tree import MAIN, ForkKind, Status, Tree, TreeRecord
from holdfast.errors import BadCall, Conflict, InDoubt, Misuse, Unknown
from holdfast.gateway.family import read_tree
from holdfast.gateway.line import key_for, node_of, read_log
from holdfast.store import Draft, Store

TRIES = 200


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to stand for what was recorded: the answer at `target`, or (0) the setting `name`."""

    target: int
    name: str
    value: Packed


@dataclass(frozen=True, slots=True)
class Cutting:
    """A fork that is asked for: at entry `at` of `branch` (`RUN@BRANCH`)."""

    branch: str
    at: int
    kind: ForkKind
    by: str
    why: str = ""
    group: str | None = None
    edits: Sequence[Edit] = ()

    @property
    def run(self) -> str:
        """The run."""
        return self.branch.partition("@")[0]

    @property
    def node(self) -> str:
        """The place, as people write it."""
        return node_of(self.branch, self.at)


async def fork(store: Store, cutting: Cutting) -> str:
    """Begin a branch; its name (`b2`). Raises Unknown if there is no such place, InDoubt if it lies between an intent
    and the seal that nobody has, BadCall for an edit of what cannot be edited, Misuse where the tree does not allow
    it."""
    for _ in range(TRIES):
        tree = await read_tree(store, cutting.run)
        name = cutting.branch.partition("@")[2]
        if name not in tree.limbs:
            raise Unknown(f"there is no branch `{name}`", where=cutting.run, fix=f"holdfast show {cutting.run}")
        parent = next(each for each, upto in tree.lineage(name) if upto is None or cutting.at <= upto)
        entry = await _entry(store, f"{cutting.run}@{parent}", cutting.at, cutting.node)
        forked = Forked(
            branch=await _free_name(store, cutting.run), parent=parent, at=cutting.at, digest=entry.digest.hex(),
            kind=cutting.kind, group=cutting.group, by=legible(cutting.by, 200), why=legible(cutting.why, 500),
        )  # fmt: skip
        _allow(tree, forked, cutting.node)
        watch = await _positions(store, cutting.run, tree)
        for edit in cutting.edits:
            await _check_edit(store, cutting, tree, edit)
        try:
            await _bear(store, cutting, forked, entry)
            await _tell(store, cutting.run, forked, tree, watch)
        except Conflict:
            continue
        return forked.branch
    raise Conflict("the run is changing too fast to be forked", where=cutting.node, fix="try again")


async def change(store: Store, run: str, record: Promoted | Abandoned) -> str:
    """Promote or abandon a branch; the place of the record. Raises Misuse where the tree does not allow it."""
    for _ in range(TRIES):
        tree = await read_tree(store, run)
        _allow(tree, record, run)
        try:
            return await _tell(store, run, record, tree, {})
        except Conflict:
            continue
    raise Conflict("the run is writing too fast for its tree to be changed", where=run, fix="try again")


def _allow(tree: Tree, record: TreeRecord, where: str) -> None:
    why = tree.breach(record)
    if why is not None:
        raise Misuse(why, where=where, fix=f"holdfast show {where.partition('@')[0]} shows the tree")


async def _tell(store: Store, run: str, record: TreeRecord, tree: Tree, watch: dict[str, int]) -> str:
    """Place a tree record on main. Raises Conflict if the tree is not `tree` any more, or a branch of `watch` moved."""
    main = f"{run}@{MAIN}"
    for _ in range(TRIES):
        newest = await store.read(main, newest=1)
        if not newest:
            raise Unknown(f"there is no run `{run}`", where=main, fix="holdfast list shows the runs")
        if (await read_tree(store, run)).size != tree.size:
            break
        try:
            (entry,) = await store.append(
                main, [_draft(record)], epoch=0, after=newest[0].seq, barrier=True, watch=watch
            )
        except Conflict as conflict:
            if conflict.where in watch:
                raise
            continue
        return node_of(main, entry.seq)
    raise Conflict("the tree of the run has changed", where=run)


async def _bear(store: Store, cutting: Cutting, forked: Forked, entry: Entry) -> None:
    edits = [Override(target=edit.target, name=edit.name, value=edit.value.payload) for edit in cutting.edits]
    blobs = [blob for edit in cutting.edits for blob in edit.value.blobs]
    drafts = [_draft(forked), *await _since(store, cutting, forked), *map(_draft, edits)]
    await store.append(f"{cutting.run}@{forked.branch}", drafts, epoch=0, barrier=True, blobs=blobs, stands_on=entry)


async def _since(store: Store, cutting: Cutting, forked: Forked) -> list[Draft]:
    """What has become, after the fork point, of what was begun before it: seals and undos that its history lacks."""
    parent = f"{cutting.run}@{forked.parent}"
    log = (await read_log(store, parent, restore=True, before=cutting.at)).log
    drafts: list[Draft] = []
    for slot in log.effects:
        if slot.intent is None:
            continue
        here = slot.intent_seq <= cutting.at
        if here and slot.open:
            raise InDoubt(
                f"`{slot.tool}` was sent before this place, and nobody knows yet what came of it",
                where=node_of(parent, slot.intent_seq),
                fix=f"settle it, or fork before it: {node_of(parent, slot.intent_seq - 1)}",
            )
        if slot.outcome is None or slot.sealed_seq <= cutting.at:
            continue
        by = f"{forked.parent}:{slot.sealed_seq}"
        undoes = slot.intent.undoes
        if here:
            settled = Settled(intent=slot.intent_seq, outcome=slot.outcome, by=by)
            drafts.append(Draft(slot.identity, encode(settled)))
        elif undoes is not None and undoes <= cutting.at and isinstance(slot.outcome, Happened):
            taken_back = Adopted(
                tool=slot.tool, kind=slot.kind, identity=slot.identity.hex(), n=slot.n, args=slot.intent.args,
                node=by, undoes=undoes, outcome=slot.outcome,
            )  # fmt: skip
            drafts.append(_draft(taken_back))
    return drafts


async def _check_edit(store: Store, cutting: Cutting, tree: Tree, edit: Edit) -> None:
    if edit.target == 0:
        return
    name = cutting.branch.partition("@")[2]
    if edit.target > cutting.at:
        raise BadCall(
            f"entry {edit.target} lies behind the place of the fork", where=cutting.node, fix="fork at that entry"
        )
    home = next(each for each, upto in tree.lineage(name) if upto is None or edit.target <= upto)
    entry = await _entry(store, f"{cutting.run}@{home}", edit.target, cutting.node)
    record = decode(entry.body)
    if isinstance(record, Decision) or (isinstance(record, Seal) and record.intent is None):
        return
    kind = type(record).__name__.lower()
    raise BadCall(
        f"entry {edit.target} is a `{kind}`: only the answer of a decision or a read can be replaced",
        where=cutting.node,
        fix="what happened in the world has happened: fork before it instead",
    )


async def _entry(store: Store, branch: str, seq: int, node: str) -> Entry:
    found = await store.read(branch, after=seq - 1, upto=seq) if seq > 0 else []
    if not found:
        raise Unknown(
            f"there is no entry at `{node}`", fix=f"holdfast log {branch.partition('@')[0]} shows what there is"
        )
    return found[0]


async def _free_name(store: Store, run: str) -> str:
    taken = {found.name.partition("@")[2] for found in await store.branches(f"{run}@")}
    number = len(taken) + 1
    while f"b{number}" in taken:
        number += 1
    return f"b{number}"


async def _positions(store: Store, run: str, tree: Tree) -> dict[str, int]:
    """How far each branch is that was given up: what it did may be taken back meanwhile."""
    return {
        found.name: found.seq
        for found in await store.branches(f"{run}@")
        if (limb := tree.limbs.get(found.name.partition("@")[2])) is not None and limb.status is not Status.OPEN
    }


def _draft(record: Record) -> Draft:
    return Draft(key_for(record, Log("")), encode(record))
