"""`holdfast promote`: make an alternative the run's line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.branching import change
from holdfast.cli.options import ByOption, RunArgument, StoreOption, is_allowed, name_of, same_store
from holdfast.cli.terminal import hint, safe
from holdfast.cli.tree import agent_of

if TYPE_CHECKING:
    from holdfast.embedded import House


def verb(
    run: RunArgument,
    branch: Annotated[str, typer.Argument(metavar="BRANCH", help="An alternative: a what-if or a speculative branch.")],
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            metavar="MODULE:AGENT",
            help="Whose tools look whether what it has read has moved. [the log's, if HOLDFAST_AGENTS allows it]",
        ),
    ] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Promote it even if the world has moved on since it was read.")
    ] = False,
    by: ByOption = None,
    store: StoreOption = None,
) -> None:
    """Make BRANCH take the place of the one it was forked from. What it planned is done when the run is resumed, once
    and in order; the others of its group are abandoned. One that has read what has another version now is not
    promoted."""
    name = name_of(by, store)

    def word(house: House) -> str:
        checked = not unchecked and _tools_are_known(house, f"{run}@{branch}", agent, same_store(store))
        return house.promote(run, branch, by=name, check_drift=checked)

    change(store, run, word, f"{branch} is promoted by {name}")


def _tools_are_known(house: House, place: str, agent: str | None, store: str) -> bool:
    """Import the module of the agent's tools, if the user has named or allowed it; else say that nothing is checked."""
    from holdfast.cli.agents import agent_named

    recorded = agent or asyncio.run(agent_of(house.store, place))
    if agent is not None or is_allowed(recorded):
        agent_named(recorded)
        return True
    way = f"holdfast drift {place} --agent {recorded}{store}"
    hint(safe(f"whether what it has read has moved was not looked at: its tools are not here; {way}"))
    return False
