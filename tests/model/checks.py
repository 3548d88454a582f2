"""The invariants of forks, checked against the world and the records at each step and at the end.

Nothing here asks the rules. What a lineage holds is read from its records; what happened, from the world.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.model.tree import OPEN, Branch, Effect, Record
from tests.model.world import IDEMPOTENT, IRREVERSIBLE, TOOLS, Ask

if TYPE_CHECKING:
    from tests.model.run import Run, Worker

INVARIANTS = {
    "I1": "an irreversible effect is in the world at most as often as one lineage asked for it",
    "I2": "a surviving lineage never rests on what was taken back",
    "I3": "a held branch has sent nothing",
    "I4": "what a branch inherited or wrote is never changed",
    "I6": "undo goes from the newest to the oldest",
    "I7": "nothing is begun by a branch after it has ended, or by a worker that was overtaken",
    "I8": "at most one promotion in a group",
    "I9": "one effect answers at most one call of a lineage",
    "I10": "at closing every effect in the world is in the final line, undone, or listed",
    "I11": "approvals and budgets are spent by the run",
    "I12": "no promotion rests on a read that has moved",
    "key": "a key that has ended is not sent again",
    "near": "two effects on one resource are asked for by one lineage, or by people",
    "order": "held effects are performed in their order",
    "lazy": "nothing is undone that the line asks for again",
    "end": "the run comes to its end",
}


class Checks:
    """What was found, in order: invariants and words."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.found: list[tuple[str, str]] = []
        self.shadow: dict[str, list[Record]] = {}
        self.ended: set[object] = set()
        self.low: int | None = None
        self.swept: set[object] = set()

    def broken(self, which: str, words: str) -> None:
        self.found.append((which, words))

    # --- at each step ---

    def placed(self, branch: Branch, record: Record) -> None:
        self.shadow.setdefault(branch.name, []).append(record)

    def began(self, worker: Worker, effect: Effect) -> None:
        """An intent was written."""
        branch = worker.branch
        if branch.status != OPEN or branch.finished or worker.epoch != branch.epoch:
            self.broken("I7", f"{branch.name} is {branch.status} and begins {effect.ask}")
        if effect.key in self.ended:
            self.broken("key", f"{effect.key} has ended and begins again")
        tool = TOOLS[effect.ask.tool]
        begun = {other.key for other in self.run.effects if other.ask.tool == tool.name and other.outcome != "not"}
        if tool.cost and len(begun) > self.run.budget:
            self.broken("I11", f"{tool.name} has spent {len(begun)} of {self.run.budget}")
        if tool.approval:
            used = {other.key for other in self.run.effects if other.ask == effect.ask}
            given = [what for what in self.run.granted if isinstance(what, tuple) and what[:2] == ("call", effect.ask)]
            if len(used) > len(given):
                self.broken("I11", f"{len(used)} effects rest on {len(given)} approvals")
        waiting = self.run.waits_for_planned(branch)
        first = next((place for place in branch.planned if place in waiting), None)
        place = (effect.ask, effect.n)
        if place in branch.planned and first is not None and branch.planned.index(first) < branch.planned.index(place):
            self.broken("order", f"{place} is performed before {first}")

    def sends(self, effect: Effect) -> None:
        """Something is about to reach the world."""
        branch = self.run.tree[effect.branch]
        if branch.held:
            self.broken("I3", f"{branch.name} is held and sends {effect.ask}")
        if effect.key in self.ended and effect.ask.kind != IDEMPOTENT:
            self.broken("key", f"{effect.key} has ended and is sent again")
        if TOOLS[effect.ask.tool].resource:
            self._near(branch, effect)

    def _near(self, branch: Branch, effect: Effect) -> None:
        for other in self.run.effects:
            same = other.ask.tool == effect.ask.tool and other.ask.name == effect.ask.name
            beside = same and other.ask != effect.ask and other.key not in branch.keys
            agreed = ("near", branch.name, effect.ask, effect.n) in self.run.granted
            if beside and not agreed and other.order < effect.order and self.run.world.there(other.sent_key):
                self.broken("near", f"{effect.ask} is sent beside the stranded {other.ask}")

    def ends(self, effect: Effect) -> None:
        """An outcome was written, or an undo was sealed."""
        self.ended.add(effect.key)

    def adopts(self, branch: Branch, effect: Effect) -> None:
        if effect.undone or effect.undo_open:
            self.broken("I2", f"{branch.name} adopts {effect.ask}, which was taken back")

    def answers(self, branch: Branch, turn: int, effect: Effect | None) -> None:
        """The program's call number `turn` was answered."""
        if effect is None:
            return
        if effect.undone:
            self.broken("I2", f"{branch.name} is answered by {effect.ask}, which was taken back")
        for other, key in branch.backing.items():
            if key == effect.key and other != turn:
                self.broken("I9", f"{effect.key} answers two calls of {branch.name}")
        branch.backing[turn] = effect.key

    def undoes(self, effect: Effect, why: str) -> None:
        """The intent of an undo was written."""
        for branch in self.run.tree.open():
            if effect.key in branch.keys:
                self.broken("I2", f"{effect.ask} is taken back, which {branch.name} holds")
        if why != "claimed":
            if self.low is not None and effect.order > self.low:
                self.broken("I6", f"{effect.order} is undone after {self.low}")
            self.low = effect.order
            if why == "eager":
                self.swept.add((effect.ask, effect.n))

    def tree_moved(self) -> None:
        self.low = None

    def promotes(self, branch: Branch, winners: list[str]) -> None:
        if winners:
            self.broken("I8", f"{branch.name} is promoted after {winners}")
        if any(self.run.world.etags[name] != etag for name, etag in branch.reads.items()):
            self.broken("I12", f"{branch.name} is promoted on a read that has moved")

    # --- at the end ---

    def at_the_end(self) -> None:
        self._nothing_was_changed()
        self._at_most_as_asked()
        if self.run.closed is None:
            self.broken("end", "the run does not come to its end")
        else:
            self._closed(self.run.tree[self.run.closed])

    def _nothing_was_changed(self) -> None:
        for branch in self.run.tree:
            if branch.own != self.shadow.get(branch.name, []):
                self.broken("I4", f"{branch.name} was changed")

    def _at_most_as_asked(self) -> None:
        most: Counter[Ask] = Counter()
        for branch in self.run.tree:
            effects = {
                what.key: what.ask
                for what in branch.places.values()
                if isinstance(what, Effect) and what.outcome != "not"
            }
            most |= Counter(effects.values())
        made = Counter(deed.ask for deed in self.run.world.deeds if deed.ask.kind == IRREVERSIBLE)
        for ask, times in made.items():
            if times > most[ask]:
                self.broken("I1", f"{ask} happened {times} times and was asked for {most[ask]} times")

    def _closed(self, line: Branch) -> None:
        held = {effect.sent_key for effect in line.effects if effect.outcome == "happened" and not effect.undone}
        listed = {effect.sent_key for effect in self.run.residue}
        counted = Counter(deed.key for deed in self.run.world.living())
        for key, times in counted.items():
            if times > 1 or key not in held | listed:
                self.broken("I10", f"{key} is in the world {times} times, and nobody answers for it")
        for what in line.places.values():
            if isinstance(what, Effect) and what.outcome == "happened" and not self.run.world.there(what.sent_key):
                self.broken("I2", f"the line rests on {what.ask}, which is not in the world")
            if isinstance(what, Effect) and (what.ask, what.n) in self.swept and what.key[2]:
                self.broken("lazy", f"{what.ask} was undone and done again")
