"""Each record of a log in words, on one line.

Rules
1. Every record has its words: the match is closed.
2. The words are not yet safe for a terminal: whoever prints them makes them so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from holdfast.cli.view import Looked, excerpt, when
from holdfast.core.effect import Happened, NotHappened, Outcome, Payload
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
from holdfast.core.wake import KIN, SIGNAL
from holdfast.store.reader import Reader

SHORT = 80  # signs of a payload in one line
_WHY_AGAIN = {
    "doubt": "it may have happened; same key, same bytes",
    "refused": "it was refused for now",
    "absent": "it was proven that it did not happen",
}
_Call: TypeAlias = Intent | Attempt | Seal | Hold | Approval | Refusal | Settled | Planned | Adopted


@dataclass(frozen=True, slots=True)
class Words:
    """What a record is called, and what it says."""

    name: str
    text: str
    style: str = ""


class Teller:
    """Puts records into words. `most`: signs of each payload."""

    def __init__(self, reader: Reader, looked: Looked, most: int = SHORT) -> None:
        self._reader = reader
        self._looked = looked
        self._most = most

    async def tell(self, record: Record) -> Words:
        """The words of a record that `looked` has taken up."""
        match record:
            case Intent() | Attempt() | Seal() | Hold() | Approval() | Refusal() | Settled() | Planned() | Adopted():
                return await self._call(record)
            case Forked() | Override() | Promoted() | Abandoned():
                return await self._branching(record)
            case Started():
                return Words("started", f"{record.agent} {await self._payload(record.input)}", "bold")
            case Claim():
                before = {"none": "", "released": "", "dead": "; the owner before has died"}
                how = before.get(record.previous, "; the owner before may still live")
                return Words("claim", f"by {record.worker}{how}", "dim")
            case Decision():
                lane = "" if record.lane == "main" else f" in lane {record.lane}"
                return Words("decision", f"{record.name}{lane} → {await self._payload(record.answer)}", "cyan")
            case Draw():
                return Words("draw", f"{record.name} {record.value}", "dim")
            case Checkpoint():
                return Words("checkpoint", await self._payload(record.state) + _closed(record), "bold")
            case Divergence():
                lost = ", ".join(self._looked.node(seq) for seq in record.unclaimed)
                return Words(
                    "divergence", f"{record.asked}: {record.why}{f' (not asked for: {lost})' if lost else ''}", "yellow"
                )
            case Issued() | Revoked():
                return _right(record)
            case Signal():
                return Words("signal", f"{record.name} = {await self._payload(record.value)}, from {record.by}")
            case Sleep():
                if record.name.startswith(SIGNAL):
                    return Words("sleep", f"until the signal `{record.name.removeprefix(SIGNAL)}` comes", "dim")
                if record.name.startswith(KIN):
                    branch, _, seq = record.name.removeprefix(KIN).rpartition(":")
                    if seq.isdigit():
                        return Words("sleep", f"until it is known what came of {branch or 'main'}:{seq}", "dim")
                    return Words("sleep", f"until branch {seq} moves", "dim")
                return Words("sleep", f"{record.name} until {when(record.until_ms)}", "dim")
            case Cancelled():
                return Words("cancelled", f"by {record.by}: {record.reason}", "bold")
            case Finished():
                if record.error is not None or record.answer is None:
                    return Words("finished", f"with an error: {record.error}", "red")
                return Words("finished", f"→ {await self._payload(record.answer)}", "bold green")
            case _:
                assert_never(record)

    async def _branching(self, record: Forked | Override | Promoted | Abandoned) -> Words:
        match record:
            case Forked():
                why = f": {record.why}" if record.why else ""
                return Words(
                    "forked",
                    f"{record.branch} from {record.parent}:{record.at} ({record.kind}) by {record.by}{why}",
                    "bold",
                )
            case Override():
                what = f"the answer of {self._looked.node(record.target)}" if record.target else record.name
                return Words("override", f"{what} = {await self._payload(record.value)}", "bold yellow")
            case Promoted():
                return Words("promoted", f"{record.branch} by {record.by}", "bold green")
            case Abandoned():
                return Words("abandoned", f"{record.branch} by {record.by}: {record.reason}", "yellow")

    async def _call(self, record: _Call) -> Words:
        match record:
            case Intent():
                undo = f", takes back {self._looked.node(record.undoes)}" if record.undoes is not None else ""
                asked = f"{record.tool} {await self._payload(record.args)}"
                return Words("intent", f"{asked} ({record.kind}{undo}{_allowed(record)})")
            case Attempt():
                why = _WHY_AGAIN.get(record.why, record.why)
                return Words(
                    "attempt", f"{self._tool(record.intent)} is sent again, time {record.number}: {why}", "yellow"
                )
            case Seal(intent=None, args=args) if args is not None:
                asked = f"{record.tool} {await self._payload(args)}"
                return Words("read", f"{asked} {await self._outcome(record.outcome)}", "dim")
            case Seal():
                return Words("seal", f"{record.tool} {await self._outcome(record.outcome)}", "green")
            case Hold():
                return Words(
                    "hold",
                    f"{record.tool} {await self._payload(record.args)} waits for approval: {record.why}",
                    "bold yellow",
                )
            case Approval():
                return Words(
                    "approval", f"{self._tool(record.hold)} by {record.by}, until {when(record.expires_ms)}", "green"
                )
            case Planned():
                return Words("planned", f"{record.tool} {await self._payload(record.args)} ({record.kind})", "magenta")
            case Adopted():
                asked = f"{record.tool} {await self._payload(record.args)}"
                if record.undoes is not None:
                    back = self._looked.node(record.undoes)
                    return Words("adopted", f"{record.tool} at {record.node}: {back} was taken back there", "yellow")
                return Words("adopted", f"{asked} from {record.node} {await self._outcome(record.outcome)}", "green")
            case Refusal():
                return Words("refusal", f"{record.tool} by {record.by}: {record.reason}", "red")
            case Settled():
                outcome = await self._outcome(record.outcome)
                return Words("settled", f"{self._tool(record.intent)} by {record.by} {outcome}", "green")
            case _:
                assert_never(record)

    def _tool(self, seq: int) -> str:
        slot = self._looked.log.at(seq)
        return f"{slot.tool} ({self._looked.node(seq)})" if slot is not None else self._looked.node(seq)

    async def _payload(self, payload: Payload) -> str:
        return await excerpt(self._reader, payload, self._most)

    async def _outcome(self, outcome: Outcome) -> str:
        match outcome:
            case Happened(answer):
                lost = " (its answer could not be written down)" if answer.encoding.value == "lost" else ""
                return f"→ {await self._payload(answer)}{lost}"
            case NotHappened(reason):
                return f"did not happen: {reason}"
            case _:
                assert_never(outcome)


def _right(record: Issued | Revoked) -> Words:
    """What was given to the run, or taken from it."""
    if isinstance(record, Revoked):
        return Words("revoked", f"{record.capability} by {record.by}: {record.reason}", "yellow")
    narrowed = "" if record.parent is None else f", narrowed from {record.parent}"
    return Words("issued", f"{record.capability} by {record.by}{narrowed}: {record.terms}", "dim")


def _allowed(record: Intent) -> str:
    """By what right a call was made, where it came from another process: the capability, the rule and its policy."""
    rule = "" if record.rule is None else f", rule `{record.rule}` of policy {(record.policy or '?')[:12]}"
    return rule if record.capability is None else f"{rule}, by {record.capability}"


def _closed(record: Checkpoint) -> str:
    """What a checkpoint holds besides its state."""
    right = [] if record.capability is None else [f"capability {record.capability}"]
    files = [] if record.workspace is None else [f"files {record.workspace[:16]}"]
    services = [f"to start again: {', '.join(record.services)}"] if record.services else []
    return "".join(f"; {each}" for each in [*files, *services, *record.labels, *right])
