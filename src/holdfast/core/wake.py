"""What a run waits for while nobody advances it, and what lets it go on: a fold over its entries.

Rules
1. One wake-up too many costs a life of the run in which nothing is done; one too few costs the run. So in doubt it can
   go on.
2. Time comes in. It is compared with the times of the run's last life only, by whichever clock those were written, so
   that a clock that is set back or forward loses no wake-up.
3. Who held the claim last, and whether that process lives, is not in the log: it comes in, too.
4. A death is held against a run only if nothing was done between its claim and the death.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from holdfast.core.entry import Entry
from holdfast.core.log import RETRY
from holdfast.core.record import (
    Approval,
    Attempt,
    Cancelled,
    Claim,
    Decision,
    Divergence,
    Draw,
    Finished,
    Forked,
    Hold,
    Intent,
    Record,
    Refusal,
    Seal,
    Settled,
    Signal,
    Sleep,
    Started,
)
from holdfast.core.slot import people_for

MOST_DEATHS = 5  # in a row, without anything done: then a run is left alone until a person resumes it
SIGNAL = "signal/"
"""What a sleep's name starts with when it stands for a wait for a signal; the signal's name follows."""
KIN = "kin/"
"""What a sleep's name starts with when it stands for a wait for another branch of the run; a place there follows."""


class Owner(Enum):
    """Who holds the claim of a run: nobody, a process that lives (or may live), or one that is known to be dead."""

    NOBODY = 0
    LIVING = 1
    DEAD = 2


@dataclass(frozen=True, slots=True)
class Over:
    """It has ended."""


