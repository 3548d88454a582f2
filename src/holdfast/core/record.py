"""The closed set of records.

Rules
1. A record says what was intended or what came of it. Nothing is ever changed or removed; undo is a new record.
2. Every field has a type that `codec.py` has a writer and a reader for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from holdfast.core.effect import Kind, Outcome, Parcel, Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The run begins: `agent` is `module:name`, `input` what it was given."""

    agent: str
    input: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker took the right to advance the branch. `previous` says how the last owner is known to have ended:
    `none`, `released`, `dead` (proven) or `unproven`."""

    worker: str
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A model's answer to the `n`-th request of this digest (hex) in a lane. `capability`: by which right it was asked,
    `cost` what it cost (millionths of a US dollar), where a gateway knows."""

    lane: str
    name: str
    request: str
    n: int
    asked: Payload
    answer: Payload
    capability: str | None = None
    cost: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The `n`-th time, id or random number that the run was given; `value` as text."""

    name: str
    n: int
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An effect is about to be sent. `approval` and `undoes` are positions (seq) on the branch: the approval that
    allows it, the effect that it undoes. Behind a gateway `capability` is the right by which it is asked for, `rule`
    the name of the rule that allowed it, of the `policy` of this digest (hex)."""

    tool: str
    kind: Kind
    identity: str
    n: int
    args: Payload
    key: str
    contract: str
    level: str
    resource: str | None
    blast: int | None
    approval: int | None
    undoes: int | None
    capability: str | None = None
    policy: str | None = None
    rule: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An open intent is sent again. `why`: `doubt` (an earlier sending may have happened), `refused` (it was turned
    away for now) or `absent` (a probe proved that it did not happen)."""

    intent: int
    number: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What came of a call; final. A read has no intent row: its seal carries what it asked, and by which right."""

    intent: int | None
    tool: str
    identity: str
    n: int
    args: Payload | None
    outcome: Outcome
    capability: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A call waits for people until `expires_ms`. `call` is the digest (hex) of the exact call that they are asked
    about."""

    tool: str
    kind: Kind
    identity: str
    n: int
    args: Payload
    call: str
    contract: str
    level: str
    why: str
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """`by` agrees to the exact call of a hold, until `expires_ms`."""

    hold: int
    call: str
    by: str
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A call will not be carried out: a person (`hold` is a seq) or a rule (`hold` is null) said no."""

    hold: int | None
    tool: str
    identity: str
    n: int
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A doubt ended: by `probe`, `undo`, a person, or the process that had sent it and was overtaken (`by`)."""

    intent: int
    outcome: Outcome
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A closure: the agent's state with everything before this entry. `workspace`: the digest (hex) of the manifest of
    its files, if it has any. `services`: what has to be started again after a restore. `labels`: marks on the state.
    `capability`: the terms (canonical JSON) of the right that the agent had, never its handle. `parcels`: where its
    files are, if the store has them too."""

    state: Payload
    workspace: str | None
    services: tuple[str, ...]
    labels: tuple[str, ...]
    capability: str | None = None
    parcels: tuple[Parcel, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """`branch` begins at entry `at` of `parent`, whose digest (hex) is `digest`. `kind`: `recovery`, `what-if` or
    `speculative`; `group` names the alternatives of which one may be promoted. It stands first on the branch, and on
    main as the notice of the fork."""

    branch: str
    parent: str
    at: int
    digest: str
    kind: str
    group: str | None
    by: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """On this branch, `value` stands for what was recorded: the answer of the decision or read at `target`, or, where
    that is 0, the setting `name` (`input`, `code`, `prompt`, …)."""

    target: int
    name: str
    value: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A speculative branch asked for an effect: it is held until the branch is promoted."""

    tool: str
    kind: Kind
    identity: str
    n: int
    args: Payload
    blast: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A call is answered by the seal that another branch of the run holds for it, at `node` (`BRANCH:SEQ`). `undoes`:
    it is the undo, over there, of the effect at that place of this branch's history."""

    tool: str
    kind: Kind
    identity: str
    n: int
    args: Payload
    node: str
    undoes: int | None
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """`branch` takes the place of the branch it was forked from; the others of its `group` are abandoned."""

    branch: str
    group: str | None
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """`branch` is given up, with all that was forked from it: nothing new is begun there."""

    branch: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """The run was given a capability: `handle` is the digest (hex) of what its holder shows, `terms` what it allows
    (canonical JSON), `parent` the capability that it was narrowed from."""

    capability: str
    parent: str | None
    handle: str
    terms: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """A capability, and all that were narrowed from it, allow nothing any more."""

    capability: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """A resumed program asked for `asked`, which the log does not know, while the effects at `unclaimed` (seqs) were
    not asked for."""

    asked: str
    why: str
    unclaimed: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Somebody sent the run a value by name."""

    name: str
    value: Payload
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """The `n`-th sleep of this name ends at `until_ms`."""

    name: str
    n: int
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """Somebody ended the run; nothing new is started."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The agent returned (`answer`) or raised (`error`, its text)."""

    answer: Payload | None
    error: str | None


Record: TypeAlias = (
    Started
    | Claim
    | Decision
    | Draw
    | Intent
    | Attempt
    | Seal
    | Hold
    | Approval
    | Refusal
    | Settled
    | Checkpoint
    | Forked
    | Override
    | Planned
    | Adopted
    | Promoted
    | Abandoned
    | Issued
    | Revoked
    | Divergence
    | Signal
    | Sleep
    | Cancelled
    | Finished
)
RECORDS: tuple[type[Record], ...] = (
    Started, Claim, Decision, Draw, Intent, Attempt, Seal, Hold, Approval, Refusal, Settled, Checkpoint,
    Forked, Override, Planned, Adopted, Promoted, Abandoned, Issued, Revoked, Divergence, Signal, Sleep, Cancelled,
    Finished,
)  # fmt: skip
