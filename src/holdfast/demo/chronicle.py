"""What the log says about the run: one line for each step, and which process did what.

Rules
1. Everything here is read from the entries: the kind from the intent, the process from the claim (each process that
   advances a run has an epoch of its own), the settling from its record. Nothing is known in advance.
2. A step is a decision or a call, in the order in which the agent first asked for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from holdfast.core.codec import decode
from holdfast.core.effect import Happened, Outcome
from holdfast.core.entry import Entry
from holdfast.core.log import RETRY
from holdfast.core.record import Attempt, Claim, Decision, Finished, Intent, Record, Seal, Settled, Sleep

RECALLED = "answered from the log"


@dataclass(slots=True, kw_only=True)
class Step:
    """One step: the epochs that sent and sealed it, who settled it, how often it was told to come back."""

    number: int
    name: str
    kind: str
    sent: list[int]
    sealed: int | None = None
    happened: bool = False
    settled_by: str = ""
    came_back: int = 0


@dataclass(slots=True)
class Chronicle:
    """The steps of a run, the epochs of the processes that advanced it, and the epoch that finished it, if one did."""

    steps: list[Step] = field(default_factory=list[Step])
    epochs: list[int] = field(default_factory=list[int])
    finished: int | None = None
    _by_seq: dict[int, Step] = field(default_factory=dict[int, Step])

    def fold(self, entries: Iterable[Entry]) -> None:
        """Take up entries of the run, in order."""
        for entry in entries:
            self._take(decode(entry.body), entry)

    def doing(self, step: Step, epoch: int) -> tuple[str, str]:
        """What the process of `epoch` did about a step, and the colour to say it in."""
        if step.sealed == epoch and step.settled_by:
            return f"settled by {step.settled_by}", "bold yellow"
        if step.sealed == epoch:
            return _done(step), "green"
        if epoch in step.sent:
            return "sent; no seal", "bold red"
        if step.sealed is not None and step.sealed < epoch and self.finished is not None and self.finished >= epoch:
            return RECALLED, "cyan"
        return "", ""

    def _take(self, record: Record, entry: Entry) -> None:
        match record:
            case Claim():
                self.epochs.append(entry.epoch)
            case Finished():
                self.finished = entry.epoch
            case Decision(name=name):
                self._seal(self._step(name.rpartition(".")[2], "decision", entry), entry, happened=True)
            case Intent(tool=tool, kind=kind):
                self._step(tool, kind.value, entry)
            case Attempt(intent=seq):
                self._by_seq[seq].sent.append(entry.epoch)
            case Sleep(name=name) if name.startswith(RETRY):
                self._by_seq[int(name.removeprefix(RETRY))].came_back += 1
            case Seal() | Settled():
                self._take_outcome(record, entry)
            case _:
                pass

    def _take_outcome(self, record: Seal | Settled, entry: Entry) -> None:
        outcome: Outcome = record.outcome
        seq = record.intent
        if isinstance(record, Seal) and seq is None:
            step = self._step(record.tool, "read", entry)
        else:
            assert seq is not None, "only a read's seal has no intent"
            step = self._by_seq[seq]
        self._seal(step, entry, happened=isinstance(outcome, Happened))
        if isinstance(record, Settled):
            step.settled_by = record.by

    def _step(self, name: str, kind: str, entry: Entry) -> Step:
        step = Step(number=len(self.steps) + 1, name=name, kind=kind, sent=[entry.epoch])
        self.steps.append(step)
        self._by_seq[entry.seq] = step
        return step

    def _seal(self, step: Step, entry: Entry, *, happened: bool) -> None:
        step.sealed, step.happened = entry.epoch, happened


def _done(step: Step) -> str:
    if not step.happened:
        return "refused"
    verb = {"decision": "asked the model", "read": "read"}.get(step.kind, "performed")
    return f"{verb} (429)" if step.came_back else verb
