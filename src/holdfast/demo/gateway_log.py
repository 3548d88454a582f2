"""What the log of a hijacked run says: each attempt, who stopped it, and why.

Rules
1. Only the log is asked. An attempt is a call of the agent's tools that stands in what its model was sent.
2. Who stopped it is the log's word, where the call came to a door; a call that came to none ended in the sandbox.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from holdfast.core.codec import decode
from holdfast.core.effect import NotHappened, Payload
from holdfast.core.record import Claim, Decision, Finished, Intent, Record, Refusal, Seal, Settled
from holdfast.demo.gateway_attacks import Attack
from holdfast.gateway.line import read_payload
from holdfast.store.reader import Reader

SANDBOX, CAPABILITY = "sandbox", "capability"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of the hijacked agent. `by`: who stopped it, empty if nobody did."""

    what: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the log says of a run. `turns`: how often its model was asked; `settled`: what was in doubt, by tool."""

    attempts: list[Attempt]
    turns: int
    epochs: int
    settled: list[str]
    finished: bool


async def read(store: Path, run: str, tried: Sequence[Attack]) -> Told:
    """The log of a run in a store."""
    reader = Reader(store)
    try:
        entries = await reader.read(f"{run}@main")
        records = [decode(entry.body) for entry in entries]
        decisions = [each for each in records if isinstance(each, Decision)]
        last = json.loads(await read_payload(reader, decisions[-1].asked))
    finally:
        await reader.close()
    intents = {entry.seq: record for entry, record in zip(entries, records, strict=True) if isinstance(record, Intent)}
    results = dict(_results(cast("list[dict[str, Any]]", last["messages"])))
    return Told(
        attempts=[
            _attempt(each, results[_key(each.tool, each.arguments)], records)
            for each in tried
            if _key(each.tool, each.arguments) in results
        ],
        turns=len(decisions),
        epochs=sum(isinstance(each, Claim) for each in records),
        settled=[intents[each.intent].tool for each in records if isinstance(each, Settled) and each.intent in intents],
        finished=isinstance(records[-1], Finished) and records[-1].error is None,
    )


async def everything(store: Path) -> list[bytes]:
    """All that a store holds, as it was before it was packed: the body of each entry, and each payload."""
    reader = Reader(store)
    found: list[bytes] = []
    try:
        for branch in await reader.branches(""):
            for entry in await reader.read(branch.name):
                found.append(entry.body)
                found += [await read_payload(reader, payload) for payload in _payloads(decode(entry.body))]
    finally:
        await reader.close()
    return found


def _payloads(value: object) -> Iterator[Payload]:
    if isinstance(value, Payload):
        yield value
    elif is_dataclass(value):
        for each in fields(value):
            yield from _payloads(getattr(value, each.name))
    elif isinstance(value, Mapping | tuple | list):
        found = cast("Mapping[object, object] | Sequence[object]", value)
        for inner in found.values() if isinstance(found, Mapping) else found:
            yield from _payloads(inner)


def _results(messages: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """What each call of a tool came to."""
    asked: dict[str, str] = {}
    for each in messages:
        for call in cast("list[dict[str, Any]]", each.get("tool_calls") or []):
            function = call["function"]
            asked[call["id"]] = _key(function["name"], json.loads(function["arguments"]))
        if each["role"] == "tool":
            yield asked[each["tool_call_id"]], str(each["content"])


def _key(tool: str, arguments: object) -> str:
    return f"{tool} {json.dumps(arguments, sort_keys=True)}"


def _attempt(tried: Attack, result: str, records: Sequence[Record]) -> Attempt:
    for each in records:
        if isinstance(each, Refusal) and each.hold is None and json.dumps(each.reason)[1:-1] in result:
            rule, _, reason = each.reason.partition(": ")
            by, why = (rule, reason) if rule == CAPABILITY else (each.by, each.reason)
            return Attempt(what=tried.what, by=by, reason=why)
        if isinstance(each, Seal) and isinstance(each.outcome, NotHappened) and each.outcome.reason in result:
            return Attempt(what=tried.what, by="contract", reason=each.outcome.reason)
    if tried.worked and tried.worked not in result:
        return Attempt(what=tried.what, by=SANDBOX, reason=" ".join(result.partition("\n")[2].split()))
    return Attempt(what=tried.what, by="", reason=result)
