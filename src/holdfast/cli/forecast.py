"""What a fork would mean, as people see it before it is made.

Rules
1. It is read from the store as it stands, beside those who write; nothing is claimed, and nothing written.
2. Of each effect it is said what becomes of it; only what is certain is called so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.cli.terminal import json_text, line, out, styled, table
from holdfast.cli.tree import full, others_of, short
from holdfast.cli.view import excerpt, further, look, look_from, many, refresh
from holdfast.cli.words import SHORT
from holdfast.core.canonical import JSON
from holdfast.core.effect import Happened, NotHappened, Payload
from holdfast.core.outlook import Fate, Kept, Left, Outlook, Prospect, outlook
from holdfast.core.record import Forked
from holdfast.core.slot import Slot
from holdfast.core.tree import ForkKind
from holdfast.gateway.family import KnownTree
from holdfast.gateway.fork import Cutting, Edit, prepared
from holdfast.store.reader import Reader

if TYPE_CHECKING:
    from rich.text import Text

ANEW = ("input", "code")  # settings with which the program is another from its beginning
SHOWN = 40  # rows of one table on the screen; JSON has them all


@dataclass(frozen=True, slots=True)
class Deed:
    """An effect as JSON. `state` says what becomes of it; `args` and `answer` are the beginnings of their texts."""

    node: str
    tool: str
    kind: str
    args: str
    answer: str | None
    state: str
    why: str
    adoptable: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What stands for what was recorded: of the answer at `node`, or of the setting `name`."""

    node: str | None
    name: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class Redone:
    """A decision or a read that is made anew."""

    node: str
    what: str
    name: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person will have to answer (`certain`), or may have to."""

    node: str
    tool: str
    why: str
    certain: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a fork means, as JSON. `answered`: effects, decisions and reads that the log answers. `stranded`: effects
    that are in the world and not in the history of the new branch. `resting`: inherited effects that came after what is
    replaced. `instead_of`: the branches whose place it takes; `advanced_by`: who is at work on the parent now."""

    run: str
    node: str
    branch: str
    kind: str
    parent: str
    at: int
    line: bool
    instead_of: list[str]
    advanced_by: str | None
    overrides: list[Change]
    answered_decisions: int
    answered_reads: int
    answered: list[Deed]
    again: list[Redone]
    stranded: list[Deed]
    resting: list[str]
    people: list[Asked]


async def forecast(reader: Reader, cutting: Cutting, values: Sequence[JSON]) -> Forecast:
    """What the fork `cutting` would mean, whose edits set `values`. Raises as making it would."""
    known = KnownTree(reader, cutting.run)
    birth = await prepared(reader, cutting, known)
    parent = f"{cutting.run}@{birth.forked.parent}"
    before = await look_from(reader, parent)
    before.take((await further(reader, before))[: cutting.at])
    whole = await look(reader, parent)
    await refresh(reader, whole)
    tree = known.tree
    others = await others_of(reader, parent, tree)
    tree.fold(birth.forked)
    targets = [edit.target for edit in cutting.edits if edit.target]
    anew = any(edit.name in ANEW for edit in cutting.edits if not edit.target)
    seen = outlook(Prospect(before.log, whole.log, tree, others, targets, anew))
    ended = [limb.name for limb in tree if limb.successor == birth.forked.branch]
    changes = [await _change(reader, cutting.run, *each, seen) for each in zip(cutting.edits, values, strict=True)]
    return await _told(reader, cutting, birth.forked, seen, Place(tree.line, ended, whole.holder), changes)


@dataclass(frozen=True, slots=True)
class Place:
    """The run's line once the fork is made, the branches that it takes the place of, and who advances its parent."""

    line: str
    instead_of: list[str]
    holder: str


