"""Change the tree of a run: fork, promote, abandon.

Rules
1. A branch is born first, with what has become of its history since; then the tree is told. One of which the tree was
   not told does not exist.
2. A history is never forked between an intent and the seal that nobody has yet.
3. The tree is changed only as it was when the change was judged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from holdfast.core.codec import decode, encode
from holdfast.core.effect import Happened, Outcome, legible
from holdfast.core.entry import Entry
from holdfast.core.log import Log
from holdfast.core.payload import Packed
from holdfast.core.record import (
    Abandoned,
    Adopted,
    Checkpoint,
    Decision,
    Forked,
    Intent,
    Override,
    Promoted,
    Record,
    Seal,
    Settled,
)
from holdfast.core.slot import Slot
from holdfast.core.tree import MAIN, ForkKind, Status, Tree, TreeRecord
from holdfast.errors import BadCall, Conflict, InDoubt, Misuse, Unknown
from holdfast.gateway.family import TREE_KEY, KnownTree, read_tree
from holdfast.gateway.history import CHECKPOINT_KEY, NO_STATE, STARTED_KEY, read_log
from holdfast.gateway.line import key_for, node_of
from holdfast.store import Branch, Draft, Readable, Store

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


@dataclass(frozen=True, slots=True)
class Birth:
    """A branch that is about to be made: what it stands on, and what it begins with. `watch`: how far the branches are
    that are at rest."""

    forked: Forked
    entry: Entry
    drafts: Sequence[Draft]
    watch: dict[str, int]


async def fork(store: Store, cutting: Cutting, known: KnownTree | None = None) -> str:
    """Begin a branch; its name (`b2`). `known`: as much of the tree as the caller knows already. Raises as
    `prepared`."""
    known = known or KnownTree(store, cutting.run)
    for _ in range(TRIES):
        birth = await prepared(store, cutting, known)
        try:
            await _bear(store, cutting, birth)
            await _tell(store, birth.forked, known, birth.watch)
        except Conflict:
            continue
        return birth.forked.branch
    raise Conflict("the run is changing too fast to be forked", where=cutting.node, fix="try again")


async def prepared(store: Readable, cutting: Cutting, known: KnownTree) -> Birth:
    """What a fork would begin with, as things stand; nothing is written. Raises Unknown if there is no such place,
    InDoubt if it lies between an intent and the seal that nobody has, BadCall for an edit of what cannot be edited,
    Misuse where the tree does not allow it."""
    tree = await known.refresh()
    name = cutting.branch.partition("@")[2]
    if name not in tree.limbs:
        raise Unknown(f"there is no branch `{name}`", where=cutting.run, fix=f"holdfast show {cutting.run}")
    parent = next(each for each, upto in tree.lineage(name) if upto is None or cutting.at <= upto)
    entry = await _entry(store, f"{cutting.run}@{parent}", cutting.at, cutting.node)
    await _has_begun(store, cutting)
    there = await store.branches(f"{cutting.run}@")
    forked = Forked(
        branch=_free_name(there), parent=parent, at=cutting.at, digest=entry.digest.hex(),
        kind=cutting.kind, group=cutting.group, by=legible(cutting.by, 200), why=legible(cutting.why, 500),
    )  # fmt: skip
    _allow(tree, forked, cutting.node)
    watch = _at_rest(there, tree)
    for edit in cutting.edits:
        await _check_edit(store, cutting, tree, edit)
    edits = [Override(target=edit.target, name=edit.name, value=edit.value.payload) for edit in cutting.edits]
    drafts = [_draft(forked), *await _since(store, cutting, forked), *map(_draft, edits)]
    return Birth(forked, entry, drafts, watch)


async def change(store: Store, run: str, record: Promoted | Abandoned) -> str:
    """Promote or abandon a branch; the place of the record. Raises Misuse where the tree does not allow it."""
    known = KnownTree(store, run)
    for _ in range(TRIES):
        _allow(await known.refresh(), record, run)
        try:
            return await _tell(store, record, known, {})
        except Conflict:
            continue
    raise Conflict("the run is writing too fast for its tree to be changed", where=run, fix="try again")


def _allow(tree: Tree, record: TreeRecord, where: str) -> None:
    why = tree.breach(record)
    if why is not None:
        raise Misuse(why, where=where, fix=f"holdfast show {where.partition('@')[0]} shows the tree")


async def _tell(store: Store, record: TreeRecord, known: KnownTree, watch: dict[str, int]) -> str:
    """Place a tree record on main. Raises Conflict if the tree is not as `known` any more, or a branch of `watch`
    moved."""
    main = f"{known.run}@{MAIN}"
    for _ in range(TRIES):
        newest = await store.read(main, newest=1)
        if not newest:
            raise Unknown(f"there is no run `{known.run}`", where=main, fix="holdfast list shows the runs")
        if await store.read(main, after=known.seq, key=TREE_KEY, newest=1):
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
    raise Conflict("the tree of the run has changed", where=known.run)


async def _bear(store: Store, cutting: Cutting, birth: Birth) -> None:
    blobs = [blob for edit in cutting.edits for blob in edit.value.blobs]
    branch = f"{cutting.run}@{birth.forked.branch}"
    await store.append(branch, birth.drafts, epoch=0, barrier=True, blobs=blobs, stands_on=birth.entry)


async def _since(store: Readable, cutting: Cutting, forked: Forked) -> list[Draft]:
    """What has become, after the fork point, of what was begun before it: seals and undos that its history lacks."""
    parent = f"{cutting.run}@{forked.parent}"
    log = (await read_log(store, parent, restore=True, upto=cutting.at)).log
    begun = {slot.intent_seq: slot for slot in log.doubts()}
    drafts: list[Draft] = []
    for entry in await store.read(parent, after=cutting.at):
        if not (_begins_an_undo(entry) or (begun and re.search(rb'"t":"(?:seal|settled)"', entry.body))):
            continue  # which saves its decoding: most of what lies behind the place does not matter
        record = decode(entry.body)
        if isinstance(record, Intent) and record.undoes is not None and record.undoes <= cutting.at:
            if record.undoes in begun:
                continue  # of a doubt: it is sent again after that
            log.take(record, entry)
            begun[entry.seq] = cast(Slot, log.at(entry.seq))
        elif isinstance(record, Seal | Settled) and (slot := begun.pop(record.intent or 0, None)) is not None:
            drafts.append(_became(slot, record.outcome, f"{forked.parent}:{entry.seq}", cutting.at))
    for slot in begun.values():
        if slot.intent_seq <= cutting.at:
            raise InDoubt(
                f"`{slot.tool}` was sent before this place, and nobody knows yet what came of it",
                where=node_of(parent, slot.intent_seq),
                fix=f"settle it, or fork before it: {node_of(parent, slot.intent_seq - 1)}",
            )
    return [draft for draft in drafts if draft.body] + await _since_elsewhere(store, parent, cutting.at)


async def _since_elsewhere(store: Readable, parent: str, at: int) -> list[Draft]:
    """The undos on other branches of what the history up to entry `at` of `parent` has inherited or adopted."""
    run, _, name = parent.partition("@")
    tree = await read_tree(store, run)
    others = [limb.name for limb in tree if limb.name != name and not tree.held(limb.name)]
    undos = [each for other in others for each in await _undos_on(store, run, other)]
    if not undos:
        return []
    log = (await read_log(store, parent, upto=at)).log
    adopted = {slot.adopted.node: slot.intent_seq for slot in log.effects if slot.adopted}
    inherited = {each: at if upto is None else min(at, upto) for each, upto in tree.lineage(name)}
    drafts: list[Draft] = []
    for branch, slot in undos:
        assert slot.intent is not None
        undoes = slot.intent.undoes or 0
        home = next(each for each, upto in tree.lineage(branch) if upto is None or undoes <= upto)
        seq = undoes if undoes <= inherited.get(home, 0) else adopted.get(f"{home}:{undoes}")
        here = None if seq is None else log.at(seq)
        doubted = branch == home and not await _had_happened(store, f"{run}@{home}", slot)
        if seq is None or (here is not None and here.undone) or doubted:
            continue
        if slot.open:
            raise InDoubt(
                f"`{slot.tool}` was sent, and takes back what stands before this place",
                where=node_of(f"{run}@{branch}", slot.intent_seq),
                fix="wait for it, or settle it; or fork before what it takes back",
            )
        if isinstance(slot.outcome, Happened):
            drafts.append(_taken_back(slot, seq, slot.outcome, f"{branch}:{slot.sealed_seq}"))
    return drafts


async def _had_happened(store: Readable, home: str, undo: Slot) -> bool:
    """Whether what `undo` takes back was known to have happened: an effect in doubt is undone to be sent again."""
    assert undo.intent is not None
    undone = (await read_log(store, home)).log.at(undo.intent.undoes or 0)
    return undone is not None and isinstance(undone.outcome, Happened) and undone.sealed_seq < undo.intent_seq


async def _undos_on(store: Readable, run: str, branch: str) -> list[tuple[str, Slot]]:
    """The undos that a branch itself has sent."""
    entries = await store.read(f"{run}@{branch}")
    keys = {entry.key for entry in entries if _begins_an_undo(entry)}
    log = Log(f"{run}@{branch}", entries[0].seq - 1 if entries else 0)
    for entry in entries if keys else ():
        if entry.key in keys:
            log.take(decode(entry.body), entry)
    return [(branch, slot) for slot in log.effects if slot.intent is not None and slot.intent.undoes is not None]


def _begins_an_undo(entry: Entry) -> bool:
    """Told by the bytes, which saves decoding: most entries do not."""
    return b'"t":"intent"' in entry.body and b'"undoes":null' not in entry.body


def _became(slot: Slot, outcome: Outcome, by: str, at: int) -> Draft:
    """What a branch must be told of a call that ended behind its fork point."""
    assert slot.intent is not None
    if slot.intent_seq <= at:
        return Draft(slot.identity, encode(Settled(intent=slot.intent_seq, outcome=outcome, by=by)))
    if not isinstance(outcome, Happened):
        return Draft(b"", b"")  # an undo that did not happen has changed nothing
    return _taken_back(slot, slot.intent.undoes, outcome, by)


def _taken_back(slot: Slot, seq: int | None, outcome: Outcome, node: str) -> Draft:
    """That `slot`, whose seal stands at `node`, has taken back what stands at `seq` of the new branch's history."""
    assert slot.intent is not None
    taken_back = Adopted(
        tool=slot.tool, kind=slot.kind, identity=slot.identity.hex(), n=slot.n, args=slot.intent.args,
        node=node, undoes=seq, outcome=outcome,
    )  # fmt: skip
    return _draft(taken_back)


