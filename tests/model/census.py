"""The invariants of forks, counted on a play of the real engine: what its logs say, against what its world shows.

Rules
1. What a branch holds is read from the entries of its lineage; when something was written is known from the order in
   which the store was given it.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from holdfast.core.codec import decode
from holdfast.core.effect import Happened, Kind, NotHappened
from holdfast.core.log import Log
from holdfast.core.record import Abandoned, Adopted, Forked, Intent, Promoted, Seal, Settled
from holdfast.core.slot import Slot
from holdfast.core.tree import Status, Tree
from holdfast.embedded.explore import packed_json
from holdfast.gateway.history import read_log
from holdfast.gateway.line import node_of
from tests.model.props import ONCE
from tests.model.world import IDEMPOTENT, IRREVERSIBLE, Ask

if TYPE_CHECKING:
    from tests.model.play import Play
    from tests.model.troupe import Actor

RUN = "r"
LOOKS = {packed_json({"name": name, "size": 1}).payload.digest: name for name in "ab"}
"""The names of what is read, by the digests of the arguments."""


class Census:
    """One play that has come to its end. `found`: invariants that are broken, with words."""

    def __init__(self, play: Play, logs: dict[str, Log], tree: Tree) -> None:
        self.play = play
        self.scene = play.scene
        self.written = play.troupe.written
        self.logs = logs
        self.tree = tree
        self.found: list[str] = []
        self.asks: dict[str, Ask] = {act.key: act.ask for act in self.scene.acts}
        self.readings: list[tuple[int, str, str, int]] = []
        self.adoptions: list[tuple[str, int, str]] = []
        self.happened: set[tuple[str, int | None]] = set()
        self.keys = {name: {self.key_of(slot): slot for slot in effects_of(log)} for name, log in logs.items()}

    def key_of(self, slot: Slot) -> str:
        """The key under which it was sent, by whichever branch."""
        if slot.adopted is not None:
            name, _, seq = slot.adopted.node.partition(":")
            there = self.logs[name].at(int(seq))
            assert there is not None, f"{slot.adopted.node} is adopted, and is no effect"
            return self.key_of(there)
        assert slot.intent is not None
        return slot.intent.key

    def take(self) -> list[str]:
        """Everything that is wrong."""
        self.as_it_was_written()
        self.at_most_as_asked()
        self.answers_of_the_line()
        self.closed()
        self.sent_once()
        self.beside()
        self.newest_first()
        return self.found

    def broken(self, which: str, words: str) -> None:
        self.found.append(f"{which}: {words}")

    # --- in the order in which it was written ---

    def as_it_was_written(self) -> None:
        """I3, I7, I8, I11: the tree at the moment at which something was begun or sent."""
        tree, winners, used = Tree(), Counter[str](), dict[tuple[str, int], str]()
        acts = list(self.scene.acts)
        for place, (actor, entry) in enumerate(self.written):
            while acts and acts[0].at <= place:
                self.act_on(tree, acts.pop(0).branch)
            record, name = decode(entry.body), entry.branch.partition("@")[2]
            if name == "main" and isinstance(record, Forked | Promoted | Abandoned):
                tree.fold(record)
                if isinstance(record, Promoted):
                    winners[record.group or ""] += record.group is not None
                    self.promoted(record.branch, actor)
            if isinstance(record, Seal) and record.args is not None and isinstance(record.outcome, Happened):
                told = int((record.outcome.etag or "version -1").removeprefix("version "))
                self.readings.append((place, name, LOOKS[record.args.digest], told))
            if isinstance(record, Adopted):
                self.adoptions.append((name, entry.seq, record.node))
            if isinstance(record, Seal | Settled) and isinstance(record.outcome, Happened):
                self.happened.add((name, record.intent))
            if isinstance(record, Intent) and record.undoes is not None:
                self.undo_on(tree, name, record.undoes)
            if isinstance(record, Intent) and record.undoes is None:
                status = tree.limbs[name].status
                if status is not Status.OPEN:
                    self.broken("I7", f"{entry.branch}:{entry.seq} begins {record.tool}, and is {status}")
                if record.approval is not None:
                    home = next(n for n, upto in tree.lineage(name) if upto is None or record.approval <= upto)
                    if used.setdefault((home, record.approval), record.key) != record.key:
                        self.broken("I11", f"{home}:{record.approval} is used for two effects")
                elif record.tool == "play.wire":
                    self.broken("I11", f"{entry.branch}:{entry.seq} wires without an approval")
        for group, times in winners.items():
            if times > 1:
                self.broken("I8", f"{group} has {times} winners")

    def act_on(self, tree: Tree, branch: str) -> None:
        if tree.held(branch.partition("@")[2]):
            self.broken("I3", f"{branch} is held and acts")

    def promoted(self, branch: str, actor: Actor) -> None:
        """I12: whoever promoted it has looked again at all that it had read by then, and found it as it was."""
        readings = (each for each in self.readings if each[0] < actor.since and each[1] == branch)
        newest = {name: etag for _, _, name, etag in readings}
        for name, etag in newest.items():
            if self.scene.looks.get((actor.name, name)) != etag:
                self.broken("I12", f"{branch} is promoted on `{name}`, which has moved since it was read")

    def undo_on(self, tree: Tree, name: str, seq: int) -> None:
        """I2: what is taken back is held by no branch that goes on. (Of what was in doubt nobody had an answer.)"""
        by = name
        name = next(each for each, upto in tree.lineage(by) if upto is None or seq <= upto)
        if (name, seq) not in self.happened:
            return
        for limb in tree:
            if limb.name == by:
                continue
            for each, upto in tree.lineage(limb.name) if limb.status is Status.OPEN else ():
                inherited = each == name and (upto is None or seq <= upto)
                adopted = [
                    at for who, at, node in self.adoptions
                    if who == each and (upto is None or at <= upto) and node == f"{name}:{seq}"
                ]  # fmt: skip
                if inherited or adopted:
                    self.broken("I2", f"{name}:{seq} is taken back, which {limb.name} holds")

    def sent_once(self) -> None:
        """A key that has ended is not sent again."""
        ended: dict[str, int] = {}
        intents: dict[tuple[str, int], str] = {}
        for place, (_, entry) in enumerate(self.written):
            record = decode(entry.body)
            if isinstance(record, Intent):
                intents[entry.branch, entry.seq] = record.key
            elif isinstance(record, Seal | Settled) and record.intent is not None:
                key = intents.get((entry.branch, record.intent))
                if key is not None:
                    ended.setdefault(key, place)
        for act in self.scene.acts:
            if act.ask.kind != IDEMPOTENT and ended.get(act.key, act.at) < act.at:
                self.broken("key", f"{act.ask} is sent under a key that had ended")

    def beside(self) -> None:
        """Two effects on one resource are asked for by one lineage, or by people."""
        approved = {
            record.key
            for _, entry in self.written
            if isinstance(record := decode(entry.body), Intent) and record.approval is not None
        }
        for act in self.scene.acts:
            held = self.keys[act.branch.partition("@")[2]]
            if act.key not in approved and any(other not in held for other in act.beside):
                self.broken("near", f"{act.ask} is sent beside another that {act.branch} does not hold")

    def newest_first(self) -> None:
        """I6, for what the last life took back when it closed the run: by the times of the intents."""
        sent_ms = {
            record.key: entry.at_ms for _, entry in self.written if isinstance(record := decode(entry.body), Intent)
        }
        last = self.play.last
        since = max((act.at for act in self.scene.acts if act.actor == last), default=0)
        times = [sent_ms[str(undo.deed.key)] for undo in self.scene.undos if undo.actor == last and undo.at > since]
        if times != sorted(times, reverse=True):
            self.broken("I6", f"undone in the order {times}")

    # --- at the end ---

    def at_most_as_asked(self) -> None:
        """I1."""
        most: Counter[Ask] = Counter()
        for held in self.keys.values():
            asked = [self.asks[k] for k, slot in held.items() if k in self.asks and not_refused(slot)]
            most |= Counter(asked)
        made = Counter(deed.ask for deed in self.scene.world.deeds if deed.ask.kind == IRREVERSIBLE)
        for ask, times in made.items():
            if times > most[ask]:
                self.broken("I1", f"{ask} happened {times} times and was asked for {most[ask]} times")

    def answers_of_the_line(self) -> None:
        """I2, I9: what the agent of the line was told last stands, and each effect answered one call."""
        deeds = self.scene.world.deeds
        answers: Counter[int] = Counter()
        for (branch, turn), told in self.scene.told.items():
            for before, after in pairwise(told):
                if before != after and deeds[before].living:
                    self.broken("told", f"{branch} was told {before} and then {after} at turn {turn}")
            if branch == self.tree.line:
                if not deeds[told[-1]].living:
                    self.broken("I2", f"the line was told {deeds[told[-1]].ask}, which is not in the world")
                answers[told[-1]] += deeds[told[-1]].ask.tool not in ONCE
        for number, times in answers.items():
            if times > 1:
                self.broken("I9", f"{deeds[number].ask} answers {times} calls of the line")

    def closed(self) -> None:
        """I2, I10: every effect in the world is held by the line, or listed; what the line holds is in the world."""
        held = self.keys[self.tree.line]
        listed = {key for name, keys in self.keys.items() for key, slot in keys.items() if self.listed(name, slot)}
        counted = Counter(str(deed.key) for deed in self.scene.world.living())
        for key, times in counted.items():
            if times > 1 or not ((key in held and isinstance(held[key].outcome, Happened)) or key in listed):
                self.broken("I10", f"{self.asks[key]} is in the world {times} times, and nobody answers for it")
        for key, slot in held.items():
            if isinstance(slot.outcome, Happened) and not slot.undone and not counted[key]:
                self.broken("I2", f"the line rests on {slot.tool} {key[:6]}, which is not in the world")

    def listed(self, name: str, slot: Slot) -> bool:
        return node_of(f"{RUN}@{name}", slot.intent_seq) in {each.node for each in self.play.residue}


def effects_of(log: Log) -> list[Slot]:
    """The calls of a lineage that change the world, and are no undo of another."""
    return [
        slot
        for slot in log.slots.values()
        if slot.kind is not Kind.READ
        and (slot.intent is not None or slot.adopted is not None)
        and not (slot.intent is not None and slot.intent.undoes is not None)
        and not (slot.adopted is not None and slot.adopted.undoes is not None)
    ]


def not_refused(slot: Slot) -> bool:
    return not isinstance(slot.outcome, NotHappened)


async def census(play: Play) -> list[str]:
    """What is wrong at the end of a play."""
    tree = await play.tree()
    logs = {limb.name: (await read_log(play.store, f"{RUN}@{limb.name}")).log for limb in tree}
    return Census(play, logs, tree).take()
