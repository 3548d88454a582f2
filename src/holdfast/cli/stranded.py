"""`holdfast stranded`: what other branches of a run did that is still in the world, and what becomes of it.

Rules
1. What happened and is asked for again is answered by its seal; what is not asked for again is taken back when the run
   ends, if that can be done and no branch that goes on has it.
2. `--undo` takes it back now: whoever asks for it later, does it anew.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from holdfast.cli.forecast import FATES, Deed, deeds, left_deed
from holdfast.cli.options import JsonOption, LineArgument, StoreOption, existing, is_name, same_store
from holdfast.cli.terminal import hint, json_text, out, safe, say, styled, table
from holdfast.cli.tree import agent_of, line_of, others_of, short
from holdfast.cli.view import look, many, reader_of
from holdfast.core.outlook import Fate, left_behind
from holdfast.errors import BadCall, Misuse
from holdfast.gateway.closing import Residue


def verb(
    run: LineArgument,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take back now what would be taken back at the end. The tools are imported.")
    ] = False,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            metavar="MODULE:AGENT",
            help="With --undo: whose module has the tools. [the one in the log, if HOLDFAST_AGENTS allows its module]",
        ),
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show what was done in the world and is not in the history of the run's line, or of RUN@BRANCH."""
    if agent is not None and not undo:
        raise BadCall("--agent belongs to --undo", fix="leave it out")
    url = existing(store)
    found, branch, line, recorded = asyncio.run(_found(url, run))
    if undo:
        if branch != line:
            raise Misuse("what is taken back is what the run's line has not adopted", where=branch,
                         fix=f"holdfast stranded {branch.partition('@')[0]} --undo")  # fmt: skip
        _undo(url, run, found, agent, recorded, same_store(store), json=json)
        return
    if json:
        out(json_text(found, indent=2))
        return
    if not found:
        say(f"nothing: what is in the world is in the history of {safe(branch)}")
        return
    deeds(found, "IF NOT ASKED FOR", FATES)
    _hints(found, branch, line, same_store(store))


def _hints(found: list[Deed], branch: str, line: str, store: str) -> None:
    run = branch.partition("@")[0]
    if any(deed.adoptable for deed in found):
        say("the same call is answered by the seal that is there: nothing is done twice")
    for deed in found:
        if deed.state == Fate.DOUBT:
            hint(safe(f"holdfast settle {deed.node} --happened 'JSON'{store} | --did-not-happen   # look first"))
            break
    if branch == line and any(deed.state == Fate.UNDONE for deed in found):
        hint(safe(f"holdfast stranded {run} --undo{store}   # take back now what would be taken back at the end"))


async def _found(url: str, run: str) -> tuple[list[Deed], str, str, str]:
    """What is stranded, seen from a branch; that branch; the run's line; the agent of it."""
    reader = reader_of(url)
    try:
        with reader.moment():
            branch = await line_of(reader, run)
            name = branch.partition("@")[0]
            looked = await look(reader, branch)
            left = left_behind(looked.log, looked.tree, await others_of(reader, branch, looked.tree))
            found = [await left_deed(reader, name, each) for each in left]
            return found, branch, f"{name}@{looked.tree.line}", await agent_of(reader, branch)
    finally:
        await reader.close()


# --- taking back ---


def _undo(url: str, run: str, before: list[Deed], agent: str | None, recorded: str, store: str, *, json: bool) -> None:
    from holdfast.cli.agents import agent_named, allowed_name
    from holdfast.embedded import open_store

    known = recorded if is_name(recorded) else "MODULE:AGENT"
    agent_named(agent or allowed_name(recorded, run, f"holdfast stranded {run} --undo --agent {known}{store}"))
    with open_store(url) as house:
        residue = house.clear(run.partition("@")[0])
    after = {deed.node for deed in asyncio.run(_found(url, run))[0]}
    gone = [deed for deed in before if deed.node not in after]
    if json:
        out(json_text({"taken_back": gone, "residue": residue}, indent=2))
        return
    for deed in gone:
        out(safe(f"{deed.node}  {deed.tool} is taken back"))
    _print_residue(residue)
    say(f"{many(len(gone), 'effect')} taken back, {len(residue)} left in the world")


def _print_residue(residue: list[Residue]) -> None:
    if residue:
        rows = [(styled(short(each.node)), styled(each.tool), styled(f"stays: {each.why}", "yellow"))
                for each in residue]  # fmt: skip
        table(("NODE", "TOOL", "WHY"), rows)