async def _check_edit(store: Readable, cutting: Cutting, tree: Tree, edit: Edit) -> None:
    if edit.target == 0 and not edit.name:
        raise BadCall("there is no entry 0 whose answer could be replaced", where=cutting.node, fix="name its place")
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
        await _check_checkpoints(store, cutting, tree, edit.target)
        return
    kind = type(record).__name__.lower()
    raise BadCall(
        f"entry {edit.target} is a `{kind}`: only the answer of a decision or a read can be replaced",
        where=cutting.node,
        fix="what happened in the world has happened: fork before it instead",
    )


async def _check_checkpoints(store: Readable, cutting: Cutting, tree: Tree, target: int) -> None:
    """Raise BadCall if a state that was kept rests on what is to be replaced."""
    for name, upto in tree.lineage(cutting.branch.partition("@")[2]):
        most = cutting.at if upto is None else min(upto, cutting.at)
        for entry in await store.read(f"{cutting.run}@{name}", key=CHECKPOINT_KEY, after=target, upto=most):
            record = decode(entry.body)
            if isinstance(record, Checkpoint) and record.state.digest != NO_STATE:
                raise BadCall(
                    f"the checkpoint at {entry.seq} rests on entry {target}",
                    where=cutting.node,
                    fix=f"fork before it: {node_of(f'{cutting.run}@{name}', entry.seq - 1)}",
                )


