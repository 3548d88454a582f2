"""Random schedules: crashes, pauses, forks, promotions and people, in an order that a seed draws.

Rules
1. The same seed and rules give the same schedule and the same end.
2. Every schedule is brought to its end: zombies wake or die, people answer, and the line is run until it is closed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from tests.model.life import live
from tests.model.rules import ALL, Rules
from tests.model.run import Run, Worker
from tests.model.tree import RECOVERY, SPECULATIVE, WHAT_IF, Branch, Decided
from tests.model.world import TOOLS, Ask

OPS = 60
NAMES = sorted(name for name, tool in TOOLS.items() if not tool.once)
MOST_STEPS = 4000


@dataclass(frozen=True, slots=True)
class Ending:
    """What a schedule came to."""

    found: list[tuple[str, str]]
    tally: Counter[str]
    run: Run


def explore(seed: int, rules: Rules = ALL) -> Ending:
    """One schedule."""
    schedule = Schedule(seed, rules)
    schedule.play()
    return Ending(schedule.run.checks.found, schedule.run.tally, schedule.run)


class Schedule:
    """One random schedule on one run."""

    def __init__(self, seed: int, rules: Rules) -> None:
        self.chance = random.Random(seed)
        tools = self.chance.sample(NAMES, 3) if self.chance.random() < 0.7 else ["look", "make", "pay"]
        asks = [Ask(tool, name, size) for tool in tools for name in "ab" for size in self.sizes(tool)]
        self.run = Run(seed, rules, self.chance.sample(asks, min(len(asks), self.chance.randint(2, 4))))
        self.groups = 0
        self.ops = (
            [self.step] * 20
            + [self.start] * 4
            + [self.recovery, self.what_if, self.what_if, self.group, self.kill]
            + [self.promote, self.promote, self.abandon, self.people, self.people, self.drift, self.drift]
        )

    def sizes(self, tool: str) -> tuple[int, ...]:
        return (1, 2) if TOOLS[tool].resource else (1,)

    def play(self) -> None:
        self.begin(self.run.tree.line)
        for _ in range(OPS):
            self.chance.choice(self.ops)()
            if self.run.checks.found:
                break
        self.bring_to_its_end()
        self.run.checks.at_the_end()

    # --- what may happen ---

    def alive(self) -> list[Worker]:
        return [worker for worker in self.run.workers if worker.alive]

    def begin(self, branch: Branch) -> Worker:
        worker = self.run.claim(branch)
        worker.steps = live(self.run, worker)
        return worker

    def advance(self, worker: Worker) -> None:
        worker.at = next(worker.steps, worker.at)

    def step(self) -> None:
        """Some worker goes on for some boundaries."""
        if workers := self.alive():
            worker = self.chance.choice(workers)
            for _ in range(self.chance.randint(1, 6)):
                if worker.alive:
                    self.advance(worker)

    def start(self) -> None:
        """A worker begins on a branch: it takes over from a dead one, or, if a claim has run out, from a paused one."""
        branch = self.chance.choice(self.run.tree.open() or [self.run.tree.line])
        holder = [worker for worker in self.alive() if worker.branch is branch and worker.epoch == branch.epoch]
        if not branch.finished and (not holder or self.chance.random() < 0.2):
            self.begin(branch)

    def kill(self) -> None:
        if workers := self.alive():
            self.chance.choice(workers).alive = False
            self.run.tally["crashes"] += 1

    def fork(self, kind: str, parent: Branch, at: int, group: int | None = None) -> None:
        override = self.chance.choice(self.run.pool) if self.chance.random() < 0.5 else None
        child = self.run.fork(parent, at, kind, group, override)
        if child is not None and self.chance.random() < 0.8:
            self.begin(child)

    def somewhere(self, branch: Branch) -> int:
        """A place on a lineage; often a decision."""
        lineage = branch.lineage
        decisions = [at for at, record in enumerate(lineage, 1) if isinstance(record, Decided)]
        if decisions and self.chance.random() < 0.6:
            return self.chance.choice(decisions)
        return self.chance.randint(0, len(lineage))

    def recovery(self) -> None:
        parent = self.run.tree.line if self.chance.random() < 0.7 else self.chance.choice([*self.run.tree])
        self.fork(RECOVERY, parent, self.somewhere(parent))

    def what_if(self) -> None:
        parent = self.chance.choice([*self.run.tree])
        self.fork(WHAT_IF, parent, self.somewhere(parent))

    def group(self) -> None:
        parent = self.run.tree.line
        at = len(parent.lineage) if self.chance.random() < 0.5 else self.somewhere(parent)
        self.groups += 1
        for _ in range(self.chance.randint(2, 3)):
            self.fork(SPECULATIVE, parent, at, self.groups)

    def promote(self) -> None:
        """One promotion, or two that race."""
        open_ones = [b for b in self.run.tree.open() if b.kind != RECOVERY and b.name != "main" and not b.promoted]
        if not open_ones:
            return
        first = self.chance.choice(open_ones)
        members = [b for b in open_ones if b.group is not None and b.group == first.group]
        racers = [first, *([self.chance.choice(members)] if members and self.chance.random() < 0.5 else [])]
        seen = self.run.version
        for branch in racers:
            if self.run.promote(branch, seen) and self.chance.random() < 0.8:
                self.begin(branch)

    def abandon(self) -> None:
        self.run.abandon(self.chance.choice([*self.run.tree]))

    def people(self) -> None:
        self.run.grant()
        if self.chance.random() < 0.5:
            self.run.verdicts()

    def drift(self) -> None:
        self.run.world.drift(self.chance.choice("ab"))

    # --- the end ---

    def bring_to_its_end(self) -> None:
        """Zombies wake or die; then the line is run until it is closed."""
        run = self.run
        for worker in self.alive():
            if self.chance.random() < 0.5:
                worker.alive = False
        for _ in range(MOST_STEPS):
            if run.checks.found or (run.closed and not self.alive()):
                return
            line = run.tree.line
            run.grant()
            run.verdicts()
            if not line.finished and not any(w.branch is line and w.epoch == line.epoch for w in self.alive()):
                self.begin(line)
            for worker in self.alive():
                self.advance(worker)


def tally(seeds: range, rules: Rules) -> tuple[Counter[str], int, Counter[str]]:
    """How many schedules broke each invariant first, how many broke any, and what happened in all of them."""
    first: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    for seed in seeds:
        ending = explore(seed, rules)
        happened += ending.tally
        if ending.found:
            first[ending.found[0][0]] += 1
    return first, first.total(), happened
