"""Take-over, simulated: workers that are paused, cut off, told to stop and killed at any step, on one seeded clock.

The rules of a worker are written out here once more, in a few lines, around the product's own recovery table; so that
hundreds of thousands of fates can be tried, and so that a rule can be left out to see what breaks.

Rules
1. Whoever holds the newest epoch writes; anybody else is fenced. A claim lasts while its holder shows signs of life.
2. Who was silent for too long is overtaken, and said to be `unproven`; who was seen to die, is `dead`.
3. A request that is on its way when its sender dies arrives within `WIRE_MS`; nobody sees a death sooner.
4. A person who settles a doubt first makes sure that its sender has stopped, and then looks into the world.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.contract import Contract
from holdfast.core.effect import Kind
from holdfast.core.recovery import AskPerson, Attempts, Probe, remedy

TTL_MS, BEAT_MS, WIRE_MS, PAUSE_MS = 15_000, 1_000, 50, 1_000
EFFECTS, WORKERS, LONGEST_MS = 6, 3, 3_600_000
CONTRACT = {
    True: Contract(name="wire", kind=Kind.IRREVERSIBLE, probe=True),
    False: Contract(name="mail", kind=Kind.IRREVERSIBLE),
}
Process = Generator[tuple[str, Any], Any, None]


class Fenced(Exception):
    """Somebody else has the claim."""


@dataclass(frozen=True)
class Bugs:
    """Rules that are left out: whoever writes must hold the claim; whoever sends must, too, and who takes over must
    have proof that the other has stopped; who gives a claim back must have nothing under way."""

    no_fence: bool = False
    log_only_fence: bool = False
    no_drain: bool = False


@dataclass
class Slot:
    """An effect, as the log has it: by which epoch, and when, it was sent first and last; whether it is sealed."""

    epoch: int
    first_ms: float
    last_ms: float
    sent: int = 1
    sealed: bool = False


@dataclass
class Database:
    """One branch: its claim, and what its log says."""

    epoch: int = 0
    holder: int | None = None
    previous: dict[int, str] = field(default_factory=dict[int, str])
    slots: dict[int, Slot] = field(default_factory=dict[int, Slot])
    waits: bool = False
    finished: bool = False


@dataclass
class Worker:
    """A process. `frozen_ms`: it does nothing before then; `cut_ms`: nothing of it reaches the database before then."""

    host: int
    process: Process | None = None
    epoch: int = 0
    seen_ms: float = 0
    frozen_ms: float = 0
    cut_ms: float = 0
    dead_ms: float | None = None
    stopping: bool = False
    in_flight: bool = False


class Simulation:
    """One fate of one run."""

    def __init__(self, seed: int, bugs: Bugs) -> None:
        self.drawn = random.Random(seed)
        self.bugs = bugs
        self.now_ms = 0.0
        self.database = Database()
        self.world: Counter[int] = Counter()
        self.workers: list[Worker] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._kinds = [self.drawn.random() < 0.7 for _ in range(EFFECTS)]  # whether it can be asked about

    def run(self) -> None:
        """To the end of the run, or of patience."""
        for _ in range(WORKERS):
            self._bear()
        self._at(self._delay(), self._fate)
        while self._heap and not self.database.finished and self.now_ms < LONGEST_MS:
            self.now_ms, _, what = heapq.heappop(self._heap)
            what()
        until_ms = self.now_ms + 10 * TTL_MS  # whatever is still under way anywhere
        while self._heap and self._heap[0][0] < until_ms:
            self.now_ms, _, what = heapq.heappop(self._heap)
            what()

    # --- what befalls workers ---

    def _at(self, after_ms: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now_ms + after_ms, self._number, what))

    def _delay(self) -> float:
        return self.drawn.expovariate(1 / 20)

    def _bear(self) -> None:
        worker = Worker(host=self.drawn.randrange(2), seen_ms=self.now_ms)
        self.workers.append(worker)
        worker.process = self._life(worker)
        self._at(self._delay(), lambda: self._step(worker, None))
        self._at(BEAT_MS, lambda: self._beat(worker))

    def _beat(self, worker: Worker) -> None:
        if worker.dead_ms is None:
            if self.now_ms >= max(worker.frozen_ms, worker.cut_ms):
                worker.seen_ms = self.now_ms
            self._at(BEAT_MS, lambda: self._beat(worker))

    def _kill(self, worker: Worker) -> None:
        if worker.dead_ms is None:
            worker.dead_ms, worker.process = self.now_ms, None
            self._at(self._delay(), self._bear)  # somebody starts another

    def _fate(self) -> None:
        living = [worker for worker in self.workers if worker.dead_ms is None]
        worker = self.drawn.choice(living) if living else None
        if worker is not None and not self.database.finished:
            match self.drawn.randrange(5):
                case 0:
                    self._kill(worker)
                case 1 | 2:
                    worker.frozen_ms = self.now_ms + self.drawn.uniform(0, 3 * TTL_MS)
                case 3:
                    worker.cut_ms = self.now_ms + self.drawn.uniform(0, 2 * TTL_MS)
                case _:
                    self._stop(worker)
        if not self.database.finished:
            self._at(self.drawn.expovariate(1 / 3000), self._fate)

    def _stop(self, worker: Worker) -> None:
        worker.stopping = True
        if self.bugs.no_drain and self.database.holder == id(worker):
            self.database.holder = None  # while something of it is under way

    def _person(self) -> None:
        """Makes sure that whoever may still send has stopped; then looks."""
        if not self.database.waits:
            return
        for worker in self.workers:
            if worker.epoch < self.database.epoch:
                self._kill(worker)
        self._at(2 * WIRE_MS, self._verdict)

    def _verdict(self) -> None:
        for place, slot in list(self.database.slots.items()):
            if not slot.sealed and self.database.holder is None:
                if self.world[place]:
                    slot.sealed = True
                else:
                    del self.database.slots[place]
        self.database.waits = False

    # --- processes: each step of one takes a moment, and may never be followed by the next ---

    def _step(self, worker: Worker, answer: Any) -> None:
        if worker.process is None:
            return
        if self.now_ms < worker.frozen_ms:
            self._at(worker.frozen_ms - self.now_ms, lambda: self._step(worker, answer))
            return
        try:
            asked = worker.process.throw(answer) if isinstance(answer, Exception) else worker.process.send(answer)
        except StopIteration:
            self._kill(worker)
            return
        what, value = asked
        if what == "sleep":
            self._at(value, lambda: self._step(worker, None))
        elif what == "database":
            wait_ms = max(0.0, worker.cut_ms - self.now_ms) + self._delay()
            self._at(wait_ms, lambda: self._answer(worker, value))
        else:
            self._at(min(self._delay(), WIRE_MS), lambda: self._answer(worker, value))

    def _answer(self, worker: Worker, value: Callable[[], Any]) -> None:
        try:
            answer = value()
        except Fenced as error:
            answer = error
        self._at(self._delay(), lambda: self._step(worker, answer))

    def _life(self, worker: Worker) -> Process:
        while not worker.stopping:
            claimed = yield "database", lambda: self._claim(worker)
            if not claimed:
                yield "sleep", BEAT_MS
                continue
            worker.epoch = claimed
            try:
                yield from self._advance(worker)
            except Fenced:
                continue

    def _advance(self, worker: Worker) -> Process:
        for place in range(EFFECTS):
            slot = self.database.slots.get(place)
            while slot is None or not slot.sealed:
                if worker.stopping and not worker.in_flight:
                    yield "database", lambda: self._release(worker)
                    return
                if slot is not None:
                    way = remedy(
                        CONTRACT[self._kinds[place]], Attempts(slot.sent, int(slot.first_ms), int(slot.last_ms)),
                        int(self.now_ms), owner_stopped=self._stopped(slot),
                    )  # fmt: skip
                    if isinstance(way, AskPerson):
                        yield "database", lambda: self._release(worker, waits=True)
                        return
                    assert isinstance(way, Probe)
                    if (yield "world", lambda place=place: self.world[place]):
                        yield "database", lambda place=place: self._seal(worker, place)
                        slot = self.database.slots.get(place)
                        continue
                before_ms = self.now_ms
                yield "database", lambda place=place: self._intend(worker, place)
                if self.now_ms - before_ms > PAUSE_MS and not self.bugs.log_only_fence:
                    yield "database", lambda: self._check(worker)
                worker.in_flight = True
                yield "sleep", self._delay()  # where a pause is noticed by nobody
                yield "world", lambda place=place: self._happen(place)
                yield "database", lambda place=place: self._seal(worker, place)
                worker.in_flight = False
                slot = self.database.slots.get(place)
        yield "database", lambda: self._finish(worker)

    # --- what the database does, each at one moment ---

    def _claim(self, worker: Worker) -> int:
        base = self.database
        if base.waits or base.finished:
            return 0
        previous = "released"
        if base.holder is not None:
            owner = next(each for each in self.workers if id(each) == base.holder)
            gone = owner.dead_ms is not None and self.now_ms > owner.dead_ms + 2 * WIRE_MS and owner.host == worker.host
            if owner is worker or (not gone and self.now_ms - owner.seen_ms <= TTL_MS):
                return 0
            previous = "dead" if gone else "unproven"
        base.epoch, base.holder = base.epoch + 1, id(worker)
        base.previous[base.epoch] = previous
        return base.epoch

    def _stopped(self, slot: Slot) -> bool:
        later = [epoch for epoch in self.database.previous if epoch > slot.epoch]
        return self.bugs.log_only_fence or not later or self.database.previous[min(later)] != "unproven"

    def _check(self, worker: Worker) -> None:
        lost = worker.epoch != self.database.epoch or self.database.holder != id(worker)
        if lost and not self.bugs.no_fence and not (self.bugs.no_drain and worker.stopping):
            raise Fenced

    def _intend(self, worker: Worker, place: int) -> None:
        self._check(worker)
        known = self.database.slots.get(place)
        if known is None:
            self.database.slots[place] = Slot(worker.epoch, self.now_ms, self.now_ms)
        elif not known.sealed:
            known.epoch, known.last_ms, known.sent = worker.epoch, self.now_ms, known.sent + 1

    def _happen(self, place: int) -> None:
        self.world[place] += 1

    def _seal(self, worker: Worker, place: int) -> None:
        self._check(worker)
        if place in self.database.slots:
            self.database.slots[place].sealed = True

    def _release(self, worker: Worker, *, waits: bool = False) -> None:
        self._check(worker)
        self.database.holder, self.database.waits = None, waits
        if waits:
            self._at(self.drawn.uniform(0, 2 * TTL_MS), self._person)

    def _finish(self, worker: Worker) -> None:
        self._check(worker)
        self.database.finished, self.database.holder = True, None
