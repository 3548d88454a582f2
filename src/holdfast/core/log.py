"""The log of one branch: what may follow what, and what it all amounts to.

Rules
1. Everything that decides whether a record may be written lives in this file.
2. This file knows nothing of tools, policies, stores or time. Entries come in, or an error goes out.
3. `Log` is a fold: the same entries give the same log, and nothing else is remembered.
"""

from __future__ import annotations

from dataclasses import replace

from holdfast.core.codec import decode
from holdfast.core.effect import Happened, Kind, NotHappened, Payload, redone_identity
from holdfast.core.entry import Entry
from holdfast.core.record import (
    Abandoned,
    Adopted,
    Approval,
    Attempt,
    Cancelled,
    Checkpoint,
    Claim,
    Decision,
    Divergence,
    Draw,
    Finished,
    Forked,
    Hold,
    Intent,
    Issued,
    Override,
    Planned,
    Promoted,
    Record,
    Refusal,
    Revoked,
    Seal,
    Settled,
    Signal,
    Sleep,
    Started,
)
from holdfast.core.slot import OVERRIDE, Decided, Slot, place_in
from holdfast.errors import Corrupt

CallRecord = Intent | Attempt | Seal | Hold | Approval | Refusal | Settled | Planned | Adopted

FOLLOWS: dict[type[Record] | None, frozenset[type[Record]]] = {
    None: frozenset({Hold, Intent, Refusal, Seal, Planned, Adopted}),  # a seal alone is a read
    Planned: frozenset({Hold, Intent, Refusal, Adopted}),
    Hold: frozenset({Approval, Refusal, Hold, Adopted}),  # an expired hold is asked again
    Approval: frozenset({Approval, Intent, Seal, Refusal, Hold, Adopted}),  # a seal: the approved call was a read
    Intent: frozenset({Attempt, Seal, Settled}),
    Attempt: frozenset({Attempt, Seal, Settled}),
    Seal: frozenset(),
    Settled: frozenset(),
    Refusal: frozenset(),
    Adopted: frozenset(),
}
"""What may follow what in the life of one call."""

UNCLAIMED = (Approval, Refusal, Settled, Signal, Cancelled, Issued, Revoked, Forked, Promoted, Abandoned)
AT_BIRTH = (Override, Adopted)
"""What may be placed by somebody who holds no claim; and besides, while nobody has claimed the branch yet."""

RETRY = "retry/"
"""What a sleep's name starts with when it stands for a refused sending; the intent's seq follows."""