@dataclass(frozen=True, slots=True)
class AtWork:
    """A process advances it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """It can go on now. `answered`: somebody has placed a word since its last life began. `deaths`: so many lives in a
    row, up to the last, died without having done anything."""

    why: str
    answered: bool = False
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Waits:
    """It goes on when somebody has placed a word in its log (a signal, an approval, a verdict), or at `until_ms` (wall
    clock), if there is such a moment."""

    until_ms: int | None


@dataclass(frozen=True, slots=True)
class Failed:
    """Its agent raised, at `at_ms`, for the `times`-th time in a row without having done anything new."""

    times: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """So many lives in a row died without having done anything: it is left alone until a person resumes it."""

    deaths: int


Outlook: TypeAlias = Over | AtWork | Ready | Waits | Failed | Quarantined


@dataclass(slots=True)
class Rest:
    """The entries of a branch, taken up in order, as far as they say how it goes on.

    `signal` is the name that the last life waited for, if it ended so. `diverged`: the last thing that it wrote was
    that the program takes another way. `kin_seq`: where it says that the last life waited for another branch (0: it did
    not). `steps` counts what was ever done.
    """

    agent: str = ""
    seq: int = 0
    steps: int = 0
    claim_seq: int = 0
    kin_seq: int = 0
    signal: str | None = None
    diverged: bool = False
    holds: dict[tuple[str, int], tuple[int, Hold]] = field(default_factory=dict[tuple[str, int], tuple[int, Hold]])
    _over: bool = False
    _failed_ms: int | None = None
    _failures: int = 0
    _deaths: int = 0
    _done: bool = True  # anything, since the newest claim
    _floor_ms: int = 0
    _words: set[int] = field(default_factory=set[int])  # placed since the newest claim, and not known to be taken up
    _agreed: dict[int, set[str]] = field(default_factory=dict[int, set[str]])  # who, to the hold at this place
    _open: dict[int, bool] = field(default_factory=dict[int, bool])  # intents; whether it was refused for now
    _undoing: set[int] = field(default_factory=set[int])
    _sleeps: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    _decided: set[tuple[str, str, int]] = field(default_factory=set[tuple[str, str, int]])

    def take(self, record: Record, entry: Entry) -> None:
        """Take up what comes next."""
        self.seq = entry.seq
        if entry.epoch == 0:
            self._take_word(record, entry)
            return
        if isinstance(record, Claim):
            self._take_claim(record, entry)
            return
        self._floor_ms = min(self._floor_ms, entry.at_ms)
        if self._take_work(record, entry):
            self._done, self.steps = True, self.steps + 1
        if not isinstance(record, Seal | Settled):
            self.diverged = isinstance(record, Divergence)

    def restored(self, checkpoint: Entry) -> None:
        """Begin behind a checkpoint: something was done, and nothing before it is waited for."""
        self.seq = self.claim_seq = checkpoint.seq
        self._floor_ms = checkpoint.at_ms

    def outlook(self, owner: Owner, now_ms: int) -> Outlook:
        """How the run goes on, with its claim in the hands of `owner`."""
        if self._over:
            return Over()
        if owner is Owner.LIVING:
            return AtWork()
        if owner is Owner.DEAD:
            deaths = 0 if self._done else self._deaths + 1
            if deaths >= MOST_DEATHS:
                return Quarantined(deaths)
            return Waits(None) if self.diverged else Ready("its process has died", deaths=deaths)
        if self._failed_ms is not None:
            return Failed(self._failures, self._failed_ms)
        if self._words:
            return Ready("it was answered", answered=True)
        if self.diverged:
            return Waits(None)
        return self._waits(now_ms)

    def wakes_ms(self, now_ms: int) -> int | None:
        """The moment at which it goes on by itself; it may have passed already."""
        return self._next_ms(self._sleeps.values(), now_ms)

    def _next_ms(self, moments: Iterable[int], now_ms: int) -> int | None:
        """The first of them that had not passed when the last life began: what had, that life has seen."""
        floor_ms = min(self._floor_ms, now_ms)
        return min((moment for moment in moments if moment > floor_ms), default=None)

    def _waits(self, now_ms: int) -> Outlook:
        expiries = (hold.expires_ms for _, hold in self.holds.values())
        until_ms = self._next_ms((*self._sleeps.values(), *expiries), now_ms)
        if until_ms is not None and until_ms <= now_ms:
            return Ready("it is time")
        if until_ms is not None or self.signal is not None or self.kin_seq or self.holds:
            return Waits(until_ms)
        if not all(self._open.values()):
            return Waits(None)
        return Ready("it was interrupted")

    # --- what is placed without a claim ---

    def _take_word(self, record: Record, entry: Entry) -> None:
        match record:
            case Approval():
                if not self._enough(record):
                    return  # another must agree, too: nothing can be done yet
            case Refusal(hold=int(seq)):
                self._answered(seq)
            case Settled(intent=seq):
                self._open.pop(seq, None)
            case Signal():
                pass
            case Cancelled():
                self._over = True
                return
            case Forked(branch=branch) if entry.branch.endswith(f"@{branch}"):
                self._begin(entry)
            case _:
                return
        self._words.add(entry.seq)

    def _enough(self, record: Approval) -> bool:
        """Take up that one more person agrees; whether that makes enough of them."""
        agreed = self._agreed.setdefault(record.hold, set())
        agreed.add(record.by)
        if any(seq == record.hold and len(agreed) < people_for(hold) for seq, hold in self.holds.values()):
            return False
        self._answered(record.hold)
        return True

    def _answered(self, seq: int) -> None:
        for place in [place for place, (hold_seq, _) in self.holds.items() if hold_seq == seq]:
            del self.holds[place]

    # --- what a life writes ---

    def _take_claim(self, record: Claim, entry: Entry) -> None:
        """A new life has begun: it has seen all that was placed before."""
        died = record.previous in ("dead", "unproven") and not self._done
        self._deaths = self._deaths + 1 if died else 0
        self._done, self.claim_seq = False, entry.seq
        self._begin(entry)

    def _begin(self, entry: Entry) -> None:
        """What a life before was ended by counts no more: another has begun, or a branch of its own."""
        self._floor_ms, self._failed_ms = entry.at_ms, None
        self._words.clear()
        self.signal, self.diverged, self.kin_seq = None, False, 0

    def _take_work(self, record: Record, entry: Entry) -> bool:
        """Take up what a life wrote; whether that was something done. What each life does anew is not."""
        match record:
            case Intent():
                return self._take_intent(record, entry)
            case Seal(intent=int(seq)) | Settled(intent=int(seq)):
                self._open.pop(seq, None)
                return seq not in self._undoing
            case Attempt(intent=seq):
                self._open[seq] = False
                return False
            case Hold():
                self.holds[record.identity, record.n] = (entry.seq, record)
            case Sleep():
                return self._take_sleep(record, entry)
            case Draw(name=name, value=value) if name.startswith(SIGNAL):
                self._words.discard(_number(value))
                self.signal = None
            case Decision(lane=lane, request=request, n=n):
                new = (lane, request, n) not in self._decided
                self._decided.add((lane, request, n))
                return new
            case Finished(error=error):
                self._over = error is None
                self._failures = 1 if self._done else self._failures + 1
                self._failed_ms = entry.at_ms
            case Started(agent=agent):
                self.agent = agent
                return False
            case Divergence():
                return False
            case _:
                pass
        return True

    def _take_intent(self, record: Intent, entry: Entry) -> bool:
        self.holds.pop((record.identity, record.n), None)
        self._open[entry.seq] = False
        if record.approval is not None:
            self._words.discard(record.approval)
        if record.undoes is not None:
            self._undoing.add(entry.seq)
        return record.undoes is None

    def _take_sleep(self, record: Sleep, entry: Entry) -> bool:
        if record.name.startswith(KIN):
            self.kin_seq = entry.seq
        if record.name.startswith(SIGNAL):
            self.signal = record.name.removeprefix(SIGNAL)
            return True
        if record.name.startswith(RETRY):
            seq = _number(record.name.removeprefix(RETRY))
            if seq in self._open:
                self._open[seq] = True
        new = (record.name, record.n) not in self._sleeps
        self._sleeps[record.name, record.n] = record.until_ms
        return new


def retry_ms(failed: Failed, now_ms: int) -> int:
    """When a run that failed is tried again by whoever was told to retry: after 10 s, then twice as long each time, and
    never after more than an hour."""
    return min(failed.at_ms, now_ms) + min(10_000 * 2 ** min(failed.times - 1, 20), 3_600_000)


def _number(text: str) -> int:
    """The seq that a text names; 0, which is no place, for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else 0
