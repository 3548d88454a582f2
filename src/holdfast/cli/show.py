"""`holdfast show`: a run as it stands, or one entry of it whole.

Rules
1. What needs a person comes first, each with the exact command that ends it.
2. RUN is the run's line; RUN@BRANCH one branch, with what it stands on.
3. Payloads are cut to one line; one entry (`show NODE`) shows them whole, up to a bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from holdfast.cli.ahead import foresee_payloads
from holdfast.cli.entry import show_entry
from holdfast.cli.options import JsonOption, StoreOption, branch_of, existing, same_store
from holdfast.cli.remedies import Need, needs_of, resume
from holdfast.cli.terminal import hint, json_text, line, out, safe, styled, table
from holdfast.cli.tree import Bough, agent_of, boughs, line_of, print_tree, short
from holdfast.cli.view import NEW, Looked, Status, about_of, age, excerpt, look, many, reader_of, when
from holdfast.cli.words import SHORT
from holdfast.core.effect import Happened, NotHappened, Payload
from holdfast.core.record import Adopted, Intent, Planned, Seal
from holdfast.core.slot import Slot
from holdfast.gateway.history import begin_with
from holdfast.store.reader import Reader

if TYPE_CHECKING:
    from rich.text import Text

ANSWER = 2000  # signs of a run's answer
LOOKED_AT = 500  # entries at least, the newest, of a log that has a checkpoint before them
_Asking: TypeAlias = Intent | Seal | Adopted | Planned


@dataclass(frozen=True, slots=True)
class Effect:
    """One call as JSON. `outcome`: happened, not_happened, doubt, held, refused, open (its owner lives), retry or
    planned (held until a promotion). `args` and `answer` are the beginnings of their texts. `inherited`: it stands on
    another branch, which `node` names; `adopted`: the place at which another branch made it happen. Behind a gateway,
    of what was sent: the `capability` by which it was asked for, and the `rule` of the `policy` (digest, hex) that
    allowed it."""

    node: str
    tool: str
    kind: str
    args: str
    outcome: str
    answer: str | None
    at_ms: int
    sent: int
    settled_by: str | None
    undone: bool
    key: str | None
    inherited: bool
    adopted: str | None
    capability: str | None
    policy: str | None
    rule: str | None


@dataclass(frozen=True, slots=True)
class Shown:
    """One run as JSON. `needs` is what waits for people; `resume` the command that goes on with it; times are ms since
    1970 UTC. `line`: whether `branch` is the run's line; `held`: whether its effects wait
    for a promotion; `branches`: all of them, if there is more than one. `counted_after`: `counts` and `effects`
    are of the entries after this one (0: of all), the checkpoint from which a long log was looked at."""

    run: str
    branch: str
    status: str
    about: str
    agent: str | None
    input: str
    answer: str | None
    error: str | None
    entries: int
    epoch: int
    holder: str | None
    started_ms: int
    newest_ms: int
    wakes_ms: int | None
    counts: dict[str, int]
    resume: str
    needs: list[Need]
    effects: list[Effect]
    line: bool
    held: bool
    branches: list[Bough]
    counted_after: int


def verb(
    run: Annotated[
        str, typer.Argument(metavar="RUN|NODE", help="A run, one branch of it (RUN@BRANCH), or a place in its log.")
    ],
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="At most so many effects, the newest.")
    ] = 100,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show a run: what waits for people first, then its branches, and what it has done. Or show one entry, whole."""
    url = existing(store)
    if run.rpartition("@")[2].rpartition(":")[2].isdigit() and "@" in run:
        asyncio.run(show_entry(url, run, json=json))
        return
    branch_of(run)
    shown = asyncio.run(_shown(url, run, limit, same_store(store)))
    if json:
        out(json_text(shown, indent=2))
    else:
        _print(shown)
        _hint(shown, same_store(store))


