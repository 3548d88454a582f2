"""`holdfast diff`: two branches of a run, from the last entry that they share.

Rules
1. The same call on both sides stands in one line, whatever the branches did in between.
2. Of a request that is a list of messages, what is new since the decision before is shown.
"""

from __future__ import annotations

import asyncio
import difflib
import json as json_
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, TypeAlias, cast

import typer

from holdfast.cli.files import FileChange, compared
from holdfast.cli.options import JsonOption, StoreOption, branch_of, existing
from holdfast.cli.terminal import json_text, line, out, say, styled, table
from holdfast.cli.tree import line_of, short
from holdfast.cli.view import LOOKED_INTO, Looked, excerpt, further, look_from, reader_of, refresh
from holdfast.cli.words import SHORT
from holdfast.core.effect import Happened, Kind, NotHappened, Payload
from holdfast.core.record import Override, Seal
from holdfast.core.slot import Decided, Slot
from holdfast.errors import BadCall, Corrupt, Unknown
from holdfast.gateway.line import node_of, read_payload
from holdfast.store.reader import Reader

if TYPE_CHECKING:
    from rich.text import Text

Message: TypeAlias = dict[str, str]
SAME, CHANGED, LEFT, RIGHT = "same", "changed", "left", "right"
MARKS = {SAME: ("=", "dim"), CHANGED: ("~", "yellow"), LEFT: ("-", "red"), RIGHT: ("+", "green")}
MESSAGE = 400  # signs of one message


@dataclass(frozen=True, slots=True)
class Step:
    """Something on one branch. `what`: decision, read, effect or override; `content` and `answer` are the beginnings of
    their texts; `messages`: what is new in a decision's request; `adopted`: the place where another branch did it."""

    node: str
    what: str
    name: str
    content: str
    answer: str | None
    adopted: str | None
    messages: list[Message]


@dataclass(frozen=True, slots=True)
class Pair:
    """One line of the comparison: `same`, `changed` (the same call, another answer), or on one side only."""

    mark: str
    left: Step | None
    right: Step | None


@dataclass(frozen=True, slots=True)
class Side:
    """How a branch stands: its answer or error, if it has ended."""

    branch: str
    status: str
    entries: int
    answer: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Diff:
    """Two branches as JSON. `common`: the last entry of both; `files`: how those of the right one's newest checkpoint
    differ from those of the left one's."""

    run: str
    common: str
    left: Side
    right: Side
    steps: list[Pair]
    files: list[FileChange]


Keyed: TypeAlias = tuple[tuple[object, ...], tuple[object, ...], Step]
"""What is the same on both sides, what came of it (digests), and the step."""