class Log:
    """What the entries of a branch, from `base` on, amount to.

    `base` is 0 for the whole branch, or the seq of the checkpoint that the program was restored from: then what lies
    before it is not here, and `Line.recall` brings in single identities from the store.
    """

    def __init__(self, branch: str, base: int = 0) -> None:
        self.branch = branch
        self.base = base
        self.seq = base
        self.epoch = 0
        self.started: Started | None = None
        self.slots: dict[tuple[bytes, int], Slot] = {}
        self.counts: dict[bytes, int] = {}
        self.effects: list[Slot] = []
        self.touched_seq = 0
        self.lanes: dict[str, list[Decided]] = {}
        self.draws: dict[tuple[str, int], str] = {}
        self.sleeps: dict[tuple[str, int], int] = {}
        self.divergences: list[Divergence] = []
        self.diverged = False
        self.checkpoint: Checkpoint | None = None
        self.checkpoint_seq = 0
        self.claims: dict[int, str] = {}
        self.cancelled: Cancelled | None = None
        self.finished: Finished | None = None
        self.settings: dict[str, Payload] = {}
        self._decided: dict[tuple[str, str, int], Decided] = {}
        self._asked: dict[tuple[str, str], int] = {}
        self._by_seq: dict[int, Slot] = {}
        self._unasked: dict[int, Slot] = {}
        self.taken_back: dict[int, int] = {}  # of intents not known yet: the intent of their undo

    def fold(self, entry: Entry) -> Record:
        """Take up one entry. Raises Corrupt if its record may not stand there."""
        try:
            record = decode(entry.body)
            if entry.seq > self.base:  # what lies behind a checkpoint was written under claims that are not here
                self._check_owner(record, entry)
            self.take(record, entry)
        except Corrupt as error:
            if error.where:
                raise
            fix = error.fix or "run `holdfast verify`; restore a backup"
            raise Corrupt(error.what, where=f"{entry.branch}:{entry.seq}", fix=fix) from None
        return record

    def _check_owner(self, record: Record, entry: Entry) -> None:
        """Who may write what, under which claim, and until when."""
        if entry.epoch == 0:
            if not isinstance(record, UNCLAIMED if self.epoch else UNCLAIMED + AT_BIRTH):
                raise Corrupt("a record that needs a claim was placed without one")
            return
        if isinstance(record, Claim):
            if entry.epoch <= self.epoch:
                raise Corrupt("a claim does not raise the epoch")
        elif self.claims and entry.epoch != self.epoch:
            raise Corrupt("a record was placed under a claim that is not the branch's")
        elif self.finished is not None and self.finished.answer is not None and not self._takes_back(record):
            raise Corrupt("a record was placed after the run had ended")

    def _takes_back(self, record: Record) -> bool:
        """Whether a record may stand after the end of a run: an intent to undo, and what that leads to."""
        match record:
            case Intent():
                return record.undoes is not None
            case Attempt(intent=int(seq)) | Seal(intent=int(seq)) | Settled(intent=int(seq)):
                slot = self.at(seq)
            case Sleep(name=name) if name.startswith(RETRY):
                slot = self.at(place_in(name.removeprefix(RETRY)))
            case _:
                return False
        return slot is not None and slot.intent is not None and slot.intent.undoes is not None

    def take(self, record: Record, entry: Entry) -> None:
        """Take up one entry whose record is known."""
        self.seq = max(self.seq, entry.seq)
        match record:
            case Intent() | Attempt() | Seal() | Hold() | Approval() | Refusal() | Settled() | Planned() | Adopted():
                self._take_call(record, entry)
            case Decision():
                self._take_decision(record, entry)
            case Draw():
                self.draws[record.name, record.n] = record.value
            case Sleep():
                self.sleeps[record.name, record.n] = record.until_ms
                self._take_retry(record)
            case Checkpoint():
                self.checkpoint, self.checkpoint_seq = record, entry.seq
            case Divergence():
                if record.unclaimed:
                    self.divergences.append(record)
                    self.diverged = True
            case Claim():
                self.claims[entry.epoch] = record.previous
                self.epoch = max(self.epoch, entry.epoch)
            case Started():
                self.started = record
            case Cancelled():
                self.cancelled = record
            case Finished():
                self.finished = record
            case Forked() if entry.branch.endswith(f"@{record.branch}"):
                self._begin_branch()
            case Override():
                self._take_override(record)
            case Signal() | Issued() | Revoked() | Forked() | Promoted() | Abandoned():
                pass

    def _begin_branch(self) -> None:
        """What follows is another branch than what came before: another owner, and no end yet."""
        self.epoch = 0
        self.claims.clear()
        self.cancelled = self.finished = None
        self.diverged = False

    def _take_override(self, record: Override) -> None:
        """Another value stands for what was recorded. Raises Corrupt if it is of no decision and no read."""
        if record.target == 0:
            self.settings[record.name] = record.value
            return
        decided = next((each for each in self._decided.values() if record.target in each.places), None)
        slot = next((each for each in self.slots.values() if each.sealed_seq == record.target), None)
        if decided is not None:
            decided.decision, decided.replaced = replace(decided.decision, answer=record.value), True
        elif slot is not None and slot.kind is Kind.READ and slot.outcome is not None:
            slot.outcome, slot.settled_by = Happened(record.value), OVERRIDE
        elif record.target > self.base:
            raise Corrupt(f"an override speaks of entry {record.target}, which is no decision and no read")

    def _take_decision(self, record: Decision, entry: Entry) -> None:
        """A decision that was made anew stands in the place of the one before."""
        place = (record.lane, record.request, record.n)
        known = self._decided.get(place)
        if known is not None:
            known.seq, known.decision, known.places = entry.seq, record, (*known.places, entry.seq)
            return
        decided = self._decided[place] = Decided(entry.seq, record, (entry.seq,))
        self.lanes.setdefault(record.lane, []).append(decided)
        times = self._asked.get(place[:2], 0)
        self._asked[place[:2]] = max(times, record.n + 1)

    def next_decision(self, lane: str, request: str) -> int:
        """The number of a further decision of this request. It is given once."""
        n = self._asked.get((lane, request), 0)
        self._asked[lane, request] = n + 1
        return n

    def decided(self, record: Decision) -> Decided:
        """The decision as it stands in its lane."""
        return self._decided[record.lane, record.request, record.n]

    def begin_anew(self) -> None:
        """The program goes on from a checkpoint: what it was given before is behind it."""
        for behind in (self.lanes, self.draws, self.sleeps, self._decided, self._asked):
            behind.clear()

    def placed(self, record: Record, entry: Entry) -> None:
        """A seal that was taken up before it had a place has one now."""
        self.seq = max(self.seq, entry.seq)
        if isinstance(record, Seal) and record.intent is not None:
            self._by_seq[record.intent].sealed_seq = entry.seq

    def slot(self, identity: bytes, n: int) -> Slot | None:
        """The life of the `n`-th call of an identity, if the log knows it."""
        return self.slots.get((identity, n))

    def at(self, seq: int) -> Slot | None:
        """The life of the call whose hold or intent stands at `seq`."""
        return self._by_seq.get(seq)

    def happened(self, identity: bytes) -> Slot | None:
        """The newest call of this identity that is known to have happened."""
        for n in range(self.counts.get(identity, 0) - 1, -1, -1):
            slot = self.slots.get(self.newest_of(identity, n))
            if slot is not None and isinstance(slot.outcome, Happened):
                return slot
        return None

    def newest_of(self, identity: bytes, n: int) -> tuple[bytes, int]:
        """Under what the `n`-th call of an identity stands now: what was taken back is, when asked for again, an effect
        of its own."""
        slot = self.slots.get((identity, n))
        while slot is not None and slot.undone:
            identity, n = redone_identity(identity, n), 0
            slot = self.slots.get((identity, n))
        return identity, n

    def unclaimed(self) -> list[Slot]:
        """The effects that happened, or may have, and that the running program has not asked for: in order of
        intent."""
        return [
            slot
            for slot in self._unasked.values()
            if not (slot.undone or slot.first_seq <= self.base)
            and not (isinstance(slot.outcome, NotHappened) or (slot.intent and slot.intent.undoes))
        ]

    def claim(self, slot: Slot) -> None:
        """The running program has asked for this call."""
        slot.claimed = True
        self._unasked.pop(slot.intent_seq, None)

    def binding(self, decided: Decided) -> bool:
        """Whether a decision has touched the world (an effect follows it), or somebody has put it in its place."""
        return decided.replaced or self.touched_seq > decided.seq

    def doubts(self) -> list[Slot]:
        """Open intents, in order. They are doubts unless their owner lives."""
        return [slot for slot in self.effects if slot.open]

    def holds(self) -> list[Slot]:
        """Calls that wait for people, in order."""
        return sorted((slot for slot in self.slots.values() if slot.waits), key=lambda slot: slot.hold_seq)

    # --- the life of one call ---

    def _take_retry(self, record: Sleep) -> None:
        """The last sending of an open intent was refused for now: it is not in doubt, and is sent again later."""
        of = place_in(record.name.removeprefix(RETRY)) if record.name.startswith(RETRY) else 0
        if (slot := self._by_seq.get(of)) is not None and slot.open:
            slot.retry_ms = record.until_ms

    def _take_call(self, record: CallRecord, entry: Entry) -> None:
        if (slot := self._slot_of(record, entry)) is None:
            return
        before = None if slot.first_seq == entry.seq else slot.last
        unasked = isinstance(record, Seal) and record.intent is None and slot.intent is not None
        if unasked or type(record) not in FOLLOWS[before]:
            raise Corrupt(f"a `{type(record).__name__.lower()}` may not stand here: its call is already past that")
        slot.last = type(record)
        match record:
            case Intent():
                self._take_intent(slot, record, entry)
            case Attempt():
                slot.sent, slot.last_sent_ms = slot.sent + 1, entry.at_ms
                slot.sent_epoch = entry.epoch
                if record.why != "refused":
                    slot.doubtful = record.why == "doubt"
                slot.retry_ms = None
            case Seal() | Settled():
                slot.outcome, slot.sealed_seq = record.outcome, entry.seq
                if isinstance(record, Settled):
                    slot.settled_by = record.by
                elif record.args is not None:
                    slot.args = record.args.digest
                slot.undone = self.taken_back.get(slot.intent_seq, 0) > entry.seq
                self._take_undo(slot)
            case Hold():
                slot.hold, slot.hold_seq, slot.args = record, entry.seq, record.args.digest
                slot.approvals.clear()
                self._by_seq[entry.seq] = slot
            case Approval():
                slot.approvals[record.by], slot.approval_seq = record, entry.seq
            case Refusal():
                slot.refusal = record
            case Planned():
                slot.planned, slot.args = record, record.args.digest
            case Adopted():
                self._take_adopted(slot, record, entry)

    def _take_adopted(self, slot: Slot, record: Adopted, entry: Entry) -> None:
        slot.adopted, slot.kind, slot.args, slot.outcome = record, record.kind, record.args.digest, record.outcome
        slot.intent_seq = slot.sealed_seq = entry.seq
        slot.undone = self.taken_back.get(entry.seq, 0) > entry.seq
        if record.undoes is not None:
            self._mark_undone(record.undoes, entry.seq)
            return
        self._by_seq[entry.seq] = slot
        self.effects.append(slot)
        if not slot.claimed:
            self._unasked[entry.seq] = slot
        self.touched_seq = max(self.touched_seq, entry.seq)

    def _take_undo(self, slot: Slot) -> None:
        """An undo that happened takes back what had happened; an effect in doubt is undone to be sent again."""
        if slot.intent is not None and slot.intent.undoes is not None and isinstance(slot.outcome, Happened):
            self._mark_undone(slot.intent.undoes, slot.intent_seq)

    def _mark_undone(self, seq: int, by: int) -> None:
        undone = self._by_seq.get(seq)
        if undone is None:
            self.taken_back[seq] = by
        elif isinstance(undone.outcome, Happened) and undone.sealed_seq < by:
            undone.undone = True

    def _take_intent(self, slot: Slot, record: Intent, entry: Entry) -> None:
        slot.intent, slot.intent_seq, slot.args, slot.kind = record, entry.seq, record.args.digest, record.kind
        slot.sent, slot.first_sent_ms, slot.last_sent_ms = 1, entry.at_ms, entry.at_ms
        slot.sent_epoch = entry.epoch
        self._by_seq[entry.seq] = slot
        self.effects.append(slot)
        if not slot.claimed:
            self._unasked[entry.seq] = slot
        self.touched_seq = max(self.touched_seq, entry.seq)

    def _slot_of(self, record: CallRecord, entry: Entry) -> Slot | None:
        match record:
            case Attempt(intent=int(seq)) | Settled(intent=int(seq)) | Seal(intent=int(seq)):
                return self._known(seq, opened=True)
            case Approval(hold=int(seq)) | Refusal(hold=int(seq)):
                return self._known(seq, opened=False)
            case Intent() | Hold() | Planned() | Adopted():
                return self._ask(record.identity, record.n, record.tool, record.kind, entry)
            case Refusal():
                return self._ask(record.identity, record.n, record.tool, Kind.IRREVERSIBLE, entry)
            case Seal():
                return self._ask(record.identity, record.n, record.tool, Kind.READ, entry)

    def _known(self, seq: int, *, opened: bool) -> Slot | None:
        slot = self._by_seq.get(seq)
        if slot is None and 0 < seq <= self.base:
            return None  # of a call that the checkpoint has already left behind
        if slot is None or seq != (slot.intent_seq if opened else slot.hold_seq):
            raise Corrupt(f"a record speaks of entry {seq}, which is no {'open intent' if opened else 'open hold'}")
        return slot

    def _ask(self, identity_hex: str, n: int, tool: str, kind: Kind, entry: Entry) -> Slot:
        try:
            identity = bytes.fromhex(identity_hex)
        except ValueError:
            raise Corrupt("an identity is not hexadecimal") from None
        slot = self.slots.get((identity, n))
        if slot is None:
            slot = Slot(identity, n, tool, kind, entry.seq, Hold)
            self.slots[identity, n] = slot
            if n >= self.counts.get(identity, 0):
                self.counts[identity] = n + 1
        return slot