async def _shown(url: str, run: str, limit: int, store: str) -> Shown:
    now_ms = time.time_ns() // 1_000_000
    reader = reader_of(url)
    try:
        branch = await line_of(reader, run)
        looked = await look(reader, branch, behind=max(LOOKED_AT, 5 * limit))
        if looked.log.base:
            looked.started_ms = await begin_with(reader, looked.log, looked.lineage)
        log = looked.log
        recorded = await agent_of(reader, branch) if log.started else ""
        slots = sorted((slot for slot in log.slots.values()), key=lambda slot: slot.first_seq)
        slots = [slot for slot in slots if slot.first_seq > log.base]
        slots = slots[max(0, len(slots) - limit) :]
        await foresee_payloads(reader, _payloads(looked, slots))
        ended = log.finished
        return Shown(
            run=branch.partition("@")[0],
            branch=branch.partition("@")[2],
            status=looked.status(now_ms).value,
            about=about_of(looked, now_ms),
            agent=recorded or None,
            input=await excerpt(reader, log.settings.get("input", log.started.input), SHORT) if log.started else "",
            answer=await excerpt(reader, ended.answer, ANSWER) if ended and ended.answer else None,
            error=ended.error if ended else None,
            entries=log.seq,
            epoch=log.epoch,
            holder=looked.holder or None,
            started_ms=looked.started_ms,
            newest_ms=looked.newest_ms,
            wakes_ms=looked.wakes_ms(now_ms),
            counts=dict(looked.counts),
            resume=resume(looked.name, recorded, store),
            needs=await needs_of(reader, looked, store),
            effects=[await _effect(reader, looked, slot) for slot in slots],
            line=looked.limb.name == looked.tree.line,
            held=looked.tree.held(looked.limb.name),
            branches=await boughs(reader, branch.partition("@")[0]),
            counted_after=log.base,
        )  # fmt: skip
    finally:
        await reader.close()


def _payloads(looked: Looked, slots: Iterable[Slot]) -> Iterator[Payload]:
    """What is shown of these calls."""
    for slot in slots:
        record = looked.records.get(slot.intent_seq or slot.first_seq)
        if isinstance(record, _Asking) and record.args is not None:
            yield record.args
        if isinstance(slot.outcome, Happened):
            yield slot.outcome.answer


async def _effect(reader: Reader, looked: Looked, slot: Slot) -> Effect:
    record = looked.records.get(slot.intent_seq or slot.first_seq)
    asked = record.args if isinstance(record, _Asking) else slot.hold.args if slot.hold else None
    answer = None
    match slot.outcome:
        case Happened(payload):
            outcome, answer = "happened", await excerpt(reader, payload, SHORT)
        case NotHappened(reason):
            outcome, answer = "not_happened", reason
        case None if slot.intent is None:
            outcome = "refused" if slot.refusal else "planned" if slot.last is Planned else "held"
        case None:
            doubtful = slot.retry_ms is None and not looked.holder
            outcome = "doubt" if doubtful else "retry" if slot.retry_ms is not None else "open"
    return Effect(
        node=looked.node(slot.intent_seq or slot.first_seq),
        tool=slot.tool,
        kind=slot.kind.value,
        args=await excerpt(reader, asked, SHORT) if asked else "",
        outcome=outcome,
        answer=answer,
        at_ms=looked.times.get(slot.intent_seq or slot.first_seq, 0),
        sent=slot.sent or int(slot.outcome is not None),
        settled_by=slot.settled_by,
        undone=slot.undone,
        key=slot.intent.key if slot.intent else None,
        inherited=looked.home(slot.intent_seq or slot.first_seq) != looked.branch,
        adopted=slot.adopted.node if slot.adopted else None,
        capability=slot.intent.capability if slot.intent else None,
        policy=slot.intent.policy if slot.intent else None,
        rule=slot.intent.rule if slot.intent else None,
    )


# --- on the screen ---

_MARKS = {
    "happened": ("happened", "green"), "not_happened": ("did not happen", "yellow"), "doubt": ("DOUBT", "bold red"),
    "held": ("held", "bold yellow"), "refused": ("refused", "red"), "open": ("under way", "cyan"),
    "retry": ("refused for now", "blue"), "planned": ("planned", "magenta"),
}  # fmt: skip