def verb(
    left: Annotated[str, typer.Argument(metavar="RUN@BRANCH", help="One branch; RUN is the run's line.")],
    right: Annotated[str, typer.Argument(metavar="RUN@BRANCH", help="Another branch of the same run.")],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two branches of a run from their last common entry on: decisions, calls, effects, answers, files."""
    runs = {branch_of(each).partition("@")[0] for each in (left, right)}
    if len(runs) > 1:
        raise BadCall("these are different runs, and have nothing in common", fix="name two branches of one run")
    url = existing(store)
    diff = asyncio.run(_diff(url, left, right))
    diff = replace(diff, files=compared(url, f"{diff.run}@{diff.left.branch}", f"{diff.run}@{diff.right.branch}"))
    if json:
        out(json_text(diff, indent=2))
    else:
        _print(diff)


async def _diff(url: str, left: str, right: str) -> Diff:
    reader = reader_of(url)
    try:
        with reader.moment():
            names = [await line_of(reader, each) for each in (left, right)]
            if names[0] == names[1]:
                raise BadCall("this is one branch", where=names[0], fix="name another branch of the run")
            sides = [await _side(reader, name) for name in names]
            common = _common(sides[0].looked, sides[1].looked)
            steps = [await side.steps(common) for side in sides]
            return Diff(
                names[0].partition("@")[0], sides[0].looked.node(common),
                await sides[0].told(), await sides[1].told(), list(_pairs(*steps)), [],
            )  # fmt: skip
    finally:
        await reader.close()


def _common(left: Looked, right: Looked) -> int:
    """The seq of the last entry that two histories share."""
    common = 0
    for (mine, upto), (theirs, limit) in zip(left.lineage, right.lineage, strict=False):
        if mine != theirs:
            break
        common = min(left.log.seq if upto is None else upto, right.log.seq if limit is None else limit)
        if upto != limit:
            break
    return common


def _pairs(left: Sequence[Keyed], right: Sequence[Keyed]) -> Iterator[Pair]:
    matcher = difflib.SequenceMatcher(None, [each[0] for each in left], [each[0] for each in right], autojunk=False)
    for tag, start, end, begin, stop in matcher.get_opcodes():
        if tag == "equal":
            for mine, theirs in zip(left[start:end], right[begin:stop], strict=True):
                yield Pair(SAME if mine[1] == theirs[1] else CHANGED, mine[2], theirs[2])
            continue
        yield from (Pair(LEFT, each[2], None) for each in left[start:end])
        yield from (Pair(RIGHT, None, each[2]) for each in right[begin:stop])


# --- one side ---


async def _side(reader: Reader, branch: str) -> _Side:
    looked = await look_from(reader, branch)
    taken = looked.take(await further(reader, looked))
    await refresh(reader, looked)
    return _Side(reader, looked, [(entry.seq, record) for entry, record in taken if isinstance(record, Override)])


@dataclass(frozen=True, slots=True)
class _Side:
    reader: Reader
    looked: Looked
    overrides: list[tuple[int, Override]]

    async def told(self) -> Side:
        import time

        ended = self.looked.log.finished
        return Side(
            self.looked.branch.partition("@")[2],
            self.looked.status(time.time_ns() // 1_000_000).value,
            self.looked.log.seq,
            await excerpt(self.reader, ended.answer, SHORT * 4) if ended and ended.answer else None,
            ended.error if ended else None,
        )

    async def steps(self, common: int) -> list[Keyed]:
        """What this branch did after `common`, in order."""
        found: list[tuple[int, Keyed]] = []
        for seq, record in self.overrides:
            if seq > common:
                found.append((seq, await self._override(seq, record)))
        for lane in self.looked.log.lanes.values():
            before: Decided | None = None
            for decided in sorted(lane, key=lambda each: each.seq):
                if decided.seq > common:
                    found.append((decided.seq, await self._decision(decided, before)))
                before = decided
        for slot in self.looked.log.slots.values():
            place, record = slot.intent_seq or slot.first_seq, slot.intent or slot.adopted
            if place > common and (record is None or record.undoes is None):
                found.append((place, await self._call(slot, place)))
        return [keyed for _, keyed in sorted(found, key=lambda each: each[0])]

    async def _override(self, seq: int, record: Override) -> Keyed:
        name = record.name or f"the answer of {short(self.looked.node(record.target))}"
        step = Step(self._node(seq), "override", name, await self._text(record.value), None, None, [])
        return ("override", record.target, record.name), (record.value.digest,), step

    async def _decision(self, decided: Decided, before: Decided | None) -> Keyed:
        decision = decided.decision
        messages = await self._messages(decision.asked)
        known = await self._messages(before.decision.asked) if before is not None and messages else []
        fresh = messages[_shared(known, messages) :]
        answer = await self._text(decision.answer)
        content = "" if messages else await self._text(decision.asked)
        lane = "" if decision.lane == "main" else f" in lane {decision.lane}"
        step = Step(self._node(decided.seq), "decision", decision.name + lane, content, answer, None, fresh)
        return ("decision", decision.lane, decision.request, decision.n), (decision.answer.digest,), step

    async def _call(self, slot: Slot, place: int) -> Keyed:
        record = self.looked.records.get(place)
        asked = slot.asked or (record.args if isinstance(record, Seal) else slot.hold.args if slot.hold else None)
        asked = asked or (slot.planned.args if slot.planned else None)
        match slot.outcome:
            case Happened(payload):
                answer, came = await self._text(payload), ("happened", payload.digest)
            case NotHappened(reason):
                answer, came = f"did not happen: {reason}", ("not", reason)
            case None:
                state = (
                    "in doubt" if slot.open else "refused" if slot.refusal else "planned" if slot.planned else "held"
                )
                answer, came = state, (state, "")
        what = "read" if slot.kind is Kind.READ else "effect"
        step = Step(
            self._node(place), what, slot.tool, await self._text(asked) if asked else "",
            f"{answer}, taken back" if slot.undone else answer, slot.adopted.node if slot.adopted else None, [],
        )  # fmt: skip
        return ("call", slot.tool, slot.identity, slot.n), (*came, slot.undone), step

    def _node(self, seq: int) -> str:
        return node_of(self.looked.home(seq), seq)

    async def _text(self, payload: Payload) -> str:
        return await excerpt(self.reader, payload, SHORT)

    async def _messages(self, asked: Payload) -> list[Message]:
        """The messages of a request, if it is a list of them."""
        if asked.size_bytes > LOOKED_INTO:
            return []
        try:
            request: object = json_.loads(await read_payload(self.reader, asked))
        except (Unknown, Corrupt, ValueError, RecursionError):
            return []
        return next(_lists_of_messages(request), list[Message]())


def _lists_of_messages(request: object) -> Iterator[list[Message]]:
    if not isinstance(request, dict):
        return
    parts = cast("dict[str, object]", request)
    args, kwargs = parts.get("args"), parts.get("kwargs")
    given = [*cast("list[object]", args if isinstance(args, list) else []),
             *cast("dict[str, object]", kwargs if isinstance(kwargs, dict) else {}).values()]  # fmt: skip
    for each in given:
        found = cast("dict[str, object]", each).get("messages") if isinstance(each, dict) else each
        if isinstance(found, list) and found:
            items = cast("list[object]", found)
            if all(isinstance(item, dict) and "role" in item for item in items):
                yield [_message(cast("dict[str, object]", item)) for item in items]


def _message(item: dict[str, object]) -> Message:
    content = item.get("content")
    rest = {name: value for name, value in item.items() if name not in ("role", "content")}
    text = content if isinstance(content, str) else "" if content is None else json_.dumps(content, ensure_ascii=False)
    return {"role": str(item["role"]), "text": text + (json_.dumps(rest, ensure_ascii=False) if rest else "")}


def _shared(before: Sequence[Message], now: Sequence[Message]) -> int:
    """How many messages two lists begin with."""
    shared = 0
    while shared < min(len(before), len(now)) and before[shared] == now[shared]:
        shared += 1
    return shared


# --- on the screen ---


def _print(diff: Diff) -> None:
    names = (diff.left.branch, diff.right.branch)
    line(styled(f"{diff.run}@{names[0]}", "bold red") + styled("  and  ")
         + styled(f"{diff.run}@{names[1]}", "bold green") + styled(f"  part after {diff.common}"))  # fmt: skip
    out()
    rows: list[tuple[Text, ...]] = []
    for pair in diff.steps:
        rows += _rows(pair)
    if rows:
        table(("", "-" + names[0], "+" + names[1], "WHAT", "CONTENT"), rows)
    else:
        say("nothing was done on either of them")
    if diff.files:
        out()
        moves = [(each.change, each.path + (f" -> {each.to}" if each.to else "")) for each in diff.files]
        table(("FILES", f"of {names[1]}, from those of {names[0]}"), [
            (styled(change, "dim"), styled(path)) for change, path in moves
        ])  # fmt: skip
    out()
    for side, (mark, style) in ((diff.left, MARKS[LEFT]), (diff.right, MARKS[RIGHT])):
        came = f"→ {side.answer}" if side.answer is not None else side.error or ""
        line(styled(f"{mark} {side.branch}  ", style) + styled(side.status) + styled(f"  {came}" if came else ""))


def _rows(pair: Pair) -> Iterator[tuple[Text, ...]]:
    step = pair.right or pair.left
    assert step is not None, "a pair has a side"
    mark, style = MARKS[pair.mark]
    dim = "dim" if pair.mark == SAME else ""
    places = [styled(short(each.node).rpartition(":")[2] if each else "", dim) for each in (pair.left, pair.right)]
    yield (styled(mark, style), *places, styled(f"{step.what} {step.name}", dim), _content(pair, step, dim))
    for message in step.messages if pair.mark != SAME else ():
        yield (styled(mark, style), styled(""), styled(""), styled(f"  {message['role']}", "dim"),
               styled(message["text"], style, MESSAGE))  # fmt: skip


def _content(pair: Pair, step: Step, dim: str) -> Text:
    text = styled(step.content, "dim", SHORT)
    if pair.left is not None and pair.right is not None and pair.mark == CHANGED:
        text += styled(" → " if step.content else "")
        was = pair.left.answer if pair.left.answer is not None else pair.left.content
        now = pair.right.answer if pair.right.answer is not None else pair.right.content
        text += styled(was, "red", SHORT) + styled(" | ") + styled(now, "green", SHORT)
    elif step.answer is not None:
        text += styled(f"{' → ' if step.content else ''}{step.answer}", dim, SHORT)
    if step.adopted:
        text += styled(f"  adopted from {step.adopted}", "green")
    return text
