"""`holdfast resume`: go on with a run from its log."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from holdfast.cli.options import RunArgument, StoreOption, branch_of, existing, same_store
from holdfast.cli.run import divergence
from holdfast.cli.terminal import safe, say
from holdfast.cli.verdict import started_by
from holdfast.cli.view import look_from, reader_of


def verb(
    run: RunArgument,
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
    """Go on with a run from its log. What is sealed is answered from there, the rest is done."""
    from holdfast.cli.advance import advance
    from holdfast.cli.agents import agent_named, allowed_name
    from holdfast.embedded import open_store

    setting = divergence(on_divergence)
    url = existing(store)
    recorded = asyncio.run(_recorded(url, branch_of(run)))
    found = agent_named(agent or allowed_name(recorded, run, same_store(store)))
    if found.name != recorded:
        say(f"the log says that `{safe(recorded)}` started it; going on with `{safe(found.name)}`")
    with open_store(url) as house:
        advance(
            house, found, None, run, wait=wait, on_divergence=setting, store=same_store(store), check_drift=check_drift
        )


async def _recorded(url: str, branch: str) -> str:
    """The agent's name in the log. Raises Unknown if there is no such run."""
    reader = reader_of(url)
    try:
        await look_from(reader, branch)
        return await started_by(reader, branch)
    finally:
        await reader.close()
