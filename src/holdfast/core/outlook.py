"""What a fork means, before it is made: what is answered from the log, what is made anew, what stays in the world.

Rules
1. Nothing is guessed that the log tells. Whether the new line asks for something again is up to its program: of each
   effect it is said what becomes of it if it does, and if it does not.
2. One world, many histories: what was done after the place of the fork has happened, and is on this page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from holdfast.core.effect import Kind, NotHappened, Payload
from holdfast.core.kin import in_the_world
from holdfast.core.log import Log
from holdfast.core.slot import Decided, Slot
from holdfast.core.tree import Status, Tree


class Fate(StrEnum):
    """What becomes of an effect of another branch that is not asked for again."""

    KEPT = "kept"  # a branch that goes on has it in its history
    UNDONE = "undone"  # it is taken back when the run ends
    RESIDUE = "residue"  # it stays in the world: nobody can take it back
    DOUBT = "doubt"  # it may have happened, and nobody knows yet


@dataclass(frozen=True, slots=True)
class Left:
    """An effect in the world that is not in a history. `node`: `BRANCH:SEQ`. `collides`: another call on the same
    resource waits for a person."""

    node: str
    slot: Slot
    fate: Fate
    why: str
    collides: bool

    @property
    def adoptable(self) -> bool:
        """Whether the same call is answered by its seal."""
        return self.fate is not Fate.DOUBT


@dataclass(frozen=True, slots=True)
class Kept:
    """An effect of the history up to a fork. `since`: what has become of it after that place, or nothing."""

    node: str
    slot: Slot
    since: str


@dataclass(frozen=True, slots=True)
class Again:
    """A decision or a read after a fork: its answer is not inherited. `what`: `decision` or `read`."""

    node: str
    what: str
    name: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """A recorded answer for which another value stands on the new branch."""

    node: str
    what: str
    name: str
    answer: Payload


@dataclass(frozen=True, slots=True)
class Question:
    """Something that a person will have to answer, or may have to. `certain`: the new line meets it on its way."""

    node: str
    tool: str
    why: str
    certain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a fork means. `decisions`, `reads`: how many of them are answered from the log. `resting`: inherited effects
    that came after something that is replaced: the program may not ask for them again."""

    decisions: int
    reads: int
    effects: tuple[Kept, ...]
    again: tuple[Again, ...]
    left: tuple[Left, ...]
    replaced: tuple[Replaced, ...]
    resting: tuple[Kept, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Prospect:
    """A fork that is looked at. `before`: the history that it inherits; `whole`: that of the branch it is made from.
    `tree`: the run's branches as they would stand then; `others` (by `RUN@BRANCH`): what each of them wrote of its own,
    as far as it is not in `whole`. `targets`: the places whose answers are replaced; `anew`: the program, or what it is
    given, is another one from its beginning."""

    before: Log
    whole: Log
    tree: Tree
    others: Mapping[str, Log]
    targets: Sequence[int] = ()
    anew: bool = False


def outlook(prospect: Prospect) -> Outlook:
    """What `prospect` means."""
    before, whole = prospect.before, prospect.whole
    home = Home(prospect.tree, whole.branch)
    effects = tuple(_kept(prospect, home))
    first = 0 if prospect.anew else min(prospect.targets, default=before.seq)
    left = tuple(left_behind(whole, prospect.tree, prospect.others, after=before.seq))
    return Outlook(
        decisions=len(_decisions(before)),
        reads=len(_reads(before)),
        effects=effects,
        again=tuple(_again(prospect, home)),
        left=left,
        replaced=tuple(_replaced(before, home, prospect.targets)),
        resting=tuple(each for each in effects if _place(each.slot) > first),
        questions=tuple(_questions(prospect, home, left)),
    )


class Home:
    """On which branch of a history each of its entries stands."""

    def __init__(self, tree: Tree, branch: str) -> None:
        self._stretches = tree.lineage(branch.partition("@")[2])

    def of(self, seq: int) -> str:
        """The branch of the entry at `seq`."""
        return next(name for name, upto in self._stretches if upto is None or seq <= upto)

    def node(self, seq: int) -> str:
        """`BRANCH:SEQ`."""
        return f"{self.of(seq)}:{seq}"


# --- what stays in the world ---


def left_behind(own: Log, tree: Tree, others: Mapping[str, Log], *, after: int | None = None) -> Iterator[Left]:
    """What is in the world, or may be, and not in the history of `own` up to `after` (all of it, if that is None): in
    order of sending. `others`: as of a `Prospect`."""
    limit = own.seq if after is None else after
    adopted = {slot.adopted.node for slot in own.effects if slot.adopted is not None and slot.intent_seq <= limit}
    home = Home(tree, own.branch)
    found = [(home.of(slot.intent_seq), slot, own) for slot in own.effects if slot.intent_seq > limit]
    for branch, log in others.items():
        found += [(branch.partition("@")[2], slot, log) for slot in log.effects]
    logs = [own, *others.values()]
    for name, slot, log in sorted(found, key=lambda each: (each[1].first_sent_ms, each[1].intent_seq)):
        if in_the_world(slot) and f"{name}:{slot.intent_seq}" not in adopted:
            fate, why = _fate(name, slot, log, tree, logs)
            collides = slot.intent is not None and slot.intent.resource is not None and fate is not Fate.UNDONE
            yield Left(f"{name}:{slot.intent_seq}", slot, fate, why, collides)


def _fate(name: str, slot: Slot, log: Log, tree: Tree, logs: Iterable[Log]) -> tuple[Fate, str]:
    """What becomes of the effect `slot`, which `log` knows and which stands on the branch `name`."""
    if slot.open:
        return Fate.DOUBT, "it may have happened, and nobody has settled it"
    keeper = _keeper(tree, name, slot.intent_seq)
    for each in logs:
        for other in each.effects if keeper is None else ():
            if other.adopted is not None and other.adopted.node == f"{name}:{slot.intent_seq}":
                home = Home(tree, each.branch).of(other.intent_seq)
                keeper = keeper or _keeper(tree, home, other.intent_seq)
    if keeper is not None:
        return Fate.KEPT, f"`{keeper}` goes on with it"
    if slot.kind is not Kind.REVERSIBLE:
        return Fate.RESIDUE, f"it is {slot.kind}"
    for undo in log.effects:
        if undo.intent is not None and undo.intent.undoes == slot.intent_seq:
            if isinstance(undo.outcome, NotHappened):
                return Fate.RESIDUE, f"its undo was refused: {undo.outcome.reason}"
            return Fate.UNDONE, "its undo has been begun"
    return Fate.UNDONE, "it is reversible"


def _keeper(tree: Tree, branch: str, seq: int) -> str | None:
    """A branch that goes on and has the entry at `seq` of `branch` in its history."""
    for limb in tree:
        if limb.status is Status.OPEN:
            for name, upto in tree.lineage(limb.name):
                if name == branch and (upto is None or seq <= upto):
                    return limb.name
    return None


# --- what is inherited, and what is not ---


def _place(slot: Slot) -> int:
    return slot.intent_seq or slot.first_seq


def _decisions(log: Log) -> list[Decided]:
    return sorted((each for lane in log.lanes.values() for each in lane), key=lambda each: each.seq)


def _reads(log: Log) -> list[Slot]:
    return [slot for slot in log.slots.values() if slot.kind is Kind.READ and slot.outcome is not None]


def _kept(prospect: Prospect, home: Home) -> Iterator[Kept]:
    """The effects that are answered from the history, in order; those that were still open are sealed by now, or the
    fork is refused."""
    for slot in sorted(prospect.before.slots.values(), key=_place):
        if slot.kind is Kind.READ or _is_undo(slot):
            continue
        later = prospect.whole.slot(slot.identity, slot.n) or slot
        if slot.planned is not None and slot.outcome is None and slot.intent is None:
            yield Kept(home.node(slot.first_seq), slot, "it is planned, and waits for a promotion")
        elif slot.intent is not None or slot.outcome is not None:
            yield Kept(home.node(_place(slot)), later, _since(slot, later, home))


def _is_undo(slot: Slot) -> bool:
    record = slot.intent or slot.adopted
    return record is not None and record.undoes is not None


def _since(slot: Slot, later: Slot, home: Home) -> str:
    if later.undone:
        return "taken back" if slot.undone else "taken back after this place"
    if slot.outcome is None and later.outcome is not None:
        return f"sealed after this place, at {home.node(later.sealed_seq)}"
    return ""


def _again(prospect: Prospect, home: Home) -> Iterator[Again]:
    """The decisions and reads that lie behind the place of the fork, in order."""
    at = prospect.before.seq
    found = [(each.seq, "decision", each.decision.name) for each in _decisions(prospect.whole) if each.seq > at]
    found += [(slot.first_seq, "read", slot.tool) for slot in _reads(prospect.whole) if slot.first_seq > at]
    for seq, what, name in sorted(found):
        yield Again(home.node(seq), what, name)


def _replaced(before: Log, home: Home, targets: Iterable[int]) -> Iterator[Replaced]:
    for target in targets:
        for each in _decisions(before):
            if each.seq == target:
                yield Replaced(home.node(target), "decision", each.decision.name, each.decision.answer)
        for slot in _reads(before):
            if slot.first_seq == target and slot.outcome is not None and not isinstance(slot.outcome, NotHappened):
                yield Replaced(home.node(target), "read", slot.tool, slot.outcome.answer)


# --- people ---


def _questions(prospect: Prospect, home: Home, left: Sequence[Left]) -> Iterator[Question]:
    """What a person is asked: doubts, holds that the new line meets, and calls on what was changed elsewhere."""
    for each in left:
        if each.fate is Fate.DOUBT:
            yield Question(each.node, each.slot.tool, "it may have happened: settle it, or the same call waits", False)
    begun = {(each.slot.identity, each.slot.n) for each in left}
    for slot in prospect.before.holds():
        if (slot.identity, slot.n) not in begun:
            yield Question(home.node(slot.hold_seq), slot.tool, "it waits for approval, on the new branch too", True)
    for slot in sorted(prospect.whole.slots.values(), key=lambda each: each.hold_seq):
        if slot.hold_seq > prospect.before.seq and slot.intent is None and slot.outcome is None:
            why = "people are asked again if the same call is made"  # what they said then is not inherited
            yield Question(home.node(slot.hold_seq), slot.tool, why, False)
    for each in left:
        if each.collides and each.fate is not Fate.DOUBT:
            yield Question(each.node, each.slot.tool, "another call on the same resource waits for approval", False)