def _print(shown: Shown) -> None:
    from holdfast.cli.list import STYLES

    now_ms = time.time_ns() // 1_000_000
    where = "" if not shown.branches else f"@{shown.branch}"
    head = styled(f"{shown.run}{where}  ", "bold") + styled(shown.status, STYLES[Status(shown.status)])
    line(head + styled(f"  {shown.about}" if shown.about and not shown.needs else ""))
    for need in shown.needs:
        out()
        line(styled(f"{need.why.upper()}  ", "bold red" if need.why == "doubt" else "bold yellow") + styled(need.what))
        for name, text in (("args", need.args), ("why", need.about)):
            if text:
                line(styled(f"  {name}  ", "dim") + styled(text))
        for command in need.commands:
            out(f"  {safe(command)}")
    newest = f", of the newest {shown.entries - shown.counted_after:,}" if shown.counted_after else ""
    out()
    for name, text in (
        ("agent", shown.agent or ""),
        ("input", shown.input),
        ("started", f"{when(shown.started_ms)}  ({age(shown.started_ms, now_ms)} ago)"),
        ("newest", f"{when(shown.newest_ms)}  ({age(shown.newest_ms, now_ms)} ago)"),
        ("log", f"{many(shown.entries, 'entry')}{newest}: {_counted(shown.counts)}; epoch {shown.epoch}"),
        ("error", shown.error or ""),
        ("answer", shown.answer or ""),
    ):
        if text:
            line(styled(f"{name:<8} ", "dim") + styled(text))
    if shown.branches:
        out()
        print_tree(shown.branches)
    if shown.effects:
        out()
        _effects(shown)


def _counted(counts: dict[str, int]) -> str:
    names = (("intent", "effect"), ("reads", "read"), ("decision", "decision"), ("checkpoint", "checkpoint"))
    return ", ".join(many(counts.get(name, 0), word) for name, word in names)


def _effects(shown: Shown) -> None:
    rows: list[tuple[Text, ...]] = []
    for effect in shown.effects:
        mark, style = _MARKS[effect.outcome]
        notes = [mark]
        notes += [f"by {effect.settled_by}"] if effect.settled_by else []
        notes += [f"from {effect.adopted}"] if effect.adopted else []
        notes += ["taken back"] if effect.undone else []
        notes += [f"sent {effect.sent}×"] if effect.sent > 1 else []
        rows.append(
            (
                styled(_node_in(shown, effect), "dim" if effect.inherited else ""),
                styled(effect.tool, "dim" if effect.inherited else ""),
                styled(effect.kind, "dim"),
                styled(", ".join(notes), "dim" if effect.inherited else style),
                styled(
                    effect.args + (f" → {effect.answer}" if effect.answer is not None else ""),
                    "dim" if effect.inherited else "",
                    most=2 * SHORT,
                ),
            )
        )
    table(("#NODE" if shown.branches else "#SEQ", "TOOL", "KIND", "OUTCOME", "ARGUMENTS → ANSWER"), rows)


def _node_in(shown: Shown, effect: Effect) -> str:
    """The place of an effect within its run: with its branch, where there is more than one."""
    return short(effect.node) if shown.branches else effect.node.rpartition("@")[2]


def _hint(shown: Shown, store: str) -> None:
    run = shown.run if shown.line else f"{shown.run}@{shown.branch}"
    match Status(shown.status):
        case Status.WAITING if shown.held and shown.about != NEW:
            hint(f"holdfast promote {safe(shown.run)} {safe(shown.branch)}{store}   # makes it the run's line")
        case Status.QUARANTINED | Status.STOPPED | Status.WAITING | Status.FAILED:
            hint(f"{safe(shown.resume)}   # goes on from the log")
        case Status.ASLEEP:
            hint(f"{safe(shown.resume)}   # waits for the moment, and goes on")
        case Status.RUNNING:
            hint(f"holdfast log {safe(run)} --follow{store}   # watch it")
        case Status.DOUBT | Status.HELD if shown.needs:
            hint(f"holdfast show {safe(shown.needs[0].node)}{store}   # the exact call, before you answer")
        case Status.SUPERSEDED | Status.ABANDONED:
            hint(f"holdfast show {safe(shown.run)}{store}   # the run's line")
        case _ if shown.effects:
            hint(f"holdfast show {safe(shown.effects[-1].node)}{store}   # one entry whole")
        case _:
            pass