async def _has_begun(store: Readable, cutting: Cutting) -> None:
    started = await store.read(f"{cutting.run}@{MAIN}", key=STARTED_KEY, newest=1)
    if not started or started[0].seq > cutting.at:
        raise BadCall("the run has not begun at this place", where=cutting.node, fix="fork at a later entry")


async def _entry(store: Readable, branch: str, seq: int, node: str) -> Entry:
    found = await store.read(branch, after=seq - 1, upto=seq) if seq > 0 else []
    if not found:
        raise Unknown(
            f"there is no entry at `{node}`", fix=f"holdfast log {branch.partition('@')[0]} shows what there is"
        )
    return found[0]


def _free_name(there: Sequence[Branch]) -> str:
    taken = {found.name.partition("@")[2] for found in there}
    number = len(taken) + 1
    while f"b{number}" in taken:
        number += 1
    return f"b{number}"


def _at_rest(there: Sequence[Branch], tree: Tree) -> dict[str, int]:
    """How far each branch is that was given up, or that nobody advances: what it did may be taken back meanwhile, by
    who comes to it."""
    return {
        found.name: found.seq
        for found in there
        if (limb := tree.limbs.get(found.name.partition("@")[2])) is not None
        and (limb.status is not Status.OPEN or not found.holder)
        and not tree.held(limb.name)
    }


def _draft(record: Record) -> Draft:
    return Draft(key_for(record, Log("")), encode(record))
