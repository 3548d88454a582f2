"""How the tests of the core write the log of a branch: records with what is beside the point filled in."""

from __future__ import annotations

from holdfast.core.codec import encode
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened, Outcome, Payload
from holdfast.core.entry import Entry, chain, origin
from holdfast.core.log import Log
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

BRANCH = "r@main"
IDENTITY = bytes(32)
ARGS = Payload("a1" * 32, Encoding.JSON, 2)
ANSWER = Payload("b2" * 32, Encoding.JSON, 7)
HAPPENED: Outcome = Happened(ANSWER)
DID_NOT: Outcome = NotHappened("declined")

CLAIM = Claim(worker="w", previous="none")
DECISION = Decision(lane="main", name="f", request="c3" * 32, n=0, asked=ARGS, answer=ANSWER)
DRAW = Draw(name="now", n=0, value="1")
OTHERS: tuple[Record, ...] = (
    Started(agent="m:f", input=ARGS),
    DECISION,
    DRAW,
    Checkpoint(state=ANSWER, workspace=None, services=(), labels=()),
    Divergence(asked="t", why="new", unclaimed=(1,)),
    Signal(name="s", value=ANSWER, by="ann"),
    Sleep(name="sleep", n=0, until_ms=5),
    Forked(branch="b2", parent="main", at=1, digest="e5" * 32, kind="what-if", group=None, by="ann", why="to see"),
    Override(target=0, name="prompt", value=ANSWER),
    Promoted(branch="b2", group=None, by="ann"),
    Abandoned(branch="b2", by="ann", reason="no"),
    Issued(capability="c1", parent=None, handle="f6" * 32, terms="{}", by="ann"),
    Revoked(capability="c1", by="ann", reason="no"),
    Cancelled(by="ann", reason="no"),
    Finished(answer=None, error="ValueError"),
)
"""One of each record that belongs to no call, but the claim."""


def intent(
    identity: bytes = IDENTITY,
    n: int = 0,
    *,
    kind: Kind = Kind.IRREVERSIBLE,
    args: Payload = ARGS,
    approval: int | None = None,
    undoes: int | None = None,
    resource: str | None = None,
) -> Intent:
    return Intent(
        tool="t", kind=kind, identity=identity.hex(), n=n, args=args, key="k", contract="c", level="none",
        resource=resource, blast=None, approval=approval, undoes=undoes,
    )  # fmt: skip


def planned(identity: bytes = IDENTITY, n: int = 0, *, kind: Kind = Kind.IRREVERSIBLE) -> Planned:
    return Planned(tool="t", kind=kind, identity=identity.hex(), n=n, args=ARGS, blast=None)


def adopted(
    identity: bytes = IDENTITY, n: int = 0, *, kind: Kind = Kind.IRREVERSIBLE, undoes: int | None = None
) -> Adopted:
    return Adopted(
        tool="t", kind=kind, identity=identity.hex(), n=n, args=ARGS, node="b2:9", undoes=undoes, outcome=HAPPENED
    )


def hold(
    identity: bytes = IDENTITY,
    n: int = 0,
    *,
    call: str = "d4" * 32,
    contract: str = "c",
    expires_ms: int = 1_000,
    kind: Kind = Kind.IRREVERSIBLE,
    level: str = "one",
) -> Hold:
    return Hold(
        tool="t", kind=kind, identity=identity.hex(), n=n, args=ARGS, call=call, contract=contract, level=level,
        why="asked", expires_ms=expires_ms,
    )  # fmt: skip


def approval(at: int, *, call: str = "d4" * 32, expires_ms: int = 1_000, by: str = "ann") -> Approval:
    return Approval(hold=at, call=call, by=by, expires_ms=expires_ms)


def refusal(at: int | None, identity: bytes = IDENTITY, n: int = 0) -> Refusal:
    return Refusal(hold=at, tool="t", identity=identity.hex(), n=n, by="ann", reason="no")


def attempt(at: int, number: int = 2, why: str = "doubt") -> Attempt:
    return Attempt(intent=at, number=number, why=why)


def seal(at: int, outcome: Outcome = HAPPENED, identity: bytes = IDENTITY, n: int = 0) -> Seal:
    return Seal(intent=at, tool="t", identity=identity.hex(), n=n, args=None, outcome=outcome)


def read(identity: bytes = IDENTITY, n: int = 0, outcome: Outcome = HAPPENED) -> Seal:
    """The seal of a read, which names no intent."""
    return Seal(intent=None, tool="t", identity=identity.hex(), n=n, args=ARGS, outcome=outcome)


def settled(at: int, outcome: Outcome = HAPPENED) -> Settled:
    return Settled(intent=at, outcome=outcome, by="ann")


def written(*placed: Record | tuple[Record, int], at_ms: int = 5) -> list[Entry]:
    """Entries of these records, one after another; (record, epoch) where the epoch is not 1."""
    entries: list[Entry] = []
    digest = origin(BRANCH)
    for seq, each in enumerate(placed, 1):
        record, epoch = each if isinstance(each, tuple) else (each, 1)
        body = encode(record)
        digest = chain(digest, seq, epoch, at_ms, b"", body)
        entries.append(Entry(BRANCH, seq, epoch, at_ms, b"", body, digest))
    return entries


def folded(*placed: Record | tuple[Record, int]) -> Log:
    """The log of these records. The first stands at 1."""
    log = Log(BRANCH)
    for entry in written(*placed):
        log.fold(entry)
    return log
