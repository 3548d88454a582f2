"""`holdfast policy replay`: what a policy would have said to the calls of a run's log, beside what was said then.

Rules
1. Nothing is written, and nothing is called: the log is read, and its calls are judged at the times that it tells.
2. A call is told once: by what was sent, or asked about, or refused last. What takes an effect back is not judged.
3. What the log does not keep (the arguments of what a rule refused, or what was pruned) cannot be judged, and is told.
"""

from __future__ import annotations

import asyncio
import json as json_
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from holdfast.cli.options import JsonOption, LineArgument, StoreOption, branch_of, existing
from holdfast.cli.policy_test import Told, loaded, told
from holdfast.cli.terminal import hint, json_text, out, styled, table
from holdfast.cli.tree import agent_of, line_of
from holdfast.cli.view import Looked, further, look_from, reader_of
from holdfast.core.canonical import JSON
from holdfast.core.contract import Level
from holdfast.core.effect import Kind, Payload
from holdfast.core.entry import Entry
from holdfast.core.policy import Facts
from holdfast.core.record import Decision, Hold, Intent, Record, Refusal, Seal
from holdfast.errors import Corrupt, Unknown
from holdfast.gateway.line import read_payload
from holdfast.store.reader import Reader

if TYPE_CHECKING:
    from holdfast.gateway.cedar import Cedar

UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has used up."""

    calls: int = 0
    money: int = 0
    blast: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of the log: where it stands, what was asked for, what was said to it, and what the run had used up
    before. `args` is None where the log does not keep them."""

    seq: int
    at_ms: int
    tool: str
    kind: Kind | None
    args: Payload | None
    then: Told
    blast: int | None = None
    capability: str = ""
    spent: Spent = field(default_factory=Spent)


@dataclass(frozen=True, slots=True)
class Row:
    """One call as JSON: what was said then and what this policy says now. `now` is null where it cannot be judged, and
    `reason` says why."""

    node: str
    tool: str
    kind: str | None
    then: str
    then_rule: str
    now: str | None
    level: str | None
    rule: str
    reason: str
    changed: bool


