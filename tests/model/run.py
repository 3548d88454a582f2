"""One run of the model: its tree, its effects, who advances what, and what people say.

Rules
1. What is written is guarded as the rules say: by the claim, by the tree, and by what the other branches were.
2. The draws of models and of the world depend on the seed and on what is drawn, not on when: so that the engine can be
   given the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.model.checks import Checks
from tests.model.rules import Rules
from tests.model.tree import HELD, OPEN, Adopted, Began, Branch, Decided, Effect, Ended, Override, Place, Record, Tree
from tests.model.world import BUDGET, TOOLS, Ask, World

MOST_TURNS = 6
REFUSED, LOST, LOST_BEFORE = "refused", "lost", "lost before"


class Fenced(Exception):
    """The worker may not write here any more: it stops."""


@dataclass(eq=False, slots=True)
class Worker:
    """One life of a branch. `steps`: what it does, one boundary at a time; `at`: the boundary where it stands."""

    branch: Branch
    epoch: int
    steps: Iterator[str] = field(default_factory=lambda: iter(()))
    at: str = "claimed"
    alive: bool = True


def thought_of(seed: int, branch: str, turn: int, pool: list[Ask]) -> Ask | None:
    """What a model says on a branch at a turn."""
    chance = random.Random(f"{seed} {branch} {turn}")
    return None if turn >= MOST_TURNS or chance.random() < 0.1 else chance.choice(pool)


def fortune(seed: int, ask: Ask, nth: int) -> str:
    """What becomes of the `nth` sending for this."""
    drawn = random.Random(f"{seed} {ask} {nth}").random()
    return REFUSED if drawn < 0.07 else LOST if drawn < 0.12 else LOST_BEFORE if drawn < 0.16 else ""


def irrevocable(seed: int, number: int) -> bool:
    """Whether the world will not take the deed of this number back."""
    return random.Random(f"{seed} stuck {number}").random() < 0.07


class Run:
    """One run. `version` counts every record; `closed`: the line has finished, and `residue` is what could not be
    undone. A `gentle` closing leaves the branches that go on beside the line alone."""

    def __init__(self, seed: int, rules: Rules, pool: list[Ask], *, budget: int = BUDGET, gentle: bool = False) -> None:
        self.seed = seed
        self.rules = rules
        self.pool = pool
        self.budget = budget
        self.gentle = gentle
        self.sendings: Counter[Ask] = Counter()
        self.tree = Tree()
        self.world = World()
        self.checks = Checks(self)
        self.tally: Counter[str] = Counter()
        self.effects: list[Effect] = []
        self.of_ask: dict[Ask, list[Effect]] = {}
        self.workers: list[Worker] = []
        self.version = 0
        self.winners: dict[int, list[str]] = {}
        self.granted: dict[object, int] = {}
        self.wanted: list[object] = []
        self.closed: str | None = None
        self.tree_moves = 0
        self.residue: list[Effect] = []

    # --- writing ---

    def seen(self, branch: Branch) -> tuple[int, int]:
        """What a decision rests on."""
        return (self.version if self.rules.watch else 0, branch.placed)

    def may_write(self, worker: Worker) -> None:
        """Raise Fenced unless the claim is still the worker's."""
        if self.rules.fence and worker.epoch != worker.branch.epoch:
            self.tally["fenced"] += 1
            raise Fenced

    def may_begin(self, worker: Worker) -> None:
        """Raise Fenced unless the worker may begin something new."""
        self.may_write(worker)
        if self.rules.fence and (worker.branch.status != OPEN or worker.branch.finished):
            self.tally["fenced"] += 1
            raise Fenced

    def place(self, branch: Branch, record: Record) -> None:
        """Write it at the end of the branch."""
        branch.own.append(record)
        branch.fold(record)
        self.version += 1
        self.checks.placed(branch, record)

    def begin(self, worker: Worker, place: Place, seen: tuple[int, int], key: tuple[Ask, int, int]) -> Effect | None:
        """Write an intent; None if what it rests on has changed."""
        self.may_begin(worker)
        branch = worker.branch
        if seen != self.seen(branch):
            return None
        ask, n = place
        order = len(self.effects)
        effect = Effect(ask, n, key, branch.name, order, worker, key)
        effect.doubtful = any(other.key == key for other in self.of_ask.get(ask, ()))
        self.effects.append(effect)
        self.of_ask.setdefault(ask, []).append(effect)
        self.place(branch, Began(place, effect))
        self.checks.began(worker, effect)
        return effect

    def adopt(self, worker: Worker, place: Place, seen: tuple[int, int], effect: Effect) -> bool:
        self.may_begin(worker)
        if seen != self.seen(worker.branch):
            return False
        self.checks.adopts(worker.branch, effect)
        self.place(worker.branch, Adopted(place, effect))
        self.tally["adopted"] += 1
        return True

    def end(self, effect: Effect, outcome: str) -> None:
        """A seal, or a verdict: final."""
        if effect.outcome is None:
            effect.outcome = outcome
            self.checks.ends(effect)
            self.place(self.tree[effect.branch], Ended(effect))

    # --- what the run knows ---

    def stopped(self, worker: Worker, other: object) -> bool:
        """Whether whoever sent something is proven to have stopped."""
        return not self.rules.proof_of_death or other is worker or not (isinstance(other, Worker) and other.alive)

    def stranded(self, branch: Branch) -> list[Effect]:
        """The effects of the run, in order, that this lineage does not hold, and that may be in the world."""
        held = branch.keys
        return [
            effect
            for effect in self.effects
            if effect.key not in held and not effect.undone and effect.outcome != "not"
        ]

    def survives(self, effect: Effect, but: Branch) -> bool:
        """Whether an open branch other than `but` holds an effect."""
        return any(other is not but and effect.key in other.keys for other in self.tree.open())

    def spent(self, branch: Branch) -> int:
        """How much of the budget is gone."""
        whole, held = self.rules.budget_of_the_run, branch.keys
        keys = {
            effect.key: TOOLS[effect.ask.tool].cost
            for effect in self.effects
            if effect.outcome != "not" and (whole or effect.key in held)
        }
        return sum(keys.values())

    # --- what is drawn ---

    def thought(self, branch: Branch, turn: int) -> Ask | None:
        """What the model says on this branch at this turn."""
        return thought_of(self.seed, branch.name, turn, self.pool)

    def luck(self, ask: Ask) -> str:
        """What becomes of the next sending."""
        self.sendings[ask] += 1
        return fortune(self.seed, ask, self.sendings[ask])

    def stuck(self, effect: Effect) -> bool:
        """Whether the world will not take this back."""
        return irrevocable(self.seed, self.world.of_key[effect.sent_key][-1].number)

    # --- people and operators ---

    def claim(self, branch: Branch) -> Worker:
        branch.epoch += 1
        worker = Worker(branch, branch.epoch)
        self.workers.append(worker)
        return worker

    def fork(self, parent: Branch, at: int, kind: str, group: int | None, override: Ask | None) -> Branch | None:
        """A new branch, whose newest decision is `override`; None if it may not begin there."""
        while parent.parent and at <= len(parent.inherited):
            parent = self.tree[parent.parent]  # where the place really lies
        lineage = parent.lineage
        if self.rules.whole_calls and parent.cut(at):
            self.tally["refused forks"] += 1
            return None
        if not at or parent.held:
            return None
        last = lineage[at - 1]
        cut = parent.cut(at)
        child = self.tree.fork(parent, at, kind, group)
        for effect in cut:  # the seal that is missing on this lineage will never stand on it
            self.doubt(child, effect)
        if isinstance(last, Decided) and override is not None:
            if self.rules.override_in_child:
                self.place(child, Override(len(child.decisions) - 1, override))
            elif at > len(parent.inherited):
                parent.own[at - 1 - len(parent.inherited)] = Decided(override)
                child.decisions[-1] = override
        self.version += 1
        self.reopen()
        self.tally[kind] += 1
        return child

    def doubt(self, child: Branch, effect: Effect) -> None:
        """The child has an intent, and does not know what became of it."""
        own = replace(effect, branch=child.name, outcome=None, order=len(self.effects))
        self.effects.append(own)
        self.of_ask[effect.ask].append(own)
        child.effects[child.effects.index(effect)] = own
        child.places[effect.ask, effect.n] = own

    def reopen(self) -> None:
        """The tree has grown: what the run was closed with no longer holds, and its line is closed once more."""
        self.closed = None
        self.tree_moves += 1
        self.tree.line.finished = False
        self.checks.tree_moved()

    def drifted(self, branch: Branch) -> bool:
        return any(self.world.etags[name] != etag for name, etag in branch.reads.items())

    def promote(self, branch: Branch, seen: int) -> bool:
        """Make it the line that it alternates with. False if it may not be, any more."""
        group = self.winners.setdefault(branch.group, []) if branch.group is not None else []
        if self.rules.one_winner and (group or branch.status != OPEN or seen != self.version):
            self.tally["lost promotions"] += 1
            return False
        if self.rules.fresh_reads and self.drifted(branch):
            self.tally["stale promotions"] += 1
            return False
        if self.tree.last_of(branch.parent).status != OPEN:
            return False
        self.checks.promotes(branch, group)
        group.append(branch.name)
        self.tree.promote(branch)
        self.version += 1
        self.reopen()
        self.tally["promoted"] += 1
        return True

    def abandon(self, branch: Branch) -> None:
        if branch is not self.tree.line and branch.status == OPEN:
            self.tree.give_up(branch)
            self.version += 1
            self.tally["abandoned"] += 1

    def want(self, what: object) -> bool:
        """Ask people for something; whether they have agreed."""
        if what not in self.wanted:
            self.wanted.append(what)
            self.tally["asked people"] += 1
        return what in self.granted

    def grant(self) -> None:
        """People agree to everything that waits for them."""
        for what in self.wanted:
            if what not in self.granted:
                self.granted[what] = self.version
                self.version += 1

    def verdicts(self) -> bool:
        """People look at the world and end the doubts whose senders have stopped; whether there were any."""
        ended = False
        for effect in self.effects:
            sender = effect.sender
            alive = isinstance(sender, Worker) and sender.alive
            if effect.open and not (alive and self.rules.proof_of_death):
                self.end(effect, "happened" if self.world.there(effect.sent_key) else "not")
                self.tree[effect.branch].placed += 1
                self.tally["verdicts"] += 1
                ended = True
        return ended

    def waits_for_planned(self, branch: Branch) -> list[Place]:
        """The held effects of a promoted lineage that are still to be performed, in their order."""
        return [place for place in branch.planned if branch.places[place] == HELD]
