"""The tree of the model: branches, their records, and the effects that they began.

Rules
1. A branch is a fold over its lineage: what it inherited up to its fork point, then its own records.
2. Nothing is decided here but what a branch holds, and which branch is the run's line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from tests.model.world import Ask

MAIN = "main"
OPEN, SUPERSEDED, ABANDONED = "open", "superseded", "abandoned"
RECOVERY, WHAT_IF, SPECULATIVE = "recovery", "what-if", "speculative"

Place: TypeAlias = tuple[Ask, int]
"""A call on a lineage: what is asked for, and the how many-eth time."""


@dataclass(eq=False, slots=True)
class Effect:
    """One intent, and what became of it. `key`: what the rules call its key; `sent_key`: what the world was given.

    `order`: of intents, over the whole run. `doubtful`: an earlier sending of this key may be there.
    `sender`, `undoer`: the workers that sent it, and its undo, last.
    """

    ask: Ask
    n: int
    key: tuple[Ask, int, int]
    branch: str
    order: int
    sender: object
    sent_key: object
    sendings: int = 0
    doubtful: bool = False
    outcome: str | None = None
    undo_open: bool = False
    undoer: object = None
    undone: bool = False
    stuck: bool = False

    @property
    def open(self) -> bool:
        return self.outcome is None

    @property
    def stands(self) -> bool:
        """It happened, and nobody has begun to take it back."""
        return self.outcome == "happened" and not self.undone and not self.undo_open


class Decided(NamedTuple):
    """A model's answer: what to ask for, or None for the end."""

    answer: Ask | None


class Override(NamedTuple):
    """On this branch, `answer` stands for the decision of `turn`."""

    turn: int
    answer: Ask | None


class Looked(NamedTuple):
    """A read was answered."""

    place: Place
    etag: int


class Began(NamedTuple):
    """An intent."""

    place: Place
    effect: Effect


class Ended(NamedTuple):
    """A seal, or a verdict."""

    effect: Effect


class Planned(NamedTuple):
    """An effect of a speculative branch is held."""

    place: Place


class Adopted(NamedTuple):
    """A call is answered by what another branch did."""

    place: Place
    effect: Effect


class Denied(NamedTuple):
    """A call will not be carried out: the budget is spent."""

    place: Place


Record: TypeAlias = Decided | Override | Looked | Began | Ended | Planned | Adopted | Denied
HELD, DENIED, READ = "held", "denied", "read"


@dataclass(eq=False, slots=True)
class Branch:
    """One branch, folded. `backing`: which effect answers each call of the program, in the order of its decisions."""

    name: str
    parent: str = ""
    at: int = 0
    kind: str = RECOVERY
    group: int | None = None
    inherited: tuple[Record, ...] = ()
    own: list[Record] = field(default_factory=list[Record])
    status: str = OPEN
    successor: str | None = None
    promoted: bool = False
    finished: bool = False
    epoch: int = 0
    placed: int = 0
    decisions: list[Ask | None] = field(default_factory=list["Ask | None"])
    places: dict[Place, Effect | str] = field(default_factory=dict["Place", "Effect | str"])
    effects: list[Effect] = field(default_factory=list["Effect"])
    planned: list[Place] = field(default_factory=list["Place"])
    reads: dict[str, int] = field(default_factory=dict[str, int])
    backing: dict[int, object] = field(default_factory=dict[int, object])

    @property
    def lineage(self) -> list[Record]:
        return [*self.inherited, *self.own]

    @property
    def keys(self) -> set[object]:
        """The keys of the effects that it rests on: what it was refused is not among them."""
        return {effect.key for effect in self.effects if effect.outcome != "not"}

    @property
    def held(self) -> bool:
        """Its effects wait for its promotion."""
        return self.kind == SPECULATIVE and not self.promoted

    def fold(self, record: Record) -> None:
        match record:
            case Decided(answer):
                self.decisions.append(answer)
            case Override(turn, answer):
                self.decisions[turn] = answer
            case Began(place, effect) | Adopted(place, effect):
                self.places[place] = effect
                self.effects.append(effect)
            case Planned(place):
                self.places[place] = HELD
                self.planned.append(place)
            case Denied(place):
                self.places[place] = DENIED
            case Looked(place):
                self.places[place] = READ
            case Ended():
                pass

    def cut(self, at: int) -> tuple[Effect, ...]:
        """The effects that are between intent and seal at this point of the lineage."""
        began: dict[Effect, None] = {}
        for record in self.lineage[:at]:
            match record:
                case Began(_, effect):
                    began[effect] = None
                case Ended(effect):
                    began.pop(effect, None)
                case _:
                    pass
        return tuple(began)


class Tree:
    """All branches of a run."""

    def __init__(self) -> None:
        self.branches = {MAIN: Branch(MAIN, kind=WHAT_IF)}
        self._first = MAIN

    def __getitem__(self, name: str) -> Branch:
        return self.branches[name]

    def __iter__(self) -> Iterator[Branch]:
        return iter(self.branches.values())

    @property
    def line(self) -> Branch:
        """The branch that is the run's line now."""
        return self.last_of(self._first)

    def last_of(self, name: str) -> Branch:
        """The branch that has taken the place of this one, or itself."""
        while (successor := self.branches[name].successor) is not None:
            name = successor
        return self.branches[name]

    def open(self) -> list[Branch]:
        return [branch for branch in self if branch.status == OPEN]

    def members(self, group: int | None) -> list[Branch]:
        return [branch for branch in self if group is not None and branch.group == group]

    def fork(self, parent: Branch, at: int, kind: str, group: int | None) -> Branch:
        """A new branch that stands on the first `at` records of its parent's lineage."""
        name = f"b{len(self.branches) + 1}"
        child = Branch(name, parent.name, at, kind, group, tuple(parent.lineage[:at]))
        for record in child.inherited:
            child.fold(record)
        self.branches[name] = child
        if kind == RECOVERY:
            for before in (self.line, parent):
                self.replace(before, child)
            self._first = name
        return child

    def promote(self, branch: Branch) -> None:
        """It takes the place of the branch that it was forked from; the others of its group end."""
        branch.promoted = True
        for other in self.members(branch.group):
            if other is not branch and other.status == OPEN and not other.promoted:
                self.give_up(other)
        base = self.last_of(branch.parent)
        if base is not branch:
            self.replace(base, branch)

    def replace(self, before: Branch, after: Branch) -> None:
        if before.status == OPEN and before is not after:
            before.status, before.successor = SUPERSEDED, after.name

    def give_up(self, branch: Branch) -> None:
        """It ends, with all that was forked from it and is not the line."""
        if branch.status == OPEN:
            branch.status = ABANDONED
        for other in self:
            if other.parent == branch.name and other.status == OPEN and other is not self.line:
                self.give_up(other)