async def _told(
    reader: Reader, cutting: Cutting, forked: Forked, seen: Outlook, place: Place, changes: list[Change]
) -> Forecast:
    run = cutting.run
    return Forecast(
        run=run,
        node=cutting.node,
        branch=forked.branch,
        kind=forked.kind,
        parent=forked.parent,
        at=forked.at,
        line=place.line == forked.branch,
        instead_of=place.instead_of,
        advanced_by=place.holder or None,
        overrides=changes,
        answered_decisions=seen.decisions,
        answered_reads=seen.reads,
        answered=[await kept_deed(reader, run, each) for each in seen.effects],
        again=[Redone(full(run, each.node), each.what, each.name) for each in seen.again],
        stranded=[await left_deed(reader, run, each) for each in seen.left],
        resting=[full(run, each.node) for each in seen.resting],
        people=[Asked(full(run, each.node), each.tool, each.why, each.certain) for each in seen.questions],
    )


async def _change(reader: Reader, run: str, edit: Edit, value: JSON, seen: Outlook) -> Change:
    after = json_text(value)
    for each in seen.replaced if edit.target else ():
        if each.node.endswith(f":{edit.target}"):
            what = f"{each.what} {each.name}"
            return Change(full(run, each.node), what, await excerpt(reader, each.answer, SHORT), after)
    return Change(None, edit.name, None, after)


async def left_deed(reader: Reader, run: str, left: Left) -> Deed:
    """An effect that is in the world and not in a history."""
    return await _deed(reader, full(run, left.node), left.slot, left.fate.value, left.why, adoptable=left.adoptable)


async def kept_deed(reader: Reader, run: str, kept: Kept) -> Deed:
    """An effect that the history answers."""
    state = "planned" if kept.slot.outcome is None else "taken back" if kept.slot.undone else "answered"
    return await _deed(reader, full(run, kept.node), kept.slot, state, kept.since, adoptable=False)


async def _deed(reader: Reader, node: str, slot: Slot, state: str, why: str, *, adoptable: bool) -> Deed:
    asked: Payload | None = slot.asked or (slot.planned.args if slot.planned else None)
    match slot.outcome:
        case Happened(answer):
            told: str | None = await excerpt(reader, answer, SHORT)
        case NotHappened(reason):
            told = f"did not happen: {reason}"
        case None:
            told = None
    args = await excerpt(reader, asked, SHORT) if asked else ""
    return Deed(node, slot.tool, slot.kind.value, args, told, state, why, adoptable)


# --- on the screen ---


def print_forecast(told: Forecast) -> None:
    """The whole page: what is answered, what is made anew, what stays, and what needs a person."""
    line(styled(f"{told.node}  ", "bold") + styled(f"a {told.kind} fork: ") + styled(_place(told)))
    if told.advanced_by is not None and told.instead_of:
        line(styled(f"{told.parent} is being advanced by {told.advanced_by}: it stops at its next step", "yellow"))
    if told.overrides:
        _head("REPLACED", "on the new branch only; the old one keeps what it has")
        table(("NODE", "WHAT", "BEFORE → NOW"), [_changed(each) for each in told.overrides])
    counts = (many(told.answered_decisions, "decision"), many(told.answered_reads, "read"),
              many(len(told.answered), "effect"))  # fmt: skip
    _head("ANSWERED FROM THE LOG", ", ".join(counts))
    deeds(told.answered, "STATE", {"answered": ("answered", "green"), "planned": ("planned", "magenta"),
                                   "taken back": ("taken back", "yellow")})  # fmt: skip
    if told.resting:
        _wrapped(f"{_places(told.resting)} came after what is replaced: if the program does not ask for the same "
                 "again, that is a divergence, and the agent is told.")  # fmt: skip
    decisions = sum(each.what == "decision" for each in told.again)
    _head("MADE ANEW, IF ASKED FOR", f"{many(decisions, 'decision')}, {many(len(told.again) - decisions, 'read')}")
    if told.again:
        rows = [(styled(short(each.node)), styled(each.what), styled(each.name)) for each in told.again[:SHOWN]]
        table(("NODE", "WHAT", "NAME"), rows)
        _more(len(told.again))
    _head("STRANDED", f"{many(len(told.stranded), 'effect')} in the world that the new branch does not know of")
    deeds(told.stranded, "IF NOT ASKED FOR", FATES)
    if any(deed.adoptable for deed in told.stranded):
        _wrapped("The same call is answered by the seal that is there: nothing is done twice."
                 + (" On a speculative branch that is so once it is promoted." if told.kind == ForkKind.SPECULATIVE
                    else ""))  # fmt: skip
    _people(told.people)