def verb(
    run: LineArgument,
    policy: Annotated[
        list[Path] | None,
        typer.Option("--policy", metavar="PATH", help="A policy, or a directory of them. [policies]"),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="LABEL", help="Judge as if the run had this mark.")
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Tell what a policy would have said to the calls of a run."""
    branch_of(run)
    url = existing(store)
    cedar = loaded(policy or [Path("policies")])
    rows = asyncio.run(_replay(url, run, cedar, frozenset(label or ())))
    if json:
        out(json_text(rows, indent=2))
        return
    _print(rows)


async def _replay(url: str, run: str, cedar: Cedar, labels: frozenset[str]) -> list[Row]:
    reader = reader_of(url)
    try:
        looked = await look_from(reader, await line_of(reader, run))
        taken = looked.take(await further(reader, looked))
        agent = await agent_of(reader, looked.branch)
        return [await _row(reader, looked, cedar, agent, labels, asked) for asked in calls_of(taken)]
    finally:
        await reader.close()


def calls_of(taken: list[tuple[Entry, Record]]) -> list[Asked]:
    """The calls of a log, in the order in which they were first asked for."""
    found: dict[tuple[str, int], Asked] = {}
    spent = Spent()
    for entry, record in taken:
        if isinstance(record, Decision):
            spent = replace(spent, money=spent.money + (record.cost or 0))
        if not isinstance(record, Intent | Seal | Hold | Refusal):
            continue
        asked = _asked(record, entry, spent)
        if asked is None:
            continue
        call = (record.identity, record.n)
        before = found.get(call)
        found[call] = asked if before is None else _later(before, asked)
        if isinstance(record, Intent | Seal):
            spent = replace(spent, calls=spent.calls + 1, blast=spent.blast + (asked.blast or 0))
    return list(found.values())


def _asked(record: Intent | Seal | Hold | Refusal, entry: Entry, spent: Spent) -> Asked | None:
    """The call that a record is about, and what was said to it, if a policy judges it."""
    known = (entry.seq, entry.at_ms, record.tool)
    match record:
        case Intent(undoes=None):
            then = Told("allowed", record.level, record.rule or "", "")
            return Asked(*known, record.kind, record.args, then, record.blast, record.capability or "", spent)
        case Seal(intent=None):
            then = Told("allowed", Level.NONE, "", "")
            return Asked(*known, Kind.READ, record.args, then, None, record.capability or "", spent)
        case Hold():
            return Asked(*known, record.kind, record.args, Told("held", record.level, "", record.why), spent=spent)
        case Refusal(hold=None):
            rule = record.reason.partition(": ")[0] if record.by == "policy" else record.by
            return Asked(*known, None, None, Told("denied", None, rule, record.reason), spent=spent)
        case _:
            return None


def _later(before: Asked, now: Asked) -> Asked:
    """A call of which the log tells more: what people agreed to was held first."""
    then = now.then
    if before.then.verdict == "held" and then.verdict == "allowed":
        then = replace(before.then, rule=then.rule)
    return replace(
        now, seq=before.seq, then=then, args=now.args or before.args, kind=now.kind or before.kind, spent=before.spent
    )


async def _row(reader: Reader, looked: Looked, cedar: Cedar, agent: str, labels: frozenset[str], asked: Asked) -> Row:
    node, kind = looked.node(asked.seq), None if asked.kind is None else asked.kind.value
    args, why = await _args(reader, asked)
    if args is None or asked.kind is None:
        return Row(node, asked.tool, kind, asked.then.short, asked.then.rule, None, None, "", why, changed=False)
    facts = Facts(
        agent=agent, run=looked.branch.partition("@")[0], capability=asked.capability,
        system=asked.tool.partition(".")[0], tool=asked.tool, kind=asked.kind, args=args, blast=asked.blast,
        labels=labels, now_ms=asked.at_ms,
        spent_calls=asked.spent.calls, spent_money=asked.spent.money, spent_blast=asked.spent.blast,
    )  # fmt: skip
    now = told(cedar.judge(facts))
    changed = (now.verdict, now.level) != (asked.then.verdict, asked.then.level)
    return Row(
        node, asked.tool, kind, asked.then.short, asked.then.rule, now.verdict, now.level, now.rule, now.reason,
        changed=changed,
    )  # fmt: skip


async def _args(reader: Reader, asked: Asked) -> tuple[dict[str, JSON] | None, str]:
    """The arguments of a call; or None, and why they are not known."""
    if asked.args is None:
        return None, "the log does not keep its arguments"
    try:
        value = cast(JSON, json_.loads(await read_payload(reader, asked.args)))
    except Unknown:
        return None, "its arguments were pruned"
    except (Corrupt, ValueError, RecursionError):
        return None, "its arguments are not what was written: run `holdfast verify`"
    return (value, "") if isinstance(value, dict) else (None, "its arguments have no names")


def _print(rows: list[Row]) -> None:
    told_rows = [
        [
            styled(row.node),
            styled(row.tool, most=40),
            styled(row.kind or UNKNOWN),
            styled(row.then),
            styled(_now(row), "yellow" if row.changed else ""),
        ]
        for row in rows
    ]
    table(["NODE", "TOOL", "KIND", "THEN", "NOW"], told_rows)
    changed = sum(row.changed for row in rows)
    out(f"{len(rows)} calls, {changed} would be judged otherwise")
    if any(row.now is None for row in rows):
        hint("what cannot be judged is told with its reason")


def _now(row: Row) -> str:
    if row.now is None:
        return f"{UNKNOWN} {row.reason}"
    said = Told(row.now, row.level, row.rule, "").short
    return f"{said} by {row.rule}{f': {row.reason}' if row.reason else ''}"
