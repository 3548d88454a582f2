"""`holdfast drift`: what a run has seen in the world, asked again.

Rules
1. The store is only read, and of the tools only reads are called and probes asked.
2. Exit code 0 says that everything is as it was, or as the run itself has made it; whatever could not be told is not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import typer

from holdfast.cli.options import JsonOption, StoreOption, existing, is_allowed, is_name, same_store
from holdfast.cli.terminal import busy, hint, json_text, line, out, safe, styled
from holdfast.core.drift import Fate
from holdfast.gateway.drift import Drift

STYLES = {
    Fate.SAME: "green", Fate.OURS: "cyan", Fate.MOVED: "bold red", Fate.GONE: "bold red",
    Fate.UNKNOWN: "yellow",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checked:
    """A check as JSON. `node` is null for the branch's end; `holds`: nothing is moved, gone or unknown."""

    branch: str
    node: str | None
    holds: bool
    counts: dict[str, int]
    drift: list[Drift]


def verb(
    place: Annotated[str, typer.Argument(metavar="RUN|NODE", help="A run, or a place in its log (RUN@SEQ).")],
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            metavar="MODULE:AGENT",
            help="The agent, for its tools. [the one in the log, if HOLDFAST_AGENTS allows its module]",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show also what is as it was.")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> int:
    """Read again what a run has seen, up to a node or its end, and show what has moved. Exit code 1 if anything moved,
    is gone, or cannot be told."""
    from holdfast.cli.agents import agent_named
    from holdfast.cli.ending import DONE, FAILED

    url = existing(store)
    branch, upto, recorded = asyncio.run(_place(url, place))
    agent_named(agent or _allowed(recorded, place, same_store(store)))
    with busy("asking the world again"):
        found = asyncio.run(_found(url, branch, upto))
    holds = all(drift.holds for drift in found)
    if json:
        counts = Counter(drift.fate.value for drift in found)
        node = place if upto is not None else None
        out(json_text(Checked(branch, node, holds, dict(counts), found), indent=2))
    else:
        _print(found, place, every=every)
        _hint(found, same_store(store))
    return DONE if holds else FAILED


async def _place(url: str, place: str) -> tuple[str, int | None, str]:
    """The branch and the seq that are asked about, and the agent's name in the log. Raises Misuse, Unknown."""
    from holdfast.cli.tree import agent_of
    from holdfast.cli.view import look_from, reader_of
    from holdfast.embedded.drift import find_place

    reader = reader_of(url)
    try:
        branch, upto = await find_place(reader, place)
        await look_from(reader, branch)
        return branch, upto, await agent_of(reader, branch)
    finally:
        await reader.close()


def _allowed(recorded: str, place: str, store: str) -> str:
    """The agent that the log names, if the user has allowed its module. Raises Misuse."""
    from holdfast.cli.options import ALLOWED
    from holdfast.errors import Misuse

    if is_allowed(recorded):
        return recorded
    named = recorded if is_name(recorded) else "MODULE:AGENT"
    raise Misuse(
        f"the log says `{recorded}`, but what is imported is for you to say",
        where=place,
        fix=f"holdfast drift {place} --agent {named}{store}; or allow its module: {ALLOWED}=MODULE",
    )


async def _found(url: str, branch: str, upto: int | None) -> list[Drift]:
    from holdfast.cli.view import reader_of
    from holdfast.embedded.drift import way_of
    from holdfast.gateway.drift import drifted

    reader = reader_of(url)
    try:
        return await drifted(reader, branch, way_of, upto)
    finally:
        await reader.close()


def _print(found: list[Drift], place: str, *, every: bool) -> None:
    for drift in found:
        if every or drift.fate is not Fate.SAME:
            _line(drift)
    counts = Counter(drift.fate for drift in found)
    told = ", ".join(f"{counts[fate]} {fate}" for fate in Fate if counts[fate])
    out(f"{len(found)} asked again, on which {safe(place)} relies" + (f": {told}" if told else ""))


def _line(drift: Drift) -> None:
    begin = styled(f"{drift.fate:<8}", STYLES[drift.fate]) + styled(f"{drift.node}  {drift.tool} ", "bold")
    line(begin + styled(drift.args, "dim"))
    for text in _about(drift):
        line(styled(f"        {text}"))


def _about(drift: Drift) -> list[str]:
    about = [drift.why] if drift.why else []
    if drift.then is not None and drift.now is not None and drift.then != drift.now:
        about.append(f"version {drift.then} → {drift.now}")
    if drift.fate is Fate.OURS:
        about.append(f"since then the run itself has written it: {', '.join(drift.writes)}")
    elif drift.fate is Fate.MOVED and drift.writes:
        about.append(f"nor is it as the run itself has left it: {', '.join(drift.writes)}")
    return [*about, *drift.changes]


def _hint(found: list[Drift], store: str) -> None:
    if any(not drift.holds and drift.why.startswith("no tool of this name") for drift in found):
        hint("--agent MODULE:AGENT names the module that declares the run's tools")
    for drift in found:
        if drift.fate in (Fate.MOVED, Fate.GONE):
            hint(f"holdfast show {safe(drift.node)}{store}   # what the run saw then")
            return
