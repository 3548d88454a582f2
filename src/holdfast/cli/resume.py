"""`holdfast resume`: go on with a run from its log."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from holdfast.cli.options import LineArgument, StoreOption, branch_of, existing, same_store
from holdfast.cli.remedies import is_of_gateway, resume
from holdfast.cli.run import divergence
from holdfast.cli.terminal import safe, say
from holdfast.cli.tree import agent_of, check_open, line_of
from holdfast.cli.view import reader_of
from holdfast.errors import Misuse
from holdfast.gateway.family import read_tree


def verb(
    run: LineArgument,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            metavar="MODULE:AGENT",
            help="The agent. [the one in the log, if HOLDFAST_AGENTS allows its module]",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for people, signals and sleeps, or exit 3.")
    ] = True,
    on_divergence: Annotated[
        str,
        typer.Option(
            "--on-divergence", metavar="brief|ask|stop", help="When the program no longer asks for what the log holds."
        ),
    ] = "brief",
    check_drift: Annotated[
        bool, typer.Option("--check-drift", help="Go on only if the world is as the run has seen it; else exit 1.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Go on with a run, on its line or on RUN@BRANCH, from its log. What is sealed is answered from there, the rest is
    done."""
    from holdfast.cli.advance import advance
    from holdfast.cli.agents import agent_named, allowed_name
    from holdfast.embedded import open_store

    setting = divergence(on_divergence)
    url = existing(store)
    branch_of(run)
    recorded = asyncio.run(_recorded(url, run))
    if agent is None and is_of_gateway(recorded):
        what = f"`{recorded}` is a program behind a gateway: it is started there"
        raise Misuse(what, where=run, fix=resume(run, recorded, same_store(store)))
    found = agent_named(agent or allowed_name(recorded, run, resume(run, recorded, same_store(store))))
    if found.name != recorded:
        say(f"the log says that `{safe(recorded)}` advances it; going on with `{safe(found.name)}`")
    with open_store(url) as house:
        advance(
            house, found, None, run, wait=wait, on_divergence=setting, store=same_store(store), check_drift=check_drift
        )


async def _recorded(url: str, run: str) -> str:
    """The agent's name in the log. Raises Unknown if there is no such branch, Misuse if it goes no further."""
    reader = reader_of(url)
    try:
        branch = await line_of(reader, run)
        name = branch.partition("@")[0]
        check_open(
            await read_tree(reader, name), name, branch.partition("@")[2], f"holdfast resume {name}   # the run's line"
        )
        return await agent_of(reader, branch)
    finally:
        await reader.close()
