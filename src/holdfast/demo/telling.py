"""What the log says about a run with many branches: a line for each thing that happened, and what each branch did.

Rules
1. Everything here is read from the entries, in the order in which they were placed.
2. An effect is told when its outcome is known; a taking back is told as such, on the branch that it clears up.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from holdfast.core.codec import decode
from holdfast.core.effect import Happened, Kind, Payload
from holdfast.core.entry import Entry
from holdfast.core.record import (
    Abandoned,
    Adopted,
    Claim,
    Decision,
    Finished,
    Forked,
    Intent,
    Override,
    Planned,
    Promoted,
    Record,
    Seal,
    Settled,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Something that happened at `seq` of a branch. `what`: the tool, or the kind of record; `words` in a `colour`."""

    branch: str
    seq: int
    what: str
    kind: str
    words: str
    colour: str


@dataclass(slots=True)
class Deeds:
    """What a branch did: the tools of its effects, of those taken back, planned, adopted; the answers that were
    replaced on it, by place or by the name of a setting; the decisions it took, by name. `claims`: how often a process
    took it up."""

    forked: Forked | None = None
    did: list[str] = field(default_factory=list[str])
    undone: list[str] = field(default_factory=list[str])
    planned: list[str] = field(default_factory=list[str])
    adopted: list[str] = field(default_factory=list[str])
    settled: list[str] = field(default_factory=list[str])
    replaced: dict[int | str, Payload] = field(default_factory=dict[int | str, Payload])
    decisions: list[tuple[str, Payload]] = field(default_factory=list[tuple[str, Payload]])
    claims: int = 0
    finished: bool = False


@dataclass(slots=True)
class Telling:
    """A fold over the entries of all branches of one run."""

    branches: dict[str, Deeds] = field(default_factory=dict[str, Deeds])
    winners: list[str] = field(default_factory=list[str])
    losers: list[str] = field(default_factory=list[str])
    _intents: dict[tuple[str, int], Intent] = field(default_factory=dict[tuple[str, int], Intent])

    def fold(self, entries: Iterable[Entry]) -> list[Line]:
        """Take up entries, in the order of their times; what there is to tell about them."""
        lines: list[Line] = []
        for entry in entries:
            branch = entry.branch.partition("@")[2]
            told = self._take(decode(entry.body), branch, entry.seq, self.branches.setdefault(branch, Deeds()))
            if told is not None:
                what, kind, words, colour = told
                lines.append(Line(branch=branch, seq=entry.seq, what=what, kind=kind, words=words, colour=colour))
        return lines

    def _take(self, record: Record, branch: str, seq: int, deeds: Deeds) -> tuple[str, str, str, str] | None:
        match record:
            case Claim():
                deeds.claims += 1
            case Forked():
                return self._fork(record, branch, deeds)
            case Override(target=target, name=name, value=value):
                deeds.replaced[target or name] = value
            case Promoted(branch=winner, by=by):
                self.winners.append(winner)
                return "promoted", "", f"{winner} ({by})", "bold green"
            case Abandoned(branch=loser, reason=reason):
                self.losers.append(loser)
                return "abandoned", "", f"{loser}: {reason}", "dim"
            case Intent():
                self._intents[branch, seq] = record
            case Decision(name=name, answer=answer):
                deeds.decisions.append((name.rpartition(".")[2], answer))
                return name.rpartition(".")[2], "decision", "decided", "green"
            case Planned(tool=tool, kind=kind):
                deeds.planned.append(tool)
                return tool, kind.value, "held until this branch is promoted", "magenta"
            case Adopted(tool=tool, kind=kind, node=node):
                deeds.adopted.append(tool)
                return tool, kind.value, f"answered by the seal at {node}: not done again", "cyan"
            case Seal() | Settled():
                return self._outcome(record, branch, deeds)
            case Finished(error=error):
                deeds.finished = error is None
                return (
                    "finished" if error is None else "failed",
                    "",
                    error or "",
                    "bold" if error is None else "bold red",
                )
            case _:
                pass
        return None

    def _fork(self, record: Forked, branch: str, deeds: Deeds) -> tuple[str, str, str, str] | None:
        if record.branch != branch:  # the notice of it, on main
            return None
        deeds.forked = record
        return "forked", record.kind, f"from {record.parent}:{record.at}, by {record.by}: {record.why}", "yellow"

    def _outcome(self, record: Seal | Settled, branch: str, deeds: Deeds) -> tuple[str, str, str, str] | None:
        if isinstance(record, Seal) and record.intent is None:
            return record.tool, Kind.READ.value, "read", "dim"
        intent = self._intents.get((branch, record.intent or 0))
        if intent is None:
            return None  # of an effect of the branch before
        if not isinstance(record.outcome, Happened):
            return intent.tool, intent.kind.value, "did not happen", "yellow"
        if intent.undoes is not None:
            undone = intent.tool.removesuffix(".undo")
            deeds.undone.append(undone)
            return undone, "undo", f"what was done at {intent.undoes} is taken back", "bold yellow"
        deeds.did.append(intent.tool)
        if isinstance(record, Settled):
            deeds.settled.append(intent.tool)
            return intent.tool, intent.kind.value, f"settled by {record.by}", "bold yellow"
        return intent.tool, intent.kind.value, "performed", "green"