FATES = {
    Fate.KEPT.value: ("kept", "green"), Fate.UNDONE.value: ("taken back at the end", "yellow"),
    Fate.RESIDUE.value: ("stays", "bold yellow"), Fate.DOUBT.value: ("nobody knows", "bold red"),
}  # fmt: skip


def deeds(found: Sequence[Deed], heading: str, states: dict[str, tuple[str, str]]) -> None:
    """Effects as a table."""
    rows: list[tuple[Text, ...]] = []
    for deed in found[:SHOWN]:
        said, style = states[deed.state]
        asked = deed.args + (f" → {deed.answer}" if deed.answer is not None else "")
        why = styled(f"; {deed.why}" if deed.why and deed.state in (Fate.RESIDUE, Fate.KEPT) else "", "dim")
        rows.append(
            (styled(short(deed.node)), styled(deed.tool), styled(said, style) + why, styled(asked, "dim", 2 * SHORT))
        )
    if rows:
        table(("NODE", "TOOL", heading, "ARGUMENTS → ANSWER"), rows)
        _more(len(found))


def _place(told: Forecast) -> str:
    if told.line:
        instead = f" in place of {', '.join(told.instead_of)}" if told.instead_of else ""
        return f"{told.branch} becomes the run's line{instead}"
    if told.kind == ForkKind.SPECULATIVE:
        return f"{told.branch} tries it, and every effect is held until it is promoted"
    return f"{told.branch} goes on beside the others, and does what it asks for"


def _changed(each: Change) -> tuple[Text, ...]:
    before = f"{each.before} → " if each.before is not None else ""
    name = each.name if each.node else f"setting {each.name}"
    return (
        styled(short(each.node) if each.node else ""),
        styled(name),
        styled(before, "dim") + styled(each.after, "bold", 2 * SHORT),
    )


def _people(found: Sequence[Asked]) -> None:
    if not found:
        _head("NEEDS A PERSON", "nothing that is known now")
        return
    _head("NEEDS A PERSON", "" if any(each.certain for each in found) else "perhaps")
    rows = [(styled(short(each.node)), styled(each.tool), styled(each.why, "bold" if each.certain else ""))
            for each in found[:SHOWN]]  # fmt: skip
    table(("NODE", "TOOL", "WHY"), rows)
    _more(len(found))


def _head(title: str, text: str) -> None:
    out()
    line(styled(title, "bold") + styled(f"  {text}" if text else ""))


def _wrapped(text: str) -> None:
    line(styled(text, "dim"))


def _places(nodes: Sequence[str]) -> str:
    return ", ".join(short(node) for node in nodes[:8]) + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else "")


def _more(number: int) -> None:
    if number > SHOWN:
        _wrapped(f"… and {number - SHOWN:,} more: --json has them all")


def summary(told: Forecast) -> str:
    """A fork in one line, after it was made."""
    counts = (many(told.answered_decisions, "decision"), many(told.answered_reads, "read"),
              many(len(told.answered), "effect"))  # fmt: skip
    said = {Fate.KEPT: "kept", Fate.UNDONE: "taken back at the end", Fate.RESIDUE: "left in the world",
            Fate.DOUBT: "in doubt"}  # fmt: skip
    fates = [(words, sum(deed.state == fate for deed in told.stranded)) for fate, words in said.items()]
    left = ", ".join(f"{number} {words}" for words, number in fates if number)
    return f"answered from the log: {', '.join(counts)}; stranded: {left or 'nothing'}"
