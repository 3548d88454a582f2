"""What a worker does with a branch, one boundary at a time.

Rules
1. Each `yield` is a boundary: a worker may die there, or be paused and wake when the world and the tree have moved.
2. First call, retry, replay after a crash and replay on a fork take the same way, as in the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import assert_never

from tests.model.next_step import (
    Adopt,
    Beside,
    Deny,
    Hold,
    Look,
    Perform,
    Plan,
    Replay,
    Settle,
    Unsettled,
    Wait,
    next_step,
)
from tests.model.run import LOST, LOST_BEFORE, REFUSED, Fenced, Run, Worker
from tests.model.tree import OPEN, RECOVERY, Decided, Denied, Effect, Looked, Place, Planned
from tests.model.world import IDEMPOTENT, REVERSIBLE, TOOLS, Ask


def live(run: Run, worker: Worker) -> Iterator[str]:
    """One life: from the claim to the end of the branch, its fence, or its death."""
    with suppress(Fenced, Parked):
        yield from Life(run, worker).steps()
    worker.alive = False


class Parked(Exception):
    """The branch must wait, for people or for another branch: this life ends, and another one looks again."""


class Life:
    """One worker on its branch."""

    def __init__(self, run: Run, worker: Worker) -> None:
        self.run = run
        self.rules = run.rules
        self.worker = worker
        self.branch = worker.branch

    def steps(self) -> Iterator[str]:
        yield "claimed"
        if not self.rules.lazy_undo and self.branch.kind == RECOVERY:
            yield from self.sweep(closing=False)
        waiting = self.run.waits_for_planned(self.branch) if not self.branch.held else []
        for place in waiting if self.rules.planned_order else reversed(waiting):
            yield from self.call(place)
        counts: Counter[Ask] = Counter()
        if not self.rules.along_lineage:
            counts.subtract(place[0] for place in self.branch.places)
        for turn in range(100):
            ask = yield from self.decide(turn)
            if ask is None:
                break
            n = counts[ask] if self.rules.occurrence else 0
            counts[ask] += 1
            if not self.rules.along_lineage:
                n = max(n, 0)
            effect = yield from self.call((ask, n))
            self.run.checks.answers(self.branch, turn, effect)
        yield "done"
        yield from self.finish()

    def decide(self, turn: int) -> Iterator[str]:
        """What the model says at this turn, recorded or new."""
        if turn < len(self.branch.decisions):
            return self.branch.decisions[turn]
        yield "before a decision"
        self.run.may_write(self.worker)
        answer = self.run.thought(self.branch, turn)
        self.run.place(self.branch, Decided(answer))
        return answer

    # --- one call ---

    def call(self, place: Place) -> Iterator[str]:
        """The effect that answers a call, or None where there is none."""
        run, branch = self.run, self.branch
        while True:
            seen = run.seen(branch)
            step = next_step(run, branch, place)
            match step:
                case Replay(effect):
                    return effect
                case Adopt(effect):
                    yield "adopts"
                    run.adopt(self.worker, place, seen, effect)
                case Perform(key):
                    yield "before an intent"
                    yield from self.perform(place, seen, key)
                case Settle(effect):
                    yield "settles"
                    yield from self.settle(effect, seen)
                case Beside(effect) | Unsettled(effect):
                    yield "before an undo"
                    yield from self.undo(effect, seen)
                case Plan():
                    yield "before a plan"
                    self.note(Planned(place), seen)
                    run.tally["held"] += 1
                case Look():
                    yield "before a read"
                    run.may_write(self.worker)
                    etag = run.world.etags[place[0].name]
                    branch.reads.setdefault(place[0].name, etag)
                    run.place(branch, Looked(place, etag))
                case Deny():
                    self.note(Denied(place), seen)
                case Hold(what):
                    if not run.want(what):
                        raise Parked
                case Wait():
                    run.tally["waits"] += 1
                    raise Parked
                case _:
                    assert_never(step)

    def note(self, record: Planned | Denied, seen: tuple[int, int]) -> None:
        self.run.may_begin(self.worker)
        if seen == self.run.seen(self.branch):
            self.run.place(self.branch, record)

    def perform(self, place: Place, seen: tuple[int, int], key: tuple[Ask, int, int]) -> Iterator[str]:
        """Write, then do, then seal."""
        if not self.rules.intent_first:
            self.run.may_begin(self.worker)
            self.run.world.act(place[0], key)
            yield "acted"
            effect = self.run.begin(self.worker, place, self.run.seen(self.branch), key)
            if effect is not None:
                yield "before a seal"
                self.seal(effect, "happened")
            return
        effect = self.run.begin(self.worker, place, seen, key)
        if effect is not None:
            yield from self.send(effect)

    def send(self, effect: Effect) -> Iterator[str]:
        """Send an effect whose intent, or attempt, is written."""
        run = self.run
        if not self.rules.stable_key:
            effect.sent_key = object()
        yield "after an intent"
        luck = run.luck(effect.ask)
        effect.sendings += 1
        if luck != LOST_BEFORE and luck != REFUSED:
            run.checks.sends(effect)
            run.world.act(effect.ask, effect.sent_key)
        yield "acted"
        if luck in (LOST, LOST_BEFORE):
            return
        if luck == REFUSED and effect.doubtful and self.rules.refusals_in_doubt:
            return  # it says nothing of an earlier sending
        yield "before a seal"
        self.seal(effect, "not" if luck == REFUSED else "happened")
        yield "after a seal"

    def seal(self, effect: Effect, outcome: str) -> None:
        self.run.may_write(self.worker)
        self.run.end(effect, outcome)

    def again(self, effect: Effect, seen: tuple[int, int], *, absent: bool = False) -> Iterator[str]:
        """Send an open effect once more. `absent`: it is known that no earlier sending is there."""
        self.run.may_begin(self.worker)
        if seen != self.run.seen(self.branch) or not effect.open:
            return
        effect.sender, effect.doubtful = self.worker, not absent
        self.run.version += 1
        yield from self.send(effect)

    def settle(self, effect: Effect, seen: tuple[int, int]) -> Iterator[str]:
        """End a doubt of this lineage as its contract says."""
        tool = TOOLS[effect.ask.tool]
        if tool.kind == IDEMPOTENT:
            yield from self.again(effect, seen)
        elif not self.run.stopped(self.worker, effect.sender):
            raise Parked
        elif tool.probe:
            there = self.run.world.there(effect.sent_key)
            yield "probed"
            if not there:
                yield from self.again(effect, seen, absent=True)
            elif seen == self.run.seen(self.branch) and effect.open:
                self.seal(effect, "happened")
        elif tool.kind == REVERSIBLE:
            self.run.may_begin(self.worker)
            if seen == self.run.seen(self.branch) and effect.open:
                effect.sender = self.worker
                self.run.version += 1
                yield "takes back a doubt"
                self.run.world.take_back(effect.sent_key)
                yield from self.again(effect, self.run.seen(self.branch), absent=True)
        else:
            raise Parked

    # --- undo, and the end ---

    def undo(self, effect: Effect, seen: tuple[int, int], why: str = "claimed") -> Iterator[str]:
        """Take back what happened: an intent, the undo, a seal. Goes on with one that was begun."""
        if effect.undo_open:
            if not self.run.stopped(self.worker, effect.undoer):
                raise Parked
            self.run.may_begin(self.worker)
            if seen != self.run.seen(self.branch):
                return
        else:
            self.run.may_begin(self.worker)
            if seen != self.run.seen(self.branch) or not effect.stands:
                return
            self.run.checks.undoes(effect, why)
            effect.undo_open = True
        effect.undoer = self.worker
        self.run.version += 1
        yield "after the intent of an undo"
        refused = self.run.stuck(effect)
        if not refused:
            self.run.world.take_back(effect.sent_key)
        yield "undone"
        self.run.may_write(self.worker)
        if effect.undoer is self.worker:
            effect.undo_open, effect.undone, effect.stuck = False, not refused, refused
            self.run.version += 1
            self.run.tally["undone"] += not refused

    def sweep(self, *, closing: bool) -> Iterator[str]:
        """Take back what nobody holds any more, newest first."""
        passed: set[Effect] = set()
        while True:
            seen = self.run.seen(self.branch)
            stranded = self.run.stranded(self.branch)
            todo = [effect for effect in stranded if self.to_undo(effect, stranded)]
            todo = [effect for effect in todo if effect not in passed]
            if not todo:
                return
            effect = todo[-1 if self.rules.newest_first else 0]
            yield "before an undo"
            yield from self.undo(effect, seen, "closing" if closing else "eager")

    def to_undo(self, effect: Effect, stranded: list[Effect]) -> bool:
        if effect.ask.kind != REVERSIBLE or effect.stuck or effect.undone or effect.open:
            return False
        if self.run.gentle and self.run.tree[effect.branch].status == OPEN:
            return False
        if any(other.stuck and other.branch == effect.branch and other.order > effect.order for other in stranded):
            return False  # what came after it is still there
        return not (self.rules.spare_survivors and self.run.survives(effect, self.branch))

    def finish(self) -> Iterator[str]:
        """The end of the branch; if it is the line, the run is closed."""
        run, branch = self.run, self.branch
        if branch is not run.tree.line:
            return
        while True:
            run.may_begin(self.worker)
            self.close_others()
            moved = run.tree_moves
            if self.rules.settle_before_closing and not run.gentle and any(effect.open for effect in run.effects):
                raise Parked
            yield from self.sweep(closing=True)
            yield "before the end"
            run.may_begin(self.worker)
            if moved == run.tree_moves:
                break
        branch.finished = True
        run.version += 1
        run.closed = branch.name
        run.residue = [effect for effect in run.stranded(branch) if effect.outcome == "happened"]
        run.residue = run.residue if self.rules.residue else []
        run.tally["closed"] += 1
        run.tally["residue"] += len(run.residue)

    def close_others(self) -> None:
        """Whatever goes on beside the line ends with it."""
        for other in self.run.tree.open():
            if other is not self.branch and self.rules.settle_before_closing and not self.run.gentle:
                self.run.tree.give_up(other)
        self.run.version += 1
        self.run.checks.tree_moved()
